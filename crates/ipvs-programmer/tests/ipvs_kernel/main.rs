//! Tests on a kernel with IPVS. Each test has its own network namespace. The tests need root,
//! `ipvsadm`, `ip` and `nft`.
#![cfg(test)]

mod placement;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::Command,
    time::Duration,
};

use ipvs_programmer::{
    desired_table::standing_entry,
    firewall,
    kernel::{IpvsTable as _, LinuxKernel, LocalPrefixAccess as _, NftablesAccess as _},
    marks,
};
use nix::{
    errno::Errno,
    sched::{CloneFlags, unshare},
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use virtual_server::{
    AddressFamily, EntryForwardingMethod, EntryKey, EntryScheduler, EntrySettings, FailureAction,
    ForwardingMethod, IpNet, Persistence, Protocol, RealServer, RealServerEntry, RealServerHistory,
    RealServerState, Scheduler, SchedulerFlags, TableChange, TableEntry, TunnelKind, VirtualServer,
    VirtualServerTable, Weight, plan,
};

const TUNNEL: ForwardingMethod = ForwardingMethod::Tunnel(TunnelKind::Ipip);
const MH: Scheduler = Scheduler::Mh(SchedulerFlags {
    fallback: true,
    port: true,
});

/// Runs a test on a thread with its own network namespace.
fn run(test: impl FnOnce(LinuxKernel) + Send + 'static) {
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET)
            .expect("a network namespace can be created; run the test as root");
        shell("ip link set lo up");
        test(LinuxKernel::open().unwrap());
    })
    .join()
    .unwrap();
}

fn shell(command: &str) -> String {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command}: {}",
        text(&output.stderr)
    );
    text(&output.stdout)
}

fn key(port: u16) -> EntryKey {
    EntryKey::Address {
        protocol: Protocol::Tcp,
        address: [10, 1, 1, 10].into(),
        port,
    }
}

fn settings(scheduler: Scheduler) -> EntrySettings {
    EntrySettings {
        owned: true,
        scheduler: EntryScheduler::Known(scheduler),
        persistence: None,
        one_packet: false,
    }
}

fn real_server(weight: u32, method: ForwardingMethod) -> RealServerEntry {
    RealServerEntry {
        weight,
        forwarding_method: EntryForwardingMethod::Known(method),
        upper_threshold: 0,
        lower_threshold: 0,
    }
}

/// Makes the kernel's table equal to `desired`. Returns the changes that the kernel refused.
fn apply_plan(kernel: &mut LinuxKernel, desired: &VirtualServerTable) -> Vec<(TableChange, Errno)> {
    let changes = plan(&kernel.read_table().unwrap(), desired);
    let failed = kernel.apply(&changes).unwrap();
    failed
        .into_iter()
        .map(|failed| (changes[failed.index].clone(), failed.errno))
        .collect()
}

fn any_entry(key: EntryKey) -> impl Strategy<Value = TableEntry> {
    let flags = || any::<(bool, bool)>();
    let scheduler = prop_oneof![
        Just(Scheduler::Rr),
        Just(Scheduler::Wrr),
        Just(Scheduler::Lc),
        Just(Scheduler::Wlc),
        Just(Scheduler::Sed),
        Just(Scheduler::Nq),
        flags().prop_map(|(fallback, port)| Scheduler::Sh(SchedulerFlags { fallback, port })),
        flags().prop_map(|(fallback, port)| Scheduler::Mh(SchedulerFlags { fallback, port })),
    ];
    let (longest, by_mark) = match key {
        EntryKey::Address {
            address: IpAddr::V4(_),
            ..
        } => (32_u8, false),
        EntryKey::Address { .. } => (128, false),
        EntryKey::FirewallMark {
            family: AddressFamily::V4,
            ..
        } => (32, true),
        EntryKey::FirewallMark {
            family: AddressFamily::V6,
            ..
        } => (128, true),
    };
    let persistence = (1_u64..1000, 1..=longest).prop_map(|(seconds, length)| Persistence {
        timeout: Duration::from_secs(seconds),
        client_prefix_length: length,
    });
    let port = if by_mark { 0 } else { 80 };
    let real = prop_oneof![
        Just((key.family(), ForwardingMethod::Masquerade)),
        Just((key.family(), ForwardingMethod::DirectRouting)),
        Just((AddressFamily::V4, TUNNEL)),
        Just((AddressFamily::V6, TUNNEL)),
    ];
    let real = (real, 1_u8..9, 0_u32..4).prop_map(move |((family, method), last, weight)| {
        let address: IpAddr = match family {
            AddressFamily::V4 => Ipv4Addr::new(10, 244, 0, last).into(),
            AddressFamily::V6 => format!("fd00:244::{last}").parse().unwrap(),
        };
        (SocketAddr::new(address, port), real_server(weight, method))
    });
    let real_servers = prop::collection::vec(real, 0..6)
        .prop_map(|list| list.into_iter().collect::<BTreeMap<_, _>>());
    (scheduler, prop::option::of(persistence), real_servers).prop_map(
        |(scheduler, persistence, real_servers)| TableEntry {
            settings: EntrySettings {
                persistence,
                ..settings(scheduler)
            },
            real_servers,
        },
    )
}

