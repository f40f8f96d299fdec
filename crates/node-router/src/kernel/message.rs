//! Pure: the kernel's messages about routes and rules to our words and back.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage},
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHop,
        RouteNextHopFlags, RouteProtocol, RouteType,
    },
    rule::RuleMessage,
};
use routing_rule::RoutingRule;
use rtnetlink::{RouteMessageBuilder, RouteNextHopBuilder};

use crate::{
    NotOnLink, Policy,
    plan::{ForeignRoute, NextHop, NextHops, OwnRoute, PROTOCOL},
    uplink::{FALLBACK_METRIC, Fallback, IpVersion, Rule, TABLE},
};

use super::Snapshot;

/// `RT_TABLE_LOCAL` (linux/rtnetlink.h).
const TABLE_LOCAL: u32 = 255;

/// Whether a notification may concern a route in the policy's prefixes.
pub fn concerns_us(payload: &NetlinkPayload<RouteNetlinkMessage>, policy: &Policy) -> bool {
    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "the kernel's messages are an open set, and the enum is not exhaustive"
    )]
    match payload {
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route),
        ) => {
            route.header.protocol == RouteProtocol::from(PROTOCOL)
                // Its interface is an uplink.
                || route.header.destination_prefix_length == 0
                || prefix_of(route).is_some_and(|prefix| {
                    policy.concerns(&prefix) || policy.overlaps_gateways(&prefix)
                })
        }
        // A link that goes takes routes along without a word about them, and pods sit on links.
        NetlinkPayload::InnerMessage(_) => true,
        // Notifications were lost, so anything may have happened.
        NetlinkPayload::Overrun(_) => true,
        _ => false,
    }
}

/// The message for a fallback of the uplink guard.
pub(super) fn fallback(prefix: IpNet, fallback: Fallback) -> RouteMessage {
    let mut message = route(TABLE, prefix, FALLBACK_METRIC, &NextHops::new());
    message.header.kind = match fallback {
        Fallback::Blackhole => RouteType::BlackHole,
        Fallback::Throw => RouteType::Throw,
    };
    message
}

/// The message for a rule of the uplink guard.
pub fn rule(rule: &Rule) -> RuleMessage {
    RoutingRule {
        family: family(IpVersion::of(&rule.prefix)),
        preference: TABLE,
        incoming_interface: Some(rule.uplink.clone()),
        destination: Some(rule.prefix),
        table: TABLE,
        protocol: PROTOCOL,
    }
    .to_message()
}

/// The rule of the uplink guard in a message; `None` for every other rule.
pub fn own_rule(message: &RuleMessage) -> Option<Rule> {
    let found = RoutingRule::from_message(message);
    let is_of_guard =
        found.protocol == PROTOCOL && found.table == TABLE && found.preference == TABLE;
    let rule = Rule {
        uplink: found.incoming_interface?,
        prefix: found.destination?,
    };
    is_of_guard.then_some(rule)
}

/// The message for a route of ours.
pub(super) fn route(table: u32, prefix: IpNet, metric: u32, next_hops: &NextHops) -> RouteMessage {
    let builder = RouteMessageBuilder::<IpAddr>::new()
        .table_id(table)
        .destination_prefix(prefix.addr(), prefix.prefix_len())
        .expect("an IpNet's length fits its family")
        .protocol(RouteProtocol::from(PROTOCOL))
        .priority(metric);
    let hops = next_hops
        .iter()
        .map(|hop| {
            let builder = match hop.gateway {
                IpAddr::V4(_) => RouteNextHopBuilder::new_ipv4(),
                IpAddr::V6(_) => RouteNextHopBuilder::new_ipv6(),
            };
            builder
                .interface(hop.interface)
                .via(hop.gateway)
                .expect("a next hop of the family of its builder")
                .build()
        })
        .collect::<Vec<_>>();
    if hops.is_empty() {
        builder.build()
    } else {
        builder.multipath(hops).build()
    }
}

