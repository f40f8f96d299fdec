//! Endpoints to real servers.

use std::{cmp::Ordering, collections::BTreeSet, net::IpAddr, num::NonZeroU16};

use virtual_server::{Ports, Protocol, RealServer, RealServerState, ServiceRange, VirtualServer};

use super::{
    addresses::Claims,
    annotations::RealServerWishes,
    finding::{Finding, Reason},
    intent::{self, Intent, IntentPort, Target},
    model::{Endpoint, EndpointPort, Family, Readiness},
};

/// Some endpoints of a Service that have the same ports.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group<'a> {
    /// Their ports.
    pub(super) ports: &'a [EndpointPort],
    /// They, by address.
    pub(super) endpoints: &'a [Endpoint],
    /// What is said of all of them.
    pub(super) wishes: RealServerWishes,
}

/// What conversion must know beside the Service and its endpoints.
pub(super) struct Surroundings<'a> {
    /// Prefixes that are local to load balancers.
    pub(super) service_ranges: &'a BTreeSet<ServiceRange>,
    /// Addresses that are local to load balancers.
    pub(super) claims: &'a Claims,
    /// What the pod with an address says of itself; `None` where no pod does.
    pub(super) pod_wishes: Option<&'a dyn Fn(IpAddr) -> Option<RealServerWishes>>,
}

/// Endpoints that cannot be real servers.
#[derive(Debug, Default)]
pub(super) struct LeftOut {
    addresses: BTreeSet<IpAddr>,
    example: Option<String>,
    /// The highest weight, where weights are rounded.
    weight_levels: Option<u16>,
    /// Some of them are service addresses, which may change without the endpoints.
    pub(super) some_are_claimed: bool,
}

impl LeftOut {
    fn add(&mut self, server: &RealServer, why: impl FnOnce() -> String) {
        if self.example.is_none() {
            self.example = Some(format!("{server} {}", why()));
        }
        self.addresses.insert(server.address);
    }

    /// Returns the finding about weights that are rounded. It depends on the number of
    /// endpoints only by the level, so that few changes of them make a new finding.
    pub(super) fn rounded_weights(&self) -> Option<Finding> {
        let levels = self.weight_levels?;
        let message = format!(
            "weights are rounded to {levels} levels: the schedulers mh and sh cannot keep more \
             apart for so many pods without moving flows of all of them; use weights with \
             small whole-number ratios, such as 1, 2 and 4, or the annotation portlb.io/scheduler: wrr"
        );
        Some(Finding::new(Reason::WeightsRounded, message))
    }

    /// What the owner of the Service should know.
    pub(super) fn finding(&self) -> Option<Finding> {
        let example = self.example.as_ref()?;
        let message = match self.addresses.len() {
            1 => format!("an endpoint is left out: {example}"),
            several => format!("{several} endpoints are left out, such as {example}"),
        };
        Some(Finding::new(Reason::EndpointsLeftOut, message))
    }
}

