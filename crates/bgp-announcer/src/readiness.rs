//! Steps of `/readyz`, in the order in which a service address comes up.

use std::collections::BTreeMap;

use bgp_packet::IpNet;
use bgp_speaker::PeerStatus;
use daemon_runtime::ReadinessStep;

use crate::{
    announcements::{AddressState, AnnouncementDecision, Announcements, DataPlaneState},
    announcer::AnnouncementStatus,
};

#[derive(Debug)]
pub(crate) struct AnnouncerReadiness {
    data_plane: ReadinessStep,
    serving: ReadinessStep,
    node_route: Option<ReadinessStep>,
    session: ReadinessStep,
    announced: ReadinessStep,
}

impl AnnouncerReadiness {
    pub(crate) fn register(readiness: &daemon_runtime::Readiness, needs_node_route: bool) -> Self {
        Self {
            data_plane: readiness.step("data-plane", "not reached yet"),
            serving: readiness.step("serving", "the data plane has no service address"),
            node_route: needs_node_route
                .then(|| readiness.step("node-route", "no service address is served")),
            session: readiness.step("bgp-session", "no session is established"),
            announced: readiness.step("announced", "no service address is announced"),
        }
    }

    pub(crate) fn update(
        &self,
        state_machine: &Announcements,
        planned: &BTreeMap<IpNet, AnnouncementDecision>,
        announcements: &BTreeMap<IpNet, AnnouncementStatus>,
        sessions: &[PeerStatus],
    ) {
        match state_machine.data_plane() {
            DataPlaneState::Synced => self.data_plane.ready(""),
            DataPlaneState::Syncing => self.data_plane.missing("not synced yet"),
            DataPlaneState::Lost(problem) | DataPlaneState::Silent(problem) => {
                self.data_plane.missing(problem);
            }
        }
        let first = |state: AddressState| {
            let mut all = planned.iter();
            all.find(|(_, it)| it.state == state)
                .map(|(prefix, it)| format!("{prefix}: {}", it.detail))
        };
        let count = |state: AddressState| planned.values().filter(|it| it.state == state).count();
        let waiting = count(AddressState::WaitingForNodeRoute);
        let drained = count(AddressState::Drained);
        let announced = planned
            .values()
            .filter(|it| it.state.is_handed_to_sessions())
            .count();
        let served = waiting + drained + announced;
        let problem = first(AddressState::Refused).or_else(|| first(AddressState::NotServing));
        match (served, problem) {
            (0, None) => self
                .serving
                .missing("the data plane has no service address"),
            (0, Some(problem)) => self.serving.missing(problem),
            (_, None) => self.serving.ready(format!("{served} of {served}")),
            (_, Some(problem)) => {
                let all = announcements.len();
                self.serving.ready(format!("{served} of {all}; {problem}"));
            }
        }
        if let Some(step) = &self.node_route {
            // If the data plane is synced and no address flaps, an address can be least preferred
            // only because node-router is silent.
            let node_router_is_silent = state_machine.data_plane() == DataPlaneState::Synced
                && state_machine.flapping() == 0;
            let silent = || first(AddressState::LeastPreferred).filter(|_| node_router_is_silent);
            match first(AddressState::WaitingForNodeRoute).or_else(silent) {
                Some(problem) => step.missing(problem),
                None if served == 0 => step.missing("no service address is served"),
                None if served == drained => step.missing("drained; no node route is requested"),
                None => step.ready(""),
            }
        }
        self.update_sessions(sessions);
        let carried = announcements
            .values()
            .filter(|it| it.state == AddressState::Announced)
            .count();
        let uncarried = announcements
            .iter()
            .find(|(_, it)| it.state == AddressState::WaitingForSession)
            .map(|(prefix, it)| format!("{prefix}: {}", it.detail));
        if state_machine.is_drained() {
            let text = "drained; no service address is announced until Undrain";
            self.announced.missing(text);
        } else if state_machine.is_draining() {
            self.announced.missing("draining");
        } else if let Some(problem) = first(AddressState::LeastPreferred) {
            // While an address is least preferred, the pod is not ready, so that a rollout that
            // makes addresses least preferred stops.
            self.announced.missing(problem);
        } else if carried == 0 {
            let nothing = || "no service address is announced".to_owned();
            self.announced.missing(uncarried.unwrap_or_else(nothing));
        } else {
            let all = announcements.len();
            let problem = uncarried.map(|problem| format!("; {problem}"));
            let problem = problem.unwrap_or_default();
            self.announced.ready(format!("{carried} of {all}{problem}"));
        }
    }

    fn update_sessions(&self, sessions: &[PeerStatus]) {
        let down: Vec<String> = sessions
            .iter()
            .filter(|peer| !peer.is_established())
            .map(|peer| {
                let error = peer.session.last_error.as_ref();
                let error = error.map(|(_, error)| format!(", {error}"));
                format!(
                    "{} is in {:?}{}",
                    peer.name,
                    peer.session.state,
                    error.unwrap_or_default()
                )
            })
            .collect();
        let down_text = down.join("; ");
        if down.len() < sessions.len() {
            self.session.ready(down_text);
        } else if down.is_empty() {
            self.session.missing("no session is established");
        } else {
            self.session.missing(down_text);
        }
    }
}
