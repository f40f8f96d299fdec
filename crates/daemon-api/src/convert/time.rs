//! Durations and times of the contracts, and ours.

use std::time::Duration;

use virtual_server::Timestamp;

use super::ConversionError;

/// Number of nanoseconds in one second.
pub(super) const NANOSECONDS: u32 = 1_000_000_000;

/// Reads a duration of a message; unset is zero. The caller bounds it.
///
/// # Errors
/// It is negative or out of range.
pub fn period(
    field: &str,
    period: Option<prost_types::Duration>,
) -> Result<Duration, ConversionError> {
    let period = period.unwrap_or_default();
    let prost_types::Duration { seconds, nanos } = period;
    // Before the conversion of prost-types, which overflows at the least number of seconds.
    let is_negative = seconds < 0 || nanos < 0;
    let period = (!is_negative).then(|| Duration::try_from(period));
    period.and_then(Result::ok).ok_or_else(|| {
        let problem = format!("{seconds} s and {nanos} ns is not a duration from 0 on");
        ConversionError::new(field, problem)
    })
}

/// Converts a duration. More than 10,000 years are out of the range of the message.
pub fn duration(period: Duration) -> prost_types::Duration {
    let (seconds, nanos) = parts(period);
    prost_types::Duration { seconds, nanos }
}

pub(super) fn moment(
    field: &str,
    moment: Option<prost_types::Timestamp>,
) -> Result<Option<Timestamp>, ConversionError> {
    let Some(prost_types::Timestamp { seconds, nanos }) = moment else {
        return Ok(None);
    };
    let fraction = u32::try_from(nanos).ok();
    let fraction = fraction.filter(|nanos| *nanos < NANOSECONDS);
    match (u64::try_from(seconds), fraction) {
        (Ok(seconds), Some(nanos)) => Ok(Some(Timestamp(Duration::new(seconds, nanos)))),
        (Err(_), _) | (_, None) => {
            let problem = format!("{seconds} s and {nanos} ns is not a time since 1970");
            Err(ConversionError::new(field, problem))
        }
    }
}

pub(super) fn timestamp(Timestamp(time): Timestamp) -> prost_types::Timestamp {
    let (seconds, nanos) = parts(time);
    prost_types::Timestamp { seconds, nanos }
}

fn parts(time: Duration) -> (i64, i32) {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    (seconds, time.subsec_nanos().cast_signed())
}
