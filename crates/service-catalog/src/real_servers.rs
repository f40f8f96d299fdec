//! Endpoints to real servers.

use std::{cmp::Ordering, collections::BTreeSet, net::IpAddr, num::NonZeroU16};

use virtual_server::{
    BadValue, Field, Invalid, Ports, Protocol, RealServer, RealServerField, RealServerHistory,
    RealServerState, ServiceRange, VirtualServer,
};

use super::{
    addresses::Claims,
    annotations::RealServerAnnotations,
    finding::{Finding, Reason},
    left_out::{LeftOut, LeftOutReason},
    model::{Endpoint, EndpointPort, Family, Readiness},
    service_spec::{self, PortSpec, ServiceSpec, Target},
};

/// Some endpoints of a Service that have the same ports.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group<'a> {
    /// Their ports.
    pub(super) ports: &'a [EndpointPort],
    /// They, by address.
    pub(super) endpoints: &'a [Endpoint],
    /// What is said of all of them.
    pub(super) annotations: RealServerAnnotations,
}

/// What conversion must know beside the Service and its endpoints.
pub(super) struct Surroundings<'a> {
    /// Prefixes that are local to load balancers.
    pub(super) service_ranges: &'a BTreeSet<ServiceRange>,
    /// Addresses that are local to load balancers.
    pub(super) claims: &'a Claims,
    /// What the pod with an address says of itself; `None` where no pod does.
    pub(super) pod_annotations: Option<&'a dyn Fn(IpAddr) -> Option<RealServerAnnotations>>,
    /// What the status of the Service records of the levels of its weights.
    pub(super) former_levels: Option<u16>,
}

/// Returns the finding about weights that are rounded. It depends on the number of endpoints only
/// by the level, so that few changes of them make a new finding.
fn rounded_weights(levels: u16) -> Finding {
    let message = format!(
        "weights are rounded to {levels} levels: the schedulers mh and sh cannot keep more apart \
         for so many pods without moving flows of all of them; use weights with small \
         whole-number ratios, such as 1, 2 and 4, or the annotation portlb.io/scheduler: wrr"
    );
    Finding::new(Reason::WeightsRounded, message)
}

/// What stands behind a Service.
pub(super) struct Served {
    pub(super) servers: Vec<VirtualServer>,
    /// To how many levels weights are rounded, if any are: the fewest of all virtual servers.
    pub(super) weight_levels: Option<u16>,
}

