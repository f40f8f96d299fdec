//! When a connection was heard last, readable by the owner while messages wait in its queue.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// Set by the connection, read by the owner.
#[derive(Debug)]
pub(crate) struct Heard {
    origin: Instant,
    /// Milliseconds after `origin`, or [`WAITING`].
    milliseconds: AtomicU64,
}

/// Messages wait for room in the owner's queue: the peer is as alive as can be known.
const WAITING: u64 = u64::MAX;

impl Heard {
    pub(crate) fn new() -> Self {
        Self {
            origin: Instant::now(),
            milliseconds: AtomicU64::new(0),
        }
    }

    /// A whole message was decoded.
    pub(crate) fn now(&self) {
        let elapsed = u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(WAITING - 1);
        self.milliseconds.store(elapsed, Ordering::Relaxed);
    }

    /// It waits for room in the owner's queue.
    pub(crate) fn waits(&self) {
        self.milliseconds.store(WAITING, Ordering::Relaxed);
    }

    pub(crate) fn last(&self, now: Instant) -> Instant {
        match self.milliseconds.load(Ordering::Relaxed) {
            WAITING => now,
            milliseconds => self.origin + Duration::from_millis(milliseconds),
        }
    }
}
