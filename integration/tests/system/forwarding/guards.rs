//! Tests of the connection-tracking exemption and of the lb pod's guards.

use std::{
    io::ErrorKind,
    net::{Ipv6Addr, SocketAddr},
};

use lab::{
    Signal, http,
    reference::ReferenceOptions,
    system::{DaemonInstance, System, port},
    udp, wait_for,
};

use super::{
    SILENCE, SOON, allow_binding, one_lb_pod, only_ranges,
    peer_server::{self, PeerServer},
    service, start_one_lb_pod, virtual_server, wait_for_table, wait_until_serving,
};

const EXEMPTION: &str = "table inet portlb-node-router";

#[test]
fn tunnels_fail_without_the_connection_tracking_exemption_until_it_is_repaired() {
    let mut system = System::new("exemption", ReferenceOptions::default()).unwrap();
    system.set_flags("node-router", &[("--audit-interval", "200ms")]);
    // The real servers run on another node than the lb pod.
    let mut elsewhere = system.network.web_pods.clone();
    elsewhere.retain(|pod| pod.node == system.network.nodes[1].name);
    let server = virtual_server(1, port(80), &elsewhere);
    system.write_desired(&only_ranges().with(server)).unwrap();
    start_one_lb_pod(&mut system);
    wait_until_serving(&system, 0);

    let client = system.network.client().unwrap();
    // Both directions need the exemption: the node of the lb pod forwards only packets of clients,
    // and the node of the web pods forwards only answers.
    for node in [0, 1] {
        for address in service(1) {
            let server = SocketAddr::new(address, 80);
            http::get(&client, server, SOON).unwrap();
            let router = system.process(DaemonInstance::NodeRouter(node)).unwrap();
            let host = system.host(DaemonInstance::NodeRouter(node)).unwrap();
            router.signal(Signal::SIGSTOP).unwrap();
            host.nft(&format!("delete {EXEMPTION}")).unwrap();
            for _ in 0..2 {
                let answer = http::get(&client, server, SILENCE);
                assert!(
                    answer.is_err(),
                    "{server} answered without the exemption of node {node}: {answer:?}"
                );
            }
            router.signal(Signal::SIGCONT).unwrap();
            wait_for("a request succeeds after the repair", SOON, || {
                http::get(&client, server, SILENCE).map(drop)
            })
            .unwrap();
            let table = host.output("nft", ["list", "tables"]).unwrap();
            assert!(table.contains(EXEMPTION), "{table}");
        }
    }
}

#[test]
fn the_network_stack_of_the_lb_pod_sends_no_answer_from_a_service_address() {
    let system = one_lb_pod(
        "guards",
        ReferenceOptions {
            web_pods: 2,
            ..ReferenceOptions::default()
        },
        |system| only_ranges().with(virtual_server(1, port(80), &system.network.web_pods)),
    );
    let client = system.network.client().unwrap();
    let lb_host = system.host(DaemonInstance::IpvsProgrammer(0)).unwrap();
    let lb_pod = &system.network.lb_pods[0];
    let any: SocketAddr = (Ipv6Addr::UNSPECIFIED, 9000).into();
    let _tcp = PeerServer::start(&lb_host, any).unwrap();
    allow_binding(&lb_host);
    // Each server is bound to one address, so that its answers have the right source address.
    let own = [lb_pod.address.into(), lb_pod.address6.into()];
    let name_servers = own
        .into_iter()
        .chain(service(1))
        .chain(service(9))
        .map(|address| udp::NameServer::start(&lb_host, SocketAddr::new(address, 9001)).unwrap());
    let _udp: Vec<_> = name_servers.collect();

    // Clients can reach the servers at the lb pod's own addresses.
    for address in own {
        peer_server::ask(&client, SocketAddr::new(address, 9000), SOON).unwrap();
        let answer = udp::ask(&client, SocketAddr::new(address, 9001), SOON).unwrap();
        assert_eq!(answer.as_deref(), Some(lb_pod.name.as_str()));
    }
    // Address 1 has a virtual server, address 9 of the range has none. Ports 81 and 82 have no
    // listener. The lb pod must not send a reset, because a reset would end a connection of another
    // lb pod.
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

    // Without the rules of the chain `input`, UDP requests reach the name servers of the lb pod,
    // and only the rules of the chain `output` prevent a reset.
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
fn a_client_of_a_virtual_server_without_real_servers_gets_no_error() {
    let system = one_lb_pod(
        "unreachable",
        ReferenceOptions {
            web_pods: 1,
            ..ReferenceOptions::default()
        },
        |system| only_ranges().with(virtual_server(1, port(80), &system.network.web_pods)),
    );
    // The second virtual server has no real server. A virtual server is in this state for a moment
    // while IPVS replaces its scheduler.
    let with = virtual_server(1, port(80), &system.network.web_pods);
    let without = virtual_server(2, port(80), &[]);
    let desired = only_ranges().with(with).with(without);
    system.write_desired(&desired).unwrap();
    let entries = service(2).map(|address| SocketAddr::new(address, 80));
    wait_for_table(&system, 0, "the empty virtual servers exist", |table| {
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
    // The counters show that the guard has dropped the errors. A missing answer alone does not show
    // this: an IPv6 error has the pod's own address as source, and the node can drop such an error,
    // because it does not track the connection.
    let lb_host = system.host(DaemonInstance::IpvsProgrammer(0)).unwrap();
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
