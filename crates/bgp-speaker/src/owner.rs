//! Handling of events and commands by the owner task.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use bgp_rib::PeerId;
use bgp_session::{Cease, SessionInput};
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, mpsc, oneshot, watch},
    task::JoinError,
};

use crate::{
    admit::{Admitted, Groups},
    config::{Configuration, InvalidConfiguration, SpeakerConfig},
    connection::SHARE,
    connections::ConnectionTasks,
    counters::SpeakerCounters,
    messages::{ConnectionEvent, SpeakerCommand},
    reconfigure::{PeerChange, Reconfiguration},
    sessions::PeerSessions,
};

/// Limit of the events, messages and prefixes that the owner handles in one turn before it sends
/// the resulting updates. Changes that arrive together are therefore sent together. The last share
/// of a turn can exceed the limit.
const TURN: usize = 8 * SHARE;

/// The owner of the speaker's state. Passes each event and command to the part of the state that
/// handles it.
pub(crate) struct SpeakerOwner {
    sessions: PeerSessions,
    groups: Groups,
    /// Permits of the connections whose share was handled in this turn. A connection sends its next
    /// share after its permit is dropped at the end of the turn.
    turns: Vec<OwnedSemaphorePermit>,
    shutdown: Option<PendingShutdown>,
}

/// A shutdown that waits until all connections have closed or its deadline has passed.
struct PendingShutdown {
    deadline: Instant,
    done: Vec<oneshot::Sender<()>>,
}

impl SpeakerOwner {
    pub(crate) fn new(
        config: SpeakerConfig,
        connections: ConnectionTasks,
        counters: Arc<SpeakerCounters>,
        seed: u64,
    ) -> Self {
        Self {
            sessions: PeerSessions::new(config, connections, counters, seed),
            groups: Groups::new(),
            turns: Vec::new(),
            shutdown: None,
        }
    }

    pub(crate) fn accept_from(&mut self, listener: TcpListener) {
        let admission = self.groups.admission();
        self.sessions.connections.accept_from(listener, admission);
    }

    /// Returns a receiver of the revision of the speaker's own paths up to which all changes have
    /// been written to the socket of every established session.
    pub(crate) fn flushed(&self) -> watch::Receiver<u64> {
        self.sessions.revisions.subscribe()
    }

    /// Handles `first` and then events from the queue, until the queue is empty or the cost reaches
    /// [`TURN`]. Takes at most one share of each connection. Returns the cost in events, messages
    /// and prefixes.
    pub(crate) fn take_turn(
        &mut self,
        first: ConnectionEvent,
        events: &mut mpsc::Receiver<ConnectionEvent>,
    ) -> usize {
        let now = Instant::now();
        let mut work = self.event(first, now);
        while work < TURN
            && let Ok(event) = events.try_recv()
        {
            work += self.event(event, now);
        }
        work
    }

    /// Handles one event. Returns its cost: 1 for the event plus 1 for each message and each
    /// prefix.
    fn event(&mut self, event: ConnectionEvent, now: Instant) -> usize {
        let mut cost = 1;
        match event {
            ConnectionEvent::Accepted {
                stream,
                remote,
                admission,
            } => {
                // Drop a connection that was accepted with the keys of a previous configuration: it
                // could lack the current TCP MD5 key.
                if self.shutdown.is_none()
                    && self.groups.has_keys_of(&admission)
                    && let Some(id) = self.admit(remote, now)
                {
                    let connection = self.sessions.connections.open(id, stream);
                    self.sessions.accepted(id, connection, now);
                }
            }
            ConnectionEvent::Dialled {
                peer,
                attempt,
                result,
            } => {
                if self.sessions.take_dial(peer, attempt) {
                    let connect = |stream| self.sessions.connections.open(peer, stream);
                    let result = result.map(|result| result.and_then(connect));
                    self.sessions.dialled(peer, result, now);
                }
            }
            ConnectionEvent::Received {
                connection,
                messages,
                work,
                end,
                turn,
            } => {
                cost += work;
                self.turns.extend(turn);
                self.sessions.received(connection, messages, end, now);
            }
            ConnectionEvent::Written {
                connection,
                updates,
            } => self.sessions.written(connection, updates, now),
            ConnectionEvent::Polled { connection } => {
                self.sessions
                    .drive_connection(connection, SessionInput::Polled(connection), now);
            }
            ConnectionEvent::SendHoldTimerExpired { connection } => {
                self.sessions.drive_connection(
                    connection,
                    SessionInput::SendHoldTimerExpired(connection),
                    now,
                );
            }
        }
        cost
    }

