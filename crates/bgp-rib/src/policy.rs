//! Import and export policies of a peer, and filters of prefixes. The default policies accept and
//! send no path (RFC 8212).

mod reject_reason;

use std::{fmt, net::IpAddr, sync::Arc};

use bgp_packet::{IpNet, PathAttributes, RawAttribute};
use serde::Deserialize;

use crate::{
    attribute_policy::AttributePolicy,
    client_rule::{ClientRule, NextHopFilter, rule_of},
};

pub use self::reject_reason::RejectReason;

/// A rule that matches the prefixes that lie within a given prefix and have a length between two
/// bounds, including the bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PrefixRule {
    prefix: IpNet,
    minimum_length: u8,
    maximum_length: u8,
}

/// The error of a rule whose length bounds match no prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "lengths {minimum_length} to {maximum_length} are not valid for {prefix}: give lengths between \
     {} and {}, the smaller length first",
    prefix.prefix_len(),
    prefix.max_prefix_len()
)]
pub struct InvalidPrefixRule {
    pub prefix: IpNet,
    pub minimum_length: u8,
    pub maximum_length: u8,
}

impl PrefixRule {
    /// Creates a rule that matches the prefixes that lie within `prefix` and have a length between
    /// the bounds, including the bounds.
    ///
    /// # Errors
    ///
    /// Returns an error if the bounds are not in order or are not lengths of prefixes within
    /// `prefix`.
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

    /// Creates a rule that matches exactly this prefix.
    pub fn exact(prefix: IpNet) -> Self {
        let length = prefix.prefix_len();
        Self {
            prefix: prefix.trunc(),
            minimum_length: length,
            maximum_length: length,
        }
    }

    /// Creates a rule that matches this prefix and all longer prefixes within it.
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

/// A filter that matches a set of prefixes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrefixFilter {
    /// A filter that matches every prefix.
    All,
    /// Matches a prefix that at least one rule matches. An empty list matches no prefix.
    Only(Vec<PrefixRule>),
}

impl fmt::Display for PrefixRule {
    /// Formats the rule as `10.1.1.0/24` or `10.1.0.0/16 length 24-32`.
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
    /// Returns a filter that matches no prefix.
    pub fn none() -> Self {
        Self::Only(Vec::new())
    }

    /// Reports whether the filter matches no prefix.
    pub fn is_none(&self) -> bool {
        match self {
            Self::All => false,
            Self::Only(rules) => rules.is_empty(),
        }
    }

    /// Reports whether the filter matches the prefix.
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

/// The rules for paths from a peer. The default accepts no path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportPolicy {
    pub prefixes: PrefixFilter,
    pub next_hops: NextHopFilter,
    /// Further rules for single peers. Empty: no further rules. Not empty: a path is rejected if no
    /// rule applies to the peer of the path.
    pub clients: Vec<ClientRule>,
    /// Largest number of paths in the Adj-RIB-In of the peer. `None`: no limit.
    pub maximum_paths: Option<u32>,
    /// Action when the peer announces a further path at `maximum_paths`.
    pub at_maximum: MaximumPathsAction,
    /// Treatment of attributes whose values the codec does not check.
    pub unknown_attributes: UnknownAttributes,
    /// Treatment of LOCAL_PREF, MED, AIGP, communities, ORIGINATOR_ID and CLUSTER_LIST.
    pub attributes: AttributePolicy,
}

/// The action when a peer with [`ImportPolicy::maximum_paths`] paths announces a further path. An
/// announcement that replaces a stored path of the peer is always allowed.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum MaximumPathsAction {
    /// Reject the further path and keep the stored paths. When the peer has fewer paths than the
    /// maximum, the rejected path can be requested again with a ROUTE-REFRESH.
    #[default]
    Block,
    /// End the session with Cease, "maximum number of prefixes reached" (RFC 4486).
    Restart,
}

/// The treatment of optional transitive attributes with types that the codec does not know. The
/// codec cannot check the values of these attributes.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum UnknownAttributes {
    /// Accept the path without these attributes. This deviates from RFC 4271 section 9. Reason: a
    /// router that receives an attribute with an invalid value could end its session with this
    /// speaker.
    #[default]
    Discard,
    /// Accept the path and pass these attributes on with the partial bit (RFC 4271 section 5).
    Pass,
}

impl ImportPolicy {
    /// Returns a policy that accepts every prefix with every next hop, without a limit of paths.
    /// Attributes of unknown types are discarded.
    pub fn accept_all() -> Self {
        Self {
            prefixes: PrefixFilter::All,
            ..Self::default()
        }
    }

    /// Reports whether both policies are equal except for the maximum number of paths and the
    /// action at this maximum.
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

    /// Removes unknown attributes from `attributes` if the policy discards them. Returns the
    /// remaining attributes and the number of removed attributes.
    pub(crate) fn without_unknown_attributes(
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

/// The rules for paths to a peer. The default sends no path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExportPolicy {
    /// Prefixes that can be sent. A path also has to pass the rules of route reflection and of
    /// well-known communities.
    pub prefixes: PrefixFilter,
    /// Whether this speaker becomes the next hop of paths from external peers and of paths to
    /// external peers. Reflected paths (RFC 4456 section 10) keep their next hop. Originated paths
    /// keep their next hop unless it is the unspecified address.
    pub next_hop_self: bool,
}

impl ExportPolicy {
    /// Returns a policy that sends every prefix with its next hop unchanged.
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
    fn a_prefix_rule_matches_prefixes_within_its_prefix_and_length_bounds() {
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
    fn a_prefix_rule_with_length_bounds_is_formatted_with_its_bounds() {
        let net: IpNet = "10.1.0.0/16".parse().unwrap();
        assert_eq!(PrefixRule::exact(net).to_string(), "10.1.0.0/16");
        assert_eq!(
            PrefixRule::or_longer(net).to_string(),
            "10.1.0.0/16 length 16-32"
        );
    }

    #[test]
    fn length_bounds_out_of_order_or_outside_of_the_prefix_are_rejected_with_the_allowed_lengths() {
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
    fn the_default_policies_accept_and_send_no_path() {
        let prefix = "10.1.1.0/24".parse().unwrap();
        let peer = [10, 244, 1, 7].into();
        assert_eq!(
            ImportPolicy::default().check_prefix(&prefix, peer),
            Some(RejectReason::PrefixNotAllowed)
        );
        assert!(!ExportPolicy::default().prefixes.is_match(&prefix));
    }
}
