//! How long to wait before the next attempt.

use std::time::Duration;

/// Doubles from the first to the longest delay, each spread by a random fifth, so that clients of
/// one server do not return in step.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// Delays from `first` to `longest`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            next: first,
        }
    }

    /// For a daemon in the same pod: 20 ms to 2 s.
    pub fn for_neighbouring_daemon() -> Self {
        Self::new(Duration::from_millis(20), Duration::from_secs(2))
    }

    /// An attempt has succeeded: start again with the first delay.
    pub fn reset(&mut self) {
        self.next = self.first;
    }

    /// The delay before the next attempt.
    pub fn next_delay(&mut self) -> Duration {
        let delay = self.next;
        self.next = (self.next * 2).min(self.longest);
        delay.mul_f64(rand::random_range(0.8..=1.2))
    }

    /// Waits for the next delay.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.next_delay()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest_and_start_again_after_success() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(300));
        let check = |low: u64, high: u64, backoff: &mut Backoff| {
            let delay = backoff.next_delay();
            assert!(
                delay >= Duration::from_millis(low) && delay <= Duration::from_millis(high),
                "{delay:?}"
            );
        };
        check(80, 120, &mut backoff);
        check(160, 240, &mut backoff);
        check(240, 360, &mut backoff);
        check(240, 360, &mut backoff);
        backoff.reset();
        check(80, 120, &mut backoff);
    }
}
