//! Durations as text, such as `500ms`.

use std::time::Duration;

/// Parses a duration: a whole number with its unit (`500ms`, `10s`, `2m`, `1h`, `7d`), or `0`
/// without a unit. Usable as the `value_parser` of a flag.
///
/// # Errors
/// The text has another form, or the duration overflows. The error lists the allowed forms.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let expected = || "expected a whole number with its unit: 500ms, 10s, 2m, 1h or 7d".to_owned();
    let unit_at = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let number: u64 = number.parse().map_err(|_| expected())?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "" if number == 0 => 1,
        _ => return Err(expected()),
    };
    number
        .checked_mul(milliseconds)
        .map(Duration::from_millis)
        .ok_or_else(expected)
}

/// Formats a duration, rounded down to whole milliseconds, as a text that [`parse_duration`]
/// accepts. The unit is the largest unit in which the duration is a whole number.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    for (unit, length) in [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
    ] {
        if milliseconds > 0 && milliseconds.is_multiple_of(length) {
            return format!("{}{unit}", milliseconds / length);
        }
    }
    format!("{milliseconds}ms")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<Duration>) {
        assert_eq!(parse_duration(text).ok(), expected, "{text:?}");
    }

    #[test]
    fn a_whole_number_with_a_unit_is_a_duration() {
        check("500ms", Some(Duration::from_millis(500)));
        check("10s", Some(Duration::from_secs(10)));
        check("2m", Some(Duration::from_secs(120)));
        check("1h", Some(Duration::from_secs(3_600)));
        check("31d", Some(Duration::from_secs(2_678_400)));
        check("0", Some(Duration::ZERO));
        check("0s", Some(Duration::ZERO));
    }

    #[test]
    fn a_duration_is_formatted_in_the_largest_unit_without_a_fraction() {
        for text in ["0ms", "1500ms", "90s", "2m", "25h", "31d"] {
            assert_eq!(format_duration(parse_duration(text).unwrap()), text);
        }
    }

    #[test]
    fn a_text_that_is_not_a_duration_or_overflows_is_refused() {
        for text in [
            "",
            "10",
            "s",
            "-1s",
            "1.5s",
            "1w",
            "1 s",
            "10S",
            "99999999999999999999s",
        ] {
            check(text, None);
        }
        check(&format!("{}m", u64::MAX), None);
    }
}
