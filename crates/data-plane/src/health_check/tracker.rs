//! State machine of the health of a real server.

/// The health of a real server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Health {
    /// The first probe has not ended yet.
    #[default]
    Unchecked,
    /// The real server counts as healthy: fewer than `fall` probes in a row have failed.
    Healthy,
    /// The real server counts as failed: fewer than `rise` probes in a row have succeeded.
    Failed,
}

/// Derives the health of one real server from its probe results.
///
/// ```text
///              first result
///   Unchecked ─┬─ succeeds ─► Healthy ── `fall` failures in a row ──┐
///              └─ fails ────► Failed ◄──────────────────────────────┘
///                               └── `rise` successes in a row ──► Healthy
/// ```
#[derive(Clone, Debug)]
pub(super) struct HealthTracker {
    rise: u32,
    fall: u32,
    health: Health,
    /// Consecutive results that contradict `health`.
    contradicting: u32,
}

impl HealthTracker {
    /// Returns a tracker in the state `Unchecked`. `rise` and `fall` must be at least 1.
    pub(super) fn new(rise: u32, fall: u32) -> Self {
        Self {
            rise,
            fall,
            health: Health::Unchecked,
            contradicting: 0,
        }
    }

    /// Records a probe result and returns the resulting health.
    pub(super) fn record(&mut self, succeeded: bool) -> Health {
        let result = if succeeded {
            Health::Healthy
        } else {
            Health::Failed
        };
        let needed = match self.health {
            Health::Unchecked => 1,
            Health::Healthy => self.fall,
            Health::Failed => self.rise,
        };
        if result == self.health {
            self.contradicting = 0;
        } else {
            self.contradicting += 1;
            if self.contradicting >= needed {
                self.health = result;
                self.contradicting = 0;
            }
        }
        self.health
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the health after each result. Results: `+` success, `-` failure. Health: U unchecked,
    /// H healthy, F failed.
    fn assert_health(rise: u32, fall: u32, results: &str, expected: &str) {
        let mut tracker = HealthTracker::new(rise, fall);
        let health: String = results
            .chars()
            .map(|result| match tracker.record(result == '+') {
                Health::Unchecked => 'U',
                Health::Healthy => 'H',
                Health::Failed => 'F',
            })
            .collect();
        assert_eq!(health, expected);
    }

    #[test]
    fn the_first_result_determines_the_health() {
        assert_health(3, 3, "+", "H");
        assert_health(3, 3, "-", "F");
    }

    #[test]
    fn a_healthy_real_server_fails_after_fall_failures_in_a_row() {
        assert_health(1, 2, "+-+--", "HHHHF");
    }

    #[test]
    fn a_failed_real_server_is_healthy_after_rise_successes_in_a_row() {
        assert_health(3, 1, "-++-+++", "FFFFFFH");
    }
}
