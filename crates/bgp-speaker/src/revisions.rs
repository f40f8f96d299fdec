//! Revisions of the speaker's own paths.
//!
//! The module knows the current revision, and the newest revision whose changes the speaker has
//! written to the socket of each established session.

use tokio::sync::watch;

#[derive(Debug)]
pub(crate) struct Revisions {
    /// Increases with every change of the speaker's own paths, and with every call of
    /// `SpeakerHandle::barrier`.
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

    /// Returns a receiver of the revision up to which all changes have been written to the socket
    /// of every established session.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.flushed.subscribe()
    }

    pub(crate) fn current(&self) -> u64 {
        self.current
    }

    /// Increases the current revision by 1 and returns it.
    pub(crate) fn next(&mut self) -> u64 {
        self.current += 1;
        self.current
    }

    /// Publishes the minimum of `written`, which has for each established session the revision up
    /// to which all changes have been written to its socket. Without an established session, every
    /// change counts as written.
    pub(crate) fn publish(&self, written: impl Iterator<Item = u64>) {
        if *self.flushed.borrow() == self.current {
            return;
        }
        let flushed = written.min().unwrap_or(self.current);
        self.flushed.send_if_modified(|published| {
            let is_newer = *published < flushed;
            *published = flushed.max(*published);
            is_newer
        });
    }
}
