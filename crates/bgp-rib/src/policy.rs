//! What is accepted from a peer and what is sent to it. Nothing that policy did not name
//! (RFC 8212).

mod reject_reason;

use std::{fmt, net::IpAddr, sync::Arc};

use bgp_packet::{IpNet, PathAttributes, RawAttribute};
use serde::Deserialize;

use crate::{
    attribute_policy::AttributePolicy,
    client_rule::{ClientRule, NextHopFilter, rule_of},
};

pub use self::reject_reason::RejectReason;

/// A prefix and the lengths of the prefixes within it that it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PrefixRule {
    prefix: IpNet,
    minimum_length: u8,
    maximum_length: u8,
}

/// Length bounds that name no prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "lengths {minimum_length} to {maximum_length} do not fit {prefix}: they have to lie between \
     {} and {}, the smaller one first",
    prefix.prefix_len(),
    prefix.max_prefix_len()
)]
pub struct InvalidPrefixRule {
    /// The prefix of the rule.
    pub prefix: IpNet,
    /// Wanted lower bound.
    pub minimum_length: u8,
    /// Wanted upper bound.
    pub maximum_length: u8,
}

impl PrefixRule {
    /// Names the prefixes within `prefix` whose length lies between the bounds, both included.
    ///
    /// # Errors
    /// If the bounds are not in order or not lengths of prefixes within `prefix`.
    pub fn new(
        prefix: IpNet,
        minimum_length: u8,
        maximum_length: u8,
    ) -> Result<Self, InvalidPrefixRule> {
        if prefix.prefix_len() <= minimum_length
            && minimum_length <= maximum_length
            && maximum_length <= prefix.max_prefix_len()
        {
            Ok(Self {
                prefix: prefix.trunc(),
                minimum_length,
                maximum_length,
            })
        } else {
            Err(InvalidPrefixRule {
                prefix,
                minimum_length,
                maximum_length,
            })
        }
    }

    /// Names exactly this prefix.
    pub fn exact(prefix: IpNet) -> Self {
        let length = prefix.prefix_len();
        Self {
            prefix: prefix.trunc(),
            minimum_length: length,
            maximum_length: length,
        }
    }

    /// Names this prefix and everything within it.
    pub fn or_longer(prefix: IpNet) -> Self {
        Self {
            prefix: prefix.trunc(),
            minimum_length: prefix.prefix_len(),
            maximum_length: prefix.max_prefix_len(),
        }
    }

    fn is_match(&self, prefix: &IpNet) -> bool {
        (self.minimum_length..=self.maximum_length).contains(&prefix.prefix_len())
            && self.prefix.contains(prefix)
    }
}

/// A set of prefixes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrefixFilter {
    /// Every prefix.
    All,
    /// What one of the rules names; without a rule nothing.
    Only(Vec<PrefixRule>),
}

impl fmt::Display for PrefixRule {
    /// `10.1.1.0/24`, or `10.1.0.0/16 length 24-32`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            prefix,
            minimum_length,
            maximum_length,
        } = self;
        let length = prefix.prefix_len();
        if *minimum_length == length && *maximum_length == length {
            prefix.fmt(f)
        } else {
            write!(f, "{prefix} length {minimum_length}-{maximum_length}")
        }
    }
}

impl PrefixFilter {
    /// No prefix.
    pub fn none() -> Self {
        Self::Only(Vec::new())
    }

    /// Whether the set is empty.
    pub fn is_none(&self) -> bool {
        match self {
            Self::All => false,
            Self::Only(rules) => rules.is_empty(),
        }
    }

    /// Whether the prefix is in the set.
    pub fn is_match(&self, prefix: &IpNet) -> bool {
        match self {
            Self::All => true,
            Self::Only(rules) => rules.iter().any(|rule| rule.is_match(prefix)),
        }
    }
}

impl Default for PrefixFilter {
    fn default() -> Self {
        Self::none()
    }
}

/// What is accepted from a peer. By default nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportPolicy {
    /// Prefixes that may be announced.
    pub prefixes: PrefixFilter,
    /// Where the next hop has to lie.
    pub next_hops: NextHopFilter,
    /// What single peers may announce of that. Empty: every peer all of it. Otherwise a peer that no
    /// rule names may announce nothing.
    pub clients: Vec<ClientRule>,
    /// Most paths that are held of the peer; `None`: no limit.
    pub maximum_paths: Option<u32>,
    /// What happens to a further path at `maximum_paths`.
    pub at_maximum: MaximumPathsAction,
    /// What becomes of attributes that the codec does not know.
    pub unknown_attributes: UnknownAttributes,
    /// What is kept of the attributes that the codec knows.
    pub attributes: AttributePolicy,
}

/// What happens to a path beyond [`ImportPolicy::maximum_paths`]. A path that replaces another one
/// of the peer is not beyond it.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum MaximumPathsAction {
    /// The path is rejected, and the others stay. It can be asked for again when there is room.
    #[default]
    Block,
    /// The session ends (RFC 4486, "maximum number of prefixes reached").
    Restart,
}

/// What becomes of optional transitive attributes whose type the codec does not know, so that
/// their values cannot be checked.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum UnknownAttributes {
    /// The path is accepted without them. A deviation from RFC 4271 section 9: a receiver of the
    /// path may end its session over a value that was not checked.
    #[default]
    Discard,
    /// They are passed on with the partial bit (RFC 4271 section 5).
    Pass,
}

