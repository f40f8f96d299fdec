//! Plan of the devices, routes and rules of a web pod.

use std::{collections::BTreeSet, fmt};

use ipnet::IpNet;
use virtual_server::ServiceRange;

/// Number of the table `main`: `RT_TABLE_MAIN` (linux/rtnetlink.h).
const TABLE_MAIN: u8 = 254;
/// Number of the table `local`: `RT_TABLE_LOCAL` (linux/rtnetlink.h).
pub(crate) const TABLE_LOCAL: u8 = 255;
/// Preference of the rules by which the pod's own packets to service addresses leave the pod.
const OWN_PACKETS_PREFERENCE: u32 = 5;
/// Preference of the rule for the local table. Higher than [`OWN_PACKETS_PREFERENCE`], so the
/// kernel evaluates this rule later.
const LOCAL_TABLE_PREFERENCE: u32 = 10;

/// A kind of tunnel. The inner and the outer packets have the same IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tunnel {
    Ipip,
    Ip6Tnl,
}

impl Tunnel {
    fn of(prefix: IpNet) -> Self {
        match prefix {
            IpNet::V4(_) => Self::Ipip,
            IpNet::V6(_) => Self::Ip6Tnl,
        }
    }

    /// Returns the name of the fallback tunnel device. The kernel creates this device in each
    /// network namespace, and the device accepts tunnel packets from every sender.
    pub fn device(self) -> &'static str {
        match self {
            Self::Ipip => "tunl0",
            Self::Ip6Tnl => "ip6tnl0",
        }
    }

    /// Returns the kernel option that enables routing rules of the IP version of this tunnel.
    pub fn rules_option(self) -> &'static str {
        match self {
            Self::Ipip => "CONFIG_IP_MULTIPLE_TABLES",
            Self::Ip6Tnl => "CONFIG_IPV6_MULTIPLE_TABLES",
        }
    }

    pub fn module(self) -> &'static str {
        match self {
            Self::Ipip => "ipip",
            Self::Ip6Tnl => "ip6_tunnel",
        }
    }
}

/// A routing rule in the network namespace of a web pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodRoutingRule {
    /// Tunnel whose IP version is the IP version of this rule.
    pub tunnel: Tunnel,
    /// The kernel evaluates the rule with the lowest preference first.
    pub preference: u32,
    /// Restricts the rule to packets that this pod sends to this prefix. `None`: the rule matches
    /// all packets.
    pub own_packets_to: Option<IpNet>,
    /// Number of the routing table in which the kernel looks up the route.
    pub table: u8,
}

impl PodRoutingRule {
    /// Returns the rule for the local table that the kernel creates with each network namespace
    /// (net/ipv4/fib_rules.c, net/ipv6/fib6_rules.c).
    pub(crate) fn of_kernel(tunnel: Tunnel) -> Self {
        Self {
            preference: 0,
            ..Self::local(tunnel)
        }
    }

    /// Returns the rule for the local table with which this program replaces the kernel's rule.
    fn local(tunnel: Tunnel) -> Self {
        Self {
            tunnel,
            preference: LOCAL_TABLE_PREFERENCE,
            own_packets_to: None,
            table: TABLE_LOCAL,
        }
    }
}

/// Formats the rule in the syntax of `ip rule`.
impl fmt::Display for PodRoutingRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.preference)?;
        if let Some(prefix) = self.own_packets_to {
            write!(f, "to {prefix} iif lo ")?;
        }
        match self.table {
            TABLE_LOCAL => write!(f, "lookup local"),
            TABLE_MAIN => write!(f, "lookup main"),
            other => write!(f, "lookup {other}"),
        }
    }
}

/// Devices, routes and rules that a web pod needs. The rules follow from the devices and routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelPlan {
    /// Tunnels with a device that must be up.
    pub tunnels: BTreeSet<Tunnel>,
    /// Prefixes that need a local route.
    pub local: BTreeSet<IpNet>,
}

impl TunnelPlan {
    /// Returns the plan for these service ranges.
    pub fn new(ranges: Vec<ServiceRange>) -> Self {
        let local: BTreeSet<IpNet> = ranges.into_iter().map(|range| range.prefix).collect();
        let tunnels = local.iter().map(|prefix| Tunnel::of(*prefix));
        Self {
            tunnels: tunnels.collect(),
            local,
        }
    }
}

impl TunnelPlan {
    /// Returns the rules that replace the kernel's rules for the local table (one for each IP
    /// version), in the order in which they are added.
    ///
    /// The service ranges are local prefixes, so that the pod accepts packets for every service
    /// address. Service addresses of other applications are in the same ranges, and packets of this
    /// pod to these addresses must leave the pod.
    pub fn rules(&self) -> impl Iterator<Item = PodRoutingRule> + '_ {
        let local = self
            .tunnels
            .iter()
            .map(|tunnel| PodRoutingRule::local(*tunnel));
        let out = self.local.iter().map(|prefix| PodRoutingRule {
            tunnel: Tunnel::of(*prefix),
            preference: OWN_PACKETS_PREFERENCE,
            own_packets_to: Some(*prefix),
            table: TABLE_MAIN,
        });
        local.chain(out)
    }
}

impl fmt::Display for TunnelPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let devices: Vec<&str> = self.tunnels.iter().map(|tunnel| tunnel.device()).collect();
        let local: Vec<String> = self.local.iter().map(IpNet::to_string).collect();
        write!(
            f,
            "tunnel devices up: {}; local routes: {}",
            devices.join(", "),
            local.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(ranges: &[&str], expected: &str) {
        let ranges = ranges.iter().map(|range| range.parse().unwrap()).collect();
        assert_eq!(TunnelPlan::new(ranges).to_string(), expected);
    }

    #[test]
    fn each_ip_version_has_its_own_tunnel_device() {
        check(
            &["10.1.1.0/24"],
            "tunnel devices up: tunl0; local routes: 10.1.1.0/24",
        );
        check(
            &["fd00:1::/64"],
            "tunnel devices up: ip6tnl0; local routes: fd00:1::/64",
        );
        check(
            &["fd00:1::/64", "10.1.2.0/24", "10.1.1.0/24", "10.1.2.0/24"],
            "tunnel devices up: tunl0, ip6tnl0; local routes: 10.1.1.0/24, 10.1.2.0/24, fd00:1::/64",
        );
    }

    #[test]
    fn rules_for_own_packets_come_before_the_rule_for_the_local_table() {
        let ranges = ["fd00:1::/64", "10.1.1.0/24"].map(|range| range.parse().unwrap());
        let plan = TunnelPlan::new(ranges.into());
        let rules: Vec<String> = plan.rules().map(|rule| rule.to_string()).collect();
        assert_eq!(
            rules,
            [
                "10: lookup local",
                "10: lookup local",
                "5: to 10.1.1.0/24 iif lo lookup main",
                "5: to fd00:1::/64 iif lo lookup main",
            ]
        );
    }
}
