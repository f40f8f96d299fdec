//! What a network looks like, as a value: nothing here touches the kernel.

use std::fmt::{self, Display, Write as _};

use ipnet::IpNet;

/// Hosts and the links between them, in the order in which they were named.
#[derive(Debug, Default, Clone)]
pub struct Topology {
    pub(crate) hosts: Vec<Setup>,
    pub(crate) veths: Vec<[End; 2]>,
}

/// One end of a link: a host and the name of its interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    pub(crate) host: String,
    pub(crate) interface: String,
}

/// How one host is set up once its links exist.
#[derive(Debug, Default, Clone)]
pub struct Setup {
    pub(crate) name: String,
    pub(crate) ip: Vec<String>,
    pub(crate) ip6: Vec<String>,
    pub(crate) sysctls: Vec<(String, String)>,
    pub(crate) nftables: String,
}

impl Topology {
    /// An empty network.
    pub fn new() -> Self {
        Self::default()
    }

    /// The host of that name, made if it is not there yet.
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

    /// A cable between two hosts, each `(host, interface)`; both ends are up.
    /// A host that an earlier topology made is not set up a second time.
    pub fn veth(&mut self, a: (&str, &str), b: (&str, &str)) {
        let ends = [a, b].map(|(host, interface)| {
            assert!(
                interface.len() <= 15,
                "interface name too long: {interface}"
            );
            self.host(host).ip(format!("link set {interface} up"));
            End {
                host: host.to_owned(),
                interface: interface.to_owned(),
            }
        });
        self.veths.push(ends);
    }

    /// A cable from a host's `eth0` to a port of a bridge, which must exist;
    /// the port is named after the host.
    pub fn plug(&mut self, host: &str, (bridge_host, bridge): (&str, &str)) {
        self.veth((host, "eth0"), (bridge_host, host));
        self.host(bridge_host)
            .ip(format!("link set {host} master {bridge}"));
    }
}

impl Setup {
    /// A bridge, up and without ports.
    pub fn bridge(&mut self, name: &str) -> &mut Self {
        // Snooping would hold IPv6 neighbour discovery back.
        self.ip(format!("link add {name} type bridge mcast_snooping 0"))
            .ip(format!("link set {name} up"))
    }

    /// An address of an interface.
    pub fn address(&mut self, interface: &str, address: impl Into<IpNet>) -> &mut Self {
        let address = address.into();
        // An address that is still tentative cannot be bound.
        let nodad = if matches!(address, IpNet::V6(_)) {
            " nodad"
        } else {
            ""
        };
        self.ip(format!("addr add {address} dev {interface}{nodad}"))
    }

    /// A route in the words of `ip route add`, of either family.
    pub fn route(&mut self, route: impl Display) -> &mut Self {
        self.ip(format!("route add {route}"))
    }

    /// Any other line that `ip -batch` understands.
    pub fn ip(&mut self, command: impl Into<String>) -> &mut Self {
        self.ip.push(command.into());
        self
    }

    /// A line that `ip -6 -batch` understands: for what has no address that tells the IP version.
    pub fn ip6(&mut self, command: impl Into<String>) -> &mut Self {
        self.ip6.push(command.into());
        self
    }

    /// A sysctl below `net/`, for instance `ipv4/ip_forward`.
    pub fn sysctl(&mut self, key: &str, value: impl Display) -> &mut Self {
        self.sysctls.push((format!("net/{key}"), value.to_string()));
        self
    }

    /// Forwards packets of both families.
    pub fn forwards(&mut self) -> &mut Self {
        self.sysctl("ipv4/ip_forward", 1)
            .sysctl("ipv6/conf/all/forwarding", 1)
    }

    /// Adds to the ruleset that `nft` loads.
    pub fn nftables(&mut self, rules: &str) -> &mut Self {
        self.nftables.push_str(rules);
        self
    }
}

/// What `ip -batch` reads to make the links, outside all of the namespaces.
pub(crate) fn veth_batch(veths: &[[End; 2]]) -> String {
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

    fn check(topology: &Topology, expected: &str) {
        let lines: Vec<_> = expected.lines().map(str::trim).collect();
        assert_eq!(topology.to_string().trim_end(), lines.join("\n").trim());
    }

    #[test]
    fn a_plugged_host_is_a_port_of_the_bridge() {
        let mut topology = Topology::new();
        topology.host("node").bridge("pods").forwards();
        topology.plug("web-1", ("node", "pods"));
        check(
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
    fn an_ipv6_address_is_usable_at_once() {
        let mut topology = Topology::new();
        topology
            .host("a")
            .address("eth0", "fd00::1/64".parse::<IpNet>().unwrap())
            .address("eth0", "10.0.0.1/24".parse::<IpNet>().unwrap())
            .route("default via fd00::2")
            .route("default via 10.0.0.2");
        check(
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
