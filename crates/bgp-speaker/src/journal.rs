//! Counts, log lines and the list of refused sessions.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use bgp_packet::{Family, RouterId, Update};
use bgp_rib::{ReceiveOutcome, RejectReason};
use bgp_session::{FailureReason, Negotiated, SessionError};

use crate::{
    config::{GroupConfig, PeerConfig},
    counters::SpeakerCounters,
    peer::Peer,
    refused_sessions::{Refusal, RefusedSessions},
    session_log::SessionLog,
};

/// For so long after a session has come up, a further connection from its peer counts as the loser of
/// a collision (RFC 4271 section 6.8) that was still on its way.
const COLLISION_WINDOW: Duration = Duration::from_secs(5);

/// What is counted, logged and remembered of the sessions.
pub(crate) struct Journal {
    pub(crate) counters: Arc<SpeakerCounters>,
    pub(crate) log: SessionLog,
    pub(crate) refused_sessions: RefusedSessions,
    /// Names of the groups whose maximum of peers has been logged. A name leaves the set when the group
    /// has room again.
    full_groups: BTreeSet<String>,
    /// Addresses whose maximum of peers has been logged. An address leaves the set when one of its
    /// peers does.
    full_addresses: BTreeSet<IpAddr>,
}

/// Lines at INFO or WARN that a session has logged, each once at most. Each of them also needs a line
/// of the address's budget, see [`SessionLog::allows_once`].
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

/// Reports whether the peer holds four fifths of the paths that it may have.
fn is_near(paths: usize, maximum_paths: u32) -> bool {
    paths.saturating_mul(5) >= (maximum_paths as usize).saturating_mul(4)
}

impl Journal {
    pub(crate) fn new(counters: Arc<SpeakerCounters>) -> Self {
        Self {
            counters,
            log: SessionLog::default(),
            refused_sessions: RefusedSessions::default(),
            full_groups: BTreeSet::new(),
            full_addresses: BTreeSet::new(),
        }
    }

    pub(crate) fn established(
        &mut self,
        peer: &PeerConfig,
        remote: IpAddr,
        negotiated: &Negotiated,
        now: Instant,
    ) {
        if self.log.allows(remote, now) {
            tracing::info!(
                peer = peer.name,
                peer_asn = negotiated.peer_asn.0,
                peer_router_id = %negotiated.peer_router_id,
                hold_time = ?negotiated.hold_time,
                families = ?negotiated.families,
                "session established"
            );
        }
        self.counters.sessions_established.add(1);
        self.refused_sessions.came_up(remote);
    }

    pub(crate) fn lost(&mut self, peer: &PeerConfig, error: &SessionError, now: Instant) {
        self.counters.sessions_lost.add(1);
        let name = &peer.name;
        let reason = error.reason();
        if !self.log.allows(peer.address.ip(), now) {
            tracing::debug!(peer = name, %reason, %error, "session ended");
        } else if error.is_deliberate() {
            tracing::info!(peer = name, %reason, %error, "session ended by an operator");
        } else {
            tracing::warn!(peer = name, %reason, %error, "session lost");
        }
    }

    /// Counts and remembers that a session did not come up, unless this side wanted it so.
    pub(crate) fn failed(&mut self, peer: &PeerConfig, error: &SessionError, now: Instant) {
        if matches!(error, SessionError::Ceased(_)) && error.is_deliberate() {
            return;
        }
        let refusal = Refusal {
            peer: peer.name.clone(),
            group: peer.group.clone(),
            reason: error.reason(),
            error: error.to_string(),
        };
        self.refused(peer.address.ip(), refusal, now);
    }

    /// Counts and remembers a session that did not come up, and logs it if a line is due.
    pub(crate) fn refused(&mut self, address: IpAddr, refusal: Refusal, now: Instant) {
        self.counters.sessions_refused.add(refusal.reason);
        let due = self.refused_sessions.record(address, refusal.clone(), now);
        let Refusal {
            peer,
            group,
            reason,
            error,
        } = refusal;
        match due.filter(|_| self.log.allows(address, now)) {
            Some(count) => tracing::warn!(
                %address, peer, group, %reason, error, count, "session did not come up"
            ),
            None => tracing::debug!(
                %address, peer, group, %reason, error, "session did not come up"
            ),
        }
    }

    /// Has the maximums of peers logged again: the groups have changed.
    pub(crate) fn groups_changed(&mut self) {
        self.full_groups.clear();
        self.full_addresses.clear();
    }

    pub(crate) fn group_has_room(&mut self, group: &str) {
        self.full_groups.remove(group);
    }

    /// Notes that a dynamic peer of the address has been removed.
    pub(crate) fn address_has_room(&mut self, address: IpAddr) {
        self.full_addresses.remove(&address);
    }

