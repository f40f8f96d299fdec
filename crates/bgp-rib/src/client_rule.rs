//! Filters of next hops, and rules for the paths of single clients.

use std::net::IpAddr;

use bgp_packet::IpNet;

use crate::policy::PrefixFilter;

/// A filter of next hops. The default allows every next hop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NextHopFilter {
    /// A next hop within one of these prefixes is allowed.
    pub prefixes: Vec<IpNet>,
    /// Whether the address of the peer is allowed as next hop. If this is `false` and `prefixes` is
    /// empty, every next hop is allowed.
    pub is_peer_allowed: bool,
}

impl NextHopFilter {
    /// Reports whether the filter allows the peer to announce the next hop.
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

/// A rule of an import policy for some peers. A path of such a peer is accepted only if both this
/// rule and the general filters of the import policy allow the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientRule {
    /// The rule applies to a peer whose address lies within one of these prefixes.
    pub clients: Vec<IpNet>,
    pub prefixes: PrefixFilter,
    pub next_hops: NextHopFilter,
}

/// Returns the rule with the longest prefix in `clients` that contains the address of the peer. If
/// several rules have a prefix of this length, returns the first of these rules.
pub(crate) fn rule_of(rules: &[ClientRule], peer: IpAddr) -> Option<&ClientRule> {
    let length = |rule: &&ClientRule| {
        let prefixes = rule.clients.iter().filter(|prefix| prefix.contains(&peer));
        prefixes.map(IpNet::prefix_len).max()
    };
    let matching = rules.iter().filter(|rule| length(rule).is_some());
    // If several rules have the longest prefix, `max_by_key` returns the last of them, which is the
    // first rule in the list because of `rev`.
    matching.rev().max_by_key(length)
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
    fn the_rule_with_the_longest_matching_client_prefix_applies_to_a_peer() {
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
            let actual = rule_of(&rules, peer.parse().unwrap());
            let expected = expected.map(|index: usize| &rules[index]);
            assert_eq!(actual, expected, "{peer}");
        }
    }

    #[test]
    fn a_next_hop_filter_allows_next_hops_within_its_prefixes_and_the_address_of_the_peer() {
        let check = |prefixes: &[&str], is_peer_allowed, next_hop: &str, expected| {
            let filter = NextHopFilter {
                prefixes: prefixes.iter().map(|it| it.parse().unwrap()).collect(),
                is_peer_allowed,
            };
            let peer = [10, 244, 1, 7].into();
            let actual = filter.is_match(next_hop.parse().unwrap(), peer);
            assert_eq!(
                actual, expected,
                "{prefixes:?} {is_peer_allowed} {next_hop}"
            );
        };
        check(&[], false, "192.0.2.1", true);
        check(&[], true, "10.244.1.7", true);
        check(&[], true, "10.244.1.8", false);
        check(&["192.0.2.0/24"], true, "192.0.2.1", true);
        check(&["192.0.2.0/24"], true, "10.244.1.7", true);
        check(&["192.0.2.0/24"], false, "10.244.1.7", false);
    }
}
