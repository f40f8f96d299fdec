//! Which changes of the speaker's own paths every peer has been sent.

use tokio::sync::watch;

#[derive(Debug)]
pub(crate) struct Revisions {
    /// Grows with every change of the speaker's own paths.
    current: u64,
    flushed: watch::Sender<u64>,
}

impl Revisions {
    pub(crate) fn new() -> Self {
        Self {
            current: 0,
            flushed: watch::Sender::new(0),
        }
    }

    /// The revision up to which everything has been written to every peer.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.flushed.subscribe()
    }

    pub(crate) fn current(&self) -> u64 {
        self.current
    }

    /// Returns the revision of a further change.
    pub(crate) fn next(&mut self) -> u64 {
        self.current += 1;
        self.current
    }

    /// Publishes the smallest of the revisions that were written to the established sessions. Without
    /// a session everything counts as written.
    pub(crate) fn publish(&self, written: impl Iterator<Item = u64>) {
        if *self.flushed.borrow() == self.current {
            return;
        }
        let flushed = written.min().unwrap_or(self.current);
        self.flushed.send_if_modified(|known| {
            let is_newer = *known < flushed;
            *known = flushed.max(*known);
            is_newer
        });
    }
}
