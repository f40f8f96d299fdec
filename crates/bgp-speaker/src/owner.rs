//! The task that owns the RIB and every session.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use bgp_packet::Message;
use bgp_rib::{PeerId, Rib, RibConfig};
use bgp_session::{Cease, ConnectionId, Input, Session};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, mpsc, oneshot, watch},
    task::{JoinError, JoinSet, yield_now},
    time::error::Elapsed,
};

use crate::{
    admission::Admission,
    config::{Configuration, GroupConfig, InvalidConfiguration, PeerConfig, SpeakerConfig},
    connection::{End, SHARE},
    counters::SpeakerCounters,
    handle::{Command, SpeakerHandle},
    observe::Observers,
    peer::{Link, Peer},
    refused_sessions::RefusedSessions,
    session_log::SessionLog,
    socket::{self, ListenError},
};

/// News that may wait for the owner, of all connections together.
const NEWS: usize = 64;

/// Commands that may wait for the owner.
const COMMANDS: usize = 64;

/// Messages and prefixes that are handled before the answers to them are sent: what comes together
/// leaves together. The last connection's share may exceed it.
const TURN: usize = 8 * SHARE;

/// What the tasks of connections, dials and listeners tell.
#[derive(Debug)]
pub(crate) enum News {
    Accepted {
        stream: TcpStream,
        remote: SocketAddr,
        /// By which it was admitted.
        admission: Arc<Admission>,
    },
    Dialled {
        peer: PeerId,
        attempt: u64,
        /// [`Elapsed`] if the peer did not answer within its `connect_timeout`.
        result: Result<io::Result<TcpStream>, Elapsed>,
    },
    Received {
        connection: ConnectionId,
        messages: Vec<Message>,
        /// Messages and prefixes in `messages`.
        work: usize,
        end: Option<End>,
        /// The connection hands over no other share until the owner drops it.
        turn: Option<OwnedSemaphorePermit>,
    },
    Written {
        connection: ConnectionId,
        updates: u64,
    },
    /// The answer to [`Order::Poll`](crate::connection::Order::Poll).
    Polled {
        connection: ConnectionId,
    },
    SendHoldTimerExpired {
        connection: ConnectionId,
    },
}

/// The speaker cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum SpeakerError {
    /// A defect of this program.
    #[error("a task of the BGP speaker has panicked")]
    TaskPanicked(#[source] JoinError),
}

/// A speaker that listens and waits to be run.
pub struct Speaker {
    owner: Owner,
    commands: mpsc::Receiver<Command>,
    news: mpsc::Receiver<News>,
    handle: SpeakerHandle,
    local_addresses: Vec<SocketAddr>,
}

pub(crate) struct Owner {
    pub(crate) config: SpeakerConfig,
    pub(crate) rib: Rib,
    pub(crate) peers: BTreeMap<PeerId, Peer>,
    pub(crate) groups: Vec<GroupConfig>,
    /// Of which it has been said that they are full, until one has room again.
    pub(crate) full_groups: BTreeSet<String>,
    /// Addresses whose maximum of peers has been logged. An address leaves the set when one of its
    /// peers does.
    pub(crate) full_addresses: BTreeSet<IpAddr>,
    pub(crate) session_log: SessionLog,
    pub(crate) refused_sessions: RefusedSessions,
    pub(crate) links: HashMap<ConnectionId, Link>,
    /// Of all sessions, see [`Owner::run_deadlines`].
    pub(crate) deadlines: BTreeSet<(Instant, PeerId)>,
    pub(crate) admission: watch::Sender<Arc<Admission>>,
    pub(crate) observers: Observers,
    pub(crate) counters: Arc<SpeakerCounters>,
    /// Grows with every change of our own paths.
    pub(crate) revision: u64,
    flushed: watch::Sender<u64>,
    /// Whether any peer may have updates pending that nobody has looked for.
    pub(crate) is_pump_due: bool,
    pub(crate) news_sender: mpsc::Sender<News>,
    /// Of the connections that have had their share of this turn.
    turns: Vec<OwnedSemaphorePermit>,
    /// Listeners and dials.
    pub(crate) tasks: JoinSet<()>,
    pub(crate) connections: JoinSet<()>,
    pub(crate) next_dial: u64,
    pub(crate) next_connection: u64,
    next_peer: u32,
    shutdown: Option<Shutdown>,
}

/// Every session has been told to end.
struct Shutdown {
    deadline: Instant,
    done: Vec<oneshot::Sender<()>>,
}

