//! Rules that decide whether a path is sent to a peer, and with which attributes.

use std::{net::IpAddr, sync::Arc};

use bgp_packet::{AsPathSegment, Asn, ClusterId, Community, IpNet, PathAttributes, RouterId};

use crate::{
    adj_rib_in::{LearnedAttributes, has_graceful_shutdown},
    decision::DEFAULT_LOCAL_PREF,
    peer::{
        PathSource, PeerId, PeerKind, PeerSettings, RibConfig, SourceProperties, is_same_family,
    },
    table::StoredPath,
};

/// The community NO_EXPORT_SUBCONFED (RFC 1997). It is treated like NO_EXPORT, because this speaker
/// does not support confederations.
pub(crate) const NO_EXPORT_SUBCONFED: Community = Community(0xffff_ff03);

/// Number of times that the local AS is prepended to AS_PATH of a least preferred path, in addition
/// to the one prepend of every path that is sent to an external peer.
const LEAST_PREFERRED_PREPENDS: usize = 3;

/// Largest number of AS numbers in an AS_SEQUENCE (RFC 4271 section 4.3).
const LONGEST_SEGMENT: usize = 255;

/// The change that an export makes to the attributes of a path. The result depends only on this
/// value and on the attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExportForm {
    /// Reflection from an internal peer to an internal peer (RFC 4456 section 8).
    Reflected {
        originator_id: RouterId,
        cluster_id: ClusterId,
    },
    /// Export of a path of an external peer or of this speaker to an internal peer. If `next_hop`
    /// is `None`, the next hop is not changed.
    Internal { next_hop: Option<IpAddr> },
    /// Export of any path to an external peer. If `next_hop` is `None`, the next hop is not
    /// changed.
    External {
        local_asn: Asn,
        next_hop: Option<IpAddr>,
        is_own: bool,
    },
}

impl ExportForm {
    pub(crate) fn apply(self, attributes: &PathAttributes) -> PathAttributes {
        let mut attributes = attributes.clone();
        match self {
            Self::Reflected {
                originator_id,
                cluster_id,
            } => {
                attributes.originator_id.get_or_insert(originator_id);
                attributes.cluster_list.insert(0, cluster_id);
                attributes.local_pref.get_or_insert(DEFAULT_LOCAL_PREF);
            }
            Self::Internal { next_hop } => {
                attributes.next_hop = next_hop.unwrap_or(attributes.next_hop);
                // LOCAL_PREF is mandatory on internal sessions (RFC 4271 section 5.1.5).
                attributes.local_pref.get_or_insert(DEFAULT_LOCAL_PREF);
            }
            Self::External {
                local_asn,
                next_hop,
                is_own,
            } => {
                attributes.next_hop = next_hop.unwrap_or(attributes.next_hop);
                attributes.local_pref = None;
                attributes.originator_id = None;
                attributes.cluster_list.clear();
                let is_of_this_as = attributes.as_path.segments.is_empty();
                // MULTI_EXIT_DISC of one neighbouring AS must not be sent to another AS (RFC 4271
                // section 5.1.4).
                if !is_own && !is_of_this_as {
                    attributes.multi_exit_disc = None;
                }
                if is_of_this_as && has_graceful_shutdown(&attributes) {
                    make_least_preferred(&mut attributes, local_asn);
                }
                prepend(&mut attributes, local_asn);
            }
        }
        attributes
    }
}

/// Makes a path of this AS least preferred in another AS. LOCAL_PREF is not sent to other ASes, and
/// RFC 8326 does not require the other AS to act on GRACEFUL_SHUTDOWN. A longer AS_PATH and the
/// highest MULTI_EXIT_DISC make routers of the other AS prefer any other path.
fn make_least_preferred(attributes: &mut PathAttributes, local_asn: Asn) {
    attributes.multi_exit_disc = Some(u32::MAX);
    for _ in 0..LEAST_PREFERRED_PREPENDS {
        prepend(attributes, local_asn);
    }
}

