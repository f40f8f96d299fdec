//! The reference network: a client, an upstream router, three nodes with a
//! load-balancer pod each, six web pods, two places for route reflectors.
//!
//! ```text
//! client ── router ──┬── node-a: lb-a, web-1, web-4
//! 10.0.0.10  ECMP    ├── node-b: lb-b, web-2, web-5
//!                    ├── node-c: lb-c, web-3, web-6
//!                    ├── reflector-1 10.0.1.21
//!                    └── reflector-2 10.0.1.22
//! ```
//!
//! The router, the web servers and the client run; what balances and announces
//! is for the test to start.

mod plan;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use ipnet::{Ipv4Net, Ipv6Net};

use crate::bgp::{AddPath, Peer, Program, RunningSpeaker, Speaker};
use crate::nodes::{Node, Pod};
use crate::{Host, Lab, Process, Topology, http, nginx};

/// The service range of IPv4.
pub const SERVICE_RANGE: Ipv4Net = v4([10, 1, 1, 0], 24);
/// The service range of IPv6.
pub const SERVICE_RANGE6: Ipv6Net = v6([0xfd00, 0x10, 1, 1, 0, 0, 0, 0], 64);
/// The service address that tests use first.
pub const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 1);
/// The service address that tests use first.
pub const SERVICE6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 1, 1, 0, 0, 0, 1);
/// All pods of all nodes.
pub const POD_RANGE: Ipv4Net = v4([10, 2, 0, 0], 16);
/// All pods of all nodes.
pub const POD_RANGE6: Ipv6Net = v6([0xfd00, 0x10, 2, 0, 0, 0, 0, 0], 48);
/// The network of nodes, reflectors and the router.
pub const NODE_NETWORK: Ipv4Net = v4([10, 0, 1, 0], 24);
/// The network of nodes, reflectors and the router.
pub const NODE_NETWORK6: Ipv6Net = v6([0xfd00, 0x10, 0, 1, 0, 0, 0, 0], 64);
/// The client.
pub const CLIENT: Ipv4Net = v4([10, 0, 0, 10], 24);
/// The client.
pub const CLIENT6: Ipv6Net = v6([0xfd00, 0x10, 0, 0, 0, 0, 0, 0x10], 64);
/// The router's address on the network of nodes.
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 1);
/// The router's address on the network of nodes.
pub const ROUTER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0, 1, 0, 0, 0, 1);

/// The bridge in the router's host that is the network of nodes; its ports
/// are named after the hosts.
pub const NODE_BRIDGE: &str = "nodes";

const START: Duration = Duration::from_secs(15);

const fn v4(octets: [u8; 4], length: u8) -> Ipv4Net {
    let [a, b, c, d] = octets;
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length)
}

const fn v6(segments: [u16; 8], length: u8) -> Ipv6Net {
    let [a, b, c, d, e, f, g, h] = segments;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), length)
}

/// What may differ from test to test.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many web pods there are, dealt to the nodes in turn.
    pub web_pods: u8,
    /// How web pods receive.
    pub reception: Reception,
    /// The ports of every web server.
    pub ports: Vec<u16>,
    /// The program that is the upstream router.
    pub router: Program,
    /// What the router hears beside both reflectors.
    pub router_peers: Vec<Peer>,
    /// What lb pods can do.
    pub lb_pods: LbPods,
}

/// What an lb pod is set up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LbPods {
    /// To balance, by the kernel's IPVS.
    Balance,
    /// To announce alone, which any kernel can: a stand-in takes the place of the data plane.
    Announce,
}

/// What a web pod is set up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reception {
    /// Ends tunnels, has the service ranges, answers clients directly.
    Tunnel,
    /// Has the service ranges, silently; for load balancers of its own node.
    Direct,
    /// Knows nothing of service addresses.
    Plain,
}

