//! Reasons to reject an announcement.

/// Why an announcement was not accepted. An earlier path that it replaces is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum RejectReason {
    /// The AS_PATH holds this speaker's AS (RFC 4271 section 9.1.2).
    #[error("AS_PATH holds the local AS")]
    AsPathLoop,
    /// The AS_PATH of an external peer does not start with its AS (RFC 4271 section 6.3).
    #[error("AS_PATH does not start with the peer's AS")]
    FirstAsnIsNotThePeers,
    /// The originator id is this speaker's router id (RFC 4456 section 8).
    #[error("ORIGINATOR_ID is the local router id")]
    OwnOriginatorId,
    /// The cluster list holds this speaker's cluster id (RFC 4456 section 8).
    #[error("CLUSTER_LIST holds the local cluster id")]
    OwnClusterId,
    /// The next hop is this speaker (RFC 4271 section 6.3).
    #[error("next hop is this speaker")]
    OwnNextHop,
    /// The next hop is no unicast address that other hosts reach (RFC 4271 section 6.3, RFC 2545
    /// section 3).
    #[error(
        "next hop is not a unicast address that other hosts reach: it is unspecified, \
         loopback, link-local IPv6, IPv4-mapped, multicast or reserved"
    )]
    NextHopNotUnicast,
    /// The next hop is the announced prefix itself.
    #[error("next hop is the announced prefix itself")]
    NextHopIsPrefix,
    /// The prefix holds no unicast address that other hosts reach.
    #[error(
        "prefix holds no unicast address that other hosts reach: it is of 0.0.0.0/8, \
         loopback, link-local IPv6, IPv4-mapped, multicast or reserved"
    )]
    PrefixReserved,
    /// The next hop is of the other family than the prefix.
    #[error("next hop is not of the prefix's family")]
    NextHopFamily,
    /// Import policy.
    #[error("next hop is not allowed by import policy")]
    NextHopNotAllowed,
    /// Import policy.
    #[error("prefix is not allowed by import policy")]
    PrefixNotAllowed,
    /// Import policy has rules for single peers, and none names this one.
    #[error("import policy lists peers, and not this one")]
    PeerNotListed,
    /// The family was not negotiated.
    #[error("family was not negotiated")]
    FamilyNotNegotiated,
    /// The peer holds as many paths as import policy allows ([`MaximumPathsAction::Block`]).
    ///
    /// [`MaximumPathsAction::Block`]: crate::MaximumPathsAction::Block
    #[error("peer holds as many paths as import policy allows")]
    MaximumPaths,
}
