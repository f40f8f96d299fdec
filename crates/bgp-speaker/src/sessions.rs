//! The sessions of all peers, and their updates of the RIB.

use std::{io, sync::Arc, time::Instant};

use bgp_packet::{Family, Message, RouterId, Update};
use bgp_rib::{PeerId, Rib, RibConfig};
use bgp_session::{
    Cease, ConnectionId, Negotiated, Session, SessionError, SessionInput, SessionOutput,
};
use tokio::time::error::Elapsed;

use crate::{
    config::{PeerConfig, SpeakerConfig},
    connections::ConnectionTasks,
    counters::SpeakerCounters,
    deadlines::Deadlines,
    journal::{Journal, LoggedOnce},
    messages::{ConnectionEnd, ConnectionOrder},
    observe::Observers,
    peer::{self, Peer, Peers},
    revisions::Revisions,
    status::View,
};

/// Largest number of prefixes in one batch of updates for a connection. The owner prepares a batch
/// of this size without a noticeable delay for other peers.
const UPDATE_BATCH: usize = 2048;

/// The peers with their sessions, and the parts of the speaker that the outputs of a session
/// change.
pub(crate) struct PeerSessions {
    pub(crate) config: SpeakerConfig,
    pub(crate) rib: Rib,
    pub(crate) peers: Peers,
    pub(crate) connections: ConnectionTasks,
    pub(crate) deadlines: Deadlines,
    pub(crate) journal: Journal,
    pub(crate) observers: Observers,
    pub(crate) revisions: Revisions,
    /// Whether the RIB can have pending updates for a peer.
    has_pending_updates: bool,
    /// Seed for the random part of the pauses of the session that is created next.
    next_seed: u64,
}

impl PeerSessions {
    pub(crate) fn new(
        config: SpeakerConfig,
        connections: ConnectionTasks,
        counters: Arc<SpeakerCounters>,
        seed: u64,
    ) -> Self {
        Self {
            rib: Rib::new(RibConfig {
                local_asn: config.local_asn,
                router_id: config.router_id,
                cluster_id: config.cluster_id,
            }),
            config,
            peers: Peers::default(),
            connections,
            deadlines: Deadlines::default(),
            journal: Journal::new(counters),
            observers: Observers::default(),
            revisions: Revisions::new(),
            has_pending_updates: false,
            next_seed: seed,
        }
    }

    /// Applies a changed configuration to a peer and keeps its session.
    pub(crate) fn apply_in_place(&mut self, id: PeerId, config: PeerConfig, now: Instant) {
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        if peer.config == config {
            return;
        }
        peer.config = config;
        self.observers.session_changed(id);
        if peer.can_reconnect() {
            tracing::info!(
                peer = peer.config.name,
                "maximum of paths raised; ending the pause of the peer early"
            );
            self.drive(id, SessionInput::EndPause, now);
            return;
        }
        let negotiated = peer.session.status().negotiated;
        let Some(negotiated) = negotiated.filter(|_| peer.established.is_some()) else {
            return;
        };
        // Under the new configuration, the session logs each kind of line in `LoggedOnce` at most
        // once more.
        peer.logged = LoggedOnce::default();
        let session = peer.config.session.clone();
        let kind = peer::peer_kind(&negotiated, &session);
        tracing::info!(
            peer = peer.config.name,
            "peer configuration changed; keeping the session"
        );
        let families = self
            .rib
            .set_policies(id, kind, session.import, session.export);
        self.has_pending_updates = true;
        self.journal.request_refreshes(peer, &families, now);
        for family in std::mem::take(&mut peer.refreshes) {
            self.drive(id, SessionInput::RequestRefresh(family), now);
        }
    }

    pub(crate) fn add_peer(
        &mut self,
        config: PeerConfig,
        is_dynamic: bool,
        now: Instant,
    ) -> PeerId {
        let settings = config.session.settings(&self.config, config.active);
        let mut session = Session::new(settings, self.next_seed, now);
        self.next_seed = self.next_seed.wrapping_add(1);
        if is_dynamic {
            // Do not call `drive`: it would remove the new peer, because a dynamic peer without a
            // connection is removed.
            session.handle(SessionInput::Start, now);
        }
        let id = self.peers.add(Peer::new(config, is_dynamic, session));
        self.observers.session_changed(id);
        if !is_dynamic {
            self.drive(id, SessionInput::Start, now);
        }
        id
    }

