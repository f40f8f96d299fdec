//! Desired nftables table of a set of virtual servers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use nftables_table::{
    Chain, ChainType, Expression, Hook, ICMP_PORT_UNREACHABLE, ICMPV6_PORT_UNREACHABLE, L4Protocol,
    NftablesTable, Rule, TCP_RST, priority,
};
use virtual_server::{ForwardingMethod, Ports, Protocol, VirtualServer, VirtualServerId};

use crate::marks;

/// Name of the nftables table of this daemon, in the family `inet`.
pub const TABLE_NAME: &str = "portlb-ipvs";

/// Hook priority after IPVS, which takes packets at the priorities 98 and 99 (`ip_vs_ops4`,
/// NF_IP_PRI_NAT_SRC - 2 and - 1, net/netfilter/ipvs/ip_vs_core.c). A chain with this priority sees
/// only packets that IPVS did not take.
const AFTER_IPVS: i32 = priority::SRCNAT + 10;

/// Returns the nftables table with the rules for these virtual servers and service prefixes. The
/// table omits a chain that has no rule. The chains are:
///
/// - `output`: drops TCP resets from a service address and "port unreachable" about a service
///   address. The network stack of the pod sends them for a packet that IPVS did not take: before
///   the IPVS table is programmed, or while the kernel replaces a scheduler. The reset or the error
///   would end the connection of the client, which another pod can have served before. If the
///   client gets no answer, it sends its packet again.
/// - `input`: drops TCP, UDP and SCTP packets that IPVS did not take, so that no client reaches a
///   process of the pod through a service address.
/// - `marks`: sets the marks of packets to virtual servers with a port range or all ports.
/// - `postrouting`: sets the pod's address as source of connections to `Masquerade` virtual
///   servers, so that replies return through the pod.
pub fn table<'a>(
    prefixes: &BTreeSet<IpNet>,
    virtual_servers: impl IntoIterator<Item = &'a VirtualServer>,
    marks: &BTreeMap<VirtualServerId, u32>,
) -> NftablesTable {
    let mut masqueraded = Vec::new();
    let mut others = BTreeSet::new();
    let mut marked = Vec::new();
    for virtual_server in virtual_servers {
        let id = &virtual_server.id;
        match virtual_server.forwarding_method {
            ForwardingMethod::Masquerade => masqueraded.push(id),
            ForwardingMethod::DirectRouting | ForwardingMethod::Tunnel(_) => {
                others.insert(id.address);
            }
        }
        if let Some(mark) = marks.get(id) {
            marked.push(mark_rule(id, *mark));
        }
    }
    let mut chains = Vec::new();
    if !marked.is_empty() {
        chains.push(chain(
            "marks",
            ChainType::Filter,
            Hook::Prerouting,
            priority::MANGLE,
            marked,
        ));
    }
    let guarded = by_version(prefixes);
    if !guarded.is_empty() {
        let input = guarded
            .iter()
            .flat_map(|set| {
                [L4Protocol::Tcp, L4Protocol::Udp, L4Protocol::Sctp].map(|protocol| {
                    vec![
                        Expression::DestinationIn(set.clone()),
                        Expression::Protocol(protocol),
                        Expression::Counter,
                        Expression::Drop,
                    ]
                })
            })
            .collect();
        chains.push(chain(
            "input",
            ChainType::Filter,
            Hook::Input,
            AFTER_IPVS,
            input,
        ));
        let output = guarded
            .iter()
            .flat_map(|set| [no_reset(set), no_port_unreachable(set)])
            .collect();
        chains.push(chain(
            "output",
            ChainType::Filter,
            Hook::Output,
            priority::FILTER,
            output,
        ));
    }
    if !masqueraded.is_empty() {
        let rules = masquerade_rules(&masqueraded, &others);
        chains.push(chain(
            "postrouting",
            ChainType::Nat,
            Hook::Postrouting,
            priority::SRCNAT,
            rules,
        ));
    }
    NftablesTable {
        name: TABLE_NAME.into(),
        chains,
    }
}

