//! Tests of failed and draining real servers, and of the resulting announcements.

use std::{net::SocketAddr, time::Duration};

use ipnet::IpNet;
use lab::{
    http::{self, Load, PersistentConnections},
    reference::ReferenceOptions,
    system::{Desired, System, VirtualServer, port},
    udp,
};
use virtual_server::{FailureAction, Protocol, RealServer, RealServerState, Scheduler};

use super::{
    SOON, addresses, allow_binding, one_lb_pod, only_ranges, service, start_daemons,
    virtual_server, wait_for_table, wait_until_serving, weight,
};

/// Returns a desired set with only the lower half of each service range.
///
/// The announcer announces addresses in the upper half as host routes.
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
fn a_failed_real_server_is_quiesced_or_removed_and_below_the_minimum_its_address_is_withdrawn() {
    let mut system = System::new(
        "availability",
        ReferenceOptions {
            web_pods: 3,
            ..ReferenceOptions::default()
        },
    )
    .unwrap();
    let pods = system.network.web_pods.clone();
    // Two virtual servers are in the range: one quiesces its failed real servers, and one removes
    // them. A virtual server outside of the range needs both of its real servers.
    let quiesce = virtual_server(1, port(80), &pods);
    let remove = VirtualServer {
        on_failure: FailureAction::Remove,
        ..virtual_server(2, port(80), &pods)
    };
    let minimum = VirtualServer {
        minimum_healthy: Some(2),
        addresses: range_and_host_routes()
            .map(|(_, host)| host.addr())
            .to_vec(),
        ..virtual_server(3, port(80), &pods[..2])
    };
    let desired = half_ranges().with(quiesce).with(remove).with(minimum);
    system.write_desired(&desired).unwrap();
    start_daemons(&mut system);
    let wait_for_routes = |system: &System, has_host_route: bool| {
        for (range, host) in range_and_host_routes() {
            let next_hops = system.next_hops(range, &[0]).unwrap();
            system.fib.wait_for(range, &next_hops, SOON).unwrap();
            let next_hops = if has_host_route {
                next_hops
            } else {
                Vec::new()
            };
            system.fib.wait_for(host, &next_hops, SOON).unwrap();
        }
    };
    wait_for_routes(&system, true);
    let client = system.network.client().unwrap();
    let host_address = SocketAddr::new(range_and_host_routes()[0].1.addr(), 80);
    assert_eq!(
        http::spread(&client, host_address, 4, SOON).unwrap().len(),
        2
    );

    kill_web_server(&system, 0);
    wait_for_routes(&system, false);
    let dead = addresses(&pods[..1]);
    wait_for_table(
        &system,
        0,
        "the failed real server is quiesced or removed",
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
    wait_for_routes(&system, true);
    wait_for_table(
        &system,
        0,
        "the repaired real server has weight 1",
        |table| {
            (1..=2).all(|number| {
                let server = SocketAddr::new(service(number)[0], 80);
                weight(table, server, SocketAddr::new(dead[0], 80)) == Some(1)
            })
        },
    );
    let answers = http::spread(&client, host_address, 4, SOON).unwrap();
    assert_eq!(answers.len(), 2, "{answers:?}");

    // The range stays announced as long as one of its virtual servers is serving. At the end of the
    // test all real servers fail.
    let changes = system.fib.changes().len();
    kill_web_server(&system, 2);
    wait_for_table(&system, 0, "the failed real server has weight 0", |table| {
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

/// A system whose clients keep connections open while a web pod is drained or removed.
struct DrainScenario {
    system: System,
    servers: Vec<SocketAddr>,
    loads: Vec<PersistentConnections>,
}

impl DrainScenario {
    /// Starts one virtual server with three web pods for each of `settings`, and opens connections.
    ///
    /// Then `take_out` changes the real servers of each virtual server. The first two real servers
    /// are the two addresses of the first web pod.
    fn start(name: &str, settings: &[VirtualServer], take_out: fn(&mut Vec<RealServer>)) -> Self {
        let options = ReferenceOptions {
            web_pods: 3,
            ..ReferenceOptions::default()
        };
        let desired = |system: &System, change: fn(&mut Vec<RealServer>)| {
            let numbered = (1..).zip(settings);
            numbered.fold(only_ranges(), |desired, (number, settings)| {
                let named = virtual_server(number, port(80), &system.network.web_pods);
                let mut server = VirtualServer {
                    scheduler: settings.scheduler,
                    drain_timeout: settings.drain_timeout,
                    ..named
                };
                change(&mut server.real_servers);
                desired.with(server)
            })
        };
        let system = one_lb_pod(name, options, |system| desired(system, |_| {}));
        let client = system.network.client().unwrap();
        let servers: Vec<_> = (1..)
            .zip(settings)
            .flat_map(|(number, _)| service(number))
            .map(|address| SocketAddr::new(address, 80))
            .collect();
        let loads = servers
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
        system.write_desired(&desired(&system, take_out)).unwrap();
        Self {
            system,
            servers,
            loads,
        }
    }

    /// Waits until the first web pod has the weight `wanted` in each virtual server of `servers`.
    /// With `None`, waits until no virtual server of `servers` has the first web pod.
    fn wait_for_weight(&self, servers: &[SocketAddr], wanted: Option<u32>) {
        let taken_out = addresses(&self.system.network.web_pods[..1]);
        wait_for_table(
            &self.system,
            0,
            &format!("the first web pod has weight {wanted:?}"),
            |table| {
                servers.iter().all(|server| {
                    let mut taken_out = taken_out.iter();
                    let address = taken_out.find(|address| address.is_ipv4() == server.is_ipv4());
                    weight(table, *server, SocketAddr::new(*address.unwrap(), 80)) == wanted
                })
            },
        );
    }

    fn check_that_new_connections_use_other_pods(&self) {
        let client = self.system.network.client().unwrap();
        for server in &self.servers {
            let answers = http::spread(&client, *server, 24, SOON).unwrap();
            let names: Vec<_> = answers.keys().collect();
            assert_eq!(names, ["web-2", "web-3"], "{server}");
        }
    }
}

#[test]
fn a_udp_client_moves_from_a_draining_or_failed_real_server_to_another_real_server() {
    let names = port(5300);
    let options = ReferenceOptions {
        web_pods: 3,
        ..ReferenceOptions::default()
    };
    let desired = |system: &System, draining: Option<usize>| {
        let mut server = VirtualServer {
            protocol: Protocol::Udp,
            scheduler: Scheduler::MH_DEFAULT,
            ..virtual_server(1, names, &system.network.web_pods)
        };
        // Each pod has two real servers, one for each address.
        for (index, real_server) in server.real_servers.iter_mut().enumerate() {
            if draining == Some(index / 2) {
                real_server.state = RealServerState::Draining;
            }
        }
        only_ranges().with(server)
    };
    let system = one_lb_pod("udp-leaves", options, |system| desired(system, None));
    let client = system.network.client().unwrap();
    let pods = [0, 1, 2].map(|index: usize| {
        let name = &system.network.web_pods[index].name;
        system.network.lab.host(name).unwrap()
    });
    pods.iter().for_each(allow_binding);
    let servers = service(1).map(|address| SocketAddr::new(address, 5300));
    let _name_servers: Vec<_> = pods
        .iter()
        .flat_map(|pod| servers.map(|server| udp::NameServer::start(pod, server).unwrap()))
        .collect();
    let clients = servers.map(|server| udp::SteadyClient::new(&client, server).unwrap());
    let current_pod = |client: &udp::SteadyClient| {
        let answer = client.ask(SOON).unwrap().unwrap();
        assert_eq!(
            client.ask(SOON).unwrap().as_ref(),
            Some(&answer),
            "two datagrams reached different pods"
        );
        answer
    };
    // The client sends without a pause, so IPVS's connection entry of the client does not expire.
    let wait_for_other_pod = |client: &udp::SteadyClient, former: &str| {
        lab::wait_for("an answer of another pod than the former", SOON, || {
            let answer = client.ask(Duration::from_millis(100));
            match answer.map_err(|error| format!("{error:#}"))? {
                Some(name) if name != former => Ok(name),
                other => Err(format!("{other:?}")),
            }
        })
        .unwrap()
    };
    let index_of = |system: &System, name: &str| {
        let mut pods = system.network.web_pods.iter();
        pods.position(|pod| pod.name == name).unwrap()
    };
    for client in &clients {
        let drained = current_pod(client);
        let state = desired(&system, Some(index_of(&system, &drained)));
        system.write_desired(&state).unwrap();
        wait_for_other_pod(client, &drained);
        system.write_desired(&desired(&system, None)).unwrap();
        wait_until_serving(&system, 0);
    }
    // The client of a failed real server also moves to another real server, with the default
    // `onFailure: quiesce`.
    let client = &clients[0];
    let dead = current_pod(client);
    kill_web_server(&system, index_of(&system, &dead));
    wait_for_other_pod(client, &dead);
}

fn check_that_connections_continue(load: PersistentConnections, server: SocketAddr) {
    let before = load.tally();
    load.wait_for_answers(48, SOON).unwrap();
    let tally = load.stop().unwrap();
    assert_eq!((tally.lost(), tally.refused), (0, 0), "{server}: {tally:?}");
    let has_new_answers = tally.servers["web-1"] > before.servers["web-1"];
    assert!(has_new_answers, "{server}: {tally:?}");
}

fn with_scheduler(scheduler: Scheduler) -> VirtualServer {
    VirtualServer {
        scheduler,
        ..virtual_server(1, port(80), &[])
    }
}

#[test]
fn a_draining_real_server_gets_no_new_connections_and_keeps_its_established_connections() {
    let drained = DrainScenario::start(
        "draining",
        &[
            with_scheduler(Scheduler::MH_DEFAULT),
            with_scheduler(Scheduler::Rr),
        ],
        |real_servers| {
            for real_server in &mut real_servers[..2] {
                real_server.state = RealServerState::Draining;
            }
        },
    );
    drained.wait_for_weight(&drained.servers, Some(0));
    drained.check_that_new_connections_use_other_pods();
    for (load, server) in drained.loads.into_iter().zip(drained.servers) {
        check_that_connections_continue(load, server);
    }
}

#[test]
fn a_removed_real_server_keeps_its_connections_until_they_end_or_the_drain_timeout_ends() {
    let short_drain = VirtualServer {
        drain_timeout: Some(Duration::from_secs(1)),
        ..with_scheduler(Scheduler::MH_DEFAULT)
    };
    let mut drained = DrainScenario::start(
        "removed-real-server",
        &[with_scheduler(Scheduler::MH_DEFAULT), short_drain],
        |real_servers| drop(real_servers.drain(..2)),
    );
    let (lasting, cut) = drained.servers.split_at(2);
    drained.wait_for_weight(lasting, Some(0));
    drained.wait_for_weight(cut, None);
    drained.check_that_new_connections_use_other_pods();
    for load in drained.loads.drain(2..) {
        let has_been_cut = || {
            let tally = load.tally();
            lab::ensure_that(tally.lost() > 0, format!("{tally:?}"))
        };
        lab::wait_for("a connection is cut", SOON, has_been_cut).unwrap();
    }

    drained.wait_for_weight(lasting, Some(0));
    for (load, server) in drained.loads.drain(..).zip(lasting) {
        check_that_connections_continue(load, *server);
    }
    drained.wait_for_weight(lasting, None);
}
