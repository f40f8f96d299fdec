//! The reference network: the network that most tests, the benchmarks and the demo use.
//!
//! It has a client, an upstream router, three nodes with one lb pod each, by default six web pods,
//! and the hosts of two route reflectors.
//!
//! ```text
//! client ── router ──┬── node-a: lb-a, web-1, web-4
//! 10.0.0.10  ECMP    ├── node-b: lb-b, web-2, web-5
//!                    ├── node-c: lb-c, web-3, web-6
//!                    ├── reflector-1 10.0.1.21
//!                    └── reflector-2 10.0.1.22
//! ```
//!
//! The router and the web servers run. A test starts the load balancers, the announcers and the
//! reflectors.

mod plan;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use ipnet::{Ipv4Net, Ipv6Net};

use crate::bgp::{AddPath, ForeignPeer, ForeignSpeaker, Program, RunningSpeaker};
use crate::nodes::{LabPod, Node};
use crate::{Host, Lab, Process, Topology, http, nginx};

/// The IPv4 service range.
pub const SERVICE_RANGE: Ipv4Net = v4([10, 1, 1, 0], 24);
/// The IPv6 service range.
pub const SERVICE_RANGE6: Ipv6Net = v6([0xfd00, 0x10, 1, 1, 0, 0, 0, 0], 64);
/// The IPv4 service address that most tests use.
pub const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 1);
/// The IPv6 service address that most tests use.
pub const SERVICE6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 1, 1, 0, 0, 0, 1);
/// The range that contains the IPv4 addresses of all pods.
pub const POD_RANGE: Ipv4Net = v4([10, 2, 0, 0], 16);
/// The range that contains the IPv6 addresses of all pods.
pub const POD_RANGE6: Ipv6Net = v6([0xfd00, 0x10, 2, 0, 0, 0, 0, 0], 48);
/// The IPv4 network of the nodes, the reflectors and the router.
pub const NODE_NETWORK: Ipv4Net = v4([10, 0, 1, 0], 24);
/// The IPv6 network of the nodes, the reflectors and the router.
pub const NODE_NETWORK6: Ipv6Net = v6([0xfd00, 0x10, 0, 1, 0, 0, 0, 0], 64);
/// The client's IPv4 address, with the prefix length of its network.
pub const CLIENT: Ipv4Net = v4([10, 0, 0, 10], 24);
/// The client's IPv6 address, with the prefix length of its network.
pub const CLIENT6: Ipv6Net = v6([0xfd00, 0x10, 0, 0, 0, 0, 0, 0x10], 64);
/// The router's IPv4 address on the network of nodes.
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 1);
/// The router's IPv6 address on the network of nodes.
pub const ROUTER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0, 1, 0, 0, 0, 1);

/// The bridge in the router's host to which the nodes and the reflectors are connected. Each port
/// of the bridge has the name of the host that is connected to it.
pub const NODE_BRIDGE: &str = "nodes";

/// The longest time from the start of a web server to its first answer.
const START: Duration = Duration::from_secs(15);

const fn v4(octets: [u8; 4], length: u8) -> Ipv4Net {
    let [a, b, c, d] = octets;
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length)
}

const fn v6(segments: [u16; 8], length: u8) -> Ipv6Net {
    let [a, b, c, d, e, f, g, h] = segments;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), length)
}

/// The settings of the reference network that differ between tests.
#[derive(Debug, Clone)]
pub struct ReferenceOptions {
    /// The number of web pods. The first is on node-a, the second on node-b, the third on node-c,
    /// the fourth on node-a, and so on.
    pub web_pods: u8,
    pub reception: Reception,
    /// The ports on which every web server listens.
    pub ports: Vec<u16>,
    /// The program that runs as the upstream router's BGP speaker.
    pub router: Program,
    /// Peers of the router in addition to both reflectors.
    pub router_peers: Vec<ForeignPeer>,
    pub lb_pods: LbPods,
}

/// The purpose of the lb pods. It decides which sysctls the lab sets in the lb pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LbPods {
    /// Load balancing with the kernel's IPVS.
    Balance,
    /// Only announcing. This works on a kernel without IPVS, because a fake server replaces the
    /// data plane.
    Announce,
}

