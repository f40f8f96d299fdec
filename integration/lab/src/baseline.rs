//! The work of portlb's daemons, done with `ip`, `ipvsadm` and `nft`.
//!
//! Benchmarks use these functions for the setup to which they compare portlb. The tests of the lab
//! use them for a data path without any daemon of portlb.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use ipnet::IpNet;

use crate::Host;
use crate::nodes::LabPod;

/// Adds local routes for the service ranges to an lb pod, so that IPVS receives packets for the
/// addresses of these ranges.
pub fn accept(lb_pod: &Host, ranges: &[IpNet]) -> Result<()> {
    let routes: String = ranges.iter().fold(String::new(), |mut text, range| {
        let _ = writeln!(text, "route add local {range} dev lo");
        text
    });
    lb_pod.ip(&routes)
}

/// The forwarding method of a virtual server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarding {
    /// A tunnel of the kind `ipip`.
    Tunnel,
    /// Direct routing: packets go to the real server's link-layer address, so the real server must
    /// be on the lb pod's own link.
    Direct,
}

/// Adds a virtual server with real servers of weight 1 to the kernel's IPVS table. The scheduler is
/// `mh` with the flags `mh-port` and `mh-fallback`.
pub fn balance(
    lb_pod: &Host,
    service: SocketAddr,
    forwarding: Forwarding,
    real_servers: &[LabPod],
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

/// Adds routes to a node that lead the service ranges to the lb pod on this node.
pub fn route(node: &Host, ranges: &[IpNet], lb_pod: &LabPod) -> Result<()> {
    let routes = ranges.iter().fold(String::new(), |mut text, range| {
        let _ = match range {
            IpNet::V4(_) => writeln!(text, "route replace {range} via {}", lb_pod.address),
            IpNet::V6(_) => writeln!(text, "route replace {range} via {}", lb_pod.address6),
        };
        text
    });
    node.ip(&routes)
}

/// Exempts packets from and to the service ranges from the connection tracking of a node.
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
    node.nft(&format!("table inet baseline {{\n{rules}}}\n"))
}
