//! Sysctls that forwarding needs, and the consequences of wrong values.

use std::net::IpAddr;

use virtual_server::{Protocol, VirtualServer};

use crate::firewall::is_masquerade;

/// A sysctl with the value that forwarding needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sysctl {
    /// Path relative to `/proc/sys`, such as `net/ipv4/ip_forward`.
    pub name: &'static str,
    pub value: &'static str,
    /// The consequence if the sysctl has a value other than `value`, shown to the operator.
    pub consequence: &'static str,
}

/// The properties of the virtual servers that decide which sysctls are needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SysctlNeeds {
    /// An IPv4 virtual server uses Masquerade, so replies return through the pod.
    pub masquerade_v4: bool,
    /// An IPv6 virtual server uses Masquerade, so replies return through the pod.
    pub masquerade_v6: bool,
    /// A virtual server uses UDP, so real servers are removed from the table instead of getting
    /// weight 0.
    pub udp: bool,
}

const ALWAYS_NEEDED: [Sysctl; 5] = [
    Sysctl {
        name: "net/ipv4/vs/sloppy_tcp",
        value: "1",
        consequence: "established connections break when they move from another load balancer to this load balancer",
    },
    Sysctl {
        name: "net/ipv4/vs/conn_reuse_mode",
        value: "3",
        consequence: "a client that reuses a source port within a short time can be sent to a quiesced real server",
    },
    EXPIRE_NODEST_CONN,
    Sysctl {
        name: "net/ipv4/vs/expire_quiescent_template",
        value: "1",
        consequence: "new connections of clients with persistence are still sent to a quiesced real server",
    },
    Sysctl {
        name: "net/ipv4/vs/pmtu_disc",
        value: "1",
        consequence: "senders get no error for packets that are too large for the tunnel",
    },
];

const EXPIRE_NODEST_CONN: Sysctl = Sysctl {
    name: "net/ipv4/vs/expire_nodest_conn",
    value: "1",
    consequence: "connections to a removed real server hang until the client gives up, and a UDP \
                  client that keeps its source port gets no answer",
};
const MASQUERADE: Sysctl = Sysctl {
    name: "net/ipv4/vs/conntrack",
    value: "1",
    consequence: "clients of virtual servers with Masquerade get no answer",
};
const FORWARD_V4: Sysctl = Sysctl {
    name: "net/ipv4/ip_forward",
    value: "1",
    consequence: "clients of IPv4 virtual servers with Masquerade get no answer",
};
const FORWARD_V6: Sysctl = Sysctl {
    name: "net/ipv6/conf/all/forwarding",
    value: "1",
    consequence: "clients of IPv6 virtual servers with Masquerade get no answer",
};

/// Returns all sysctls that virtual servers with these needs use, whether they are essential or
/// not.
pub fn all_sysctls(needs: SysctlNeeds) -> Vec<Sysctl> {
    let others = essential_sysctls(needs).into_iter();
    let others = others.filter(|sysctl| !ALWAYS_NEEDED.contains(sysctl));
    ALWAYS_NEEDED.into_iter().chain(others).collect()
}

/// Returns the sysctls without which some clients of the virtual servers never get an answer.
/// Without an essential sysctl, such a virtual server must not be announced.
pub fn essential_sysctls(needs: SysctlNeeds) -> Vec<Sysctl> {
    let mut sysctls = Vec::new();
    if needs.udp {
        sysctls.push(EXPIRE_NODEST_CONN);
    }
    if needs.masquerade_v4 || needs.masquerade_v6 {
        sysctls.push(MASQUERADE);
    }
    if needs.masquerade_v4 {
        sysctls.push(FORWARD_V4);
    }
    if needs.masquerade_v6 {
        sysctls.push(FORWARD_V6);
    }
    sysctls
}

impl SysctlNeeds {
    /// Returns the needs of these virtual servers.
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
    /// Returns the name with dots, as in `sysctl` and Kubernetes.
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
    fn expire_nodest_conn_is_essential_only_for_udp() {
        let essential_to = |id: &str| {
            let server = virtual_server(id, ForwardingMethod::DirectRouting);
            let sysctls = essential_sysctls(SysctlNeeds::of([&server]));
            sysctls.iter().map(Sysctl::dotted_name).collect::<Vec<_>>()
        };
        assert_eq!(
            essential_to("udp/10.1.1.10:53"),
            ["net.ipv4.vs.expire_nodest_conn"]
        );
        assert_eq!(essential_to("tcp/10.1.1.10:53"), [""; 0]);
        assert_eq!(essential_to("sctp/10.1.1.10:53"), [""; 0]);
        let needs = SysctlNeeds {
            udp: true,
            ..SysctlNeeds::default()
        };
        assert_eq!(
            all_sysctls(needs),
            all_sysctls(SysctlNeeds::default()),
            "each sysctl is listed once"
        );
    }

    #[test]
    fn ip_forwarding_is_needed_only_for_masquerade() {
        let names = |needs| {
            all_sysctls(needs)
                .iter()
                .map(Sysctl::dotted_name)
                .collect::<Vec<_>>()
        };
        let without = names(SysctlNeeds::default());
        assert!(
            without.iter().all(|name| name.starts_with("net.ipv4.vs.")),
            "{without:?}"
        );
        assert!(!without.contains(&"net.ipv4.vs.conntrack".to_owned()));
        let direct = virtual_server("tcp/10.1.1.10:80", ForwardingMethod::DirectRouting);
        assert_eq!(SysctlNeeds::of([&direct]), SysctlNeeds::default());
        let masqueraded = virtual_server("tcp/[fd00::1]:80", ForwardingMethod::Masquerade);
        let with = names(SysctlNeeds::of([&masqueraded, &direct]));
        assert_eq!(
            with[5..],
            ["net.ipv4.vs.conntrack", "net.ipv6.conf.all.forwarding"]
        );
    }
}
