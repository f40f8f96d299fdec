//! Drain requests and the end of the process.

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// A handle to request a drain and to wait for the steps of the shutdown. Clones share one state.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    drain: CancellationToken,
    stop: CancellationToken,
}

impl Shutdown {
    /// Requests a drain: every task finishes its work. Further requests have no effect.
    pub fn request(&self) {
        self.drain.cancel();
    }

    /// Waits for a drain request. Then a task finishes the work that clients depend on, and ends.
    pub fn drain_requested(&self) -> WaitForCancellationFutureOwned {
        self.drain.clone().cancelled_owned()
    }

    /// Reports whether a drain is requested.
    pub fn is_requested(&self) -> bool {
        self.drain.is_cancelled()
    }

    /// Waits until the servers must stop: the drain is complete or was ended early, or a task has
    /// failed.
    pub fn stopping(&self) -> WaitForCancellationFutureOwned {
        self.stop.clone().cancelled_owned()
    }

    pub(crate) fn stop(&self) {
        self.drain.cancel();
        self.stop.cancel();
    }
}
