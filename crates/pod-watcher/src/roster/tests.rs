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

/// Returns a virtual server as from a cluster: the source has no order of the real servers.
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

/// Returns a virtual server as from a file: the positions are the order in the file.
fn file(hosts: &[u16]) -> VirtualServer {
    let mut server = server(hosts.iter().copied());
    for (real_server, position) in server.real_servers.iter_mut().zip(0..) {
        real_server.history.position = position;
    }
    server
}

/// Returns the last two octets of each real server as a number, sorted by position.
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

/// Reports whether a change has created the head, and returns the numbers of the parts that this
/// change has created.
fn created_by(roster: &Roster, change: u64) -> (bool, Vec<usize>) {
    let PublishedVirtualServer { head, parts } = roster.published();
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
fn new_real_servers_of_a_cluster_get_the_last_positions_in_the_order_of_their_addresses() {
    let mut roster = Roster::new(server([5, 3, 9]), 1);
    assert_eq!(order(&roster), [3, 5, 9]);
    roster.update(server([1, 3, 4, 5, 9]), NOW, 2);
    assert_eq!(order(&roster), [3, 5, 9, 1, 4]);
    // The real server 3 disappears and returns: it gets the last position.
    roster.update(server([1, 4, 5, 9]), NOW, 3);
    roster.update(server([1, 3, 4, 5, 9]), NOW, 4);
    assert_eq!(order(&roster), [5, 9, 1, 4, 3]);
}

#[test]
fn the_positions_of_real_servers_of_a_file_follow_the_order_in_the_file() {
    let mut roster = Roster::new(file(&[5, 3, 9]), 1);
    assert_eq!(order(&roster), [5, 3, 9]);
    // A real server that is appended to the file, or removed from it, does not change the positions
    // of the other real servers.
    roster.update(file(&[5, 3, 9, 4]), NOW, 2);
    roster.update(file(&[3, 9, 4]), NOW, 3);
    assert_eq!(order(&roster), [3, 9, 4]);
    assert_eq!(history(&roster, 4).position, 3);
    // If the first real server in the file is replaced by another one, all positions are numbered
    // from 0.
    roster.update(file(&[7, 3, 9, 4]), NOW, 4);
    assert_eq!(order(&roster), [7, 3, 9, 4]);
    assert_eq!(history(&roster, 4).position, 3);
    roster.update(file(&[4, 9, 3, 7]), NOW, 5);
    assert_eq!(order(&roster), [4, 9, 3, 7]);
}

#[test]
fn a_change_of_one_of_ten_thousand_real_servers_changes_one_part() {
    let mut roster = Roster::new(server(0..10_000), 1);
    let parts = 10_000_usize.div_ceil(LARGEST_PART);
    assert_eq!(created_by(&roster, 1), (true, (0..parts).collect()));
    let mut changed = server(0..10_000);
    changed.real_servers[5_000].weight = Weight(7);
    roster.update(changed.clone(), NOW, 2);
    assert_eq!(created_by(&roster, 2), (false, vec![5_000 / LARGEST_PART]));
    // An update with an equal virtual server changes no part.
    roster.update(changed.clone(), NOW, 3);
    assert_eq!(created_by(&roster, 3), (false, vec![]));
    // A new real server goes into the part that has lost a real server.
    changed.real_servers[5_000] = real_server(10_000);
    roster.update(changed.clone(), NOW, 4);
    assert_eq!(created_by(&roster, 4), (false, vec![5_000 / LARGEST_PART]));
    changed.minimum_healthy = 2;
    roster.update(changed, NOW, 5);
    assert_eq!(created_by(&roster, 5), (true, vec![]));
    roster.update(server([]), NOW, 6);
    assert_eq!(roster.published().parts, []);
    assert_eq!(roster.published().head.part_count, 0);
}

#[test]
fn a_real_server_has_a_time_of_its_state_only_if_pod_watcher_has_seen_the_change() {
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
    fn each_real_server_is_in_one_part_and_only_parts_that_differ_are_replaced(
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
            let PublishedVirtualServer { head, parts } = roster.published();
            prop_assert_eq!(head.part_count, parts.len());
            prop_assert!(parts.len() <= most.div_ceil(LARGEST_PART));
            for (number, part) in parts.iter().enumerate() {
                prop_assert!(part.real_servers.len() <= LARGEST_PART);
                let is_equal = |former: &Arc<PublishedPart>| former.real_servers == part.real_servers;
                let is_new = !before.parts.get(number).is_some_and(is_equal);
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
