//! States of service addresses and of the data plane's stream, with explanations.

use std::net::IpAddr;

use bgp_packet::IpNet;

use super::{
    AnnouncementForm, Announcements, DrainPhase, Evidence, NodeRouteState, ServiceAddress,
};

/// The state of a service address. The variants up to `Announced` are in the order in which an
/// address comes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressState {
    /// The data plane does not confirm that it serves the address.
    NotServing,
    /// The prefix is outside of `--allowed-prefixes`, or the flags give no next hop or gateway for
    /// its address family.
    Refused,
    /// node-router has not confirmed the node route.
    WaitingForNodeRoute,
    /// The address is handed to the BGP sessions, but no established session carries it.
    /// [`Announcements`] does not know the sessions and never returns this state. The module
    /// `carried` replaces the states `Announced`, `LeastPreferred` and `Draining` with this state.
    WaitingForSession,
    Announced,
    /// Announced as least preferred, because the data plane or node-router is silent for longer
    /// than its grace period, or because the address flaps.
    LeastPreferred,
    /// Announced as least preferred because of a drain.
    Draining,
    /// The data plane serves the address, but a drain has withdrawn the address or prevents its
    /// announcement.
    Drained,
}

impl AddressState {
    /// Reports whether an address in this state is handed to the BGP sessions.
    pub(crate) fn is_handed_to_sessions(self) -> bool {
        match self {
            Self::Announced | Self::LeastPreferred | Self::Draining => true,
            Self::NotServing
            | Self::Refused
            | Self::WaitingForNodeRoute
            | Self::WaitingForSession
            | Self::Drained => false,
        }
    }
}

/// The decision of [`Announcements`] about one service address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnnouncementDecision {
    pub state: AddressState,
    /// Explains the state to an operator. Can be empty.
    pub detail: String,
    /// The next hop with which the address is or would be announced. Unspecified address: the local
    /// address of each session. `None`: the address is refused.
    pub next_hop: Option<IpAddr>,
}

/// The state of the stream from the data plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataPlaneState {
    /// The data plane has reported every address, and is not silent.
    Synced,
    /// A stream is open, but the data plane has not reported every address yet.
    Syncing,
    /// No stream is open; the text has the reason. The grace period is not over, so the last
    /// reports still count as confirmed.
    Lost(String),
    /// The data plane has sent no message for its grace period; the text has the reason. Addresses
    /// that the data plane served are least preferred.
    Silent(String),
}

impl Announcements {
    /// Returns the decision about each service address.
    pub fn list(&self) -> impl Iterator<Item = (IpNet, AnnouncementDecision)> {
        self.entries
            .iter()
            .map(|(prefix, entry)| (*prefix, self.announcement(prefix, entry)))
    }

    /// Reports whether the last input about the node route of `prefix` was a problem.
    pub(crate) fn has_route_problem(&self, prefix: &IpNet) -> bool {
        self.entries
            .get(prefix)
            .is_some_and(|entry| match &entry.route {
                NodeRouteState::Free | NodeRouteState::Held => false,
                NodeRouteState::Requested { problem } | NodeRouteState::Lost { problem, .. } => {
                    !problem.is_empty()
                }
            })
    }

    fn announcement(&self, prefix: &IpNet, entry: &ServiceAddress) -> AnnouncementDecision {
        let inbound = self.inbound_route(prefix);
        let next_hop = inbound.as_ref().ok().map(|inbound| inbound.next_hop);
        let (state, detail) = match (&inbound, entry.announced, self.drain) {
            (Err(problem), _, _) => (AddressState::Refused, problem.clone()),
            (Ok(_), Some(AnnouncementForm::Normal), _) => {
                (AddressState::Announced, route_problem(&entry.route))
            }
            (Ok(_), Some(AnnouncementForm::LeastPreferred), DrainPhase::No) => (
                AddressState::LeastPreferred,
                format!(
                    "least preferred: {}",
                    self.least_preferred_reason(prefix, entry)
                ),
            ),
            (Ok(_), Some(AnnouncementForm::LeastPreferred), _) => (
                AddressState::Draining,
                "announced with GRACEFUL_SHUTDOWN and LOCAL_PREF 0".to_owned(),
            ),
            (
                Ok(_),
                None,
                DrainPhase::Draining { .. } | DrainPhase::Lingering { .. } | DrainPhase::Done,
            ) if self.serving(prefix, self.evaluated_at) == Evidence::Confirmed => (
                AddressState::Drained,
                "not announced because of a drain".to_owned(),
            ),
            (
                Ok(_),
                None,
                DrainPhase::No
                | DrainPhase::Draining { .. }
                | DrainPhase::Lingering { .. }
                | DrainPhase::Done,
            ) => self.unannounced(prefix, entry),
        };
        AnnouncementDecision {
            state,
            detail,
            next_hop,
        }
    }

    fn unannounced(&self, prefix: &IpNet, entry: &ServiceAddress) -> (AddressState, String) {
        if self.serving(prefix, self.evaluated_at) == Evidence::Confirmed {
            return (
                AddressState::WaitingForNodeRoute,
                route_problem(&entry.route),
            );
        }
        let detail = match &entry.report {
            None => "the data plane has removed the address; its node route lingers".to_owned(),
            Some(report) if !report.serving => report.detail.clone(),
            Some(_) => self.data_plane_silence(),
        };
        (AddressState::NotServing, detail)
    }

    /// Returns why the address is least preferred: the address flaps, or the data plane or
    /// node-router is silent.
    fn least_preferred_reason(&self, prefix: &IpNet, entry: &ServiceAddress) -> String {
        if entry.flaps.is_flapping() {
            return entry.flaps.to_string();
        }
        if self.serving(prefix, self.evaluated_at) == Evidence::Confirmed {
            route_problem(&entry.route)
        } else {
            self.data_plane_silence()
        }
    }

    fn data_plane_silence(&self) -> String {
        match self.data_plane.state(self.evaluated_at) {
            DataPlaneState::Silent(problem) | DataPlaneState::Lost(problem) => problem,
            DataPlaneState::Syncing | DataPlaneState::Synced => {
                "the data plane has not confirmed the address since its stream was opened again"
                    .to_owned()
            }
        }
    }
}

fn route_problem(route: &NodeRouteState) -> String {
    match route {
        NodeRouteState::Free | NodeRouteState::Held => String::new(),
        NodeRouteState::Requested { problem } if problem.is_empty() => {
            "node-router has not confirmed the node route".to_owned()
        }
        NodeRouteState::Requested { problem } | NodeRouteState::Lost { problem, .. } => {
            format!("node route: {problem}")
        }
    }
}