/// Prepends `asn` to AS_PATH as described in RFC 4271 section 5.1.2 (b).
fn prepend(attributes: &mut PathAttributes, asn: Asn) {
    let segments = &mut attributes.as_path.segments;
    match segments.first_mut() {
        Some(AsPathSegment::Sequence(asns)) if asns.len() < LONGEST_SEGMENT => asns.insert(0, asn),
        Some(AsPathSegment::Sequence(_) | AsPathSegment::Set(_)) | None => {
            segments.insert(0, AsPathSegment::Sequence(vec![asn]));
        }
    }
}

/// Returns the attributes with which the path is exported to the peer, or `None` if the path is not
/// exported.
pub(crate) fn exported(
    config: &RibConfig,
    id: PeerId,
    peer: &PeerSettings,
    path: &StoredPath,
    prefix: &IpNet,
) -> Option<Arc<PathAttributes>> {
    let learned = &path.learned;
    let is_allowed = learned.source().source() != PathSource::Peer(id)
        && is_advertised(learned.source(), peer.kind)
        && !is_export_forbidden(&learned.attributes().communities, peer.kind)
        && peer.export.prefixes.is_match(prefix);
    if !is_allowed {
        return None;
    }
    let exported = learned.exported(export_form(config, peer, learned, prefix)?);
    // A peer has to ignore a path whose ORIGINATOR_ID is the router id of the peer (RFC 4456
    // section 8), so such a path is not sent.
    (exported.originator_id != Some(peer.peer_router_id)).then_some(exported)
}

/// Reports whether a path of `source` is exported to a peer of the kind `to` (RFC 4456 section 6).
/// Only paths from non-clients to non-clients are not exported.
fn is_advertised(source: SourceProperties, to: PeerKind) -> bool {
    match (source, to) {
        (
            SourceProperties::Peer {
                kind: PeerKind::NonClient,
                ..
            },
            PeerKind::NonClient,
        ) => false,
        (
            SourceProperties::Own { .. } | SourceProperties::Peer { .. },
            PeerKind::External | PeerKind::Client | PeerKind::NonClient,
        ) => true,
    }
}

/// Reports whether a well-known community (RFC 1997) forbids the export to a peer of the kind `to`.
fn is_export_forbidden(communities: &[Community], to: PeerKind) -> bool {
    communities.iter().any(|community| match *community {
        Community::NO_ADVERTISE => true,
        Community::NO_EXPORT | NO_EXPORT_SUBCONFED => to == PeerKind::External,
        _ => false,
    })
}

fn export_form(
    config: &RibConfig,
    peer: &PeerSettings,
    learned: &LearnedAttributes,
    prefix: &IpNet,
) -> Option<ExportForm> {
    let own_address = || match prefix {
        IpNet::V4(_) => peer.local_addresses.ipv4.map(IpAddr::from),
        IpNet::V6(_) => peer.local_addresses.ipv6.map(IpAddr::from),
    };
    let given = learned.attributes().next_hop;
    let (is_own, is_self) = match learned.source() {
        SourceProperties::Own { .. } => (true, given.is_unspecified()),
        SourceProperties::Peer {
            kind: PeerKind::External,
            ..
        } => (false, peer.export.next_hop_self),
        SourceProperties::Peer {
            kind: PeerKind::Client | PeerKind::NonClient,
            router_id,
            ..
        } => match peer.kind {
            PeerKind::Client | PeerKind::NonClient => {
                let cluster_id = config.cluster_id;
                return Some(ExportForm::Reflected {
                    originator_id: router_id,
                    cluster_id,
                });
            }
            PeerKind::External => (false, peer.export.next_hop_self),
        },
    };
    let next_hop = if is_self { Some(own_address()?) } else { None };
    let sent_next_hop = next_hop.unwrap_or(given);
    // A path must not be sent to the peer whose address is the next hop of the path (RFC 4271
    // section 5.1.3). A next hop of another address family than the prefix is not sent to any peer.
    if sent_next_hop == peer.peer_address || !is_same_family(prefix, sent_next_hop) {
        return None;
    }
    Some(match peer.kind {
        PeerKind::Client | PeerKind::NonClient => ExportForm::Internal { next_hop },
        PeerKind::External => ExportForm::External {
            local_asn: config.local_asn,
            next_hop,
            is_own,
        },
    })
}

#[cfg(test)]
mod tests;
