//! Log messages about the data plane, node-router and the announcements.
//!
//! The first failed attempt to reach a daemon is logged at WARN, further failed attempts at DEBUG,
//! and the success after them at INFO. `bgp-speaker` logs the events of peers and sessions.

use std::collections::{BTreeMap, BTreeSet};

use bgp_packet::IpNet;

use crate::{
    announcements::{AddressState, AnnouncementInput, Announcements},
    announcer::AnnouncementStatus,
};

/// The log of the announcer. It remembers the problems that have been logged at WARN, so that a
/// lasting problem is logged at WARN only once.
#[derive(Debug, Default)]
pub(crate) struct AnnouncerLog {
    data_plane_is_lost: bool,
    node_router_is_lost: bool,
    /// State of each address that a session carried at the last call of `announcements`.
    carried: BTreeMap<IpNet, AddressState>,
    /// Addresses for which the WARN "no session can carry the address" has been logged.
    not_carriable: BTreeSet<IpNet>,
}

impl AnnouncerLog {
    /// Logs an input. Must be called before `announcements` handles the input.
    pub(crate) fn input(&mut self, input: &AnnouncementInput, announcements: &Announcements) {
        match input {
            AnnouncementInput::DataPlaneLost(problem) => {
                if std::mem::replace(&mut self.data_plane_is_lost, true) {
                    tracing::debug!(error = problem, "cannot reach the data plane");
                } else {
                    tracing::warn!(
                        error = problem,
                        "cannot reach the data plane (--data-plane); retrying"
                    );
                }
            }
            AnnouncementInput::Synced => {
                self.data_plane_is_lost = false;
                tracing::info!("data plane synced");
            }
            AnnouncementInput::NodeRouteLost {
                prefix,
                problem,
                is_unknown: true,
            } => {
                if std::mem::replace(&mut self.node_router_is_lost, true) {
                    tracing::debug!(%prefix, error = problem, "cannot reach node-router");
                } else {
                    tracing::warn!(
                        %prefix,
                        error = problem,
                        "cannot reach node-router (--node-router); retrying"
                    );
                }
            }
            AnnouncementInput::NodeRouteLost {
                prefix,
                problem,
                is_unknown: false,
            } => {
                self.node_router_reached();
                if announcements.has_route_problem(prefix) {
                    tracing::debug!(%prefix, error = problem, "node route is still not held");
                } else {
                    tracing::warn!(
                        %prefix,
                        error = problem,
                        "node route is not held; the address is not announced"
                    );
                }
            }
            AnnouncementInput::NodeRouteHeld(_) => self.node_router_reached(),
            AnnouncementInput::Drain => tracing::info!("drain requested"),
            AnnouncementInput::ServiceAddress {
                prefix,
                serving,
                detail,
            } => tracing::debug!(%prefix, serving, detail, "data plane reported a service address"),
            AnnouncementInput::ServiceAddressRemoved(prefix) => {
                tracing::debug!(%prefix, "data plane removed a service address");
            }
            AnnouncementInput::DataPlaneOpened
            | AnnouncementInput::Heartbeat
            | AnnouncementInput::SessionsEstablished(_)
            | AnnouncementInput::Undrain
            | AnnouncementInput::Stop
            | AnnouncementInput::DeadlineReached => {}
        }
    }

    /// Logs changes since the last call of this function: each address that a session carries and
    /// that has a new state, each address that no session can carry, and one line for all addresses
    /// that no session carries any longer.
    pub(crate) fn announcements(
        &mut self,
        announcements: &BTreeMap<IpNet, AnnouncementStatus>,
        no_session_can_carry: impl Fn(&IpNet, &AnnouncementStatus) -> bool,
    ) {
        let mut lost = Vec::new();
        for (prefix, it) in announcements {
            let logged_state = self.carried.get(prefix).copied();
            if it.announced_to.is_empty() {
                if logged_state.is_some() && it.state == AddressState::WaitingForSession {
                    lost.push((prefix, it));
                }
            } else if logged_state != Some(it.state) {
                tracing::info!(
                    %prefix,
                    state = ?it.state,
                    peers = it.announced_to.join(" "),
                    "announced the service address"
                );
            }
            if it.state != AddressState::WaitingForSession {
                self.not_carriable.remove(prefix);
            } else if !self.not_carriable.contains(prefix) && no_session_can_carry(prefix, it) {
                self.not_carriable.insert(*prefix);
                tracing::warn!(
                    %prefix,
                    reason = it.detail,
                    "no session can carry the address; the address is not announced"
                );
            }
        }
        if let Some((prefix, it)) = lost.first() {
            let count = lost.len();
            tracing::warn!(
                count,
                first = %prefix,
                reason = it.detail,
                "no session carries the service addresses any longer; the addresses are not announced"
            );
        }
        self.not_carriable
            .retain(|prefix| announcements.contains_key(prefix));
        self.carried = announcements
            .iter()
            .filter(|(_, it)| !it.announced_to.is_empty())
            .map(|(prefix, it)| (*prefix, it.state))
            .collect();
    }

    fn node_router_reached(&mut self) {
        if std::mem::take(&mut self.node_router_is_lost) {
            tracing::info!("reached node-router again");
        }
    }
}
