use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use virtual_server::Weight;

use super::*;

const NOW: Option<Timestamp> = Some(Timestamp(Duration::from_secs(1_000)));
const LATER: Option<Timestamp> = Some(Timestamp(Duration::from_secs(2_000)));

fn real_server(host: u16) -> RealServer {
    let [high, low] = host.to_be_bytes();
    RealServer {
        address: [10, 2, high, low].into(),
        port: None,
        weight: Weight(1),
        state: RealServerState::Ready,
        history: RealServerHistory::default(),
    }
}

/// A virtual server as a cluster gives it: without an order.
fn server(hosts: impl IntoIterator<Item = u16>) -> VirtualServer {
    VirtualServer {
        id: "tcp/10.1.1.10:80".parse().unwrap(),
        name: "web".to_owned(),
        scheduler: virtual_server::Scheduler::Rr,
        forwarding_method: virtual_server::ForwardingMethod::default(),
        persistence: None,
        real_servers: hosts.into_iter().map(real_server).collect(),
        health_check: None,
        on_failure: virtual_server::FailureAction::default(),
        minimum_healthy: 1,
        drain_timeout: VirtualServer::DEFAULT_DRAIN_TIMEOUT,
    }
}

/// A virtual server as a file gives it: in the order of the file.
fn file(hosts: &[u16]) -> VirtualServer {
    let mut server = server(hosts.iter().copied());
    for (real_server, position) in server.real_servers.iter_mut().zip(0..) {
        real_server.history.position = position;
    }
    server
}

/// The last octets of the real servers by their positions.
fn order(roster: &Roster) -> Vec<u16> {
    let server = roster.published().whole();
    let host = |real_server: &RealServer| match real_server.address {
        IpAddr::V4(address) => {
            let [_, _, high, low] = address.octets();
            u16::from_be_bytes([high, low])
        }
        IpAddr::V6(address) => panic!("{address}"),
    };
    server.real_servers.iter().map(host).collect()
}

/// Numbers of the parts that a change has made, and whether it has made the head.
fn made(roster: &Roster, change: u64) -> (bool, Vec<usize>) {
    let Parted { head, parts } = roster.published();
    let parts = parts.iter().enumerate();
    let parts = parts.filter(|(_, part)| part.changed == change);
    (
        head.changed == change,
        parts.map(|(number, _)| number).collect(),
    )
}

fn history(roster: &Roster, host: u16) -> RealServerHistory {
    let address = real_server(host).address;
    let mut real_servers = roster.server().real_servers.iter();
    real_servers
        .find(|it| it.address == address)
        .unwrap()
        .history
}

#[test]
fn newcomers_of_a_cluster_come_behind_all_others_by_address() {
    let mut roster = Roster::new(server([5, 3, 9]), 1);
    assert_eq!(order(&roster), [3, 5, 9]);
    roster.update(server([1, 3, 4, 5, 9]), NOW, 2);
    assert_eq!(order(&roster), [3, 5, 9, 1, 4]);
    // One that leaves and returns comes last.
    roster.update(server([1, 4, 5, 9]), NOW, 3);
    roster.update(server([1, 3, 4, 5, 9]), NOW, 4);
    assert_eq!(order(&roster), [5, 9, 1, 4, 3]);
}

#[test]
fn the_order_of_a_file_is_the_order_in_the_file() {
    let mut roster = Roster::new(file(&[5, 3, 9]), 1);
    assert_eq!(order(&roster), [5, 3, 9]);
    // Appended and removed lines leave the numbers of all others.
    roster.update(file(&[5, 3, 9, 4]), NOW, 2);
    roster.update(file(&[3, 9, 4]), NOW, 3);
    assert_eq!(order(&roster), [3, 9, 4]);
    assert_eq!(history(&roster, 4).position, 3);
    // One line in front of the others gives all of them new numbers.
    roster.update(file(&[7, 3, 9, 4]), NOW, 4);
    assert_eq!(order(&roster), [7, 3, 9, 4]);
    assert_eq!(history(&roster, 4).position, 3);
    roster.update(file(&[4, 9, 3, 7]), NOW, 5);
    assert_eq!(order(&roster), [4, 9, 3, 7]);
}