fn any_table() -> impl Strategy<Value = VirtualServerTable> {
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let by_address = |protocol, text: &str| EntryKey::Address {
        protocol,
        address: address(text),
        port: 80,
    };
    let keys = vec![
        by_address(Protocol::Tcp, "10.1.1.10"),
        by_address(Protocol::Udp, "10.1.1.10"),
        by_address(Protocol::Sctp, "10.1.1.11"),
        by_address(Protocol::Tcp, "fd00:1::10"),
        by_address(Protocol::Udp, "fd00:1::11"),
        EntryKey::FirewallMark {
            family: AddressFamily::V4,
            mark: 0x5000_0001,
        },
        EntryKey::FirewallMark {
            family: AddressFamily::V6,
            mark: 0x5000_0001,
        },
    ];
    prop::sample::subsequence(keys, 0..7)
        .prop_flat_map(|keys| {
            keys.into_iter()
                .map(|key| (Just(key), any_entry(key)))
                .collect::<Vec<_>>()
        })
        .prop_map(|entries| VirtualServerTable {
            entries: entries.into_iter().collect(),
        })
}

#[test]
fn a_plan_changes_any_table_of_the_kernel_to_any_other_table() {
    run(|mut kernel| {
        // About 60 random tables. The test programs each table over the previous table.
        let mut runner = TestRunner::new(Config {
            cases: 60,
            ..Config::default()
        });
        let kernel = std::cell::RefCell::new(&mut kernel);
        runner
            .run(&any_table(), |desired| {
                let mut kernel = kernel.borrow_mut();
                prop_assert_eq!(apply_plan(&mut kernel, &desired), []);
                prop_assert_eq!(&kernel.read_table().unwrap(), &desired);
                prop_assert_eq!(plan(&kernel.read_table().unwrap(), &desired), []);
                for (key, entry) in &desired.entries {
                    let actual = kernel.read_entry(*key).unwrap();
                    prop_assert_eq!(actual.as_ref(), Some(entry));
                }
                let all = kernel.read_settings().unwrap();
                prop_assert_eq!(all.len(), desired.entries.len());
                Ok(())
            })
            .unwrap();
    });
}

#[test]
fn foreign_entries_stay_and_a_later_run_recognizes_owned_entries() {
    run(|mut kernel| {
        shell("ipvsadm -A -t 10.9.9.9:80 -s rr");
        shell("ipvsadm -a -t 10.9.9.9:80 -r 10.244.0.9:80 -m");
        let (standing, entry) = standing_entry(AddressFamily::V4);
        let ours = VirtualServerTable {
            entries: [(standing, entry)].into(),
        };
        assert_eq!(apply_plan(&mut kernel, &ours), []);
        // A later run of the daemon uses another netlink socket.
        let mut kernel = LinuxKernel::open().unwrap();
        let actual = kernel.read_table().unwrap();
        let owned = actual
            .entries
            .iter()
            .filter(|(_, entry)| entry.settings.owned);
        assert_eq!(owned.map(|(key, _)| *key).collect::<Vec<_>>(), [standing]);
        assert_eq!(apply_plan(&mut kernel, &VirtualServerTable::default()), []);
        let left = shell("ipvsadm -Sn");
        assert_eq!(
            left.lines().map(str::trim).collect::<Vec<_>>(),
            [
                "-A -t 10.9.9.9:80 -s rr",
                "-a -t 10.9.9.9:80 -r 10.244.0.9:80 -m -w 1"
            ]
        );
    });
}

