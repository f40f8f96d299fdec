//! Which service addresses stop being served again and again, and how long that counts.
//!
//! ```text
//!           fourth loss within WINDOW               hold is over, lost again within it
//!  Steady ───────────────────────────► Flapping ◄──────────────────────────────┐
//!    ▲                                   │  └────────────── hold doubles ──────┘
//!    └───────────────────────────────────┘
//!      hold is over, without a further loss, or not served
//! ```
//!
//! Each change of an announcement is a change of the routers' tables. An address whose real servers
//! fail and recover several times a second would cost them hundreds of changes, so it stays least
//! preferred meanwhile, served or not: routers take the other load balancers.

use std::{
    collections::VecDeque,
    fmt,
    time::{Duration, Instant},
};

/// Losses within [`WINDOW`] that are withdrawn at once; the next one makes the address flap.
const FREE_LOSSES: usize = 3;

/// Losses that are this old do not count.
const WINDOW: Duration = Duration::from_secs(30);

/// The first hold. Each further one is twice as long.
const FIRST_HOLD: Duration = Duration::from_secs(1);

/// The longest hold, and so the longest time for which an address is announced that is not served.
const LONGEST_HOLD: Duration = Duration::from_secs(30);

/// The losses of one service address.
#[derive(Clone, Debug, Default)]
pub(super) struct Flaps {
    was_served: bool,
    /// The latest losses, the oldest first, at most [`FREE_LOSSES`].
    losses: VecDeque<Instant>,
    hold: Option<Hold>,
    /// End and length of the last hold.
    last_hold: Option<(Instant, Duration)>,
}

/// For which time the address is least preferred.
#[derive(Clone, Copy, Debug)]
struct Hold {
    until: Instant,
    length: Duration,
    /// The address was lost again since the hold began.
    is_lost_again: bool,
}

impl Flaps {
    /// Takes note of whether the address is served now. A loss counts only while it is announced.
    pub(super) fn evaluate(&mut self, is_served: bool, is_announced: bool, now: Instant) {
        if let Some(hold) = self.hold
            && hold.until <= now
        {
            self.hold = None;
            self.last_hold = Some((now, hold.length));
            if is_served && hold.is_lost_again {
                self.begin_hold(now);
            }
        }
        let is_lost = std::mem::replace(&mut self.was_served, is_served) && !is_served;
        if is_lost && is_announced {
            self.lost(now);
        }
    }

    fn lost(&mut self, now: Instant) {
        let is_frequent = self.losses.len() == FREE_LOSSES
            && self
                .losses
                .front()
                .is_some_and(|oldest| now < *oldest + WINDOW);
        if self.losses.len() == FREE_LOSSES {
            self.losses.pop_front();
        }
        self.losses.push_back(now);
        match &mut self.hold {
            Some(hold) => hold.is_lost_again = true,
            None if is_frequent => self.begin_hold(now),
            None => {}
        }
    }

    fn begin_hold(&mut self, now: Instant) {
        let length = match self.last_hold {
            Some((end, length)) if now < end + WINDOW => (length * 2).min(LONGEST_HOLD),
            Some(_) | None => FIRST_HOLD,
        };
        self.hold = Some(Hold {
            until: now + length,
            length,
            is_lost_again: false,
        });
    }

    /// Whether the address is to be least preferred.
    pub(super) fn is_flapping(&self) -> bool {
        self.hold.is_some()
    }

    /// When [`Self::evaluate`] is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.hold.map(|hold| hold.until)
    }
}

impl fmt::Display for Flaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "flaps: the data plane stopped serving it more than {FREE_LOSSES} times within {} s",
            WINDOW.as_secs()
        )
    }
}

#[cfg(test)]
mod tests;
