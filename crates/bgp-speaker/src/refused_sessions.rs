//! Record of sessions that were not established, by address.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use bgp_session::FailureReason;

/// Largest number of addresses in the record. A further address replaces the address whose last
/// failure is the oldest.
const ADDRESSES: usize = 256;

/// Time from a WARN line about an address until a further failure of the address for the reason in
/// this line is logged at WARN. A failure before the end of this time is logged at DEBUG.
const REPEAT_INTERVAL: Duration = Duration::from_secs(600);

/// Time from a WARN line about an address until a failure of the address for another reason than
/// the reason in this line is logged at WARN. A failure before the end of this time is logged at
/// DEBUG.
const CHANGE_INTERVAL: Duration = Duration::from_secs(60);

/// The failures to establish a session with one address. An established session with the address
/// clears this record. When the speaker has records of 256 addresses, a failure of a further
/// address replaces the record whose last failure is the oldest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedSession {
    pub address: IpAddr,
    /// Name of the peer in the last failure. Several dynamic peers can have the address.
    pub peer: String,
    /// `None`: the peer belongs to no peer group.
    pub group: Option<String>,
    /// Kind of the last failure.
    pub reason: FailureReason,
    /// Description of the last failure.
    pub error: String,
    /// Number of failures since the first failure in this record.
    pub count: u64,
    /// Time since the last failure.
    pub since_last: Duration,
}

/// One failed attempt to establish a session.
#[derive(Clone, Debug)]
pub(crate) struct SessionRefusal {
    pub(crate) peer: String,
    pub(crate) group: Option<String>,
    pub(crate) reason: FailureReason,
    pub(crate) error: String,
}

#[derive(Debug, Default)]
pub(crate) struct RefusedSessions(HashMap<IpAddr, RefusalRecord>);

#[derive(Debug)]
struct RefusalRecord {
    last: SessionRefusal,
    last_at: Instant,
    count: u64,
    logged: Option<(FailureReason, Instant)>,
}

impl RefusedSessions {
    /// Records a failure. Returns the number of failures of the address if the caller must log the
    /// failure at WARN.
    pub(crate) fn record(
        &mut self,
        address: IpAddr,
        refusal: SessionRefusal,
        now: Instant,
    ) -> Option<u64> {
        if self.0.len() >= ADDRESSES && !self.0.contains_key(&address) {
            let oldest = self.0.iter().min_by_key(|(_, record)| record.last_at);
            if let Some(oldest) = oldest.map(|(address, _)| *address) {
                self.0.remove(&oldest);
            }
        }
        let reason = refusal.reason;
        let (count, logged) = match self.0.remove(&address) {
            Some(record) => (record.count + 1, record.logged),
            None => (1, None),
        };
        let is_due = is_logged(reason)
            && logged.is_none_or(|(last_reason, at)| {
                let pause = if reason == last_reason {
                    REPEAT_INTERVAL
                } else {
                    CHANGE_INTERVAL
                };
                now.saturating_duration_since(at) >= pause
            });
        let record = RefusalRecord {
            last: refusal,
            last_at: now,
            count,
            logged: if is_due { Some((reason, now)) } else { logged },
        };
        self.0.insert(address, record);
        is_due.then_some(count)
    }

    /// Clears the failures of an address after a session with this address was established.
    pub(crate) fn session_established(&mut self, address: IpAddr) {
        self.0.remove(&address);
    }

    pub(crate) fn list(&self, now: Instant) -> Vec<RefusedSession> {
        let mut list: Vec<_> = self
            .0
            .iter()
            .map(|(address, record)| RefusedSession {
                address: *address,
                peer: record.last.peer.clone(),
                group: record.last.group.clone(),
                reason: record.last.reason,
                error: record.last.error.clone(),
                count: record.count,
                since_last: now.saturating_duration_since(record.last_at),
            })
            .collect();
        list.sort_by_key(|refused| refused.address);
        list
    }
}

/// Reports whether a failure for this reason is logged at WARN. Collisions and replaced connections
/// are a normal part of establishing a session. The type `Journal` has separate log lines for a
/// group that has reached its maximum number of peers (`maximumPeers`) and for an address that has
/// reached its maximum number of peers (`maximumPeersPerAddress`).
fn is_logged(reason: FailureReason) -> bool {
    !matches!(
        reason,
        FailureReason::Collision
            | FailureReason::Replaced
            | FailureReason::GroupFull
            | FailureReason::AddressFull
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: usize) -> IpAddr {
        IpAddr::from(u32::try_from(number).unwrap().to_be_bytes())
    }

    fn refusal(reason: FailureReason) -> SessionRefusal {
        SessionRefusal {
            peer: "10.0.0.1".to_owned(),
            group: Some("pods".to_owned()),
            reason,
            error: reason.to_string(),
        }
    }

    #[test]
    fn a_repeated_failure_is_logged_after_ten_minutes_and_a_new_reason_after_one_minute() {
        let mut sessions = RefusedSessions::default();
        let began = Instant::now();
        let mut due = |reason, seconds| {
            let now = began + Duration::from_secs(seconds);
            sessions.record(address(1), refusal(reason), now)
        };
        assert_eq!(due(FailureReason::BadPeerAs, 0), Some(1));
        assert_eq!(due(FailureReason::BadPeerAs, 599), None);
        assert_eq!(due(FailureReason::BadPeerAs, 600), Some(3));
        assert_eq!(due(FailureReason::ConnectionLost, 601), None);
        assert_eq!(due(FailureReason::ConnectionLost, 660), Some(5));
        assert_eq!(due(FailureReason::Collision, 2000), None);
        sessions.session_established(address(1));
        assert_eq!(sessions.list(began), []);
    }

    #[test]
    fn a_new_address_replaces_the_address_whose_last_failure_is_the_oldest() {
        let mut sessions = RefusedSessions::default();
        let began = Instant::now();
        let at = |second: usize| began + Duration::from_secs(second.try_into().unwrap());
        for number in 0..ADDRESSES {
            let reason = FailureReason::BadPeerAs;
            sessions.record(address(number), refusal(reason), at(number));
        }
        let late = refusal(FailureReason::OpenTimeout);
        sessions.record(address(0), late, at(ADDRESSES));
        let new = refusal(FailureReason::ConnectionLost);
        sessions.record(address(ADDRESSES), new, at(ADDRESSES + 1));
        let list = sessions.list(at(ADDRESSES + 2));
        let addresses: Vec<_> = list.iter().map(|refused| refused.address).collect();
        let expected: Vec<_> = [0].into_iter().chain(2..=ADDRESSES).map(address).collect();
        assert_eq!(addresses, expected, "`address(1)` was replaced");
        let first = &list[0];
        assert_eq!((first.count, first.reason), (2, FailureReason::OpenTimeout));
        assert_eq!(first.since_last, Duration::from_secs(2));
    }
}