    pub(crate) fn address_is_full(
        &mut self,
        remote: SocketAddr,
        group: &GroupConfig,
        peers: usize,
        now: Instant,
    ) {
        self.counters.connections_over_address_maximum.add(1);
        let address = remote.ip();
        let is_due = !self.full_addresses.contains(&address) && self.log.allows(address, now);
        if is_due {
            self.full_addresses.insert(address);
        }
        warn_once!(
            is_due,
            %remote,
            group = group.name,
            peers,
            "connection refused: its address has its maximum of peers; raise \
             maximumPeersPerAddress of the group if more speakers share the address"
        );
        let error = format!("the address has its maximum of {peers} peers");
        self.refused_by_group(address, group, FailureReason::AddressFull, error, now);
    }

    pub(crate) fn group_is_full(&mut self, remote: SocketAddr, group: &GroupConfig, now: Instant) {
        self.counters.strangers_refused.add(1);
        let address = remote.ip();
        let is_due = !self.full_groups.contains(&group.name) && self.log.allows(address, now);
        if is_due {
            self.full_groups.insert(group.name.clone());
        }
        warn_once!(
            is_due,
            %remote,
            group = group.name,
            "connection refused: the group is full"
        );
        let error = format!("the group has its maximum of {} peers", group.maximum_peers);
        self.refused_by_group(address, group, FailureReason::GroupFull, error, now);
    }

    fn refused_by_group(
        &mut self,
        address: IpAddr,
        group: &GroupConfig,
        reason: FailureReason,
        error: String,
        now: Instant,
    ) {
        let refusal = Refusal {
            peer: address.to_string(),
            group: Some(group.name.clone()),
            reason,
            error,
        };
        self.refused(address, refusal, now);
    }

    /// Counts a connection of the peer. If the session is established, it refuses the connection (RFC
    /// 4271 section 6.8), which is logged once for each session.
    pub(crate) fn accepted(&mut self, peer: &mut Peer, now: Instant) {
        self.counters.connections_accepted.add(1);
        if peer.established.is_none() {
            return;
        }
        self.counters.duplicates_refused.add(1);
        let established_for = now.saturating_duration_since(peer.session.status().since);
        let address = peer.config.address.ip();
        let log = &mut self.log;
        warn_once!(
            established_for >= COLLISION_WINDOW
                && log.allows_once(&mut peer.logged.duplicate, address, now),
            peer = peer.config.name,
            %address,
            "connection refused: the session of this peer is established; the peer has lost its \
             connection, or a second speaker has the same address, in which case let it connect \
             from an address of its own"
        );
    }

    /// Counts and logs a connection that gives way to the established session of the peer.
    pub(crate) fn duplicate(&mut self, peer: &mut Peer, router_id: RouterId, now: Instant) {
        self.counters.duplicates_refused.add(1);
        let address = peer.config.address.ip();
        warn_once!(
            self.log.allows_once(&mut peer.logged.duplicate, address, now),
            peer = peer.config.name,
            %router_id,
            "connection refused: a session with this address and BGP identifier is \
             established; if two speakers share the address, give each its own identifier, \
             or do not masquerade their connections to this speaker"
        );
    }

    /// Counts an UPDATE message, and logs its first malformed attribute.
    pub(crate) fn update_received(&mut self, peer: &mut Peer, update: &Update, now: Instant) {
        self.counters.updates_received.add(1);
        let Some(error) = update.errors.first() else {
            return;
        };
        self.counters.updates_malformed.add(1);
        let address = peer.config.address.ip();
        warn_once!(
            self.log.allows_once(&mut peer.logged.malformed, address, now),
            peer = peer.config.name,
            attribute = error.type_code,
            disposition = ?error.disposition,
            problem = error.problem,
            "malformed attribute in UPDATE"
        );
    }

    /// Counts and logs what was not accepted of an UPDATE message. The peer holds `paths` paths.
    pub(crate) fn not_accepted(
        &mut self,
        peer: &mut Peer,
        outcome: &ReceiveOutcome,
        paths: usize,
        now: Instant,
    ) {
        let name = &peer.config.name;
        let logged = &mut peer.logged;
        let address = peer.config.address.ip();
        let log = &mut self.log;
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
    pub(crate) fn request_refreshes(&mut self, peer: &mut Peer, families: &[Family], now: Instant) {
        if families.is_empty() {
            return;
        }
        let negotiated = peer.session.status().negotiated;
        if negotiated.is_some_and(|negotiated| negotiated.route_refresh) {
            peer.refreshes.extend(families);
            return;
        }
        let address = peer.config.address.ip();
        warn_once!(
            self.log
                .allows_once(&mut peer.logged.no_refresh, address, now),
            peer = peer.config.name,
            "peer cannot send its routes again (it lacks the ROUTE-REFRESH capability); \
             paths refused before are accepted when it announces them again or its session is \
             reset"
        );
    }
}
