//! Pauses between attempts to reach another daemon.
//!
//! The grace periods of a daemon limit the longest pause.

use std::time::Duration;

use crate::ConfigError;

/// Longest pause between two attempts to reach a daemon on the same node, including the jitter.
pub const LONGEST_RETRY: Duration = Duration::from_secs(2);

/// Smallest allowed value of the longest pause. More frequent attempts would only use processor
/// time.
const SHORTEST_RETRY: Duration = Duration::from_millis(20);

/// A grace period is at least this many times as long as the longest pause. So a client reaches a
/// daemon that starts again within three quarters of the grace period before the grace period ends.
const RETRIES_PER_GRACE: u32 = 4;

/// Largest factor between a delay with jitter and the delay without jitter.
const SPREAD: f64 = 1.2;

/// A setting of a daemon: the time for which another daemon may be away without a consequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GracePeriod {
    /// The flag that sets the grace period, for error messages.
    pub flag: &'static str,
    /// Zero: the absence of the other daemon has an immediate consequence, and this grace period
    /// does not limit the longest pause.
    pub period: Duration,
}

impl GracePeriod {
    /// Returns the shortest grace period that allows `pause` as the longest pause between two
    /// attempts.
    pub fn shortest_for(pause: Duration) -> Duration {
        pause * RETRIES_PER_GRACE
    }

    /// Returns the longest pause between two attempts that this grace period allows, including the
    /// jitter.
    fn longest_retry(&self) -> Duration {
        self.period / RETRIES_PER_GRACE
    }
}

/// Returns the longest pause between two attempts to reach a daemon, including the jitter.
///
/// `given` is the value of `flag`. Without a value, the function chooses the longest pause that
/// every grace period allows, at most [`LONGEST_RETRY`].
///
/// # Errors
/// The given pause is not within 20 ms to [`LONGEST_RETRY`], or the given or chosen pause is more
/// than a quarter of a grace period. The message about a grace period names both flags.
pub fn longest_retry(
    flag: &str,
    given: Option<Duration>,
    grace_periods: &[GracePeriod],
) -> Result<Duration, ConfigError> {
    let milliseconds = |duration: Duration| duration.as_millis();
    if let Some(given) = given
        && !(SHORTEST_RETRY..=LONGEST_RETRY).contains(&given)
    {
        return Err(ConfigError(format!(
            "{flag} {} ms is not allowed: give {} ms to {} ms",
            milliseconds(given),
            milliseconds(SHORTEST_RETRY),
            milliseconds(LONGEST_RETRY),
        )));
    }
    let in_force = grace_periods.iter().filter(|grace| !grace.period.is_zero());
    let Some(shortest) = in_force.min_by_key(|grace| grace.period) else {
        return Ok(given.unwrap_or(LONGEST_RETRY));
    };
    let allowed = shortest.longest_retry();
    let pause = given.unwrap_or(allowed.clamp(SHORTEST_RETRY, LONGEST_RETRY));
    if pause > allowed {
        let or_shorter = match pause > SHORTEST_RETRY {
            true => format!(", or a shorter {flag}"),
            false => String::new(),
        };
        return Err(ConfigError(format!(
            "{} {} ms is shorter than {RETRIES_PER_GRACE} times {flag} {} ms: a daemon that comes \
             back in time could be reached too late; give {} at least {} ms{or_shorter}",
            shortest.flag,
            milliseconds(shortest.period),
            milliseconds(pause),
            shortest.flag,
            milliseconds(GracePeriod::shortest_for(pause)),
        )));
    }
    Ok(pause)
}