/// Reports whether the virtual server needs nftables.
pub fn is_needed_by(virtual_server: &VirtualServer) -> bool {
    is_masquerade(virtual_server.forwarding_method) || marks::needs_mark(&virtual_server.id)
}

/// Reports whether this forwarding method makes replies to clients return through the pod.
pub(crate) fn is_masquerade(method: ForwardingMethod) -> bool {
    match method {
        ForwardingMethod::Masquerade => true,
        ForwardingMethod::DirectRouting | ForwardingMethod::Tunnel(_) => false,
    }
}

fn chain(name: &str, kind: ChainType, hook: Hook, priority: i32, rules: Vec<Rule>) -> Chain {
    Chain {
        name: name.into(),
        kind,
        hook,
        priority,
        rules,
    }
}

fn no_reset(prefixes: &[IpNet]) -> Rule {
    vec![
        Expression::SourceIn(prefixes.to_vec()),
        Expression::Protocol(L4Protocol::Tcp),
        Expression::TcpFlags {
            mask: TCP_RST,
            value: TCP_RST,
        },
        Expression::Counter,
        Expression::Drop,
    ]
}

/// Returns a rule that drops "port unreachable" about a service address. The rule matches the
/// address in the quoted packet, not the source address: for a prefix that is local because of a
/// route, the kernel sends IPv6 errors from another address (`icmp6_send`, net/ipv6/icmp.c).
fn no_port_unreachable(prefixes: &[IpNet]) -> Rule {
    let (protocol, (kind, code)) = match prefixes {
        [IpNet::V6(_), ..] => (L4Protocol::Icmpv6, ICMPV6_PORT_UNREACHABLE),
        [IpNet::V4(_), ..] | [] => (L4Protocol::Icmp, ICMP_PORT_UNREACHABLE),
    };
    vec![
        Expression::Protocol(protocol),
        Expression::IcmpTypeAndCode(kind, code),
        Expression::QuotedDestinationIn(prefixes.to_vec()),
        Expression::Counter,
        Expression::Drop,
    ]
}

/// Returns the rules that masquerade connections: one rule for each prefix of addresses that have
/// only `Masquerade` virtual servers, and one rule for each `Masquerade` virtual server on an
/// address in `others`. An address in `others` also has virtual servers with other forwarding
/// methods, which must keep the client's address.
fn masquerade_rules(masqueraded: &[&VirtualServerId], others: &BTreeSet<IpAddr>) -> Vec<Rule> {
    let (mixed, alone): (Vec<&VirtualServerId>, Vec<_>) = masqueraded
        .iter()
        .partition(|id| others.contains(&id.address));
    let alone: Vec<IpNet> = alone.iter().map(|id| host(id.address)).collect();
    let by_port = mixed.into_iter().map(|id| {
        let (first, last) = id.ports.bounds();
        vec![
            Expression::OriginalDestination(host(id.address)),
            Expression::Protocol(l4_protocol(id.protocol)),
            Expression::OriginalDestinationPorts(first, last),
            Expression::Masquerade,
        ]
    });
    IpNet::aggregate(&alone)
        .into_iter()
        .map(|prefix| {
            vec![
                Expression::OriginalDestination(prefix),
                Expression::Masquerade,
            ]
        })
        .chain(by_port)
        .collect()
}

fn l4_protocol(protocol: Protocol) -> L4Protocol {
    match protocol {
        Protocol::Tcp => L4Protocol::Tcp,
        Protocol::Udp => L4Protocol::Udp,
        Protocol::Sctp => L4Protocol::Sctp,
    }
}

fn mark_rule(id: &VirtualServerId, mark: u32) -> Rule {
    let mut rule = vec![
        Expression::Destination(host(id.address)),
        Expression::Protocol(l4_protocol(id.protocol)),
    ];
    if id.ports != Ports::All {
        let (first, last) = id.ports.bounds();
        rule.push(Expression::DestinationPorts(first, last));
    }
    rule.push(Expression::SetMark(mark));
    rule
}