/// Where a route leads; `None` for a family that is not IP.
fn prefix_of(route: &RouteMessage) -> Option<IpNet> {
    let destination = route.attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Destination(address) = attribute {
            ip(address)
        } else {
            None
        }
    })?;
    IpNet::new(destination, route.header.destination_prefix_length).ok()
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "the enum is not exhaustive; addresses of other families are no gateways of ours"
    )]
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

/// The attributes of a route or a next hop that matter here.
#[derive(Default)]
struct Parts {
    table: Option<u32>,
    metric: u32,
    gateway: Option<IpAddr>,
    interface: Option<u32>,
    has_other_next_hop: bool,
    next_hops: Option<Vec<RouteNextHop>>,
}

fn parts(attributes: &[RouteAttribute]) -> Parts {
    let mut parts = Parts::default();
    for attribute in attributes {
        #[allow(
            clippy::wildcard_enum_match_arm,
            reason = "the kernel's attributes are an open set"
        )]
        match attribute {
            RouteAttribute::Table(table) => parts.table = Some(*table),
            RouteAttribute::Priority(metric) => parts.metric = *metric,
            RouteAttribute::Gateway(gateway) => parts.gateway = ip(gateway),
            RouteAttribute::Oif(interface) => parts.interface = Some(*interface),
            RouteAttribute::MultiPath(hops) => parts.next_hops = Some(hops.clone()),
            RouteAttribute::Via(_) | RouteAttribute::Encap(_) | RouteAttribute::NhId(_) => {
                parts.has_other_next_hop = true;
            }
            _ => {}
        }
    }
    parts
}

/// Index of the loopback interface in each network namespace (`LOOPBACK_IFINDEX`, net/flow.h).
const LOOPBACK: u32 = 1;

/// The table `main`.
pub(super) const TABLE_MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;

/// Routes of other programs that concern this daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Routes to prefixes that pods may claim.
    pub foreign: Vec<ForeignRoute>,
    /// Interfaces of uplinks and pods.
    pub interfaces: Interfaces,
    /// Interfaces of any of these routes; a link that goes takes its routes along without a word.
    pub links: BTreeSet<u32>,
}

/// Interfaces of routes of the main table, by their index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interfaces {
    /// Interfaces of the default routes.
    pub(super) of_defaults: BTreeSet<(IpVersion, u32)>,
    /// Destination and interface of each route that leads without another router to addresses
    /// among which allowed gateways are.
    direct: BTreeSet<(IpNet, u32)>,
}

impl Interfaces {
    /// Returns the interfaces by which this node reaches addresses of pods without another router:
    /// those of the direct routes within a range of the allowed gateways or, for a range without
    /// such a route, those of the longest direct route that covers the range.
    pub fn of_pods(&self, policy: &Policy) -> BTreeSet<u32> {
        let mut interfaces = BTreeSet::new();
        for range in &policy.allowed_gateways {
            let within = |(prefix, _): &&(IpNet, u32)| range.contains(prefix);
            let covering = self
                .direct
                .iter()
                .filter(|(prefix, _)| prefix.contains(range));
            let longest = covering
                .map(|(prefix, _)| *prefix)
                .max_by_key(IpNet::prefix_len);
            let has_route_within = self.direct.iter().any(|route| within(&route));
            let of_range = self.direct.iter().filter(|route| {
                if has_route_within {
                    within(route)
                } else {
                    Some(route.0) == longest
                }
            });
            interfaces.extend(of_range.map(|(_, interface)| *interface));
        }
        interfaces
    }
}

/// Puts a route of this daemon where it belongs.
pub fn sort_in_own(route: &RouteMessage, snapshot: &mut Snapshot) {
    if !is_own(route) || route.header.tos != 0 {
        return;
    }
    let (Some(prefix), parts) = (prefix_of(route), parts(&route.attributes)) else {
        return;
    };
    let own_route = |parts: Parts| OwnRoute {
        prefix,
        metric: parts.metric,
        next_hops: working_next_hops(route, parts),
    };
    let table = table_of(route, &parts);
    if table == TABLE {
        let fallback = fallback_of(route).filter(|_| parts.metric == FALLBACK_METRIC);
        match fallback {
            Some(fallback) => {
                snapshot.guard.fallbacks.insert(prefix, fallback);
            }
            None => snapshot.guard.own.push(own_route(parts)),
        }
    } else if table == TABLE_MAIN {
        snapshot.routes.own.push(own_route(parts));
    }
}

