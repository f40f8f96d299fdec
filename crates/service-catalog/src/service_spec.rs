//! Specification of a Service, parsed from its fields and annotations.

mod remarks;

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroU16,
    time::Duration,
};

use virtual_server::{
    AddressFamily, BadValue, Behaviour, Field, FieldPath, ForwardingMethod, HealthCheck,
    HealthCheckChoice, Invalid, Ports, Protocol, VirtualServer, VirtualServerId,
};

use self::remarks::remarks;
use super::{
    annotations::{self, RefusedSetting, ServiceAnnotations},
    finding::{Finding, Reason, Subject},
    model::{PREFIX, Service, ServicePort, ServiceType},
    restrictions,
    settings::{CatalogSettings, PodService},
};

/// Largest number of port entries of a Service. Each entry becomes a virtual server at every
/// address of the Service, and is compared with every other entry.
const MOST_PORTS: usize = 1_000;

/// The valid request of a Service. The Service can be served as soon as it has addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSpec {
    /// The name of the virtual servers. For a port with a name, `:` and the name of the port are
    /// appended.
    pub(crate) name: Box<str>,
    pub(crate) source: AddressSource,
    /// Services with equal keys can share an address.
    pub(crate) share_key: Option<Box<str>>,
    /// Other namespaces whose Services can share the address with this Service. Those Services must
    /// also name the namespace of this Service.
    pub(crate) share_namespaces: Box<[Box<str>]>,
    /// The address families of the endpoints, from `spec.ipFamilies`. If the list is empty, the
    /// addresses of the endpoints decide.
    pub(crate) families: Vec<AddressFamily>,
    /// The ports, which do not overlap.
    pub(crate) ports: Box<[PortSpec]>,
    /// The settings of the virtual servers. `PortSpec::health_check` replaces the health check in
    /// these settings.
    pub(crate) behaviour: Behaviour,
    /// True if endpoints that are not ready count as ready.
    pub(crate) publishes_not_ready: bool,
}

/// The source of the addresses of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AddressSource {
    /// The Service or the operator gives the addresses.
    Given(Vec<IpAddr>),
    /// A pool allocates the addresses.
    Pool {
        /// The name of the pool. `None` means any pool. The first pool with a free address is used.
        name: Option<Box<str>>,
        /// The pool allocates one address of each family.
        families: Vec<AddressFamily>,
        /// True if the Service requires an address of each family. If it is false, a family is not
        /// reported when the pools contain no address of this family and another family has an
        /// address.
        needs_all: bool,
    },
}

/// A port of a Service, as a part of its specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PortSpec {
    /// The name of the port in the Service and in EndpointSlices.
    pub(crate) name: Box<str>,
    pub(crate) protocol: Protocol,
    /// The ports that clients connect to.
    pub(crate) ports: Ports,
    pub(crate) target: TargetPort,
    /// `None` means that the endpoints are not checked.
    pub(crate) health_check: Option<HealthCheck>,
}

/// The port on which the endpoints listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TargetPort {
    /// The port that the EndpointSlice lists under the name of the Service's port.
    AsSliced,
    /// The port that clients connect to, for EndpointSlices that list the name of the Service's
    /// port.
    AsAddressed,
    /// The port that clients connect to. The ports that the EndpointSlices list have no effect.
    AsAddressedInAllSlices,
    /// All endpoints listen on this port.
    Fixed(NonZeroU16),
}

/// A parsed Service, with its findings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedService {
    /// The specification, or the reasons why the Service is invalid.
    pub spec: Result<ServiceSpec, Vec<Finding>>,
    /// Limits on clients that no load balancer enforces. A Service with such a limit is not served,
    /// even if an earlier version of the Service was valid.
    pub restrictions: Vec<Finding>,
    /// Findings that do not make the Service invalid.
    pub remarks: Vec<Finding>,
}