/// The delays between attempts: each is twice the previous delay, up to the longest delay.
///
/// A random jitter makes each delay up to 20 % shorter or longer, so that the clients of one server
/// do not connect simultaneously.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// Returns delays from `first` to `longest`, not including the jitter.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            next: first,
        }
    }

    /// Returns delays for a daemon on the same node: from 20 ms, not including the jitter, to
    /// `longest_retry`, including the jitter.
    pub fn for_neighbouring_daemon(longest_retry: Duration) -> Self {
        let longest = longest_retry.div_f64(SPREAD);
        Self::new(SHORTEST_RETRY.min(longest), longest)
    }

    /// Returns delays from `first`, not including the jitter, to a quarter of the grace period,
    /// including the jitter.
    pub fn within_grace(first: Duration, grace_period: Duration) -> Self {
        let longest = (grace_period / RETRIES_PER_GRACE).div_f64(SPREAD);
        Self::new(first.min(longest), longest)
    }

    /// Makes the next delay the first delay. Call it after a successful attempt.
    pub fn reset(&mut self) {
        self.next = self.first;
    }

    /// Returns the delay before the next attempt.
    pub fn next_delay(&mut self) -> Duration {
        self.delay_with(rand::random_range(0.0..=1.0))
    }

    /// Returns the delay before the next attempt for callers with their own random number.
    ///
    /// `jitter` is 0 for the shortest delay (80 %) to 1 for the longest delay (120 %).
    pub fn delay_with(&mut self, jitter: f64) -> Duration {
        let delay = self.next;
        self.next = (self.next * 2).min(self.longest);
        delay.mul_f64((2.0 - SPREAD) + jitter * 2.0 * (SPREAD - 1.0))
    }

    /// Sleeps for the next delay.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.next_delay()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest_delay_and_a_reset_restores_the_first_delay() {
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

    #[test]
    fn no_delay_with_jitter_is_longer_than_the_longest_pause() {
        let longest = Duration::from_millis(500);
        for mut backoff in [
            Backoff::for_neighbouring_daemon(longest),
            Backoff::within_grace(Duration::from_millis(20), longest * RETRIES_PER_GRACE),
            Backoff::for_neighbouring_daemon(Duration::from_millis(20)),
        ] {
            for _ in 0..200 {
                let delay = backoff.next_delay();
                assert!(!delay.is_zero() && delay <= longest, "{delay:?}");
            }
        }
    }

    const FLAG: &str = "--longest-retry";

    #[track_caller]
    fn check(given: Option<u64>, grace_periods: &[u64], expected: Result<u64, &str>) {
        let flags = ["--first-timeout", "--second-timeout"];
        let grace_periods: Vec<GracePeriod> = flags
            .into_iter()
            .zip(grace_periods)
            .map(|(flag, period)| GracePeriod {
                flag,
                period: Duration::from_millis(*period),
            })
            .collect();
        let given = given.map(Duration::from_millis);
        let pause = longest_retry(FLAG, given, &grace_periods);
        let pause = pause.map_err(|error| error.0);
        let expected = expected.map(Duration::from_millis);
        assert_eq!(
            pause.as_ref().map_err(String::as_str),
            expected.as_ref().map_err(|message| *message)
        );
    }

    #[test]
    fn the_default_of_the_longest_pause_is_a_quarter_of_the_shortest_grace_period() {
        check(None, &[5000, 2000], Ok(500));
        check(None, &[60_000], Ok(2000));
        check(None, &[], Ok(2000));
        check(Some(300), &[5000, 2000], Ok(300));
        // A grace period of zero does not limit the longest pause.
        check(None, &[0, 5000], Ok(1250));
        check(Some(2000), &[0], Ok(2000));
    }

    #[test]
    fn the_message_about_a_pause_that_a_grace_period_does_not_allow_has_both_flags() {
        check(
            Some(600),
            &[5000, 2000],
            Err(
                "--second-timeout 2000 ms is shorter than 4 times --longest-retry 600 ms: a \
                 daemon that comes back in time could be reached too late; give \
                 --second-timeout at least 2400 ms, or a shorter --longest-retry",
            ),
        );
        check(
            None,
            &[50],
            Err(
                "--first-timeout 50 ms is shorter than 4 times --longest-retry 20 ms: a daemon \
                 that comes back in time could be reached too late; give --first-timeout at least \
                 80 ms",
            ),
        );
        let range = |given: &str| {
            format!("--longest-retry {given} ms is not allowed: give 20 ms to 2000 ms")
        };
        check(Some(0), &[5000], Err(&range("0")));
        check(Some(2001), &[50_000], Err(&range("2001")));
    }
}
