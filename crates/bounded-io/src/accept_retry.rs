//! Pause after a failed accept(2).

use std::{io, time::Duration};

/// Pause after the first failed accept since the last successful accept. The pause doubles with
/// each further failure, up to [`LONGEST_PAUSE`]. An error that concerns only one connection or one
/// call causes no pause and does not count as a failure.
pub const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// Longest pause between a failed accept and the next accept.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The retry state of an accept loop. While accept(2) fails, for example without free file
/// descriptors, the connection stays in the queue of the kernel, so a loop without pauses would use
/// all CPU time.
#[derive(Debug)]
pub struct AcceptRetry {
    server: &'static str,
    pause: Duration,
    failures: u64,
}

impl AcceptRetry {
    /// Returns a new state. `server` is the name of the server in log messages.
    #[must_use]
    pub fn new(server: &'static str) -> Self {
        Self {
            server,
            pause: FIRST_PAUSE,
            failures: 0,
        }
    }

    /// Returns the pause before the next accept. `None`: the error concerns only one connection or
    /// one call, and the caller can accept again immediately. Logs the first failure with a pause
    /// since the last successful accept.
    #[must_use]
    pub fn failed(&mut self, error: &io::Error) -> Option<Duration> {
        if is_error_of_connection(error) {
            return None;
        }
        self.failures += 1;
        if self.failures == 1 {
            tracing::warn!(server = self.server, %error, "cannot accept connections; retrying");
        }
        // The pause has no random part, because a random generator can need a file descriptor for
        // its seed.
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        Some(pause)
    }

    /// Resets the pause after a successful accept. Logs that the server accepts connections again
    /// if an accept failed before.
    pub fn succeeded(&mut self) {
        if self.failures > 0 {
            let (server, failures) = (self.server, self.failures);
            tracing::info!(server, failures, "accepting connections again");
            *self = Self::new(server);
        }
    }
}

/// Reports whether the error concerns only the new connection or only this call, which a signal
/// interrupted. Linux returns a pending error of the new connection as an error of accept(2).
fn is_error_of_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use nix::libc::{ECONNABORTED, EMFILE};

    use super::*;

    fn pauses(error: i32, count: usize) -> Vec<Option<Duration>> {
        let mut retry = AcceptRetry::new("test");
        let error = io::Error::from_raw_os_error(error);
        (0..count).map(|_| retry.failed(&error)).collect()
    }

    #[test]
    fn the_pause_doubles_up_to_one_second_without_free_descriptors() {
        let milliseconds = [10, 20, 40, 80, 160, 320, 640, 1000, 1000];
        let expected = milliseconds.map(|pause| Some(Duration::from_millis(pause)));
        assert_eq!(pauses(EMFILE, expected.len()), expected);
    }

    #[test]
    fn an_aborted_connection_causes_no_pause() {
        assert_eq!(pauses(ECONNABORTED, 3), [None; 3]);
    }

    #[test]
    fn a_successful_accept_resets_the_pause() {
        let mut retry = AcceptRetry::new("test");
        let error = io::Error::from_raw_os_error(EMFILE);
        assert_eq!(retry.failed(&error), Some(FIRST_PAUSE));
        assert_eq!(retry.failed(&error), Some(2 * FIRST_PAUSE));
        retry.succeeded();
        assert_eq!(retry.failed(&error), Some(FIRST_PAUSE));
    }
}