/// Reports whether portlb serves the Service: the Service has the class of portlb, and its deletion
/// has not begun.
pub fn is_ours(service: &Service, settings: &CatalogSettings) -> bool {
    let class = settings.load_balancer_class.as_str();
    !service.is_being_deleted
        && (service.service_type == ServiceType::LoadBalancer
            && service.load_balancer_class.as_deref() == Some(class)
            || annotated_class(service) == Some(class))
}

/// Returns the class from the annotation `portlb.io/load-balancer-class`.
pub fn annotated_class(service: &Service) -> Option<&str> {
    annotation_value(service, annotations::LOAD_BALANCER_CLASS)
}

/// Returns the share key from the annotation, even if the Service is invalid.
pub(crate) fn annotated_share_key(service: &Service) -> Option<&str> {
    annotation_value(service, annotations::SHARE_ADDRESS).filter(|key| !key.is_empty())
}

/// Returns the namespaces with which the Service shares its address, even if the Service is
/// invalid.
pub(crate) fn annotated_share_namespaces(service: &Service) -> Box<[Box<str>]> {
    let text = annotation_value(service, annotations::SHARE_ADDRESS_NAMESPACES).unwrap_or_default();
    let mut namespaces = annotations::namespaces(text).into_vec();
    namespaces.truncate(annotations::MOST_SHARE_NAMESPACES);
    namespaces.into()
}

fn annotation_value<'a>(service: &'a Service, searched: &str) -> Option<&'a str> {
    let mut annotations = service.annotations.iter();
    let (_, value) = annotations.find(|(name, _)| **name == *searched)?;
    Some(value.trim())
}

/// Parses a Service that portlb serves.
pub fn of_service(service: &Service, settings: &CatalogSettings) -> ParsedService {
    let mut errors = Vec::new();
    let annotations = annotations::read(annotations::SERVICE_ANNOTATIONS, &service.annotations);
    let annotations = annotations.unwrap_or_else(|refusals| {
        let refusals = refusals.into_iter();
        errors.extend(refusals.map(RefusedSetting::into_finding));
        ServiceAnnotations::default()
    });
    let is_tunnel = annotations.options.forwarding_method != Some(ForwardingMethod::Masquerade);
    let mut remarks = remarks(service, is_tunnel);
    let spec = if errors.is_empty() {
        let parser = ServiceParser {
            service,
            settings,
            annotations: &annotations,
        };
        let spec = parser.spec(&mut errors);
        if let Some(AddressSource::Pool { .. }) = spec.as_ref().map(|spec| &spec.source) {
            remarks.extend(parser.unknown_pool());
        }
        spec
    } else {
        None
    };
    ParsedService {
        spec: spec.filter(|_| errors.is_empty()).ok_or(errors),
        restrictions: restrictions::of_service(service).into_iter().collect(),
        remarks,
    }
}

