//! Tests of the cost of other programs' routes, on the kernel of this machine.

use std::collections::BTreeSet;

use node_router::{NetlinkKernel, OpenedKernel, RouteKernel};

use crate::{
    kernel::{RealKernelNode, wait_until},
    namespace::{in_namespace, ip},
    support::{DEADLINE, config, next, prefix},
};

/// Adds routes of another program outside of the allowed prefixes.
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

/// Returns the number of routes of another program that the test adds: `PORTLB_TEST_FOREIGN_ROUTES`
/// or 2,000. The measurements in `docs/reference/benchmarks.md` set a higher number.
fn routes_of_another_program() -> u32 {
    let number = std::env::var("PORTLB_TEST_FOREIGN_ROUTES");
    number.map_or(2_000, |number| number.parse().unwrap())
}

#[test]
fn foreign_routes_are_read_only_once_if_they_do_not_change() {
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
        // The second read has read only the route of this daemon.
        assert_eq!(reads.routes.get() - before, 1);
        eprintln!("{count} routes of another program: all {of_all:?}, own {of_own:?}");
    });
}

#[test]
fn a_change_of_a_link_without_relevant_routes_causes_no_read_of_all_routes() {
    in_namespace(async || {
        add_routes_of_another_program(2_000);
        let node = RealKernelNode::start(|_| {}).await;
        let _first = node.hold("10.1.1.0/24", "10.244.3.7").await.unwrap();
        ip("link add stranger type veth peer name stranger-peer");
        // The runtime reads no notification while this loop runs `ip`. The buffer of the socket has
        // room for all notifications.
        for _ in 0..10 {
            ip("link set stranger up");
            ip("link set stranger down");
        }
        // For the second hold the daemon reads the kernel after it has received the notifications.
        let _second = node.hold("10.1.2.0/24", "10.244.3.7").await.unwrap();
        let metrics = node.metrics.encode();
        assert!(metrics.contains("tables_read_total 1\n"), "{metrics}");
        node.stop().await;
    });
}

#[test]
fn a_foreign_route_in_a_service_range_is_detected_and_reported_to_the_holder() {
    in_namespace(async || {
        add_routes_of_another_program(2_000);
        let node = RealKernelNode::start(|_| {}).await;
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

/// During the pause after a read of all routes, the daemon asks the kernel for the route to each
/// held prefix. On a busy machine the pause can end before the daemon reads a change. So the test
/// repeats adding and deleting a foreign route until one read after each of the two changes falls
/// into a pause.
#[test]
fn a_conflict_is_detected_without_a_read_of_all_routes() {
    in_namespace(async || {
        // The pause is a multiple of the duration of a read of all routes, so many routes make the
        // pause long.
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
            let mut seen_in_pause = BTreeSet::new();
            let follow = async {
                while seen_in_pause.len() < 2 {
                    for (verb, expected) in [("add", 1), ("del", 0)] {
                        ip(&format!("{family} route {verb} {route}"));
                        changes.recv().await.unwrap();
                        let before = reads.tables.get();
                        let found = kernel.read(&held).await.unwrap().routes.foreign;
                        let conflicts = found.iter().filter(|route| route.wins()).count();
                        assert_eq!(conflicts, expected, "{verb} {route}: {found:?}");
                        if reads.tables.get() == before {
                            seen_in_pause.insert(verb);
                        }
                    }
                }
            };
            let followed = tokio::time::timeout(DEADLINE, follow).await;
            followed.expect("no read after a change fell into a pause");
        }
    });
}
