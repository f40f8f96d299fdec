//! How long a Lease is believed to be held without a renewal.

use std::time::Duration;

/// Shortest duration that is believed, in seconds.
const SHORTEST: i32 = 1;

/// Longest duration that is believed, in seconds: four times that of this program. A writer of
/// Leases that says more would stop the election, or count as announcing, for as long.
const LONGEST: i32 = 60;

/// A duration as it is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Believed {
    pub(crate) duration: Duration,
    /// What the Lease says instead, in seconds, where that is out of bounds.
    pub(crate) written: Option<i32>,
}

/// Returns the duration of a Lease, within its bounds.
pub(crate) fn believed(seconds: Option<i32>) -> Believed {
    let seconds = seconds.unwrap_or(0);
    let bounded = seconds.clamp(SHORTEST, LONGEST);
    Believed {
        duration: Duration::from_secs(bounded.unsigned_abs().into()),
        written: (bounded != seconds).then_some(seconds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_believed_within_its_bounds() {
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
            let expected = Believed {
                duration: Duration::from_secs(seconds),
                written: written
                    .or(Some(0))
                    .filter(|written| i64::from(*written) != i64::try_from(seconds).unwrap()),
            };
            assert_eq!(believed(written), expected);
        }
    }
}
