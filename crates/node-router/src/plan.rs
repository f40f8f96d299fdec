//! Plan of route changes: the difference between desired and actual routes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use ipnet::IpNet;

/// Routing protocol number of this daemon's routes (`ip route show proto 112`). Neither
/// `linux/rtnetlink.h` nor `rt_protos` of iproute2 assigns this number.
pub const PROTOCOL: u8 = 112;

/// Metric of this daemon's IPv4 and IPv6 routes. If a foreign route to the same prefix has another
/// metric, the kernel keeps both routes and uses the route with the lower metric.
pub const METRIC: u32 = 112;

/// A pod as the next hop of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NextHop {
    pub gateway: IpAddr,
    /// Index of the interface that leads to the gateway.
    pub interface: u32,
}

/// Next hops of one route. The kernel gives each next hop an equal share of the flows.
pub type NextHops = BTreeSet<NextHop>;

/// Desired routes: next hops by prefix. Each route has at least one next hop.
pub type Desired = BTreeMap<IpNet, NextHops>;

/// The kernel's routes that are relevant for this daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actual {
    pub own: Vec<OwnRoute>,
    /// Routes of other programs in the allowed prefixes. They can conflict with routes of this
    /// daemon.
    pub foreign: Vec<ForeignRoute>,
}

/// A route with the protocol [`PROTOCOL`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnRoute {
    pub prefix: IpNet,
    pub metric: u32,
    /// Next hops whose interface is up. `None`: this daemon writes no route of this form, such as a
    /// blackhole.
    pub next_hops: Option<NextHops>,
}

/// A route of another program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignRoute {
    pub prefix: IpNet,
    pub metric: u32,
    /// The route is in the table `local`, which the kernel consults before all other tables.
    pub is_local: bool,
    pub protocol: String,
}

impl ForeignRoute {
    /// Reports whether the kernel prefers this route to a route of this daemon to the same prefix,
    /// or refuses to add the daemon's route.
    pub fn wins(&self) -> bool {
        self.is_local || self.metric <= METRIC
    }
}

impl fmt::Display for ForeignRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let local = if self.is_local { "local " } else { "" };
        let Self {
            prefix,
            metric,
            protocol,
            ..
        } = self;
        write!(f, "{local}{prefix} proto {protocol} metric {metric}")
    }
}

/// A change of one route in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteChange {
    /// Adds a route. The kernel refuses the change if the prefix has a route with the same metric.
    Add { prefix: IpNet, next_hops: NextHops },
    /// Replaces the next hops of a route atomically.
    Replace { prefix: IpNet, next_hops: NextHops },
    Remove {
        prefix: IpNet,
        /// Metric of the removed route. Differs from [`METRIC`] if an earlier version wrote the
        /// route.
        metric: u32,
    },
}

impl RouteChange {
    /// Returns the prefix of the changed route.
    pub fn prefix(&self) -> IpNet {
        match self {
            Self::Add { prefix, .. }
            | Self::Replace { prefix, .. }
            | Self::Remove { prefix, .. } => *prefix,
        }
    }

    /// Returns the value of the label `change` in metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Add { .. } => "add",
            Self::Replace { .. } => "replace",
            Self::Remove { .. } => "remove",
        }
    }
}

impl fmt::Display for RouteChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} the route to {}", self.name(), self.prefix())?;
        match self {
            Self::Add { next_hops, .. } | Self::Replace { next_hops, .. } => {
                let gateways: Vec<String> = next_hops
                    .iter()
                    .map(|hop| hop.gateway.to_string())
                    .collect();
                write!(f, " via {}", gateways.join(", "))
            }
            Self::Remove { .. } => Ok(()),
        }
    }
}

/// The changes that turn the actual routes into the desired routes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoutePlan {
    /// Changes in the order in which they must be applied: removals first.
    pub changes: Vec<RouteChange>,
    /// Foreign routes that prevent a desired route, by prefix.
    pub conflicts: BTreeMap<IpNet, ForeignRoute>,
}

/// Returns the changes that make this daemon's routes equal to the desired routes. The plan never
/// changes a foreign route.
///
/// If a foreign route prevents a desired route, the plan neither adds nor replaces this daemon's
/// route to the prefix, because the kernel could replace the foreign route, or would not use the
/// daemon's route.
pub fn plan(desired: &Desired, actual: &Actual) -> RoutePlan {
    plan_routes(desired, &actual.own, &actual.foreign)
}

/// Returns the changes that make the daemon's routes in one table equal to the desired routes,
/// removals first. Ignores foreign routes.
pub fn changes(desired: &Desired, own: &[OwnRoute]) -> Vec<RouteChange> {
    plan_routes(desired, own, &[]).changes
}

fn plan_routes(desired: &Desired, actual: &[OwnRoute], foreign: &[ForeignRoute]) -> RoutePlan {
    let mut own: BTreeMap<IpNet, Vec<&OwnRoute>> = BTreeMap::new();
    for route in actual {
        own.entry(route.prefix).or_default().push(route);
    }
    let mut removals = Vec::new();
    let mut installations = Vec::new();
    let mut conflicts = BTreeMap::new();
    for (&prefix, routes) in &own {
        let is_kept = desired.contains_key(&prefix) && is_replaceable(routes);
        if !is_kept {
            removals.extend(routes.iter().map(|route| RouteChange::Remove {
                prefix,
                metric: route.metric,
            }));
        }
    }
    for (&prefix, next_hops) in desired {
        let routes = own.get(&prefix).map(Vec::as_slice).unwrap_or_default();
        if let Some(foreign) = conflict(prefix, foreign) {
            conflicts.insert(prefix, foreign.clone());
        } else if !is_replaceable(routes) {
            installations.push(RouteChange::Add {
                prefix,
                next_hops: next_hops.clone(),
            });
        } else if routes[0].next_hops.as_ref() != Some(next_hops) {
            installations.push(RouteChange::Replace {
                prefix,
                next_hops: next_hops.clone(),
            });
        }
    }
    removals.extend(installations);
    RoutePlan {
        changes: removals,
        conflicts,
    }
}

/// Reports whether the kernel uses exactly these next hops for the prefix.
pub fn is_installed(prefix: IpNet, next_hops: &NextHops, actual: &Actual) -> bool {
    let mut own = actual.own.iter().filter(|route| route.prefix == prefix);
    own.next()
        .is_some_and(|route| route.metric == METRIC && route.next_hops.as_ref() == Some(next_hops))
        && own.next().is_none()
        && conflict(prefix, &actual.foreign).is_none()
}

/// Reports whether the prefix has exactly one route and this route has [`METRIC`], so that the
/// kernel can replace it.
fn is_replaceable(routes: &[&OwnRoute]) -> bool {
    matches!(routes, [route] if route.metric == METRIC)
}

fn conflict(prefix: IpNet, foreign: &[ForeignRoute]) -> Option<&ForeignRoute> {
    foreign
        .iter()
        .find(|route| route.prefix == prefix && route.wins())
}

#[cfg(test)]
mod tests;
