//! The steps of `/readyz`, in the order of coming up.

use std::collections::BTreeMap;

use bgp_packet::IpNet;
use bgp_speaker::PeerStatus;
use daemon_runtime::Step;

use crate::{
    announcements::{self, Announcements, DataPlaneState, State},
    announcer::Announcement,
};

#[derive(Debug)]
pub(crate) struct Readiness {
    data_plane: Step,
    serving: Step,
    node_route: Option<Step>,
    session: Step,
    announced: Step,
}

impl Readiness {
    pub(crate) fn register(readiness: &daemon_runtime::Readiness, needs_node_route: bool) -> Self {
        Self {
            data_plane: readiness.step("data-plane", "not reached yet"),
            serving: readiness.step("serving", "no service address is known"),
            node_route: needs_node_route
                .then(|| readiness.step("node-route", "no service address is served")),
            session: readiness.step("bgp-session", "no session is established"),
            announced: readiness.step("announced", "nothing is announced"),
        }
    }

    pub(crate) fn show(
        &self,
        decided: &Announcements,
        planned: &BTreeMap<IpNet, announcements::Announcement>,
        announcements: &BTreeMap<IpNet, Announcement>,
        sessions: &[PeerStatus],
    ) {
        match decided.data_plane() {
            DataPlaneState::Synced => self.data_plane.ready(""),
            DataPlaneState::Syncing => self.data_plane.missing("not all has been told"),
            DataPlaneState::Lost(problem) | DataPlaneState::Silent(problem) => {
                self.data_plane.missing(problem);
            }
        }
        let first = |state: State| {
            let mut all = planned.iter();
            all.find(|(_, it)| it.state == state)
                .map(|(prefix, it)| format!("{prefix}: {}", it.detail))
        };
        let count = |state: State| planned.values().filter(|it| it.state == state).count();
        let waiting = count(State::WaitingForNodeRoute);
        let drained = count(State::Drained);
        let announced = [State::Announced, State::LeastPreferred, State::Draining];
        let served = waiting + drained + announced.into_iter().map(count).sum::<usize>();
        let problem = first(State::Refused).or_else(|| first(State::NotServing));
        match (served, problem) {
            (0, None) => self.serving.missing("no service address is known"),
            (0, Some(problem)) => self.serving.missing(problem),
            (_, None) => self.serving.ready(format!("{served} of {served}")),
            (_, Some(problem)) => {
                let all = announcements.len();
                self.serving.ready(format!("{served} of {all}; {problem}"));
            }
        }
        if let Some(step) = &self.node_route {
            // While the data plane is in order, the node-router is the silent one.
            let is_silent =
                decided.data_plane() == DataPlaneState::Synced && decided.flapping() == 0;
            let silent = || first(State::LeastPreferred).filter(|_| is_silent);
            match first(State::WaitingForNodeRoute).or_else(silent) {
                Some(problem) => step.missing(problem),
                None if served == 0 => step.missing("no service address is served"),
                None if served == drained => step.missing("drained, so none is asked for"),
                None => step.ready(""),
            }
        }
        self.show_sessions(sessions);
        let carried = announcements
            .values()
            .filter(|it| it.state == State::Announced)
            .count();
        let uncarried = announcements
            .iter()
            .find(|(_, it)| it.state == State::WaitingForSession)
            .map(|(prefix, it)| format!("{prefix}: {}", it.detail));
        if decided.is_drained() {
            let text = "draining is done, nothing is announced until Undrain";
            self.announced.missing(text);
        } else if decided.is_draining() {
            self.announced.missing("draining");
        } else if let Some(problem) = first(State::LeastPreferred) {
            // Not ready, so that a rollout of load balancers with this fault stops.
            self.announced.missing(problem);
        } else if carried == 0 {
            let nothing = || "nothing is announced".to_owned();
            self.announced.missing(uncarried.unwrap_or_else(nothing));
        } else {
            let all = announcements.len();
            let problem = uncarried.map(|problem| format!("; {problem}"));
            let problem = problem.unwrap_or_default();
            self.announced.ready(format!("{carried} of {all}{problem}"));
        }
    }

    fn show_sessions(&self, sessions: &[PeerStatus]) {
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
