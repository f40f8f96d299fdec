//! Election of the pod that writes the status, by one Lease.
//!
//! ```text
//!           the Lease does not exist or has no holder, or the holder
//!           has not renewed the Lease for the duration in the Lease
//!   Follower ────────────────────────────────────► Leader
//!      ▲                                             │
//!      └─────────────────────────────────────────────┘
//!        another pod holds the Lease, or the leader has not renewed the Lease for 10 s
//! ```
//!
//! The local clock decides when the duration in the Lease is over: the duration starts when this
//! pod reads a changed Lease, and not at the time that the holder wrote into the Lease. A leader
//! stops writing before another pod can take the Lease.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::lease_duration::BoundedDuration;

/// The duration in the Lease: if the holder has not renewed the Lease for 15 s, another pod can
/// take it.
pub(crate) const DURATION: Duration = Duration::from_secs(15);

/// A leader stops writing 10 s after it sent its last successful renewal. This is shorter than
/// [`DURATION`], so that the old leader stops before another pod can take the Lease.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);

/// The fields of the election Lease that the election depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeaseRecord {
    /// Empty if no pod holds the Lease.
    pub(crate) holder: String,
    pub(crate) renewed: Option<Timestamp>,
    pub(crate) duration: Duration,
}

/// The next request of a candidate for the Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeaseAction {
    /// The Lease does not exist: create it with this pod as the holder.
    Create,
    /// The Lease has no holder, or the holder has not renewed the Lease for the duration in the
    /// Lease: take it over.
    Take,
    /// The Lease names this pod as its holder: renew it.
    Renew,
    /// Another pod holds the Lease: send no write.
    Wait,
}

/// This pod's view of the election.
#[derive(Debug)]
pub(crate) struct Election {
    identity: String,
    /// The newest content of the Lease, and the local time at which this pod sent the first request
    /// that returned this content.
    seen: Option<(LeaseRecord, Instant)>,
    /// The time at which this pod stops leading unless it renews the Lease. `None` or a past time
    /// if this pod does not lead.
    leads_until: Option<Instant>,
    /// The invalid duration of the last Lease that this pod read, in seconds. `None` if the Lease
    /// had a valid duration.
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

    /// Returns the invalid duration of a Lease if it must be logged. An invalid duration that
    /// successive reads return is logged only at the first of these reads.
    pub(crate) fn duration_to_log(&mut self, bounded: BoundedDuration) -> Option<i32> {
        let before = std::mem::replace(&mut self.logged_duration, bounded.written);
        bounded.written.filter(|written| before != Some(*written))
    }

    /// Records the content of the Lease (`None`: the Lease does not exist), and returns the next
    /// request.
    pub(crate) fn observe(&mut self, record: Option<LeaseRecord>, now: Instant) -> LeaseAction {
        let Some(record) = record else {
            self.seen = None;
            self.leads_until = None;
            return LeaseAction::Create;
        };
        if self.seen.as_ref().is_none_or(|(seen, _)| *seen != record) {
            self.seen = Some((record.clone(), now));
        }
        let since = self.seen.as_ref().map_or(now, |(_, since)| *since);
        if record.holder == self.identity {
            return LeaseAction::Renew;
        }
        self.leads_until = None;
        if record.holder.is_empty() || now >= since + record.duration {
            LeaseAction::Take
        } else {
            LeaseAction::Wait
        }
    }

    /// Records that a write with this pod as the holder has succeeded. `asked` is the time at which
    /// the write was sent.
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

    fn lease_of(holder: &str, renewed_second: i64) -> Option<LeaseRecord> {
        Some(LeaseRecord {
            holder: holder.to_owned(),
            renewed: Timestamp::from_second(renewed_second).ok(),
            duration: DURATION,
        })
    }

    #[test]
    fn a_lease_without_a_holder_is_taken() {
        let now = Instant::now();
        let mut election = Election::new("a".to_owned());
        assert_eq!(election.observe(None, now), LeaseAction::Create);
        assert_eq!(election.observe(lease_of("", 1), now), LeaseAction::Take);
        assert_eq!(election.leads_until(), None);
        election.written(now);
        assert_eq!(election.leads_until(), Some(now + RENEW_DEADLINE));
        assert_eq!(election.observe(lease_of("a", 1), now), LeaseAction::Renew);
    }

    #[test]
    fn a_pod_takes_the_lease_when_the_holder_has_not_renewed_the_lease_for_its_duration() {
        let now = Instant::now();
        let mut election = Election::new("b".to_owned());
        assert_eq!(election.observe(lease_of("a", 1), now), LeaseAction::Wait);
        let later = now + DURATION - Duration::from_secs(3);
        assert_eq!(election.observe(lease_of("a", 2), later), LeaseAction::Wait);
        let end = later + DURATION;
        let before = end - Duration::from_millis(1);
        assert_eq!(
            election.observe(lease_of("a", 2), before),
            LeaseAction::Wait
        );
        assert_eq!(election.observe(lease_of("a", 2), end), LeaseAction::Take);
    }

    #[test]
    fn a_lease_with_a_too_long_duration_is_taken_after_the_longest_accepted_duration() {
        let bounded = |seconds: i32| lease_duration::bounded(Some(seconds));
        let record = |seconds: i32| {
            Some(LeaseRecord {
                duration: bounded(seconds).duration,
                ..lease_of("a", 1).unwrap()
            })
        };
        let now = Instant::now();
        let mut election = Election::new("b".to_owned());
        let longest = Duration::from_secs(60);
        assert_eq!(election.observe(record(i32::MAX), now), LeaseAction::Wait);
        let before = now + longest - Duration::from_millis(1);
        assert_eq!(
            election.observe(record(i32::MAX), before),
            LeaseAction::Wait
        );
        let end = now + longest;
        assert_eq!(election.observe(record(i32::MAX), end), LeaseAction::Take);
        // An invalid duration that two successive reads return is logged once.
        assert_eq!(election.duration_to_log(bounded(i32::MAX)), Some(i32::MAX));
        assert_eq!(election.duration_to_log(bounded(i32::MAX)), None);
        assert_eq!(election.duration_to_log(bounded(15)), None);
        assert_eq!(election.duration_to_log(bounded(61)), Some(61));
    }

    #[test]
    fn a_leader_stops_before_its_lease_expires_and_when_another_pod_holds_the_lease() {
        let now = Instant::now();
        let mut election = Election::new("a".to_owned());
        election.written(now);
        assert!(election.leads_until().unwrap() < now + DURATION);
        assert_eq!(election.observe(lease_of("b", 9), now), LeaseAction::Wait);
        assert_eq!(election.leads_until(), None);
    }

    #[test]
    fn a_restarted_holder_renews_its_own_lease() {
        let mut election = Election::new("a".to_owned());
        let step = election.observe(lease_of("a", 1), Instant::now());
        assert_eq!(step, LeaseAction::Renew);
    }
}
