//! Conversions of durations and times between the contracts and Rust.

use std::time::Duration;

use virtual_server::Timestamp;

use super::ConversionError;

pub(super) const NANOSECONDS_PER_SECOND: u32 = 1_000_000_000;

/// Returns the duration of the field `field`; zero if the field is unset. The caller checks the
/// upper limit of the field.
///
/// # Errors
/// The duration is negative or out of range.
pub fn period(
    field: &str,
    period: Option<prost_types::Duration>,
) -> Result<Duration, ConversionError> {
    let period = period.unwrap_or_default();
    let prost_types::Duration { seconds, nanos } = period;
    // The conversion of prost-types overflows for `i64::MIN` seconds, so the sign is checked first.
    let is_negative = seconds < 0 || nanos < 0;
    let period = (!is_negative).then(|| Duration::try_from(period));
    period.and_then(Result::ok).ok_or_else(|| {
        let problem = format!("{seconds} s and {nanos} ns is not a duration of 0 or more");
        ConversionError::new(field, problem)
    })
}

/// Converts a duration to a message. The contracts allow durations up to 10,000 years.
pub fn duration(period: Duration) -> prost_types::Duration {
    let (seconds, nanos) = seconds_and_nanoseconds(period);
    prost_types::Duration { seconds, nanos }
}

pub(super) fn timestamp_from_message(
    field: &str,
    timestamp: Option<prost_types::Timestamp>,
) -> Result<Option<Timestamp>, ConversionError> {
    let Some(prost_types::Timestamp { seconds, nanos }) = timestamp else {
        return Ok(None);
    };
    let fraction = u32::try_from(nanos).ok();
    let fraction = fraction.filter(|nanos| *nanos < NANOSECONDS_PER_SECOND);
    match (u64::try_from(seconds), fraction) {
        (Ok(seconds), Some(nanos)) => Ok(Some(Timestamp(Duration::new(seconds, nanos)))),
        (Err(_), _) | (_, None) => {
            let problem = format!("{seconds} s and {nanos} ns is not a time since 1970");
            Err(ConversionError::new(field, problem))
        }
    }
}

pub(super) fn timestamp_to_message(Timestamp(time): Timestamp) -> prost_types::Timestamp {
    let (seconds, nanos) = seconds_and_nanoseconds(time);
    prost_types::Timestamp { seconds, nanos }
}

fn seconds_and_nanoseconds(time: Duration) -> (i64, i32) {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    (seconds, time.subsec_nanos().cast_signed())
}
