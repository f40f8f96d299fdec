//! Result of one comparison of the kernel with the claims.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use crate::{
    GatewayLink, NotOnLink, RouteSnapshot,
    error::HoldRefusal,
    hold::{HoldState, HolderProcess},
    plan::{Desired, ForeignRoute},
    policy::RouteClaim,
    uplink::{self, DesiredGuard, IpVersion, Uplinks},
};

/// A route as `ListRoutes` and `WatchRoutes` publish it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PublishedRoute {
    pub(crate) next_hops: Vec<PublishedNextHop>,
    pub(crate) installed: bool,
    /// Reason why the route is not installed as claimed. Empty if the route is installed.
    pub(crate) last_error: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PublishedNextHop {
    pub(crate) gateway: IpAddr,
    /// Name of the interface that leads to the gateway. Empty if no interface leads to the gateway.
    pub(crate) interface: String,
    pub(crate) holders: u32,
    pub(crate) first_holder: HolderProcess,
}

/// Holders of one claim. A claim without holders is adopted or recently released.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holders {
    pub(crate) count: u32,
    pub(crate) first: HolderProcess,
}

/// State of the kernel and of the claims after one reconciliation. A reconciliation reads the
/// kernel. If changes are necessary, it applies them and reads the kernel a second time.
#[derive(Debug, Default)]
pub(crate) struct Reconciliation {
    pub(crate) links: BTreeMap<IpAddr, Result<GatewayLink, NotOnLink>>,
    pub(crate) desired: Desired,
    /// Foreign routes that prevent a route of this daemon, by prefix.
    pub(crate) conflicts: BTreeMap<IpNet, ForeignRoute>,
    /// Errors of refused or ineffective changes, by prefix.
    pub(crate) failures: BTreeMap<IpNet, String>,
    pub(crate) actual: RouteSnapshot,
    /// Reason why packets from an uplink for a service address without a held route are not dropped
    /// and can loop. `None`: the guard is in force on all uplinks.
    pub(crate) guard_problem: Option<String>,
    is_guard_failed: bool,
    /// The desired guard that follows from the second read of the kernel differs from the guard
    /// that was applied after the first read.
    pub(crate) is_guard_outdated: bool,
    /// Guarded uplinks by IP version, for the detail of the readiness step.
    pub(crate) uplinks: String,
}

impl Reconciliation {
    /// Sets the texts about the guarded uplinks and about uplinks without a guard.
    pub(crate) fn describe_guard(&mut self, uplinks: &Uplinks, desired: &DesiredGuard) {
        let guarded: Vec<String> = desired
            .uplinks
            .iter()
            .map(|(version, uplinks)| {
                let names: Vec<&str> = uplinks.iter().map(String::as_str).collect();
                format!("{version}: {}", names.join(", "))
            })
            .collect();
        self.uplinks = guarded.join("; ");
        self.guard_problem = match uplinks {
            Uplinks::None => Some("switched off (--uplink none)".to_owned()),
            Uplinks::OfDefaultRoutes | Uplinks::Named(_) => {
                let left_out = desired.left_out.iter().map(|(version, uplinks)| {
                    let names: Vec<&str> = uplinks.iter().map(String::as_str).collect();
                    let names = names.join(", ");
                    format!(
                        "{version}: no guard for {names}, because this node also reaches its pods by this \
                         interface, and the guard would drop packets of these pods to service \
                         addresses; name the interface with --uplink to guard it anyway"
                    )
                });
                let without = desired.unguarded();
                let without = without.filter(|version| !desired.left_out.contains_key(version));
                let without = without.map(|version| {
                    if self.actual.guard.versions.contains(&version) {
                        format!("{version}: no default route, so no uplink is known; set --uplink")
                    } else {
                        format!("{version}: this kernel has no routing rules")
                    }
                });
                let problems: Vec<String> = left_out.chain(without).collect();
                (!problems.is_empty()).then(|| problems.join("; "))
            }
        };
    }

    /// Records that a change of the uplink guard failed. If a held route is missing in the guard's
    /// table, the node drops packets to the prefix of this route, so this failure is reported to
    /// the holders of the route.
    pub(crate) fn record_guard_failure(
        &mut self,
        change: &uplink::GuardChange,
        problem: impl FnOnce() -> String,
    ) {
        match change {
            uplink::GuardChange::Route(route) if route.name() != "remove" => {
                self.failures.entry(route.prefix()).or_insert_with(problem);
            }
            uplink::GuardChange::Route(_)
            | uplink::GuardChange::AddFallback(..)
            | uplink::GuardChange::RemoveFallback(..)
            | uplink::GuardChange::AddRule(_)
            | uplink::GuardChange::RemoveRule(_) => {
                self.is_guard_failed = true;
                self.guard_problem.get_or_insert_with(problem);
            }
        }
    }

