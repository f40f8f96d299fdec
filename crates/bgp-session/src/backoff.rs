//! Growing, randomly shortened pauses between attempts to connect.

use std::time::Duration;

/// A pause that doubles from a minimum to a maximum. Each pause is shortened by a random part of up
/// to a quarter (RFC 4271 section 10), so that not all sessions of a speaker dial simultaneously.
#[derive(Clone, Debug)]
pub(crate) struct DialBackoff {
    minimum: Duration,
    maximum: Duration,
    next: Duration,
}

impl DialBackoff {
    pub(crate) fn new(minimum: Duration, maximum: Duration) -> Self {
        Self {
            minimum,
            maximum,
            next: minimum,
        }
    }

    /// Returns the pause before the next dial, and doubles the pause that the next call returns, up
    /// to the maximum.
    pub(crate) fn pause(&mut self, jitter: &mut Jitter) -> Duration {
        let pause = self.next;
        self.next = (self.next * 2).min(self.maximum);
        jitter.shorten(pause)
    }

    /// Makes the next call of `pause` return the minimum, shortened by a random part.
    pub(crate) fn reset(&mut self) {
        self.next = self.minimum;
    }
}

/// A pseudorandom sequence (splitmix64) from a seed.
#[derive(Clone, Debug)]
pub(crate) struct Jitter(u64);

impl Jitter {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns a random duration between three quarters of `duration` and `duration`.
    pub(crate) fn shorten(&mut self, duration: Duration) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let thousandths =
            u32::try_from(mixed % 251).expect("a remainder below 251 fits into 32 bits");
        duration * (1000 - thousandths) / 1000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_maximum_within_the_jitter_of_rfc_4271() {
        let seconds = Duration::from_secs;
        let mut jitter = Jitter::new(7);
        let mut backoff = DialBackoff::new(seconds(1), seconds(10));
        for whole in [1, 2, 4, 8, 10, 10] {
            let pause = backoff.pause(&mut jitter);
            assert!(
                pause <= seconds(whole) && pause >= seconds(whole) * 3 / 4,
                "the pause is {pause:?}, not 75 % to 100 % of {whole} s"
            );
        }
        backoff.reset();
        assert!(backoff.pause(&mut jitter) <= seconds(1));
    }

    #[test]
    fn different_seeds_give_different_pauses() {
        let pause = |seed| Jitter::new(seed).shorten(Duration::from_secs(100));
        let distinct: std::collections::BTreeSet<_> = (0..100).map(pause).collect();
        assert!(
            distinct.len() > 50,
            "only {} of 100 pauses differ",
            distinct.len()
        );
    }
}
