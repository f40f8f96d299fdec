//! The step `sessions`: whether the routers would still have their paths if another reflector went.
//! Decision 0013.
//!
//! A router is a peer with a known address that is sent something. Peers of a prefix come and go as
//! they like, so nobody can say that one is missing.

use std::time::Duration;

use bgp_rib::PrefixFilter;
use bgp_speaker::PeerStatus;
use daemon_runtime::Step;
use tokio::{sync::watch, time::Instant};

use crate::{config::Config, reflector::InForce};

#[derive(Debug)]
pub(crate) struct SessionsStep {
    step: Step,
    in_force: watch::Receiver<InForce>,
    /// From then on one router is enough.
    settled_at: Instant,
}

impl SessionsStep {
    /// For `router_timeout` from now on, every router is waited for.
    pub(crate) fn new(
        step: Step,
        in_force: watch::Receiver<InForce>,
        router_timeout: Duration,
    ) -> Self {
        Self {
            step,
            in_force,
            settled_at: Instant::now() + router_timeout,
        }
    }

    pub(crate) fn show(&self, peers: &[PeerStatus]) {
        let config = self.in_force.borrow().config.clone();
        let routers = routers(&config, peers);
        let is_settling = Instant::now() < self.settled_at;
        let detail = detail(peers, &routers);
        if is_ready(&routers, is_settling) {
            self.step.ready(detail);
        } else {
            self.step.missing(detail);
        }
    }

    /// Time until the answer may change although no session does.
    pub(crate) fn settles_in(&self) -> Option<Duration> {
        let left = self.settled_at.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }
}

#[derive(Clone, Copy, Debug)]
struct Router<'a> {
    name: &'a str,
    is_established: bool,
    /// Since the start, or since its settings changed.
    was_established: bool,
}

fn routers<'a>(config: &Config, peers: &'a [PeerStatus]) -> Vec<Router<'a>> {
    let is_router = |peer: &&PeerStatus| {
        let mut configured = config.peers.peers.iter();
        let configured = configured.find(|configured| configured.name == peer.name);
        let nothing = PrefixFilter::Only(Vec::new());
        !peer.is_dynamic && configured.is_some_and(|peer| peer.session.export.prefixes != nothing)
    };
    let routers = peers.iter().filter(is_router);
    routers
        .map(|peer| Router {
            name: &peer.name,
            is_established: peer.is_established(),
            was_established: peer.session.counters.established > 0,
        })
        .collect()
}

/// After its start a reflector takes the place of another one, so each router must have come. Later
/// a router that is gone is the router's trouble, unless it is the last one.
fn is_ready(routers: &[Router<'_>], is_settling: bool) -> bool {
    let has_one = routers.is_empty() || routers.iter().any(|router| router.is_established);
    let has_had_all = routers.iter().all(|router| router.was_established);
    has_one && (has_had_all || !is_settling)
}

fn detail(peers: &[PeerStatus], routers: &[Router<'_>]) -> String {
    let established = peers.iter().filter(|peer| peer.is_established()).count();
    let gone = routers.iter().filter(|router| !router.is_established);
    let gone: Vec<_> = gone.map(|router| router.name).collect();
    let gone = if gone.is_empty() {
        String::new()
    } else {
        format!("; no session with {}", gone.join(", "))
    };
    format!("{established} of {} established{gone}", peers.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER: (bool, bool) = (false, false);
    const LOST: (bool, bool) = (false, true);
    const UP: (bool, bool) = (true, true);

    #[track_caller]
    fn check(routers: &[(bool, bool)], while_it_settles: bool, later: bool) {
        let routers: Vec<_> = routers
            .iter()
            .map(|&(is_established, was_established)| Router {
                name: "router",
                is_established,
                was_established,
            })
            .collect();
        let ready = [true, false].map(|is_settling| is_ready(&routers, is_settling));
        assert_eq!(ready, [while_it_settles, later], "{routers:?}");
    }

    #[test]
    fn every_router_is_waited_for_and_later_one_is_enough() {
        check(&[UP], true, true);
        check(&[UP, UP], true, true);
        check(&[UP, NEVER], false, true);
        check(&[NEVER, NEVER], false, false);
    }

    #[test]
    fn a_router_that_was_there_and_is_gone_is_missed_if_it_was_the_last() {
        check(&[UP, LOST], true, true);
        check(&[LOST], false, false);
        check(&[LOST, LOST], false, false);
        check(&[LOST, NEVER], false, false);
    }

    #[test]
    fn without_a_router_in_the_file_nothing_is_waited_for() {
        check(&[], true, true);
    }
}
