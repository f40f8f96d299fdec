//! Announcements that were not accepted: counted, logged, and asked for again.

use std::time::Instant;

use bgp_packet::Family;
use bgp_rib::{PeerId, ReceiveOutcome, RejectReason};

use crate::owner::Owner;

/// Lines at INFO or WARN that a session has logged, each once at most. Each of them also needs a line
/// of the address's budget, see
/// [`SessionLog::allows_once`](crate::session_log::SessionLog::allows_once).
#[derive(Default)]
pub(crate) struct LoggedOnce {
    pub(crate) rejected: bool,
    pub(crate) malformed: bool,
    pub(crate) discarded: bool,
    pub(crate) near_maximum: bool,
    pub(crate) over_maximum: bool,
    pub(crate) no_refresh: bool,
    pub(crate) duplicate: bool,
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
        let address = peer.config.address.ip();
        let now = Instant::now();
        let log = &mut self.session_log;
        let discarded = outcome.discarded_attributes as u64;
        self.counters.attributes_discarded.add(discarded);
        let clamped = outcome.clamped_attributes as u64;
        self.counters.attributes_clamped.add(clamped);
        if discarded > 0 && log.allows_once(&mut logged.discarded, address, now) {
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
                log.allows_once(&mut logged.rejected, address, now),
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
        if is_near(paths, maximum_paths) && log.allows_once(&mut logged.near_maximum, address, now)
        {
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
                log.allows_once(&mut logged.over_maximum, address, now),
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
            let address = peer.config.address.ip();
            let log = &mut self.session_log;
            warn_once!(
                log.allows_once(&mut peer.logged.no_refresh, address, Instant::now()),
                peer = peer.config.name,
                "peer cannot send its routes again (it lacks the ROUTE-REFRESH capability); \
                 paths refused before are accepted when it announces them again or its session is \
                 reset"
            );
        }
    }
}
