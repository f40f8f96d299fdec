//! A peer: its session driven, and what the session wants done.

use std::{collections::BTreeSet, io, net::IpAddr, time::Instant};

use bgp_packet::{Family, Message, RouterId};
use bgp_rib::{FamilySettings, LocalAddresses, MaximumPathsAction, PeerId, PeerKind, PeerSettings};
use bgp_session::{
    Cease, ConnectionId, Input, Negotiated, Output, Session, SessionError, SessionState,
};
use tokio::{
    net::TcpStream,
    sync::mpsc::{self, error::TrySendError},
    task::AbortHandle,
    time::error::Elapsed,
};

use crate::{
    config::{PeerConfig, SessionConfig},
    connection::{Connection, End, Order},
    owner::{News, Owner},
    refused::LoggedOnce,
    socket,
};

/// Orders that may wait for one connection. Its owner never gives more than one batch of updates,
/// so that they are mostly keepalives.
const ORDERS: usize = 16;

/// Prefixes of one batch of updates: enough to fill a socket's buffer, few enough to answer other
/// peers meanwhile.
const UPDATES: usize = 2048;

pub(crate) fn kind(negotiated: &Negotiated, session: &SessionConfig) -> PeerKind {
    match (negotiated.internal, session.is_client) {
        (false, _) => PeerKind::External,
        (true, true) => PeerKind::Client,
        (true, false) => PeerKind::NonClient,
    }
}

pub(crate) struct Peer {
    pub(crate) config: PeerConfig,
    pub(crate) is_dynamic: bool,
    pub(crate) session: Session,
    /// BGP identifier of its OPEN. Two speakers behind one masqueraded address differ in it.
    router_id: Option<RouterId>,
    /// The maximum of paths that it exceeded, for which it is kept out.
    exceeded: Option<u32>,
    /// Number of the attempt to connect that is under way.
    dial: Option<(u64, AbortHandle)>,
    pub(crate) connections: Vec<ConnectionId>,
    pub(crate) established: Option<ConnectionId>,
    /// Revision of our own paths up to which everything has been written to it.
    pub(crate) flushed: u64,
    /// Its entry among the owner's deadlines.
    pub(crate) scheduled: Option<Instant>,
    /// Since the session came up, or since its configuration changed.
    pub(crate) logged: LoggedOnce,
    /// Families that the peer is to be asked for again, see [`Owner::request_refreshes`].
    pub(crate) refreshes: BTreeSet<Family>,
}

/// The owner's side of a connection.
pub(crate) struct Link {
    peer: PeerId,
    orders: mpsc::Sender<Order>,
    /// A batch of updates has not been written yet.
    is_writing: bool,
    pub(crate) local: std::net::SocketAddr,
    pub(crate) remote: std::net::SocketAddr,
}

impl Peer {
    pub(crate) fn new(config: PeerConfig, is_dynamic: bool, session: Session) -> Self {
        Self {
            config,
            is_dynamic,
            session,
            router_id: None,
            exceeded: None,
            dial: None,
            connections: Vec::new(),
            established: None,
            flushed: 0,
            scheduled: None,
            logged: LoggedOnce::default(),
            refreshes: BTreeSet::new(),
        }
    }

    /// Whether a connection from the address can only be one of this peer. A dynamic peer may share
    /// its address with other speakers, unless it is kept out.
    pub(crate) fn owns(&self, address: IpAddr) -> bool {
        self.config.passive
            && self.config.address.ip() == address
            && (!self.is_dynamic || self.session.state() == SessionState::Idle)
    }

    /// Whether this side does not know the speaker yet.
    pub(crate) fn waits_for_open(&self) -> bool {
        self.is_dynamic && self.router_id.is_none()
    }

    /// Whether the peer is kept out for a maximum of paths that its configuration has raised.
    pub(crate) fn may_return(&self) -> bool {
        let import = &self.config.session.import;
        self.session.state() == SessionState::Idle
            && self.exceeded.is_some_and(|exceeded| {
                import.at_maximum == MaximumPathsAction::Block
                    || import
                        .maximum_paths
                        .is_none_or(|maximum| maximum > exceeded)
            })
    }
}

