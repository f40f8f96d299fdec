//! Where everything of the cluster is.
//!
//! ```text
//! client ── router ──┬── n1 10.200.0.11: pods 10.244.1.0/24
//! 10.100.0.10  BIRD  ├── n2 10.200.0.12: pods 10.244.2.0/24
//!              ECMP  └── n3 10.200.0.13: pods 10.244.3.0/24
//!               │
//!            control 10.201.0.1: etcd, API server, controllers, scheduler
//! ```
//!
//! The addresses are those of the overlay `flat-l2`, so that it is applied as
//! it stands.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;

use crate::Topology;
use crate::bgp::{AddPath, Peer, Speaker};
use crate::kubernetes::outside;

/// How many nodes there are.
pub const NODES: u8 = 3;
/// The upstream router's autonomous system, and that of the load balancers.
pub const ASN: u32 = 64512;
/// The router on the network of nodes.
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 1);
/// Cluster DNS.
pub const DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// All pods of all nodes.
pub const PODS: &str = "10.244.0.0/16";

/// The lab's host that is the router.
pub(super) const ROUTER_HOST: &str = "router";
const LENGTH: u8 = 24;
const BRIDGE: &str = "nodes";
const CLIENT: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 100, 0, 10), LENGTH);
const UPLINK: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 100, 0, 1), LENGTH);

/// Name of a node; they count from 1.
pub(super) fn name(number: u8) -> String {
    format!("n{number}")
}

/// Address of a node.
pub fn node_address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 200, 0, 10 + number)
}

/// The pods of a node.
pub(super) fn pods(number: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(10, 244, number, 0), LENGTH)
}

pub(super) fn topology() -> Topology {
    let on_network = |address| Ipv4Net::new_assert(address, LENGTH);
    let mut topology = Topology::new();
    topology
        .host(ROUTER_HOST)
        .bridge(BRIDGE)
        .address(BRIDGE, on_network(ROUTER))
        .forwards()
        // By ports, too: the connections of one client are spread.
        .sysctl("ipv4/fib_multipath_hash_policy", 1);
    topology.veth(("client", "eth0"), (ROUTER_HOST, "client"));
    topology.host(ROUTER_HOST).address("client", UPLINK);
    topology
        .host("client")
        .address("eth0", CLIENT)
        .route(format!("default via {}", UPLINK.addr()))
        // Each request takes a port of its own, and keeps it for a minute.
        .sysctl("ipv4/ip_local_port_range", "1024 65535");

    outside::plug(&mut topology, ROUTER_HOST);
    for number in 1..=NODES {
        let name = name(number);
        topology.plug(&name, (ROUTER_HOST, BRIDGE));
        topology
            .host(&name)
            .address("eth0", on_network(node_address(number)))
            .route(format!("default via {ROUTER}"))
            .forwards();
    }
    for number in 1..=NODES {
        let route = format!("{} via {}", pods(number), node_address(number));
        let others = (1..=NODES).filter(|other| *other != number).map(name);
        for host in others.chain([ROUTER_HOST.to_owned()]) {
            topology.host(&host).route(&route);
        }
    }
    topology
}

/// The upstream router: reflectors dial it from their pods.
pub(super) fn router() -> Speaker {
    let pods = PODS.parse().expect("the pod range is a prefix");
    let mut speaker = Speaker::new(IpAddr::V4(ROUTER), ROUTER);
    speaker.asn = ASN;
    let mut reflectors = Peer::range("reflectors", pods).add_path(AddPath::Receive);
    reflectors.asn = ASN;
    speaker.peer(reflectors).install_routes()
}
