//! What a web pod must have. Pure.

use std::{collections::BTreeSet, fmt};

use ipnet::IpNet;
use virtual_server::ServiceRange;

/// `RT_TABLE_MAIN` (linux/rtnetlink.h).
const TABLE_MAIN: u8 = 254;
/// `RT_TABLE_LOCAL` (linux/rtnetlink.h).
pub(crate) const TABLE_LOCAL: u8 = 255;
/// Of the rules that send the pod's own packets out.
const OUT: u32 = 5;
/// Of the rule for the local table, behind those.
const LOCAL: u32 = 10;

/// A kind of tunnel, by the family of both the packets in it and around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tunnel {
    /// IPv4 in IPv4.
    Ipip,
    /// IPv6 in IPv6.
    Ip6Tnl,
}

impl Tunnel {
    fn of(prefix: IpNet) -> Self {
        match prefix {
            IpNet::V4(_) => Self::Ipip,
            IpNet::V6(_) => Self::Ip6Tnl,
        }
    }

    /// The device that the kernel itself makes in each network namespace, and that takes what is
    /// sent by anybody.
    pub fn device(self) -> &'static str {
        match self {
            Self::Ipip => "tunl0",
            Self::Ip6Tnl => "ip6tnl0",
        }
    }

    /// The kernel's option for routing rules of its IP version.
    pub fn rules_option(self) -> &'static str {
        match self {
            Self::Ipip => "CONFIG_IP_MULTIPLE_TABLES",
            Self::Ip6Tnl => "CONFIG_IPV6_MULTIPLE_TABLES",
        }
    }

    /// The kernel's module.
    pub fn module(self) -> &'static str {
        match self {
            Self::Ipip => "ipip",
            Self::Ip6Tnl => "ip6_tunnel",
        }
    }
}

/// A routing rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Gives the rule its IP version.
    pub tunnel: Tunnel,
    /// The kernel asks the rule of the lowest preference first.
    pub preference: u32,
    /// Only packets that this pod itself sends to this prefix; `None`: all packets.
    pub own_packets_to: Option<IpNet>,
    /// The routing table to look in.
    pub table: u8,
}

impl Rule {
    /// The kernel's own rule for the local table (net/ipv4/fib_rules.c, net/ipv6/fib6_rules.c).
    pub(crate) fn first(tunnel: Tunnel) -> Self {
        Self {
            preference: 0,
            ..Self::local(tunnel)
        }
    }

    /// Looks in the local table.
    fn local(tunnel: Tunnel) -> Self {
        Self {
            tunnel,
            preference: LOCAL,
            own_packets_to: None,
            table: TABLE_LOCAL,
        }
    }
}

/// As `ip rule` shows it.
impl fmt::Display for Rule {
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

/// All that shall be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Tunnels whose devices are up.
    pub tunnels: BTreeSet<Tunnel>,
    /// Prefixes that are local.
    pub local: BTreeSet<IpNet>,
}

impl Plan {
    /// What these ranges need.
    pub fn new(ranges: Vec<ServiceRange>) -> Self {
        let local: BTreeSet<IpNet> = ranges.into_iter().map(|range| range.prefix).collect();
        let tunnels = local.iter().map(|prefix| Tunnel::of(*prefix));
        Self {
            tunnels: tunnels.collect(),
            local,
        }
    }
}

impl Plan {
    /// The rules that replace the kernel's first one, in the order in which they are added.
    ///
    /// The ranges are local, so that the pod takes packets for any service address. The addresses of
    /// other applications are in the same ranges: a packet that this pod sends there must leave it.
    pub fn rules(&self) -> impl Iterator<Item = Rule> + '_ {
        let local = self.tunnels.iter().map(|tunnel| Rule::local(*tunnel));
        let out = self.local.iter().map(|prefix| Rule {
            tunnel: Tunnel::of(*prefix),
            preference: OUT,
            own_packets_to: Some(*prefix),
            table: TABLE_MAIN,
        });
        local.chain(out)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let devices: Vec<&str> = self.tunnels.iter().map(|tunnel| tunnel.device()).collect();
        let local: Vec<String> = self.local.iter().map(IpNet::to_string).collect();
        write!(f, "{} up; {} local", devices.join(", "), local.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(ranges: &[&str], expected: &str) {
        let ranges = ranges.iter().map(|range| range.parse().unwrap()).collect();
        assert_eq!(Plan::new(ranges).to_string(), expected);
    }

    #[test]
    fn each_family_has_a_tunnel_of_its_own() {
        check(&["10.1.1.0/24"], "tunl0 up; 10.1.1.0/24 local");
        check(&["fd00:1::/64"], "ip6tnl0 up; fd00:1::/64 local");
        check(
            &["fd00:1::/64", "10.1.2.0/24", "10.1.1.0/24", "10.1.2.0/24"],
            "tunl0, ip6tnl0 up; 10.1.1.0/24, 10.1.2.0/24, fd00:1::/64 local",
        );
    }

    #[test]
    fn own_packets_to_each_range_leave_the_pod_before_the_local_table_is_asked() {
        let ranges = ["fd00:1::/64", "10.1.1.0/24"].map(|range| range.parse().unwrap());
        let plan = Plan::new(ranges.into());
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
