//! A test of the uplink guard on a node without a node route.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use anyhow::{Context, Result, ensure};
use lab::Host;
use lab::http;
use lab::reference::{ReferenceOptions, SERVICE, SERVICE6};
use lab::system::{DaemonInstance, System};

use crate::expect::{SOON, eventually, wait_for_readyz, wait_until_ready};

const NODE_ROUTER: DaemonInstance = DaemonInstance::NodeRouter(0);

/// Addresses in the service ranges for which the router has a static route to node-a.
const MISROUTED: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 1, 200));
const MISROUTED6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 1, 1, 0, 0, 0, 0x200));

/// Adds nftables rules that count packets from the router for the misrouted addresses.
fn start_counting(node: &Host) -> Result<()> {
    node.nft(&format!(
        "table inet misrouted {{
           counter arrived {{}}
           chain pre {{
             type filter hook prerouting priority -400;
             iifname eth0 ip daddr {MISROUTED} counter name arrived
             iifname eth0 ip6 daddr {MISROUTED6} counter name arrived
           }}
         }}"
    ))
}

/// Returns the number of counted packets since the last call.
fn take_count(node: &Host) -> Result<u32> {
    let text = node.output("nft", ["reset", "counter", "inet", "misrouted", "arrived"])?;
    let mut words = text.split_whitespace();
    let number = words.by_ref().skip_while(|word| *word != "packets").nth(1);
    let number = number.with_context(|| format!("no number of packets in {text}"))?;
    number.parse().with_context(|| text.clone())
}

fn send_one(client: &Host, to: IpAddr) -> Result<()> {
    client.inside(|| {
        let any = match to {
            IpAddr::V4(_) => "0.0.0.0:0",
            IpAddr::V6(_) => "[::]:0",
        };
        let socket = UdpSocket::bind(any).context("cannot bind a UDP socket")?;
        socket
            .send_to(b"misrouted", (to, 9))
            .context("cannot send a packet")?;
        Ok(())
    })
}

#[test]
fn a_packet_to_a_node_without_a_node_route_does_not_loop_and_its_pods_reach_service_addresses() {
    let mut system = System::new("uplink", ReferenceOptions::default()).unwrap();
    system.set_flags("node-router", &[("--uplink", "none")]);
    let of_lb_a = System::lb_pod(0);
    for daemon in System::all() {
        if !of_lb_a.contains(&daemon) {
            system.start(daemon).unwrap();
        }
    }
    system.wait_until_announced(&[1, 2], SOON).unwrap();
    let node = system.host(NODE_ROUTER).unwrap();
    let pod = system.network.lab.host("lb-a").unwrap();
    let client = system.network.client().unwrap();
    let router = system.network.router_host().unwrap();
    start_counting(&node).unwrap();
    let node_a = &system.network.nodes[0];
    let (via, via6) = (node_a.address.addr(), node_a.address6.addr());
    let routes = format!("route add {MISROUTED} via {via}\nroute add {MISROUTED6} via {via6}");
    router.ip(&routes).unwrap();

    // Without the guard the node receives one packet many times. This shows that the counter
    // detects a loop.
    for address in [MISROUTED, MISROUTED6] {
        send_one(&client, address).unwrap();
        let mut packets = 0;
        eventually("the packet loops", || {
            packets += take_count(&node)?;
            ensure!(packets > 10, "{packets} packets");
            Ok(())
        })
        .unwrap();
    }

    system.stop(NODE_ROUTER).unwrap();
    system.set_flags("node-router", &[("--uplink", "eth0")]);
    system.start(NODE_ROUTER).unwrap();
    wait_until_ready(&system, NODE_ROUTER).unwrap();
    ensure_guarded(&system, &node, &client).unwrap();
    // Without `--uplink` node-router uses the interface of the default route.
    system.stop(NODE_ROUTER).unwrap();
    system.set_flags("node-router", &[("--audit-interval", "1s")]);
    system.start(NODE_ROUTER).unwrap();
    wait_for_readyz(
        &system,
        NODE_ROUTER,
        "ready uplink guard",
        "IPv4: eth0; IPv6: eth0",
    )
    .unwrap();
    ensure_guarded(&system, &node, &client).unwrap();

    for from in [&pod, &node] {
        for address in [IpAddr::from(SERVICE), SERVICE6.into()] {
            http::get(from, SocketAddr::new(address, 80), SOON).unwrap();
        }
    }
    // After the start of an lb pod on the node, the router sends connections to the node, and the
    // lb pod serves them.
    system.start_all().unwrap();
    system.wait_until_announced(&[0, 1, 2], SOON).unwrap();
    for address in [IpAddr::from(SERVICE), SERVICE6.into()] {
        http::spread(&client, SocketAddr::new(address, 80), 30, SOON).unwrap();
    }
}

/// Sends one packet to each misrouted address. Returns an error if the node receives a packet more
/// than once.
fn ensure_guarded(system: &System, node: &Host, client: &Host) -> Result<()> {
    take_count(node)?;
    for address in [MISROUTED, MISROUTED6] {
        send_one(client, address)?;
        let mut packets = 0;
        eventually("the node receives the packet", || {
            packets += take_count(node)?;
            ensure!(packets > 0, "no packet");
            Ok(())
        })?;
        // A looping packet is dropped after about 60 hops, which takes less time than one HTTP
        // request. So the counter is final after the request.
        let server = SocketAddr::new(system.network.web_pods[0].address.into(), 80);
        http::get(client, server, SOON)?;
        packets += take_count(node)?;
        ensure!(
            packets == 1,
            "the node received {packets} packets for {address}, not one"
        );
    }
    Ok(())
}
