//! Tests of schedulers and of persistence.

use std::{collections::BTreeMap, net::SocketAddr, ops::RangeInclusive, time::Duration};

use lab::{
    http::{self, Load, PersistentConnections},
    reference::ReferenceOptions,
    system::{Persistence, System, VirtualServer, port},
};
use virtual_server::{RealServer, Weight};

use super::{SOON, one_lb_pod, only_ranges, service, table, virtual_server};

const CONNECTIONS: usize = 48;

struct SchedulerCase {
    scheduler: &'static str,
    flags: Option<&'static str>,
    /// The scheduler in a line of `ipvsadm --save`.
    saved: &'static str,
    /// The number of connections, of 48, that the first real server must get. The first real server
    /// has weight 1, the second has weight 3.
    first: RangeInclusive<usize>,
}

/// All schedulers with the expected share of the first real server.
///
/// All connections are opened at the same time, and the kernel counts a connection only after it is
/// established. So the result of a scheduler that counts connections can be wrong by a few
/// connections. A hash shares connections randomly: a result outside of these bounds happens once
/// in a million runs.
const CASES: &[SchedulerCase] = &[
    SchedulerCase {
        scheduler: "rr",
        flags: None,
        saved: "-s rr",
        first: 24..=24,
    },
    SchedulerCase {
        scheduler: "wrr",
        flags: None,
        saved: "-s wrr",
        first: 12..=12,
    },
    SchedulerCase {
        scheduler: "lc",
        flags: None,
        saved: "-s lc",
        first: 20..=28,
    },
    SchedulerCase {
        scheduler: "wlc",
        flags: None,
        saved: "-s wlc",
        first: 8..=16,
    },
    SchedulerCase {
        scheduler: "sed",
        flags: None,
        saved: "-s sed",
        first: 8..=16,
    },
    SchedulerCase {
        scheduler: "nq",
        flags: None,
        saved: "-s nq",
        first: 8..=16,
    },
    SchedulerCase {
        scheduler: "mh",
        flags: None,
        saved: "-s mh -b mh-fallback,mh-port",
        first: 1..=28,
    },
    SchedulerCase {
        scheduler: "sh",
        flags: Some("fallback,port"),
        saved: "-s sh -b sh-fallback,sh-port",
        first: 1..=28,
    },
];

#[test]
fn every_scheduler_is_programmed_with_its_flags_and_shares_connections_by_weight() {
    let system = one_lb_pod("schedulers", ReferenceOptions::default(), |system| {
        let pods = &system.network.web_pods[..2];
        let mut desired = only_ranges();
        for (number, case) in (1..).zip(CASES) {
            let mut server = VirtualServer {
                scheduler: case.scheduler.parse().unwrap(),
                scheduler_flags: case.flags.map(|flags| flags.parse().unwrap()),
                ..virtual_server(number, port(80), pods)
            };
            for real_server in &mut server.real_servers[2..] {
                *real_server = RealServer {
                    weight: Weight(3),
                    ..real_server.clone()
                };
            }
            desired = desired.with(server);
        }
        // Scheduler flags of the desired set replace the default flags of the scheduler.
        let flags: [(u8, &str, &str); 4] = [
            (20, "mh", "fallback"),
            (21, "mh", "none"),
            (22, "sh", "fallback"),
            (23, "sh", "none"),
        ];
        for (number, scheduler, flags) in flags {
            desired = desired.with(VirtualServer {
                scheduler: scheduler.parse().unwrap(),
                scheduler_flags: Some(flags.parse().unwrap()),
                ..virtual_server(number, port(80), pods)
            });
        }
        desired
    });
    let table = table(&system, 0);
    let has = |address: SocketAddr, scheduler: &str| {
        let line = format!("-A -t {address} {scheduler}");
        assert!(table.contains(&line), "no {line} in\n{}", table.join("\n"));
    };
    for address in service(20) {
        has(SocketAddr::new(address, 80), "-s mh -b mh-fallback");
    }
    for (number, scheduler) in [(21, "-s mh"), (22, "-s sh -b sh-fallback"), (23, "-s sh")] {
        has(SocketAddr::new(service(number)[0], 80), scheduler);
    }

    let client = system.network.client().unwrap();
    for (number, case) in (1..).zip(CASES) {
        let [address, address6] = service(number).map(|address| SocketAddr::new(address, 80));
        has(address, case.saved);
        has(address6, case.saved);
        // Cases alternate between IPv4 and IPv6, so each family is tested with half of the
        // schedulers.
        let server = if number % 2 == 0 { address6 } else { address };
        let load = Load {
            server,
            connections: CONNECTIONS,
            interval: Duration::from_millis(100),
            patience: SOON,
        };
        let tally = PersistentConnections::start(&client, load)
            .unwrap()
            .stop()
            .unwrap();
        assert_eq!(
            (tally.connected, tally.lost()),
            (CONNECTIONS, 0),
            "{tally:?}"
        );
        let answers = connections_by_pod(&system, server);
        let first = answers.get("web-1").copied().unwrap_or_default();
        let second = answers.get("web-2").copied().unwrap_or_default();
        assert!(
            case.first.contains(&first) && first + second == CONNECTIONS,
            "{}: {answers:?}",
            case.scheduler
        );
    }
    // Without ports in the hash, all connections of one client go to one real server.
    let server = SocketAddr::new(service(22)[0], 80);
    let answers = http::spread(&client, server, 12, SOON).unwrap();
    assert_eq!(answers.len(), 1, "{answers:?}");
}

