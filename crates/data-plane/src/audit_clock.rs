//! Schedule of the audit: one round of slices per interval.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

#[derive(Debug)]
pub(crate) struct AuditClock {
    interval: Duration,
    next_round: Instant,
    is_in_round: bool,
}

impl AuditClock {
    pub(crate) fn new(interval: Duration) -> Self {
        Self {
            interval,
            next_round: Instant::now() + interval,
            is_in_round: false,
        }
    }

    /// Waits until the next slice is due.
    pub(crate) async fn due(&self) {
        if !self.is_in_round {
            sleep_until(self.next_round).await;
        }
    }

    /// Starts the next slice. Returns whether this slice is the first slice of a round.
    pub(crate) fn begin_slice(&mut self) -> bool {
        if self.is_in_round {
            return false;
        }
        self.next_round = Instant::now() + self.interval;
        self.is_in_round = true;
        true
    }

    pub(crate) fn finish_slice(&mut self, is_last: bool) {
        self.is_in_round = !is_last;
    }
}
