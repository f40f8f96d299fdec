//! Drives the sessions of all peers, and passes their routes through the RIB.

use std::{io, sync::Arc, time::Instant};

use bgp_packet::{Family, Message, RouterId, Update};
use bgp_rib::{PeerId, Rib, RibConfig};
use bgp_session::{Cease, ConnectionId, Input, Negotiated, Output, Session, SessionError};
use tokio::time::error::Elapsed;

use crate::{
    config::{PeerConfig, SpeakerConfig},
    connections::Connections,
    counters::SpeakerCounters,
    deadlines::Deadlines,
    journal::{Journal, LoggedOnce},
    messages::{ConnectionEnd, Order},
    observe::Observers,
    peer::{self, Peer, Peers},
    revisions::Revisions,
    status::View,
};

/// Prefixes of one batch of updates: enough to fill a socket's buffer, few enough to answer other
/// peers meanwhile.
const UPDATES: usize = 2048;

/// The sessions, and the parts that they act on. Each part owns its state.
pub(crate) struct Sessions {
    pub(crate) config: SpeakerConfig,
    pub(crate) rib: Rib,
    pub(crate) peers: Peers,
    pub(crate) connections: Connections,
    pub(crate) deadlines: Deadlines,
    pub(crate) journal: Journal,
    pub(crate) observers: Observers,
    pub(crate) revisions: Revisions,
    /// Whether any peer may have updates pending.
    is_pump_due: bool,
    /// Seed of the jitter of the next session.
    next_seed: u64,
}

