//! Which pod writes: one Lease, and who holds it.
//!
//! ```text
//!             nobody holds it, or the holder
//!             has not renewed it for its duration
//!   Follower ────────────────────────────────────► Leader
//!      ▲                                             │
//!      └─────────────────────────────────────────────┘
//!        another one holds it, or it could not be renewed in time
//! ```
//!
//! Whether a holder still renews is seen by the local clock: from when its last change was noticed,
//! not from the time that it wrote. A leader stops earlier than others may begin.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::lease_duration::Believed;

/// A holder that has not renewed for this long has lost it.
pub(crate) const DURATION: Duration = Duration::from_secs(15);

/// A holder that could not renew for this long stops to write.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);

/// What the Lease says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Empty: nobody.
    pub(crate) holder: String,
    pub(crate) renewed: Option<Timestamp>,
    pub(crate) duration: Duration,
}

/// What to do about the Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It does not exist.
    Create,
    /// Nobody holds it any more.
    Take,
    /// We hold it.
    Renew,
    /// Another one holds it.
    Wait,
}

/// Who holds the Lease, as far as we know.
#[derive(Debug)]
pub(crate) struct Election {
    identity: String,
    /// What was seen last, and since when it has been so.
    seen: Option<(Record, Instant)>,
    /// We lead until then.
    leads_until: Option<Instant>,
    /// The duration out of bounds that was told of last, in seconds.
    logged_duration: Option<i32>,
}

impl Election {
    pub(crate) fn new(identity: String) -> Self {
        Self {
            identity,
            seen: None,
            leads_until: None,
            logged_duration: None,
        }
    }

    /// Returns the duration out of bounds that is to be told of: each once, until another holder
    /// writes a duration that is believed.
    pub(crate) fn duration_to_log(&mut self, believed: Believed) -> Option<i32> {
        let before = std::mem::replace(&mut self.logged_duration, believed.written);
        believed.written.filter(|written| before != Some(*written))
    }

    /// What the Lease is, and what follows.
    pub(crate) fn observe(&mut self, record: Option<Record>, now: Instant) -> Step {
        let Some(record) = record else {
            self.seen = None;
            self.leads_until = None;
            return Step::Create;
        };
        if self.seen.as_ref().is_none_or(|(seen, _)| *seen != record) {
            self.seen = Some((record.clone(), now));
        }
        let since = self.seen.as_ref().map_or(now, |(_, since)| *since);
        if record.holder == self.identity {
            return Step::Renew;
        }
        self.leads_until = None;
        if record.holder.is_empty() || now >= since + record.duration {
            Step::Take
        } else {
            Step::Wait
        }
    }

    /// We have written ourselves into it; `asked` is when the request was sent.
    pub(crate) fn written(&mut self, asked: Instant) {
        self.leads_until = Some(asked + RENEW_DEADLINE);
    }

    pub(crate) fn leads_until(&self) -> Option<Instant> {
        self.leads_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease_duration;

    fn held(holder: &str, renewed_second: i64) -> Option<Record> {
        Some(Record {
            holder: holder.to_owned(),
            renewed: Timestamp::from_second(renewed_second).ok(),
            duration: DURATION,
        })
    }

    #[test]
    fn a_lease_that_nobody_holds_is_taken() {
        let now = Instant::now();
        let mut election = Election::new("a".to_owned());
        assert_eq!(election.observe(None, now), Step::Create);
        assert_eq!(election.observe(held("", 1), now), Step::Take);
        assert_eq!(election.leads_until(), None);
        election.written(now);
        assert_eq!(election.leads_until(), Some(now + RENEW_DEADLINE));
        assert_eq!(election.observe(held("a", 1), now), Step::Renew);
    }

    #[test]
    fn a_holder_that_renews_keeps_it_and_one_that_does_not_loses_it() {
        let now = Instant::now();
        let mut election = Election::new("b".to_owned());
        assert_eq!(election.observe(held("a", 1), now), Step::Wait);
        let later = now + DURATION - Duration::from_secs(3);
        assert_eq!(election.observe(held("a", 2), later), Step::Wait);
        let end = later + DURATION;
        let before = end - Duration::from_millis(1);
        assert_eq!(election.observe(held("a", 2), before), Step::Wait);
        assert_eq!(election.observe(held("a", 2), end), Step::Take);
    }

    #[test]
    fn a_holder_that_writes_a_duration_out_of_bounds_keeps_the_lease_for_the_longest_one() {
        let believed = |seconds: i32| lease_duration::believed(Some(seconds));
        let record = |seconds: i32| {
            Some(Record {
                duration: believed(seconds).duration,
                ..held("a", 1).unwrap()
            })
        };
        let now = Instant::now();
        let mut election = Election::new("b".to_owned());
        let longest = Duration::from_secs(60);
        assert_eq!(election.observe(record(i32::MAX), now), Step::Wait);
        let before = now + longest - Duration::from_millis(1);
        assert_eq!(election.observe(record(i32::MAX), before), Step::Wait);
        let end = now + longest;
        assert_eq!(election.observe(record(i32::MAX), end), Step::Take);
        // The log has one line about it.
        assert_eq!(election.duration_to_log(believed(i32::MAX)), Some(i32::MAX));
        assert_eq!(election.duration_to_log(believed(i32::MAX)), None);
        assert_eq!(election.duration_to_log(believed(15)), None);
        assert_eq!(election.duration_to_log(believed(61)), Some(61));
    }

    #[test]
    fn a_holder_stops_when_another_has_taken_it_and_before_another_may() {
        let now = Instant::now();
        let mut election = Election::new("a".to_owned());
        election.written(now);
        assert!(election.leads_until().unwrap() < now + DURATION);
        assert_eq!(election.observe(held("b", 9), now), Step::Wait);
        assert_eq!(election.leads_until(), None);
    }

    #[test]
    fn a_restarted_holder_goes_on_with_its_own_lease() {
        let mut election = Election::new("a".to_owned());
        let step = election.observe(held("a", 1), Instant::now());
        assert_eq!(step, Step::Renew);
    }
}
