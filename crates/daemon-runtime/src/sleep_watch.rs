//! Notices that this process did not run for a while.

use std::time::Duration;

use tokio::time::Instant;

/// Time between two calls of [`SleepWatch::slept`]; a shorter sleep is not noticed.
const TICK: Duration = Duration::from_secs(1);

/// Notices that this process did not run for a while: it was stopped, or its machine was paused.
///
/// A timer that declares another process dead must not count this time. After such a sleep the timer
/// expires before the runtime sees what has arrived meanwhile.
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
    /// Starts now.
    #[must_use]
    pub fn new() -> Self {
        Self {
            due: Instant::now() + TICK,
        }
    }

    /// Returns when [`Self::slept`] must be called next.
    #[must_use]
    pub fn due(&self) -> Instant {
        self.due
    }

    /// Returns for how long this process did not run since the previous call. Zero unless the call
    /// comes at least a second late.
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
    async fn a_sleep_is_noticed_once_and_time_in_between_is_none() {
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