impl Sessions {
    pub(crate) fn new(
        config: SpeakerConfig,
        connections: Connections,
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
            is_pump_due: false,
            next_seed: seed,
        }
    }

    /// Gives a peer a configuration that needs no new session.
    pub(crate) fn apply_in_place(&mut self, id: PeerId, config: PeerConfig, now: Instant) {
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        if peer.config == config {
            return;
        }
        peer.config = config;
        self.observers.session_changed(id);
        if peer.may_return() {
            tracing::info!(
                peer = peer.config.name,
                "maximum of paths raised; the peer may connect before its pause is over"
            );
            self.drive(id, Input::EndPause, now);
            return;
        }
        let negotiated = peer.session.status().negotiated;
        let Some(negotiated) = negotiated.filter(|_| peer.established.is_some()) else {
            return;
        };
        // A refusal or a nearly full table under the new configuration has a line of its own.
        peer.logged = LoggedOnce::default();
        let session = peer.config.session.clone();
        let kind = peer::kind(&negotiated, &session);
        tracing::info!(
            peer = peer.config.name,
            "configuration of the peer changed; its session stays"
        );
        let families = self
            .rib
            .set_policies(id, kind, session.import, session.export);
        self.is_pump_due = true;
        self.journal.request_refreshes(peer, &families, now);
        for family in std::mem::take(&mut peer.refreshes) {
            self.drive(id, Input::RequestRefresh(family), now);
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
            // Started here, since `drive` forgets a dynamic peer that has no connection.
            session.handle(Input::Start, now);
        }
        let id = self.peers.add(Peer::new(config, is_dynamic, session));
        self.observers.session_changed(id);
        if !is_dynamic {
            self.drive(id, Input::Start, now);
        }
        id
    }

    /// Ends the session and drops the peer.
    pub(crate) fn remove_peer(&mut self, id: PeerId, cease: Cease, now: Instant) {
        self.drive(id, Input::Stop(cease), now);
        self.forget(id);
    }

    /// Handles the deadlines that have come, sends updates, and answers observers.
    pub(crate) fn finish_turn(&mut self, now: Instant) {
        while let Some(id) = self.deadlines.pop_due(now) {
            let peer = self.peers.get(id);
            match peer.and_then(|peer| peer.session.next_deadline()) {
                Some(next) if next <= now => self.drive(id, Input::DeadlineReached, now),
                next => self.deadlines.schedule(id, next),
            }
        }
        while std::mem::take(&mut self.is_pump_due) {
            for id in self.peers.ids() {
                self.pump(id, now);
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
            Ok(connection) => self.connected(id, connection, Input::Accepted),
            Err(error) => {
                tracing::debug!(%error, "accepted connection lost");
                // The session has nothing to know, but a dynamic peer without a connection goes.
                Input::DeadlineReached
            }
        };
        self.drive(id, input, now);
    }

    /// Takes the attempt to connect off the peer. Returns false if it has been abandoned.
    pub(crate) fn take_dial(&mut self, id: PeerId, attempt: u64) -> bool {
        let Some(peer) = self.peers.get_mut(id) else {
            return false;
        };
        let taken = peer.dial.take_if(|dial| dial.attempt == attempt);
        taken.is_some()
    }

    pub(crate) fn dialled(
        &mut self,
        id: PeerId,
        result: Result<io::Result<ConnectionId>, Elapsed>,
        now: Instant,
    ) {
        let input = match result {
            Ok(Ok(connection)) => self.connected(id, connection, Input::Connected),
            Err(_elapsed) => {
                self.journal.counters.dials_failed.add(1);
                Input::DialTimedOut
            }
            Ok(Err(error)) => {
                self.journal.counters.dials_failed.add(1);
                Input::DialFailed(error.to_string())
            }
        };
        self.drive(id, input, now);
    }

    fn connected(
        &mut self,
        id: PeerId,
        connection: ConnectionId,
        input: fn(ConnectionId) -> Input,
    ) -> Input {
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
            // Any of them may have ended the connection.
            let Some(id) = self.connections.peer_of(connection) else {
                return;
            };
            if let Message::Open(open) = &message
                && !self.identify(id, open.router_id, now)
            {
                return;
            }
            self.drive(id, Input::MessageReceived(connection, message), now);
        }
        match end {
            None => {}
            Some(ConnectionEnd::Lost(problem)) => {
                self.drive_connection(connection, Input::ConnectionLost(connection, problem), now);
            }
            Some(ConnectionEnd::Malformed(error)) => {
                self.drive_connection(connection, Input::Malformed(connection, error), now);
            }
        }
    }

    /// Takes note of the BGP identifier of a dynamic peer. Of two peers with the same address and
    /// identifier one is removed, since they are one speaker. Returns whether the peer stays.
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
        // RFC 4271 section 6.8: an established connection stays. Otherwise the speaker opens one
        // connection at a time, so it has given up the earlier one.
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
        self.drive(id, Input::UpdatesWritten(connection, updates), now);
        self.pump(id, now);
    }

    pub(crate) fn drive_connection(
        &mut self,
        connection: ConnectionId,
        input: Input,
        now: Instant,
    ) {
        if let Some(id) = self.connections.peer_of(connection) {
            self.drive(id, input, now);
        }
    }

    /// Gives the session its input and performs its outputs.
    pub(crate) fn drive(&mut self, id: PeerId, input: Input, now: Instant) {
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
            inputs.extend(refreshes.map(Input::RequestRefresh));
        }
        let Some(peer) = self.peers.get(id) else {
            return;
        };
        let is_gone = peer.is_gone();
        self.deadlines.schedule(id, peer.session.next_deadline());
        if is_gone {
            self.forget(id);
        }
    }

    /// Returns the next input of the session that follows from the output, if any.
    fn perform(&mut self, id: PeerId, output: Output, now: Instant) -> Option<Input> {
        let peer = self.peers.get_mut(id)?;
        match output {
            Output::Dial => {
                peer.dial = Some(self.connections.dial(id, &peer.config));
                None
            }
            Output::AbandonDial => {
                peer.abandon_dial();
                None
            }
            Output::Send(connection, message) => {
                self.connections.order(connection, Order::Send(message))
            }
            Output::Poll(connection) => self.connections.order(connection, Order::Poll),
            Output::SetCodecOptions {
                connection,
                decoder,
                encoder,
            } => {
                let order = Order::SetCodecOptions { decoder, encoder };
                self.connections.order(connection, order)
            }
            Output::Established(connection, negotiated) => {
                self.established(id, connection, &negotiated, now)
            }
            Output::Updated(connection, update) => self.updated(id, connection, update, now),
            Output::RefreshRequested(_, family) => {
                self.refresh(id, family);
                None
            }
            Output::Down(_, error) => {
                self.down(id, &error, now);
                None
            }
            Output::Failed(error) => {
                self.journal.failed(&peer.config, &error, now);
                None
            }
            Output::Close(connection) => {
                peer.connections.retain(|it| *it != connection);
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
    ) -> Option<Input> {
        let peer = self.peers.get_mut(id)?;
        let addresses = self.connections.addresses(connection)?;
        let remote = addresses.remote.ip();
        self.journal
            .established(&peer.config, remote, negotiated, now);
        let settings = peer.established(connection, addresses, negotiated);
        self.rib.add_peer(id, settings);
        self.is_pump_due = true;
        let order = Order::SetSendHoldTime(negotiated.send_hold_time());
        self.connections.order(connection, order)
    }

    fn refresh(&mut self, id: PeerId, family: Family) {
        self.rib.refresh(id, family);
        self.is_pump_due = true;
    }

    fn down(&mut self, id: PeerId, error: &SessionError, now: Instant) {
        self.rib.remove_peer(id);
        self.is_pump_due = true;
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
    ) -> Option<Input> {
        let peer = self.peers.get_mut(id)?;
        self.journal.update_received(peer, &update, now);
        self.is_pump_due = true;
        match self.rib.receive(id, update) {
            Ok(outcome) => {
                let paths = self.rib.counts(id).paths_received;
                self.journal.not_accepted(peer, &outcome, paths, now);
                self.journal
                    .request_refreshes(peer, &outcome.unblocked, now);
                None
            }
            Err(exceeded) => {
                peer.exceeded = Some(exceeded.limit);
                Some(Input::Refuse {
                    connection,
                    problem: exceeded.to_string(),
                    notification: Cease::MaximumPaths.notification(),
                    pause: peer.config.session.maximum_paths_pause,
                })
            }
        }
    }

    /// Gives the peer's connection the next updates, if it has written the last ones.
    fn pump(&mut self, id: PeerId, now: Instant) {
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
            let updates = self.rib.take_pending(id, UPDATES);
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

    /// Drops a peer without a connection.
    fn forget(&mut self, id: PeerId) {
        let Some(mut peer) = self.peers.remove(id) else {
            return;
        };
        peer.abandon_dial();
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
        self.is_pump_due = true;
        self.revisions.next()
    }
}
