//! What a Service has become.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use virtual_server::VirtualServer;

use super::{
    super::{
        addresses::Conflict,
        finding::{Finding, Reason},
        left_out::{LeftOut, LeftOutCounts},
        model::{Family, ObjectKey},
        real_servers::{self, Group, Surroundings},
        service_spec::{AddressSource, ServiceSpec},
        settings::Settings,
    },
    ServiceView,
    allocator::Allocator,
    pods::Pods,
    record::{KnownService, SliceRecord},
};

/// What there is beside the Service.
pub(super) struct Evaluator<'a> {
    pub(super) settings: &'a Settings,
    pub(super) allocator: &'a Allocator,
    pub(super) pods: &'a Pods,
}

/// What a Service has become.
pub(super) struct Evaluation {
    /// By their ids.
    pub(super) served: Vec<VirtualServer>,
    pub(super) view: ServiceView,
    /// Endpoints that are not served.
    pub(super) left_out: LeftOutCounts,
    /// It has an endpoint that is a service address.
    pub(super) is_circular: bool,
}

impl Evaluator<'_> {
    pub(super) fn look(
        &self,
        key: &ObjectKey,
        known: &KnownService,
        slices: &[SliceRecord],
    ) -> Evaluation {
        let mut findings: BTreeSet<Finding> = known.errors.iter().cloned().collect();
        findings.extend(known.restrictions.iter().cloned());
        findings.extend(known.remarks.iter().cloned());
        findings.extend(known.starved.iter().cloned());
        let mut left_out = LeftOut::default();
        let mut addresses = Vec::new();
        let mut servers = Vec::new();
        let mut weight_levels = None;
        if let Some(spec) = &known.spec {
            addresses = self.addresses(known, spec, &mut findings);
            let groups = slices.iter().map(|slice| Group {
                ports: &slice.ports,
                endpoints: &slice.endpoints,
                annotations: slice.annotations,
            });
            let groups: Vec<Group<'_>> = groups.collect();
            let namespace = key.namespace();
            let pod_annotations = |address| self.pods.annotations(address, namespace);
            let surroundings = Surroundings {
                service_ranges: &self.settings.service_ranges,
                claims: self.allocator.claims(),
                pod_annotations: (!self.pods.are_silent()).then_some(&pod_annotations),
                former_levels: known.written.recorded_weight_levels(),
            };
            for slice in slices {
                left_out.add_not_used(&slice.not_used);
            }
            let served = real_servers::virtual_servers(
                spec,
                &addresses,
                &groups,
                &surroundings,
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
        if !known.restrictions.is_empty() {
            servers.clear();
        }
        servers.sort_unstable_by_key(|server| server.id);
        findings.extend(left_out.findings());
        let ports = known.spec.as_ref().map(real_servers::single_ports);
        Evaluation {
            served: servers,
            view: ServiceView {
                uid: Arc::clone(&known.uid),
                generation: known.generation,
                is_load_balancer: known.is_load_balancer,
                addresses,
                is_understood: known.spec.is_some(),
                ports: ports.unwrap_or_default(),
                allocation: self.allocation(known),
                weight_levels,
                is_of_pool: matches!(
                    known.spec.as_ref().map(|spec| &spec.source),
                    Some(AddressSource::Pool { .. })
                ),
                findings: findings.into_iter().collect(),
                written: known.written.clone(),
            },
            left_out: left_out.counts(),
            is_circular: left_out.some_are_claimed(),
        }
    }

    /// The addresses that it has of those that it asks for.
    fn addresses(
        &self,
        known: &KnownService,
        spec: &ServiceSpec,
        findings: &mut BTreeSet<Finding>,
    ) -> Vec<IpAddr> {
        let mut addresses = known.claimed.clone();
        addresses.retain(|address| {
            let verdict = self.allocator.claims().verdict(*address, &known.age);
            let is_given = matches!(spec.source, AddressSource::Given(_));
            // Who lost an address of a pool gets another one.
            if let (Err(conflict), true) = (&verdict, is_given) {
                findings.insert(in_words(*address, conflict));
            }
            let is_kept = verdict.is_ok() && !is_given;
            if is_kept && !self.allocator.pools().contain(None, *address) {
                findings.insert(outside_pools(*address));
            }
            verdict.is_ok()
        });
        addresses
    }

    /// Returns the addresses that its status is to record: from then on no older Service takes
    /// them over.
    fn allocation(&self, known: &KnownService) -> Vec<IpAddr> {
        let families: &[Family] = match known.spec.as_ref().map(|spec| &spec.source) {
            Some(AddressSource::Pool { families, .. }) => families,
            Some(AddressSource::Given(_)) => {
                let claims = self.allocator.claims();
                let given = known.claimed.iter().copied();
                return given
                    .filter(|address| claims.verdict(*address, &known.age).is_ok())
                    .collect();
            }
            None => &[],
        };
        let of_family = |family: &Family| {
            let kept = self.allocator.kept(known, *family);
            kept.or_else(|| known.proposed(*family))
        };
        families.iter().filter_map(of_family).collect()
    }
}

fn is_endpoint(groups: &[Group<'_>], address: IpAddr) -> bool {
    groups.iter().any(|group| {
        let find = group
            .endpoints
            .binary_search_by_key(&address, |endpoint| endpoint.address);
        find.is_ok()
    })
}

fn outside_pools(address: IpAddr) -> Finding {
    let message = format!(
        "{address} is kept, though no address pool has it any more; give it back to an \
         --address-pool, or write another address into the annotation portlb.io/address"
    );
    Finding::new(Reason::AddressOutsidePools, message)
}

fn in_words(address: IpAddr, conflict: &Conflict) -> Finding {
    let owner = |key: &ObjectKey| match key.namespace() {
        "" => "the pods of --pod-selector".to_owned(),
        _ => format!("Service {key}"),
    };
    let message = match conflict {
        Conflict::Address(key) => format!(
            "{address} belongs to {}; choose another address, or write the annotation \
             portlb.io/share-address with the same value on both, which share it where their \
             ports differ",
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
