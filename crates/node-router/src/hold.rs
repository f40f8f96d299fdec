//! Holds: claims that exist as long as the stream of their holder.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use daemon_runtime::Reader;
use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{error::HoldRefusal, policy::RouteClaim, reconciliation::PublishedRoute};

/// Process that opened the stream of a hold, as reported by the kernel. Both fields are 0 if the
/// kernel reports no process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HolderProcess {
    pub(crate) process_id: i32,
    pub(crate) user_id: u32,
}

/// State of a held route, which node-router sends to the holder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HoldState {
    pub(crate) installed: bool,
    pub(crate) interface: String,
}

/// Handle by which gRPC requests reach the owner of the routes.
#[derive(Clone, Debug)]
pub(crate) struct RouteTableHandle {
    commands: mpsc::UnboundedSender<HoldCommand>,
    next_id: Arc<AtomicU64>,
    pub(crate) routes: Reader<IpNet, PublishedRoute>,
}

/// A claim that the owner of the routes has accepted. Dropping the value releases the claim.
#[derive(Debug)]
pub(crate) struct RouteHold {
    pub(crate) state: watch::Receiver<HoldState>,
    _release: ReleaseOnDrop,
}

#[derive(Debug)]
struct ReleaseOnDrop {
    id: HoldId,
    commands: mpsc::UnboundedSender<HoldCommand>,
}

pub(crate) type HoldId = u64;
pub(crate) type HoldAnswer = Result<watch::Receiver<HoldState>, HoldRefusal>;

/// Request to the owner of the routes.
#[derive(Debug)]
pub(crate) enum HoldCommand {
    Hold {
        id: HoldId,
        claim: RouteClaim,
        process: HolderProcess,
        answer: oneshot::Sender<HoldAnswer>,
    },
    Release(HoldId),
}

impl Drop for ReleaseOnDrop {
    fn drop(&mut self) {
        // Sending fails only if the owner of the routes has stopped. Then the route stays in the
        // kernel for the next run.
        let _ = self.commands.send(HoldCommand::Release(self.id));
    }
}

impl RouteTableHandle {
    /// Returns the handle, and the receiver of its commands for the owner.
    pub(crate) fn new(
        routes: Reader<IpNet, PublishedRoute>,
    ) -> (Self, mpsc::UnboundedReceiver<HoldCommand>) {
        let (commands, receiver) = mpsc::unbounded_channel();
        let handle = Self {
            commands,
            next_id: Arc::default(),
            routes,
        };
        (handle, receiver)
    }

    /// Claims a route. Returns after the owner of the routes has installed the route in the kernel,
    /// or has refused the claim.
    pub(crate) async fn hold(
        &self,
        claim: RouteClaim,
        process: HolderProcess,
    ) -> Result<RouteHold, HoldRefusal> {
        // `release` exists before the command is sent. So the claim is also released if the caller
        // stops waiting for the answer.
        let release = ReleaseOnDrop {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            commands: self.commands.clone(),
        };
        let (answer, answered) = oneshot::channel();
        let command = HoldCommand::Hold {
            id: release.id,
            claim,
            process,
            answer,
        };
        self.commands
            .send(command)
            .map_err(|_| HoldRefusal::Stopping)?;
        let state = answered.await.map_err(|_| HoldRefusal::Stopping)??;
        Ok(RouteHold {
            state,
            _release: release,
        })
    }
}