    /// Reports whether a change of the uplink guard failed and must be retried.
    pub(crate) fn is_guard_failed(&self) -> bool {
        self.is_guard_failed
    }

    /// Returns the state that is sent to the holders of a claim.
    pub(crate) fn state(&self, claim: &RouteClaim) -> HoldState {
        HoldState {
            installed: self.problem(claim).is_none(),
            interface: match self.links.get(&claim.gateway) {
                Some(Ok(link)) => link.name.clone(),
                Some(Err(_)) | None => String::new(),
            },
        }
    }

    /// Returns the published form of the routes of these claims.
    pub(crate) fn routes(
        &self,
        claims: &BTreeMap<RouteClaim, Holders>,
    ) -> BTreeMap<IpNet, PublishedRoute> {
        let mut routes: BTreeMap<IpNet, PublishedRoute> = BTreeMap::new();
        for (claim, holders) in claims {
            let route = routes
                .entry(claim.prefix)
                .or_insert_with(|| PublishedRoute {
                    next_hops: Vec::new(),
                    installed: true,
                    last_error: String::new(),
                });
            route.next_hops.push(PublishedNextHop {
                gateway: claim.gateway,
                interface: self.state(claim).interface,
                holders: holders.count,
                first_holder: holders.first,
            });
            if let Some(problem) = self.problem(claim) {
                route.installed = false;
                route.last_error = problem;
            }
        }
        routes
    }

    fn problem(&self, claim: &RouteClaim) -> Option<String> {
        self.refusal(claim).map(|refusal| refusal.to_string())
    }

    /// Returns the reason why the claim has no working route. Returns `None` if the route works.
    pub(crate) fn refusal(&self, claim: &RouteClaim) -> Option<HoldRefusal> {
        let prefix = claim.prefix;
        if let Some(Err(reason)) = self.links.get(&claim.gateway) {
            return Some(HoldRefusal::GatewayNotOnLink {
                gateway: claim.gateway,
                reason: reason.to_string(),
            });
        }
        if let Some(route) = self.conflicts.get(&prefix) {
            let route = route.clone();
            return Some(HoldRefusal::ForeignRoute { prefix, route });
        }
        if let Some(problem) = self.failures.get(&prefix) {
            let problem = problem.clone();
            return Some(HoldRefusal::NotInstalled { prefix, problem });
        }
        let version = IpVersion::of(&prefix);
        if self.actual.not_forwarding.contains(&version) {
            return Some(HoldRefusal::NotForwarding { prefix });
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(gateway: &str) -> RouteClaim {
        RouteClaim {
            prefix: "10.1.1.0/24".parse().unwrap(),
            gateway: gateway.parse().unwrap(),
        }
    }

    /// Returns a reconciliation with one gateway on a link and one gateway without a link.
    fn reconciliation() -> Reconciliation {
        let link = GatewayLink {
            interface: 3,
            name: "pods0".to_owned(),
        };
        Reconciliation {
            links: BTreeMap::from([
                (claim("10.244.3.7").gateway, Ok(link)),
                (claim("10.244.3.8").gateway, Err(NotOnLink::NoRoute)),
            ]),
            ..Reconciliation::default()
        }
    }

    #[test]
    fn a_gateway_without_a_link_does_not_affect_the_other_gateway_of_the_route() {
        assert!(reconciliation().state(&claim("10.244.3.7")).installed);
        assert!(!reconciliation().state(&claim("10.244.3.8")).installed);
        let claims =
            ["10.244.3.7", "10.244.3.8"].map(|gateway| (claim(gateway), Holders::default()));
        let routes = reconciliation().routes(&claims.into());
        let route = routes.values().next().unwrap();
        assert_eq!(route.next_hops.len(), 2);
        assert!(!route.installed);
        assert!(route.last_error.contains("10.244.3.8"), "{route:?}");
    }

    #[test]
    fn a_failed_change_is_reported_for_every_claim_of_its_prefix() {
        let mut reconciliation = reconciliation();
        let prefix = claim("10.244.3.7").prefix;
        reconciliation
            .failures
            .insert(prefix, "no memory".to_owned());
        let refusal = reconciliation.refusal(&claim("10.244.3.7")).unwrap();
        assert_eq!(refusal.name(), "kernel");
    }
}
