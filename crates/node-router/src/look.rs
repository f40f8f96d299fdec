//! Pure: what one look at the kernel says about each claim.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use crate::{
    Link, NotOnLink,
    error::Refusal,
    hold::{HoldState, Peer},
    plan::{Actual, Desired, ForeignRoute},
    policy::Claim,
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
    pub(crate) actual: Actual,
}

impl Look {
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
