//! Limits for the duration of a Lease.

use std::time::Duration;

/// Shortest accepted duration of a Lease, in seconds. A shorter duration counts as this one.
const SHORTEST: i32 = 1;

/// Longest accepted duration of a Lease, in seconds: four times the duration that pod-watcher
/// writes. A longer duration counts as this one, because it would block the election, or keep an
/// expired report valid, for too long.
const LONGEST: i32 = 60;

/// A duration of a Lease within the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BoundedDuration {
    pub(crate) duration: Duration,
    /// The duration in the Lease, in seconds. `None` if it is within the limits.
    pub(crate) written: Option<i32>,
}

/// Limits the duration of a Lease to the accepted range. A missing duration counts as 0 s.
pub(crate) fn bounded(seconds: Option<i32>) -> BoundedDuration {
    let seconds = seconds.unwrap_or(0);
    let bounded = seconds.clamp(SHORTEST, LONGEST);
    BoundedDuration {
        duration: Duration::from_secs(bounded.unsigned_abs().into()),
        written: (bounded != seconds).then_some(seconds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_duration_is_limited_to_the_accepted_range() {
        for (written, seconds) in [
            (Some(15), 15),
            (Some(1), 1),
            (Some(60), 60),
            (Some(61), 60),
            (Some(i32::MAX), 60),
            (Some(0), 1),
            (Some(i32::MIN), 1),
            (None, 1),
        ] {
            let expected = BoundedDuration {
                duration: Duration::from_secs(seconds),
                written: written
                    .or(Some(0))
                    .filter(|written| i64::from(*written) != i64::try_from(seconds).unwrap()),
            };
            assert_eq!(bounded(written), expected);
        }
    }
}