    /// Ends the session with this Cease reason and removes the peer.
    pub(crate) fn remove_peer(&mut self, id: PeerId, cease: Cease, now: Instant) {
        self.drive(id, SessionInput::Stop(cease), now);
        self.drop_peer(id);
    }

    /// Ends a turn: handles the deadlines that have passed, sends updates, publishes the flushed
    /// revision, sends changes to the observers, and logs the number of dropped log lines.
    pub(crate) fn finish_turn(&mut self, now: Instant) {
        while let Some(id) = self.deadlines.pop_due(now) {
            let peer = self.peers.get(id);
            match peer.and_then(|peer| peer.session.next_deadline()) {
                Some(next) if next <= now => self.drive(id, SessionInput::DeadlineReached, now),
                next => self.deadlines.schedule(id, next),
            }
        }
        while std::mem::take(&mut self.has_pending_updates) {
            for id in self.peers.ids() {
                self.send_pending_updates(id, now);
            }
        }
        let established = self.peers.iter().filter_map(|(_, peer)| {
            let is_established = peer.established.is_some();
            is_established.then_some(peer.flushed)
        });
        self.revisions.publish(established);
        self.observers.distribute(&self.peers, &mut self.rib);
        let view = View {
            peers: &self.peers,
            connections: &self.connections,
            rib: &self.rib,
        };
        self.observers.answer(view, now);
        self.journal.log.summarize(now);
    }

    pub(crate) fn accepted(
        &mut self,
        id: PeerId,
        connection: io::Result<ConnectionId>,
        now: Instant,
    ) {
        let input = match connection {
            Ok(connection) => self.connected(id, connection, SessionInput::Accepted),
            Err(error) => {
                tracing::debug!(%error, "accepted connection closed before its session used it");
                // For this input, the session handles only deadlines that have passed. `drive` then
                // removes a dynamic peer that has no connection.
                SessionInput::DeadlineReached
            }
        };
        self.drive(id, input, now);
    }

    /// Marks the attempt to connect as finished. Returns false if the attempt was cancelled.
    pub(crate) fn take_dial(&mut self, id: PeerId, attempt: u64) -> bool {
        let Some(peer) = self.peers.get_mut(id) else {
            return false;
        };
        let finished = peer.dial.take_if(|dial| dial.attempt == attempt);
        finished.is_some()
    }

    pub(crate) fn dialled(
        &mut self,
        id: PeerId,
        result: Result<io::Result<ConnectionId>, Elapsed>,
        now: Instant,
    ) {
        let input = match result {
            Ok(Ok(connection)) => self.connected(id, connection, SessionInput::Connected),
            Err(_elapsed) => {
                self.journal.counters.dials_failed.add(1);
                SessionInput::DialTimedOut
            }
            Ok(Err(error)) => {
                self.journal.counters.dials_failed.add(1);
                SessionInput::DialFailed(error.to_string())
            }
        };
        self.drive(id, input, now);
    }

    fn connected(
        &mut self,
        id: PeerId,
        connection: ConnectionId,
        input: fn(ConnectionId) -> SessionInput,
    ) -> SessionInput {
        if let Some(peer) = self.peers.get_mut(id) {
            peer.connections.push(connection);
        }
        input(connection)
    }

    pub(crate) fn received(
        &mut self,
        connection: ConnectionId,
        messages: Vec<Message>,
        end: Option<ConnectionEnd>,
        now: Instant,
    ) {
        for message in messages {
            // An earlier message of the list can have ended the connection.
            let Some(id) = self.connections.peer_of(connection) else {
                return;
            };
            if let Message::Open(open) = &message
                && !self.identify(id, open.router_id, now)
            {
                return;
            }
            self.drive(id, SessionInput::MessageReceived(connection, message), now);
        }
        match end {
            None => {}
            Some(ConnectionEnd::Lost(problem)) => {
                self.drive_connection(
                    connection,
                    SessionInput::ConnectionLost(connection, problem),
                    now,
                );
            }
            Some(ConnectionEnd::Malformed(error)) => {
                self.drive_connection(connection, SessionInput::Malformed(connection, error), now);
            }
        }
    }

