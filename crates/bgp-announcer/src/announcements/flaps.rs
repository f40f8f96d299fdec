//! Detection of service addresses that flap.
//!
//! ```text
//!           fourth loss within WINDOW               end of the damping period, with a
//!                                                   further loss in the period
//!  Steady ───────────────────────────► Flapping ◄──────────────────────────────┐
//!    ▲                                   │  └──── next period is twice as long ┘
//!    └───────────────────────────────────┘
//!      end of the damping period, without a further loss in the period, or not served
//! ```
//!
//! Each change of an announcement changes the tables of the routers. An address whose real servers
//! fail and recover several times a second would cause hundreds of changes. Instead, the address
//! stays least preferred during a damping period (the penalty time of the glossary), whether the
//! address is served or not. In this period, routers send its traffic to other load balancers.

use std::{
    collections::VecDeque,
    fmt,
    time::{Duration, Instant},
};

/// Number of losses within [`WINDOW`] after each of which the address is withdrawn immediately. The
/// next loss within [`WINDOW`] makes the address flap.
const IMMEDIATE_WITHDRAWALS: usize = 3;

/// Age at which a loss no longer counts.
const WINDOW: Duration = Duration::from_secs(30);

/// Length of the first damping period. A damping period that begins less than [`WINDOW`] after the
/// end of the previous damping period is twice as long as the previous damping period, but not
/// longer than [`LONGEST_DAMPING_PERIOD`].
const FIRST_DAMPING_PERIOD: Duration = Duration::from_secs(1);

/// Longest damping period. This is also the longest time for which an address is announced although
/// it is not served.
const LONGEST_DAMPING_PERIOD: Duration = Duration::from_secs(30);

/// The recent losses of one service address. A loss is the event that the data plane stops serving
/// the address while the address is announced.
#[derive(Clone, Debug, Default)]
pub(super) struct FlapDetector {
    was_served: bool,
    /// The latest losses, oldest first, at most [`IMMEDIATE_WITHDRAWALS`].
    losses: VecDeque<Instant>,
    damping_period: Option<DampingPeriod>,
    /// End and length of the last damping period that has ended.
    last_damping_period: Option<(Instant, Duration)>,
}

/// A time in which the address is least preferred because it flaps.
#[derive(Clone, Copy, Debug)]
struct DampingPeriod {
    until: Instant,
    length: Duration,
    /// The address was lost at least once since the damping period began.
    is_lost_again: bool,
}

impl FlapDetector {
    /// Records whether the address is served at `now`, and begins or ends a damping period. A loss
    /// counts only while the address is announced.
    pub(super) fn evaluate(&mut self, is_served: bool, is_announced: bool, now: Instant) {
        if let Some(damping_period) = self.damping_period
            && damping_period.until <= now
        {
            self.damping_period = None;
            self.last_damping_period = Some((now, damping_period.length));
            if is_served && damping_period.is_lost_again {
                self.begin_damping_period(now);
            }
        }
        let is_lost = std::mem::replace(&mut self.was_served, is_served) && !is_served;
        if is_lost && is_announced {
            self.lost(now);
        }
    }

    fn lost(&mut self, now: Instant) {
        let is_frequent = self.losses.len() == IMMEDIATE_WITHDRAWALS
            && self
                .losses
                .front()
                .is_some_and(|oldest| now < *oldest + WINDOW);
        if self.losses.len() == IMMEDIATE_WITHDRAWALS {
            self.losses.pop_front();
        }
        self.losses.push_back(now);
        match &mut self.damping_period {
            Some(damping_period) => damping_period.is_lost_again = true,
            None if is_frequent => self.begin_damping_period(now),
            None => {}
        }
    }

    fn begin_damping_period(&mut self, now: Instant) {
        let length = match self.last_damping_period {
            Some((end, length)) if now < end + WINDOW => (length * 2).min(LONGEST_DAMPING_PERIOD),
            Some(_) | None => FIRST_DAMPING_PERIOD,
        };
        self.damping_period = Some(DampingPeriod {
            until: now + length,
            length,
            is_lost_again: false,
        });
    }

    /// Reports whether a damping period runs, so that the address has to be least preferred.
    pub(super) fn is_flapping(&self) -> bool {
        self.damping_period.is_some()
    }

    /// Returns when the damping period ends and [`Self::evaluate`] has to be called.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.damping_period
            .map(|damping_period| damping_period.until)
    }
}

impl fmt::Display for FlapDetector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "flaps: the data plane stopped serving the address more than {IMMEDIATE_WITHDRAWALS} times within {} s",
            WINDOW.as_secs()
        )
    }
}

#[cfg(test)]
mod tests;