/// Returns, for each web pod, the number of connections to `server` in the kernel's table, as
/// ipvs-programmer reports it.
fn connections_by_pod(system: &System, server: SocketAddr) -> BTreeMap<String, usize> {
    let statuses = system.virtual_servers(0).unwrap();
    let of_server = statuses.iter().find(|status| {
        let desired = status.desired.as_ref();
        desired.is_some_and(|desired| desired.address == server.ip().to_string())
    });
    let mut counts = BTreeMap::new();
    for status in &of_server.unwrap().real_servers {
        let address = &status.desired.as_ref().unwrap().address;
        let pod = system
            .network
            .web_pods
            .iter()
            .find(|pod| [pod.address.to_string(), pod.address6.to_string()].contains(address));
        let count = status.active_connections + status.inactive_connections;
        counts.insert(pod.unwrap().name.clone(), count as usize);
    }
    counts
}

#[test]
fn persistence_keeps_a_client_or_a_whole_client_prefix_on_one_real_server() {
    let system = one_lb_pod("persistence", ReferenceOptions::default(), |system| {
        let pods = &system.network.web_pods;
        let persistent = |number, client_prefix_length| VirtualServer {
            persistence: Some(Persistence {
                timeout: Duration::from_secs(300),
                client_prefix_length,
            }),
            ..virtual_server(number, port(80), pods)
        };
        // The client and the router are in one IPv4 prefix of length 16 and one IPv6 prefix of
        // length 32.
        let mut wide = persistent(2, Some(16));
        let mut wide6 = persistent(2, Some(32));
        wide.addresses.truncate(1);
        wide.real_servers
            .retain(|real_server| real_server.address.is_ipv4());
        wide6.addresses.remove(0);
        wide6
            .real_servers
            .retain(|real_server| real_server.address.is_ipv6());
        only_ranges()
            .with(persistent(1, None))
            .with(wide)
            .with(wide6)
    });
    let client = system.network.client().unwrap();
    let router = system.network.router_host().unwrap();
    for (number, together) in [(1, false), (2, true)] {
        for address in service(number) {
            let server = SocketAddr::new(address, 80);
            let of_client = http::spread(&client, server, 12, SOON).unwrap();
            let of_router = http::spread(&router, server, 12, SOON).unwrap();
            assert_eq!((of_client.len(), of_router.len()), (1, 1), "{server}");
            assert_eq!(
                of_client == of_router,
                together,
                "{of_client:?} {of_router:?}"
            );
        }
    }
    let table = table(&system, 0);
    for line in [
        "-A -t 10.1.1.1:80 -s rr -p 300",
        "-A -t 10.1.1.2:80 -s rr -p 300 -M 255.255.0.0",
        "-A -t [fd00:10:1:1::2]:80 -s rr -p 300 -M 32",
    ] {
        assert!(
            table.iter().any(|seen| seen == line),
            "no {line} in\n{}",
            table.join("\n")
        );
    }
}
