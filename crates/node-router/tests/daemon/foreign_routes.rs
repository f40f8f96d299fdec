//! What routes of other programs cost, on a real kernel.

use std::collections::BTreeSet;

use node_router::{Kernel, NetlinkKernel, OpenedKernel};

use crate::{
    kernel::{Node, wait_until},
    namespace::{in_namespace, ip},
    support::{DEADLINE, config, next, prefix},
};

/// Adds routes of another program, which concern no prefix of the policy.
fn add_routes_of_another_program(count: u32) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let lines: Vec<String> = (0..count)
        .map(|number| {
            let address = std::net::Ipv4Addr::from(0xac10_0000 + number);
            format!("route add {address}/32 via 192.0.2.1 proto bird")
        })
        .collect();
    std::fs::write(file.path(), lines.join("\n")).unwrap();
    ip(&format!("-batch {}", file.path().display()));
}

/// How many routes another program has; more for the figures of `docs/reference/benchmarks.md`.
fn routes_of_another_program() -> u32 {
    let number = std::env::var("PORTLB_TEST_FOREIGN_ROUTES");
    number.map_or(2_000, |number| number.parse().unwrap())
}

#[test]
fn routes_of_other_programs_are_not_read_again_while_they_stay() {
    in_namespace(async || {
        let count = routes_of_another_program();
        add_routes_of_another_program(count);
        ip("route add 10.1.1.0/24 via 10.244.3.7 proto 112 metric 112");
        let policy = config("/unused".into()).policy;
        let OpenedKernel {
            mut kernel,
            changes: _,
            serving,
            reads,
        } = NetlinkKernel::open(policy).unwrap();
        tokio::spawn(serving);
        let held = BTreeSet::from([prefix("10.1.1.0/24"), prefix("10.1.2.0/24")]);
        let begin = std::time::Instant::now();
        let first = kernel.read(&held).await.unwrap();
        let of_all = begin.elapsed();
        assert_eq!(first.routes.own.len(), 1);
        assert_eq!(reads.tables.get(), 1);
        assert!(reads.routes.get() >= u64::from(count));

        let before = reads.routes.get();
        let begin = std::time::Instant::now();
        assert_eq!(kernel.read(&held).await.unwrap(), first);
        let of_own = begin.elapsed();
        assert_eq!(reads.tables.get(), 1);
        // The one route of this daemon.
        assert_eq!(reads.routes.get() - before, 1);
        eprintln!("{count} routes of another program: all {of_all:?}, own {of_own:?}");
    });
}

#[test]
fn links_that_no_route_uses_cost_no_reading_of_all_routes() {
    in_namespace(async || {
        add_routes_of_another_program(2_000);
        let node = Node::start(|_| {}).await;
        let _first = node.hold("10.1.1.0/24", "10.244.3.7").await.unwrap();
        ip("link add stranger type veth peer name stranger-peer");
        // The runtime reads no notification meanwhile: the socket's buffer has room for these.
        for _ in 0..10 {
            ip("link set stranger up");
            ip("link set stranger down");
        }
        // Its look comes after the notifications.
        let _second = node.hold("10.1.2.0/24", "10.244.3.7").await.unwrap();
        let metrics = node.metrics.encode();
        assert!(metrics.contains("tables_read_total 1\n"), "{metrics}");
        node.stop().await;
    });
}

#[test]
fn a_route_of_another_program_among_the_service_addresses_is_read_and_told() {
    in_namespace(async || {
        add_routes_of_another_program(2_000);
        let node = Node::start(|_| {}).await;
        let mut stream = node.hold("10.1.1.0/24", "10.244.3.7").await.unwrap();
        ip("route add 10.1.1.0/24 via 192.0.2.9 metric 7 proto static");
        assert!(!next(&mut stream).await.unwrap().installed);
        wait_until("all routes are read again", || {
            node.metrics.encode().contains("tables_read_total 2\n")
        })
        .await;
        ip("route del 10.1.1.0/24 metric 7");
        assert!(next(&mut stream).await.unwrap().installed);
        node.stop().await;
    });
}

/// The kernel is asked for the prefix of a hold while the last reading of all routes rests. On a busy
/// machine the rest can be over in time for a change, so each change is repeated until it falls into
/// one.
#[test]
fn a_conflict_is_seen_before_all_routes_are_read_again() {
    in_namespace(async || {
        // The rest is a multiple of the time that the reading took.
        add_routes_of_another_program(2_000);
        let policy = config("/unused".into()).policy;
        let OpenedKernel {
            mut kernel,
            mut changes,
            serving,
            reads,
        } = NetlinkKernel::open(policy).unwrap();
        tokio::spawn(serving);
        let held = BTreeSet::from([prefix("10.1.1.0/24"), prefix("fd00:1::/64")]);
        kernel.read(&held).await.unwrap();
        for (family, held_prefix, via) in [
            ("-4", "10.1.1.0/24", "via 192.0.2.9"),
            ("-6", "fd00:1::/64", "via fd00:244:3::9"),
        ] {
            let route = format!("{held_prefix} {via} metric 7 proto static");
            let mut seen_early = BTreeSet::new();
            let follow = async {
                while seen_early.len() < 2 {
                    for (verb, expected) in [("add", 1), ("del", 0)] {
                        ip(&format!("{family} route {verb} {route}"));
                        changes.recv().await.unwrap();
                        let before = reads.tables.get();
                        let found = kernel.read(&held).await.unwrap().routes.foreign;
                        let conflicts = found.iter().filter(|route| route.wins()).count();
                        assert_eq!(conflicts, expected, "{verb} {route}: {found:?}");
                        if reads.tables.get() == before {
                            seen_early.insert(verb);
                        }
                    }
                }
            };
            let followed = tokio::time::timeout(DEADLINE, follow).await;
            followed.expect("each change falls into a rest");
        }
    });
}
