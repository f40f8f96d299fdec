use std::{net::SocketAddr, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::{
    ForwardingMethod, Persistence, Protocol, Scheduler, SchedulerFlags, TunnelKind,
    table::{AddressFamily, EntryForwardingMethod, RealServerEntry},
};

const MH: Scheduler = Scheduler::Mh(SchedulerFlags {
    fallback: true,
    port: true,
});

fn key(port: u16) -> EntryKey {
    EntryKey::Address {
        protocol: Protocol::Tcp,
        address: "10.1.1.10".parse().unwrap(),
        port,
    }
}

fn address(last: u8) -> SocketAddr {
    SocketAddr::new(std::net::Ipv4Addr::new(10, 244, 0, last).into(), 80)
}

fn settings(scheduler: Scheduler) -> EntrySettings {
    EntrySettings {
        owned: true,
        scheduler: EntryScheduler::Known(scheduler),
        persistence: None,
        one_packet: false,
    }
}

fn real_server(weight: u32) -> RealServerEntry {
    RealServerEntry {
        weight,
        forwarding_method: EntryForwardingMethod::Known(ForwardingMethod::Tunnel(TunnelKind::Ipip)),
        upper_threshold: 0,
        lower_threshold: 0,
    }
}

fn entry(scheduler: Scheduler, real_servers: &[(u8, u32)]) -> TableEntry {
    TableEntry {
        settings: settings(scheduler),
        real_servers: real_servers
            .iter()
            .map(|(last, weight)| (address(*last), real_server(*weight)))
            .collect(),
    }
}

fn table(entries: &[(EntryKey, TableEntry)]) -> VirtualServerTable {
    VirtualServerTable {
        entries: entries.iter().cloned().collect(),
    }
}

fn check(
    actual: &[(EntryKey, TableEntry)],
    desired: &[(EntryKey, TableEntry)],
    expected: &[TableChange],
) {
    assert_eq!(plan(&table(actual), &table(desired)), expected);
}

#[test]
fn mh_is_set_after_the_real_servers_have_been_added() {
    let mut none = settings(MH);
    none.scheduler = EntryScheduler::Foreign("none".into());
    check(
        &[],
        &[(key(80), entry(MH, &[(1, 1), (2, 1)]))],
        &[
            TableChange::AddVirtualServer(key(80), none),
            TableChange::AddRealServer(key(80), address(1), real_server(1)),
            TableChange::AddRealServer(key(80), address(2), real_server(1)),
            TableChange::SetVirtualServer(key(80), settings(MH)),
        ],
    );
}

#[test]
fn a_virtual_server_without_mh_is_added_with_its_scheduler() {
    check(
        &[],
        &[(key(80), entry(Scheduler::Wlc, &[(1, 1)]))],
        &[
            TableChange::AddVirtualServer(key(80), settings(Scheduler::Wlc)),
            TableChange::AddRealServer(key(80), address(1), real_server(1)),
        ],
    );
}

#[test]
fn a_plan_removes_entries_after_all_additions() {
    check(
        &[
            (key(80), entry(MH, &[(1, 1), (2, 1)])),
            (key(81), entry(Scheduler::Rr, &[(1, 1)])),
            (key(90), entry(Scheduler::Rr, &[(1, 1)])),
        ],
        &[
            (key(80), entry(MH, &[(2, 0), (3, 1)])),
            (key(90), entry(Scheduler::Rr, &[(2, 1)])),
        ],
        &[
            TableChange::SetRealServer(key(80), address(2), real_server(0)),
            TableChange::AddRealServer(key(80), address(3), real_server(1)),
            TableChange::AddRealServer(key(90), address(2), real_server(1)),
            TableChange::RemoveRealServer(key(80), address(1)),
            TableChange::RemoveRealServer(key(90), address(1)),
            TableChange::RemoveVirtualServer(key(81)),
        ],
    );
}

#[test]
fn an_entry_of_another_program_stays_unless_its_key_is_desired() {
    let mut foreign = entry(Scheduler::Rr, &[(1, 1), (9, 1)]);
    foreign.settings.owned = false;
    check(
        &[(key(80), foreign.clone()), (key(81), foreign)],
        &[(key(80), entry(Scheduler::Rr, &[(1, 1)]))],
        &[
            TableChange::SetVirtualServer(key(80), settings(Scheduler::Rr)),
            TableChange::RemoveRealServer(key(80), address(9)),
        ],
    );
}

/// Plans the change of one real server in an entry with the scheduler `mh`, and compares the
/// weights that the plan writes with `expected`. `actual_weight` is `None` if the real server is
/// not in the table.
#[track_caller]
fn check_weights(actual_weight: Option<u32>, desired: u32, placement: u32, expected: &[u32]) {
    let actual_weight: Vec<(u8, u32)> = actual_weight
        .into_iter()
        .map(|weight| (1, weight))
        .collect();
    let actual = table(&[(key(80), entry(MH, &actual_weight))]);
    let desired = table(&[(key(80), entry(MH, &[(1, desired)]))]);
    let placements = [(key(80), [(address(1), placement)].into())].into();
    let changes = plan_keys(&actual, &desired, &placements, [key(80)]);
    let weights: Vec<u32> = changes
        .iter()
        .map(|change| match change {
            TableChange::AddRealServer(_, _, real_server)
            | TableChange::SetRealServer(_, _, real_server) => real_server.weight,
            TableChange::AddVirtualServer(..)
            | TableChange::SetVirtualServer(..)
            | TableChange::RemoveVirtualServer(_)
            | TableChange::RemoveRealServer(..) => panic!("{change:?}"),
        })
        .collect();
    assert_eq!(weights, expected);
    let mut result = actual;
    changes.iter().for_each(|change| result.apply(change));
    assert_eq!(result, desired);
}

#[test]
fn a_real_server_gets_its_placement_weight_before_weight_0_only_if_its_weight_was_above_0() {
    // A real server that is not in the table might not listen yet, so it gets no weight above 0.
    check_weights(None, 0, 5, &[0]);
    check_weights(None, 3, 5, &[3]);
    // A real server with a weight above 0 gets the placement weight before weight 0, unless it has
    // the placement weight already.
    check_weights(Some(5), 0, 5, &[0]);
    check_weights(Some(4), 0, 5, &[5, 0]);
    // The real server is quiesced in the actual table, so the plan writes no placement weight.
    check_weights(Some(0), 0, 5, &[]);
    check_weights(Some(0), 3, 5, &[3]);
}

#[test]
fn a_new_mh_entry_gets_placement_weights_before_its_scheduler_is_set() {
    let desired = table(&[(key(80), entry(MH, &[(1, 0), (2, 7)]))]);
    let placements = [(key(80), [(address(1), 7)].into())].into();
    let mut none = settings(MH);
    none.scheduler = EntryScheduler::Foreign("none".into());
    assert_eq!(
        plan_keys(
            &VirtualServerTable::default(),
            &desired,
            &placements,
            [key(80)]
        ),
        [
            TableChange::AddVirtualServer(key(80), none),
            TableChange::AddRealServer(key(80), address(1), real_server(7)),
            TableChange::SetRealServer(key(80), address(1), real_server(0)),
            TableChange::AddRealServer(key(80), address(2), real_server(7)),
            TableChange::SetVirtualServer(key(80), settings(MH)),
        ]
    );
}

#[test]
fn only_entries_with_the_given_keys_are_planned() {
    let actual = table(&[
        (key(80), entry(MH, &[(1, 1)])),
        (key(81), entry(MH, &[(1, 1)])),
    ]);
    let changes = plan_keys(
        &actual,
        &VirtualServerTable::default(),
        &Placements::new(),
        [key(81), key(82)],
    );
    assert_eq!(changes, [TableChange::RemoveVirtualServer(key(81))]);
}

fn any_key() -> impl Strategy<Value = EntryKey> {
    let protocol = prop_oneof![
        Just(Protocol::Tcp),
        Just(Protocol::Udp),
        Just(Protocol::Sctp)
    ];
    let address = prop_oneof![Just("10.1.1.10"), Just("10.1.1.11"), Just("fd00::1")];
    prop_oneof![
        (protocol, address, 80_u16..82).prop_map(|(protocol, address, port)| {
            EntryKey::Address {
                protocol,
                address: address.parse().unwrap(),
                port,
            }
        }),
        (
            prop_oneof![Just(AddressFamily::V4), Just(AddressFamily::V6)],
            1_u32..3
        )
            .prop_map(|(family, mark)| EntryKey::FirewallMark { family, mark }),
    ]
}

fn any_settings() -> impl Strategy<Value = EntrySettings> {
    let flags = any::<(bool, bool)>();
    let scheduler = prop_oneof![
        Just(EntryScheduler::Known(Scheduler::Rr)),
        Just(EntryScheduler::Known(Scheduler::Wlc)),
        flags.prop_map(|(fallback, port)| {
            EntryScheduler::Known(Scheduler::Mh(SchedulerFlags { fallback, port }))
        }),
        Just(EntryScheduler::Foreign("lblc".into())),
    ];
    let persistence =
        prop::option::of(
            (1_u64..3, 24_u8..26).prop_map(|(seconds, length)| Persistence {
                timeout: Duration::from_secs(seconds),
                client_prefix_length: length,
            }),
        );
    (any::<bool>(), scheduler, persistence, any::<bool>()).prop_map(
        |(owned, scheduler, persistence, one_packet)| EntrySettings {
            owned,
            scheduler,
            persistence,
            one_packet,
        },
    )
}

fn any_real_server() -> impl Strategy<Value = RealServerEntry> {
    let forwarding_method = prop_oneof![
        Just(EntryForwardingMethod::Known(ForwardingMethod::Masquerade)),
        Just(EntryForwardingMethod::Known(ForwardingMethod::Tunnel(
            TunnelKind::Ipip
        ))),
        Just(EntryForwardingMethod::Foreign),
    ];
    (0_u32..3, forwarding_method, 0_u32..2).prop_map(|(weight, forwarding_method, threshold)| {
        RealServerEntry {
            weight,
            forwarding_method,
            upper_threshold: threshold,
            lower_threshold: 0,
        }
    })
}

fn any_table() -> impl Strategy<Value = VirtualServerTable> {
    let real_servers =
        prop::collection::btree_map((1_u8..6).prop_map(address), any_real_server(), 0..5);
    let entry = (any_settings(), real_servers).prop_map(|(settings, real_servers)| TableEntry {
        settings,
        real_servers,
    });
    prop::collection::btree_map(any_key(), entry, 0..8)
        .prop_map(|entries| VirtualServerTable { entries })
}

fn owned(mut table: VirtualServerTable) -> VirtualServerTable {
    for entry in table.entries.values_mut() {
        entry.settings.owned = true;
    }
    table
}

/// Returns the expected table: the desired entries, and the entries of other programs whose keys
/// are not desired.
fn expected(actual: &VirtualServerTable, desired: &VirtualServerTable) -> VirtualServerTable {
    let mut result = actual.clone();
    result.entries.retain(|_, entry| !entry.settings.owned);
    result.entries.extend(desired.entries.clone());
    result
}

proptest! {
    #[test]
    fn applying_a_plan_gives_the_desired_table(
        actual in any_table(),
        desired in any_table().prop_map(owned),
    ) {
        let mut result = actual.clone();
        for change in plan(&actual, &desired) {
            result.apply(&change);
        }
        prop_assert_eq!(&result, &expected(&actual, &desired));
        prop_assert_eq!(plan(&result, &desired), []);
    }

    #[test]
    fn every_change_of_a_plan_changes_the_table(
        actual in any_table(),
        desired in any_table().prop_map(owned),
    ) {
        let mut result = actual.clone();
        for change in plan(&actual, &desired) {
            let before = result.clone();
            result.apply(&change);
            prop_assert_ne!(&before, &result, "{:?}", change);
        }
    }

    #[test]
    fn a_new_plan_completes_a_partly_applied_plan(
        actual in any_table(),
        desired in any_table().prop_map(owned),
        stop in any::<prop::sample::Index>(),
    ) {
        let mut result = actual.clone();
        let changes = plan(&actual, &desired);
        for change in &changes[..stop.index(changes.len() + 1)] {
            result.apply(change);
        }
        for change in plan(&result, &desired) {
            result.apply(&change);
        }
        prop_assert_eq!(&result, &expected(&actual, &desired));
    }

    #[test]
    fn planning_each_key_separately_gives_the_desired_table(
        actual in any_table(),
        desired in any_table().prop_map(owned),
    ) {
        let mut result = actual.clone();
        for key in actual.entries.keys().chain(desired.entries.keys()) {
            for change in plan_keys(&result.clone(), &desired, &Placements::new(), [*key]) {
                result.apply(&change);
            }
        }
        prop_assert_eq!(&result, &expected(&actual, &desired));
    }
}