    /// Records the BGP identifier of a dynamic peer. Two dynamic peers with equal address and
    /// identifier are one speaker, so one of them is removed. Returns false if the peer `id` was
    /// removed.
    fn identify(&mut self, id: PeerId, router_id: RouterId, now: Instant) -> bool {
        let Some(peer) = self.peers.get_mut(id).filter(|peer| peer.is_dynamic) else {
            return true;
        };
        let address = peer.config.address.ip();
        let other = self.peers.iter().find(|(other, peer)| {
            *other != id
                && peer.is_dynamic
                && peer.config.address.ip() == address
                && peer.router_id == Some(router_id)
        });
        let other = other.map(|(other, _)| other);
        if let Some(peer) = self.peers.get_mut(id) {
            peer.router_id = Some(router_id);
        }
        let Some((other, duplicate)) = other.and_then(|id| Some((id, self.peers.get_mut(id)?)))
        else {
            return true;
        };
        // RFC 4271 section 6.8: an established connection is kept. Without an established
        // connection, the newer connection is kept, because a speaker opens a connection only when
        // it has given up its previous one.
        let is_refused = duplicate.established.is_some();
        if is_refused {
            self.journal.duplicate(duplicate, router_id, now);
        }
        let removed = if is_refused { id } else { other };
        self.remove_peer(removed, Cease::ConnectionCollisionResolution, now);
        !is_refused
    }

    pub(crate) fn written(&mut self, connection: ConnectionId, updates: u64, now: Instant) {
        let Some(id) = self.connections.updates_written(connection) else {
            return;
        };
        self.journal.counters.updates_sent.add(updates);
        self.drive(id, SessionInput::UpdatesWritten(connection, updates), now);
        self.send_pending_updates(id, now);
    }

    pub(crate) fn drive_connection(
        &mut self,
        connection: ConnectionId,
        input: SessionInput,
        now: Instant,
    ) {
        if let Some(id) = self.connections.peer_of(connection) {
            self.drive(id, input, now);
        }
    }

