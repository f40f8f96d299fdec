//! The share of flows that a change of weights moves on `mh`.

use std::net::IpAddr;

use crate::{RealServer, Scheduler, VirtualServer, weight_levels::greatest_common_divisor};

/// Places of the kernel's table (`CONFIG_IP_VS_MH_TAB_INDEX` 12).
const PLACES: usize = 4093;

/// Greater weights than this many bits are shifted (`IP_VS_MH_TAB_BITS`, net/netfilter/ipvs).
const WEIGHT_BITS: u32 = 6;

impl VirtualServer {
    /// Estimates the share of flows, from 0 to 1, that `mh` moves between real servers when this
    /// virtual server takes the place of `before`. `None`: no weight of a real server that both have
    /// differs, or the scheduler is another one.
    ///
    /// The table is filled as the kernel fills it, but with another hash function, so that the share
    /// differs from the kernel's by about a hundredth.
    #[must_use]
    pub fn moved_share(&self, before: &Self) -> Option<f64> {
        let is_mh = |server: &Self| matches!(server.scheduler, Scheduler::Mh(_));
        if !is_mh(self) || !is_mh(before) || !self.has_other_weights(before) {
            return None;
        }
        let (before, after) = (before.places(), self.places());
        let moved = before
            .iter()
            .zip(&after)
            .filter(|(one, other)| one != other);
        // Both numbers are small.
        let [moved, all] =
            [moved.count(), PLACES].map(|count| u32::try_from(count).unwrap_or(u32::MAX));
        Some(f64::from(moved) / f64::from(all))
    }

    fn has_other_weights(&self, before: &Self) -> bool {
        // Both lists are sorted by address and port, but for those that exceed the maximum.
        let mut others = before.real_servers.iter().peekable();
        self.real_servers.iter().any(|server| {
            while others.next_if(|other| key(other) < key(server)).is_some() {}
            let other = others.next_if(|other| key(other) == key(server));
            other.is_some_and(|other| other.weight != server.weight)
        })
    }

    /// Who has each place: the real servers take their next free places in turns, each as many in one
    /// turn as it has weight.
    fn places(&self) -> Vec<Option<Key>> {
        let mut places = vec![None; PLACES];
        let weights = self.real_servers.iter().map(|server| server.weight.0);
        let divisor = weights.clone().fold(0, greatest_common_divisor).max(1);
        let heaviest = weights.max().unwrap_or(0) / divisor;
        let bits = u16::BITS - heaviest.leading_zeros();
        let shift = bits.saturating_sub(WEIGHT_BITS);
        let mut candidates: Vec<Candidate> = self
            .real_servers
            .iter()
            .filter(|server| server.weight.0 > 0)
            .map(|server| Candidate::new(server, ((server.weight.0 / divisor) >> shift).max(1)))
            .collect();
        if candidates.is_empty() {
            return places;
        }
        let mut free = PLACES;
        loop {
            for candidate in &mut candidates {
                for _ in 0..candidate.turns {
                    if free == 0 {
                        return places;
                    }
                    free -= 1;
                    candidate.take_place(&mut places);
                }
            }
        }
    }
}

type Key = (IpAddr, u16);

fn key(server: &RealServer) -> Key {
    (server.address, server.port.map_or(0, Into::into))
}

/// A real server and the order in which it wants places.
struct Candidate {
    key: Key,
    turns: u16,
    next: usize,
    step: usize,
}

impl Candidate {
    fn new(server: &RealServer, turns: u16) -> Self {
        let key = key(server);
        let bits = match key.0 {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits(),
        };
        let [high, low] = [bits >> 64, bits & u128::from(u64::MAX)];
        let [high, low] = [high, low].map(|half| u64::try_from(half).unwrap_or_default());
        let hash = mix(mix(mix(high) ^ low) ^ u64::from(key.1));
        let below = |hash: u64, limit: usize| {
            let limit = limit as u64;
            usize::try_from(hash % limit).unwrap_or_default()
        };
        Self {
            key,
            turns,
            next: below(hash, PLACES),
            step: below(mix(hash), PLACES - 1) + 1,
        }
    }

    /// Takes the next free place of its order. There is one: the number of places is a prime.
    fn take_place(&mut self, places: &mut [Option<Key>]) {
        while places[self.next].is_some() {
            self.next = (self.next + self.step) % PLACES;
        }
        places[self.next] = Some(self.key);
    }
}

/// The finaliser of SplitMix64.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weight_levels::tests::with_weights;

    /// The share that moves when the second weights take the place of the first ones.
    fn moved(before: &[u16], after: &[u16]) -> Option<f64> {
        with_weights(after).moved_share(&with_weights(before))
    }

    #[test]
    fn the_share_is_that_of_the_kernel() {
        let equal = vec![100; 100];
        let with_first = |weight| {
            let mut weights = equal.clone();
            weights[0] = weight;
            weights
        };
        // 55 % and 5 % in the kernel.
        let nearly_equal = moved(&equal, &with_first(99)).unwrap();
        assert!((0.5..0.6).contains(&nearly_equal), "{nearly_equal}");
        let halved = moved(&equal, &with_first(50)).unwrap();
        assert!((0.03..0.08).contains(&halved), "{halved}");
        // A tenth of all is the share of the one whose weight becomes 0.
        let mut ten = vec![10; 10];
        let before = ten.clone();
        ten[3] = 0;
        let none = moved(&before, &ten).unwrap();
        assert!((0.09..0.2).contains(&none), "{none}");
    }

    #[test]
    fn weights_in_the_same_proportion_move_nothing() {
        assert_eq!(moved(&[1, 2, 3], &[100, 200, 300]), Some(0.0));
        assert_eq!(moved(&[0, 0], &[0, 1]), Some(1.0));
    }

    #[test]
    fn a_change_without_another_weight_has_no_share() {
        assert_eq!(moved(&[1, 2, 3], &[1, 2, 3]), None);
        assert_eq!(moved(&[1, 2], &[1, 2, 3]), None);
        let mut other = with_weights(&[1, 3]);
        other.scheduler = Scheduler::Wrr;
        assert_eq!(other.moved_share(&with_weights(&[1, 2])), None);
    }
}
