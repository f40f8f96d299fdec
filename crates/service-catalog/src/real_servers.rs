//! Conversion of endpoints to real servers.

use std::{cmp::Ordering, collections::BTreeSet, net::IpAddr, num::NonZeroU16};

use virtual_server::{
    AddressFamily, BadValue, Field, Invalid, Ports, Protocol, RealServer, RealServerField,
    RealServerHistory, RealServerState, ServiceRange, VirtualServer,
};

use super::{
    addresses::AddressClaims,
    annotations::RealServerAnnotations,
    finding::{Finding, Reason},
    left_out::{LeftOut, LeftOutReason},
    model::{Endpoint, EndpointPort, EndpointReadiness},
    service_spec::{self, PortSpec, ServiceSpec, TargetPort},
};

/// Endpoints of a Service that have equal ports: the content of one EndpointSlice.
#[derive(Clone, Copy, Debug)]
pub(super) struct EndpointGroup<'a> {
    pub(super) ports: &'a [EndpointPort],
    /// The endpoints, sorted by address.
    pub(super) endpoints: &'a [Endpoint],
    /// The annotations of the EndpointSlice. They apply to all of its endpoints.
    pub(super) annotations: RealServerAnnotations,
}

/// The state outside of a Service that the conversion of its endpoints depends on.
pub(super) struct ConversionContext<'a> {
    /// Addresses in these prefixes are local to load balancers, so that no real server can have
    /// them.
    pub(super) service_ranges: &'a BTreeSet<ServiceRange>,
    /// Claimed addresses are local to load balancers, so that no real server can have them.
    pub(super) claims: &'a AddressClaims,
    /// Returns the annotations of the pod that has the given address, in the namespace of the
    /// Service. The field is `None` if no pod of any namespace has annotations that are in force.
    pub(super) pod_annotations: Option<&'a dyn Fn(IpAddr) -> Option<RealServerAnnotations>>,
    /// The number of weight levels that the status of the Service records. `None` if it records
    /// none.
    pub(super) former_levels: Option<u16>,
}

/// Returns the finding about rounded weights. The message depends on the number of levels and not
/// on the number of endpoints, so that the message rarely changes.
fn rounded_weights(levels: u16) -> Finding {
    let message = format!(
        "weights are rounded to {levels} levels: with more levels and so many pods, the schedulers \
         mh and sh would move flows of all pods after a change of one weight; use weights with \
         small whole-number ratios, such as 1, 2 and 4, or the annotation portlb.io/scheduler: wrr"
    );
    Finding::new(Reason::WeightsRounded, message)
}

/// The virtual servers of a Service, with their real servers.
pub(super) struct ConvertedServers {
    pub(super) servers: Vec<VirtualServer>,
    /// The smallest number of levels to which weights of one of the virtual servers are rounded.
    /// `None` if no weight is rounded.
    pub(super) weight_levels: Option<u16>,
}

