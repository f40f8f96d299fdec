//! Log lines about the data plane, the node-router and the announcements.
//!
//! A loss is a WARN once, its end an INFO once; further failed attempts are logged at DEBUG. The lines
//! about peers and sessions are those of `bgp-speaker`.

use std::collections::{BTreeMap, BTreeSet};

use bgp_packet::IpNet;

use crate::{
    announcements::{Announcements, Input, State},
    announcer::Announcement,
};

/// What is logged already.
#[derive(Debug, Default)]
pub(crate) struct Log {
    data_plane_is_lost: bool,
    node_router_is_lost: bool,
    /// As sessions carry them.
    carried: BTreeMap<IpNet, State>,
    /// Of which it has been said that no session can carry them.
    impossible: BTreeSet<IpNet>,
}

impl Log {
    /// Logs an input before the announcements handle it.
    pub(crate) fn input(&mut self, input: &Input, announcements: &Announcements) {
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
                if announcements.has_route_problem(prefix) {
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
            | Input::SessionsEstablished(_)
            | Input::Undrain
            | Input::Stop
            | Input::DeadlineReached => {}
        }
    }

    /// Logs which announcements the sessions have begun or ceased to carry. Those that lose their
    /// last session together are logged together.
    pub(crate) fn announcements(
        &mut self,
        announcements: &BTreeMap<IpNet, Announcement>,
        is_impossible: impl Fn(&IpNet, &Announcement) -> bool,
    ) {
        let mut lost = Vec::new();
        for (prefix, it) in announcements {
            let known = self.carried.get(prefix).copied();
            if it.announced_to.is_empty() {
                if known.is_some() && it.state == State::WaitingForSession {
                    lost.push((prefix, it));
                }
            } else if known != Some(it.state) {
                tracing::info!(
                    %prefix,
                    state = ?it.state,
                    peers = it.announced_to.join(" "),
                    "announced"
                );
            }
            if it.state != State::WaitingForSession {
                self.impossible.remove(prefix);
            } else if !self.impossible.contains(prefix) && is_impossible(prefix, it) {
                self.impossible.insert(*prefix);
                tracing::warn!(%prefix, reason = it.detail, "no session can carry the address");
            }
        }
        if let Some((prefix, it)) = lost.first() {
            let count = lost.len();
            tracing::warn!(
                count,
                first = %prefix,
                reason = it.detail,
                "no session carries the service addresses any longer; they are not announced"
            );
        }
        self.impossible
            .retain(|prefix| announcements.contains_key(prefix));
        self.carried = announcements
            .iter()
            .filter(|(_, it)| !it.announced_to.is_empty())
            .map(|(prefix, it)| (*prefix, it.state))
            .collect();
    }

    fn node_router_answers(&mut self) {
        if std::mem::take(&mut self.node_router_is_lost) {
            tracing::info!("node-router reached again");
        }
    }
}
