//! A claim that lives as long as its holder, and what is told about it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use daemon_runtime::Reader;
use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{error::Refusal, look::Route, policy::Claim};

/// Who opened a stream, as the kernel tells; zero if it does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) process_id: i32,
    pub(crate) user_id: u32,
}

/// What one hold is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HoldState {
    pub(crate) installed: bool,
    pub(crate) interface: String,
}

/// The clients' side of the owner.
#[derive(Clone, Debug)]
pub(crate) struct TableHandle {
    commands: mpsc::UnboundedSender<Command>,
    next_id: Arc<AtomicU64>,
    pub(crate) routes: Reader<IpNet, Route>,
}

/// A claim that the owner has accepted; dropping it gives the claim up.
#[derive(Debug)]
pub(crate) struct Hold {
    pub(crate) state: watch::Receiver<HoldState>,
    _release: Release,
}

#[derive(Debug)]
struct Release {
    id: HoldId,
    commands: mpsc::UnboundedSender<Command>,
}

pub(crate) type HoldId = u64;
pub(crate) type Answer = Result<watch::Receiver<HoldState>, Refusal>;

/// What the owner is asked.
#[derive(Debug)]
pub(crate) enum Command {
    Hold {
        id: HoldId,
        claim: Claim,
        peer: Peer,
        answer: oneshot::Sender<Answer>,
    },
    Release(HoldId),
}

impl Drop for Release {
    fn drop(&mut self) {
        // An owner that has ended leaves its routes to the next run.
        let _ = self.commands.send(Command::Release(self.id));
    }
}

impl TableHandle {
    /// The handle, and where its commands arrive.
    pub(crate) fn new(routes: Reader<IpNet, Route>) -> (Self, mpsc::UnboundedReceiver<Command>) {
        let (commands, receiver) = mpsc::unbounded_channel();
        let handle = Self {
            commands,
            next_id: Arc::default(),
            routes,
        };
        (handle, receiver)
    }

    /// Claims a route; returns when the kernel holds it.
    pub(crate) async fn hold(&self, claim: Claim, peer: Peer) -> Result<Hold, Refusal> {
        // Exists before the command, so that a caller who gives up takes the claim back.
        let release = Release {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            commands: self.commands.clone(),
        };
        let (answer, answered) = oneshot::channel();
        let command = Command::Hold {
            id: release.id,
            claim,
            peer,
            answer,
        };
        self.commands.send(command).map_err(|_| Refusal::Stopping)?;
        let state = answered.await.map_err(|_| Refusal::Stopping)??;
        Ok(Hold {
            state,
            _release: release,
        })
    }
}
