//! Conversion of netlink messages about routes, rules and interfaces: requests to the kernel, and
//! answers and notifications of the kernel.

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
    uplink::{FALLBACK_METRIC, Fallback, GuardRule, IpVersion, TABLE},
};

use super::RouteSnapshot;

/// Number of the table `local`: `RT_TABLE_LOCAL` (linux/rtnetlink.h).
const TABLE_LOCAL: u32 = 255;

/// Reports whether a notification is possibly about a route or an interface on which this daemon
/// depends.
pub fn is_relevant(payload: &NetlinkPayload<RouteNetlinkMessage>, policy: &Policy) -> bool {
    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "the kernel sends other messages as well, and the enum is not exhaustive"
    )]
    match payload {
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route),
        ) => {
            route.header.protocol == RouteProtocol::from(PROTOCOL)
                // The interface of a default route is an uplink, so every default route is
                // relevant.
                || route.header.destination_prefix_length == 0
                || prefix_of(route).is_some_and(|prefix| {
                    policy.is_in_allowed_prefix(&prefix) || policy.overlaps_gateways(&prefix)
                })
        }
        // Messages about interfaces, addresses and rules. When the kernel removes an interface or
        // an address, the kernel can remove routes without a notification. A changed interface can
        // also lead to a pod.
        NetlinkPayload::InnerMessage(_) => true,
        // The kernel dropped notifications, so any state can have changed.
        NetlinkPayload::Overrun(_) => true,
        _ => false,
    }
}

/// Returns the netlink message for a fallback route of the uplink guard.
pub(super) fn fallback_message(prefix: IpNet, fallback: Fallback) -> RouteMessage {
    let mut message = route_message(TABLE, prefix, FALLBACK_METRIC, &NextHops::new());
    message.header.kind = match fallback {
        Fallback::Blackhole => RouteType::BlackHole,
        Fallback::Throw => RouteType::Throw,
    };
    message
}

/// Returns the netlink message for a rule of the uplink guard.
pub fn rule_message(rule: &GuardRule) -> RuleMessage {
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

/// Returns the rule of the uplink guard in a netlink message. Returns `None` for a rule that
/// does not belong to the guard.
pub fn parse_own_rule(message: &RuleMessage) -> Option<GuardRule> {
    let rule_parts = RoutingRule::from_message(message);
    let is_of_guard = rule_parts.protocol == PROTOCOL
        && rule_parts.table == TABLE
        && rule_parts.preference == TABLE;
    let rule = GuardRule {
        uplink: rule_parts.incoming_interface?,
        prefix: rule_parts.destination?,
    };
    is_of_guard.then_some(rule)
}

/// Returns the netlink message for a route of this daemon.
pub(super) fn route_message(
    table: u32,
    prefix: IpNet,
    metric: u32,
    next_hops: &NextHops,
) -> RouteMessage {
    let builder = RouteMessageBuilder::<IpAddr>::new()
        .table_id(table)
        .destination_prefix(prefix.addr(), prefix.prefix_len())
        .expect("the prefix length of an IpNet is valid for its IP version")
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
                .expect("the builder has the IP version of the gateway")
                .build()
        })
        .collect::<Vec<_>>();
    if hops.is_empty() {
        builder.build()
    } else {
        builder.multipath(hops).build()
    }
}

/// Returns the destination of a route. Returns `None` if the route has no destination attribute
/// (the kernel sends none for a default route), if the address is not an IP address, or if the
/// prefix length is invalid.
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
        reason = "the enum is not exhaustive; a gateway always has an IP address"
    )]
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

/// The relevant attributes of a route or of a next hop.
#[derive(Default)]
struct RouteDetails {
    table: Option<u32>,
    metric: u32,
    gateway: Option<IpAddr>,
    interface: Option<u32>,
    has_other_next_hop: bool,
    next_hops: Option<Vec<RouteNextHop>>,
}

fn route_details(attributes: &[RouteAttribute]) -> RouteDetails {
    let mut details = RouteDetails::default();
    for attribute in attributes {
        #[allow(
            clippy::wildcard_enum_match_arm,
            reason = "the kernel sends other attributes as well"
        )]
        match attribute {
            RouteAttribute::Table(table) => details.table = Some(*table),
            RouteAttribute::Priority(metric) => details.metric = *metric,
            RouteAttribute::Gateway(gateway) => details.gateway = ip(gateway),
            RouteAttribute::Oif(interface) => details.interface = Some(*interface),
            RouteAttribute::MultiPath(hops) => details.next_hops = Some(hops.clone()),
            RouteAttribute::Via(_) | RouteAttribute::Encap(_) | RouteAttribute::NhId(_) => {
                details.has_other_next_hop = true;
            }
            _ => {}
        }
    }
    details
}