#[test]
fn repeated_changes_do_not_fail_and_refused_changes_are_returned() {
    run(|mut kernel| {
        let address = "10.244.0.1:80".parse().unwrap();
        let add = [
            TableChange::AddVirtualServer(key(80), settings(MH)),
            TableChange::AddRealServer(key(80), address, real_server(1, TUNNEL)),
        ];
        assert_eq!(kernel.apply(&add).unwrap(), []);
        assert_eq!(kernel.apply(&add).unwrap(), []);
        let bad = [
            TableChange::SetRealServer(key(80), address, real_server(7, TUNNEL)),
            TableChange::SetRealServer(key(81), address, real_server(7, TUNNEL)),
            TableChange::AddVirtualServer(
                key(82),
                EntrySettings {
                    scheduler: EntryScheduler::Foreign("nonesuch".into()),
                    ..settings(MH)
                },
            ),
            TableChange::SetRealServer(key(80), address, real_server(8, TUNNEL)),
        ];
        let failed: Vec<_> = kernel.apply(&bad).unwrap();
        let failed: Vec<_> = failed
            .iter()
            .map(|failed| (failed.index, failed.errno))
            .collect();
        assert_eq!(failed, [(1, Errno::ESRCH), (2, Errno::ENOENT)]);
        let entry = kernel.read_entry(key(80)).unwrap().unwrap();
        assert_eq!(
            entry.real_servers[&address].weight, 8,
            "the changes that the kernel did not refuse were applied"
        );
        let remove = [
            TableChange::RemoveRealServer(key(80), address),
            TableChange::RemoveVirtualServer(key(80)),
        ];
        assert_eq!(kernel.apply(&remove).unwrap(), []);
        assert_eq!(kernel.apply(&remove).unwrap(), []);
        assert_eq!(kernel.read_entry(key(80)).unwrap(), None);
    });
}

#[test]
fn failed_changes_are_returned_from_a_batch_of_many_datagrams() {
    run(|mut kernel| {
        let absent = |port| TableChange::SetVirtualServer(key(port), settings(Scheduler::Rr));
        let changes: Vec<_> = (1..=1000).map(absent).collect();
        let failed = kernel.apply(&changes).unwrap();
        let indices: Vec<_> = failed.iter().map(|failed| failed.index).collect();
        assert_eq!(indices, (0..1000).collect::<Vec<_>>());
    });
}

#[test]
fn a_large_table_is_programmed_and_read_back_within_seconds() {
    run(|mut kernel| {
        let real_servers: BTreeMap<SocketAddr, _> = (1..=10)
            .map(|last| {
                let address = Ipv4Addr::new(10, 244, 0, last).into();
                (SocketAddr::new(address, 80), real_server(1, TUNNEL))
            })
            .collect();
        let entry = TableEntry {
            settings: settings(MH),
            real_servers,
        };
        let entries = (1..=2000).map(|number| {
            let address = Ipv4Addr::from_bits(0x0a01_0000 + number).into();
            (
                EntryKey::Address {
                    protocol: Protocol::Tcp,
                    address,
                    port: 80,
                },
                entry.clone(),
            )
        });
        let desired = VirtualServerTable {
            entries: entries.collect(),
        };
        let begin = std::time::Instant::now();
        assert_eq!(apply_plan(&mut kernel, &desired), []);
        assert_eq!(kernel.read_table().unwrap(), desired);
        // The programming takes 2 s on the slow lab kernel. If the kernel waited for every CPU at
        // each entry, it would take 40 s.
        assert!(
            begin.elapsed() < Duration::from_secs(15),
            "{:?}",
            begin.elapsed()
        );
    });
}

