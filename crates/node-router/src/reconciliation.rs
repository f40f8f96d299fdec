//! Pure: what one look at the kernel says about each claim.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use crate::{
    Link, NotOnLink, Snapshot,
    error::Refusal,
    hold::{HoldState, Peer},
    plan::{Desired, ForeignRoute},
    policy::Claim,
    uplink::{self, IpVersion, Uplinks, Wanted},
};

/// A route as it is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) next_hops: Vec<PublishedNextHop>,
    pub(crate) installed: bool,
    /// Why it is not installed as held; empty if it is.
    pub(crate) last_error: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PublishedNextHop {
    pub(crate) gateway: IpAddr,
    /// Empty if no link leads to the gateway.
    pub(crate) interface: String,
    pub(crate) holders: u32,
    pub(crate) first_holder: Peer,
}

/// Who holds a claim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holders {
    pub(crate) count: u32,
    pub(crate) first: Peer,
}

/// What one look has found and done.
#[derive(Debug, Default)]
pub(crate) struct Look {
    /// By gateway.
    pub(crate) links: BTreeMap<IpAddr, Result<Link, NotOnLink>>,
    pub(crate) desired: Desired,
    /// Foreign routes in the place of ours.
    pub(crate) conflicts: BTreeMap<IpNet, ForeignRoute>,
    /// What the kernel refused, by prefix.
    pub(crate) failures: BTreeMap<IpNet, String>,
    /// As read back.
    pub(crate) actual: Snapshot,
    /// Why packets from the uplinks may loop.
    pub(crate) guard_problem: Option<String>,
    is_guard_failed: bool,
    /// Whether the routes that were read back want another guard than the one that was made.
    pub(crate) is_guard_outdated: bool,
    /// Uplinks by IP version, in words.
    pub(crate) uplinks: String,
}

impl Look {
    /// Says where the uplink guard is in force, or why it is not.
    pub(crate) fn describe_guard(&mut self, uplinks: &Uplinks, wanted: &Wanted) {
        let in_force: Vec<String> = wanted
            .uplinks
            .iter()
            .map(|(version, uplinks)| {
                let names: Vec<&str> = uplinks.iter().map(String::as_str).collect();
                format!("{version}: {}", names.join(", "))
            })
            .collect();
        self.uplinks = in_force.join("; ");
        self.guard_problem = match uplinks {
            Uplinks::None => Some("switched off (--uplink none)".to_owned()),
            Uplinks::OfDefaultRoutes | Uplinks::Named(_) => {
                let left_out = wanted.left_out.iter().map(|(version, uplinks)| {
                    let names: Vec<&str> = uplinks.iter().map(String::as_str).collect();
                    let names = names.join(", ");
                    format!(
                        "{version}: no guard for {names}, since pods of this node are reached by this \
                         interface, too, and the guard would drop their packets to service \
                         addresses; --uplink overrides this"
                    )
                });
                let without = wanted.unguarded();
                let without = without.filter(|version| !wanted.left_out.contains_key(version));
                let without = without.map(|version| {
                    if self.actual.guard.versions.contains(&version) {
                        format!("{version}: no default route, so no uplink is known; give --uplink")
                    } else {
                        format!("{version}: this kernel has no routing rules")
                    }
                });
                let problems: Vec<String> = left_out.chain(without).collect();
                (!problems.is_empty()).then(|| problems.join("; "))
            }
        };
    }

    /// Takes note of a change of the uplink guard that could not be made. A held route that is missing
    /// in the guard's table loses packets, so that its holders must know.
    pub(crate) fn guard_failed(
        &mut self,
        change: &uplink::Change,
        problem: impl FnOnce() -> String,
    ) {
        match change {
            uplink::Change::Route(route) if route.name() != "remove" => {
                self.failures.entry(route.prefix()).or_insert_with(problem);
            }
            uplink::Change::Route(_)
            | uplink::Change::AddFallback(..)
            | uplink::Change::RemoveFallback(..)
            | uplink::Change::AddRule(_)
            | uplink::Change::RemoveRule(_) => {
                self.is_guard_failed = true;
                self.guard_problem.get_or_insert_with(problem);
            }
        }
    }

    /// Whether a change of the uplink guard is to be tried again.
    pub(crate) fn is_guard_failed(&self) -> bool {
        self.is_guard_failed
    }

    /// What the holders of a claim are told.
    pub(crate) fn state(&self, claim: &Claim) -> HoldState {
        HoldState {
            installed: self.problem(claim).is_none(),
            interface: match self.links.get(&claim.gateway) {
                Some(Ok(link)) => link.name.clone(),
                Some(Err(_)) | None => String::new(),
            },
        }
    }

    /// The routes of these claims, as they are published.
    pub(crate) fn routes(&self, claims: &BTreeMap<Claim, Holders>) -> BTreeMap<IpNet, Route> {
        let mut routes: BTreeMap<IpNet, Route> = BTreeMap::new();
        for (claim, holders) in claims {
            let route = routes.entry(claim.prefix).or_insert_with(|| Route {
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

    fn problem(&self, claim: &Claim) -> Option<String> {
        self.refusal(claim).map(|refusal| refusal.to_string())
    }

    /// Why the claim has no route; `None` if it has.
    pub(crate) fn refusal(&self, claim: &Claim) -> Option<Refusal> {
        let prefix = claim.prefix;
        if let Some(Err(reason)) = self.links.get(&claim.gateway) {
            return Some(Refusal::GatewayNotOnLink {
                gateway: claim.gateway,
                reason: reason.to_string(),
            });
        }
        if let Some(route) = self.conflicts.get(&prefix) {
            let route = route.clone();
            return Some(Refusal::ForeignRoute { prefix, route });
        }
        if let Some(problem) = self.failures.get(&prefix) {
            let problem = problem.clone();
            return Some(Refusal::NotInstalled { prefix, problem });
        }
        let version = IpVersion::of(&prefix);
        if self.actual.not_forwarding.contains(&version) {
            return Some(Refusal::NotForwarding { prefix });
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(gateway: &str) -> Claim {
        Claim {
            prefix: "10.1.1.0/24".parse().unwrap(),
            gateway: gateway.parse().unwrap(),
        }
    }

    /// One pod on a link, one that is not.
    fn look() -> Look {
        let link = Link {
            interface: 3,
            name: "pods0".to_owned(),
        };
        Look {
            links: BTreeMap::from([
                (claim("10.244.3.7").gateway, Ok(link)),
                (claim("10.244.3.8").gateway, Err(NotOnLink::NoRoute)),
            ]),
            ..Look::default()
        }
    }

    #[test]
    fn a_gateway_without_link_does_not_hurt_the_other() {
        assert!(look().state(&claim("10.244.3.7")).installed);
        assert!(!look().state(&claim("10.244.3.8")).installed);
        let claims =
            ["10.244.3.7", "10.244.3.8"].map(|gateway| (claim(gateway), Holders::default()));
        let routes = look().routes(&claims.into());
        let route = routes.values().next().unwrap();
        assert_eq!(route.next_hops.len(), 2);
        assert!(!route.installed);
        assert!(route.last_error.contains("10.244.3.8"), "{route:?}");
    }

    #[test]
    fn a_failure_concerns_every_claim_of_its_prefix() {
        let mut look = look();
        let prefix = claim("10.244.3.7").prefix;
        look.failures.insert(prefix, "no memory".to_owned());
        let refusal = look.refusal(&claim("10.244.3.7")).unwrap();
        assert_eq!(refusal.name(), "kernel");
    }
}