/// Takes note of a route of another program, if it concerns this daemon.
pub fn sort_in_foreign(route: &RouteMessage, policy: &Policy, surroundings: &mut Surroundings) {
    // A route for one type of service is an alternative to ours, and none of ours.
    if is_own(route) || route.header.tos != 0 {
        return;
    }
    let parts = parts(&route.attributes);
    let table = table_of(route, &parts);
    let is_main = table == TABLE_MAIN;
    let known = &mut surroundings.interfaces;
    let mut is_of_concern = false;
    if is_main && route.header.kind == RouteType::Unicast {
        let direct = direct(route, &parts, policy);
        is_of_concern |= direct.is_some();
        known.direct.extend(direct);
        // An IPv6 `unreachable default` has the loopback as its interface. A rule for packets from
        // the loopback matches what the node itself sends.
        if route.header.destination_prefix_length == 0 {
            let version = version_of(route);
            let of_route = interfaces(&parts).map(|interface| (version, interface));
            known.of_defaults.extend(of_route);
            is_of_concern = true;
        }
    }
    if (is_main || table == TABLE_LOCAL)
        && let Some(prefix) = prefix_of(route).filter(|prefix| policy.concerns(prefix))
    {
        surroundings
            .foreign
            .push(foreign_route(prefix, route, &parts));
        is_of_concern = true;
    }
    if is_of_concern {
        surroundings.links.extend(interfaces(&parts));
    }
}

fn foreign_route(prefix: IpNet, route: &RouteMessage, parts: &Parts) -> ForeignRoute {
    ForeignRoute {
        prefix,
        metric: parts.metric,
        is_local: table_of(route, parts) == TABLE_LOCAL,
        protocol: route.header.protocol.to_string(),
    }
}

fn is_own(route: &RouteMessage) -> bool {
    route.header.protocol == RouteProtocol::from(PROTOCOL)
}

fn table_of(route: &RouteMessage, parts: &Parts) -> u32 {
    parts.table.unwrap_or(u32::from(route.header.table))
}

/// The request for all routes of one protocol; `Unspec`: of every protocol. Other fields are 0, as
/// the kernel's strict check of requests wants it.
pub(super) fn dump_request(version: IpVersion, protocol: RouteProtocol) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(version);
    message.header.protocol = protocol;
    RouteNetlinkMessage::GetRoute(message)
}

/// The request for the route to an address.
pub(super) fn look_up(address: IpAddr, flags: RouteFlags) -> RouteMessage {
    let mut message = RouteMessage::default();
    let (family, length, destination) = match address {
        IpAddr::V4(address) => (AddressFamily::Inet, 32, RouteAddress::Inet(address)),
        IpAddr::V6(address) => (AddressFamily::Inet6, 128, RouteAddress::Inet6(address)),
    };
    message.header.address_family = family;
    message.header.destination_prefix_length = length;
    message.header.flags = flags;
    message.attributes = vec![RouteAttribute::Destination(destination)];
    message
}

/// What the kernel's choice for the first address of a prefix says about the prefix.
#[derive(Debug, PartialEq, Eq)]
pub enum Winner {
    /// This route to the prefix is the kernel's choice.
    Foreign(ForeignRoute),
    /// No foreign route to the prefix wins.
    NoForeign,
    /// Another table or a longer prefix decides for that address.
    Unknown,
}

/// Returns what the kernel's answer about the first address of `prefix` says about `prefix`.
pub fn winner(prefix: IpNet, route: &RouteMessage) -> Winner {
    let parts = parts(&route.attributes);
    let table = table_of(route, &parts);
    let length = route.header.destination_prefix_length;
    let is_main = table == TABLE_MAIN;
    if length == prefix.prefix_len() && (is_main || table == TABLE_LOCAL) {
        if is_own(route) {
            Winner::NoForeign
        } else {
            Winner::Foreign(foreign_route(prefix, route, &parts))
        }
    } else if length < prefix.prefix_len() && is_main {
        Winner::NoForeign
    } else {
        Winner::Unknown
    }
}

