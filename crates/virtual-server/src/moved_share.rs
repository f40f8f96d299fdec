//! Estimate of the flows that `mh` moves after weight changes.

use std::net::IpAddr;

use crate::{RealServer, VirtualServer, weight_levels::greatest_common_divisor};

/// Number of slots in the kernel's lookup table with the default `CONFIG_IP_VS_MH_TAB_INDEX` of 12.
const SLOTS: usize = 4093;

/// The kernel shifts all weights to the right until the heaviest weight has at most this many bits
/// (`IP_VS_MH_TAB_BITS` in `net/netfilter/ipvs/ip_vs_mh.c`).
const WEIGHT_BITS: u32 = 6;

impl VirtualServer {
    /// Estimates the share of flows, from 0 to 1, that `mh` moves between real servers when this
    /// virtual server replaces `before`. Returns `None` if one of the two schedulers is not `mh`,
    /// or if every real server that is in both virtual servers has the same weight in both.
    ///
    /// The estimate fills the lookup table like the kernel, but with another hash function. So it
    /// differs from the kernel's share by about 0.01.
    #[must_use]
    pub fn moved_share(&self, before: &Self) -> Option<f64> {
        if !self.scheduler.is_mh() || !before.scheduler.is_mh() || !self.has_other_weights(before) {
            return None;
        }
        let (before, after) = (before.slots(), self.slots());
        let moved = before
            .iter()
            .zip(&after)
            .filter(|(one, other)| one != other);
        // Both numbers are at most `SLOTS`, so the conversion cannot fail.
        let [moved, all] =
            [moved.count(), SLOTS].map(|count| u32::try_from(count).unwrap_or(u32::MAX));
        Some(f64::from(moved) / f64::from(all))
    }

    fn has_other_weights(&self, before: &Self) -> bool {
        // Both lists are sorted by address and port, except for lists that are too long for a valid
        // virtual server.
        let mut others = before.real_servers.iter().peekable();
        self.real_servers.iter().any(|server| {
            while others.next_if(|other| key(other) < key(server)).is_some() {}
            let other = others.next_if(|other| key(other) == key(server));
            other.is_some_and(|other| other.weight != server.weight)
        })
    }

    /// Returns the real server of each slot. The real servers take free slots in rounds: in each
    /// round a real server takes as many slots as its weight, which is first reduced as in the
    /// kernel.
    fn slots(&self) -> Vec<Option<Key>> {
        let mut slots = vec![None; SLOTS];
        let weights = self.real_servers.iter().map(|server| server.weight.0);
        let divisor = weights.clone().fold(0, greatest_common_divisor).max(1);
        let heaviest = weights.max().unwrap_or(0) / divisor;
        let bits = u16::BITS - heaviest.leading_zeros();
        let shift = bits.saturating_sub(WEIGHT_BITS);
        let mut sequences: Vec<SlotSequence> = self
            .real_servers
            .iter()
            .filter(|server| server.weight.0 > 0)
            .map(|server| SlotSequence::new(server, ((server.weight.0 / divisor) >> shift).max(1)))
            .collect();
        if sequences.is_empty() {
            return slots;
        }
        let mut free = SLOTS;
        loop {
            for sequence in &mut sequences {
                for _ in 0..sequence.turns {
                    if free == 0 {
                        return slots;
                    }
                    free -= 1;
                    sequence.take_slot(&mut slots);
                }
            }
        }
    }
}

type Key = (IpAddr, u16);

fn key(server: &RealServer) -> Key {
    (server.address, server.port.map_or(0, Into::into))
}

/// A real server, and the order in which it takes slots of the lookup table.
struct SlotSequence {
    key: Key,
    turns: u16,
    next: usize,
    step: usize,
}

impl SlotSequence {
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
            next: below(hash, SLOTS),
            step: below(mix(hash), SLOTS - 1) + 1,
        }
    }

    /// Takes the next free slot in the order of this real server. If a slot is free, the search
    /// ends, because the number of slots is prime, so that the steps reach every slot.
    fn take_slot(&mut self, slots: &mut [Option<Key>]) {
        while slots[self.next].is_some() {
            self.next = (self.next + self.step) % SLOTS;
        }
        slots[self.next] = Some(self.key);
    }
}

/// The finalizer of SplitMix64, which mixes all bits of a number.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

#[cfg(test)]
mod tests {
    use crate::{Scheduler, weight_levels::tests::with_weights};

    /// Returns the share of flows that moves when the weights change from `before` to `after`.
    fn moved(before: &[u16], after: &[u16]) -> Option<f64> {
        with_weights(after).moved_share(&with_weights(before))
    }

    #[test]
    fn the_estimated_share_of_moved_flows_is_close_to_the_share_that_the_kernel_moves() {
        let equal = vec![100; 100];
        let with_first = |weight| {
            let mut weights = equal.clone();
            weights[0] = weight;
            weights
        };
        // 100 real servers have weight 100. If the weight of one becomes 99, the kernel moves 55 %
        // of the flows. If it becomes 50, the kernel moves 5 %.
        let nearly_equal = moved(&equal, &with_first(99)).unwrap();
        assert!((0.5..0.6).contains(&nearly_equal), "{nearly_equal}");
        let halved = moved(&equal, &with_first(50)).unwrap();
        assert!((0.03..0.08).contains(&halved), "{halved}");
        // The real server whose weight becomes 0 had a tenth of all flows, so at least this tenth
        // moves.
        let mut ten = vec![10; 10];
        let before = ten.clone();
        ten[3] = 0;
        let none = moved(&before, &ten).unwrap();
        assert!((0.09..0.2).contains(&none), "{none}");
    }

    #[test]
    fn flows_move_only_if_the_ratios_of_weights_change() {
        assert_eq!(moved(&[1, 2, 3], &[100, 200, 300]), Some(0.0));
        assert_eq!(moved(&[0, 0], &[0, 1]), Some(1.0));
    }

    #[test]
    fn no_moved_share_is_estimated_unless_a_weight_of_mh_changes() {
        assert_eq!(moved(&[1, 2, 3], &[1, 2, 3]), None);
        assert_eq!(moved(&[1, 2], &[1, 2, 3]), None);
        let mut other = with_weights(&[1, 3]);
        other.scheduler = Scheduler::Wrr;
        assert_eq!(other.moved_share(&with_weights(&[1, 2])), None);
    }
}