    /// Passes an input to the session of the peer and performs the outputs. Removes a dynamic peer
    /// that has lost its last connection.
    pub(crate) fn drive(&mut self, id: PeerId, input: SessionInput, now: Instant) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let Some(peer) = self.peers.get_mut(id) else {
                return;
            };
            let state = peer.session.state();
            let failed_at = peer.session.last_error_at();
            let outputs = peer.session.handle(input, now);
            if state != peer.session.state() || failed_at != peer.session.last_error_at() {
                self.observers.session_changed(id);
            }
            for output in outputs {
                inputs.extend(self.perform(id, output, now));
            }
            let peer = self.peers.get_mut(id);
            let refreshes = peer.map(|peer| std::mem::take(&mut peer.refreshes));
            let refreshes = refreshes.into_iter().flatten();
            inputs.extend(refreshes.map(SessionInput::RequestRefresh));
        }
        let Some(peer) = self.peers.get(id) else {
            return;
        };
        let is_abandoned = peer.is_abandoned();
        self.deadlines.schedule(id, peer.session.next_deadline());
        if is_abandoned {
            self.drop_peer(id);
        }
    }

    /// Performs one output of a session. Returns the next input of the session, if the output
    /// results in one.
    fn perform(&mut self, id: PeerId, output: SessionOutput, now: Instant) -> Option<SessionInput> {
        let peer = self.peers.get_mut(id)?;
        match output {
            SessionOutput::Dial => {
                peer.dial = Some(self.connections.dial(id, &peer.config));
                None
            }
            SessionOutput::CancelDial => {
                peer.cancel_dial();
                None
            }
            SessionOutput::Send(connection, message) => self
                .connections
                .order(connection, ConnectionOrder::Send(message)),
            SessionOutput::Poll(connection) => {
                self.connections.order(connection, ConnectionOrder::Poll)
            }
            SessionOutput::SetCodecOptions {
                connection,
                decoder,
                encoder,
            } => {
                let order = ConnectionOrder::SetCodecOptions { decoder, encoder };
                self.connections.order(connection, order)
            }
            SessionOutput::Established(connection, negotiated) => {
                self.established(id, connection, &negotiated, now)
            }
            SessionOutput::Updated(connection, update) => self.updated(id, connection, update, now),
            SessionOutput::RefreshRequested(_, family) => {
                self.refresh(id, family);
                None
            }
            SessionOutput::Down(_, error) => {
                self.down(id, &error, now);
                None
            }
            SessionOutput::Failed(error) => {
                self.journal.failed(&peer.config, &error, now);
                None
            }
            SessionOutput::Close(connection) => {
                peer.connections.retain(|open| *open != connection);
                self.connections.close(connection);
                None
            }
        }
    }

    fn established(
        &mut self,
        id: PeerId,
        connection: ConnectionId,
        negotiated: &Negotiated,
        now: Instant,
    ) -> Option<SessionInput> {
        let peer = self.peers.get_mut(id)?;
        let addresses = self.connections.addresses(connection)?;
        let remote = addresses.remote.ip();
        self.journal
            .established(&peer.config, remote, negotiated, now);
        let settings = peer.established(connection, addresses, negotiated);
        self.rib.add_peer(id, settings);
        self.has_pending_updates = true;
        let order = ConnectionOrder::SetSendHoldTime(negotiated.send_hold_time());
        self.connections.order(connection, order)
    }

    fn refresh(&mut self, id: PeerId, family: Family) {
        self.rib.refresh(id, family);
        self.has_pending_updates = true;
    }

    fn down(&mut self, id: PeerId, error: &SessionError, now: Instant) {
        self.rib.remove_peer(id);
        self.has_pending_updates = true;
        if let Some(peer) = self.peers.get_mut(id) {
            peer.established = None;
            self.journal.lost(&peer.config, error, now);
        }
    }

    fn updated(
        &mut self,
        id: PeerId,
        connection: ConnectionId,
        update: Update,
        now: Instant,
    ) -> Option<SessionInput> {
        let peer = self.peers.get_mut(id)?;
        self.journal.update_received(peer, &update, now);
        self.has_pending_updates = true;
        match self.rib.receive(id, update) {
            Ok(outcome) => {
                let paths = self.rib.counts(id).paths_received;
                self.journal.record_rejections(peer, &outcome, paths, now);
                self.journal
                    .request_refreshes(peer, &outcome.unblocked, now);
                None
            }
            Err(exceeded) => {
                peer.exceeded = Some(exceeded.limit);
                Some(SessionInput::Refuse {
                    connection,
                    problem: exceeded.to_string(),
                    notification: Cease::MaximumPaths.notification(),
                    pause: peer.config.session.maximum_paths_pause,
                })
            }
        }
    }

    /// Sends the next batch of updates to the established connection of the peer, if this
    /// connection has written its previous batch. If no update is pending, records the current
    /// revision as flushed.
    fn send_pending_updates(&mut self, id: PeerId, now: Instant) {
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        let Some(connection) = peer.established else {
            return;
        };
        if !self.connections.takes_updates(connection) {
            return;
        }
        while self.rib.has_pending(id) {
            let updates = self.rib.take_pending(id, UPDATE_BATCH);
            if updates.is_empty() {
                continue;
            }
            if let Some(lost) = self.connections.order_updates(connection, updates) {
                self.drive(id, lost, now);
            }
            return;
        }
        peer.flushed = self.revisions.current();
    }

    /// Removes a peer that has no connection, and cancels its dial and its deadline.
    fn drop_peer(&mut self, id: PeerId) {
        let Some(mut peer) = self.peers.remove(id) else {
            return;
        };
        peer.cancel_dial();
        self.deadlines.remove(id);
        if peer.is_dynamic {
            self.journal.address_has_room(peer.config.address.ip());
        }
        self.observers.session_removed(id, peer.config.name);
    }

    pub(crate) fn view(&self) -> View<'_> {
        View {
            peers: &self.peers,
            connections: &self.connections,
            rib: &self.rib,
        }
    }

    pub(crate) fn own_path_changed(&mut self) -> u64 {
        self.has_pending_updates = true;
        self.revisions.next()
    }
}
