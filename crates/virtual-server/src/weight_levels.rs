//! Rounding of weights for hashing schedulers.

use crate::VirtualServer;

/// Returns the number of weight levels for a virtual server with this many real servers, without
/// those of weight 0. Each rounded weight above 0 is a whole number from 1 to the number of levels.
///
/// The kernel's `mh` fills its lookup table in rounds: in each round a real server takes as many
/// slots as its weight. If weights are nearly equal and have no common divisor, one changed weight
/// moves slots of all real servers: a change from 100 to 99 among 100 real servers moves 55 % of
/// all flows.
#[must_use]
pub const fn weight_levels(real_servers: usize) -> u16 {
    match real_servers {
        0..=30 => 16,
        31..=100 => 8,
        101..=250 => 4,
        _ => 1,
    }
}

/// Returns the number of weight levels for this many real servers if the weights were last rounded
/// to `previous` levels. `None` means that the last number of levels is unknown.
///
/// A new number of levels moves flows of all real servers. So the number falls as soon as there are
/// too many real servers for `previous` levels. But it rises only if the number of real servers is
/// at most nine tenths of the limit of the higher number of levels. A number of real servers that
/// alternates around a limit then changes the levels only once.
fn weight_levels_after(previous: Option<u16>, real_servers: usize) -> u16 {
    let most = weight_levels(real_servers);
    let least = weight_levels(real_servers.saturating_mul(10).div_ceil(9));
    previous.map_or(most, |previous| previous.clamp(least, most))
}

impl VirtualServer {
    /// Rounds the weights to few levels if the scheduler hashes, and returns the number of levels.
    /// Returns `None` if no weight was rounded. `previous` is the number of levels of the last
    /// rounding. It must come from a record that all load balancers read. Without such a record it
    /// is `None`.
    ///
    /// The result depends only on this virtual server and on `previous`, so that all load balancers
    /// compute the same weights. The heaviest real server gets the highest level. Weight 0 stays 0,
    /// and no other weight becomes 0. Weights whose ratios fit into the levels are not changed.
    pub fn round_weights(&mut self, previous: Option<u16>) -> Option<u16> {
        if !self.scheduler.is_hashing() {
            return None;
        }
        let weights = || self.real_servers.iter().map(|server| server.weight.0);
        let weights = || weights().filter(|weight| *weight > 0);
        let heaviest = weights().max()?;
        let divisor = weights().fold(0, greatest_common_divisor);
        let levels = weight_levels_after(previous, weights().count());
        if heaviest / divisor <= levels {
            return None;
        }
        for server in &mut self.real_servers {
            server.weight.0 = level(server.weight.0, heaviest, levels);
        }
        Some(levels)
    }
}

/// Returns the level nearest to `levels * weight / heaviest`. Only weight 0 gives level 0.
fn level(weight: u16, heaviest: u16, levels: u16) -> u16 {
    if weight == 0 {
        return 0;
    }
    let (weight, heaviest) = (u32::from(weight), u32::from(heaviest));
    let scaled = (weight * u32::from(levels) + heaviest / 2) / heaviest;
    u16::try_from(scaled).unwrap_or(levels).clamp(1, levels)
}