impl Owner {
    /// Tells the session what happened and does what it wants to have done.
    pub(crate) fn drive(&mut self, id: PeerId, input: Input, now: Instant) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let Some(peer) = self.peers.get_mut(&id) else {
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
            let peer = self.peers.get_mut(&id);
            let refreshes = peer.map(|peer| std::mem::take(&mut peer.refreshes));
            let refreshes = refreshes.into_iter().flatten();
            inputs.extend(refreshes.map(Input::RequestRefresh));
        }
        self.schedule(id);
        let is_gone = self.peers.get(&id).is_some_and(|peer| {
            peer.is_dynamic
                && peer.connections.is_empty()
                && peer.session.state() == SessionState::Active
        });
        if is_gone {
            self.forget(id);
        }
    }

    /// Returns what the session has to be told in turn.
    fn perform(&mut self, id: PeerId, output: Output, now: Instant) -> Option<Input> {
        match output {
            Output::Dial => {
                self.dial(id);
                None
            }
            Output::AbandonDial => {
                self.abandon_dial(id);
                None
            }
            Output::Send(connection, message) => self.order(connection, Order::Send(message)),
            Output::Poll(connection) => self.order(connection, Order::Poll),
            Output::SetCodecOptions {
                connection,
                decoder,
                encoder,
            } => self.order(connection, Order::SetCodecOptions { decoder, encoder }),
            Output::Established(connection, negotiated) => {
                self.established(id, connection, &negotiated)
            }
            Output::Updated(connection, update) => self.updated(id, connection, update),
            Output::RefreshRequested(_, family) => {
                self.rib.refresh(id, family);
                self.is_pump_due = true;
                None
            }
            Output::Down(_, error) => {
                self.down(id, &error);
                None
            }
            Output::Failed(error) => {
                self.session_failed(id, &error, now);
                None
            }
            Output::Close(connection) => {
                self.links.remove(&connection);
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.connections.retain(|it| *it != connection);
                }
                None
            }
        }
    }

    fn dial(&mut self, id: PeerId) {
        self.next_dial += 1;
        let attempt = self.next_dial;
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        self.counters.dials.add(1);
        let (remote, local) = (peer.config.address, peer.config.local_address);
        let key = peer.config.session.md5_key.clone();
        let patience = peer.config.session.connect_timeout;
        let news = self.news_sender.clone();
        let task = self.tasks.spawn(async move {
            let result = socket::connect_within(patience, remote, local, key).await;
            let dialled = News::Dialled {
                peer: id,
                attempt,
                result,
            };
            // Without an owner there is nobody who wants the connection.
            let _ = news.send(dialled).await;
        });
        peer.dial = Some((attempt, task));
    }

    pub(crate) fn abandon_dial(&mut self, id: PeerId) {
        if let Some(peer) = self.peers.get_mut(&id)
            && let Some((_, task)) = peer.dial.take()
        {
            task.abort();
        }
    }

    pub(crate) fn dialled(
        &mut self,
        id: PeerId,
        attempt: u64,
        result: Result<io::Result<TcpStream>, Elapsed>,
        now: Instant,
    ) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        if peer
            .dial
            .as_ref()
            .is_none_or(|(current, _)| *current != attempt)
        {
            return;
        }
        peer.dial = None;
        let connection = result.map(|result| result.and_then(|stream| self.connect(id, stream)));
        let input = match connection {
            Ok(Ok(connection)) => Input::Connected(connection),
            Err(_elapsed) => {
                self.counters.dials_failed.add(1);
                Input::DialTimedOut
            }
            Ok(Err(error)) => {
                self.counters.dials_failed.add(1);
                if let Some(peer) = self.peers.get(&id) {
                    tracing::debug!(peer = peer.config.name, %error, "cannot connect");
                }
                Input::DialFailed(error.to_string())
            }
        };
        self.drive(id, input, now);
    }

    pub(crate) fn accepted(&mut self, id: PeerId, stream: TcpStream, now: Instant) {
        match self.connect(id, stream) {
            Ok(connection) => self.drive(id, Input::Accepted(connection), now),
            Err(error) => {
                tracing::debug!(%error, "accepted connection lost");
                // Nothing for the session to hear of, but a dynamic peer is not to stay.
                self.drive(id, Input::DeadlineReached, now);
            }
        }
    }

    /// Starts the task of a connection.
    fn connect(&mut self, id: PeerId, stream: TcpStream) -> io::Result<ConnectionId> {
        let (local, remote) = (stream.local_addr()?, stream.peer_addr()?);
        stream.set_nodelay(true)?;
        self.next_connection += 1;
        let connection = ConnectionId(self.next_connection);
        let (orders, order_receiver) = mpsc::channel(ORDERS);
        let task = Connection::new(connection, stream, self.counters.clone());
        self.connections
            .spawn(task.run(order_receiver, self.news_sender.clone()));
        self.links.insert(
            connection,
            Link {
                peer: id,
                orders,
                is_writing: false,
                local,
                remote,
            },
        );
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.connections.push(connection);
        }
        Ok(connection)
    }

    fn order(&mut self, connection: ConnectionId, order: Order) -> Option<Input> {
        let link = self.links.get(&connection)?;
        match link.orders.try_send(order) {
            Ok(()) | Err(TrySendError::Full(Order::Send(Message::Keepalive))) => None,
            // The task has ended; what it had to tell is on its way.
            Err(TrySendError::Closed(_)) => None,
            Err(TrySendError::Full(_)) => {
                let problem = "the peer takes nothing off its socket".to_owned();
                Some(Input::ConnectionLost(connection, problem))
            }
        }
    }

    fn established(
        &mut self,
        id: PeerId,
        connection: ConnectionId,
        negotiated: &Negotiated,
    ) -> Option<Input> {
        let peer = self.peers.get_mut(&id)?;
        let link = self.links.get(&connection)?;
        let kind = kind(negotiated, &peer.config.session);
        if self.session_log.allows(link.remote.ip(), Instant::now()) {
            tracing::info!(
                peer = peer.config.name,
                peer_asn = negotiated.peer_asn.0,
                peer_router_id = %negotiated.peer_router_id,
                hold_time = ?negotiated.hold_time,
                families = ?negotiated.families,
                "session established"
            );
        }
        self.counters.sessions_established.add(1);
        self.refused_sessions.came_up(link.remote.ip());
        peer.exceeded = None;
        peer.established = Some(connection);
        peer.flushed = 0;
        peer.logged = LoggedOnce::default();
        peer.refreshes.clear();
        let families = negotiated.families.iter().map(|family| FamilySettings {
            family: family.family,
            add_path_send: family.add_path_send,
        });
        self.rib.add_peer(
            id,
            PeerSettings {
                kind,
                peer_asn: negotiated.peer_asn,
                peer_router_id: negotiated.peer_router_id,
                peer_address: link.remote.ip(),
                local_addresses: LocalAddresses::from(link.local.ip()),
                families: families.collect(),
                import: peer.config.session.import.clone(),
                export: peer.config.session.export.clone(),
            },
        );
        self.is_pump_due = true;
        self.order(
            connection,
            Order::SetSendHoldTime(negotiated.send_hold_time()),
        )
    }

    fn down(&mut self, id: PeerId, error: &SessionError) {
        self.rib.remove_peer(id);
        self.is_pump_due = true;
        self.counters.sessions_lost.add(1);
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        peer.established = None;
        let name = &peer.config.name;
        let address = peer.config.address.ip();
        let reason = error.reason();
        if !self.session_log.allows(address, Instant::now()) {
            tracing::debug!(peer = name, %reason, %error, "session ended");
        } else if error.is_deliberate() {
            tracing::info!(peer = name, %reason, %error, "session ended by an operator");
        } else {
            tracing::warn!(peer = name, %reason, %error, "session lost");
        }
    }

    fn updated(
        &mut self,
        id: PeerId,
        connection: ConnectionId,
        update: bgp_packet::Update,
    ) -> Option<Input> {
        let peer = self.peers.get_mut(&id)?;
        self.counters.updates_received.add(1);
        if let Some(error) = update.errors.first() {
            self.counters.updates_malformed.add(1);
            let address = peer.config.address.ip();
            let log = &mut self.session_log;
            warn_once!(
                log.allows_once(&mut peer.logged.malformed, address, Instant::now()),
                peer = peer.config.name,
                attribute = error.type_code,
                disposition = ?error.disposition,
                problem = error.problem,
                "malformed attribute in UPDATE"
            );
        }
        self.is_pump_due = true;
        match self.rib.receive(id, update) {
            Ok(outcome) => {
                self.report(id, &outcome);
                self.request_refreshes(id, &outcome.unblocked);
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

    pub(crate) fn received(
        &mut self,
        connection: ConnectionId,
        messages: Vec<Message>,
        end: Option<End>,
        now: Instant,
    ) {
        for message in messages {
            // Any of them may have ended the connection.
            let Some(id) = self.peer_of(connection) else {
                return;
            };
            if let Message::Open(open) = &message
                && !self.identify(id, open.router_id, now)
            {
                return;
            }
            self.drive(id, Input::MessageReceived(connection, message), now);
        }
        let input = match end {
            None => return,
            Some(End::Lost(problem)) => Input::ConnectionLost(connection, problem),
            Some(End::Malformed(error)) => Input::Malformed(connection, error),
        };
        if let Some(id) = self.peer_of(connection) {
            self.drive(id, input, now);
        }
    }

    /// Takes note of the BGP identifier of a dynamic peer. Of two peers with the same address and
    /// identifier one is removed, since they are one speaker. Returns whether the peer stays.
    fn identify(&mut self, id: PeerId, router_id: RouterId, now: Instant) -> bool {
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.is_dynamic) else {
            return true;
        };
        peer.router_id = Some(router_id);
        let address = peer.config.address.ip();
        let duplicate = self.peers.iter_mut().find(|(other, peer)| {
            **other != id
                && peer.is_dynamic
                && peer.config.address.ip() == address
                && peer.router_id == Some(router_id)
        });
        let Some((other, duplicate)) = duplicate else {
            return true;
        };
        let is_refused = duplicate.established.is_some();
        // RFC 4271 section 6.8: an established connection stays. Otherwise the speaker opens one
        // connection at a time, so it has given up the earlier one.
        let removed = if is_refused {
            self.counters.duplicates_refused.add(1);
            let has_logged = &mut duplicate.logged.duplicate;
            warn_once!(
                self.session_log.allows_once(has_logged, address, now),
                peer = duplicate.config.name,
                %router_id,
                "connection refused: a session with this address and BGP identifier is \
                 established; if two speakers share the address, give each its own identifier, \
                 or do not masquerade their connections to this speaker"
            );
            id
        } else {
            *other
        };
        self.remove_peer(removed, Cease::ConnectionCollisionResolution, now);
        !is_refused
    }

    pub(crate) fn written(&mut self, connection: ConnectionId, updates: u64, now: Instant) {
        let Some(link) = self.links.get_mut(&connection) else {
            return;
        };
        link.is_writing = false;
        let id = link.peer;
        self.counters.updates_sent.add(updates);
        self.drive(id, Input::UpdatesWritten(connection, updates), now);
        self.pump(id, now);
    }

    pub(crate) fn peer_of(&self, connection: ConnectionId) -> Option<PeerId> {
        self.links.get(&connection).map(|link| link.peer)
    }

    /// Gives the peer's connection the next updates, if it has written the last ones.
    pub(crate) fn pump(&mut self, id: PeerId, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let Some(connection) = peer.established else {
            return;
        };
        let Some(link) = self.links.get_mut(&connection) else {
            return;
        };
        if link.is_writing {
            return;
        }
        while self.rib.has_pending(id) {
            let updates = self.rib.take_pending(id, UPDATES);
            if updates.is_empty() {
                continue;
            }
            link.is_writing = true;
            if let Some(lost) = self.order(connection, Order::SendUpdates(updates)) {
                self.drive(id, lost, now);
            }
            return;
        }
        peer.flushed = self.revision;
    }
}
