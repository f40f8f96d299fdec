//! Packets for a service address on a node that has no route for it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use anyhow::{Context, Result, ensure};
use lab::Host;
use lab::http;
use lab::reference::{Options, SERVICE, SERVICE6};
use lab::system::{Daemon, System};

use crate::expect::{SOON, eventually, until_ready, until_readyz};

const NODE_ROUTER: Daemon = Daemon::NodeRouter(0);

/// Addresses of the service ranges that the router sends to node-a, whoever announces the ranges.
const ASTRAY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 1, 200));
const ASTRAY6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 1, 1, 0, 0, 0, 0x200));

/// Counts what the node receives for them from the router.
fn count(node: &Host) -> Result<()> {
    node.nft(&format!(
        "table inet astray {{
           counter arrived {{}}
           chain pre {{
             type filter hook prerouting priority -400;
             iifname eth0 ip daddr {ASTRAY} counter name arrived
             iifname eth0 ip6 daddr {ASTRAY6} counter name arrived
           }}
         }}"
    ))
}

/// Returns the packets since the last call.
fn counted(node: &Host) -> Result<u32> {
    let text = node.output("nft", ["reset", "counter", "inet", "astray", "arrived"])?;
    let mut words = text.split_whitespace();
    let number = words.by_ref().skip_while(|word| *word != "packets").nth(1);
    let number = number.with_context(|| format!("no number in {text}"))?;
    number.parse().with_context(|| text.clone())
}

fn send_one(client: &Host, to: IpAddr) -> Result<()> {
    client.inside(|| {
        let any = match to {
            IpAddr::V4(_) => "0.0.0.0:0",
            IpAddr::V6(_) => "[::]:0",
        };
        let socket = UdpSocket::bind(any).context("bind")?;
        socket.send_to(b"astray", (to, 9)).context("send")?;
        Ok(())
    })
}

#[test]
fn a_packet_to_a_node_without_a_route_does_not_loop_and_its_pods_reach_the_address() {
    let mut system = System::new("uplink", Options::default()).unwrap();
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
    count(&node).unwrap();
    let node_a = &system.network.nodes[0];
    let (by, by6) = (node_a.address.addr(), node_a.address6.addr());
    let routes = format!("route add {ASTRAY} via {by}\nroute add {ASTRAY6} via {by6}");
    router.ip(&routes).unwrap();

    // Without the guard one packet comes again and again, which shows that the counter sees a loop.
    for address in [ASTRAY, ASTRAY6] {
        send_one(&client, address).unwrap();
        let mut packets = 0;
        eventually("the packet loops", || {
            packets += counted(&node)?;
            ensure!(packets > 10, "{packets} packets");
            Ok(())
        })
        .unwrap();
    }

    system.stop(NODE_ROUTER).unwrap();
    system.set_flags("node-router", &[("--uplink", "eth0")]);
    system.start(NODE_ROUTER).unwrap();
    until_ready(&system, NODE_ROUTER).unwrap();
    ensure_guarded(&system, &node, &client).unwrap();
    // By default the uplink is the interface of the default route.
    system.stop(NODE_ROUTER).unwrap();
    system.set_flags("node-router", &[("--audit-interval", "1s")]);
    system.start(NODE_ROUTER).unwrap();
    until_readyz(
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
    // With a pod of its own the node takes its share of what the router sends.
    system.start_all().unwrap();
    system.wait_until_announced(&[0, 1, 2], SOON).unwrap();
    for address in [IpAddr::from(SERVICE), SERVICE6.into()] {
        http::spread(&client, SocketAddr::new(address, 80), 30, SOON).unwrap();
    }
}

/// One packet for each address comes to the node once.
fn ensure_guarded(system: &System, node: &Host, client: &Host) -> Result<()> {
    counted(node)?;
    for address in [ASTRAY, ASTRAY6] {
        send_one(client, address)?;
        let mut packets = 0;
        eventually("the packet comes", || {
            packets += counted(node)?;
            ensure!(packets > 0, "no packet");
            Ok(())
        })?;
        // A loop of 60 hops is over before an answer of a web server.
        let server = SocketAddr::new(system.network.web_pods[0].address.into(), 80);
        http::get(client, server, SOON)?;
        packets += counted(node)?;
        ensure!(packets == 1, "{packets} packets for {address}");
    }
    Ok(())
}