/// The virtual servers of a Service that has the addresses.
pub(super) fn virtual_servers(
    spec: &ServiceSpec,
    addresses: &[IpAddr],
    groups: &[Group<'_>],
    surroundings: &Surroundings<'_>,
    left_out: &mut LeftOut,
    findings: &mut BTreeSet<Finding>,
) -> Served {
    let mut levels: Option<u16> = None;
    let mut servers = Vec::with_capacity(addresses.len() * spec.ports.len());
    for port in &spec.ports {
        for address in addresses {
            let mut server = service_spec::virtual_server(spec, *address, port);
            let family = family_behind(*address, spec, groups);
            server.real_servers = real_servers(spec, port, family, groups, surroundings, left_out);
            leave_out(&mut server, surroundings, left_out);
            left_out.end_of(server.id, !server.real_servers.is_empty());
            let rounded = server.round_weights(surroundings.former_levels);
            levels = levels.into_iter().chain(rounded).min();
            debug_assert_eq!(server.validate(), Ok(()));
            servers.push(server);
        }
    }
    findings.extend(levels.map(rounded_weights));
    Served {
        servers,
        weight_levels: levels,
    }
}

/// The family of the endpoints that a service address has: its own, if the Service has any.
fn family_behind(address: IpAddr, spec: &ServiceSpec, groups: &[Group<'_>]) -> Family {
    let own = Family::of(address);
    let other = match own {
        Family::V4 => Family::V6,
        Family::V6 => Family::V4,
    };
    let has = |family: Family| {
        if spec.families.is_empty() {
            // Endpoints are in order, and IPv4 comes first.
            groups.iter().any(|group| {
                let at_that_end = match family {
                    Family::V4 => group.endpoints.first(),
                    Family::V6 => group.endpoints.last(),
                };
                at_that_end.is_some_and(|endpoint| Family::of(endpoint.address) == family)
            })
        } else {
            spec.families.contains(&family)
        }
    };
    if !has(own) && has(other) { other } else { own }
}

/// Sorted, each once.
fn real_servers(
    spec: &ServiceSpec,
    port: &PortSpec,
    family: Family,
    groups: &[Group<'_>],
    surroundings: &Surroundings<'_>,
    left_out: &mut LeftOut,
) -> Vec<RealServer> {
    let most = groups.iter().map(|group| group.endpoints.len()).sum();
    let mut servers: Vec<RealServer> = Vec::with_capacity(most);
    if is_family_missing(family, groups) {
        leave_out_family(family, groups, left_out);
    }
    for group in groups {
        let Some(listens) = port_of(group, port) else {
            leave_out_group(group, port, family, left_out);
            continue;
        };
        servers.extend(group.endpoints.iter().filter_map(|endpoint| {
            let is_wanted = Family::of(endpoint.address) == family;
            is_wanted.then(|| real_server(endpoint, listens, spec, group, surroundings))?
        }));
    }
    // Of several that are the same the best comes first: the controller moves endpoints between
    // slices, adding first and removing later.
    servers.sort_unstable_by(|one, other| {
        let rank = |server: &RealServer| (server.state == RealServerState::Ready, server.weight);
        compare_addresses(one.address, other.address)
            .then_with(|| one.port.cmp(&other.port))
            .then_with(|| rank(other).cmp(&rank(one)))
    });
    servers.dedup_by_key(|server| (server.address, server.port));
    servers
}

/// Whether there are endpoints, and none of the family. Where there are some, the endpoints of the
/// other family are the same pods once more.
fn is_family_missing(family: Family, groups: &[Group<'_>]) -> bool {
    let mut endpoints = groups.iter().flat_map(|group| group.endpoints);
    !endpoints.any(|endpoint| Family::of(endpoint.address) == family)
}

fn leave_out_family(family: Family, groups: &[Group<'_>], left_out: &mut LeftOut) {
    for endpoint in groups.iter().flat_map(|group| group.endpoints) {
        let address = endpoint.address;
        left_out.add(LeftOutReason::OtherFamily, address, address, || {
            format!(
                "is not an {family} address as the service address, and no other endpoint is; \
                 let the Service and its pods have addresses of both families \
                 (spec.ipFamilyPolicy: RequireDualStack)"
            )
        });
    }
}

/// Counts the endpoints of a slice that does not have the Service's port.
fn leave_out_group(group: &Group<'_>, port: &PortSpec, family: Family, left_out: &mut LeftOut) {
    let named = |name: &str, protocol: Protocol| match name {
        "" => format!("the unnamed port of {protocol}"),
        name => format!("the port {name} of {protocol}"),
    };
    let endpoints = group.endpoints.iter().map(|endpoint| endpoint.address);
    for address in endpoints.filter(|address| Family::of(*address) == family) {
        left_out.add(LeftOutReason::PortNotInSlice, address, address, || {
            let listed = group.ports.iter();
            let listed: Vec<String> = listed
                .map(|port| named(&port.name, port.protocol))
                .collect();
            let listed = match listed.as_slice() {
                [] => "no port".to_owned(),
                listed => listed.join(" and "),
            };
            format!(
                "is in a slice without {}, which the Service has (it lists {listed}); give the \
                 port in the slice the name and protocol of the Service's port, or write the \
                 annotation portlb.io/ports",
                named(&port.name, port.protocol)
            )
        });
    }
}

/// As `cmp`, but by numbers, which is half of the time that a Service of 10,000 endpoints takes.
fn compare_addresses(one: IpAddr, other: IpAddr) -> Ordering {
    match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => one.to_bits().cmp(&other.to_bits()),
        (IpAddr::V6(one), IpAddr::V6(other)) => one.to_bits().cmp(&other.to_bits()),
        (IpAddr::V4(_), IpAddr::V6(_)) => Ordering::Less,
        (IpAddr::V6(_), IpAddr::V4(_)) => Ordering::Greater,
    }
}

/// Where the endpoints of the group listen for the port; `None`: they do not. A real server's port
/// is said only where it is another than the client's.
fn port_of(group: &Group<'_>, port: &PortSpec) -> Option<Option<NonZeroU16>> {
    let is_its =
        |sliced: &&EndpointPort| sliced.protocol == port.protocol && sliced.name == port.name;
    let differing =
        |number: Option<NonZeroU16>| number.filter(|number| port.ports != Ports::Single(*number));
    let sliced = group.ports.iter().find(is_its);
    match port.target {
        Target::AsSliced => sliced.map(|sliced| differing(sliced.port)),
        Target::AsAddressed => sliced.map(|_| None),
        Target::AsAddressedInAllSlices => Some(None),
        Target::Fixed(number) => Some(differing(Some(number))),
    }
}

fn real_server(
    endpoint: &Endpoint,
    port: Option<NonZeroU16>,
    spec: &ServiceSpec,
    group: &Group<'_>,
    surroundings: &Surroundings<'_>,
) -> Option<RealServer> {
    let of_pod = surroundings
        .pod_annotations
        .and_then(|annotations| annotations(endpoint.address));
    let of_pod = of_pod.unwrap_or_default();
    let state = match endpoint.readiness {
        Readiness::Ready => RealServerState::Ready,
        Readiness::NotReady if spec.publishes_not_ready => RealServerState::Ready,
        Readiness::NotReady => RealServerState::Draining,
    };
    let asked = of_pod.state.or(group.annotations.state).unwrap_or_default();
    Some(RealServer {
        address: endpoint.address,
        port,
        weight: of_pod
            .weight
            .or(group.annotations.weight)
            .unwrap_or_default(),
        state: match asked {
            RealServerState::Ready => state,
            RealServerState::Draining => RealServerState::Draining,
        },
        history: RealServerHistory::default(),
    })
}

/// Takes out what would be refused, since one such endpoint must not harm the others.
fn leave_out(server: &mut VirtualServer, surroundings: &Surroundings<'_>, left_out: &mut LeftOut) {
    let mut servers = std::mem::take(&mut server.real_servers);
    let claimed = claimed(&servers, surroundings.claims);
    let ranges = surroundings.service_ranges;
    servers.retain(|candidate| {
        let address = candidate.address;
        if claimed.contains(&address) {
            left_out.add(LeftOutReason::ServiceAddress, address, candidate, || {
                "is a service address, so packets to it would not leave the load balancer"
                    .to_owned()
            });
            return false;
        }
        if let Some(range) = ranges.iter().find(|range| range.prefix.contains(&address)) {
            left_out.add(LeftOutReason::ServiceRange, address, candidate, || {
                format!(
                    "lies within the service range {range}, so packets to it would not leave the \
                     load balancer"
                )
            });
            return false;
        }
        match server.validate_real_server(candidate) {
            Ok(()) => true,
            Err(problems) => {
                if let Some(invalid) = problems.listed().first() {
                    let (reason, why) = why(server, candidate, invalid);
                    left_out.add(reason, address, candidate, || why);
                }
                false
            }
        }
    });
    server.real_servers = servers;
    leave_out_excess(server, left_out);
}

/// Takes out what exceeds the number of real servers that the scheduler can have: first those that
/// drain, which the data plane goes on draining as far as it has places.
fn leave_out_excess(server: &mut VirtualServer, left_out: &mut LeftOut) {
    let most = server.scheduler.most_real_servers();
    if server.real_servers.len() <= most {
        return;
    }
    server
        .real_servers
        .sort_by_key(|candidate| candidate.state != RealServerState::Ready);
    for candidate in server.real_servers.split_off(most) {
        left_out.add(
            LeftOutReason::TooMany,
            candidate.address,
            &candidate,
            || {
                format!(
                    "exceeds the {most} real servers that {} can have; select fewer pods, or write \
                 the annotation portlb.io/scheduler with another scheduler",
                    server.scheduler.word()
                )
            },
        );
    }
    server.sort_real_servers();
}

fn why(
    server: &VirtualServer,
    candidate: &RealServer,
    invalid: &Invalid,
) -> (LeftOutReason, String) {
    let of_port = Field::RealServer(candidate.into(), RealServerField::Port);
    if let (Some(port), Ports::Single(wanted)) = (candidate.port, server.id.ports)
        && invalid.field == of_port.into()
    {
        let why = format!(
            "listens on {port}, and {} cannot change the port {wanted}; let it listen on \
             {wanted}, or write the annotation portlb.io/forwarding-method: Masquerade",
            server.forwarding_method
        );
        return (LeftOutReason::PortDiffers, why);
    }
    let is_of_other_family = Family::of(candidate.address) != Family::of(server.id.address);
    let reason = if is_of_other_family {
        LeftOutReason::OtherFamily
    } else {
        LeftOutReason::Unusable
    };
    let BadValue {
        problem,
        suggestion,
        ..
    } = &invalid.reason;
    (reason, format!("{problem}; {suggestion}"))
}

/// Which of the real servers are service addresses.
fn claimed(servers: &[RealServer], claims: &Claims) -> BTreeSet<IpAddr> {
    let (Some(first), Some(last)) = (servers.first(), servers.last()) else {
        return BTreeSet::new();
    };
    let is_server = |address: &IpAddr| {
        let found = servers.binary_search_by_key(address, |server| server.address);
        found.is_ok()
    };
    let between = claims.between(first.address, last.address);
    between.filter(is_server).collect()
}

/// What a Service's status says of its ports.
pub(super) fn single_ports(spec: &ServiceSpec) -> Vec<(Protocol, u16)> {
    let single = |port: &PortSpec| match port.ports {
        Ports::Single(number) => Some((port.protocol, number.get())),
        Ports::Range(..) | Ports::All => None,
    };
    spec.ports.iter().filter_map(single).collect()
}