/// The way in which web pods receive packets for service addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reception {
    /// The pod unpacks packets that load balancers send through tunnels. It accepts packets for the
    /// service ranges and answers clients directly.
    Tunnel,
    /// The pod receives packets by direct routing, from the load balancer on its own node. It
    /// accepts packets for the service ranges, and does not answer ARP requests for the addresses
    /// of these ranges.
    Direct,
    /// The pod accepts only packets for its own addresses, such as masqueraded packets.
    Plain,
}

impl Default for ReferenceOptions {
    fn default() -> Self {
        Self {
            web_pods: 6,
            reception: Reception::Tunnel,
            ports: vec![80],
            router: Program::Bird,
            router_peers: Vec::new(),
            lb_pods: LbPods::Balance,
        }
    }
}

/// The reference network while it runs.
#[derive(Debug)]
pub struct Reference {
    /// The nodes node-a, node-b and node-c, in this order.
    pub nodes: Vec<Node>,
    /// The lb pods lb-a, lb-b and lb-c, one on each node.
    pub lb_pods: Vec<LabPod>,
    /// The web pods in the order of their numbers.
    pub web_pods: Vec<LabPod>,
    /// The web server of each web pod, by the pod's name.
    pub web_servers: BTreeMap<String, Process>,
    /// The BGP speaker of the upstream router.
    pub router: RunningSpeaker,
    pub lab: Lab,
    options: ReferenceOptions,
    /// The highest number that a web pod has had.
    last_web_pod: u8,
}

impl Reference {
    /// Creates the reference network. Its logs are in `target/lab/<name>`. Returns when each web
    /// server answers a request from the node of its pod.
    pub fn bring_up(name: &str, options: ReferenceOptions) -> Result<Self> {
        let mut lab = Lab::new(name)?;
        let nodes: Vec<_> = (1..=3).map(plan::node).collect();
        let lb_pods: Vec<_> = nodes
            .iter()
            .map(|node| node.pod(&node.name.replace("node", "lb"), 2))
            .collect();
        let web_pods: Vec<_> = (1..=options.web_pods)
            .map(|n| plan::web_pod(&nodes, n))
            .collect();

        lab.bring_up(&plan::topology(&nodes, &lb_pods, &web_pods, &options))?;
        let router = options.router_peers.iter().cloned();
        let router = router.fold(self::router(), ForeignSpeaker::peer);
        let router = options.router.start(&lab.host("router")?, &router)?;
        let mut reference = Self {
            nodes,
            lb_pods,
            web_pods: Vec::new(),
            web_servers: BTreeMap::new(),
            router,
            lab,
            last_web_pod: options.web_pods,
            options,
        };
        for pod in &web_pods {
            reference.start_web_server(pod)?;
        }
        reference.web_pods = web_pods;
        for pod in &reference.web_pods {
            reference.wait_for_web_server(pod)?;
        }
        Ok(reference)
    }

    /// Returns the host of the client.
    pub fn client(&self) -> Result<Host> {
        self.lab.host("client")
    }

    /// Returns the host of the upstream router.
    pub fn router_host(&self) -> Result<Host> {
        self.lab.host("router")
    }

    /// Returns the host of reflector 1 or 2.
    pub fn reflector(&self, number: u8) -> Result<Host> {
        self.lab.host(&format!("reflector-{number}"))
    }

    /// Returns the node of a pod.
    pub fn node_of(&self, pod: &LabPod) -> Result<&Node> {
        self.nodes
            .iter()
            .find(|node| node.name == pod.node)
            .with_context(|| format!("{} is on no node", pod.name))
    }

    /// Adds a web pod with a new number to the running network. Returns when the web server of the
    /// pod answers.
    pub fn add_web_pod(&mut self) -> Result<LabPod> {
        self.last_web_pod += 1;
        let pod = plan::web_pod(&self.nodes, self.last_web_pod);
        let mut topology = Topology::new();
        self.node_of(&pod)?.add_pod(&mut topology, &pod);
        plan::receive(&mut topology, &pod, self.options.reception);
        // The topology has only the pod, its link and its settings, so the call does not change
        // other settings of the node.
        self.lab.bring_up(&topology)?;
        self.web_pods.push(pod.clone());
        self.start_web_server(&pod)?;
        self.wait_for_web_server(&pod)?;
        Ok(pod)
    }