impl Speaker {
    /// Opens the listening sockets. Has to be called within a tokio runtime.
    ///
    /// # Errors
    /// The configuration cannot be served.
    pub fn bind(config: SpeakerConfig) -> Result<Self, ListenError> {
        let listeners = config
            .listen
            .iter()
            .map(|address| socket::listen(*address))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self::new(config, listeners))
    }

    fn new(config: SpeakerConfig, listeners: Vec<TcpListener>) -> Self {
        let (news_sender, news) = mpsc::channel(NEWS);
        let (command_sender, commands) = mpsc::channel(COMMANDS);
        let admission = watch::Sender::new(Arc::new(Admission::default()));
        let counters = Arc::new(SpeakerCounters::default());
        let flushed = watch::Sender::new(0);
        let handle = SpeakerHandle::new(command_sender, flushed.subscribe(), counters.clone());
        let local_addresses = listeners
            .iter()
            .filter_map(|listener| listener.local_addr().ok())
            .collect();
        let mut tasks = JoinSet::new();
        for listener in listeners {
            tasks.spawn(socket::accept(
                listener,
                admission.subscribe(),
                counters.clone(),
                news_sender.clone(),
            ));
        }
        let owner = Owner {
            rib: Rib::new(RibConfig {
                local_asn: config.local_asn,
                router_id: config.router_id,
                cluster_id: config.cluster_id,
            }),
            config,
            peers: BTreeMap::new(),
            groups: Vec::new(),
            full_groups: BTreeSet::new(),
            full_addresses: BTreeSet::new(),
            session_log: SessionLog::default(),
            refused_sessions: RefusedSessions::default(),
            links: HashMap::new(),
            deadlines: BTreeSet::new(),
            admission,
            observers: Observers::default(),
            counters,
            revision: 0,
            flushed,
            is_pump_due: false,
            news_sender,
            turns: Vec::new(),
            tasks,
            connections: JoinSet::new(),
            next_dial: 0,
            next_connection: 0,
            next_peer: 0,
            shutdown: None,
        };
        Self {
            owner,
            commands,
            news,
            handle,
            local_addresses,
        }
    }

    /// Where it listens, with the ports that the kernel chose.
    pub fn local_addresses(&self) -> &[SocketAddr] {
        &self.local_addresses
    }

    /// For those who tell it what to do.
    pub fn handle(&self) -> SpeakerHandle {
        self.handle.clone()
    }

    /// Serves until it is shut down or every handle is gone.
    ///
    /// # Errors
    /// A task has panicked.
    pub async fn run(self) -> Result<(), SpeakerError> {
        let Self {
            mut owner,
            mut commands,
            mut news,
            handle,
            ..
        } = self;
        drop(handle);
        let mut is_busy = false;
        loop {
            owner.settle();
            owner.session_log.summarize(Instant::now());
            if owner.is_shut_down() {
                break;
            }
            if std::mem::take(&mut is_busy) {
                // The runtime polls the sockets of the other connections meanwhile.
                yield_now().await;
            }
            let timer = owner.timer();
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => owner.command(command),
                    None => break,
                },
                piece = news.recv() => {
                    let piece = piece.expect("the owner holds a sender itself");
                    is_busy = owner.take_turn(piece, &mut news) >= SHARE;
                }
                Some(ended) = owner.tasks.join_next() => check(ended)?,
                Some(ended) = owner.connections.join_next() => check(ended)?,
                () = timer => {}
            }
        }
        for done in owner
            .shutdown
            .take()
            .into_iter()
            .flat_map(|shutdown| shutdown.done)
        {
            // Whoever asked may have lost patience.
            let _ = done.send(());
        }
        Ok(())
    }
}

fn check(ended: Result<(), JoinError>) -> Result<(), SpeakerError> {
    match ended {
        Err(error) if error.is_panic() => Err(SpeakerError::TaskPanicked(error)),
        // An abandoned dial.
        Err(_) | Ok(()) => Ok(()),
    }
}

impl Owner {
    /// Handles what waits, each connection's share once. Returns how much it was.
    fn take_turn(&mut self, first: News, news: &mut mpsc::Receiver<News>) -> usize {
        let mut work = self.hear(first);
        while work < TURN
            && let Ok(piece) = news.try_recv()
        {
            work += self.hear(piece);
        }
        work
    }

    /// Returns what it cost, in messages and prefixes.
    fn hear(&mut self, news: News) -> usize {
        let now = Instant::now();
        let mut cost = 1;
        match news {
            News::Accepted {
                stream,
                remote,
                admission,
            } => {
                // Whoever came before a change of the peers may lack the key of after it.
                let is_up_to_date = admission.keys == self.admission.borrow().keys;
                if self.shutdown.is_none() && is_up_to_date {
                    self.admit(stream, remote, now);
                }
            }
            News::Dialled {
                peer,
                attempt,
                result,
            } => self.dialled(peer, attempt, result, now),
            News::Received {
                connection,
                messages,
                work,
                end,
                turn,
            } => {
                cost += work;
                self.turns.extend(turn);
                self.received(connection, messages, end, now);
            }
            News::Written {
                connection,
                updates,
            } => self.written(connection, updates, now),
            News::Polled { connection } => {
                if let Some(id) = self.peer_of(connection) {
                    self.drive(id, Input::Polled(connection), now);
                }
            }
            News::SendHoldTimerExpired { connection } => {
                if let Some(id) = self.peer_of(connection) {
                    self.drive(id, Input::SendHoldTimerExpired(connection), now);
                }
            }
        }
        cost
    }

