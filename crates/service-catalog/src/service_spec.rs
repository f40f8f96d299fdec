//! The specification of a Service, from its fields and annotations.

mod remarks;

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroU16,
    time::Duration,
};

use virtual_server::{
    BadValue, Behaviour, Field, FieldPath, ForwardingMethod, HealthCheck, HealthCheckChoice,
    Invalid, Ports, Protocol, VirtualServer, VirtualServerId,
};

use self::remarks::remarks;
use super::{
    annotations::{self, Refusal, ServiceAnnotations},
    finding::{Finding, Reason, Subject},
    model::{Family, PREFIX, Service, ServicePort, ServiceType},
    restrictions,
    settings::{PodService, Settings},
};

/// Entries of ports that a Service may have: each is a virtual server of every address, and is
/// compared with every other.
const MOST_PORTS: usize = 1_000;

/// What a Service asks for. It can be served as it stands, given addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSpec {
    /// What the virtual servers are called, up to the name of their port.
    pub(crate) name: Box<str>,
    /// Where its addresses come from.
    pub(crate) source: AddressSource,
    /// Services that say the same may share an address.
    pub(crate) share_key: Option<Box<str>>,
    /// Other namespaces whose Services may share it, if they name this one's, too.
    pub(crate) share_namespaces: Box<[Box<str>]>,
    /// Families of its endpoints; empty: those that they have.
    pub(crate) families: Vec<Family>,
    /// Its ports, none of which overlap.
    pub(crate) ports: Box<[PortSpec]>,
    /// How its virtual servers behave; the health check is the port's.
    pub(crate) behaviour: Behaviour,
    /// Endpoints that are not ready count as ready.
    pub(crate) publishes_not_ready: bool,
}

/// Where the addresses of a Service come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AddressSource {
    /// They are given.
    Given(Vec<IpAddr>),
    /// From the pool of that name, or from the first that fits.
    Pool {
        /// The pool's name.
        name: Option<Box<str>>,
        /// One address of each family.
        families: Vec<Family>,
        /// Whether a family without a free address is worth a finding.
        needs_all: bool,
    },
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PortSpec {
    /// Its name in the Service and in slices.
    pub(crate) name: Box<str>,
    /// Transport protocol.
    pub(crate) protocol: Protocol,
    /// What clients connect to.
    pub(crate) ports: Ports,
    /// Where the endpoints listen.
    pub(crate) target: Target,
    /// `None`: the endpoints are not checked.
    pub(crate) health_check: Option<HealthCheck>,
}

/// Where endpoints listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Where the slices say under the port's name.
    AsSliced,
    /// Where the client connects to, in the slices that have the port's name.
    AsAddressed,
    /// Where the client connects to, whatever ports the slices have.
    AsAddressedInAllSlices,
    /// At this port.
    Fixed(NonZeroU16),
}

/// A parsed Service, with its findings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedService {
    /// What it asks for, or why that cannot be.
    pub spec: Result<ServiceSpec, Vec<Finding>>,
    /// Limits that its author sets and that no load balancer enforces. While there is one, the
    /// Service is not served at all, its last good state included.
    pub restrictions: Vec<Finding>,
    /// What its owner should know besides.
    pub remarks: Vec<Finding>,
}

/// Whether the Service is one of ours.
pub fn is_ours(service: &Service, settings: &Settings) -> bool {
    let class = settings.load_balancer_class.as_str();
    !service.is_being_deleted
        && (service.service_type == ServiceType::LoadBalancer
            && service.load_balancer_class.as_deref() == Some(class)
            || annotated_class(service) == Some(class))
}

/// The class that an annotation names.
pub fn annotated_class(service: &Service) -> Option<&str> {
    annotated(service, annotations::LOAD_BALANCER_CLASS)
}

/// What it shares an address by, whatever else is wrong with it.
pub(crate) fn annotated_share_key(service: &Service) -> Option<&str> {
    annotated(service, annotations::SHARE_ADDRESS).filter(|key| !key.is_empty())
}

/// Returns the namespaces that it shares an address with, whatever else is wrong with it.
pub(crate) fn annotated_share_namespaces(service: &Service) -> Box<[Box<str>]> {
    let text = annotated(service, annotations::SHARE_ADDRESS_NAMESPACES).unwrap_or_default();
    let mut namespaces = annotations::namespaces(text).into_vec();
    namespaces.truncate(annotations::MOST_SHARE_NAMESPACES);
    namespaces.into()
}

fn annotated<'a>(service: &'a Service, wanted: &str) -> Option<&'a str> {
    let mut annotations = service.annotations.iter();
    let (_, value) = annotations.find(|(name, _)| **name == *wanted)?;
    Some(value.trim())
}

