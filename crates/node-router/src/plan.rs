//! Pure: which routes the holds want, and what to change in the kernel to have them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use ipnet::IpNet;

/// Routing protocol number of this daemon's routes (`ip route show proto 112`): assigned neither
/// in `linux/rtnetlink.h` nor in iproute2's `rt_protos`.
pub const PROTOCOL: u8 = 112;

/// Metric of this daemon's routes, IPv4 and IPv6. A metric of their own lets them stand beside a
/// foreign route, which the kernel would otherwise replace; of two routes to one prefix it uses
/// the one with the lower metric.
pub const METRIC: u32 = 112;

/// A pod as next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NextHop {
    /// The pod's address.
    pub gateway: IpAddr,
    /// Index of the interface that leads to it.
    pub interface: u32,
}

/// The next hops of one route, each with the same share; never empty.
pub type NextHops = BTreeSet<NextHop>;

/// The routes that should be.
pub type Desired = BTreeMap<IpNet, NextHops>;

/// What the kernel holds, as far as it concerns this daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actual {
    /// Routes with [`PROTOCOL`].
    pub own: Vec<OwnRoute>,
    /// Routes with another protocol number that could win over ours, by prefix.
    pub foreign: Vec<ForeignRoute>,
}

/// A route with [`PROTOCOL`] in the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnRoute {
    /// Where to.
    pub prefix: IpNet,
    /// Its metric.
    pub metric: u32,
    /// Next hops that work; `None` if the route has a form that this daemon does not make.
    pub next_hops: Option<NextHops>,
}

/// A route of somebody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignRoute {
    /// Where to.
    pub prefix: IpNet,
    /// Its metric.
    pub metric: u32,
    /// Whether it stands in the table `local`, which the kernel consults before all others.
    pub is_local: bool,
    /// The name of its routing protocol.
    pub protocol: String,
}

impl ForeignRoute {
    /// Whether it wins over a route of ours, or stands in its place.
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

/// One request to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A route where none of ours is; fails where a route of the same metric is.
    Add {
        /// Where to.
        prefix: IpNet,
        /// Over these.
        next_hops: NextHops,
    },
    /// Other next hops for a route of ours, in one step.
    Replace {
        /// Where to.
        prefix: IpNet,
        /// Over these.
        next_hops: NextHops,
    },
    /// Takes a route of ours away.
    Remove {
        /// Where to.
        prefix: IpNet,
        /// The metric of the one that is meant.
        metric: u32,
    },
}

impl Change {
    /// The prefix whose route changes.
    pub fn prefix(&self) -> IpNet {
        match self {
            Self::Add { prefix, .. }
            | Self::Replace { prefix, .. }
            | Self::Remove { prefix, .. } => *prefix,
        }
    }

    /// One word for it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Add { .. } => "add",
            Self::Replace { .. } => "replace",
            Self::Remove { .. } => "remove",
        }
    }
}

impl fmt::Display for Change {
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

/// The way from actual to desired.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In the order in which they are to be made.
    pub changes: Vec<Change>,
    /// Desired prefixes that a foreign route keeps ours from.
    pub conflicts: BTreeMap<IpNet, ForeignRoute>,
}

/// The changes that make the kernel's routes equal to the desired ones, foreign routes untouched.
///
/// A prefix in conflict keeps what it has: the kernel would replace the foreign route or ignore
/// ours.
pub fn plan(desired: &Desired, actual: &Actual) -> Plan {
    plan_routes(desired, &actual.own, &actual.foreign)
}

/// The changes that make own routes equal to the desired ones in a table without foreign routes.
pub fn changes(desired: &Desired, own: &[OwnRoute]) -> Vec<Change> {
    plan_routes(desired, own, &[]).changes
}

fn plan_routes(desired: &Desired, actual: &[OwnRoute], foreign: &[ForeignRoute]) -> Plan {
    let mut own: BTreeMap<IpNet, Vec<&OwnRoute>> = BTreeMap::new();
    for route in actual {
        own.entry(route.prefix).or_default().push(route);
    }
    let mut removals = Vec::new();
    let mut installations = Vec::new();
    let mut conflicts = BTreeMap::new();
    for (&prefix, routes) in &own {
        let keep = desired.contains_key(&prefix) && is_one_of_ours(routes);
        if !keep {
            removals.extend(routes.iter().map(|route| Change::Remove {
                prefix,
                metric: route.metric,
            }));
        }
    }
    for (&prefix, next_hops) in desired {
        let routes = own.get(&prefix).map(Vec::as_slice).unwrap_or_default();
        if let Some(foreign) = conflict(prefix, foreign) {
            conflicts.insert(prefix, foreign.clone());
        } else if !is_one_of_ours(routes) {
            installations.push(Change::Add {
                prefix,
                next_hops: next_hops.clone(),
            });
        } else if routes[0].next_hops.as_ref() != Some(next_hops) {
            installations.push(Change::Replace {
                prefix,
                next_hops: next_hops.clone(),
            });
        }
    }
    removals.extend(installations);
    Plan {
        changes: removals,
        conflicts,
    }
}

/// Whether the kernel uses exactly these next hops for the prefix.
pub fn is_installed(prefix: IpNet, next_hops: &NextHops, actual: &Actual) -> bool {
    let mut own = actual.own.iter().filter(|route| route.prefix == prefix);
    own.next()
        .is_some_and(|route| route.metric == METRIC && route.next_hops.as_ref() == Some(next_hops))
        && own.next().is_none()
        && conflict(prefix, &actual.foreign).is_none()
}

/// A single route with our metric: one that a replacement replaces.
fn is_one_of_ours(routes: &[&OwnRoute]) -> bool {
    matches!(routes, [route] if route.metric == METRIC)
}

fn conflict(prefix: IpNet, foreign: &[ForeignRoute]) -> Option<&ForeignRoute> {
    foreign
        .iter()
        .find(|route| route.prefix == prefix && route.wins())
}

#[cfg(test)]
mod tests;