/// Parses the settings of pods that are served without a Service.
///
/// # Errors
///
/// Returns the reasons why the pods cannot be served.
pub(crate) fn parse_pods(pods: &PodService) -> Result<ServiceSpec, Vec<Finding>> {
    let mut pairs = Vec::new();
    for (name, value) in &pods.annotations {
        let Some(name) = name.strip_prefix(PREFIX) else {
            let subject = Subject::Annotation(name.as_str().into());
            let text = format!("does not begin with {PREFIX}; add this prefix");
            return Err(vec![Finding::about(Reason::BadAnnotation, subject, text)]);
        };
        pairs.push((name.into(), value.as_str().into()));
    }
    let annotations: ServiceAnnotations =
        annotations::read(annotations::SERVICE_ANNOTATIONS, &pairs.into()).map_err(
            |refusals| -> Vec<Finding> {
                refusals
                    .into_iter()
                    .map(RefusedSetting::into_finding)
                    .collect()
            },
        )?;
    let mut errors = Vec::new();
    let behaviour = behaviour(&annotations, None, &mut errors);
    let target = pods
        .target_port
        .map_or(TargetPort::AsAddressedInAllSlices, TargetPort::Fixed);
    let mut ports = Vec::new();
    for pod_ports in &pods.ports {
        ports.push(PortSpec {
            name: "".into(),
            protocol: pod_ports.protocol,
            ports: pod_ports.ports,
            target,
            health_check: health_check(&annotations, &behaviour, pod_ports.protocol),
        });
    }
    for (is_missing, what) in [
        (
            pods.addresses.is_empty(),
            "no service address is given; write --pod-addresses",
        ),
        (pods.ports.is_empty(), "no port is given; write --pod-ports"),
    ] {
        if is_missing {
            errors.push(Finding::new(Reason::BadSpecification, what));
        }
    }
    let overlaps = overlaps(&ports).into_iter();
    errors.extend(overlaps.map(|why| {
        Finding::about(
            Reason::BadSpecification,
            Subject::Setting("--pod-ports"),
            why,
        )
    }));
    let spec = ServiceSpec {
        name: pods.name.as_str().into(),
        source: AddressSource::Given(pods.addresses.clone()),
        share_key: annotations.share_key.clone(),
        share_namespaces: annotations.share_namespaces.clone(),
        families: Vec::new(),
        ports: ports.into(),
        behaviour,
        publishes_not_ready: false,
    };
    validate(
        &spec,
        AddressLocation::PodAddresses,
        &annotations,
        &mut errors,
    );
    if let (Some(target), false) = (pods.target_port, can_change_ports(&spec.behaviour)) {
        let differs = |port: &&PortSpec| port.ports != Ports::Single(target);
        for port in spec.ports.iter().filter(differs) {
            errors.push(Finding::about(
                Reason::BadSpecification,
                Subject::Setting("--pod-target-port"),
                format!(
                    "{target} differs from port {}, which {} cannot change; \
                     leave the flag out, or add --pod-annotation \
                     portlb.io/forwarding-method=Masquerade",
                    port.ports, spec.behaviour.forwarding_method
                ),
            ));
        }
    }
    if errors.is_empty() {
        Ok(spec)
    } else {
        Err(errors)
    }
}

struct ServiceParser<'a> {
    service: &'a Service,
    settings: &'a CatalogSettings,
    annotations: &'a ServiceAnnotations,
}