/// Index of the loopback interface in every network namespace (`LOOPBACK_IFINDEX`, net/flow.h).
const LOOPBACK: u32 = 1;

pub(super) const TABLE_MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;

/// Routes of other programs that are relevant for this daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForeignRoutes {
    /// Routes to prefixes that pods may claim.
    pub foreign: Vec<ForeignRoute>,
    /// Interfaces of default routes and of routes to pods.
    pub interfaces: RouteInterfaces,
    /// Interfaces of all recorded routes. The kernel removes the routes of a removed interface
    /// without a notification, so a change of one of these interfaces makes the recorded routes
    /// stale.
    pub links: BTreeSet<u32>,
}

/// Interface indexes of routes in the main table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteInterfaces {
    pub(super) of_default_routes: BTreeSet<(IpVersion, u32)>,
    /// Destination and interface of each direct route, which is a route that needs no router, if
    /// the destination overlaps the allowed gateways.
    direct: BTreeSet<(IpNet, u32)>,
}

impl RouteInterfaces {
    /// Returns the interfaces by which this node reaches pods without a router. For each range of
    /// allowed gateways, these are the interfaces of the direct routes within the range. If a range
    /// contains no direct route, these are the interfaces of the direct routes to the longest
    /// prefix that contains the range.
    pub fn pod_interfaces(&self, policy: &Policy) -> BTreeSet<u32> {
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

/// Adds a route of this daemon to the snapshot: a route in [`TABLE`] to the guard, a route in the
/// main table to the routes. Ignores routes of other programs, and routes with a type of service
/// (TOS), which this daemon does not write.
pub fn add_own_route(route: &RouteMessage, snapshot: &mut RouteSnapshot) {
    if !is_own(route) || route.header.tos != 0 {
        return;
    }
    let (Some(prefix), details) = (prefix_of(route), route_details(&route.attributes)) else {
        return;
    };
    let own_route = |details: RouteDetails| OwnRoute {
        prefix,
        metric: details.metric,
        next_hops: working_next_hops(route, details),
    };
    let table = table_of(route, &details);
    if table == TABLE {
        let fallback = fallback_of(route).filter(|_| details.metric == FALLBACK_METRIC);
        match fallback {
            Some(fallback) => {
                snapshot.guard.fallbacks.insert(prefix, fallback);
            }
            None => snapshot.guard.own.push(own_route(details)),
        }
    } else if table == TABLE_MAIN {
        snapshot.routes.own.push(own_route(details));
    }
}

/// Adds a route of another program if the route is relevant for this daemon. Ignores routes of this
/// daemon.
pub fn add_foreign_route(
    route: &RouteMessage,
    policy: &Policy,
    foreign_routes: &mut ForeignRoutes,
) {
    // A route with a type of service (TOS) applies only to packets with this TOS. This daemon
    // writes only routes without a TOS, and a route with a TOS does not conflict with them.
    if is_own(route) || route.header.tos != 0 {
        return;
    }
    let details = route_details(&route.attributes);
    let table = table_of(route, &details);
    let is_main = table == TABLE_MAIN;
    let interfaces_of_routes = &mut foreign_routes.interfaces;
    let mut is_relevant = false;
    if is_main && route.header.kind == RouteType::Unicast {
        let direct = direct_route(route, &details, policy);
        is_relevant |= direct.is_some();
        interfaces_of_routes.direct.extend(direct);
        // An IPv6 route `unreachable default` has the loopback interface. The guard needs no rule
        // for this interface, because packets from the loopback interface are packets of the node
        // itself.
        if route.header.destination_prefix_length == 0 {
            let version = version_of(route);
            let of_route = interfaces(&details).map(|interface| (version, interface));
            interfaces_of_routes.of_default_routes.extend(of_route);
            is_relevant = true;
        }
    }
    if (is_main || table == TABLE_LOCAL)
        && let Some(prefix) = prefix_of(route).filter(|prefix| policy.is_in_allowed_prefix(prefix))
    {
        foreign_routes
            .foreign
            .push(foreign_route(prefix, route, &details));
        is_relevant = true;
    }
    if is_relevant {
        foreign_routes.links.extend(interfaces(&details));
    }
}

fn foreign_route(prefix: IpNet, route: &RouteMessage, details: &RouteDetails) -> ForeignRoute {
    ForeignRoute {
        prefix,
        metric: details.metric,
        is_local: table_of(route, details) == TABLE_LOCAL,
        protocol: route.header.protocol.to_string(),
    }
}

fn is_own(route: &RouteMessage) -> bool {
    route.header.protocol == RouteProtocol::from(PROTOCOL)
}

fn table_of(route: &RouteMessage, details: &RouteDetails) -> u32 {
    details.table.unwrap_or(u32::from(route.header.table))
}

/// Returns the request for all routes of one IP version and one protocol. With the protocol
/// `Unspec` the kernel sends the routes of all protocols. The kernel's strict check requires that
/// all other fields are 0.
pub(super) fn dump_request(version: IpVersion, protocol: RouteProtocol) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(version);
    message.header.protocol = protocol;
    RouteNetlinkMessage::GetRoute(message)
}

/// Returns the request for the route to an address.
pub(super) fn lookup_request(address: IpAddr, flags: RouteFlags) -> RouteMessage {
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

/// Result of asking the kernel for the route to the first address of a prefix.
#[derive(Debug, PartialEq, Eq)]
pub enum Winner {
    /// The kernel uses this foreign route to the prefix.
    Foreign(ForeignRoute),
    /// No foreign route to the prefix wins over a route of this daemon.
    NoForeign,
    /// For the first address of the prefix the kernel uses another table or a route to a longer
    /// prefix, so the answer says nothing about routes to the prefix.
    Unknown,
}

/// Evaluates the kernel's route to the first address of `prefix`.
pub fn winner(prefix: IpNet, route: &RouteMessage) -> Winner {
    let details = route_details(&route.attributes);
    let table = table_of(route, &details);
    let length = route.header.destination_prefix_length;
    let is_main = table == TABLE_MAIN;
    if length == prefix.prefix_len() && (is_main || table == TABLE_LOCAL) {
        if is_own(route) {
            Winner::NoForeign
        } else {
            Winner::Foreign(foreign_route(prefix, route, &details))
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
        reason = "the kernel has other route types as well"
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

/// Returns the name of an interface, or `None` if the message has no name.
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

/// Returns the index of the interface of a route, and of the interface of each of its next hops.
/// Omits the loopback interface.
fn interfaces(details: &RouteDetails) -> impl Iterator<Item = u32> {
    let hops = details.next_hops.iter().flatten();
    let of_hops = hops.map(|hop| hop.interface_index);
    let all = details.interface.into_iter().chain(of_hops);
    all.filter(|interface| *interface != LOOPBACK)
}

/// Returns destination and interface of a route if the route needs no router and its destination
/// overlaps the allowed gateways, otherwise `None`. The destination of a default route is the
/// prefix of length 0.
fn direct_route(
    route: &RouteMessage,
    details: &RouteDetails,
    policy: &Policy,
) -> Option<(IpNet, u32)> {
    if details.gateway.is_some() || details.has_other_next_hop {
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
    let interface = details
        .interface
        .filter(|interface| *interface != LOOPBACK)?;
    policy
        .overlaps_gateways(&prefix)
        .then_some((prefix, interface))
}

/// Returns the next hops of a route of this daemon, without next hops whose interface is down.
/// Returns `None` if this daemon writes no route of this form, such as a blackhole.
fn working_next_hops(route: &RouteMessage, details: RouteDetails) -> Option<NextHops> {
    if route.header.kind != RouteType::Unicast || details.has_other_next_hop {
        return None;
    }
    let Some(hops) = details.next_hops else {
        return Some(NextHops::from([NextHop {
            gateway: details.gateway?,
            interface: details.interface?,
        }]));
    };
    let mut next_hops = NextHops::new();
    for hop in hops {
        let of_hop = self::route_details(&hop.attributes);
        if hop.hops != 0 || of_hop.has_other_next_hop {
            return None;
        }
        let gateway = of_hop.gateway?;
        // The kernel keeps a next hop whose interface is down, but does not use it.
        if !hop.flags.contains(RouteNextHopFlags::Dead) {
            next_hops.insert(NextHop {
                gateway,
                interface: hop.interface_index,
            });
        }
    }
    Some(next_hops)
}

/// Returns the interface by which a route leads to its destination without a router. If there is no
/// such interface, returns the reason.
pub fn direct_interface(route: &RouteMessage) -> Result<u32, NotOnLink> {
    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "the kernel has other route types as well"
    )]
    match route.header.kind {
        RouteType::Unicast => {}
        RouteType::Local => return Err(NotOnLink::Local),
        other => return Err(NotOnLink::OtherType(format!("{other:?}").to_lowercase())),
    }
    let details = route_details(&route.attributes);
    if let Some(router) = details.gateway {
        return Err(NotOnLink::BehindRouter(router));
    }
    if details.has_other_next_hop {
        return Err(NotOnLink::OtherType("tunnel".to_owned()));
    }
    details.interface.ok_or(NotOnLink::NoRoute)
}

#[cfg(test)]
mod tests;
