//! The network of the cluster.
//!
//! ```text
//! client ── router ──┬── n1 10.200.0.11: pods 10.244.1.0/24
//! 10.100.0.10  BIRD  ├── n2 10.200.0.12: pods 10.244.2.0/24
//!              ECMP  └── n3 10.200.0.13: pods 10.244.3.0/24
//!               │
//!            control 10.201.0.1: etcd, API server, controllers, scheduler
//! ```
//!
//! The addresses are the addresses of the overlay `flat-l2`, so that the tests apply this overlay
//! without changes.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;

use crate::Topology;
use crate::bgp::{AddPath, ForeignPeer, ForeignSpeaker};
use crate::kubernetes::control_plane_host;

/// The number of nodes.
pub const NODES: u8 = 3;
/// The autonomous system of the upstream router, the reflectors and the load balancers.
pub const ASN: u32 = 64512;
/// The upstream router's address on the network of nodes.
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 1);
/// The ClusterIP of cluster DNS.
pub const DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// The range that contains the addresses of all pods.
pub const PODS: &str = "10.244.0.0/16";

/// The name of the upstream router's host in the lab.
pub(super) const ROUTER_HOST: &str = "router";
const LENGTH: u8 = 24;
const BRIDGE: &str = "nodes";
const CLIENT: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 100, 0, 10), LENGTH);
const UPLINK: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 100, 0, 1), LENGTH);

/// Returns the name of the node with this number. Numbers begin with 1.
pub(super) fn name(number: u8) -> String {
    format!("n{number}")
}

/// Returns the address of the node with this number. Numbers begin with 1.
pub fn node_address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 200, 0, 10 + number)
}

/// Returns the range of the pod addresses of the node with this number.
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
        // ECMP also hashes the ports, so that the connections of one client go to all load
        // balancers.
        .sysctl("ipv4/fib_multipath_hash_policy", 1);
    topology.veth(("client", "eth0"), (ROUTER_HOST, "client"));
    topology.host(ROUTER_HOST).address("client", UPLINK);
    topology
        .host("client")
        .address("eth0", CLIENT)
        .route(format!("default via {}", UPLINK.addr()))
        // The client needs many source ports, because each request uses a new port, and TCP keeps a
        // used port for a minute (TIME_WAIT).
        .sysctl("ipv4/ip_local_port_range", "1024 65535");

    control_plane_host::plug(&mut topology, ROUTER_HOST);
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

/// Returns the configuration of the upstream router. The reflectors connect to the router from
/// their pods.
pub(super) fn router() -> ForeignSpeaker {
    let pods = PODS.parse().expect("PODS is a valid prefix");
    let mut speaker = ForeignSpeaker::new(IpAddr::V4(ROUTER), ROUTER);
    speaker.asn = ASN;
    let mut reflectors = ForeignPeer::range("reflectors", pods).add_path(AddPath::Receive);
    reflectors.asn = ASN;
    speaker.peer(reflectors).install_routes()
}
