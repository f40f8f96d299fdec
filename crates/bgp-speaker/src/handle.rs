//! Commands and queries for a running speaker.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bgp_packet::{Family, PathAttributes};
use bgp_rib::NextHopFamilyMismatch;
use bgp_session::Cease;
use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    config::{Configuration, InvalidConfiguration},
    counters::SpeakerCounters,
    messages::{Reply, SpeakerCommand},
    observe::{self, SpeakerChange},
    path_list::{PathQuery, PathStatus},
    refused_sessions::RefusedSession,
    status::PeerStatus,
};

/// The error of a request to a speaker that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the BGP speaker has ended")]
pub struct SpeakerEnded;

/// The reason for which a stream of changes has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangesEnded {
    #[error(transparent)]
    SpeakerEnded(#[from] SpeakerEnded),
    /// More changes were unread than the speaker stores for an observer.
    #[error(
        "the observer left too many changes unread, so the stream of changes ended; start a new \
         watch to receive everything that exists"
    )]
    Lagging,
}

/// A handle to a running speaker, for commands and queries. Clones refer to one speaker.
#[derive(Clone, Debug)]
pub struct SpeakerHandle {
    commands: mpsc::Sender<SpeakerCommand>,
    flushed: watch::Receiver<u64>,
    counters: Arc<SpeakerCounters>,
}

/// A stream of changes of sessions and paths, see [`SpeakerHandle::changes`].
#[derive(Debug)]
pub struct SpeakerChanges {
    commands: mpsc::Sender<SpeakerCommand>,
    observer: u64,
    /// The reply for which a call of `next` waits. If this call is cancelled, the following call
    /// waits for this reply.
    pending: Option<oneshot::Receiver<observe::ObservedChanges>>,
    _alive: Arc<()>,
}

impl SpeakerHandle {
    pub(crate) fn new(
        commands: mpsc::Sender<SpeakerCommand>,
        flushed: watch::Receiver<u64>,
        counters: Arc<SpeakerCounters>,
    ) -> Self {
        Self {
            commands,
            flushed,
            counters,
        }
    }

    async fn request<T>(
        &self,
        command: impl FnOnce(Reply<T>) -> SpeakerCommand,
    ) -> Result<T, SpeakerEnded> {
        let (reply, answer) = oneshot::channel();
        self.send(command(reply)).await?;
        answer.await.map_err(|_| SpeakerEnded)
    }

    async fn send(&self, command: SpeakerCommand) -> Result<(), SpeakerEnded> {
        self.commands.send(command).await.map_err(|_| SpeakerEnded)
    }

    /// Replaces the peers and groups. A session restarts only if a changed setting affects the OPEN
    /// messages, the connection or the dials, or if a dynamic peer becomes a configured peer.
    /// Changes of policies apply to an established session without a restart.
    ///
    /// # Errors
    /// The outer error: the speaker has ended. The inner error: the configuration is invalid, and
    /// nothing was changed.
    pub async fn configure(
        &self,
        configuration: Configuration,
    ) -> Result<Result<(), InvalidConfiguration>, SpeakerEnded> {
        self.request(|reply| SpeakerCommand::Configure(configuration, reply))
            .await
    }

    /// Announces a path that this speaker originates, or changes the attributes of this path. An
    /// unspecified next hop (`0.0.0.0` or `::`) is replaced with the local address of each session.
    /// Returns the revision of this change.
    ///
    /// # Errors
    /// The outer error: the speaker has ended. The inner error: the next hop is not of the family
    /// of the prefix.
    pub async fn originate(
        &self,
        prefix: IpNet,
        attributes: PathAttributes,
    ) -> Result<Result<u64, NextHopFamilyMismatch>, SpeakerEnded> {
        let attributes = Arc::new(attributes);
        self.request(|reply| SpeakerCommand::Originate(prefix, attributes, reply))
            .await
    }

    /// Withdraws the path that this speaker originates for `prefix`, if there is one. Returns the
    /// revision of this change.
    ///
    /// # Errors
    /// The speaker has ended.
    pub async fn withdraw(&self, prefix: IpNet) -> Result<u64, SpeakerEnded> {
        self.request(|reply| SpeakerCommand::Withdraw(prefix, reply))
            .await
    }

    /// Returns a revision for [`flushed`](Self::flushed) that covers all updates that are pending
    /// at the time of the call, including the first updates of a session that was established
    /// before the call.
    ///
    /// # Errors
    /// The speaker has ended.
    pub async fn barrier(&self) -> Result<u64, SpeakerEnded> {
        self.request(SpeakerCommand::Barrier).await
    }

