//! The topology of the reference network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{
    CLIENT, CLIENT6, LbPods, NODE_BRIDGE, NODE_NETWORK, NODE_NETWORK6, ROUTER, ROUTER6, Reception,
    ReferenceOptions, SERVICE_RANGE, SERVICE_RANGE6, reflector_address, v4, v6,
};
use crate::Topology;
use crate::nodes::{LabPod, Node, accept_direct, unpack_tunnels};

pub(super) fn node(number: u8) -> Node {
    let letter = char::from(b'a' + number - 1);
    let last = u16::from(number) + 0x10;
    Node {
        name: format!("node-{letter}"),
        address: v4([10, 0, 1, 10 + number], NODE_NETWORK.prefix_len()),
        address6: v6(
            [0xfd00, 0x10, 0, 1, 0, 0, 0, last],
            NODE_NETWORK6.prefix_len(),
        ),
        pods: v4([10, 2, number, 0], 24),
        pods6: v6([0xfd00, 0x10, 2, u16::from(number), 0, 0, 0, 0], 64),
    }
}

pub(super) fn web_pod(nodes: &[Node], number: u8) -> LabPod {
    let turn = usize::from(number - 1);
    nodes[turn % nodes.len()].pod(&format!("web-{number}"), 10 + number)
}

pub(super) fn receive(topology: &mut Topology, pod: &LabPod, reception: Reception) {
    let ranges = [SERVICE_RANGE.into(), SERVICE_RANGE6.into()];
    let setup = topology.host(&pod.name);
    match reception {
        Reception::Tunnel => unpack_tunnels(setup, &ranges),
        Reception::Direct => accept_direct(setup, &ranges),
        Reception::Plain => {}
    }
}

pub(super) fn topology(
    nodes: &[Node],
    lb_pods: &[LabPod],
    web_pods: &[LabPod],
    options: &ReferenceOptions,
) -> Topology {
    let mut topology = Topology::new();
    topology
        .host("router")
        .bridge(NODE_BRIDGE)
        .address(
            NODE_BRIDGE,
            Ipv4Net::new_assert(ROUTER, NODE_NETWORK.prefix_len()),
        )
        .address(
            NODE_BRIDGE,
            Ipv6Net::new_assert(ROUTER6, NODE_NETWORK6.prefix_len()),
        )
        .forwards()
        // ECMP also hashes the ports, so that the connections of one client go to all load
        // balancers.
        .sysctl("ipv4/fib_multipath_hash_policy", 1)
        .sysctl("ipv6/fib_multipath_hash_policy", 1);
    topology.veth(("client", "eth0"), ("router", "client"));
    let (uplink, uplink6) = (first(CLIENT.into()), first(CLIENT6.into()));
    topology
        .host("router")
        .address("client", uplink)
        .address("client", uplink6);
    topology
        .host("client")
        .address("eth0", CLIENT)
        .address("eth0", CLIENT6)
        .route(format!("default via {}", uplink.addr()))
        .route(format!("default via {}", uplink6.addr()));

    let on_network = ("router", NODE_BRIDGE);
    let gateways = [ROUTER.into(), ROUTER6.into()];
    for node in nodes {
        node.add(&mut topology, on_network, gateways);
    }
    for number in [1, 2] {
        let name = format!("reflector-{number}");
        topology.plug(&name, on_network);
        let address = Ipv4Net::new_assert(reflector_address(number), NODE_NETWORK.prefix_len());
        let last = 0x20 + u16::from(number);
        let address6 = v6(
            [0xfd00, 0x10, 0, 1, 0, 0, 0, last],
            NODE_NETWORK6.prefix_len(),
        );
        let reflector = topology.host(&name);
        reflector.address("eth0", address).address("eth0", address6);
        for gateway in gateways {
            reflector.route(format!("default via {gateway}"));
        }
    }
    for node in nodes {
        let others = nodes.iter().filter(|other| other.name != node.name);
        let names = others.map(|other| other.name.as_str());
        for name in names.chain(["router", "reflector-1", "reflector-2"]) {
            for route in node.pod_routes() {
                topology.host(name).route(route);
            }
        }
        let is_on_node = |pod: &&LabPod| pod.node == node.name;
        for pod in lb_pods.iter().filter(is_on_node) {
            node.add_pod(&mut topology, pod);
            match options.lb_pods {
                LbPods::Balance => load_balance(&mut topology, pod),
                LbPods::Announce => {}
            }
        }
        for pod in web_pods.iter().filter(is_on_node) {
            node.add_pod(&mut topology, pod);
            receive(&mut topology, pod, options.reception);
        }
    }
    topology
}

/// Makes an lb pod forward packets, and sets IPVS sysctls that the manifests set in the
/// `securityContext` of an lb pod.
fn load_balance(topology: &mut Topology, pod: &LabPod) {
    topology
        .host(&pod.name)
        .forwards()
        .sysctl("ipv4/vs/sloppy_tcp", 1)
        .sysctl("ipv4/vs/expire_nodest_conn", 1)
        .sysctl("ipv4/vs/expire_quiescent_template", 1)
        .sysctl("ipv4/vs/conn_reuse_mode", 3);
}

fn first(range: IpNet) -> IpNet {
    let address = match range.network() {
        IpAddr::V4(network) => IpAddr::V4(Ipv4Addr::from_bits(network.to_bits() + 1)),
        IpAddr::V6(network) => IpAddr::V6(Ipv6Addr::from_bits(network.to_bits() + 1)),
    };
    IpNet::new_assert(address, range.prefix_len())
}
