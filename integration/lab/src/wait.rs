//! Waiting for a condition, with a time limit.

use std::fmt::Display;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// The first pause between two attempts. Each further pause is twice as long as the pause before
/// it, up to `LONGEST_PAUSE`.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// The longest pause between two attempts. A shorter pause would slow down the work that the caller
/// waits for, and a longer pause would delay the caller.
const LONGEST_PAUSE: Duration = Duration::from_millis(40);

/// Calls `attempt` repeatedly until it returns a value or the time `within` is over. The error
/// contains `what` and the last error of `attempt`.
///
/// Use this function only for state that must be polled. If the kernel or a process sends a
/// notification, wait for the notification instead.
pub fn wait_for<T, E: Display>(
    what: &str,
    within: Duration,
    mut attempt: impl FnMut() -> Result<T, E>,
) -> Result<T> {
    let deadline = Instant::now() + within;
    let mut pause = FIRST_PAUSE;
    loop {
        let last = match attempt() {
            Ok(value) => return Ok(value),
            Err(last) => last,
        };
        if Instant::now() >= deadline {
            bail!("timed out after {within:?}, waiting for: {what}; last seen: {last:#}");
        }
        thread::sleep(pause);
        pause = LONGEST_PAUSE.min(pause * 2);
    }
}

/// Returns `Ok` if `holds` is true, and otherwise the text of `seen` as an error. Attempts of
/// [`wait_for`] call this function.
pub fn ensure_that(holds: bool, seen: impl Display) -> Result<(), String> {
    if holds { Ok(()) } else { Err(seen.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_of_a_timeout_contains_the_condition_and_the_last_error() {
        let mut count = 0;
        let error = wait_for("the moon", Duration::from_millis(20), || {
            count += 1;
            ensure_that(false, "clouds")
        });
        let text = error.unwrap_err().to_string();
        assert_eq!(
            text,
            "timed out after 20ms, waiting for: the moon; last seen: clouds"
        );
        assert!(count > 1);
    }
}