impl ServiceParser<'_> {
    fn spec(&self, errors: &mut Vec<Finding>) -> Option<ServiceSpec> {
        let service = self.service;
        if service.service_type == ServiceType::ExternalName {
            errors.push(bad_specification(
                "spec.type",
                "ExternalName is a name in DNS, without endpoints that could be \
                 served; choose another type, or remove the annotation \
                 portlb.io/load-balancer-class",
            ));
            return None;
        }
        let affinity = service
            .client_affinity_seconds
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map(Duration::from_secs);
        let behaviour = behaviour(self.annotations, affinity, errors);
        let ports = self.ports(&behaviour, errors);
        let (source, location) = self.address_source(errors)?;
        if let AddressSource::Given(addresses) = &source {
            let bad_value = addresses.iter().filter_map(|address| {
                let why = self.settings.refuse_address(*address)?;
                Some(location.finding(why))
            });
            errors.extend(bad_value);
        }
        let spec = ServiceSpec {
            name: service.key.to_string().into(),
            source,
            share_key: self.annotations.share_key.clone(),
            share_namespaces: self.annotations.share_namespaces.clone(),
            families: service.ip_families.clone(),
            ports,
            behaviour,
            publishes_not_ready: service.publishes_not_ready,
        };
        validate(&spec, location, self.annotations, errors);
        Some(spec)
    }

    fn ports(&self, behaviour: &Behaviour, errors: &mut Vec<Finding>) -> Box<[PortSpec]> {
        let (reason, subject, count) = match self.annotations.ports.len() {
            0 => (
                Reason::BadSpecification,
                Subject::field("spec.ports"),
                self.service.ports.len(),
            ),
            count => (Reason::BadAnnotation, Subject::annotation("ports"), count),
        };
        if count > MOST_PORTS {
            let text = format!(
                "{count} entries are more than a Service may have; write at most \
                 {MOST_PORTS}, and ranges such as 8000-8999 (annotation portlb.io/ports) for more"
            );
            errors.push(Finding::about(reason, subject, text));
            return Box::default();
        }
        let mut ports: Vec<PortSpec> = Vec::new();
        for (protocol, annotated_ports) in &self.annotations.ports {
            ports.push(PortSpec {
                name: "".into(),
                protocol: *protocol,
                ports: *annotated_ports,
                target: TargetPort::AsAddressedInAllSlices,
                health_check: health_check(self.annotations, behaviour, *protocol),
            });
        }
        if ports.is_empty() {
            for (index, port) in self.service.ports.iter().enumerate() {
                let Some(number) = NonZeroU16::new(port.port) else {
                    errors.push(bad_specification(
                        format!("spec.ports[{index}].port"),
                        "is not a port; write 1 to 65535",
                    ));
                    continue;
                };
                ports.push(PortSpec {
                    name: port.name.clone(),
                    protocol: port.protocol,
                    ports: Ports::Single(number),
                    target: self.target(index, port, behaviour, errors),
                    health_check: health_check(self.annotations, behaviour, port.protocol),
                });
            }
        }
        if ports.is_empty() {
            errors.push(bad_specification(
                "spec.ports",
                "is empty; list the ports that clients connect to, or write the \
                 annotation portlb.io/ports",
            ));
        }
        let overlaps = overlaps(&ports).into_iter();
        errors.extend(overlaps.map(|why| Finding::about(reason, subject.clone(), why)));
        ports.into()
    }

    fn target(
        &self,
        index: usize,
        port: &ServicePort,
        behaviour: &Behaviour,
        errors: &mut Vec<Finding>,
    ) -> TargetPort {
        if can_change_ports(behaviour) || !self.service.has_selector {
            return TargetPort::AsSliced;
        }
        match port.target_port {
            None => TargetPort::AsSliced,
            Some(target) if target == port.port => TargetPort::AsAddressed,
            Some(target) => {
                let path = format!("spec.ports[{index}].targetPort");
                errors.push(bad_specification(
                    path,
                    format!(
                        "{target} differs from the port {}, which {} \
                     cannot change; let the pods listen on {} and write that, or write the \
                     annotation portlb.io/forwarding-method: Masquerade",
                        port.port, behaviour.forwarding_method, port.port
                    ),
                ));
                TargetPort::AsSliced
            }
        }
    }

    /// Returns the source of the addresses, and the place where the addresses are written. The
    /// source is the first of these that names an address: the annotation, `spec.loadBalancerIP`,
    /// `spec.externalIPs`. If none of them does, a pool is the source.
    fn address_source(
        &self,
        errors: &mut Vec<Finding>,
    ) -> Option<(AddressSource, AddressLocation)> {
        let service = self.service;
        if !self.annotations.addresses.is_empty() {
            let given = AddressSource::Given(self.annotations.addresses.clone());
            return Some((given, AddressLocation::Annotation));
        }
        let (texts, location): (Vec<&str>, _) = match &service.load_balancer_ip {
            Some(text) => (vec![text], AddressLocation::LoadBalancerIp),
            None => {
                let texts = service.external_ips.iter().map(|text| &**text).collect();
                (texts, AddressLocation::ExternalIps)
            }
        };
        if texts.is_empty() {
            return Some((self.pool(errors)?, AddressLocation::Pool));
        }
        let mut addresses = BTreeSet::new();
        for text in texts {
            match text.parse::<IpAddr>() {
                Ok(address) => {
                    addresses.insert(address);
                }
                Err(_) => errors.push(location.finding(format!(
                    "{text:?} is not an IP address; write an address such as 10.1.1.10, or remove \
                     the value"
                ))),
            }
        }
        let given = AddressSource::Given(addresses.into_iter().collect());
        Some((given, location))
    }

    fn pool(&self, errors: &mut Vec<Finding>) -> Option<AddressSource> {
        let pools = &self.settings.pools;
        let name = self.annotations.pool.clone();
        // A Service with a recorded address keeps the address when the pool is renamed or removed,
        // so an unknown pool is then no error.
        let keeps_none = self.service.written.recorded_addresses().is_empty();
        if let (Some(finding), true) = (self.unknown_pool(), keeps_none) {
            errors.push(finding);
            return None;
        }
        // A Service from a manifest can lack `spec.ipFamilies`. Then the pools decide: IPv4 if they
        // have an IPv4 prefix, otherwise IPv6. With `RequireDualStack` each family of the pools
        // applies.
        let mut families = self.service.ip_families.clone();
        if families.is_empty() {
            let prefixes = pools.iter().flat_map(|pool| &pool.prefixes);
            let of_pools: BTreeSet<AddressFamily> = prefixes
                .map(|prefix| AddressFamily::of(prefix.addr()))
                .collect();
            let most = if self.service.requires_dual_stack {
                2
            } else {
                1
            };
            families = of_pools.into_iter().take(most).collect();
        }
        if families.is_empty() {
            families.push(AddressFamily::V4);
        }
        let needs_all = self.service.requires_dual_stack;
        Some(AddressSource::Pool {
            name,
            families,
            needs_all,
        })
    }
}

