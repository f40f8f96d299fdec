//! When a real server counts as healthy. Pure.

/// What is known of a real server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Health {
    /// Its first health check has not ended.
    #[default]
    Unchecked,
    /// Its health check succeeds.
    Healthy,
    /// Its health check fails.
    Failed,
}

/// Follows the results of one real server's health checks.
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
    /// Results in a row that speak against `health`.
    against: u32,
}

impl HealthTracker {
    /// Nothing is known yet. `rise` and `fall` are at least 1.
    pub(super) fn new(rise: u32, fall: u32) -> Self {
        Self {
            rise,
            fall,
            health: Health::Unchecked,
            against: 0,
        }
    }

    /// Records a result and returns what is known after it.
    pub(super) fn record(&mut self, succeeded: bool) -> Health {
        let says = if succeeded {
            Health::Healthy
        } else {
            Health::Failed
        };
        let needed = match self.health {
            Health::Unchecked => 1,
            Health::Healthy => self.fall,
            Health::Failed => self.rise,
        };
        if says == self.health {
            self.against = 0;
        } else {
            self.against += 1;
            if self.against >= needed {
                self.health = says;
                self.against = 0;
            }
        }
        self.health
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `+` succeeds, `-` fails; the answer has a letter for what is known after each.
    fn assert_known(rise: u32, fall: u32, results: &str, expected: &str) {
        let mut tracker = HealthTracker::new(rise, fall);
        let known: String = results
            .chars()
            .map(|result| match tracker.record(result == '+') {
                Health::Unchecked => 'U',
                Health::Healthy => 'H',
                Health::Failed => 'F',
            })
            .collect();
        assert_eq!(known, expected);
    }

    #[test]
    fn the_first_result_decides_at_once() {
        assert_known(3, 3, "+", "H");
        assert_known(3, 3, "-", "F");
    }

    #[test]
    fn a_healthy_one_fails_after_fall_failures_in_a_row() {
        assert_known(1, 2, "+-+--", "HHHHF");
    }

    #[test]
    fn a_failed_one_returns_after_rise_successes_in_a_row() {
        assert_known(3, 1, "-++-+++", "FFFFFFH");
    }
}
