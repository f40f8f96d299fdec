//! Evaluation of one Service.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use virtual_server::{AddressFamily, VirtualServer};

use super::{
    super::{
        addresses::Conflict,
        finding::{Finding, Reason},
        left_out::{LeftOut, LeftOutCounts},
        model::ObjectKey,
        real_servers::{self, ConversionContext, EndpointGroup},
        service_spec::{AddressSource, ServiceSpec},
        settings::CatalogSettings,
    },
    ServiceView,
    allocator::Allocator,
    pods::Pods,
    record::{ServiceState, SliceRecord},
};

/// The state outside of a Service that the evaluation of the Service depends on.
pub(super) struct Evaluator<'a> {
    pub(super) settings: &'a CatalogSettings,
    pub(super) allocator: &'a Allocator,
    pub(super) pods: &'a Pods,
}

/// The result of the evaluation of a Service.
pub(super) struct Evaluation {
    /// The virtual servers, sorted by id.
    pub(super) served: Vec<VirtualServer>,
    pub(super) view: ServiceView,
    pub(super) left_out: LeftOutCounts,
    /// True if an endpoint of the Service was left out because its address is a service address.
    pub(super) is_circular: bool,
}

impl Evaluator<'_> {
    pub(super) fn evaluate(
        &self,
        key: &ObjectKey,
        service: &ServiceState,
        slices: &[SliceRecord],
    ) -> Evaluation {
        let mut findings: BTreeSet<Finding> = service.errors.iter().cloned().collect();
        findings.extend(service.restrictions.iter().cloned());
        findings.extend(service.remarks.iter().cloned());
        findings.extend(service.unallocated.iter().cloned());
        let mut left_out = LeftOut::default();
        let mut addresses = Vec::new();
        let mut servers = Vec::new();
        let mut weight_levels = None;
        if let Some(spec) = &service.spec {
            addresses = self.addresses(service, spec, &mut findings);
            let groups = slices.iter().map(|slice| EndpointGroup {
                ports: &slice.ports,
                endpoints: &slice.endpoints,
                annotations: slice.annotations,
            });
            let groups: Vec<EndpointGroup<'_>> = groups.collect();
            let namespace = key.namespace();
            let pod_annotations = |address| self.pods.annotations(address, namespace);
            let context = ConversionContext {
                service_ranges: &self.settings.service_ranges,
                claims: self.allocator.claims(),
                pod_annotations: (!self.pods.none_is_annotated()).then_some(&pod_annotations),
                former_levels: service.written.recorded_weight_levels(),
            };
            for slice in slices {
                left_out.add_not_used(&slice.not_used);
            }
            let served = real_servers::virtual_servers(
                spec,
                &addresses,
                &groups,
                &context,
                &mut left_out,
                &mut findings,
            );
            (servers, weight_levels) = (served.servers, served.weight_levels);
            findings.extend(slices.iter().flat_map(|slice| slice.errors.iter().cloned()));
            findings.extend(
                self.pods
                    .errors(namespace, |address| is_endpoint(&groups, address)),
            );
        }
        if !service.restrictions.is_empty() {
            servers.clear();
        }
        servers.sort_unstable_by_key(|server| server.id);
        findings.extend(left_out.findings());
        let ports = service.spec.as_ref().map(real_servers::single_ports);
        Evaluation {
            served: servers,
            view: ServiceView {
                uid: Arc::clone(&service.uid),
                generation: service.generation,
                is_load_balancer: service.is_load_balancer,
                addresses,
                is_understood: service.spec.is_some(),
                ports: ports.unwrap_or_default(),
                allocation: self.allocation(service),
                weight_levels,
                is_of_pool: matches!(
                    service.spec.as_ref().map(|spec| &spec.source),
                    Some(AddressSource::Pool { .. })
                ),
                findings: findings.into_iter().collect(),
                written: service.written.clone(),
            },
            left_out: left_out.counts(),
            is_circular: left_out.has_service_addresses(),
        }
    }

    /// Returns the addresses that the Service claims and has. Adds a finding for each given address
    /// that the Service does not get because of another Service, and for each address from a pool
    /// that no pool contains any longer.
    fn addresses(
        &self,
        service: &ServiceState,
        spec: &ServiceSpec,
        findings: &mut BTreeSet<Finding>,
    ) -> Vec<IpAddr> {
        let mut addresses = service.claimed.clone();
        addresses.retain(|address| {
            let verdict = self.allocator.claims().verdict(*address, &service.age);
            let is_given = matches!(spec.source, AddressSource::Given(_));
            // A Service that loses an address of a pool gets another address of a pool, so the loss
            // is not a finding.
            if let (Err(conflict), true) = (&verdict, is_given) {
                findings.insert(describe_conflict(*address, conflict));
            }
            let is_kept = verdict.is_ok() && !is_given;
            if is_kept && !self.allocator.pools().contain(None, *address) {
                findings.insert(outside_pools(*address));
            }
            verdict.is_ok()
        });
        addresses
    }

    /// Returns the addresses that the status of the Service must record. After the status records
    /// an address, the Service keeps it, even if an older Service begins to claim it.
    fn allocation(&self, service: &ServiceState) -> Vec<IpAddr> {
        let families: &[AddressFamily] = match service.spec.as_ref().map(|spec| &spec.source) {
            Some(AddressSource::Pool { families, .. }) => families,
            Some(AddressSource::Given(_)) => {
                let claims = self.allocator.claims();
                let given = service.claimed.iter().copied();
                return given
                    .filter(|address| claims.verdict(*address, &service.age).is_ok())
                    .collect();
            }
            None => &[],
        };
        let of_family = |family: &AddressFamily| {
            let recorded_address = self.allocator.recorded_address(service, *family);
            recorded_address.or_else(|| service.proposed(*family))
        };
        families.iter().filter_map(of_family).collect()
    }
}

fn is_endpoint(groups: &[EndpointGroup<'_>], address: IpAddr) -> bool {
    groups.iter().any(|group| {
        let find = group
            .endpoints
            .binary_search_by_key(&address, |endpoint| endpoint.address);
        find.is_ok()
    })
}

fn outside_pools(address: IpAddr) -> Finding {
    let message = format!(
        "{address} stays in use although no address pool contains it; add it to an --address-pool, \
         or write another address into the annotation portlb.io/address"
    );
    Finding::new(Reason::AddressOutsidePools, message)
}

fn describe_conflict(address: IpAddr, conflict: &Conflict) -> Finding {
    let owner = |key: &ObjectKey| match key.namespace() {
        "" => "the pods of --pod-selector".to_owned(),
        _ => format!("Service {key}"),
    };
    let message = match conflict {
        Conflict::Address(key) => format!(
            "{address} belongs to {}; choose another address, or write the annotation \
             portlb.io/share-address with the same value on both Services, which then share \
             the address if their ports differ",
            owner(key)
        ),
        Conflict::Namespace(key) => format!(
            "{address} belongs to {}, and the two Services do not share it across namespaces; \
             choose another address, or write the annotation portlb.io/share-address-namespaces \
             on both, each with the namespace of the other",
            owner(key)
        ),
        Conflict::Ports(key, protocol, ports) => format!(
            "{protocol}/{ports} of the shared address {address} belongs to {}; choose other \
             ports or another address",
            owner(key)
        ),
    };
    Finding::new(Reason::AddressConflict, message)
}