/// Returns the virtual servers of a Service at these addresses, with the endpoints as real servers.
pub(super) fn virtual_servers(
    spec: &ServiceSpec,
    addresses: &[IpAddr],
    groups: &[EndpointGroup<'_>],
    context: &ConversionContext<'_>,
    left_out: &mut LeftOut,
    findings: &mut BTreeSet<Finding>,
) -> ConvertedServers {
    let mut levels: Option<u16> = None;
    let mut servers = Vec::with_capacity(addresses.len() * spec.ports.len());
    for port in &spec.ports {
        for address in addresses {
            let mut server = service_spec::virtual_server(spec, *address, port);
            let family = family_behind(*address, spec, groups);
            server.real_servers = real_servers(spec, port, family, groups, context, left_out);
            leave_out(&mut server, context, left_out);
            left_out.finish_virtual_server(server.id, !server.real_servers.is_empty());
            let rounded = server.round_weights(context.former_levels);
            levels = levels.into_iter().chain(rounded).min();
            debug_assert_eq!(server.validate(), Ok(()));
            servers.push(server);
        }
    }
    findings.extend(levels.map(rounded_weights));
    ConvertedServers {
        servers,
        weight_levels: levels,
    }
}

/// Returns the address family of the real servers behind a service address: the family of the
/// service address, or the other family if the Service has only that family in `spec.ipFamilies`.
/// If the field is empty, the addresses of the endpoints decide.
fn family_behind(
    address: IpAddr,
    spec: &ServiceSpec,
    groups: &[EndpointGroup<'_>],
) -> AddressFamily {
    let own = AddressFamily::of(address);
    let other = match own {
        AddressFamily::V4 => AddressFamily::V6,
        AddressFamily::V6 => AddressFamily::V4,
    };
    let has = |family: AddressFamily| {
        if spec.families.is_empty() {
            // Endpoints are sorted by address, and IPv4 comes before IPv6.
            groups.iter().any(|group| {
                let at_that_end = match family {
                    AddressFamily::V4 => group.endpoints.first(),
                    AddressFamily::V6 => group.endpoints.last(),
                };
                at_that_end.is_some_and(|endpoint| AddressFamily::of(endpoint.address) == family)
            })
        } else {
            spec.families.contains(&family)
        }
    };
    if !has(own) && has(other) { other } else { own }
}

/// Returns the endpoints of `family` as real servers for `port`, sorted by address and port,
/// without duplicates.
fn real_servers(
    spec: &ServiceSpec,
    port: &PortSpec,
    family: AddressFamily,
    groups: &[EndpointGroup<'_>],
    context: &ConversionContext<'_>,
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
            let is_wanted = AddressFamily::of(endpoint.address) == family;
            is_wanted.then(|| real_server(endpoint, listens, spec, group, context))?
        }));
    }
    // An address and port can have several entries: a controller that moves an endpoint between
    // EndpointSlices adds the new entry before it removes the old one. Ready entries come first,
    // then entries with a higher weight, and `dedup_by_key` keeps the first entry.
    servers.sort_unstable_by(|one, other| {
        let rank = |server: &RealServer| (server.state == RealServerState::Ready, server.weight);
        compare_addresses(one.address, other.address)
            .then_with(|| one.port.cmp(&other.port))
            .then_with(|| rank(other).cmp(&rank(one)))
    });
    servers.dedup_by_key(|server| (server.address, server.port));
    servers
}

/// Reports whether no endpoint has this address family. If some endpoints have it, the endpoints of
/// the other family belong to the same dual-stack pods and do not count as left out.
fn is_family_missing(family: AddressFamily, groups: &[EndpointGroup<'_>]) -> bool {
    let mut endpoints = groups.iter().flat_map(|group| group.endpoints);
    !endpoints.any(|endpoint| AddressFamily::of(endpoint.address) == family)
}

fn leave_out_family(family: AddressFamily, groups: &[EndpointGroup<'_>], left_out: &mut LeftOut) {
    for endpoint in groups.iter().flat_map(|group| group.endpoints) {
        let address = endpoint.address;
        left_out.add(LeftOutReason::OtherFamily, address, address, || {
            format!(
                "is not an {family} address like the service address, and no other endpoint has \
                 one; let the Service and its pods have addresses of both families \
                 (spec.ipFamilyPolicy: RequireDualStack)"
            )
        });
    }
}

/// Counts the endpoints of `family` in an EndpointSlice that lacks the port of the Service as left
/// out.
fn leave_out_group(
    group: &EndpointGroup<'_>,
    port: &PortSpec,
    family: AddressFamily,
    left_out: &mut LeftOut,
) {
    let named = |name: &str, protocol: Protocol| match name {
        "" => format!("the unnamed port of {protocol}"),
        name => format!("the port {name} of {protocol}"),
    };
    let endpoints = group.endpoints.iter().map(|endpoint| endpoint.address);
    for address in endpoints.filter(|address| AddressFamily::of(*address) == family) {
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
                "is in a slice without {}, which the Service has (the slice lists {listed}); give \
                 the port in the slice the name and protocol of the Service's port, or write the \
                 annotation portlb.io/ports",
                named(&port.name, port.protocol)
            )
        });
    }
}

/// Orders addresses like `IpAddr::cmp`, but compares them as numbers. This halves the time in which
/// a Service with 10,000 endpoints is evaluated.
fn compare_addresses(one: IpAddr, other: IpAddr) -> Ordering {
    match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => one.to_bits().cmp(&other.to_bits()),
        (IpAddr::V6(one), IpAddr::V6(other)) => one.to_bits().cmp(&other.to_bits()),
        (IpAddr::V4(_), IpAddr::V6(_)) => Ordering::Less,
        (IpAddr::V6(_), IpAddr::V4(_)) => Ordering::Greater,
    }
}