impl ServiceParser<'_> {
    /// Returns the finding about the pool that the annotation names, if no such pool exists.
    fn unknown_pool(&self) -> Option<Finding> {
        let pools = &self.settings.pools;
        let name = self.annotations.pool.as_ref()?;
        if pools.iter().any(|pool| *pool.name == **name) {
            return None;
        }
        let known: Vec<&str> = pools.iter().map(|pool| pool.name.as_str()).collect();
        let known = match known.as_slice() {
            [] => "pod-watcher has no address pool; start it with --address-pool".to_owned(),
            known => format!("known are {}", known.join(", ")),
        };
        let reason = BadValue::new(format!("{name:?}"), "is not an address pool", known);
        Some(annotations::refused_annotation("address-pool", &reason).into_finding())
    }
}

fn behaviour(
    annotations: &ServiceAnnotations,
    affinity: Option<Duration>,
    errors: &mut Vec<Finding>,
) -> Behaviour {
    let (mut behaviour, bad_value) = annotations.options.resolve();
    let bad_value = bad_value.iter();
    errors.extend(bad_value.map(|invalid| annotation_finding(invalid, None, annotations)));
    behaviour.persistence = annotations.persistence(affinity);
    behaviour
}

/// Returns the health check of a port. A UDP or SCTP port is checked only if the annotations name
/// the kind `tcpConnect` or a port for the check, because the pod might not accept TCP on a UDP or
/// SCTP port.
fn health_check(
    annotations: &ServiceAnnotations,
    behaviour: &Behaviour,
    protocol: Protocol,
) -> Option<HealthCheck> {
    let asked = &annotations.options.health_check;
    let is_asked_for = match asked.kind {
        Some(HealthCheckChoice::TcpConnect) => true,
        Some(HealthCheckChoice::None) | None => asked.port.is_some(),
    };
    behaviour
        .health_check
        .filter(|_| protocol == Protocol::Tcp || is_asked_for)
}

/// Reports whether the forwarding method can change ports. Only `Masquerade` rewrites packets.
pub(crate) fn can_change_ports(behaviour: &Behaviour) -> bool {
    match behaviour.forwarding_method {
        ForwardingMethod::Masquerade => true,
        ForwardingMethod::DirectRouting | ForwardingMethod::Tunnel(_) => false,
    }
}

/// Returns a message for each port that overlaps an earlier port.
fn overlaps(ports: &[PortSpec]) -> Vec<String> {
    let mut overlaps = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let overlapping = ports[..index]
            .iter()
            .find(|other| other.protocol == port.protocol && other.ports.overlaps(port.ports));
        if let Some(other) = overlapping {
            let (protocol, ports) = (port.protocol, port.ports);
            let others = other.ports;
            overlaps.push(format!(
                "{protocol}/{ports} overlaps {protocol}/{others}; list each port once"
            ));
        }
    }
    overlaps
}

