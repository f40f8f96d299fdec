//! A budget of log lines for the sessions of each remote address.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

/// Lines of one remote address that are logged within a window.
const LINES: u32 = 10;

/// Length of a window.
const WINDOW: Duration = Duration::from_secs(60);

/// Most remote addresses with a budget of their own; all others share one budget.
const ADDRESSES: usize = 1024;

/// Limits the log lines about sessions, so that a peer whose sessions come and go does not fill the
/// log.
#[derive(Debug, Default)]
pub(crate) struct SessionLog {
    began: Option<Instant>,
    lines: HashMap<Option<IpAddr>, u32>,
    suppressed: u64,
}

impl SessionLog {
    /// Takes a line of this address. Returns false if its budget is used up.
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

    /// Reports whether a line that a session logs once is due: the session has not logged it, and
    /// [`allows`](Self::allows) has a line left for the address. Sets `has_logged` in this case only,
    /// so that a line without budget appears in a later window.
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

    /// Ends a window that is over, and logs how many lines are missing in it.
    pub(crate) fn summarize(&mut self, now: Instant) {
        if let Some(suppressed) = self.end_window(now) {
            tracing::warn!(
                suppressed,
                limit = LINES,
                window = ?WINDOW,
                "sessions change often; log lines beyond the limit of an address were dropped"
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
    fn a_peer_whose_sessions_come_and_go_has_ten_lines_a_minute() {
        let mut log = SessionLog::default();
        let began = Instant::now();
        assert_eq!(allowed(&mut log, address(1), 159, began), 10);
        // Another peer has a budget of its own.
        assert_eq!(allowed(&mut log, address(2), 3, began), 3);
        assert_eq!(log.end_window(began + WINDOW / 2), None);
        assert_eq!(log.end_window(began + WINDOW), Some(149));
        assert_eq!(allowed(&mut log, address(1), 11, began + WINDOW), 10);
    }

    #[test]
    fn a_session_that_came_up_without_budget_logs_its_first_rejected_path_in_the_next_window() {
        let mut log = SessionLog::default();
        let came_up = Instant::now();
        assert_eq!(allowed(&mut log, address(1), 11, came_up), 10);
        let mut logged = LoggedOnce::default();
        let mut is_due =
            |log: &mut SessionLog, now| log.allows_once(&mut logged.rejected, address(1), now);
        assert!(!is_due(&mut log, came_up));
        assert!(is_due(&mut log, came_up + WINDOW));
        assert!(!is_due(&mut log, came_up + WINDOW), "the line is logged");
        // The line took one of the ten lines of its window; the repetition took none.
        assert_eq!(allowed(&mut log, address(1), 11, came_up + WINDOW), 9);
    }

    #[test]
    fn a_window_without_suppressed_lines_has_no_summary() {
        let mut log = SessionLog::default();
        let began = Instant::now();
        assert!(log.allows(address(1), began));
        assert_eq!(log.end_window(began + WINDOW), None);
    }

    #[test]
    fn addresses_beyond_the_bound_share_one_budget() {
        let mut log = SessionLog::default();
        let now = Instant::now();
        let addresses = u32::try_from(ADDRESSES).unwrap();
        let lines = (0..2 * addresses).filter(|number| log.allows(address(*number), now));
        assert_eq!(lines.count(), ADDRESSES + 10);
        assert!(log.lines.len() <= ADDRESSES + 1);
        assert!(log.allows(address(0), now), "a known address keeps its own");
    }
}
