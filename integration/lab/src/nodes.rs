//! Nodes of a topology, and the pods of these nodes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::topology::{Setup, Topology};

/// The name of the bridge of a node to which the node's pods are connected.
pub const POD_BRIDGE: &str = "pods";

/// A rule of kube-proxy's nftables mode, in the forward chain of every node. The rule drops packets
/// that connection tracking finds invalid. With tunnels, no node sees both directions of a
/// connection whose real server is on another node than the lb pod. So this rule drops packets of
/// such connections, unless the connections are exempt from connection tracking.
pub const KUBE_PROXY: &str = "\
table inet kube-proxy {
  chain filter-forward {
    type filter hook forward priority filter; policy accept;
    ct state invalid counter drop
  }
}
";

/// The name and the addresses of a node, and the ranges of its pods' addresses. Address 1 of each
/// pod range belongs to the node.
#[derive(Debug, Clone)]
pub struct Node {
    /// The name of the node, of its host, and of its port on the bridge that connects the nodes.
    pub name: String,
    /// The node's address on the network of nodes, with the prefix length of the network of nodes.
    pub address: Ipv4Net,
    pub address6: Ipv6Net,
    /// The range of the addresses of the node's pods.
    pub pods: Ipv4Net,
    pub pods6: Ipv6Net,
}

/// A pod with its node and its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabPod {
    /// The name of the pod, of its host, and of its port on the node's bridge.
    pub name: String,
    /// The name of the pod's node.
    pub node: String,
    pub address: Ipv4Addr,
    pub address6: Ipv6Addr,
}

impl Node {
    /// Adds the node to a topology. `network` is the name of a host and the name of a bridge of
    /// this host, to which the node is connected. The node gets a default route to each gateway.
    pub fn add(&self, topology: &mut Topology, network: (&str, &str), gateways: [IpAddr; 2]) {
        topology.plug(&self.name, network);
        let node = topology.host(&self.name);
        node.address("eth0", self.address)
            .address("eth0", self.address6)
            .bridge(POD_BRIDGE)
            .address(POD_BRIDGE, gateway(self.pods))
            .address(POD_BRIDGE, gateway6(self.pods6))
            .forwards()
            .nftables(KUBE_PROXY);
        for gateway in gateways {
            node.route(format!("default via {gateway}"));
        }
    }

    /// Returns a pod of this node. Its addresses have the number `number` in the node's pod ranges.
    ///
    /// # Panics
    /// If `number` is less than 2, because address 1 belongs to the node.
    pub fn pod(&self, name: &str, number: u8) -> LabPod {
        assert!(number > 1, "address 1 of a pod range belongs to the node");
        LabPod {
            name: name.to_owned(),
            node: self.name.clone(),
            address: nth(self.pods, number),
            address6: nth6(self.pods6, number),
        }
    }

    /// Adds a pod of this node to a topology.
    pub fn add_pod(&self, topology: &mut Topology, pod: &LabPod) {
        topology.plug(&pod.name, (&self.name, POD_BRIDGE));
        let setup = topology.host(&pod.name);
        setup
            .address("eth0", net(pod.address, self.pods.prefix_len()))
            .address("eth0", net6(pod.address6, self.pods6.prefix_len()))
            .route(format!("default via {}", gateway(self.pods).addr()))
            .route(format!("default via {}", gateway6(self.pods6).addr()));
    }

    /// Returns the routes to the node's pods, which other hosts of the network of nodes need.
    pub fn pod_routes(&self) -> [String; 2] {
        [
            format!("{} via {}", self.pods.trunc(), self.address.addr()),
            format!("{} via {}", self.pods6.trunc(), self.address6.addr()),
        ]
    }
}

/// Prepares a web pod as a real server of the forwarding method `Tunnel`. The pod unpacks tunnelled
/// packets, accepts packets for the service ranges, and answers clients directly.
pub fn unpack_tunnels(web_pod: &mut Setup, service_ranges: &[IpNet]) {
    web_pod.ip("link set tunl0 up").ip("link set ip6tnl0 up");
    accept(web_pod, service_ranges);
    // The source of an unpacked packet is the client, and the pod's route to the client leads to
    // eth0 and not to the tunnel device. So reverse-path filters would drop the packet.
    web_pod
        .sysctl("ipv4/conf/all/rp_filter", 0)
        .sysctl("ipv4/conf/tunl0/rp_filter", 0)
        .sysctl("ipv4/conf/tunl0/accept_local", 1);
}

/// Prepares a web pod as a real server for direct routing. The pod accepts packets for the service
/// ranges, and does not answer ARP requests for the addresses of these ranges.
pub fn accept_direct(web_pod: &mut Setup, service_ranges: &[IpNet]) {
    accept(web_pod, service_ranges);
    web_pod
        .sysctl("ipv4/conf/all/arp_ignore", 1)
        .sysctl("ipv4/conf/all/arp_announce", 2);
}

/// Makes the addresses of the service ranges local to the pod, but only for packets that the pod
/// receives. Packets that the pod itself sends to a service address leave the pod.
/// docs/how-to/real-servers.md has the reasons.
fn accept(web_pod: &mut Setup, service_ranges: &[IpNet]) {
    for range in service_ranges {
        web_pod.route(format!("local {range} dev lo"));
        let rule = format!("rule add pref 5 iif lo to {range} lookup main");
        match range {
            IpNet::V4(_) => web_pod.ip(rule),
            IpNet::V6(_) => web_pod.ip6(rule),
        };
    }
    for rule in [
        "rule add pref 10 lookup local",
        "rule del pref 0 lookup local",
    ] {
        web_pod.ip(rule).ip6(rule);
    }
}

fn gateway(range: Ipv4Net) -> Ipv4Net {
    net(nth(range, 1), range.prefix_len())
}

fn gateway6(range: Ipv6Net) -> Ipv6Net {
    net6(nth6(range, 1), range.prefix_len())
}

fn nth(range: Ipv4Net, number: u8) -> Ipv4Addr {
    Ipv4Addr::from_bits(range.network().to_bits() + u32::from(number))
}

fn nth6(range: Ipv6Net, number: u8) -> Ipv6Addr {
    // The decimal digits of the number are used as hexadecimal digits of the address: pod 12 has
    // ::12.
    let written = u128::from_str_radix(&number.to_string(), 16).unwrap_or_default();
    Ipv6Addr::from_bits(range.network().to_bits() + written)
}

fn net(address: Ipv4Addr, length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(address, length)
}

fn net6(address: Ipv6Addr, length: u8) -> Ipv6Net {
    Ipv6Net::new_assert(address, length)
}