/// Validates the virtual servers with the code that also validates files. In place of the addresses
/// from a pool, an example address of each requested family is validated.
fn validate(
    spec: &ServiceSpec,
    location: AddressLocation,
    annotations: &ServiceAnnotations,
    errors: &mut Vec<Finding>,
) {
    let samples;
    let addresses = match &spec.source {
        AddressSource::Given(addresses) => addresses,
        AddressSource::Pool { families, .. } => {
            let sample = |family: &AddressFamily| match family {
                AddressFamily::V4 => IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
                AddressFamily::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
            };
            samples = families.iter().map(sample).collect();
            &samples
        }
    };
    for address in addresses {
        for port in &spec.ports {
            let Err(problems) = virtual_server(spec, *address, port).validate() else {
                continue;
            };
            for invalid in problems.listed() {
                let error = annotation_finding(invalid, Some((*address, location)), annotations);
                if !errors.contains(&error) {
                    errors.push(error);
                }
            }
        }
    }
}

/// Returns the virtual server for a port of the Service at an address, without real servers.
pub(crate) fn virtual_server(
    spec: &ServiceSpec,
    address: IpAddr,
    port: &PortSpec,
) -> VirtualServer {
    let Behaviour {
        scheduler,
        forwarding_method,
        persistence,
        health_check: _,
        on_failure,
        minimum_healthy,
        drain_timeout,
    } = spec.behaviour;
    VirtualServer {
        id: VirtualServerId {
            address,
            protocol: port.protocol,
            ports: port.ports,
        },
        name: match &*port.name {
            "" => spec.name.to_string(),
            name => format!("{}:{name}", spec.name),
        },
        scheduler,
        forwarding_method,
        persistence: persistence.map(|persistence| persistence.at(address)),
        real_servers: Vec::new(),
        health_check: port.health_check,
        on_failure,
        minimum_healthy,
        drain_timeout,
    }
}

/// Converts an error about a field of the file format to a finding that names the annotation or the
/// field of the Service. `address` is the address of the virtual server, and the place where this
/// address is written.
fn annotation_finding(
    invalid: &Invalid,
    address: Option<(IpAddr, AddressLocation)>,
    annotations: &ServiceAnnotations,
) -> Finding {
    let Invalid { field, reason } = invalid;
    let FieldPath::VirtualServer(_, field) = *field else {
        return Finding::new(Reason::BadSpecification, invalid.to_string());
    };
    let name = match (field, address) {
        (Field::Address, Some((_, location))) => return location.finding(reason),
        (Field::PersistenceTimeout, _) if annotations.persistence_timeout.is_none() => {
            let path = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
            return bad_specification(path, reason);
        }
        (Field::ClientPrefixLength, Some((IpAddr::V6(_), _))) => {
            Some("persistence-ipv6-prefix-length")
        }
        (Field::ClientPrefixLength, _) => Some("persistence-ipv4-prefix-length"),
        (field, _) => annotations::annotation_for(field),
    };
    match name {
        Some(name) => annotations::refused_annotation(name, reason).into_finding(),
        None => Finding::new(Reason::BadSpecification, invalid.to_string()),
    }
}

/// The place where the addresses of a Service are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AddressLocation {
    Annotation,
    LoadBalancerIp,
    ExternalIps,
    Pool,
    PodAddresses,
}

impl AddressLocation {
    /// Returns the finding about an address at this place.
    fn finding(self, text: impl fmt::Display) -> Finding {
        let (reason, subject) = match self {
            Self::Annotation => (Reason::BadAnnotation, Subject::annotation("address")),
            Self::LoadBalancerIp => (
                Reason::BadSpecification,
                Subject::field("spec.loadBalancerIP"),
            ),
            Self::ExternalIps => (Reason::BadSpecification, Subject::field("spec.externalIPs")),
            Self::Pool => (Reason::BadSpecification, Subject::Setting("address pool")),
            Self::PodAddresses => (
                Reason::BadSpecification,
                Subject::Setting("--pod-addresses"),
            ),
        };
        Finding::about(reason, subject, text)
    }
}

fn bad_specification(path: impl Into<Box<str>>, text: impl fmt::Display) -> Finding {
    Finding::about(Reason::BadSpecification, Subject::field(path), text)
}
