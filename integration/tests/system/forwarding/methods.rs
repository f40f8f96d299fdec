//! Tests of the forwarding methods with HTTP, UDP, IPv4 and IPv6.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU16,
};

use lab::{
    ensure_that, http,
    nodes::LabPod,
    reference::{CLIENT, CLIENT6, Reception, ReferenceOptions},
    system::{DaemonInstance, System, VirtualServer, port},
    udp, wait_for,
};
use virtual_server::{ForwardingMethod, Protocol, RealServer};

use super::{
    SILENCE, SOON, allow_binding, one_lb_pod, only_ranges,
    peer_server::{self, PeerServer},
    service, virtual_server,
};

const NAME_PORT: u16 = 5353;
const PEER_PORT: u16 = 9000;

/// Checks that each real server answers exactly two HTTP requests and two UDP requests to each
/// service address with the last part `number`. The scheduler `rr` shares the requests evenly.
fn check_spread(system: &System, number: u8, real_servers: &[LabPod], names: &[udp::NameServer]) {
    assert!(!names.is_empty());
    let client = system.network.client().unwrap();
    for address in service(number) {
        let expected: BTreeMap<String, usize> = real_servers
            .iter()
            .map(|pod| (pod.name.clone(), 2))
            .collect();
        let count = real_servers.len() * 2;
        let answers = http::spread(&client, SocketAddr::new(address, 80), count, SOON).unwrap();
        assert_eq!(answers, expected, "{address}");

        let server = SocketAddr::new(address, NAME_PORT);
        let answers = udp::spread(&client, server, count, SOON).unwrap();
        assert_eq!(answers, expected, "udp {address}");
    }
}

/// Returns two virtual servers with one forwarding method: HTTP on port 80, and UDP on `NAME_PORT`.
fn http_and_udp(
    method: ForwardingMethod,
    number: u8,
    real_servers: &[LabPod],
) -> [VirtualServer; 2] {
    let http = VirtualServer {
        forwarding_method: method,
        ..virtual_server(number, port(80), real_servers)
    };
    let names = VirtualServer {
        protocol: Protocol::Udp,
        ports: vec![port(NAME_PORT)],
        ..http.clone()
    };
    [http, names]
}

/// Starts UDP servers in each pod, on the addresses that `addresses` returns for the pod. The
/// servers answer with the pod's name.
fn name_servers(
    system: &System,
    pods: &[LabPod],
    addresses: impl Fn(&LabPod) -> [IpAddr; 2],
) -> Vec<udp::NameServer> {
    let mut servers = Vec::new();
    for pod in pods {
        let host = system.network.lab.host(&pod.name).unwrap();
        allow_binding(&host);
        for address in addresses(pod) {
            let address = SocketAddr::new(address, NAME_PORT);
            servers.push(udp::NameServer::start(&host, address).unwrap());
        }
    }
    servers
}

#[test]
fn tunnels_carry_http_and_udp_of_both_ip_versions_to_every_web_pod() {
    // A service address has a different forwarding method on each of two ports.
    let desired = |system: &System, method_of_peer_ports: [ForwardingMethod; 2]| {
        let pods = &system.network.web_pods;
        let peers = (PEER_PORT..).zip(method_of_peer_ports);
        let peers = peers.map(|(number, method)| VirtualServer {
            forwarding_method: method,
            ..virtual_server(1, port(number), &pods[1..2])
        });
        let servers = http_and_udp(ForwardingMethod::default(), 1, pods)
            .into_iter()
            .chain(peers);
        servers.fold(only_ranges(), |desired, server| desired.with(server))
    };
    let system = one_lb_pod("tunnels", ReferenceOptions::default(), |system| {
        desired(
            system,
            [ForwardingMethod::Masquerade, ForwardingMethod::default()],
        )
    });
    let pods = &system.network.web_pods;
    let names = name_servers(&system, pods, |_| service(1));
    check_spread(&system, 1, pods, &names);

    let web = system.network.lab.host(&pods[1].name).unwrap();
    let client = system.network.client().unwrap();
    let lb_pod = &system.network.lb_pods[0];
    let any: IpAddr = Ipv6Addr::UNSPECIFIED.into();
    let _servers = [PEER_PORT, PEER_PORT + 1]
        .map(|port| PeerServer::start(&web, SocketAddr::new(any, port)).unwrap());
    let translated: [IpAddr; 2] = [lb_pod.address.into(), lb_pod.address6.into()];
    let kept: [IpAddr; 2] = [CLIENT.addr().into(), CLIENT6.addr().into()];
    for (methods, [first, second]) in [
        (
            [ForwardingMethod::Masquerade, ForwardingMethod::default()],
            [translated, kept],
        ),
        (
            [ForwardingMethod::default(), ForwardingMethod::Masquerade],
            [kept, translated],
        ),
    ] {
        system.write_desired(&desired(&system, methods)).unwrap();
        for (port, expected) in [(PEER_PORT, first), (PEER_PORT + 1, second)] {
            for (address, expected) in service(1).into_iter().zip(expected) {
                let server = SocketAddr::new(address, port);
                wait_for(&format!("{server} sees {expected}"), SOON, || {
                    let seen = peer_server::ask(&client, server, SILENCE);
                    let seen = seen.map_err(|error| format!("{error:#}"))?;
                    ensure_that(seen == expected.to_string(), seen)
                })
                .unwrap();
            }
        }
    }
}