fn fallback_of(route: &RouteMessage) -> Option<Fallback> {
    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "the kernel's route types are an open set"
    )]
    match route.header.kind {
        RouteType::BlackHole => Some(Fallback::Blackhole),
        RouteType::Throw => Some(Fallback::Throw),
        _ => None,
    }
}

pub(super) fn family(version: IpVersion) -> AddressFamily {
    match version {
        IpVersion::V4 => AddressFamily::Inet,
        IpVersion::V6 => AddressFamily::Inet6,
    }
}

/// The name of an interface among its attributes.
pub(super) fn interface_name(link: &LinkMessage) -> Option<&String> {
    link.attributes.iter().find_map(|attribute| {
        if let LinkAttribute::IfName(name) = attribute {
            Some(name)
        } else {
            None
        }
    })
}

fn version_of(route: &RouteMessage) -> IpVersion {
    if route.header.address_family == AddressFamily::Inet6 {
        IpVersion::V6
    } else {
        IpVersion::V4
    }
}

/// Returns the interfaces that a route leads to, without the loopback.
fn interfaces(parts: &Parts) -> impl Iterator<Item = u32> {
    let hops = parts.next_hops.iter().flatten();
    let of_hops = hops.map(|hop| hop.interface_index);
    let all = parts.interface.into_iter().chain(of_hops);
    all.filter(|interface| *interface != LOOPBACK)
}

/// Returns destination and interface of a route that leads without another router to addresses
/// among which allowed gateways are; a default route has the length 0.
fn direct(route: &RouteMessage, parts: &Parts, policy: &Policy) -> Option<(IpNet, u32)> {
    if parts.gateway.is_some() || parts.has_other_next_hop {
        return None;
    }
    let prefix = if route.header.destination_prefix_length == 0 {
        match version_of(route) {
            IpVersion::V4 => IpNet::V4(Ipv4Net::default()),
            IpVersion::V6 => IpNet::V6(Ipv6Net::default()),
        }
    } else {
        prefix_of(route)?
    };
    let interface = parts.interface.filter(|interface| *interface != LOOPBACK)?;
    policy
        .overlaps_gateways(&prefix)
        .then_some((prefix, interface))
}

/// The next hops of one of our routes, or `None` for a form that this daemon does not make.
fn working_next_hops(route: &RouteMessage, parts: Parts) -> Option<NextHops> {
    if route.header.kind != RouteType::Unicast || parts.has_other_next_hop {
        return None;
    }
    let Some(hops) = parts.next_hops else {
        return Some(NextHops::from([NextHop {
            gateway: parts.gateway?,
            interface: parts.interface?,
        }]));
    };
    let mut next_hops = NextHops::new();
    for hop in hops {
        let of_hop = self::parts(&hop.attributes);
        if hop.hops != 0 || of_hop.has_other_next_hop {
            return None;
        }
        let gateway = of_hop.gateway?;
        // The interface is down; the kernel keeps the entry but does not use it.
        if !hop.flags.contains(RouteNextHopFlags::Dead) {
            next_hops.insert(NextHop {
                gateway,
                interface: hop.interface_index,
            });
        }
    }
    Some(next_hops)
}

/// The interface of a route that leads to its destination without another router.
pub fn directly_reached(route: &RouteMessage) -> Result<u32, NotOnLink> {
    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "the kernel's route types are an open set"
    )]
    match route.header.kind {
        RouteType::Unicast => {}
        RouteType::Local => return Err(NotOnLink::Local),
        other => return Err(NotOnLink::OtherType(format!("{other:?}").to_lowercase())),
    }
    let parts = parts(&route.attributes);
    if let Some(router) = parts.gateway {
        return Err(NotOnLink::BehindRouter(router));
    }
    if parts.has_other_next_hop {
        return Err(NotOnLink::OtherType("tunnel".to_owned()));
    }
    parts.interface.ok_or(NotOnLink::NoRoute)
}

#[cfg(test)]
mod tests;
