//! The uplink guard of a node.
//!
//! Without the guard, a packet from the router for a service address without a held route would
//! follow the node's default route back to the router, and loop.
//!
//! ```text
//!  ip rule, preference 112, for each uplink and allowed prefix:
//!      iif UPLINK to PREFIX lookup 112
//!  ip route show table 112:
//!      SERVICE via POD          metric 112    a held route
//!      throw FOREIGN            metric 1120   a route of another program in the main table decides
//!      blackhole PREFIX         metric 1120   each allowed prefix
//! ```
//!
//! The main table contains the held routes as well. Packets of clients on the node and in its pods
//! match no rule of the guard. If no pod of the node holds the service address, these packets
//! follow the default route in the main table.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use ipnet::IpNet;

use crate::plan::{self, Desired, ForeignRoute, OwnRoute};

/// Number of the guard's routing table, which is also the preference of the guard's rules.
pub const TABLE: u32 = 112;

/// Metric of the guard's fallback routes. It is higher than [`METRIC`](crate::METRIC), so a held
/// route to the same prefix wins.
pub const FALLBACK_METRIC: u32 = 1120;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum IpVersion {
    V4,
    V6,
}

impl IpVersion {
    pub fn of(prefix: &IpNet) -> Self {
        match prefix {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }

    /// Returns the sysctl that enables forwarding of this IP version.
    pub fn forwarding_sysctl(self) -> &'static str {
        match self {
            Self::V4 => "net.ipv4.ip_forward",
            Self::V6 => "net.ipv6.conf.all.forwarding",
        }
    }
}

impl fmt::Display for IpVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Setting that selects the interfaces to which the uplink guard applies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Uplinks {
    /// For each IP version the interfaces of the default routes, except interfaces by which this
    /// node reaches its pods.
    OfDefaultRoutes,
    Named(BTreeSet<String>),
    None,
}

/// A routing rule of the guard: the kernel routes packets that arrive on `uplink` with a
/// destination in `prefix` by [`TABLE`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GuardRule {
    pub uplink: String,
    pub prefix: IpNet,
}

/// Treatment of packets to a prefix for which no pod holds a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    Blackhole,
    /// The kernel leaves [`TABLE`] and continues with the next rule, so that the main table
    /// decides.
    Throw,
}

/// The guard in the kernel, and the state of the node on which the desired guard depends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActualGuard {
    /// IP versions for which the kernel has routing rules.
    pub versions: BTreeSet<IpVersion>,
    /// Interfaces of the default routes in the main table.
    pub default_uplinks: BTreeSet<(IpVersion, String)>,
    /// Default uplinks by which this node also reaches its pods, so that packets of these pods
    /// arrive on these interfaces.
    pub pod_uplinks: BTreeSet<String>,
    /// Routes of this daemon in [`TABLE`], without fallback routes.
    pub own: Vec<OwnRoute>,
    /// Fallback routes of this daemon in [`TABLE`], by prefix.
    pub fallbacks: BTreeMap<IpNet, Fallback>,
    pub rules: BTreeSet<GuardRule>,
}

/// A change of one route or rule of the guard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuardChange {
    /// Changes a held route in [`TABLE`].
    Route(plan::RouteChange),
    /// Adds a fallback route. The kernel refuses the change if the prefix has a fallback route.
    AddFallback(IpNet, Fallback),
    RemoveFallback(IpNet, Fallback),
    AddRule(GuardRule),
    RemoveRule(GuardRule),
}

impl GuardChange {
    /// Returns the value of the label `change` in metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Route(change) => change.name(),
            Self::AddFallback(..) | Self::AddRule(_) => "add",
            Self::RemoveFallback(..) | Self::RemoveRule(_) => "remove",
        }
    }
}

impl fmt::Display for GuardChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name();
        match self {
            Self::Route(change) => write!(f, "{change} in table {TABLE}"),
            Self::AddFallback(prefix, fallback) | Self::RemoveFallback(prefix, fallback) => {
                let kind = match fallback {
                    Fallback::Blackhole => "blackhole",
                    Fallback::Throw => "throw",
                };
                write!(f, "{name} the route {kind} {prefix} in table {TABLE}")
            }
            Self::AddRule(GuardRule { uplink, prefix })
            | Self::RemoveRule(GuardRule { uplink, prefix }) => {
                write!(f, "{name} the rule iif {uplink} to {prefix} lookup {TABLE}")
            }
        }
    }
}

/// The guard that the kernel should have, derived from settings, held routes and foreign routes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DesiredGuard {
    /// Guarded uplinks by IP version. Has an entry for each IP version of the allowed prefixes.
    pub uplinks: BTreeMap<IpVersion, BTreeSet<String>>,
    /// Interfaces of default routes that have no guard, because this node also reaches its pods by
    /// these interfaces.
    pub left_out: BTreeMap<IpVersion, BTreeSet<String>>,
    routes: Desired,
    fallbacks: BTreeMap<IpNet, Fallback>,
    rules: BTreeSet<GuardRule>,
}

