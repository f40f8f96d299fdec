//! Which peers may announce which prefixes, with which next hops.

use std::net::IpAddr;

use bgp_packet::IpNet;

use crate::policy::PrefixFilter;

/// Where a next hop may lie. By default anywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NextHopFilter {
    /// Within one of these.
    pub prefixes: Vec<IpNet>,
    /// At the address that the peer's session comes from.
    pub is_peer_allowed: bool,
}

impl NextHopFilter {
    /// Whether the peer may announce the next hop.
    pub(crate) fn is_match(&self, next_hop: IpAddr, peer: IpAddr) -> bool {
        let Self {
            prefixes,
            is_peer_allowed,
        } = self;
        (prefixes.is_empty() && !is_peer_allowed)
            || prefixes.iter().any(|prefix| prefix.contains(&next_hop))
            || (*is_peer_allowed && next_hop == peer)
    }
}

/// What peers of some addresses may announce, within what the policy allows to all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientRule {
    /// Where the sessions of these peers come from.
    pub clients: Vec<IpNet>,
    /// Prefixes that they may announce.
    pub prefixes: PrefixFilter,
    /// Next hops that they may announce.
    pub next_hops: NextHopFilter,
}

/// Returns the rule that names the peer by the longest prefix.
pub(crate) fn rule_of(rules: &[ClientRule], peer: IpAddr) -> Option<&ClientRule> {
    let length = |rule: &&ClientRule| {
        let prefixes = rule.clients.iter().filter(|prefix| prefix.contains(&peer));
        prefixes.map(IpNet::prefix_len).max()
    };
    let named = rules.iter().filter(|rule| length(rule).is_some());
    // The first of equal ones.
    named.rev().max_by_key(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(clients: &[&str]) -> ClientRule {
        ClientRule {
            clients: clients.iter().map(|it| it.parse().unwrap()).collect(),
            prefixes: PrefixFilter::All,
            next_hops: NextHopFilter::default(),
        }
    }

    #[test]
    fn the_longest_prefix_names_the_rule_of_a_peer() {
        let rules = [
            rule(&["10.244.0.0/16"]),
            rule(&["10.244.1.0/24", "fd00:1::/64"]),
            rule(&["10.244.1.7/32"]),
        ];
        for (peer, expected) in [
            ("10.244.9.9", Some(0)),
            ("10.244.1.9", Some(1)),
            ("fd00:1::7", Some(1)),
            ("10.244.1.7", Some(2)),
            ("10.245.0.1", None),
        ] {
            let found = rule_of(&rules, peer.parse().unwrap());
            let expected = expected.map(|index: usize| &rules[index]);
            assert_eq!(found, expected, "{peer}");
        }
    }

    #[test]
    fn a_next_hop_is_the_peer_itself_or_in_the_list() {
        let check = |prefixes: &[&str], is_peer_allowed, next_hop: &str, expected| {
            let filter = NextHopFilter {
                prefixes: prefixes.iter().map(|it| it.parse().unwrap()).collect(),
                is_peer_allowed,
            };
            let peer = [10, 244, 1, 7].into();
            let found = filter.is_match(next_hop.parse().unwrap(), peer);
            assert_eq!(found, expected, "{prefixes:?} {is_peer_allowed} {next_hop}");
        };
        check(&[], false, "192.0.2.1", true);
        check(&[], true, "10.244.1.7", true);
        check(&[], true, "10.244.1.8", false);
        check(&["192.0.2.0/24"], true, "192.0.2.1", true);
        check(&["192.0.2.0/24"], true, "10.244.1.7", true);
        check(&["192.0.2.0/24"], false, "10.244.1.7", false);
    }
}
