//! Detection of times in which this process did not run.

use std::time::Duration;

use tokio::time::Instant;

/// Time between two calls of [`SleepWatch::slept`]. Shorter sleeps are not detected.
const TICK: Duration = Duration::from_secs(1);

/// A detector of sleeps: times in which this process did not run, because the process was stopped
/// or its machine was paused.
///
/// A timer that declares another process dead must exclude sleeps. After a sleep the timer expires
/// before the runtime reads the messages that arrived during the sleep.
#[derive(Debug)]
pub struct SleepWatch {
    due: Instant,
}

impl Default for SleepWatch {
    fn default() -> Self {
        Self::new()
    }
}

impl SleepWatch {
    #[must_use]
    pub fn new() -> Self {
        Self {
            due: Instant::now() + TICK,
        }
    }

    /// Returns the time at which the caller must call [`Self::slept`] next.
    #[must_use]
    pub fn due(&self) -> Instant {
        self.due
    }

    /// Returns by how much this call is later than [`Self::due`], which is the length of a sleep
    /// since the previous call. Returns zero if this call is less than a second late.
    pub fn slept(&mut self) -> Duration {
        let now = Instant::now();
        let late = now.saturating_duration_since(self.due);
        self.due = now + TICK;
        if late < TICK { Duration::ZERO } else { late }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, sleep_until};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_sleep_is_reported_once_and_a_call_without_delay_reports_no_sleep() {
        let mut watch = SleepWatch::new();
        for _ in 0..10 {
            sleep_until(watch.due()).await;
            assert_eq!(watch.slept(), Duration::ZERO);
        }
        advance(Duration::from_millis(100)).await;
        assert_eq!(watch.slept(), Duration::ZERO);
        advance(Duration::from_secs(31)).await;
        assert_eq!(watch.slept(), Duration::from_secs(30));
        assert_eq!(watch.slept(), Duration::ZERO);
    }
}
