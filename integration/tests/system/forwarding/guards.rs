//! What protects the path: the nodes' exemption from connection tracking, and the pod's guards.

use std::{
    io::ErrorKind,
    net::{Ipv6Addr, SocketAddr},
};

use lab::{
    Signal, http,
    reference::Options,
    system::{Daemon, System, port},
    udp, wait_for,
};

use super::{
    SILENCE, SOON, allow_binding, empty, one_lb_pod,
    peer_server::{self, PeerServer},
    service, start_one_lb_pod, virtual_server, wait_for_table, wait_until_serving,
};

const EXEMPTION: &str = "table inet portlb-node-router";

#[test]
fn tunnel_traffic_dies_without_a_nodes_exemption_and_lives_when_it_is_repaired() {
    let mut system = System::new("exemption", Options::default()).unwrap();
    system.set_flags("node-router", &[("--audit-interval", "200ms")]);
    // Real servers on another node than the lb pod's.
    let mut elsewhere = system.network.web_pods.clone();
    elsewhere.retain(|pod| pod.node == system.network.nodes[1].name);
    let server = virtual_server(1, port(80), &elsewhere);
    system.write_desired(&empty().with(server)).unwrap();
    start_one_lb_pod(&mut system);
    wait_until_serving(&system, 0);

    let client = system.network.client().unwrap();
    // The lb pod's node sees what clients send only, the web pod's node what it answers only.
    for node in [0, 1] {
        for address in service(1) {
            let server = SocketAddr::new(address, 80);
            http::get(&client, server, SOON).unwrap();
            let router = system.process(Daemon::NodeRouter(node)).unwrap();
            let host = system.host(Daemon::NodeRouter(node)).unwrap();
            router.signal(Signal::SIGSTOP).unwrap();
            host.nft(&format!("delete {EXEMPTION}")).unwrap();
            for _ in 0..2 {
                let answer = http::get(&client, server, SILENCE);
                assert!(answer.is_err(), "{server} without {node}: {answer:?}");
            }
            router.signal(Signal::SIGCONT).unwrap();
            wait_for("it is repaired and traffic lives again", SOON, || {
                http::get(&client, server, SILENCE).map(drop)
            })
            .unwrap();
            let table = host.output("nft", ["list", "tables"]).unwrap();
            assert!(table.contains(EXEMPTION), "{table}");
        }
    }
}

#[test]
fn nothing_of_the_pod_itself_answers_on_a_service_address_not_even_a_reset() {
    let system = one_lb_pod(
        "guards",
        Options {
            web_pods: 2,
            ..Options::default()
        },
        |system| empty().with(virtual_server(1, port(80), &system.network.web_pods)),
    );
    let client = system.network.client().unwrap();
    let lb_host = system.host(Daemon::IpvsProgrammer(0)).unwrap();
    let lb_pod = &system.network.lb_pods[0];
    let any: SocketAddr = (Ipv6Addr::UNSPECIFIED, 9000).into();
    let _tcp = PeerServer::start(&lb_host, any).unwrap();
    allow_binding(&lb_host);
    // Bound to each address, so that its answers would have the right source.
    let own = [lb_pod.address.into(), lb_pod.address6.into()];
    let named = own
        .into_iter()
        .chain(service(1))
        .chain(service(9))
        .map(|address| udp::NameServer::start(&lb_host, SocketAddr::new(address, 9001)).unwrap());
    let _udp: Vec<_> = named.collect();

    // They are there.
    for address in own {
        peer_server::ask(&client, SocketAddr::new(address, 9000), SOON).unwrap();
        let answer = udp::ask(&client, SocketAddr::new(address, 9001), SOON).unwrap();
        assert_eq!(answer.as_deref(), Some(lb_pod.name.as_str()));
    }
    // 1 has a virtual server, 9 is an address of the range without one. Port 81 has no listener
    // at all: that no reset comes back keeps connections alive that another pod has.
    for address in service(1).into_iter().chain(service(9)) {
        for port in [9000, 81] {
            let server = SocketAddr::new(address, port);
            let failure = peer_server::failure(&client, server, SILENCE);
            assert_eq!(failure, Some(ErrorKind::TimedOut), "{server}");
        }
        for port in [9001, 82] {
            let server = SocketAddr::new(address, port);
            assert_eq!(
                udp::ask(&client, server, SILENCE).unwrap(),
                None,
                "{server}"
            );
        }
    }

    // The input guard would hide what the output guard does.
    lb_host.nft("flush chain inet portlb-ipvs input").unwrap();
    for address in service(1).into_iter().chain(service(9)) {
        let answer = udp::ask(&client, SocketAddr::new(address, 9001), SOON).unwrap();
        assert_eq!(answer.as_deref(), Some(lb_pod.name.as_str()), "{address}");
    }
    for address in service(1).into_iter().chain(service(9)) {
        let server = SocketAddr::new(address, 81);
        let failure = peer_server::failure(&client, server, SILENCE);
        assert_eq!(failure, Some(ErrorKind::TimedOut), "{server}");
    }
    lb_host.nft("flush chain inet portlb-ipvs output").unwrap();
    for address in service(1).into_iter().chain(service(9)) {
        let server = SocketAddr::new(address, 81);
        let failure = peer_server::failure(&client, server, SOON);
        assert_eq!(failure, Some(ErrorKind::ConnectionRefused), "{server}");
    }
}

#[test]
fn a_client_that_meets_no_real_server_is_not_refused_and_may_try_again() {
    let system = one_lb_pod(
        "unreachable",
        Options {
            web_pods: 1,
            ..Options::default()
        },
        |system| empty().with(virtual_server(1, port(80), &system.network.web_pods)),
    );
    // What IPVS does while it replaces a scheduler, but for as long as the test needs it.
    let with = virtual_server(1, port(80), &system.network.web_pods);
    let without = virtual_server(2, port(80), &[]);
    let desired = empty().with(with).with(without);
    system.write_desired(&desired).unwrap();
    let entries = service(2).map(|address| SocketAddr::new(address, 80));
    wait_for_table(&system, 0, "the empty virtual servers are there", |table| {
        entries.iter().all(|entry| {
            let entry = format!("-A -t {entry} ");
            table.iter().any(|line| line.starts_with(&entry))
        })
    });

    let client = system.network.client().unwrap();
    for server in entries {
        let failure = peer_server::failure(&client, server, SILENCE);
        assert_eq!(failure, Some(ErrorKind::TimedOut), "{server}");
    }
    // That is the guard's doing. Over IPv6 the error has the pod's own address as source, and the
    // node may drop it as one about a connection that it does not track; so look at the counters.
    let lb_host = system.host(Daemon::IpvsProgrammer(0)).unwrap();
    let rules = lb_host
        .output("nft", ["list", "chain", "inet", "portlb-ipvs", "output"])
        .unwrap();
    let errors: Vec<_> = rules.lines().filter(|rule| rule.contains("icmp")).collect();
    assert_eq!(errors.len(), 2, "{rules}");
    for rule in errors {
        assert!(!rule.contains("packets 0 "), "{rule}");
    }
    lb_host.nft("flush chain inet portlb-ipvs output").unwrap();
    let failure = peer_server::failure(&client, entries[0], SOON);
    assert_eq!(failure, Some(ErrorKind::ConnectionRefused));
}