impl ImportPolicy {
    /// Accepts every prefix with every next hop, without a limit, and without unknown attributes.
    pub fn accept_all() -> Self {
        Self {
            prefixes: PrefixFilter::All,
            ..Self::default()
        }
    }

    /// Whether the other policy accepts the same paths, but for their number.
    pub(crate) fn has_filters_of(&self, other: &Self) -> bool {
        let Self {
            prefixes,
            next_hops,
            clients,
            maximum_paths: _,
            at_maximum: _,
            unknown_attributes,
            attributes,
        } = self;
        *prefixes == other.prefixes
            && *next_hops == other.next_hops
            && *clients == other.clients
            && *attributes == other.attributes
            && *unknown_attributes == other.unknown_attributes
    }

    pub(crate) fn check_attributes(
        &self,
        attributes: &PathAttributes,
        peer: IpAddr,
    ) -> Option<RejectReason> {
        let next_hop = attributes.next_hop;
        let rule = rule_of(&self.clients, peer);
        if rule.is_none() && !self.clients.is_empty() {
            return Some(RejectReason::PeerNotListed);
        }
        let is_allowed = self.next_hops.is_match(next_hop, peer)
            && rule.is_none_or(|rule| rule.next_hops.is_match(next_hop, peer));
        (!is_allowed).then_some(RejectReason::NextHopNotAllowed)
    }

    /// Returns the attributes without those of unknown types, and how many these are.
    pub(crate) fn accepted(
        &self,
        attributes: &Arc<PathAttributes>,
    ) -> (Arc<PathAttributes>, usize) {
        let discarded = match self.unknown_attributes {
            UnknownAttributes::Pass => 0,
            UnknownAttributes::Discard => {
                let others = attributes.others.iter();
                others.filter(|other| !other.is_checked()).count()
            }
        };
        if discarded == 0 {
            return (attributes.clone(), 0);
        }
        let mut accepted = attributes.as_ref().clone();
        accepted.others.retain(RawAttribute::is_checked);
        (Arc::new(accepted), discarded)
    }

    pub(crate) fn check_prefix(&self, prefix: &IpNet, peer: IpAddr) -> Option<RejectReason> {
        let rule = rule_of(&self.clients, peer);
        let is_allowed = self.prefixes.is_match(prefix)
            && rule.is_none_or(|rule| rule.prefixes.is_match(prefix));
        (!is_allowed).then_some(RejectReason::PrefixNotAllowed)
    }
}

/// What is sent to a peer. By default nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExportPolicy {
    /// Prefixes that may be sent, of those that the reflection rules allow.
    pub prefixes: PrefixFilter,
    /// Paths of external peers leave with this speaker as next hop. Reflected paths keep theirs
    /// (RFC 4456 section 10), and so do paths of our own.
    pub next_hop_self: bool,
}

impl ExportPolicy {
    /// Sends every prefix, with the next hop as it is.
    pub fn send_all() -> Self {
        Self {
            prefixes: PrefixFilter::All,
            next_hop_self: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rule: &str, bounds: (u8, u8), prefix: &str, expected: bool) {
        let rule = PrefixRule::new(rule.parse().unwrap(), bounds.0, bounds.1).unwrap();
        let filter = PrefixFilter::Only(vec![rule]);
        assert_eq!(
            filter.is_match(&prefix.parse().unwrap()),
            expected,
            "{rule:?} {prefix}"
        );
    }

    #[test]
    fn a_rule_names_prefixes_inside_it_within_its_lengths() {
        check("10.1.0.0/16", (24, 32), "10.1.1.0/24", true);
        check("10.1.0.0/16", (24, 32), "10.1.1.10/32", true);
        check("10.1.0.0/16", (24, 32), "10.1.0.0/16", false);
        check("10.1.0.0/16", (16, 24), "10.1.1.10/32", false);
        check("10.1.0.0/16", (16, 32), "10.2.0.0/24", false);
        check("10.1.0.0/16", (16, 32), "10.0.0.0/8", false);
        check("fd00::/64", (128, 128), "fd00::1/128", true);
        check("::/0", (0, 128), "10.1.1.0/24", false);
    }

    #[test]
    fn a_rule_shows_its_bounds_where_it_has_some() {
        let net: IpNet = "10.1.0.0/16".parse().unwrap();
        assert_eq!(PrefixRule::exact(net).to_string(), "10.1.0.0/16");
        assert_eq!(
            PrefixRule::or_longer(net).to_string(),
            "10.1.0.0/16 length 16-32"
        );
    }

    #[test]
    fn bounds_outside_the_prefix_are_refused_with_what_is_allowed() {
        let check = |bounds: (u8, u8)| {
            let error = PrefixRule::new("10.1.0.0/16".parse().unwrap(), bounds.0, bounds.1);
            let text = error.unwrap_err().to_string();
            assert!(text.contains("between 16 and 32"), "{text}");
        };
        check((8, 24));
        check((24, 33));
        check((30, 24));
    }

    #[test]
    fn a_policy_that_names_nothing_accepts_and_sends_nothing() {
        let prefix = "10.1.1.0/24".parse().unwrap();
        let peer = [10, 244, 1, 7].into();
        assert_eq!(
            ImportPolicy::default().check_prefix(&prefix, peer),
            Some(RejectReason::PrefixNotAllowed)
        );
        assert!(!ExportPolicy::default().prefixes.is_match(&prefix));
    }
}