/// Returns the prefixes of each address family as one set. Omits an address family without
/// prefixes.
fn by_version(prefixes: &BTreeSet<IpNet>) -> Vec<Vec<IpNet>> {
    let (v4, v6): (Vec<_>, Vec<_>) = prefixes
        .iter()
        .partition(|prefix| matches!(prefix, IpNet::V4(_)));
    [v4, v6].into_iter().filter(|set| !set.is_empty()).collect()
}

fn host(address: IpAddr) -> IpNet {
    address.into()
}

#[cfg(test)]
mod tests {
    use data_plane_testbed::checked_virtual_server as virtual_server;

    use super::*;

    fn chains(table: &NftablesTable) -> Vec<(&str, usize)> {
        table
            .chains
            .iter()
            .map(|chain| (chain.name.as_str(), chain.rules.len()))
            .collect()
    }

    fn prefixes(texts: &[&str]) -> BTreeSet<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn direct_routing_needs_only_the_input_and_output_guards() {
        let tunnel = virtual_server("tcp/10.1.1.10:80", ForwardingMethod::DirectRouting);
        let table = table(&prefixes(&["10.1.1.0/24"]), [&tunnel], &BTreeMap::new());
        assert_eq!(chains(&table), [("input", 3), ("output", 2)]);
        assert!(!is_needed_by(&tunnel));
    }

    #[test]
    fn prefixes_of_both_address_families_are_guarded() {
        let table = table(
            &prefixes(&["10.1.1.0/24", "fd00:1::/64"]),
            [],
            &BTreeMap::new(),
        );
        assert_eq!(chains(&table), [("input", 6), ("output", 4)]);
    }

    #[test]
    fn adjacent_masqueraded_addresses_share_a_rule() {
        let servers = ["tcp/10.1.1.10:80", "udp/10.1.1.10:53", "tcp/10.1.1.11:80"]
            .map(|id| virtual_server(id, ForwardingMethod::Masquerade));
        let table = table(&BTreeSet::new(), &servers, &BTreeMap::new());
        let [postrouting] = table.chains.as_slice() else {
            panic!("{table:?}")
        };
        let prefix = "10.1.1.10/31".parse().unwrap();
        assert_eq!(
            postrouting.rules,
            [[
                Expression::OriginalDestination(prefix),
                Expression::Masquerade
            ]]
        );
        assert!(is_needed_by(&servers[0]));
    }

    #[test]
    fn an_address_with_several_forwarding_methods_has_a_rule_for_each_masqueraded_port() {
        let servers = [
            virtual_server("tcp/10.1.1.10:80", ForwardingMethod::Masquerade),
            virtual_server("tcp/10.1.1.10:443", ForwardingMethod::DirectRouting),
        ];
        let table = table(&BTreeSet::new(), &servers, &BTreeMap::new());
        assert_eq!(
            table.chains[0].rules,
            [[
                Expression::OriginalDestination("10.1.1.10/32".parse().unwrap()),
                Expression::Protocol(L4Protocol::Tcp),
                Expression::OriginalDestinationPorts(80, 80),
                Expression::Masquerade,
            ]]
        );
    }

    #[test]
    fn packets_to_a_port_range_get_the_mark_of_the_virtual_server() {
        let server = virtual_server("udp/10.1.1.10:8000-8999", ForwardingMethod::DirectRouting);
        let marks = BTreeMap::from([(server.id, 7)]);
        let table = table(&BTreeSet::new(), [&server], &marks);
        let [marks] = table.chains.as_slice() else {
            panic!("{table:?}")
        };
        assert_eq!(marks.priority, priority::MANGLE);
        assert_eq!(
            marks.rules[0],
            [
                Expression::Destination("10.1.1.10/32".parse().unwrap()),
                Expression::Protocol(L4Protocol::Udp),
                Expression::DestinationPorts(8000, 8999),
                Expression::SetMark(7),
            ]
        );
        assert!(is_needed_by(&server));
    }

    #[test]
    fn without_virtual_servers_the_nftables_table_is_empty() {
        assert_eq!(table(&BTreeSet::new(), [], &BTreeMap::new()).chains, []);
    }
}
