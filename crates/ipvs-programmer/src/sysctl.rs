//! Sysctls that forwarding depends on: which, and what it costs to go without. Pure.

use ipnet::IpNet;

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
    Sysctl {
        name: "net/ipv4/vs/expire_nodest_conn",
        value: "1",
        cost: "connections to a removed real server hang until the client gives up",
    },
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
    let mut wanted = ALWAYS.to_vec();
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
    /// Adds what one masqueraded service address demands.
    pub fn masquerade(&mut self, address: IpNet) {
        match address {
            IpNet::V4(_) => self.masquerade_v4 = true,
            IpNet::V6(_) => self.masquerade_v6 = true,
        }
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
    use super::*;

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
        let mut needs = Needs::default();
        needs.masquerade("fd00::1/128".parse().unwrap());
        let with = names(needs);
        assert_eq!(
            with[5..],
            ["net.ipv4.vs.conntrack", "net.ipv6.conf.all.forwarding"]
        );
    }
}