    /// Waits until all changes up to the revision have been written to the socket of every
    /// established session. Without an established session, all changes count as written.
    ///
    /// # Errors
    /// The speaker has ended.
    pub async fn flushed(&self, revision: u64) -> Result<(), SpeakerEnded> {
        let mut flushed = self.flushed.clone();
        let result = flushed.wait_for(|flushed| *flushed >= revision).await;
        result.map(|_| ()).map_err(|_| SpeakerEnded)
    }

    /// Restarts the session of the peer with the name `peer`. Does nothing if no peer has this
    /// name, or during the pause after the peer exceeded its maximum of paths.
    ///
    /// # Errors
    /// The speaker has ended.
    pub async fn reset(&self, peer: &str, cease: Cease) -> Result<(), SpeakerEnded> {
        self.send(SpeakerCommand::Reset(peer.to_owned(), cease))
            .await
    }

    /// Asks the peer with the name `peer` to send its routes of the family again (RFC 2918). Does
    /// nothing if no peer has this name, if its session is not established, if the family is not
    /// negotiated, or if the peer did not offer the ROUTE-REFRESH capability.
    ///
    /// # Errors
    /// The speaker has ended.
    pub async fn request_refresh(&self, peer: &str, family: Family) -> Result<(), SpeakerEnded> {
        self.send(SpeakerCommand::RequestRefresh(peer.to_owned(), family))
            .await
    }

    /// Returns all peers, in the order in which they were added.
    ///
    /// # Errors
    /// The speaker has ended.
    pub async fn peers(&self) -> Result<Vec<PeerStatus>, SpeakerEnded> {
        self.request(SpeakerCommand::ListPeers).await
    }

    /// Returns the failures to establish a session, one record for each address, sorted by address.
    /// An established session with an address clears the record of the address. The speaker keeps
    /// at most 256 records: a failure of a further address replaces the record whose last failure
    /// is the oldest.
    ///
    /// # Errors
    /// The speaker has ended.
    pub async fn refused_sessions(&self) -> Result<Vec<RefusedSession>, SpeakerEnded> {
        self.request(SpeakerCommand::ListRefusedSessions).await
    }

    /// Returns the paths that the query selects, ordered by prefix, name of the peer and path id.
    ///
    /// # Errors
    /// The speaker has ended.
    pub async fn paths(&self, query: PathQuery) -> Result<Vec<PathStatus>, SpeakerEnded> {
        self.request(|reply| SpeakerCommand::ListPaths(query, reply))
            .await
    }

    /// Starts a stream of changes of all peers and, if `paths` is true, of all paths that a peer
    /// announced or this speaker originated. The stream begins with all existing peers and paths,
    /// followed by [`SpeakerChange::Synced`].
    ///
    /// # Errors
    /// The speaker has ended.
    pub async fn changes(&self, paths: bool) -> Result<SpeakerChanges, SpeakerEnded> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let observer = NEXT.fetch_add(1, Ordering::Relaxed);
        let alive = Arc::new(());
        self.send(SpeakerCommand::Observe {
            observer,
            alive: Arc::downgrade(&alive),
            paths,
        })
        .await?;
        Ok(SpeakerChanges {
            commands: self.commands.clone(),
            observer,
            pending: None,
            _alive: alive,
        })
    }

    pub fn counters(&self) -> &SpeakerCounters {
        &self.counters
    }

    /// Ends all sessions with this Cease reason, then ends the speaker. Returns when all
    /// connections are closed, at the latest after `deadline`. A connection waits at most 1 s until
    /// its peer has received the NOTIFICATION and has closed its side.
    ///
    /// # Errors
    /// The speaker had already ended.
    pub async fn shutdown(&self, cease: Cease, deadline: Duration) -> Result<(), SpeakerEnded> {
        self.request(|done| SpeakerCommand::Shutdown {
            cease,
            deadline,
            done,
        })
        .await
    }
}

impl SpeakerChanges {
    /// Waits for the next changes. A peer or path that changed several times since the previous
    /// call is returned once, with its current state. A cancelled call loses no change. The memory
    /// for a slow reader is bounded: the stream ends when more than 65536 changes of paths and
    /// removals of peers are unread.
    ///
    /// # Errors
    /// The speaker has ended, or the observer has left too many changes unread.
    pub async fn next(&mut self) -> Result<Vec<SpeakerChange>, ChangesEnded> {
        if self.pending.is_none() {
            let (reply, answer) = oneshot::channel();
            let observer = self.observer;
            let command = SpeakerCommand::NextChanges { observer, reply };
            self.commands
                .send(command)
                .await
                .map_err(|_| SpeakerEnded)?;
            self.pending = Some(answer);
        }
        let answer = self.pending.as_mut().expect("`pending` was set above");
        let changes = answer.await;
        self.pending = None;
        changes
            .map_err(|_| SpeakerEnded)?
            .ok_or(ChangesEnded::Lagging)
    }
}
