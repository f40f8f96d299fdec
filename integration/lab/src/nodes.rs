//! Nodes with a bridge for their pods, and the pods on them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::topology::{Setup, Topology};

/// The bridge of a node that its pods hang on.
pub const POD_BRIDGE: &str = "pods";

/// What kube-proxy's nftables mode has in the forward chain of every node, and
/// what breaks direct return where no node sees both directions.
pub const KUBE_PROXY: &str = "\
table inet kube-proxy {
  chain filter-forward {
    type filter hook forward priority filter; policy accept;
    ct state invalid counter drop
  }
}
";

/// A node: where it is on the network of nodes, and which addresses its pods
/// have. The first address of a pod range is the node's own.
#[derive(Debug, Clone)]
pub struct Node {
    /// Also the name of its host and of its port on the network of nodes.
    pub name: String,
    /// On the network of nodes.
    pub address: Ipv4Net,
    /// On the network of nodes.
    pub address6: Ipv6Net,
    /// Its pods.
    pub pods: Ipv4Net,
    /// Its pods.
    pub pods6: Ipv6Net,
}

/// A pod and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Also the name of its host and of its port on the node's bridge.
    pub name: String,
    /// The node's name.
    pub node: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its address.
    pub address6: Ipv6Addr,
}

impl Node {
    /// Adds the node to a topology: on the bridge of another host, with
    /// default routes by its gateways.
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

    /// Where its pod number `number` is; 1 is the node itself.
    pub fn pod(&self, name: &str, number: u8) -> Pod {
        assert!(
            number > 1,
            "the first address of the pod range is the node's"
        );
        Pod {
            name: name.to_owned(),
            node: self.name.clone(),
            address: nth(self.pods, number),
            address6: nth6(self.pods6, number),
        }
    }

    /// Adds a pod of this node to a topology.
    pub fn add_pod(&self, topology: &mut Topology, pod: &Pod) {
        topology.plug(&pod.name, (&self.name, POD_BRIDGE));
        let setup = topology.host(&pod.name);
        setup
            .address("eth0", net(pod.address, self.pods.prefix_len()))
            .address("eth0", net6(pod.address6, self.pods6.prefix_len()))
            .route(format!("default via {}", gateway(self.pods).addr()))
            .route(format!("default via {}", gateway6(self.pods6).addr()));
    }

    /// Routes to the node's pods, for another host of the network of nodes.
    pub fn pod_routes(&self) -> [String; 2] {
        [
            format!("{} via {}", self.pods.trunc(), self.address.addr()),
            format!("{} via {}", self.pods6.trunc(), self.address6.addr()),
        ]
    }
}

/// A real server behind tunnels: it unpacks what load balancers send, accepts
/// the service ranges as its own and answers the client directly.
pub fn unpack_tunnels(web_pod: &mut Setup, service_ranges: &[IpNet]) {
    web_pod.ip("link set tunl0 up").ip("link set ip6tnl0 up");
    accept(web_pod, service_ranges);
    // The inner packet's source is reached by eth0, not by the tunnel.
    web_pod
        .sysctl("ipv4/conf/all/rp_filter", 0)
        .sysctl("ipv4/conf/tunl0/rp_filter", 0)
        .sysctl("ipv4/conf/tunl0/accept_local", 1);
}

/// A real server for direct routing: it accepts the service ranges and keeps
/// silent when its network asks who has them.
pub fn accept_direct(web_pod: &mut Setup, service_ranges: &[IpNet]) {
    accept(web_pod, service_ranges);
    web_pod
        .sysctl("ipv4/conf/all/arp_ignore", 1)
        .sysctl("ipv4/conf/all/arp_announce", 2);
}

/// Makes the ranges local, and sends the pod's own packets to them out, as docs/how-to/real-servers.md says.
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
    // As it is read: pod 12 is ::12.
    let written = u128::from_str_radix(&number.to_string(), 16).unwrap_or_default();
    Ipv6Addr::from_bits(range.network().to_bits() + written)
}

fn net(address: Ipv4Addr, length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(address, length)
}

fn net6(address: Ipv6Addr, length: u8) -> Ipv6Net {
    Ipv6Net::new_assert(address, length)
}