#[test]
fn local_prefixes_are_added_and_removed_and_a_foreign_route_stays() {
    run(|mut kernel| {
        let prefixes: BTreeSet<IpNet> = ["10.1.1.0/24", "10.5.0.1/32", "fd00:1::/64"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        let foreign: IpNet = "10.9.0.0/16".parse().unwrap();
        shell("ip route add local 10.9.0.0/16 dev lo proto static");
        assert_eq!(kernel.read_local_prefixes().unwrap(), BTreeSet::new());
        for prefix in prefixes.iter().chain([&foreign]) {
            kernel.add_local_prefix(*prefix).unwrap();
            kernel.add_local_prefix(*prefix).unwrap();
        }
        assert_eq!(kernel.read_local_prefixes().unwrap(), prefixes);
        assert!(shell("ip route get 10.1.1.77").starts_with("local 10.1.1.77 dev lo"));
        for prefix in prefixes.iter().chain([&foreign]) {
            kernel.remove_local_prefix(*prefix).unwrap();
            kernel.remove_local_prefix(*prefix).unwrap();
        }
        assert_eq!(kernel.read_local_prefixes().unwrap(), BTreeSet::new());
        assert!(shell("ip route show table local").contains("10.9.0.0/16"));
    });
}

#[test]
fn a_foreign_route_that_is_not_local_is_reported_until_it_is_removed() {
    run(|mut kernel| {
        for prefix in ["10.1.1.0/24", "fd00:1::/64"] {
            let route = format!("blackhole {prefix} table local");
            let ip = if prefix.contains(':') { "ip -6" } else { "ip" };
            shell(&format!("{ip} route add {route}"));
            let error = kernel.add_local_prefix(prefix.parse().unwrap());
            assert_eq!(
                error.unwrap_err().to_string(),
                format!(
                    "another program has a blackhole route to {prefix} in table local; remove it \
                     (`ip route del {route}`)"
                )
            );
            shell(&format!("{ip} route del {route}"));
            kernel.add_local_prefix(prefix.parse().unwrap()).unwrap();
        }
    });
}

#[test]
fn the_kernel_accepts_the_nftables_table_of_every_kind_of_virtual_server() {
    run(|mut kernel| {
        let server = |id: &str, forwarding_method| VirtualServer {
            id: id.parse().unwrap(),
            name: "test".into(),
            scheduler: MH,
            forwarding_method,
            persistence: None,
            real_servers: vec![RealServer {
                address: [10, 244, 0, 1].into(),
                port: None,
                weight: Weight(1),
                state: RealServerState::Ready,
                history: RealServerHistory::default(),
            }],
            health_check: None,
            on_failure: FailureAction::Quiesce,
            minimum_healthy: 1,
            drain_timeout: VirtualServer::DEFAULT_DRAIN_TIMEOUT,
        };
        let servers = [
            server("tcp/10.1.1.10:80", ForwardingMethod::Masquerade),
            server("tcp/10.1.1.10:81", ForwardingMethod::DirectRouting),
            server("udp/10.1.1.20:*", TUNNEL),
            server("sctp/[fd00:1::20]:100-200", ForwardingMethod::Masquerade),
        ];
        let marks = marks::assign(servers.iter().map(|server| &server.id));
        let prefixes: BTreeSet<IpNet> = ["10.1.1.0/24", "fd00:1::/64"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        let table = firewall::table(&prefixes, &servers, &marks);
        assert!(!kernel.holds_firewall(&table).unwrap());
        kernel.replace_firewall(&table).unwrap();
        assert!(kernel.holds_firewall(&table).unwrap());
        let text = shell("nft list table inet portlb-ipvs");
        for chain in [
            "chain marks",
            "chain input",
            "chain output",
            "chain postrouting",
        ] {
            assert!(text.contains(chain), "{text}");
        }
    });
}