/// The virtual servers of a Service that has the addresses.
pub(super) fn virtual_servers(
    intent: &Intent,
    addresses: &[IpAddr],
    groups: &[Group<'_>],
    surroundings: &Surroundings<'_>,
    left_out: &mut LeftOut,
) -> Vec<VirtualServer> {
    let mut servers = Vec::with_capacity(addresses.len() * intent.ports.len());
    for port in &intent.ports {
        for address in addresses {
            let mut server = intent::virtual_server(intent, *address, port);
            let family = family_behind(*address, intent, groups);
            server.real_servers = real_servers(intent, port, family, groups, surroundings);
            leave_out(&mut server, surroundings, left_out);
            let levels = server.round_weights();
            left_out.weight_levels = left_out.weight_levels.or(levels);
            debug_assert_eq!(server.validate(), Ok(()));
            servers.push(server);
        }
    }
    servers
}

/// The family of the endpoints that a service address has: its own, if the Service has any.
fn family_behind(address: IpAddr, intent: &Intent, groups: &[Group<'_>]) -> Family {
    let own = Family::of(address);
    let other = match own {
        Family::V4 => Family::V6,
        Family::V6 => Family::V4,
    };
    let has = |family: Family| {
        if intent.families.is_empty() {
            // Endpoints are in order, and IPv4 comes first.
            groups.iter().any(|group| {
                let at_that_end = match family {
                    Family::V4 => group.endpoints.first(),
                    Family::V6 => group.endpoints.last(),
                };
                at_that_end.is_some_and(|endpoint| Family::of(endpoint.address) == family)
            })
        } else {
            intent.families.contains(&family)
        }
    };
    if !has(own) && has(other) { other } else { own }
}

/// Sorted, each once.
fn real_servers(
    intent: &Intent,
    port: &IntentPort,
    family: Family,
    groups: &[Group<'_>],
    surroundings: &Surroundings<'_>,
) -> Vec<RealServer> {
    let most = groups.iter().map(|group| group.endpoints.len()).sum();
    let mut servers: Vec<RealServer> = Vec::with_capacity(most);
    for group in groups {
        let Some(listens) = port_of(group, port) else {
            continue;
        };
        servers.extend(group.endpoints.iter().filter_map(|endpoint| {
            let is_wanted = Family::of(endpoint.address) == family;
            is_wanted.then(|| real_server(endpoint, listens, intent, group, surroundings))?
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
fn port_of(group: &Group<'_>, port: &IntentPort) -> Option<Option<NonZeroU16>> {
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
    intent: &Intent,
    group: &Group<'_>,
    surroundings: &Surroundings<'_>,
) -> Option<RealServer> {
    let of_pod = surroundings
        .pod_wishes
        .and_then(|wishes| wishes(endpoint.address));
    let of_pod = of_pod.unwrap_or_default();
    let state = match endpoint.readiness {
        Readiness::Ready => RealServerState::Ready,
        Readiness::NotReady if intent.publishes_not_ready => RealServerState::Ready,
        Readiness::NotReady => RealServerState::Draining,
    };
    let asked = of_pod.state.or(group.wishes.state).unwrap_or_default();
    Some(RealServer {
        address: endpoint.address,
        port,
        weight: of_pod.weight.or(group.wishes.weight).unwrap_or_default(),
        state: match asked {
            RealServerState::Ready => state,
            RealServerState::Draining => RealServerState::Draining,
        },
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
            left_out.some_are_claimed = true;
            left_out.add(candidate, || {
                "is a service address, so packets to it would not leave the load balancer"
                    .to_owned()
            });
            return false;
        }
        if let Some(range) = ranges.iter().find(|range| range.prefix.contains(&address)) {
            left_out.add(candidate, || {
                format!(
                    "lies within the service range {range}, so packets to it would not leave the \
                     load balancer"
                )
            });
            return false;
        }
        match server.validate_real_server(candidate) {
            Ok(()) => true,
            Err(invalid) => {
                left_out.add(candidate, || why(server, candidate, &invalid));
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
        left_out.add(&candidate, || {
            format!(
                "exceeds the {most} real servers that {} can have; select fewer pods, or write \
                 the annotation portlb.io/scheduler with another scheduler",
                server.scheduler.name()
            )
        });
    }
    server.sort_real_servers();
}

fn why(
    server: &VirtualServer,
    candidate: &RealServer,
    invalid: &virtual_server::Invalid,
) -> String {
    match (candidate.port, server.id.ports) {
        (Some(port), Ports::Single(wanted)) if invalid.field == "port" => format!(
            "listens on {port}, and {} cannot change the port {wanted}; let it listen on \
             {wanted}, or write the annotation portlb.io/forwarding-method: Masquerade",
            server.forwarding_method
        ),
        _ => format!("{}; {}", invalid.problem, invalid.cure),
    }
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
pub(super) fn single_ports(intent: &Intent) -> Vec<(Protocol, u16)> {
    let single = |port: &IntentPort| match port.ports {
        Ports::Single(number) => Some((port.protocol, number.get())),
        Ports::Range(..) | Ports::All => None,
    };
    intent.ports.iter().filter_map(single).collect()
}
