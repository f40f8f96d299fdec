//! Waiting with a deadline, and saying what was awaited when it passes.

use std::fmt::Display;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// The first pause between two attempts; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// The longest pause. Polling must not slow down the awaited work.
const LONGEST_PAUSE: Duration = Duration::from_millis(40);

/// Asks `attempt` again and again until it gives a value, for state that can
/// only be asked for; where the kernel or a process tells, wait for that. The
/// error carries what `attempt` said last.
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
            bail!("not within {within:?}: {what}; last seen: {last:#}");
        }
        thread::sleep(pause);
        pause = LONGEST_PAUSE.min(pause * 2);
    }
}

/// `Ok` if it holds, otherwise what was seen instead: for `wait_for`.
pub fn ensure_that(holds: bool, seen: impl Display) -> Result<(), String> {
    if holds { Ok(()) } else { Err(seen.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_says_what_was_awaited_and_what_was_seen_last() {
        let mut count = 0;
        let error = wait_for("the moon", Duration::from_millis(20), || {
            count += 1;
            ensure_that(false, "clouds")
        });
        let text = error.unwrap_err().to_string();
        assert_eq!(text, "not within 20ms: the moon; last seen: clouds");
        assert!(count > 1);
    }
}