#[test]
fn one_changed_endpoint_of_ten_thousand_makes_one_part() {
    let mut roster = Roster::new(server(0..10_000), 1);
    let parts = 10_000_usize.div_ceil(LARGEST_PART);
    assert_eq!(made(&roster, 1), (true, (0..parts).collect()));
    let mut changed = server(0..10_000);
    changed.real_servers[5_000].weight = Weight(7);
    roster.update(changed.clone(), NOW, 2);
    assert_eq!(made(&roster, 2), (false, vec![5_000 / LARGEST_PART]));
    // The same once more changes nothing.
    roster.update(changed.clone(), NOW, 3);
    assert_eq!(made(&roster, 3), (false, vec![]));
    // A replacement takes the free place.
    changed.real_servers[5_000] = real_server(10_000);
    roster.update(changed.clone(), NOW, 4);
    assert_eq!(made(&roster, 4), (false, vec![5_000 / LARGEST_PART]));
    changed.minimum_healthy = 2;
    roster.update(changed, NOW, 5);
    assert_eq!(made(&roster, 5), (true, vec![]));
    roster.update(server([]), NOW, 6);
    assert_eq!(roster.published().parts, []);
    assert_eq!(roster.published().head.part_count, 0);
}

#[test]
fn a_state_is_dated_when_the_watcher_has_seen_it_begin() {
    let mut roster = Roster::new(server([1]), 1);
    assert_eq!(history(&roster, 1), RealServerHistory::default());
    let mut draining = server([1, 2]);
    draining.real_servers[0].state = RealServerState::Draining;
    roster.update(draining, NOW, 2);
    let since = |position, ready_since, draining_since| RealServerHistory {
        position,
        ready_since,
        draining_since,
    };
    assert_eq!(history(&roster, 1), since(0, None, NOW));
    assert_eq!(history(&roster, 2), since(1, NOW, None));
    // A draining real server keeps its configured weight.
    assert_eq!(roster.server().real_servers[0].weight, Weight(1));
    roster.update(server([1, 2]), LATER, 3);
    assert_eq!(history(&roster, 1), since(0, LATER, None));
    assert_eq!(history(&roster, 2), since(1, NOW, None));
}

proptest! {
    #[test]
    fn parts_hold_each_real_server_once_and_only_parts_that_differ_are_made(
        sets in prop::collection::vec(prop::collection::btree_map(0..2_000_u16, 1..4_u16, 0..1_500), 1..6),
    ) {
        let state = |set: &BTreeMap<u16, u16>| {
            let mut state = server(set.keys().copied());
            for (real_server, weight) in state.real_servers.iter_mut().zip(set.values()) {
                real_server.weight = Weight(*weight);
            }
            state
        };
        let mut roster = Roster::new(server([]), 1);
        let mut most = 0;
        for (set, change) in sets.iter().zip(2..) {
            let before = roster.published().clone();
            roster.update(state(set), NOW, change);
            most = most.max(set.len());
            let Parted { head, parts } = roster.published();
            prop_assert_eq!(head.part_count, parts.len());
            prop_assert!(parts.len() <= most.div_ceil(LARGEST_PART));
            for (number, part) in parts.iter().enumerate() {
                prop_assert!(part.real_servers.len() <= LARGEST_PART);
                let same = |former: &Arc<Part>| former.real_servers == part.real_servers;
                let is_new = !before.parts.get(number).is_some_and(same);
                prop_assert_eq!(is_new, part.changed == change);
            }
            let mut whole = roster.published().whole();
            let positions: BTreeSet<u64> =
                whole.real_servers.iter().map(|it| it.history.position).collect();
            prop_assert_eq!(positions.len(), set.len());
            whole.sort_real_servers();
            prop_assert_eq!(&whole, roster.server());
            for real_server in &mut whole.real_servers {
                real_server.history = RealServerHistory::default();
            }
            prop_assert_eq!(whole, state(set));
        }
    }
}