    pub(crate) fn command(&mut self, command: SpeakerCommand, now: Instant) {
        // The caller of a command can have been cancelled, so errors of `reply.send` are ignored.
        match command {
            SpeakerCommand::Configure(configuration, reply) => {
                let result = self.configure(configuration, now);
                let _ = reply.send(result);
            }
            SpeakerCommand::Originate(prefix, attributes, reply) => {
                let result = self.sessions.rib.originate(prefix, attributes);
                let _ = reply.send(result.map(|()| self.sessions.own_path_changed()));
            }
            SpeakerCommand::Withdraw(prefix, reply) => {
                self.sessions.rib.withdraw_originated(prefix);
                let _ = reply.send(self.sessions.own_path_changed());
            }
            SpeakerCommand::Barrier(reply) => {
                let _ = reply.send(self.sessions.own_path_changed());
            }
            SpeakerCommand::Reset(name, cease) => {
                if let Some(id) = self.sessions.peers.named(&name) {
                    self.sessions.drive(id, SessionInput::Reset(cease), now);
                }
            }
            SpeakerCommand::RequestRefresh(name, family) => {
                if let Some(id) = self.sessions.peers.named(&name) {
                    self.sessions
                        .drive(id, SessionInput::RequestRefresh(family), now);
                }
            }
            SpeakerCommand::ListPeers(reply) => {
                let _ = reply.send(self.sessions.view().peers(now));
            }
            SpeakerCommand::ListRefusedSessions(reply) => {
                let _ = reply.send(self.sessions.journal.refused_sessions.list(now));
            }
            SpeakerCommand::ListPaths(query, reply) => {
                let _ = reply.send(self.sessions.view().paths(&query));
            }
            SpeakerCommand::Observe {
                observer,
                alive,
                paths,
            } => {
                let (peers, rib) = (&self.sessions.peers, &mut self.sessions.rib);
                self.sessions
                    .observers
                    .add(observer, alive, paths, peers, rib);
            }
            SpeakerCommand::NextChanges { observer, reply } => {
                self.sessions.observers.next_changes(observer, reply)
            }
            SpeakerCommand::Shutdown {
                cease,
                deadline,
                done,
            } => self.shut_down(&cease, now + deadline, done, now),
        }
    }

    /// Ends a turn: handles deadlines, sends updates, answers observers, and lets the connections
    /// send their next shares.
    pub(crate) fn finish_turn(&mut self, now: Instant) {
        self.sessions.finish_turn(now);
        self.turns.clear();
    }

    /// Returns the next deadline of a session or of the shutdown.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let shutdown = self.shutdown.as_ref().map(|shutdown| shutdown.deadline);
        let session = self.sessions.deadlines.next();
        session.into_iter().chain(shutdown).min()
    }

    pub(crate) async fn task_ended(&mut self) -> Result<(), JoinError> {
        self.sessions.connections.next_ended().await
    }

    pub(crate) fn is_shut_down(&self, now: Instant) -> bool {
        self.shutdown.as_ref().is_some_and(|shutdown| {
            self.sessions.connections.are_closed() || shutdown.deadline <= now
        })
    }

    pub(crate) fn answer_shutdown(&mut self) {
        let shutdown = self.shutdown.take().into_iter();
        for done in shutdown.flat_map(|shutdown| shutdown.done) {
            // The caller of the shutdown can have been cancelled, so an error of `send` is ignored.
            let _ = done.send(());
        }
    }

    fn shut_down(
        &mut self,
        cease: &Cease,
        deadline: Instant,
        done: oneshot::Sender<()>,
        now: Instant,
    ) {
        for id in self.sessions.peers.ids() {
            self.sessions
                .drive(id, SessionInput::Stop(cease.clone()), now);
        }
        self.sessions.connections.end_listeners_and_dials();
        let mut waiting = vec![done];
        if let Some(earlier) = self.shutdown.take() {
            waiting.extend(earlier.done);
        }
        self.shutdown = Some(PendingShutdown {
            deadline,
            done: waiting,
        });
    }

    fn configure(
        &mut self,
        configuration: Configuration,
        now: Instant,
    ) -> Result<(), InvalidConfiguration> {
        configuration.validate(&self.sessions.config)?;
        let Reconfiguration { changes, added } =
            Reconfiguration::new(&self.sessions.peers, &configuration);
        self.groups.replace(&configuration);
        self.sessions.journal.groups_changed();
        for (id, change) in changes {
            match change {
                PeerChange::Remove(cease) => self.sessions.remove_peer(id, cease, now),
                PeerChange::ApplyInPlace(config) => {
                    self.sessions.apply_in_place(id, *config, now);
                }
            }
        }
        for config in added {
            self.sessions.add_peer(config, false, now);
        }
        Ok(())
    }

    /// Returns the peer of a connection from `remote`. Adds a new dynamic peer if the address
    /// belongs to a group. `None`: the connection is refused.
    fn admit(&mut self, remote: SocketAddr, now: Instant) -> Option<PeerId> {
        let (peers, journal) = (&mut self.sessions.peers, &mut self.sessions.journal);
        match self.groups.admit(remote, peers, journal, now) {
            Admitted::ToPeer(id) => Some(id),
            Admitted::Refused => None,
            Admitted::Dynamic {
                mut config,
                replaces,
            } => {
                if let Some(oldest) = replaces {
                    self.sessions
                        .remove_peer(oldest, Cease::ConnectionRejected, now);
                }
                config.name = self.sessions.peers.free_name(config.name);
                Some(self.sessions.add_peer(*config, true, now))
            }
        }
    }
}

#[cfg(any(test, fuzzing))]
pub mod simulation;
#[cfg(test)]
mod tests;