#[test]
fn a_web_pod_reaches_the_service_addresses_of_other_pods_and_of_itself() {
    let halves = |system: &System| {
        let pods = &system.network.web_pods;
        [pods[..2].to_vec(), pods[2..4].to_vec()]
    };
    let system = one_lb_pod("web-pods-call", ReferenceOptions::default(), |system| {
        let [first, second] = halves(system);
        only_ranges()
            .with(virtual_server(1, port(80), &first))
            .with(virtual_server(2, port(80), &second))
    });
    let caller = &system.network.web_pods[0].name;
    let caller = system.network.lab.host(caller).unwrap();
    for (number, pods) in (1..).zip(halves(&system)) {
        let expected: BTreeMap<String, usize> =
            pods.iter().map(|pod| (pod.name.clone(), 2)).collect();
        for address in service(number) {
            let server = SocketAddr::new(address, 80);
            let answers = http::spread(&caller, server, 4, SOON).unwrap();
            assert_eq!(answers, expected, "{address}");
        }
    }
}

#[test]
fn direct_routing_carries_http_and_udp_of_both_ip_versions_to_pods_on_the_lb_pods_link() {
    let options = ReferenceOptions {
        reception: Reception::Direct,
        ..ReferenceOptions::default()
    };
    let pods_on_link = |system: &System| {
        let mut pods = system.network.web_pods.clone();
        pods.retain(|pod| pod.node == system.network.lb_pods[0].node);
        pods
    };
    let system = one_lb_pod("direct-routing", options, |system| {
        http_and_udp(ForwardingMethod::DirectRouting, 1, &pods_on_link(system))
            .into_iter()
            .fold(only_ranges(), |desired, server| desired.with(server))
    });
    let pods_on_link = pods_on_link(&system);
    assert_eq!(pods_on_link.len(), 2);
    let names = name_servers(&system, &pods_on_link, |_| service(1));
    check_spread(&system, 1, &pods_on_link, &names);
}

#[test]
fn masquerade_carries_http_and_udp_of_both_ip_versions_with_the_lb_pod_as_source() {
    let options = ReferenceOptions {
        reception: Reception::Plain,
        ports: vec![80, 8080],
        ..ReferenceOptions::default()
    };
    let system = one_lb_pod("masquerade", options, |system| {
        let pods = &system.network.web_pods;
        let servers = http_and_udp(ForwardingMethod::Masquerade, 1, pods);
        let peers = VirtualServer {
            ports: vec![port(PEER_PORT)],
            ..servers[0].clone()
        };
        // The port on which the real servers listen differs from the port of the virtual server.
        let mut other_port = VirtualServer {
            ports: vec![port(81)],
            ..servers[0].clone()
        };
        for real_server in &mut other_port.real_servers {
            *real_server = RealServer {
                port: NonZeroU16::new(8080),
                ..real_server.clone()
            };
        }
        servers
            .into_iter()
            .chain([peers, other_port])
            .fold(only_ranges(), |desired, server| desired.with(server))
    });
    let pods = &system.network.web_pods;
    let names = name_servers(&system, pods, |pod| {
        [pod.address.into(), pod.address6.into()]
    });
    check_spread(&system, 1, pods, &names);

    let client = system.network.client().unwrap();
    let lb_pod = &system.network.lb_pods[0];
    let seen: [(IpAddr, IpAddr); 2] = [
        (service(1)[0], lb_pod.address.into()),
        (service(1)[1], lb_pod.address6.into()),
    ];
    for (address, expected) in seen {
        let mut servers = Vec::new();
        for pod in pods {
            let host = system.network.lab.host(&pod.name).unwrap();
            let any: IpAddr = match address {
                IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            let any = SocketAddr::new(any, PEER_PORT);
            servers.push(PeerServer::start(&host, any).unwrap());
        }
        let server = SocketAddr::new(address, PEER_PORT);
        for _ in pods {
            let answer = peer_server::ask(&client, server, SOON).unwrap();
            assert_eq!(answer, expected.to_string(), "{address}");
        }
        let other_port = SocketAddr::new(address, 81);
        let answers = http::spread(&client, other_port, pods.len(), SOON).unwrap();
        assert_eq!(answers.len(), pods.len(), "{other_port}: {answers:?}");
    }
    // IPVS translates only packets of connections to a service address, so the lb pod can also
    // connect to the address of a real server.
    let lb_host = system.host(DaemonInstance::IpvsProgrammer(0)).unwrap();
    let web = SocketAddr::new(pods[0].address.into(), 80);
    assert_eq!(http::get(&lb_host, web, SOON).unwrap().trim(), "web-1");
}
