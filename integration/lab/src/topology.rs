//! The description of a network, as a value. It has no effect on the kernel.

use std::fmt::{self, Display, Write as _};

use ipnet::IpNet;

/// A description of hosts and of the links between them, in the order in which they were added.
#[derive(Debug, Default, Clone)]
pub struct Topology {
    pub(crate) hosts: Vec<Setup>,
    pub(crate) veths: Vec<[LinkEnd; 2]>,
}

/// One end of a link: the names of the host and of its interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkEnd {
    pub(crate) host: String,
    pub(crate) interface: String,
}

/// The commands and settings of one host, which the lab applies after it has created the host's
/// links.
#[derive(Debug, Default, Clone)]
pub struct Setup {
    pub(crate) name: String,
    pub(crate) ip: Vec<String>,
    pub(crate) ip6: Vec<String>,
    pub(crate) sysctls: Vec<(String, String)>,
    pub(crate) nftables: String,
}

impl Topology {
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the host with this name. Adds the host if the topology does not have it.
    pub fn host(&mut self, name: &str) -> &mut Setup {
        let index = match self.hosts.iter().position(|host| host.name == name) {
            Some(index) => index,
            None => {
                self.hosts.push(Setup {
                    name: name.to_owned(),
                    ip: vec!["link set lo up".to_owned()],
                    ..Setup::default()
                });
                self.hosts.len() - 1
            }
        };
        &mut self.hosts[index]
    }

    /// Adds a link between two hosts. Each end is `(host, interface)`, and the lab sets both
    /// interfaces up.
    ///
    /// # Panics
    /// If the name of an interface has more than 15 characters.
    pub fn veth(&mut self, a: (&str, &str), b: (&str, &str)) {
        let ends = [a, b].map(|(host, interface)| {
            assert!(
                interface.len() <= 15,
                "interface name {interface} has more than 15 characters"
            );
            self.host(host).ip(format!("link set {interface} up"));
            LinkEnd {
                host: host.to_owned(),
                interface: interface.to_owned(),
            }
        });
        self.veths.push(ends);
    }

    /// Adds a link from `eth0` of `host` to a new port of a bridge. The topology or the running lab
    /// must have the bridge. The port has the name of `host`.
    pub fn plug(&mut self, host: &str, (bridge_host, bridge): (&str, &str)) {
        self.veth((host, "eth0"), (bridge_host, host));
        self.host(bridge_host)
            .ip(format!("link set {host} master {bridge}"));
    }
}

impl Setup {
    /// Adds a bridge without ports.
    pub fn bridge(&mut self, name: &str) -> &mut Self {
        // Multicast snooping would delay IPv6 neighbour discovery, so it is off.
        self.ip(format!("link add {name} type bridge mcast_snooping 0"))
            .ip(format!("link set {name} up"))
    }

    /// Adds an address to an interface.
    pub fn address(&mut self, interface: &str, address: impl Into<IpNet>) -> &mut Self {
        let address = address.into();
        // With duplicate address detection the address would be tentative at first, and a bind to
        // the address would fail.
        let nodad = if matches!(address, IpNet::V6(_)) {
            " nodad"
        } else {
            ""
        };
        self.ip(format!("addr add {address} dev {interface}{nodad}"))
    }

    /// Adds an IPv4 or IPv6 route, in the syntax of `ip route add`.
    pub fn route(&mut self, route: impl Display) -> &mut Self {
        self.ip(format!("route add {route}"))
    }

    /// Adds a line for `ip -batch`.
    pub fn ip(&mut self, command: impl Into<String>) -> &mut Self {
        self.ip.push(command.into());
        self
    }

    /// Adds a line for `ip -6 -batch`. IPv6 commands need `-6` if no address in them shows the IP
    /// version.
    pub fn ip6(&mut self, command: impl Into<String>) -> &mut Self {
        self.ip6.push(command.into());
        self
    }

    /// Sets a sysctl below `net/`, such as `ipv4/ip_forward`.
    pub fn sysctl(&mut self, key: &str, value: impl Display) -> &mut Self {
        self.sysctls.push((format!("net/{key}"), value.to_string()));
        self
    }

    /// Makes the host forward IPv4 and IPv6 packets.
    pub fn forwards(&mut self) -> &mut Self {
        self.sysctl("ipv4/ip_forward", 1)
            .sysctl("ipv6/conf/all/forwarding", 1)
    }

    /// Adds rules to the nftables rules that the lab loads on this host.
    pub fn nftables(&mut self, rules: &str) -> &mut Self {
        self.nftables.push_str(rules);
        self
    }
}

/// Returns the lines for `ip -batch` that create the links. The lab runs the command outside of the
/// namespaces of the hosts.
pub(crate) fn veth_batch(veths: &[[LinkEnd; 2]]) -> String {
    let mut batch = String::new();
    for [a, b] in veths {
        let _ = writeln!(
            batch,
            "link add name {} netns {} type veth peer name {} netns {}",
            a.interface, a.host, b.interface, b.host
        );
    }
    batch
}

impl Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&veth_batch(&self.veths))?;
        for host in &self.hosts {
            writeln!(f, "[{}]", host.name)?;
            for line in &host.ip {
                writeln!(f, "{line}")?;
            }
            for (key, value) in &host.sysctls {
                writeln!(f, "sysctl {key}={value}")?;
            }
            f.write_str(&host.nftables)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_text(topology: &Topology, expected: &str) {
        let lines: Vec<_> = expected.lines().map(str::trim).collect();
        assert_eq!(topology.to_string().trim_end(), lines.join("\n").trim());
    }

    #[test]
    fn plug_connects_a_host_to_a_port_of_the_bridge() {
        let mut topology = Topology::new();
        topology.host("node").bridge("pods").forwards();
        topology.plug("web-1", ("node", "pods"));
        assert_text(
            &topology,
            "link add name eth0 netns web-1 type veth peer name web-1 netns node
             [node]
             link set lo up
             link add pods type bridge mcast_snooping 0
             link set pods up
             link set web-1 up
             link set web-1 master pods
             sysctl net/ipv4/ip_forward=1
             sysctl net/ipv6/conf/all/forwarding=1
             [web-1]
             link set lo up
             link set eth0 up",
        );
    }

    #[test]
    fn an_ipv6_address_is_added_without_duplicate_address_detection() {
        let mut topology = Topology::new();
        topology
            .host("a")
            .address("eth0", "fd00::1/64".parse::<IpNet>().unwrap())
            .address("eth0", "10.0.0.1/24".parse::<IpNet>().unwrap())
            .route("default via fd00::2")
            .route("default via 10.0.0.2");
        assert_text(
            &topology,
            "[a]
             link set lo up
             addr add fd00::1/64 dev eth0 nodad
             addr add 10.0.0.1/24 dev eth0
             route add default via fd00::2
             route add default via 10.0.0.2",
        );
    }
}