impl DesiredGuard {
    /// Derives the guard from the settings, the allowed prefixes, the held routes, and the foreign
    /// routes in the main table. An IP version without an uplink gets no guard.
    pub fn new(
        settings: &Uplinks,
        allowed: &[IpNet],
        routes: &Desired,
        foreign: &[ForeignRoute],
        guard: &ActualGuard,
    ) -> Self {
        let mut desired = Self::default();
        for &prefix in allowed {
            let version = IpVersion::of(&prefix);
            let uplinks = desired
                .uplinks
                .entry(version)
                .or_insert_with(|| guard.uplinks(settings, version));
            let left_out = guard.left_out(settings, version);
            if !left_out.is_empty() {
                desired.left_out.insert(version, left_out);
            }
            if uplinks.is_empty() {
                continue;
            }
            desired.fallbacks.insert(prefix, Fallback::Blackhole);
            desired.rules.extend(uplinks.iter().map(|uplink| GuardRule {
                uplink: uplink.clone(),
                prefix,
            }));
        }
        let is_guarded = |prefix: &IpNet| {
            let uplinks = desired.uplinks.get(&IpVersion::of(prefix));
            uplinks.is_some_and(|uplinks| !uplinks.is_empty())
        };
        // Foreign routes in the table `local` need no `throw` route, because the kernel consults
        // this table before the rules of the guard.
        let of_main = foreign.iter().filter(|route| !route.is_local);
        let throws = of_main.filter(|route| is_guarded(&route.prefix));
        let throws: Vec<_> = throws
            .map(|route| (route.prefix, Fallback::Throw))
            .collect();
        desired.fallbacks.extend(throws);
        let guarded = routes.iter().filter(|(prefix, _)| is_guarded(prefix));
        desired.routes = guarded
            .map(|(prefix, next_hops)| (*prefix, next_hops.clone()))
            .collect();
        desired
    }

    /// Returns the changes that make the kernel's guard equal to this guard. Obsolete rules are
    /// removed before any route changes, and new rules are added after all routes have changed. So
    /// an obsolete or new rule never leads a packet to an incomplete table.
    pub fn changes(&self, guard: &ActualGuard) -> Vec<GuardChange> {
        let mut changes = Vec::new();
        let old = guard.rules.difference(&self.rules);
        changes.extend(old.cloned().map(GuardChange::RemoveRule));
        let old = guard.fallbacks.iter();
        let old = old.filter(|(prefix, fallback)| self.fallbacks.get(prefix) != Some(fallback));
        changes
            .extend(old.map(|(prefix, fallback)| GuardChange::RemoveFallback(*prefix, *fallback)));
        let routes = plan::changes(&self.routes, &guard.own);
        changes.extend(routes.into_iter().map(GuardChange::Route));
        let new = self.fallbacks.iter();
        let new = new.filter(|(prefix, fallback)| guard.fallbacks.get(prefix) != Some(fallback));
        changes.extend(new.map(|(prefix, fallback)| GuardChange::AddFallback(*prefix, *fallback)));
        let new = self.rules.difference(&guard.rules);
        changes.extend(new.cloned().map(GuardChange::AddRule));
        changes
    }

    /// Returns the IP versions of the allowed prefixes that have no guarded uplink.
    pub fn unguarded(&self) -> impl Iterator<Item = IpVersion> {
        let uplinks = self.uplinks.iter();
        uplinks.filter_map(|(version, uplinks)| uplinks.is_empty().then_some(*version))
    }
}

impl ActualGuard {
    fn uplinks(&self, settings: &Uplinks, version: IpVersion) -> BTreeSet<String> {
        if !self.versions.contains(&version) {
            return BTreeSet::new();
        }
        match settings {
            Uplinks::OfDefaultRoutes => {
                let of_version = self.of_default_routes(version);
                let guarded = of_version.filter(|uplink| !self.pod_uplinks.contains(*uplink));
                guarded.cloned().collect()
            }
            Uplinks::Named(names) => names.clone(),
            Uplinks::None => BTreeSet::new(),
        }
    }

    fn left_out(&self, settings: &Uplinks, version: IpVersion) -> BTreeSet<String> {
        if !self.versions.contains(&version) || *settings != Uplinks::OfDefaultRoutes {
            return BTreeSet::new();
        }
        let of_version = self.of_default_routes(version);
        let left_out = of_version.filter(|uplink| self.pod_uplinks.contains(*uplink));
        left_out.cloned().collect()
    }

    fn of_default_routes(&self, version: IpVersion) -> impl Iterator<Item = &String> {
        let all = self.default_uplinks.iter();
        all.filter_map(move |(of_version, uplink)| (*of_version == version).then_some(uplink))
    }
}

#[cfg(test)]
mod tests;
