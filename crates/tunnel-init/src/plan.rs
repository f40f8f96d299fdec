//! What a web pod must have. Pure.

use std::{collections::BTreeSet, fmt};

use ipnet::IpNet;
use virtual_server::ServiceRange;

/// A kind of tunnel, by the family of both the packets in it and around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tunnel {
    /// IPv4 in IPv4.
    Ipip,
    /// IPv6 in IPv6.
    Ip6Tnl,
}

impl Tunnel {
    /// The device that the kernel itself makes in each network namespace, and that takes what is
    /// sent by anybody.
    pub fn device(self) -> &'static str {
        match self {
            Self::Ipip => "tunl0",
            Self::Ip6Tnl => "ip6tnl0",
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
        let tunnels = local.iter().map(|prefix| match prefix {
            IpNet::V4(_) => Tunnel::Ipip,
            IpNet::V6(_) => Tunnel::Ip6Tnl,
        });
        Self {
            tunnels: tunnels.collect(),
            local,
        }
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
}
