//! Reasons to reject an announcement.

use std::fmt;

/// Why an announcement was not accepted. An earlier path that it replaces is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RejectReason {
    /// The AS_PATH holds this speaker's AS (RFC 4271 section 9.1.2).
    AsPathLoop,
    /// The AS_PATH of an external peer does not start with its AS (RFC 4271 section 6.3).
    FirstAsnIsNotThePeers,
    /// The originator id is this speaker's router id (RFC 4456 section 8).
    OwnOriginatorId,
    /// The cluster list holds this speaker's cluster id (RFC 4456 section 8).
    OwnClusterId,
    /// The next hop is this speaker (RFC 4271 section 6.3).
    OwnNextHop,
    /// The next hop is no unicast address that other hosts reach (RFC 4271 section 6.3, RFC 2545
    /// section 3).
    NextHopNotUnicast,
    /// The next hop is the announced prefix itself.
    NextHopIsPrefix,
    /// The prefix holds no unicast address that other hosts reach.
    PrefixReserved,
    /// The next hop is of the other family than the prefix.
    NextHopFamily,
    /// Import policy.
    NextHopNotAllowed,
    /// Import policy.
    PrefixNotAllowed,
    /// Import policy has rules for single peers, and none names this one.
    PeerNotListed,
    /// The family was not negotiated.
    FamilyNotNegotiated,
    /// The peer holds as many paths as import policy allows ([`MaximumPathsAction::Block`]).
    ///
    /// [`MaximumPathsAction::Block`]: crate::MaximumPathsAction::Block
    MaximumPaths,
}

impl RejectReason {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::AsPathLoop,
        Self::FirstAsnIsNotThePeers,
        Self::OwnOriginatorId,
        Self::OwnClusterId,
        Self::OwnNextHop,
        Self::NextHopNotUnicast,
        Self::NextHopIsPrefix,
        Self::PrefixReserved,
        Self::NextHopFamily,
        Self::NextHopNotAllowed,
        Self::PrefixNotAllowed,
        Self::PeerNotListed,
        Self::FamilyNotNegotiated,
        Self::MaximumPaths,
    ];
}

impl fmt::Display for RejectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AsPathLoop => "AS_PATH holds the local AS",
            Self::FirstAsnIsNotThePeers => "AS_PATH does not start with the peer's AS",
            Self::OwnOriginatorId => "ORIGINATOR_ID is the local router id",
            Self::OwnClusterId => "CLUSTER_LIST holds the local cluster id",
            Self::OwnNextHop => "next hop is this speaker",
            Self::NextHopNotUnicast => {
                "next hop is not a unicast address that other hosts reach: it is unspecified, \
                 loopback, link-local IPv6, IPv4-mapped, multicast or reserved"
            }
            Self::NextHopIsPrefix => "next hop is the announced prefix itself",
            Self::PrefixReserved => {
                "prefix holds no unicast address that other hosts reach: it is of 0.0.0.0/8, \
                 loopback, link-local IPv6, IPv4-mapped, multicast or reserved"
            }
            Self::NextHopFamily => "next hop is not of the prefix's family",
            Self::NextHopNotAllowed => "next hop is not allowed by import policy",
            Self::PrefixNotAllowed => "prefix is not allowed by import policy",
            Self::PeerNotListed => "import policy lists peers, and not this one",
            Self::FamilyNotNegotiated => "family was not negotiated",
            Self::MaximumPaths => "peer holds as many paths as import policy allows",
        })
    }
}
