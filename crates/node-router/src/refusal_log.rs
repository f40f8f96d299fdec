//! Rate-limited log of refused holds.
//!
//! Every process that can open the socket can cause refusals, so these processes must not be able
//! to flood the log.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{error::HoldRefusal, hold::HolderProcess};

/// Time after a WARN with a reason in which further refusals with this reason are logged at DEBUG.
const WINDOW: Duration = Duration::from_secs(60);

/// Time of the last WARN for each reason, and the number of refusals with this reason since that
/// WARN.
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
    /// Logs a refusal. If the token caused the refusal, the level is WARN once a minute for each
    /// reason, and DEBUG otherwise. Every other refusal is logged at INFO.
    pub(crate) fn refused(
        &self,
        refusal: &HoldRefusal,
        prefix: &str,
        gateway: &str,
        process: HolderProcess,
    ) {
        let HolderProcess {
            process_id,
            user_id,
        } = process;
        if !refusal.is_caused_by_token() {
            tracing::info!(
                prefix,
                gateway,
                process_id,
                user_id,
                reason = %refusal,
                "refused a hold"
            );
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
                "refused a hold because of its token; logging this reason at DEBUG for a minute"
            ),
            None => tracing::debug!(
                prefix,
                gateway,
                process_id,
                user_id,
                reason = %refusal,
                "refused a hold because of its token"
            ),
        }
    }

    /// If a WARN for this reason is due, returns the number of refusals since the previous WARN.
    /// Otherwise counts the refusal and returns `None`.
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
    fn a_warning_is_due_once_a_minute_for_each_reason_with_the_number_of_suppressed_refusals() {
        let log = RefusalLog::default();
        let begin = Instant::now();
        assert_eq!(log.due("token_expired", begin), Some(0));
        for second in 0..59 {
            let now = begin + Duration::from_secs(second);
            assert_eq!(log.due("token_expired", now), None);
        }
        // Each reason has its own time window.
        assert_eq!(log.due("token_signature", begin), Some(0));
        assert_eq!(log.due("token_expired", begin + WINDOW), Some(59));
        assert_eq!(log.due("token_expired", begin + WINDOW), None);
        assert_eq!(log.due("token_expired", begin + 2 * WINDOW), Some(1));
    }
}
