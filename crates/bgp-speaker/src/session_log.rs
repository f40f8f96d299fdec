//! Limit of log lines about the sessions of each remote address.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

/// Largest number of log lines about one remote address within a window.
const LINES: u32 = 10;

/// Length of a window of the line limit.
const WINDOW: Duration = Duration::from_secs(60);

/// Largest number of remote addresses that have a separate limit in one window. All further
/// addresses share one limit.
const ADDRESSES: usize = 1024;

/// Limits the log lines about sessions, so that a peer with frequently changing sessions does not
/// flood the log.
#[derive(Debug, Default)]
pub(crate) struct SessionLog {
    began: Option<Instant>,
    lines: HashMap<Option<IpAddr>, u32>,
    suppressed: u64,
}

impl SessionLog {
    /// Returns true and counts the line if the address has not reached its limit in the current
    /// window. Otherwise returns false and counts the line as dropped.
    pub(crate) fn allows(&mut self, address: IpAddr, now: Instant) -> bool {
        self.summarize(now);
        self.began.get_or_insert(now);
        let is_new = !self.lines.contains_key(&Some(address));
        let key = (!is_new || self.lines.len() < ADDRESSES).then_some(address);
        let lines = self.lines.entry(key).or_default();
        if *lines < LINES {
            *lines += 1;
            return true;
        }
        self.suppressed += 1;
        false
    }

    /// Reports whether a session can log a line that it logs only once: the session has not logged
    /// the line yet, and [`allows`](Self::allows) returns true for the address. Sets `has_logged`
    /// only if the session can log the line, so that a line beyond the limit is logged in a later
    /// window.
    pub(crate) fn allows_once(
        &mut self,
        has_logged: &mut bool,
        address: IpAddr,
        now: Instant,
    ) -> bool {
        let is_due = !*has_logged && self.allows(address, now);
        *has_logged |= is_due;
        is_due
    }

    /// Ends the window if [`WINDOW`] has passed since its beginning, and logs the number of lines
    /// that were dropped in the window, if any.
    pub(crate) fn summarize(&mut self, now: Instant) {
        if let Some(suppressed) = self.end_window(now) {
            tracing::warn!(
                suppressed,
                limit = LINES,
                window = ?WINDOW,
                "dropped log lines about sessions: an address exceeded its limit of lines per window"
            );
        }
    }

    fn end_window(&mut self, now: Instant) -> Option<u64> {
        let began = self.began?;
        if now.saturating_duration_since(began) < WINDOW {
            return None;
        }
        let suppressed = self.suppressed;
        *self = Self::default();
        (suppressed > 0).then_some(suppressed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::LoggedOnce;

    fn address(number: u32) -> IpAddr {
        IpAddr::from(number.to_be_bytes())
    }

    fn allowed(log: &mut SessionLog, address: IpAddr, lines: u32, now: Instant) -> usize {
        let lines = (0..lines).filter(|_| log.allows(address, now));
        lines.count()
    }

    #[test]
    fn each_address_logs_at_most_ten_lines_a_minute() {
        let mut log = SessionLog::default();
        let began = Instant::now();
        assert_eq!(allowed(&mut log, address(1), 159, began), 10);
        // Another address has a separate limit.
        assert_eq!(allowed(&mut log, address(2), 3, began), 3);
        assert_eq!(log.end_window(began + WINDOW / 2), None);
        assert_eq!(log.end_window(began + WINDOW), Some(149));
        assert_eq!(allowed(&mut log, address(1), 11, began + WINDOW), 10);
    }

    #[test]
    fn a_line_that_is_logged_once_and_was_suppressed_is_logged_in_the_next_window() {
        let mut log = SessionLog::default();
        let established = Instant::now();
        assert_eq!(allowed(&mut log, address(1), 11, established), 10);
        let mut logged = LoggedOnce::default();
        let mut is_due =
            |log: &mut SessionLog, now| log.allows_once(&mut logged.rejected, address(1), now);
        assert!(!is_due(&mut log, established));
        assert!(is_due(&mut log, established + WINDOW));
        assert!(
            !is_due(&mut log, established + WINDOW),
            "the session has already logged the line"
        );
        // The logged line counts towards the limit of ten lines, its suppressed repetition does
        // not.
        assert_eq!(allowed(&mut log, address(1), 11, established + WINDOW), 9);
    }

    #[test]
    fn a_window_without_dropped_lines_has_no_summary() {
        let mut log = SessionLog::default();
        let began = Instant::now();
        assert!(log.allows(address(1), began));
        assert_eq!(log.end_window(began + WINDOW), None);
    }

    #[test]
    fn addresses_beyond_the_first_1024_share_one_limit() {
        let mut log = SessionLog::default();
        let now = Instant::now();
        let addresses = u32::try_from(ADDRESSES).unwrap();
        let lines = (0..2 * addresses).filter(|number| log.allows(address(*number), now));
        assert_eq!(lines.count(), ADDRESSES + 10);
        assert!(log.lines.len() <= ADDRESSES + 1);
        assert!(
            log.allows(address(0), now),
            "a counted address keeps its separate limit"
        );
    }
}