/// Returns the port on which the endpoints of the group listen for `port`. The outer `Option` is
/// `None` if the EndpointSlice lacks the port. The inner `Option` is `None` if the endpoints listen
/// on the port to which the client connected.
fn port_of(group: &EndpointGroup<'_>, port: &PortSpec) -> Option<Option<NonZeroU16>> {
    let matches_port =
        |sliced: &&EndpointPort| sliced.protocol == port.protocol && sliced.name == port.name;
    let differing =
        |number: Option<NonZeroU16>| number.filter(|number| port.ports != Ports::Single(*number));
    let sliced = group.ports.iter().find(matches_port);
    match port.target {
        TargetPort::AsSliced => sliced.map(|sliced| differing(sliced.port)),
        TargetPort::AsAddressed => sliced.map(|_| None),
        TargetPort::AsAddressedInAllSlices => Some(None),
        TargetPort::Fixed(number) => Some(differing(Some(number))),
    }
}

fn real_server(
    endpoint: &Endpoint,
    port: Option<NonZeroU16>,
    spec: &ServiceSpec,
    group: &EndpointGroup<'_>,
    context: &ConversionContext<'_>,
) -> Option<RealServer> {
    let pod_annotations = context
        .pod_annotations
        .and_then(|annotations| annotations(endpoint.address));
    let pod_annotations = pod_annotations.unwrap_or_default();
    let state = match endpoint.readiness {
        EndpointReadiness::Ready => RealServerState::Ready,
        EndpointReadiness::NotReady if spec.publishes_not_ready => RealServerState::Ready,
        EndpointReadiness::NotReady => RealServerState::Draining,
    };
    let requested_state = pod_annotations
        .state
        .or(group.annotations.state)
        .unwrap_or_default();
    Some(RealServer {
        address: endpoint.address,
        port,
        weight: pod_annotations
            .weight
            .or(group.annotations.weight)
            .unwrap_or_default(),
        state: match requested_state {
            RealServerState::Ready => state,
            RealServerState::Draining => RealServerState::Draining,
        },
        history: RealServerHistory::default(),
    })
}

/// Removes the real servers that validation would reject, so that one unusable endpoint does not
/// make the whole virtual server invalid.
fn leave_out(server: &mut VirtualServer, context: &ConversionContext<'_>, left_out: &mut LeftOut) {
    let mut servers = std::mem::take(&mut server.real_servers);
    let claimed = claimed(&servers, context.claims);
    let ranges = context.service_ranges;
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
                    let (reason, text) = left_out_reason(server, candidate, invalid);
                    left_out.add(reason, address, candidate, || text);
                }
                false
            }
        }
    });
    server.real_servers = servers;
    leave_out_excess(server, left_out);
}

/// Removes the real servers that exceed the limit of the scheduler, draining real servers first.
/// The data plane continues to drain removed real servers while its table has room.
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

fn left_out_reason(
    server: &VirtualServer,
    candidate: &RealServer,
    invalid: &Invalid,
) -> (LeftOutReason, String) {
    let of_port = Field::RealServer(candidate.into(), RealServerField::Port);
    if let (Some(port), Ports::Single(service_port)) = (candidate.port, server.id.ports)
        && invalid.field == of_port.into()
    {
        let text = format!(
            "listens on {port}, and {} cannot change the port {service_port}; let the endpoint \
             listen on {service_port}, or write the annotation portlb.io/forwarding-method: \
             Masquerade",
            server.forwarding_method
        );
        return (LeftOutReason::PortDiffers, text);
    }
    let is_of_other_family =
        AddressFamily::of(candidate.address) != AddressFamily::of(server.id.address);
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

/// Returns the addresses of real servers that are service addresses.
fn claimed(servers: &[RealServer], claims: &AddressClaims) -> BTreeSet<IpAddr> {
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

/// Returns the single ports of a Service, which its status lists. Ranges of ports are left out.
pub(super) fn single_ports(spec: &ServiceSpec) -> Vec<(Protocol, u16)> {
    let single = |port: &PortSpec| match port.ports {
        Ports::Single(number) => Some((port.protocol, number.get())),
        Ports::Range(..) | Ports::All => None,
    };
    spec.ports.iter().filter_map(single).collect()
}
