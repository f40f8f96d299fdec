//! The log of refused holds, bounded: each process that reaches the socket causes its lines.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{error::Refusal, hold::Peer};

/// Time for which one WARN speaks for all refusals of its reason.
const WINDOW: Duration = Duration::from_secs(60);

/// When each reason was last logged at WARN, and how many refusals followed.
#[derive(Debug, Default)]
pub(crate) struct RefusalLog {
    windows: Mutex<BTreeMap<&'static str, Window>>,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    suppressed: u64,
}

impl RefusalLog {
    /// Logs a refusal for its token at WARN, once a minute for each reason, and at DEBUG in between;
    /// every other refusal at INFO.
    pub(crate) fn refused(&self, refusal: &Refusal, prefix: &str, gateway: &str, peer: Peer) {
        let Peer {
            process_id,
            user_id,
        } = peer;
        if !refusal.is_by_token() {
            tracing::info!(prefix, gateway, process_id, user_id, reason = %refusal, "a hold is refused");
            return;
        }
        match self.due(refusal.name(), Instant::now()) {
            Some(suppressed) => tracing::warn!(
                prefix,
                gateway,
                process_id,
                user_id,
                suppressed,
                reason = %refusal,
                "refused a hold for its token; further ones of this kind are logged at DEBUG for a minute"
            ),
            None => tracing::debug!(
                prefix,
                gateway,
                process_id,
                user_id,
                reason = %refusal,
                "refused a hold for its token"
            ),
        }
    }

    /// Returns how many refusals were suppressed since the last line, if a line is due.
    fn due(&self, reason: &'static str, now: Instant) -> Option<u64> {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = Window {
            began: now,
            suppressed: 0,
        };
        match windows.get_mut(reason) {
            Some(window) if now.saturating_duration_since(window.began) < WINDOW => {
                window.suppressed += 1;
                None
            }
            Some(window) => Some(std::mem::replace(window, fresh).suppressed),
            None => {
                windows.insert(reason, fresh);
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_of_a_reason_is_due_in_a_window_and_tells_how_many_are_missing() {
        let log = RefusalLog::default();
        let begin = Instant::now();
        assert_eq!(log.due("token_expired", begin), Some(0));
        for second in 0..59 {
            let now = begin + Duration::from_secs(second);
            assert_eq!(log.due("token_expired", now), None);
        }
        // Another reason has a window of its own.
        assert_eq!(log.due("token_signature", begin), Some(0));
        assert_eq!(log.due("token_expired", begin + WINDOW), Some(59));
        assert_eq!(log.due("token_expired", begin + WINDOW), None);
        assert_eq!(log.due("token_expired", begin + 2 * WINDOW), Some(1));
    }
}
