//! Readiness step `sessions` (decision 0013).
//!
//! The step shows whether the routers have had time to receive their paths from this reflector, so
//! that a rollout can stop another reflector.
//!
//! A router is a peer under `peers` that receives paths from the reflector. A peer from a dynamic
//! prefix does not count as a router, because the number of these peers is not known.

use std::time::Duration;

use bgp_rib::PrefixFilter;
use bgp_speaker::PeerStatus;
use daemon_runtime::ReadinessStep;
use tokio::{sync::watch, time::Instant};

use crate::{config::Config, reflector::RunningConfiguration};

#[derive(Debug)]
pub(crate) struct SessionsStep {
    step: ReadinessStep,
    running: watch::Receiver<RunningConfiguration>,
    /// After this time, one router with an established session is enough.
    router_deadline: Instant,
}

impl SessionsStep {
    /// Creates the step. Until `router_timeout` from now, the step is ready only after every router
    /// has had an established session.
    pub(crate) fn new(
        step: ReadinessStep,
        running: watch::Receiver<RunningConfiguration>,
        router_timeout: Duration,
    ) -> Self {
        Self {
            step,
            running,
            router_deadline: Instant::now() + router_timeout,
        }
    }

    pub(crate) fn update(&self, peers: &[PeerStatus]) {
        let config = self.running.borrow().config.clone();
        let routers = routers(&config, peers);
        let needs_all_routers = Instant::now() < self.router_deadline;
        let detail = detail(peers, &routers);
        if is_ready(&routers, needs_all_routers) {
            self.step.ready(detail);
        } else {
            self.step.missing(detail);
        }
    }

    /// Returns the time until the router deadline, at which the step can become ready without a
    /// change of a session. `None`: the router deadline is over.
    pub(crate) fn time_to_router_deadline(&self) -> Option<Duration> {
        let left = self
            .router_deadline
            .saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }
}

#[derive(Clone, Copy, Debug)]
struct RouterStatus<'a> {
    name: &'a str,
    is_established: bool,
    /// Whether the router has had an established session since the start, or since its settings
    /// changed.
    was_established: bool,
}

fn routers<'a>(config: &Config, peers: &'a [PeerStatus]) -> Vec<RouterStatus<'a>> {
    let is_router = |peer: &&PeerStatus| {
        let mut configured = config.peers.peers.iter();
        let configured = configured.find(|configured| configured.name == peer.name);
        let nothing = PrefixFilter::Only(Vec::new());
        !peer.is_dynamic && configured.is_some_and(|peer| peer.session.export.prefixes != nothing)
    };
    let routers = peers.iter().filter(is_router);
    routers
        .map(|peer| RouterStatus {
            name: &peer.name,
            is_established: peer.is_established(),
            was_established: peer.session.counters.established > 0,
        })
        .collect()
}

/// Reports whether the step is ready. A reflector that has just started replaces another reflector,
/// so at first (`needs_all_routers`) each router must have had an established session. After the
/// router deadline, one router with an established session is enough, because a router without a
/// session then has a problem of its own.
fn is_ready(routers: &[RouterStatus<'_>], needs_all_routers: bool) -> bool {
    let any_is_established =
        routers.is_empty() || routers.iter().any(|router| router.is_established);
    let all_were_established = routers.iter().all(|router| router.was_established);
    any_is_established && (all_were_established || !needs_all_routers)
}

fn detail(peers: &[PeerStatus], routers: &[RouterStatus<'_>]) -> String {
    let established = peers.iter().filter(|peer| peer.is_established()).count();
    let down = routers.iter().filter(|router| !router.is_established);
    let down: Vec<_> = down.map(|router| router.name).collect();
    let down = if down.is_empty() {
        String::new()
    } else {
        format!("; no session with {}", down.join(", "))
    };
    format!("{established} of {} established{down}", peers.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER: (bool, bool) = (false, false);
    const LOST: (bool, bool) = (false, true);
    const UP: (bool, bool) = (true, true);

    #[track_caller]
    fn check(routers: &[(bool, bool)], before_deadline: bool, after_deadline: bool) {
        let routers: Vec<_> = routers
            .iter()
            .map(|&(is_established, was_established)| RouterStatus {
                name: "router",
                is_established,
                was_established,
            })
            .collect();
        let ready = [true, false].map(|needs_all_routers| is_ready(&routers, needs_all_routers));
        assert_eq!(ready, [before_deadline, after_deadline], "{routers:?}");
    }

    #[test]
    fn the_step_needs_every_router_before_the_deadline_and_one_router_after_the_deadline() {
        check(&[UP], true, true);
        check(&[UP, UP], true, true);
        check(&[UP, NEVER], false, true);
        check(&[NEVER, NEVER], false, false);
    }

    #[test]
    fn a_lost_session_makes_the_step_missing_only_if_no_router_has_an_established_session() {
        check(&[UP, LOST], true, true);
        check(&[LOST], false, false);
        check(&[LOST, LOST], false, false);
        check(&[LOST, NEVER], false, false);
    }

    #[test]
    fn without_a_router_in_the_file_the_step_is_ready() {
        check(&[], true, true);
    }
}
