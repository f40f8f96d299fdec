//! Sysctls that forwarding depends on: which, and what it costs to go without. Pure.

use std::net::IpAddr;

use virtual_server::{Protocol, VirtualServer};

use crate::firewall::is_masquerade;

/// A sysctl and the value it should have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sysctl {
    /// Path under `/proc/sys`.
    pub name: &'static str,
    /// The wanted value.
    pub value: &'static str,
    /// What is lost with another value.
    pub cost: &'static str,
}

/// What the virtual servers demand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Replies of IPv4 real servers return through the pod.
    pub masquerade_v4: bool,
    /// Replies of IPv6 real servers return through the pod.
    pub masquerade_v6: bool,
    /// Real servers leave by removal, with clients that keep their port.
    pub udp: bool,
}

const ALWAYS: [Sysctl; 5] = [
    Sysctl {
        name: "net/ipv4/vs/sloppy_tcp",
        value: "1",
        cost: "established connections that move here from another load balancer break",
    },
    Sysctl {
        name: "net/ipv4/vs/conn_reuse_mode",
        value: "3",
        cost: "a client that uses a port again soon may be sent to a quiesced real server",
    },
    EXPIRE_NODEST_CONN,
    Sysctl {
        name: "net/ipv4/vs/expire_quiescent_template",
        value: "1",
        cost: "persistent clients keep being sent to a quiesced real server",
    },
    Sysctl {
        name: "net/ipv4/vs/pmtu_disc",
        value: "1",
        cost: "packets too large for the tunnel are not reported to their sender",
    },
];

const EXPIRE_NODEST_CONN: Sysctl = Sysctl {
    name: "net/ipv4/vs/expire_nodest_conn",
    value: "1",
    cost: "connections to a removed real server hang until the client gives up, and with UDP a \
           client that keeps its port is never answered again",
};
const MASQUERADE: Sysctl = Sysctl {
    name: "net/ipv4/vs/conntrack",
    value: "1",
    cost: "virtual servers with Masquerade are not answered",
};
const FORWARD_V4: Sysctl = Sysctl {
    name: "net/ipv4/ip_forward",
    value: "1",
    cost: "IPv4 virtual servers with Masquerade are not answered",
};
const FORWARD_V6: Sysctl = Sysctl {
    name: "net/ipv6/conf/all/forwarding",
    value: "1",
    cost: "IPv6 virtual servers with Masquerade are not answered",
};

/// The sysctls that matter.
pub fn wanted(needs: Needs) -> Vec<Sysctl> {
    let others = essential(needs).into_iter();
    let others = others.filter(|sysctl| !ALWAYS.contains(sysctl));
    ALWAYS.into_iter().chain(others).collect()
}

/// Returns those without which a virtual server answers some of its clients never, so that it must
/// not be announced.
pub fn essential(needs: Needs) -> Vec<Sysctl> {
    let mut wanted = Vec::new();
    if needs.udp {
        wanted.push(EXPIRE_NODEST_CONN);
    }
    if needs.masquerade_v4 || needs.masquerade_v6 {
        wanted.push(MASQUERADE);
    }
    if needs.masquerade_v4 {
        wanted.push(FORWARD_V4);
    }
    if needs.masquerade_v6 {
        wanted.push(FORWARD_V6);
    }
    wanted
}

impl Needs {
    /// What these virtual servers demand.
    pub fn of<'a>(virtual_servers: impl IntoIterator<Item = &'a VirtualServer>) -> Self {
        let mut needs = Self::default();
        for virtual_server in virtual_servers {
            needs.udp |= match virtual_server.id.protocol {
                Protocol::Udp => true,
                Protocol::Tcp | Protocol::Sctp => false,
            };
            let is_masquerade = is_masquerade(virtual_server.forwarding_method);
            match virtual_server.id.address {
                IpAddr::V4(_) => needs.masquerade_v4 |= is_masquerade,
                IpAddr::V6(_) => needs.masquerade_v6 |= is_masquerade,
            }
        }
        needs
    }
}

impl Sysctl {
    /// The name as `sysctl` and Kubernetes write it.
    pub fn dotted_name(&self) -> String {
        self.name.replace('/', ".")
    }
}

#[cfg(test)]
mod tests {
    use data_plane_testbed::checked_virtual_server as virtual_server;
    use virtual_server::ForwardingMethod;

    use super::*;

    #[test]
    fn udp_is_not_served_where_removed_real_servers_keep_their_clients() {
        let essential_to = |id: &str| {
            let server = virtual_server(id, ForwardingMethod::DirectRouting);
            let sysctls = essential(Needs::of([&server]));
            sysctls.iter().map(Sysctl::dotted_name).collect::<Vec<_>>()
        };
        assert_eq!(
            essential_to("udp/10.1.1.10:53"),
            ["net.ipv4.vs.expire_nodest_conn"]
        );
        assert_eq!(essential_to("tcp/10.1.1.10:53"), [""; 0]);
        assert_eq!(essential_to("sctp/10.1.1.10:53"), [""; 0]);
        let needs = Needs {
            udp: true,
            ..Needs::default()
        };
        assert_eq!(wanted(needs), wanted(Needs::default()), "each once");
    }

    #[test]
    fn forwarding_is_wanted_only_where_replies_return_through_the_pod() {
        let names = |needs| {
            wanted(needs)
                .iter()
                .map(Sysctl::dotted_name)
                .collect::<Vec<_>>()
        };
        let without = names(Needs::default());
        assert!(
            without.iter().all(|name| name.starts_with("net.ipv4.vs.")),
            "{without:?}"
        );
        assert!(!without.contains(&"net.ipv4.vs.conntrack".to_owned()));
        let direct = virtual_server("tcp/10.1.1.10:80", ForwardingMethod::DirectRouting);
        assert_eq!(Needs::of([&direct]), Needs::default());
        let masqueraded = virtual_server("tcp/[fd00::1]:80", ForwardingMethod::Masquerade);
        let with = names(Needs::of([&masqueraded, &direct]));
        assert_eq!(
            with[5..],
            ["net.ipv4.vs.conntrack", "net.ipv6.conf.all.forwarding"]
        );
    }
}
