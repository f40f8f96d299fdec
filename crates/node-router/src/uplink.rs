//! Pure: the uplink guard, which keeps packets for service addresses from looping between a node
//! without a route and its router.
//!
//! ```text
//!  ip rule, preference 112, for each uplink and allowed prefix:
//!      iif UPLINK to PREFIX lookup 112
//!  ip route show table 112:
//!      SERVICE via POD          metric 112    held
//!      throw FOREIGN            metric 1120   another program's route in the main table decides
//!      blackhole PREFIX         metric 1120   each allowed prefix
//! ```
//!
//! The main table holds the held routes as well: clients on the node and its pods match no rule of
//! the guard. They reach the service address by the node's default route where it has no pod.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use ipnet::IpNet;

use crate::plan::{self, Desired, ForeignRoute, OwnRoute};

/// Table of the guard's routes, which is also the preference of its rules.
pub const TABLE: u32 = 112;

/// Metric of the guard's routes for what is not held: any held route to the same prefix wins.
pub const FALLBACK_METRIC: u32 = 1120;

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl IpVersion {
    /// Returns the version of a prefix.
    pub fn of(prefix: &IpNet) -> Self {
        match prefix {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }

    /// Returns the sysctl without which the kernel forwards no packet of this version.
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

/// Which interfaces are uplinks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Uplinks {
    /// The interfaces of the default routes, for each IP version, without those by which pods of
    /// this node are reached.
    OfDefaultRoutes,
    /// These.
    Named(BTreeSet<String>),
    /// None: no guard.
    None,
}

/// A routing rule: packets that come in by the interface for the prefix are routed by [`TABLE`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Name of the interface.
    pub uplink: String,
    /// Destinations.
    pub prefix: IpNet,
}

/// What happens to packets for a prefix that no held route covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// The packet is dropped.
    Blackhole,
    /// The main table decides.
    Throw,
}

/// The guard as the kernel holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// IP versions for which this kernel has routing rules.
    pub versions: BTreeSet<IpVersion>,
    /// Interfaces of the default routes of the main table.
    pub default_uplinks: BTreeSet<(IpVersion, String)>,
    /// Those of the default uplinks by which this node reaches pods: their packets come in there.
    pub pod_uplinks: BTreeSet<String>,
    /// This daemon's routes in [`TABLE`], without the fallbacks.
    pub own: Vec<OwnRoute>,
    /// This daemon's routes in [`TABLE`] with [`FALLBACK_METRIC`].
    pub fallbacks: BTreeMap<IpNet, Fallback>,
    /// This daemon's rules.
    pub rules: BTreeSet<Rule>,
}

/// One request to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A change of a held route in [`TABLE`].
    Route(plan::Change),
    /// A fallback where none is.
    AddFallback(IpNet, Fallback),
    /// Takes a fallback away.
    RemoveFallback(IpNet, Fallback),
    /// A rule.
    AddRule(Rule),
    /// Takes a rule away.
    RemoveRule(Rule),
}

impl Change {
    /// Returns one word for metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Route(change) => change.name(),
            Self::AddFallback(..) | Self::AddRule(_) => "add",
            Self::RemoveFallback(..) | Self::RemoveRule(_) => "remove",
        }
    }
}

impl fmt::Display for Change {
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
            Self::AddRule(Rule { uplink, prefix }) | Self::RemoveRule(Rule { uplink, prefix }) => {
                write!(f, "{name} the rule iif {uplink} to {prefix} lookup {TABLE}")
            }
        }
    }
}

/// The guard as it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Uplinks by IP version, one entry for each version of the allowed prefixes.
    pub uplinks: BTreeMap<IpVersion, BTreeSet<String>>,
    /// Interfaces of default routes without a guard, because pods of this node are reached by them.
    pub left_out: BTreeMap<IpVersion, BTreeSet<String>>,
    routes: Desired,
    fallbacks: BTreeMap<IpNet, Fallback>,
    rules: BTreeSet<Rule>,
}

impl Wanted {
    /// Derives it from the settings, the routes that the main table holds for pods, and the routes
    /// of other programs there. An IP version without an uplink has no guard.
    pub fn new(
        settings: &Uplinks,
        allowed: &[IpNet],
        routes: &Desired,
        foreign: &[ForeignRoute],
        guard: &Guard,
    ) -> Self {
        let mut wanted = Self::default();
        for &prefix in allowed {
            let version = IpVersion::of(&prefix);
            let uplinks = wanted
                .uplinks
                .entry(version)
                .or_insert_with(|| guard.uplinks(settings, version));
            let left_out = guard.left_out(settings, version);
            if !left_out.is_empty() {
                wanted.left_out.insert(version, left_out);
            }
            if uplinks.is_empty() {
                continue;
            }
            wanted.fallbacks.insert(prefix, Fallback::Blackhole);
            wanted.rules.extend(uplinks.iter().map(|uplink| Rule {
                uplink: uplink.clone(),
                prefix,
            }));
        }
        let is_guarded = |prefix: &IpNet| {
            let uplinks = wanted.uplinks.get(&IpVersion::of(prefix));
            uplinks.is_some_and(|uplinks| !uplinks.is_empty())
        };
        // The table `local` comes before every rule.
        let of_main = foreign.iter().filter(|route| !route.is_local);
        let throws = of_main.filter(|route| is_guarded(&route.prefix));
        let throws: Vec<_> = throws
            .map(|route| (route.prefix, Fallback::Throw))
            .collect();
        wanted.fallbacks.extend(throws);
        let guarded = routes.iter().filter(|(prefix, _)| is_guarded(prefix));
        wanted.routes = guarded
            .map(|(prefix, next_hops)| (*prefix, next_hops.clone()))
            .collect();
        wanted
    }

    /// Returns the changes that make the kernel's guard equal to this one, in an order in which each
    /// rule finds its routes: rules go first and come last.
    pub fn changes(&self, guard: &Guard) -> Vec<Change> {
        let mut changes = Vec::new();
        let old = guard.rules.difference(&self.rules);
        changes.extend(old.cloned().map(Change::RemoveRule));
        let old = guard.fallbacks.iter();
        let old = old.filter(|(prefix, fallback)| self.fallbacks.get(prefix) != Some(fallback));
        changes.extend(old.map(|(prefix, fallback)| Change::RemoveFallback(*prefix, *fallback)));
        let routes = plan::changes(&self.routes, &guard.own);
        changes.extend(routes.into_iter().map(Change::Route));
        let new = self.fallbacks.iter();
        let new = new.filter(|(prefix, fallback)| guard.fallbacks.get(prefix) != Some(fallback));
        changes.extend(new.map(|(prefix, fallback)| Change::AddFallback(*prefix, *fallback)));
        let new = self.rules.difference(&guard.rules);
        changes.extend(new.cloned().map(Change::AddRule));
        changes
    }

    /// Returns the IP versions of the allowed prefixes that have no uplink.
    pub fn unguarded(&self) -> impl Iterator<Item = IpVersion> {
        let uplinks = self.uplinks.iter();
        uplinks.filter_map(|(version, uplinks)| uplinks.is_empty().then_some(*version))
    }
}

impl Guard {
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
        all.filter_map(move |(its, uplink)| (*its == version).then_some(uplink))
    }
}

#[cfg(test)]
mod tests;