    pub(crate) fn add_peer(
        &mut self,
        config: PeerConfig,
        is_dynamic: bool,
        now: Instant,
    ) -> PeerId {
        let id = PeerId(self.next_peer);
        self.next_peer += 1;
        let settings = config.session.settings(&self.config, config.active);
        let mut session = Session::new(settings, rand::random(), now);
        if is_dynamic {
            // Started here, since `drive` forgets a dynamic peer that has no connection.
            session.handle(Input::Start, now);
        }
        self.peers
            .insert(id, Peer::new(config, is_dynamic, session));
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

    /// Drops a peer without a connection.
    pub(crate) fn forget(&mut self, id: PeerId) {
        self.abandon_dial(id);
        if let Some(peer) = self.peers.remove(&id) {
            if let Some(scheduled) = peer.scheduled {
                self.deadlines.remove(&(scheduled, id));
            }
            if peer.is_dynamic {
                self.full_addresses.remove(&peer.config.address.ip());
            }
            self.observers.session_removed(id, peer.config.name);
        }
    }

    fn command(&mut self, command: Command) {
        let now = Instant::now();
        match command {
            Command::Configure(configuration, reply) => {
                let result = self.configure(configuration, now);
                let _ = reply.send(result);
            }
            Command::Originate(prefix, attributes, reply) => {
                let result = self.rib.originate(prefix, attributes);
                let _ = reply.send(result.map(|()| self.own_path_changed()));
            }
            Command::Withdraw(prefix, reply) => {
                self.rib.withdraw_originated(prefix);
                let _ = reply.send(self.own_path_changed());
            }
            Command::Barrier(reply) => {
                let _ = reply.send(self.own_path_changed());
            }
            Command::Reset(name, cease) => {
                for id in self.peers_named(&name) {
                    self.drive(id, Input::Reset(cease.clone()), now);
                }
            }
            Command::RequestRefresh(name, family) => {
                for id in self.peers_named(&name) {
                    self.drive(id, Input::RequestRefresh(family), now);
                }
            }
            Command::ListPeers(reply) => {
                let _ = reply.send(self.peer_statuses(now));
            }
            Command::ListRefusedSessions(reply) => {
                let _ = reply.send(self.list_refused_sessions(now));
            }
            Command::ListPaths(table, prefix, reply) => {
                let _ = reply.send(self.path_statuses(&table, prefix));
            }
            Command::Observe {
                observer,
                alive,
                paths,
            } => self.observe(observer, alive, paths),
            Command::NextChanges { observer, reply } => self.observers.ask(observer, reply),
            Command::Shutdown {
                cease,
                deadline,
                done,
            } => self.shut_down(&cease, now + deadline, done, now),
        }
    }

    fn own_path_changed(&mut self) -> u64 {
        self.revision += 1;
        self.is_pump_due = true;
        self.revision
    }

    fn peers_named(&self, name: &str) -> Vec<PeerId> {
        let named = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.config.name == name);
        named.map(|(id, _)| *id).collect()
    }

    fn shut_down(
        &mut self,
        cease: &Cease,
        deadline: Instant,
        done: oneshot::Sender<()>,
        now: Instant,
    ) {
        for id in self.peers.keys().copied().collect::<Vec<_>>() {
            self.drive(id, Input::Stop(cease.clone()), now);
        }
        self.tasks.abort_all();
        let mut waiting = vec![done];
        if let Some(earlier) = self.shutdown.take() {
            waiting.extend(earlier.done);
        }
        self.shutdown = Some(Shutdown {
            deadline,
            done: waiting,
        });
    }

    fn is_shut_down(&self) -> bool {
        self.shutdown.as_ref().is_some_and(|shutdown| {
            self.connections.is_empty() || shutdown.deadline <= Instant::now()
        })
    }

    /// Ends a turn: what has become due, what is to be sent, who is to be told.
    fn settle(&mut self) {
        let now = Instant::now();
        self.run_deadlines(now);
        while std::mem::take(&mut self.is_pump_due) {
            for id in self.peers.keys().copied().collect::<Vec<_>>() {
                self.pump(id, now);
            }
        }
        if *self.flushed.borrow() != self.revision {
            let established = self
                .peers
                .values()
                .filter(|peer| peer.established.is_some());
            let flushed = established.map(|peer| peer.flushed).min();
            let flushed = flushed.unwrap_or(self.revision);
            self.flushed.send_if_modified(|known| {
                let is_news = *known < flushed;
                *known = flushed.max(*known);
                is_news
            });
        }
        self.answer_observers(now);
        self.turns.clear();
    }

    fn timer(&self) -> impl Future<Output = ()> + use<> {
        let now = Instant::now();
        let shutdown = self
            .shutdown
            .as_ref()
            .map(|shutdown| shutdown.deadline.saturating_duration_since(now));
        let next: Option<Duration> = self.until_deadline(now).into_iter().chain(shutdown).min();
        async move {
            match next {
                Some(next) => tokio::time::sleep(next).await,
                None => std::future::pending().await,
            }
        }
    }

    fn configure(
        &mut self,
        configuration: Configuration,
        now: Instant,
    ) -> Result<(), InvalidConfiguration> {
        configuration.validate(&self.config)?;
        self.reconfigure(configuration, now);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
