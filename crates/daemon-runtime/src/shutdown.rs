//! The request to stop, and how far it has come.

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Cloned into every task that must know of the end of the process.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    drain: CancellationToken,
    stop: CancellationToken,
}

impl Shutdown {
    /// Asks every task to finish its work. Asking twice is asking once.
    pub fn request(&self) {
        self.drain.cancel();
    }

    /// Returns when a drain is requested: finish what clients depend on, then end.
    pub fn drain_requested(&self) -> WaitForCancellationFutureOwned {
        self.drain.clone().cancelled_owned()
    }

    /// Reports whether a drain is requested.
    pub fn is_requested(&self) -> bool {
        self.drain.is_cancelled()
    }

    /// Returns when everything has been drained: servers stop.
    pub fn stopping(&self) -> WaitForCancellationFutureOwned {
        self.stop.clone().cancelled_owned()
    }

    pub(crate) fn stop(&self) {
        self.drain.cancel();
        self.stop.cancel();
    }
}
