//! Announcements that were not accepted: counted, logged, and asked for again.

use bgp_packet::Family;
use bgp_rib::{PeerId, ReceiveOutcome, RejectReason};

use crate::owner::Owner;

/// Which lines at INFO or WARN a session has already logged, so that a peer cannot fill the log.
#[derive(Default)]
pub(crate) struct LoggedOnce {
    pub(crate) rejected: bool,
    pub(crate) malformed: bool,
    pub(crate) discarded: bool,
    pub(crate) near_maximum: bool,
    pub(crate) over_maximum: bool,
    pub(crate) no_refresh: bool,
}

impl LoggedOnce {
    /// Suppresses all of them for a session of an address that has used its log lines.
    pub(crate) const ALL: Self = Self {
        rejected: true,
        malformed: true,
        discarded: true,
        near_maximum: true,
        over_maximum: true,
        no_refresh: true,
    };
}

/// Whether the peer holds four fifths of the paths that it may have.
fn is_near(paths: usize, maximum_paths: u32) -> bool {
    paths.saturating_mul(5) >= (maximum_paths as usize).saturating_mul(4)
}

impl Owner {
    /// Counts and logs what was not accepted.
    pub(crate) fn report(&mut self, id: PeerId, outcome: &ReceiveOutcome) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let name = &peer.config.name;
        let logged = &mut peer.logged;
        let discarded = outcome.discarded_attributes as u64;
        self.counters.attributes_discarded.add(discarded);
        if discarded > 0 && !std::mem::replace(&mut logged.discarded, true) {
            tracing::info!(
                peer = name,
                "attributes of unknown types discarded by import policy; further ones are only \
                 counted"
            );
        }
        let (over, rejected): (Vec<_>, Vec<_>) = outcome
            .rejected
            .iter()
            .partition(|(_, reason)| *reason == RejectReason::MaximumPaths);
        if let Some((nlri, reason)) = rejected.first() {
            let count = rejected.len() as u64;
            self.counters.paths_rejected.add(count);
            warn_once!(
                logged.rejected,
                peer = name,
                prefix = %nlri.prefix,
                %reason,
                count,
                "path rejected"
            );
        }
        let Some(maximum_paths) = peer.config.session.import.maximum_paths else {
            return;
        };
        let paths = self.rib.counts(id).paths_received;
        if is_near(paths, maximum_paths) && !std::mem::replace(&mut logged.near_maximum, true) {
            tracing::warn!(
                peer = name,
                paths,
                maximum_paths,
                action = ?peer.config.session.import.at_maximum,
                "peer nears its maximum of paths"
            );
        }
        if let Some((nlri, _)) = over.first() {
            let count = over.len() as u64;
            self.counters.paths_over_maximum.add(count);
            warn_once!(
                logged.over_maximum,
                peer = name,
                prefix = %nlri.prefix,
                maximum_paths,
                count,
                "path refused: the peer holds its maximum of paths; raise maximumPaths of its group"
            );
        }
    }

    /// Has the peer send its routes of these families again (RFC 2918), if it can.
    pub(crate) fn request_refreshes(&mut self, id: PeerId, families: &[Family]) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        if families.is_empty() {
            return;
        }
        let negotiated = peer.session.status().negotiated;
        if negotiated.is_some_and(|negotiated| negotiated.route_refresh) {
            peer.refreshes.extend(families);
        } else {
            warn_once!(
                peer.logged.no_refresh,
                peer = peer.config.name,
                "peer cannot send its routes again (it lacks the ROUTE-REFRESH capability); \
                 paths refused before are accepted when it announces them again or its session is \
                 reset"
            );
        }
    }
}
