//! What the daemons do, done by hand: the paper's side of benchmarks, and the
//! tests of the lab itself.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use ipnet::IpNet;

use crate::Host;
use crate::nodes::Pod;

/// Makes ranges local to an lb pod, so that IPVS sees what is sent there.
pub fn accept(lb_pod: &Host, ranges: &[IpNet]) -> Result<()> {
    let routes: String = ranges.iter().fold(String::new(), |mut text, range| {
        let _ = writeln!(text, "route add local {range} dev lo");
        text
    });
    lb_pod.ip(&routes)
}

/// How a virtual server's real servers are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarding {
    /// In an ipip tunnel.
    Tunnel,
    /// By their link address, on the lb pod's own network.
    Direct,
}

/// One virtual server with `mh` and both of its flags.
pub fn balance(
    lb_pod: &Host,
    service: SocketAddr,
    forwarding: Forwarding,
    real_servers: &[Pod],
) -> Result<()> {
    let method = match forwarding {
        Forwarding::Tunnel => "-i",
        Forwarding::Direct => "-g",
    };
    let mut entries = format!("-A -t {service} -s mh -b mh-port,mh-fallback\n");
    for pod in real_servers {
        let address: IpAddr = match service {
            SocketAddr::V4(_) => pod.address.into(),
            SocketAddr::V6(_) => pod.address6.into(),
        };
        let real_server = SocketAddr::new(address, service.port());
        let _ = writeln!(entries, "-a -t {service} -r {real_server} {method} -w 1");
    }
    lb_pod.ipvs(&entries)
}

/// The node's routes of ranges to its lb pod.
pub fn route(node: &Host, ranges: &[IpNet], lb_pod: &Pod) -> Result<()> {
    let routes = ranges.iter().fold(String::new(), |mut text, range| {
        let _ = match range {
            IpNet::V4(_) => writeln!(text, "route replace {range} via {}", lb_pod.address),
            IpNet::V6(_) => writeln!(text, "route replace {range} via {}", lb_pod.address6),
        };
        text
    });
    node.ip(&routes)
}

/// Keeps ranges out of a node's connection tracking, both ways.
pub fn exempt(node: &Host, ranges: &[IpNet]) -> Result<()> {
    let mut rules = String::new();
    for hook in ["prerouting", "output"] {
        let _ = writeln!(
            rules,
            "  chain {hook} {{\n    type filter hook {hook} priority raw; policy accept;"
        );
        for range in ranges {
            let family = if matches!(range, IpNet::V6(_)) {
                "ip6"
            } else {
                "ip"
            };
            let _ = writeln!(rules, "    {family} daddr {range} notrack");
            let _ = writeln!(rules, "    {family} saddr {range} notrack");
        }
        rules.push_str("  }\n");
    }
    node.nft(&format!("table inet by-hand {{\n{rules}}}\n"))
}