    /// Starts the web server of a pod. If the pod had a web server, it must have ended.
    pub fn start_web_server(&mut self, pod: &LabPod) -> Result<()> {
        let process = nginx::start(&self.lab.host(&pod.name)?, &self.options.ports)?;
        self.web_servers.insert(pod.name.clone(), process);
        Ok(())
    }

    /// Ends the web server of a web pod without a drain, and removes the web pod.
    pub fn remove_web_pod(&mut self, pod: &LabPod) -> Result<()> {
        self.web_pods.retain(|other| other != pod);
        self.web_servers.remove(&pod.name);
        self.lab.remove_host(&pod.name)
    }

    /// Waits until the web server of a pod answers a request from the pod's node.
    pub fn wait_for_web_server(&self, pod: &LabPod) -> Result<()> {
        let node = self.lab.host(&pod.node)?;
        let server = SocketAddr::new(pod.address.into(), self.options.ports[0]);
        crate::wait_for(&format!("{} answers", pod.name), START, || {
            http::get(&node, server, START).map(drop)
        })
    }

    /// Removes the host's port from the bridge of the network of nodes if `is_cut` is true, and
    /// adds the port to the bridge if it is false. The link of the host stays up.
    pub fn cut(&self, host: &str, is_cut: bool) -> Result<()> {
        let bridge = if is_cut {
            "nomaster".to_owned()
        } else {
            format!("master {NODE_BRIDGE}")
        };
        self.router_host()?.ip(&format!("link set {host} {bridge}"))
    }

    /// Returns the next hops that a router has for a prefix while exactly `lb_pods` announce it:
    /// the addresses of the nodes of these lb pods.
    pub fn next_hops(&self, lb_pods: &[&LabPod], is_v6: bool) -> Result<Vec<IpAddr>> {
        lb_pods
            .iter()
            .map(|pod| {
                let node = self.node_of(pod)?;
                Ok(match is_v6 {
                    false => node.address.addr().into(),
                    true => node.address6.addr().into(),
                })
            })
            .collect()
    }
}

/// Returns the address of reflector 1 or 2.
pub fn reflector_address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 1, 20 + number)
}

/// Returns the configuration of the upstream router's BGP speaker. The speaker can receive several
/// paths of one prefix from both reflectors, writes the best paths to the kernel and announces no
/// prefix.
pub fn router() -> ForeignSpeaker {
    [1, 2]
        .into_iter()
        .fold(
            ForeignSpeaker::new(ROUTER.into(), ROUTER),
            |speaker, number| {
                let peer = ForeignPeer::new(
                    &format!("reflector-{number}"),
                    reflector_address(number).into(),
                );
                speaker.peer(peer.add_path(AddPath::Receive))
            },
        )
        .install_routes()
}

/// Returns the configuration of a foreign speaker that replaces portlb's reflector 1 or 2.
pub fn reflector(number: u8) -> ForeignSpeaker {
    let address = reflector_address(number);
    ForeignSpeaker::new(address.into(), address)
        .peer(ForeignPeer::range("lb-pods", POD_RANGE.into()).client())
        .peer(
            ForeignPeer::new("router", ROUTER.into())
                .client()
                .add_path(AddPath::Send),
        )
}

/// Returns the configuration of a foreign speaker that replaces portlb's announcer in an lb pod.
pub fn announcer(node: &Node, lb_pod: &LabPod) -> ForeignSpeaker {
    [1, 2]
        .into_iter()
        .fold(
            ForeignSpeaker::new(lb_pod.address.into(), lb_pod.address),
            |speaker, number| {
                let address = reflector_address(number);
                speaker.peer(ForeignPeer::new(
                    &format!("reflector-{number}"),
                    address.into(),
                ))
            },
        )
        .announce(SERVICE_RANGE.into(), node.address.addr().into())
        .announce(SERVICE_RANGE6.into(), node.address6.addr().into())
}
