//! Which path goes to which peer, and in which form.

use std::{net::IpAddr, sync::Arc};

use bgp_packet::{AsPathSegment, Asn, ClusterId, Community, IpNet, PathAttributes, RouterId};

use crate::{
    adj_rib_in::{Learned, is_going_down},
    decision::DEFAULT_LOCAL_PREF,
    peer::{PeerId, PeerKind, PeerSettings, RibConfig, Source, SourceFacts, is_same_family},
    table::Path,
};

/// RFC 1997 calls it NO_EXPORT_SUBCONFED. Without confederations it means what NO_EXPORT means.
pub(crate) const NO_EXPORT_SUBCONFED: Community = Community(0xffff_ff03);

/// How many times more than usual the local AS is prepended to a path that is least preferred.
const LEAST_PREFERRED_PREPENDS: usize = 3;

/// The longest AS_SEQUENCE that the wire can hold (RFC 4271 section 4.3).
const LONGEST_SEGMENT: usize = 255;

/// How attributes are edited on their way out. Equal forms of equal attributes are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExportForm {
    /// Internal to internal (RFC 4456 section 8).
    Reflected {
        originator_id: RouterId,
        cluster_id: ClusterId,
    },
    /// External or own to internal. `None`: the next hop stays.
    Internal { next_hop: Option<IpAddr> },
    /// Anything to external.
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
                // RFC 4271 section 5.1.5: mandatory on internal sessions.
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
                // RFC 4271 section 5.1.4: not to be passed on to a further AS.
                if !is_own && !is_of_this_as {
                    attributes.multi_exit_disc = None;
                }
                if is_of_this_as && is_going_down(&attributes) {
                    make_least_preferred(&mut attributes, local_asn);
                }
                prepend(&mut attributes, local_asn);
            }
        }
        attributes
    }
}

/// Makes a path of this AS least preferred in another AS. LOCAL_PREF, which does so within this AS,
/// is not sent, and RFC 8326 leaves it to the other AS to act on GRACEFUL_SHUTDOWN. A router that
/// compares either the length of AS_PATH or MULTI_EXIT_DISC takes another path where it has one.
fn make_least_preferred(attributes: &mut PathAttributes, local_asn: Asn) {
    attributes.multi_exit_disc = Some(u32::MAX);
    for _ in 0..LEAST_PREFERRED_PREPENDS {
        prepend(attributes, local_asn);
    }
}

/// RFC 4271 section 5.1.2 (b).
fn prepend(attributes: &mut PathAttributes, asn: Asn) {
    let segments = &mut attributes.as_path.segments;
    match segments.first_mut() {
        Some(AsPathSegment::Sequence(asns)) if asns.len() < LONGEST_SEGMENT => asns.insert(0, asn),
        Some(AsPathSegment::Sequence(_) | AsPathSegment::Set(_)) | None => {
            segments.insert(0, AsPathSegment::Sequence(vec![asn]));
        }
    }
}

/// What the peer is to have of this path; `None`: nothing.
pub(crate) fn exported(
    config: &RibConfig,
    id: PeerId,
    peer: &PeerSettings,
    path: &Path,
    prefix: &IpNet,
) -> Option<Arc<PathAttributes>> {
    let learned = &path.learned;
    let is_allowed = learned.source().source() != Source::Peer(id)
        && is_advertised(learned.source(), peer.kind)
        && !is_held_back(&learned.attributes().communities, peer.kind)
        && peer.export.prefixes.is_match(prefix);
    if !is_allowed {
        return None;
    }
    let exported = learned.exported(form(config, peer, learned, prefix)?);
    // The peer would have to drop it (RFC 4456 section 8).
    (exported.originator_id != Some(peer.peer_router_id)).then_some(exported)
}

/// RFC 4456 section 6: paths of a client go to everybody, those of a non-client to clients; paths
/// from outside go to everybody, and everything may go outside.
fn is_advertised(source: SourceFacts, to: PeerKind) -> bool {
    match (source, to) {
        (
            SourceFacts::Peer {
                kind: PeerKind::NonClient,
                ..
            },
            PeerKind::NonClient,
        ) => false,
        (
            SourceFacts::Own { .. } | SourceFacts::Peer { .. },
            PeerKind::External | PeerKind::Client | PeerKind::NonClient,
        ) => true,
    }
}

/// RFC 1997, "well-known communities".
fn is_held_back(communities: &[Community], to: PeerKind) -> bool {
    communities.iter().any(|community| match *community {
        Community::NO_ADVERTISE => true,
        Community::NO_EXPORT | NO_EXPORT_SUBCONFED => to == PeerKind::External,
        _ => false,
    })
}

fn form(
    config: &RibConfig,
    peer: &PeerSettings,
    learned: &Learned,
    prefix: &IpNet,
) -> Option<ExportForm> {
    let own_address = || match prefix {
        IpNet::V4(_) => peer.local_addresses.ipv4.map(IpAddr::from),
        IpNet::V6(_) => peer.local_addresses.ipv6.map(IpAddr::from),
    };
    let given = learned.attributes().next_hop;
    let (is_own, is_self) = match learned.source() {
        SourceFacts::Own { .. } => (true, given.is_unspecified()),
        SourceFacts::Peer {
            kind: PeerKind::External,
            ..
        } => (false, peer.export.next_hop_self),
        SourceFacts::Peer {
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
    let leaving = next_hop.unwrap_or(given);
    // RFC 4271 section 5.1.3: no path leaves with its receiver as next hop.
    if leaving == peer.peer_address || !is_same_family(prefix, leaving) {
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
