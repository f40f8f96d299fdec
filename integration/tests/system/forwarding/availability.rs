//! Health checks, drained real servers, and what of it is announced.

use std::{net::SocketAddr, time::Duration};

use ipnet::IpNet;
use lab::{
    http::{self, Load, PersistentConnections},
    reference::Options,
    system::{Desired, Ports, RealServer, System, VirtualServer},
};

use super::{
    SOON, addresses, empty, one_lb_pod, service, start_daemons, virtual_server, wait_for_table,
    weight,
};

/// Ranges that are half of those that the announcer may announce, so that addresses outside of
/// them are announced as host routes.
fn half_ranges() -> Desired {
    let ranges: [IpNet; 2] = ["10.1.1.0/25", "fd00:10:1:1::/65"].map(|text| text.parse().unwrap());
    Desired::new(ranges)
}

fn range_and_host_routes() -> [(IpNet, IpNet); 2] {
    [
        ("10.1.1.0/25", "10.1.1.200/32"),
        ("fd00:10:1:1::/65", "fd00:10:1:1:8000::200/128"),
    ]
    .map(|(range, host)| (range.parse().unwrap(), host.parse().unwrap()))
}

fn kill_web_server(system: &System, index: usize) {
    let pod = &system.network.web_pods[index];
    system.network.web_servers[&pod.name].kill().unwrap();
}

#[test]
fn a_dead_server_loses_its_weight_or_its_place_and_below_the_minimum_the_address_is_withdrawn() {
    let mut system = System::new(
        "availability",
        Options {
            web_pods: 3,
            ..Options::default()
        },
    )
    .unwrap();
    let pods = system.network.web_pods.clone();
    // In the range: quiesce and remove. Outside of it: an address that needs two of two.
    let quiesce = virtual_server(1, Ports::One(80), &pods);
    let remove = VirtualServer {
        on_failure: Some("remove"),
        ..virtual_server(2, Ports::One(80), &pods)
    };
    let minimum = VirtualServer {
        minimum_healthy: Some(2),
        addresses: range_and_host_routes()
            .map(|(_, host)| host.addr())
            .to_vec(),
        ..virtual_server(3, Ports::One(80), &pods[..2])
    };
    let desired = half_ranges().with(quiesce).with(remove).with(minimum);
    system.write_desired(&desired).unwrap();
    start_daemons(&mut system);
    let announced = |system: &System, host_is: bool| {
        for (range, host) in range_and_host_routes() {
            let next_hops = system.next_hops(range, &[0]).unwrap();
            system.fib.wait_for(range, &next_hops, SOON).unwrap();
            let next_hops = if host_is { next_hops } else { Vec::new() };
            system.fib.wait_for(host, &next_hops, SOON).unwrap();
        }
    };
    announced(&system, true);
    let client = system.network.client().unwrap();
    let host_address = SocketAddr::new(range_and_host_routes()[0].1.addr(), 80);
    assert_eq!(
        http::spread(&client, host_address, 4, SOON).unwrap().len(),
        2
    );

    kill_web_server(&system, 0);
    announced(&system, false);
    let dead = addresses(&pods[..1]);
    wait_for_table(
        &system,
        0,
        "the dead server is out of every entry",
        |table| {
            dead.iter().all(|real_server| {
                let of = |number: u8| {
                    let address = service(number)
                        .into_iter()
                        .find(|a| a.is_ipv4() == real_server.is_ipv4());
                    weight(
                        table,
                        SocketAddr::new(address.unwrap(), 80),
                        SocketAddr::new(*real_server, 80),
                    )
                };
                (of(1), of(2)) == (Some(0), None)
            })
        },
    );
    for number in [1, 2] {
        for address in service(number) {
            let answers = http::spread(&client, SocketAddr::new(address, 80), 12, SOON).unwrap();
            let names: Vec<_> = answers.keys().collect();
            assert_eq!(names, ["web-2", "web-3"], "{address}");
        }
    }

    system.network.start_web_server(&pods[0]).unwrap();
    announced(&system, true);
    wait_for_table(&system, 0, "it is back in every entry", |table| {
        (1..=2).all(|number| {
            let server = SocketAddr::new(service(number)[0], 80);
            weight(table, server, SocketAddr::new(dead[0], 80)) == Some(1)
        })
    });
    let answers = http::spread(&client, host_address, 4, SOON).unwrap();
    assert_eq!(answers.len(), 2, "{answers:?}");

    // All of a virtual server's real servers: the range stays for as long as another one serves.
    let changes = system.fib.changes().len();
    kill_web_server(&system, 2);
    wait_for_table(&system, 0, "the dead server has no weight", |table| {
        let server = SocketAddr::new(service(1)[0], 80);
        weight(table, server, SocketAddr::new(pods[2].address.into(), 80)) == Some(0)
    });
    assert_eq!(system.fib.changes().len(), changes);
    for index in [0, 1] {
        kill_web_server(&system, index);
    }
    for (range, host) in range_and_host_routes() {
        system.fib.wait_for(range, &[], SOON).unwrap();
        system.fib.wait_for(host, &[], SOON).unwrap();
    }
}

#[test]
fn a_draining_real_server_gets_no_new_connection_while_established_ones_go_on() {
    let options = Options {
        web_pods: 3,
        ..Options::default()
    };
    let schedulers = [(1, "mh"), (2, "rr")];
    let desired = |system: &System, state| {
        schedulers
            .iter()
            .fold(empty(), |desired, (number, scheduler)| {
                let mut server = VirtualServer {
                    scheduler: Some(*scheduler),
                    ..virtual_server(*number, Ports::One(80), &system.network.web_pods)
                };
                for real_server in &mut server.real_servers[..2] {
                    *real_server = RealServer {
                        state,
                        ..real_server.clone()
                    };
                }
                desired.with(server)
            })
    };
    let system = one_lb_pod("draining", options, |system| desired(system, None));
    let client = system.network.client().unwrap();
    let servers = schedulers.map(|(number, _)| service(number));
    let servers: Vec<_> = servers
        .as_flattened()
        .iter()
        .map(|address| SocketAddr::new(*address, 80))
        .collect();
    let loads: Vec<_> = servers
        .iter()
        .map(|server| {
            let load = Load {
                server: *server,
                connections: 24,
                interval: Duration::from_millis(100),
                patience: Duration::from_secs(5),
            };
            PersistentConnections::start(&client, load).unwrap()
        })
        .collect();
    system
        .write_desired(&desired(&system, Some("draining")))
        .unwrap();
    let drained = addresses(&system.network.web_pods[..1]);
    wait_for_table(&system, 0, "it is quiesced everywhere", |table| {
        servers.iter().all(|server| {
            let mut drained = drained.iter();
            let drained = drained.find(|address| address.is_ipv4() == server.is_ipv4());
            weight(table, *server, SocketAddr::new(*drained.unwrap(), 80)) == Some(0)
        })
    });

    for server in &servers {
        let answers = http::spread(&client, *server, 24, SOON).unwrap();
        let names: Vec<_> = answers.keys().collect();
        assert_eq!(names, ["web-2", "web-3"], "{server}");
    }
    for (load, server) in loads.into_iter().zip(&servers) {
        let before = load.tally();
        load.wait_for_answers(48, SOON).unwrap();
        let tally = load.stop().unwrap();
        assert_eq!((tally.lost(), tally.refused), (0, 0), "{server}: {tally:?}");
        let goes_on = tally.servers["web-1"] > before.servers["web-1"];
        assert!(goes_on, "{server}: {tally:?}");
    }
}
