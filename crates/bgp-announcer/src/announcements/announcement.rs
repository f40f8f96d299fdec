//! What has become of each service address, in words.

use std::net::IpAddr;

use bgp_packet::IpNet;

use super::{Announcements, Drain, Evidence, Form, Route, ServiceAddress};

/// What has become of a service address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// The data plane does not serve it.
    NotServing,
    /// Policy or settings do not allow it.
    Refused,
    /// The node's route has not been acknowledged.
    WaitingForNodeRoute,
    /// To be announced, and no established session carries it. [`Announcements`] knows no sessions:
    /// `carried` puts this in the place of the next three.
    WaitingForSession,
    /// Announced.
    Announced,
    /// Announced as least preferred: confirmed before, and the data plane or the node-router is
    /// silent, or the address flaps.
    LeastPreferred,
    /// Announced as least preferred by a drain.
    Draining,
    /// Served, and withdrawn or never announced because of a drain.
    Drained,
}

/// A service address at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// What has become of it.
    pub state: State,
    /// The same in words, with the cause.
    pub detail: String,
    /// As announced, or as it would be.
    pub next_hop: Option<IpAddr>,
}

/// How far the data plane is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataPlaneState {
    /// Everything that exists has been reported, and the data plane is alive.
    Synced,
    /// Not everything has been reported.
    Syncing,
    /// There is no stream; the cause. The last reports still count.
    Lost(String),
    /// Not heard for the timeout: what it served is least preferred.
    Silent(String),
}

impl Announcements {
    /// Each service address at this moment.
    pub fn list(&self) -> impl Iterator<Item = (IpNet, Announcement)> {
        self.entries
            .iter()
            .map(|(prefix, entry)| (*prefix, self.announcement(prefix, entry)))
    }

    /// Whether a problem with the node route of the prefix is known already.
    pub(crate) fn has_route_problem(&self, prefix: &IpNet) -> bool {
        self.entries
            .get(prefix)
            .is_some_and(|entry| match &entry.route {
                Route::Free | Route::Held => false,
                Route::Asked { problem } | Route::Lost { problem, .. } => !problem.is_empty(),
            })
    }

    fn announcement(&self, prefix: &IpNet, entry: &ServiceAddress) -> Announcement {
        let via = self.via(prefix);
        let next_hop = via.as_ref().ok().map(|via| via.next_hop);
        let (state, detail) = match (&via, entry.announced, self.drain) {
            (Err(problem), _, _) => (State::Refused, problem.clone()),
            (Ok(_), Some(Form::Normal), _) => (State::Announced, route_problem(&entry.route)),
            (Ok(_), Some(Form::LeastPreferred), Drain::No) => (
                State::LeastPreferred,
                format!("least preferred: {}", self.silence(prefix, entry)),
            ),
            (Ok(_), Some(Form::LeastPreferred), _) => (
                State::Draining,
                "announced with GRACEFUL_SHUTDOWN and LOCAL_PREF 0".to_owned(),
            ),
            (Ok(_), None, Drain::Draining { .. } | Drain::Lingering { .. } | Drain::Done)
                if self.serving(prefix, self.evaluated_at) == Evidence::Confirmed =>
            {
                (State::Drained, "withheld by a drain".to_owned())
            }
            (
                Ok(_),
                None,
                Drain::No | Drain::Draining { .. } | Drain::Lingering { .. } | Drain::Done,
            ) => self.unannounced(prefix, entry),
        };
        Announcement {
            state,
            detail,
            next_hop,
        }
    }

    fn unannounced(&self, prefix: &IpNet, entry: &ServiceAddress) -> (State, String) {
        if self.serving(prefix, self.evaluated_at) == Evidence::Confirmed {
            return (State::WaitingForNodeRoute, route_problem(&entry.route));
        }
        let detail = match &entry.report {
            None => "the data plane has dropped it; its node route lingers".to_owned(),
            Some(report) if !report.serving => report.detail.clone(),
            Some(_) => self.data_plane_silence(),
        };
        (State::NotServing, detail)
    }

    /// Returns why the address is least preferred: it flaps, or which of the data plane and the
    /// node-router is silent about it.
    fn silence(&self, prefix: &IpNet, entry: &ServiceAddress) -> String {
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
                "the data plane has not told of it since it came back".to_owned()
            }
        }
    }
}

fn route_problem(route: &Route) -> String {
    match route {
        Route::Free | Route::Held => String::new(),
        Route::Asked { problem } if problem.is_empty() => {
            "the node route has not been acknowledged".to_owned()
        }
        Route::Asked { problem } | Route::Lost { problem, .. } => format!("node route: {problem}"),
    }
}