/// Judges a Service of ours.
pub fn of_service(service: &Service, settings: &Settings) -> ParsedService {
    let mut errors = Vec::new();
    let annotations = annotations::read(annotations::OF_SERVICES, &service.annotations);
    let annotations = annotations.unwrap_or_else(|refusals| {
        let refusals = refusals.into_iter();
        errors.extend(refusals.map(Refusal::into_finding));
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

/// Judges the pods that are served without a Service.
///
/// # Errors
/// Why they cannot be served.
pub(crate) fn of_pods(pods: &PodService) -> Result<ServiceSpec, Vec<Finding>> {
    let mut pairs = Vec::new();
    for (name, value) in &pods.annotations {
        let Some(name) = name.strip_prefix(PREFIX) else {
            let subject = Subject::Annotation(name.as_str().into());
            let text = format!("does not begin with {PREFIX}; write it so");
            return Err(vec![Finding::about(Reason::BadAnnotation, subject, text)]);
        };
        pairs.push((name.into(), value.as_str().into()));
    }
    let annotations: ServiceAnnotations =
        annotations::read(annotations::OF_SERVICES, &pairs.into()).map_err(
            |refusals| -> Vec<Finding> {
                refusals.into_iter().map(Refusal::into_finding).collect()
            },
        )?;
    let mut errors = Vec::new();
    let behaviour = behaviour(&annotations, None, &mut errors);
    let target = pods
        .target_port
        .map_or(Target::AsAddressedInAllSlices, Target::Fixed);
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
    validate(&spec, AddressPlace::PodAddresses, &annotations, &mut errors);
    if let (Some(target), false) = (pods.target_port, can_change_ports(&spec.behaviour)) {
        let differs = |port: &&PortSpec| port.ports != Ports::Single(target);
        for port in spec.ports.iter().filter(differs) {
            errors.push(Finding::about(
                Reason::BadSpecification,
                Subject::Setting("--pod-target-port"),
                format!(
                    "{target} differs from port {}, which {} cannot change; \
                     leave it out, or add --pod-annotation \
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
    settings: &'a Settings,
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
        let (source, place) = self.address_source(errors)?;
        if let AddressSource::Given(addresses) = &source {
            let refused = addresses.iter().filter_map(|address| {
                let why = self.settings.refusal(*address)?;
                Some(place.finding(why))
            });
            errors.extend(refused);
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
        validate(&spec, place, self.annotations, errors);
        Some(spec)
    }

    fn ports(&self, behaviour: &Behaviour, errors: &mut Vec<Finding>) -> Box<[PortSpec]> {
        let (reason, subject, given) = match self.annotations.ports.len() {
            0 => (
                Reason::BadSpecification,
                Subject::field("spec.ports"),
                self.service.ports.len(),
            ),
            given => (Reason::BadAnnotation, Subject::annotation("ports"), given),
        };
        if given > MOST_PORTS {
            let text = format!(
                "{given} entries are more than a Service may have; write at most \
                 {MOST_PORTS}, and ranges such as 8000-8999 (annotation portlb.io/ports) for more"
            );
            errors.push(Finding::about(reason, subject, text));
            return Box::default();
        }
        let mut ports: Vec<PortSpec> = Vec::new();
        for (protocol, given) in &self.annotations.ports {
            ports.push(PortSpec {
                name: "".into(),
                protocol: *protocol,
                ports: *given,
                target: Target::AsAddressedInAllSlices,
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
    ) -> Target {
        if can_change_ports(behaviour) || !self.service.has_selector {
            return Target::AsSliced;
        }
        match port.target_port {
            None => Target::AsSliced,
            Some(target) if target == port.port => Target::AsAddressed,
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
                Target::AsSliced
            }
        }
    }

    /// The first source that names any address, and what it is called.
    fn address_source(&self, errors: &mut Vec<Finding>) -> Option<(AddressSource, AddressPlace)> {
        let service = self.service;
        if !self.annotations.addresses.is_empty() {
            let given = AddressSource::Given(self.annotations.addresses.clone());
            return Some((given, AddressPlace::Annotation));
        }
        let (texts, place): (Vec<&str>, _) = match &service.load_balancer_ip {
            Some(text) => (vec![text], AddressPlace::LoadBalancerIp),
            None => {
                let texts = service.external_ips.iter().map(|text| &**text).collect();
                (texts, AddressPlace::ExternalIps)
            }
        };
        if texts.is_empty() {
            return Some((self.pool(errors)?, AddressPlace::Pool));
        }
        let mut addresses = BTreeSet::new();
        for text in texts {
            match text.parse::<IpAddr>() {
                Ok(address) => {
                    addresses.insert(address);
                }
                Err(_) => errors.push(place.finding(format!(
                    "{text:?} is not an IP address; write one such as 10.1.1.10, or remove it"
                ))),
            }
        }
        let given = AddressSource::Given(addresses.into_iter().collect());
        Some((given, place))
    }

    fn pool(&self, errors: &mut Vec<Finding>) -> Option<AddressSource> {
        let pools = &self.settings.pools;
        let name = self.annotations.pool.clone();
        // Who has an address goes on with it when the pool is renamed or removed.
        let keeps_none = self.service.written.kept_addresses().is_empty();
        if let (Some(finding), true) = (self.unknown_pool(), keeps_none) {
            errors.push(finding);
            return None;
        }
        // Where no API server has filled the families in, those of the pools stand for them.
        let mut families = self.service.ip_families.clone();
        if families.is_empty() {
            let prefixes = pools.iter().flat_map(|pool| &pool.prefixes);
            let of_pools: BTreeSet<Family> =
                prefixes.map(|prefix| Family::of(prefix.addr())).collect();
            let most = if self.service.requires_dual_stack {
                2
            } else {
                1
            };
            families = of_pools.into_iter().take(most).collect();
        }
        if families.is_empty() {
            families.push(Family::V4);
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
    /// What is wrong with the name of the pool.
    fn unknown_pool(&self) -> Option<Finding> {
        let pools = &self.settings.pools;
        let name = self.annotations.pool.as_ref()?;
        if pools.iter().any(|pool| *pool.name == **name) {
            return None;
        }
        let known: Vec<&str> = pools.iter().map(|pool| pool.name.as_str()).collect();
        let known = match known.as_slice() {
            [] => "pod-watcher has none; start it with --address-pool".to_owned(),
            known => format!("known are {}", known.join(", ")),
        };
        let reason = BadValue::new(format!("{name:?}"), "is not an address pool", known);
        Some(annotations::refusal("address-pool", &reason).into_finding())
    }
}

fn behaviour(
    annotations: &ServiceAnnotations,
    affinity: Option<Duration>,
    errors: &mut Vec<Finding>,
) -> Behaviour {
    let (mut behaviour, refused) = annotations.options.resolve();
    let refused = refused.iter();
    errors.extend(refused.map(|invalid| in_annotations(invalid, None, annotations)));
    behaviour.persistence = annotations.persistence(affinity);
    behaviour
}

/// A port without TCP has nothing to connect to unless its owner says what.
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

/// Only Masquerade rewrites packets.
pub(crate) fn can_change_ports(behaviour: &Behaviour) -> bool {
    match behaviour.forwarding_method {
        ForwardingMethod::Masquerade => true,
        ForwardingMethod::DirectRouting | ForwardingMethod::Tunnel(_) => false,
    }
}

/// Ports that belong to two of a Service's virtual servers.
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
                "{protocol}/{ports} overlaps {protocol}/{others}; give each port once"
            ));
        }
    }
    overlaps
}

/// Validates the virtual servers by the code that validates those of a file.
fn validate(
    spec: &ServiceSpec,
    place: AddressPlace,
    annotations: &ServiceAnnotations,
    errors: &mut Vec<Finding>,
) {
    let samples;
    let addresses = match &spec.source {
        AddressSource::Given(addresses) => addresses,
        AddressSource::Pool { families, .. } => {
            let sample = |family: &Family| match family {
                Family::V4 => IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
                Family::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
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
                let error = in_annotations(invalid, Some((*address, place)), annotations);
                if !errors.contains(&error) {
                    errors.push(error);
                }
            }
        }
    }
}

/// The virtual server of a Service's port at an address; without real servers.
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

/// Returns the finding that names the annotation or field in place of the field of the file format.
/// `address`: the address of the virtual server, and where it is written.
fn in_annotations(
    invalid: &Invalid,
    address: Option<(IpAddr, AddressPlace)>,
    annotations: &ServiceAnnotations,
) -> Finding {
    let Invalid { field, reason } = invalid;
    let FieldPath::VirtualServer(_, field) = *field else {
        return Finding::new(Reason::BadSpecification, invalid.to_string());
    };
    let name = match (field, address) {
        (Field::Address, Some((_, place))) => return place.finding(reason),
        (Field::PersistenceTimeout, _) if annotations.persistence_timeout.is_none() => {
            let path = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
            return bad_specification(path, reason);
        }
        (Field::ClientPrefixLength, Some((IpAddr::V6(_), _))) => {
            Some("persistence-ipv6-prefix-length")
        }
        (Field::ClientPrefixLength, _) => Some("persistence-ipv4-prefix-length"),
        (field, _) => annotations::setting(field),
    };
    match name {
        Some(name) => annotations::refusal(name, reason).into_finding(),
        None => Finding::new(Reason::BadSpecification, invalid.to_string()),
    }
}

/// Where the addresses of a Service are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AddressPlace {
    Annotation,
    LoadBalancerIp,
    ExternalIps,
    Pool,
    PodAddresses,
}

impl AddressPlace {
    /// Returns the finding about an address that is written here.
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
