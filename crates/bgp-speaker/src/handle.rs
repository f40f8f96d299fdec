//! Commands and questions to a running speaker.

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
    messages::{Command, Reply},
    observe::{self, Change},
    path_list::{PathQuery, PathStatus},
    refused_sessions::RefusedSession,
    status::PeerStatus,
};

/// The speaker has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the BGP speaker has ended")]
pub struct SpeakerGone;

/// Why a stream of changes has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangesEnded {
    /// The speaker has ended.
    #[error(transparent)]
    SpeakerGone(#[from] SpeakerGone),
    /// So many changes were not read that they are not kept any longer.
    #[error(
        "the observer did not read for so long that changes are no longer kept for it; watch again \
         to get everything"
    )]
    Lagging,
}

/// Tells a running speaker what to do; cheap to clone.
#[derive(Clone, Debug)]
pub struct SpeakerHandle {
    commands: mpsc::Sender<Command>,
    flushed: watch::Receiver<u64>,
    counters: Arc<SpeakerCounters>,
}

/// A stream of changes, see [`SpeakerHandle::changes`].
#[derive(Debug)]
pub struct Changes {
    commands: mpsc::Sender<Command>,
    observer: u64,
    /// The answer to a call of `next` that was given up.
    pending: Option<oneshot::Receiver<observe::Changes>>,
    _alive: Arc<()>,
}

impl SpeakerHandle {
    pub(crate) fn new(
        commands: mpsc::Sender<Command>,
        flushed: watch::Receiver<u64>,
        counters: Arc<SpeakerCounters>,
    ) -> Self {
        Self {
            commands,
            flushed,
            counters,
        }
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, SpeakerGone> {
        let (reply, answer) = oneshot::channel();
        self.tell(command(reply)).await?;
        answer.await.map_err(|_| SpeakerGone)
    }

    async fn tell(&self, command: Command) -> Result<(), SpeakerGone> {
        self.commands.send(command).await.map_err(|_| SpeakerGone)
    }

    /// Makes these the peers. Sessions stay unless what changed stands in an OPEN or belongs to
    /// their connections; policies are applied in place.
    ///
    /// # Errors
    /// The outer one: the speaker has ended. The inner one: nothing was changed.
    pub async fn configure(
        &self,
        configuration: Configuration,
    ) -> Result<Result<(), InvalidConfiguration>, SpeakerGone> {
        self.ask(|reply| Command::Configure(configuration, reply))
            .await
    }

    /// Announces a path of our own, or other attributes of one. An unspecified next hop stands for
    /// this side's address of each session. Returns the revision of this change.
    ///
    /// # Errors
    /// The inner one: the next hop is not of the family of the prefix.
    pub async fn originate(
        &self,
        prefix: IpNet,
        attributes: PathAttributes,
    ) -> Result<Result<u64, NextHopFamilyMismatch>, SpeakerGone> {
        let attributes = Arc::new(attributes);
        self.ask(|reply| Command::Originate(prefix, attributes, reply))
            .await
    }

    /// Withdraws a path of our own, if there is one. Returns the revision of this change.
    ///
    /// # Errors
    /// The speaker has ended.
    pub async fn withdraw(&self, prefix: IpNet) -> Result<u64, SpeakerGone> {
        self.ask(|reply| Command::Withdraw(prefix, reply)).await
    }

    /// A revision that is flushed once all that is pending at this moment has been written, also
    /// to a session that has just been established.
    ///
    /// # Errors
    /// The speaker has ended.
    pub async fn barrier(&self) -> Result<u64, SpeakerGone> {
        self.ask(Command::Barrier).await
    }

    /// Returns when all changes up to the revision have been written to the socket of every
    /// established session.
    ///
    /// # Errors
    /// The speaker has ended.
    pub async fn flushed(&self, revision: u64) -> Result<(), SpeakerGone> {
        let mut flushed = self.flushed.clone();
        let result = flushed.wait_for(|flushed| *flushed >= revision).await;
        result.map(|_| ()).map_err(|_| SpeakerGone)
    }

    /// Ends a peer's session and lets it come up again.
    ///
    /// # Errors
    /// The speaker has ended.
    pub async fn reset(&self, peer: &str, cease: Cease) -> Result<(), SpeakerGone> {
        self.tell(Command::Reset(peer.to_owned(), cease)).await
    }

    /// Asks a peer to send its routes again (RFC 2918).
    ///
    /// # Errors
    /// The speaker has ended.
    pub async fn request_refresh(&self, peer: &str, family: Family) -> Result<(), SpeakerGone> {
        self.tell(Command::RequestRefresh(peer.to_owned(), family))
            .await
    }

    /// Every peer with its session, in the order of their coming.
    ///
    /// # Errors
    /// The speaker has ended.
    pub async fn peers(&self) -> Result<Vec<PeerStatus>, SpeakerGone> {
        self.ask(Command::ListPeers).await
    }

    /// Returns the addresses from which no session came up, in their order. At most 256: those whose
    /// last failure is the youngest.
    ///
    /// # Errors
    /// The speaker has ended.
    pub async fn refused_sessions(&self) -> Result<Vec<RefusedSession>, SpeakerGone> {
        self.ask(Command::ListRefusedSessions).await
    }

    /// Returns paths of a table, ordered by prefix, peer and path id.
    ///
    /// # Errors
    /// The speaker has ended.
    pub async fn paths(&self, query: PathQuery) -> Result<Vec<PathStatus>, SpeakerGone> {
        self.ask(|reply| Command::ListPaths(query, reply)).await
    }

    /// Follows the sessions, and the paths of all Adj-RIBs-In if wanted. What exists is told
    /// first, closed by [`Change::Synced`].
    ///
    /// # Errors
    /// The speaker has ended.
    pub async fn changes(&self, paths: bool) -> Result<Changes, SpeakerGone> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let observer = NEXT.fetch_add(1, Ordering::Relaxed);
        let alive = Arc::new(());
        self.tell(Command::Observe {
            observer,
            alive: Arc::downgrade(&alive),
            paths,
        })
        .await?;
        Ok(Changes {
            commands: self.commands.clone(),
            observer,
            pending: None,
            _alive: alive,
        })
    }

    /// What the speaker has done since it started.
    pub fn counters(&self) -> &SpeakerCounters {
        &self.counters
    }

    /// Ends all sessions for this reason and the speaker with them. Returns when every peer has
    /// been told and has closed its side, or at the deadline.
    ///
    /// # Errors
    /// The speaker had ended before.
    pub async fn shutdown(&self, cease: Cease, deadline: Duration) -> Result<(), SpeakerGone> {
        self.ask(|done| Command::Shutdown {
            cease,
            deadline,
            done,
        })
        .await
    }
}

impl Changes {
    /// The next changes. What changes several times between two calls comes once, as it is then,
    /// so that a slow reader costs no more memory than there are objects, and a bounded number of
    /// removals. Nothing is lost when a call is given up.
    ///
    /// # Errors
    /// The speaker has ended, or this observer has not read for too long.
    pub async fn next(&mut self) -> Result<Vec<Change>, ChangesEnded> {
        if self.pending.is_none() {
            let (reply, answer) = oneshot::channel();
            let observer = self.observer;
            let command = Command::NextChanges { observer, reply };
            self.commands.send(command).await.map_err(|_| SpeakerGone)?;
            self.pending = Some(answer);
        }
        let answer = self.pending.as_mut().expect("set above");
        let changes = answer.await;
        self.pending = None;
        changes
            .map_err(|_| SpeakerGone)?
            .ok_or(ChangesEnded::Lagging)
    }
}