impl Default for Options {
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

/// The reference network, up.
#[derive(Debug)]
pub struct Reference {
    /// node-a, node-b, node-c.
    pub nodes: Vec<Node>,
    /// One a node.
    pub lb_pods: Vec<Pod>,
    /// In the order of their numbers.
    pub web_pods: Vec<Pod>,
    /// The web server of each web pod, by the pod's name.
    pub web_servers: BTreeMap<String, Process>,
    /// The upstream router's BGP speaker.
    pub router: RunningSpeaker,
    /// What is up.
    pub lab: Lab,
    options: Options,
    youngest_web_pod: u8,
}

impl Reference {
    /// Brings it up under a name, which is also that of its directory below
    /// `target/lab`; returns when every web server answers on its own node.
    pub fn bring_up(name: &str, options: Options) -> Result<Self> {
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
        let router = router.fold(self::router(), Speaker::peer);
        let router = options.router.start(&lab.host("router")?, &router)?;
        let mut reference = Self {
            nodes,
            lb_pods,
            web_pods: Vec::new(),
            web_servers: BTreeMap::new(),
            router,
            lab,
            youngest_web_pod: options.web_pods,
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

    /// The client's host.
    pub fn client(&self) -> Result<Host> {
        self.lab.host("client")
    }

    /// The upstream router's host.
    pub fn router_host(&self) -> Result<Host> {
        self.lab.host("router")
    }

    /// Host of reflector 1 or 2.
    pub fn reflector(&self, number: u8) -> Result<Host> {
        self.lab.host(&format!("reflector-{number}"))
    }

    /// The node of a pod.
    pub fn node_of(&self, pod: &Pod) -> Result<&Node> {
        self.nodes
            .iter()
            .find(|node| node.name == pod.node)
            .with_context(|| format!("{} is on no node", pod.name))
    }

    /// Adds the web pod of the next number that was never used, while everything runs; it answers on return.
    pub fn add_web_pod(&mut self) -> Result<Pod> {
        self.youngest_web_pod += 1;
        let pod = plan::web_pod(&self.nodes, self.youngest_web_pod);
        let mut topology = Topology::new();
        self.node_of(&pod)?.add_pod(&mut topology, &pod);
        plan::receive(&mut topology, &pod, self.options.reception);
        // What the node has already is not made again.
        self.lab.bring_up(&topology)?;
        self.web_pods.push(pod.clone());
        self.start_web_server(&pod)?;
        self.wait_for_web_server(&pod)?;
        Ok(pod)
    }

    /// Starts the web server of a pod, also again after its end.
    pub fn start_web_server(&mut self, pod: &Pod) -> Result<()> {
        let process = nginx::start(&self.lab.host(&pod.name)?, &self.options.ports)?;
        self.web_servers.insert(pod.name.clone(), process);
        Ok(())
    }

    /// Takes a web pod and its web server away at once.
    pub fn remove_web_pod(&mut self, pod: &Pod) -> Result<()> {
        self.web_pods.retain(|other| other != pod);
        self.web_servers.remove(&pod.name);
        self.lab.remove_host(&pod.name)
    }

    /// Waits until a pod's web server answers its node.
    pub fn wait_for_web_server(&self, pod: &Pod) -> Result<()> {
        let node = self.lab.host(&pod.node)?;
        let server = SocketAddr::new(pod.address.into(), self.options.ports[0]);
        crate::wait_for(&format!("{} answers", pod.name), START, || {
            http::get(&node, server, START).map(drop)
        })
    }

    /// Cuts a host off the network of nodes without a change of carrier that
    /// anyone could see, or plugs it in again.
    pub fn cut(&self, host: &str, is_cut: bool) -> Result<()> {
        let bridge = if is_cut {
            "nomaster".to_owned()
        } else {
            format!("master {NODE_BRIDGE}")
        };
        self.router_host()?.ip(&format!("link set {host} {bridge}"))
    }

    /// The next hops that a prefix has when all of these lb pods announce it.
    pub fn next_hops(&self, lb_pods: &[&Pod], is_v6: bool) -> Result<Vec<IpAddr>> {
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

/// Address of reflector 1 or 2.
pub fn reflector_address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 1, 20 + number)
}

/// The upstream router as a speaker: it receives all paths from both
/// reflectors, installs them and announces nothing.
pub fn router() -> Speaker {
    [1, 2]
        .into_iter()
        .fold(Speaker::new(ROUTER.into(), ROUTER), |speaker, number| {
            let peer = Peer::new(
                &format!("reflector-{number}"),
                reflector_address(number).into(),
            );
            speaker.peer(peer.add_path(AddPath::Receive))
        })
        .install_routes()
}

/// A reflector as a foreign speaker, in the place of ours.
pub fn reflector(number: u8) -> Speaker {
    let address = reflector_address(number);
    Speaker::new(address.into(), address)
        .peer(Peer::range("lb-pods", POD_RANGE.into()).client())
        .peer(
            Peer::new("router", ROUTER.into())
                .client()
                .add_path(AddPath::Send),
        )
}

/// An lb pod's announcer as a foreign speaker, in the place of ours.
pub fn announcer(node: &Node, lb_pod: &Pod) -> Speaker {
    [1, 2]
        .into_iter()
        .fold(
            Speaker::new(lb_pod.address.into(), lb_pod.address),
            |speaker, number| {
                let address = reflector_address(number);
                speaker.peer(Peer::new(&format!("reflector-{number}"), address.into()))
            },
        )
        .announce(SERVICE_RANGE.into(), node.address.addr().into())
        .announce(SERVICE_RANGE6.into(), node.address6.addr().into())
}
