//! Tests of single ports, port ranges, all ports and SCTP.

use std::{collections::BTreeMap, io::ErrorKind, net::SocketAddr};

use lab::{
    http,
    reference::ReferenceOptions,
    system::{System, VirtualServer, port},
    udp,
};
use virtual_server::{ForwardingMethod, Ports, Protocol};

use super::{
    SILENCE, SOON, addresses, allow_binding, one_lb_pod, only_ranges, peer_server, service, table,
    virtual_server,
};

/// Sends as many requests as there are web pods to each service address with the last part
/// `number`, and checks that every web pod answers one request.
fn check_http(system: &System, number: u8, port: u16) {
    let client = system.network.client().unwrap();
    for address in service(number) {
        let server = SocketAddr::new(address, port);
        let count = system.network.web_pods.len();
        let answers = http::spread(&client, server, count, SOON).unwrap();
        assert_eq!(answers.len(), count, "{server}: {answers:?}");
    }
}

fn check_silence(system: &System, number: u8, port: u16) {
    let client = system.network.client().unwrap();
    for address in service(number) {
        let server = SocketAddr::new(address, port);
        let failure = peer_server::failure(&client, server, SILENCE);
        assert_eq!(failure, Some(ErrorKind::TimedOut), "{server}");
    }
}

#[test]
fn single_ports_port_ranges_and_all_ports_reach_every_web_pod_and_sctp_is_programmed() {
    let options = ReferenceOptions {
        web_pods: 3,
        ports: vec![80, 443, 8000, 8050, 8099],
        ..ReferenceOptions::default()
    };
    let range: Ports = "8000-8099".parse().unwrap();
    let system = one_lb_pod("ports", options, |system| {
        let pods = &system.network.web_pods;
        let udp = |number, ports| VirtualServer {
            protocol: Protocol::Udp,
            ..virtual_server(number, ports, pods)
        };
        // A range of ports and the single ports of one address are separate virtual servers.
        let mut several = virtual_server(1, port(80), pods);
        several.ports.push(port(443));
        only_ranges()
            .with(several)
            .with(virtual_server(1, range, pods))
            .with(virtual_server(2, Ports::All, pods))
            .with(udp(2, "5300-5399".parse().unwrap()))
            .with(udp(3, Ports::All))
            .with(VirtualServer {
                protocol: Protocol::Sctp,
                ..virtual_server(6, port(3868), pods)
            })
            .with(VirtualServer {
                forwarding_method: ForwardingMethod::Masquerade,
                ..virtual_server(4, range, pods)
            })
            .with(VirtualServer {
                forwarding_method: ForwardingMethod::Masquerade,
                ..virtual_server(5, Ports::All, pods)
            })
    });
    for port in [80, 443, 8000, 8050, 8099] {
        check_http(&system, 1, port);
        check_http(&system, 2, port);
        check_http(&system, 5, port);
    }
    for port in [8000, 8050, 8099] {
        check_http(&system, 4, port);
    }
    for (number, port) in [(1, 7999), (1, 8100), (3, 80), (4, 80)] {
        check_silence(&system, number, port);
    }

    let client = system.network.client().unwrap();
    let pods = [0, 1, 2].map(|index: usize| {
        let name = &system.network.web_pods[index].name;
        system.network.lab.host(name).unwrap()
    });
    pods.iter().for_each(allow_binding);
    for (number, port, is_served) in [
        (2, 5300, true),
        (2, 5399, true),
        (2, 5400, false),
        (3, 53, true),
        (3, 65000, true),
    ] {
        for address in service(number) {
            let server = SocketAddr::new(address, port);
            let servers =
                [0, 1, 2].map(|index| udp::NameServer::start(&pods[index], server).unwrap());
            let wait = if is_served { SOON } else { SILENCE };
            let answers = udp::spread(&client, server, servers.len(), wait).unwrap();
            let expected = match is_served {
                true => BTreeMap::from(["web-1", "web-2", "web-3"].map(|pod| (pod.to_owned(), 1))),
                false => BTreeMap::from([(String::new(), servers.len())]),
            };
            assert_eq!(answers, expected, "{server}");
        }
    }

    let table = table(&system, 0);
    let mut expected = Vec::new();
    for address in service(6) {
        let server = SocketAddr::new(address, 3868);
        expected.push(format!("-A --sctp-service {server} -s rr"));
        for real_server in addresses(&system.network.web_pods) {
            if real_server.is_ipv4() == address.is_ipv4() {
                let real_server = SocketAddr::new(real_server, 3868);
                expected.push(format!(
                    "-a --sctp-service {server} -r {real_server} -i -w 1"
                ));
            }
        }
    }
    for line in expected {
        let is_in_table = table.iter().any(|seen| seen.starts_with(&line));
        assert!(is_in_table, "no {line} in\n{}", table.join("\n"));
    }
}
