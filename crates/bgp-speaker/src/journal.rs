//! Counters, log messages and the list of refused sessions.

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
    refused_sessions::{RefusedSessions, SessionRefusal},
    session_log::SessionLog,
};

/// If a peer opens a further connection within this time after its session was established, the
/// further connection is possibly the loser of a collision (RFC 4271 section 6.8), so its refusal
/// is logged at DEBUG. From the end of this time, such a refusal is logged at WARN.
const COLLISION_WINDOW: Duration = Duration::from_secs(5);

/// The counters, the log and the refused sessions of a speaker.
pub(crate) struct Journal {
    pub(crate) counters: Arc<SpeakerCounters>,
    pub(crate) log: SessionLog,
    pub(crate) refused_sessions: RefusedSessions,
    /// Names of the groups that have reached their maximum number of peers (`maximumPeers`), and
    /// have a WARN line about it. A name is removed when its group accepts a further peer, and when
    /// the configuration changes.
    full_groups: BTreeSet<String>,
    /// Addresses that have reached the maximum number of peers of one address
    /// (`maximumPeersPerAddress`), and have a WARN line about it. An address is removed when one of
    /// its peers is removed, and when the configuration changes.
    full_addresses: BTreeSet<IpAddr>,
}

/// The kinds of log lines at INFO or WARN that a session has logged. A session logs each kind once,
/// and only within the line limit of its address, see [`SessionLog::allows_once`].
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

/// Reports whether the number of paths is at least 80 % of the maximum.
fn is_near_maximum(paths: usize, maximum_paths: u32) -> bool {
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
        self.refused_sessions.session_established(remote);
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

    /// Counts and records that a session was not established, except if an operator of this speaker
    /// ended the session or changed its configuration.
    pub(crate) fn failed(&mut self, peer: &PeerConfig, error: &SessionError, now: Instant) {
        if matches!(error, SessionError::Ceased(_)) && error.is_deliberate() {
            return;
        }
        let refusal = SessionRefusal {
            peer: peer.name.clone(),
            group: peer.group.clone(),
            reason: error.reason(),
            error: error.to_string(),
        };
        self.refused(peer.address.ip(), refusal, now);
    }

    /// Counts and records that a session was not established. Logs the failure at WARN if
    /// [`RefusedSessions::record`] and the line limit of the address allow it, otherwise at DEBUG.
    pub(crate) fn refused(&mut self, address: IpAddr, refusal: SessionRefusal, now: Instant) {
        self.counters.sessions_refused.add(refusal.reason);
        let due = self.refused_sessions.record(address, refusal.clone(), now);
        let SessionRefusal {
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

    /// Forgets which groups and addresses have a log line about their maximum number of peers.
    /// After a change of the groups, the next refusal because of such a maximum is logged at WARN.
    pub(crate) fn groups_changed(&mut self) {
        self.full_groups.clear();
        self.full_addresses.clear();
    }

    pub(crate) fn group_has_room(&mut self, group: &str) {
        self.full_groups.remove(group);
    }

    /// Records that a dynamic peer of the address was removed, so that the address can have a
    /// further peer.
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
            "connection refused: the remote address has reached its maximum number of peers; raise \
             maximumPeersPerAddress of the peer group if more speakers share this address"
        );
        let error = format!("the address has reached its maximum of {peers} peers");
        self.refused_by_group(address, group, FailureReason::AddressFull, error, now);
    }

    pub(crate) fn group_is_full(&mut self, remote: SocketAddr, group: &GroupConfig, now: Instant) {
        self.counters.connections_without_peer.add(1);
        let address = remote.ip();
        let is_due = !self.full_groups.contains(&group.name) && self.log.allows(address, now);
        if is_due {
            self.full_groups.insert(group.name.clone());
        }
        warn_once!(
            is_due,
            %remote,
            group = group.name,
            "connection refused: the peer group has reached its maximum number of peers; raise \
             maximumPeers of the group if more peers are expected"
        );
        let error = format!(
            "the group has reached its maximum of {} peers",
            group.maximum_peers
        );
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
        let refusal = SessionRefusal {
            peer: address.to_string(),
            group: Some(group.name.clone()),
            reason,
            error,
        };
        self.refused(address, refusal, now);
    }

    /// Counts an accepted connection of the peer. An established session refuses the connection
    /// (RFC 4271 section 6.8). The refusal is logged at WARN once for each session, and only after
    /// [`COLLISION_WINDOW`].
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
            "connection refused: the peer already has an established session; either the peer has \
             lost its old connection, or a second speaker uses the same address: give each \
             speaker its own address"
        );
    }

    /// Counts and logs a connection that is refused because its address and BGP identifier are
    /// equal to the address and BGP identifier of the established session of `peer`.
    pub(crate) fn duplicate(&mut self, peer: &mut Peer, router_id: RouterId, now: Instant) {
        self.counters.duplicates_refused.add(1);
        let address = peer.config.address.ip();
        warn_once!(
            self.log.allows_once(&mut peer.logged.duplicate, address, now),
            peer = peer.config.name,
            %router_id,
            "connection refused: a session with this address and BGP identifier is \
             established; if two speakers share the address, give each speaker its own \
             identifier, or do not masquerade their connections to this speaker"
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
            "malformed attribute in UPDATE; keeping the session"
        );
    }

    /// Counts and logs the paths and attributes of an UPDATE message that were not accepted.
    /// `paths` is the number of accepted paths of the peer after this message.
    pub(crate) fn record_rejections(
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
                "import policy discarded attributes of unknown types; further discards are only \
                 counted"
            );
        }
        let (over_maximum, rejected): (Vec<_>, Vec<_>) = outcome
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
        if is_near_maximum(paths, maximum_paths)
            && log.allows_once(&mut logged.near_maximum, address, now)
        {
            tracing::warn!(
                peer = name,
                paths,
                maximum_paths,
                action = ?peer.config.session.import.at_maximum,
                "peer has reached 80 % of its maximum of paths"
            );
        }
        if let Some((nlri, _)) = over_maximum.first() {
            let count = over_maximum.len() as u64;
            self.counters.paths_over_maximum.add(count);
            warn_once!(
                log.allows_once(&mut logged.over_maximum, address, now),
                peer = name,
                prefix = %nlri.prefix,
                maximum_paths,
                count,
                "path refused: the peer has reached its maximum of paths; raise maximumPaths of \
                 its group"
            );
        }
    }

    /// Schedules a request to the peer to send its routes of these families again (RFC 2918). Logs
    /// a warning instead if the peer lacks the ROUTE-REFRESH capability.
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
            "peer lacks the ROUTE-REFRESH capability; paths that were refused stay missing until \
             the peer announces them again or its session is reset"
        );
    }
}
