//! What an operator is told: a loss once as a warning, its end once, and repeated attempts in vain
//! only at level debug.

use std::collections::BTreeSet;

use bgp_session::SessionError;
use bgp_speaker::PeerStatus;

use crate::{
    announcer::is_established,
    plan::{Input, Plan},
};

/// What has been told.
#[derive(Debug, Default)]
pub(crate) struct Log {
    data_plane_is_lost: bool,
    node_router_is_lost: bool,
    unreachable_peers: BTreeSet<String>,
}

impl Log {
    /// Tells of what is about to be handled by the plan.
    pub(crate) fn input(&mut self, input: &Input, plan: &Plan) {
        match input {
            Input::DataPlaneLost(problem) => {
                if std::mem::replace(&mut self.data_plane_is_lost, true) {
                    tracing::debug!(problem, "data plane not reached");
                } else {
                    tracing::warn!(
                        problem,
                        "data plane not reached (--data-plane), trying again"
                    );
                }
            }
            Input::Synced => {
                self.data_plane_is_lost = false;
                tracing::info!("data plane synced");
            }
            Input::NodeRouteLost {
                prefix,
                problem,
                is_unknown: true,
            } => {
                if std::mem::replace(&mut self.node_router_is_lost, true) {
                    tracing::debug!(%prefix, problem, "node-router not reached");
                } else {
                    tracing::warn!(
                        %prefix,
                        problem,
                        "node-router not reached (--node-router), trying again"
                    );
                }
            }
            Input::NodeRouteLost {
                prefix,
                problem,
                is_unknown: false,
            } => {
                self.node_router_answers();
                if plan.has_route_problem(prefix) {
                    tracing::debug!(%prefix, problem, "node route is not held");
                } else {
                    tracing::warn!(%prefix, problem, "node route is not held");
                }
            }
            Input::NodeRouteHeld(_) => self.node_router_answers(),
            Input::Drain => tracing::info!("draining: asked to"),
            Input::ServiceAddress {
                prefix,
                serving,
                detail,
            } => tracing::debug!(%prefix, serving, detail, "service address"),
            Input::ServiceAddressRemoved(prefix) => {
                tracing::debug!(%prefix, "service address removed");
            }
            Input::DataPlaneOpened
            | Input::Heartbeat
            | Input::Undrain
            | Input::Stop
            | Input::DeadlineReached => {}
        }
    }

    fn node_router_answers(&mut self) {
        if std::mem::take(&mut self.node_router_is_lost) {
            tracing::info!("node-router reached again");
        }
    }

    /// Tells of a peer that cannot be reached; that a session is up or lost, the speaker tells.
    pub(crate) fn peer(&mut self, peer: &PeerStatus) {
        if is_established(peer) {
            self.unreachable_peers.remove(&peer.name);
            return;
        }
        if let Some((_, error @ (SessionError::Dial(_) | SessionError::DialTimeout(_)))) =
            &peer.session.last_error
            && self.unreachable_peers.insert(peer.name.clone())
        {
            tracing::warn!(peer = peer.name, %error, "peer not reached (--peer), trying again");
        }
    }
}