pub(crate) fn greatest_common_divisor(mut one: u16, mut other: u16) -> u16 {
    while other > 0 {
        (one, other) = (other, one % other);
    }
    one
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        FailureAction, ForwardingMethod, RealServer, RealServerHistory, RealServerState, Scheduler,
        Weight,
    };

    /// Returns a virtual server with the scheduler `mh` and one real server for each weight.
    pub(crate) fn with_weights(weights: &[u16]) -> VirtualServer {
        VirtualServer {
            id: "tcp/10.1.1.10:80".parse().unwrap(),
            name: "web".into(),
            scheduler: Scheduler::MH_DEFAULT,
            forwarding_method: ForwardingMethod::default(),
            persistence: None,
            real_servers: (1_u32..)
                .zip(weights)
                .map(|(index, weight)| RealServer {
                    address: std::net::Ipv4Addr::from_bits(0x0a00_0000 + index).into(),
                    port: None,
                    weight: Weight(*weight),
                    state: RealServerState::Ready,
                    history: RealServerHistory::default(),
                })
                .collect(),
            health_check: None,
            on_failure: FailureAction::Quiesce,
            minimum_healthy: 1,
            drain_timeout: VirtualServer::DEFAULT_DRAIN_TIMEOUT,
        }
    }

    fn rounded(weights: &[u16]) -> (Vec<u16>, Option<u16>) {
        let mut server = with_weights(weights);
        let levels = server.round_weights(None);
        let weights = server.real_servers.iter().map(|server| server.weight.0);
        (weights.collect(), levels)
    }

    #[track_caller]
    fn check(weights: &[u16], expected: &[u16]) {
        assert_eq!(rounded(weights).0, expected);
    }

    #[test]
    fn weights_are_rounded_only_if_their_ratios_exceed_the_levels() {
        check(&[], &[]);
        check(&[0, 0], &[0, 0]);
        check(&[1, 1, 1], &[1, 1, 1]);
        check(&[65_535, 65_535], &[65_535, 65_535]);
        check(&[300, 100], &[300, 100]);
        check(&[3, 5, 16], &[3, 5, 16]);
        check(&[100, 99], &[16, 16]);
        check(&[100, 50, 1, 0], &[16, 8, 1, 0]);
        check(&[65_535, 32_768], &[16, 8]);
    }

    #[test]
    fn the_number_of_levels_depends_on_the_number_of_real_servers() {
        for (count, levels) in [(30, 16), (31, 8), (100, 8), (101, 4), (250, 4), (251, 1)] {
            let mut weights = vec![100; count];
            weights[0] = 99;
            // A real server with weight 0 does not count for the number of levels.
            weights.push(0);
            let mut expected = vec![levels; count];
            expected.push(0);
            assert_eq!(rounded(&weights), (expected, Some(levels)));
        }
    }

    #[test]
    fn the_number_of_levels_falls_above_a_limit_and_rises_a_tenth_below_the_limit() {
        for (previous, real_servers, levels) in [
            (None, 30, 16),
            (Some(16), 30, 16),
            (Some(16), 31, 8),
            (Some(8), 30, 8),
            (Some(8), 28, 8),
            (Some(8), 27, 16),
            (Some(4), 100, 4),
            (Some(4), 91, 4),
            (Some(4), 90, 8),
            (Some(1), 250, 1),
            (Some(1), 225, 4),
        ] {
            let levels_after = weight_levels_after(previous, real_servers);
            assert_eq!(
                levels_after, levels,
                "previous levels {previous:?}, {real_servers} real servers"
            );
        }
    }

    /// Other programs can write the recorded number, so any number must be handled.
    #[test]
    fn an_invalid_recorded_number_of_levels_gives_an_allowed_number() {
        for previous in [0, 3, 17, u16::MAX] {
            let levels_after = weight_levels_after(Some(previous), 30);
            assert!(
                (8..=16).contains(&levels_after),
                "{previous}: {levels_after}"
            );
            assert_eq!(weight_levels_after(Some(previous), 300), 1);
        }
    }

    #[test]
    fn weights_of_schedulers_without_hashing_are_not_rounded() {
        let mut server = with_weights(&[100, 99]);
        server.scheduler = Scheduler::Wrr;
        let before = server.clone();
        assert_eq!(server.round_weights(None), None);
        assert_eq!(server, before);
    }

    proptest! {
        #[test]
        fn rounding_keeps_the_order_of_weights_and_their_zeros_and_gives_the_nearest_level(
            weights in prop::collection::vec(prop_oneof![Just(0), 1..20_u16, any::<u16>()], 0..300),
        ) {
            let (rounded_once, levels) = rounded(&weights);
            prop_assert_eq!(&rounded(&rounded_once).0, &rounded_once);
            let Some(levels) = levels else {
                prop_assert_eq!(&rounded_once, &weights);
                return Ok(());
            };
            let heaviest = f64::from(*weights.iter().max().unwrap());
            for (before, after) in weights.iter().zip(&rounded_once) {
                prop_assert_eq!(*before == 0, *after == 0);
                prop_assert!(*after <= levels);
                let wanted = f64::from(*before) / heaviest * f64::from(levels);
                prop_assert!(*after <= 1 || (wanted - f64::from(*after)).abs() <= 0.5001);
            }
            for (weight, rounded_weight) in weights.iter().zip(&rounded_once) {
                for (other_weight, other_rounded) in weights.iter().zip(&rounded_once) {
                    prop_assert!(weight > other_weight || rounded_weight <= other_rounded);
                }
            }
        }
    }
}
