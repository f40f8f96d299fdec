//! Decision process: RFC 4271 section 9.1.2.2, RFC 4456 section 9.
//!
//! This speaker has no interior routing protocol. So every next hop counts as reachable, and step
//! (e), the interior cost, is omitted.

use std::{cmp::Ordering, collections::HashMap, fmt, net::IpAddr};

use bgp_packet::{Asn, Origin, PathAttributes, PathId, RouterId};

use crate::peer::{PeerId, PeerKind, SourceProperties};

/// LOCAL_PREF of a path that was received without LOCAL_PREF.
pub const DEFAULT_LOCAL_PREF: u32 = 100;

/// The step of the decision process at which a path lost against the best path. The variants have
/// the order of the steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NotBestReason {
    /// Another path has a higher LOCAL_PREF (RFC 4271 section 9.1.1).
    LowerLocalPref,
    /// This speaker originated another path with an equal LOCAL_PREF. The decision process prefers
    /// an originated path to paths of peers.
    NotOriginatedHere,
    /// Another path has a shorter AS_PATH (RFC 4271 section 9.1.2.2 (a)).
    LongerAsPath,
    /// Another path has a lower ORIGIN (RFC 4271 section 9.1.2.2 (b)).
    HigherOrigin,
    /// Another path through the same neighbouring AS has a lower MULTI_EXIT_DISC (RFC 4271 section
    /// 9.1.2.2 (c)).
    HigherMultiExitDisc,
    /// Another path is from an external peer, and this path is from an internal peer (RFC 4271
    /// section 9.1.2.2 (d)).
    InternalPeer,
    /// Another path has a lower ORIGINATOR_ID. For a path without ORIGINATOR_ID, the router id of
    /// the peer counts as ORIGINATOR_ID (RFC 4271 section 9.1.2.2 (f)).
    HigherRouterId,
    /// Another path has a shorter CLUSTER_LIST (RFC 4456 section 9).
    LongerClusterList,
    /// Another path is from a peer with a lower address, or from a peer with an equal address and a
    /// lower [`PeerId`] (RFC 4271 section 9.1.2.2 (g)).
    HigherPeerAddress,
    /// The peer also announced another path of the prefix, with a lower path id (RFC 7911).
    HigherPathId,
}

impl fmt::Display for NotBestReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LowerLocalPref => "lower LOCAL_PREF",
            Self::NotOriginatedHere => "not originated here",
            Self::LongerAsPath => "longer AS_PATH",
            Self::HigherOrigin => "higher ORIGIN",
            Self::HigherMultiExitDisc => "higher MULTI_EXIT_DISC",
            Self::InternalPeer => "internal peer",
            Self::HigherRouterId => "higher originator or router id",
            Self::LongerClusterList => "longer CLUSTER_LIST",
            Self::HigherPeerAddress => "higher peer address",
            Self::HigherPathId => "higher path id",
        })
    }
}

/// The values of a path that the decision process compares, except the path id.
#[derive(Clone, Debug)]
pub(crate) struct Preference {
    local_pref: u32,
    as_path_length: usize,
    origin: Origin,
    /// `None`: the path originates in this AS, or AS_PATH begins with an AS_SET.
    neighbouring_asn: Option<Asn>,
    multi_exit_disc: u32,
    is_external: bool,
    router_id: RouterId,
    cluster_list_length: usize,
    /// Address and id of the peer. The id decides between two peers with equal addresses. `None`:
    /// this speaker originated the path.
    peer: Option<(IpAddr, PeerId)>,
}

impl Preference {
    pub(crate) fn new(attributes: &PathAttributes, source: SourceProperties) -> Self {
        let (router_id, is_external, peer) = match source {
            SourceProperties::Own { router_id } => (router_id, false, None),
            SourceProperties::Peer {
                id,
                kind,
                router_id,
                address,
            } => (router_id, kind == PeerKind::External, Some((address, id))),
        };
        Self {
            local_pref: attributes.local_pref.unwrap_or(DEFAULT_LOCAL_PREF),
            as_path_length: attributes.as_path.decision_length(),
            origin: attributes.origin,
            neighbouring_asn: attributes.as_path.neighbouring_asn(),
            // A missing MULTI_EXIT_DISC counts as the lowest value (RFC 4271 section 9.1.2.2 (c)).
            multi_exit_disc: attributes.multi_exit_disc.unwrap_or(0),
            is_external,
            router_id: attributes.originator_id.unwrap_or(router_id),
            cluster_list_length: attributes.cluster_list.len(),
            peer,
        }
    }

    /// Reports whether MULTI_EXIT_DISC is above 0, so that the path can lose by it. The step
    /// MULTI_EXIT_DISC is the only step whose result for two paths can depend on a third path.
    pub(crate) fn has_multi_exit_disc(&self) -> bool {
        self.multi_exit_disc != 0
    }
}

/// A path that takes part in the decision process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DecisionCandidate<'a> {
    pub(crate) preference: &'a Preference,
    pub(crate) path_id: Option<PathId>,
}

/// Compares two paths in all steps except MULTI_EXIT_DISC. Returns the first step in which the
/// paths differ, with `Less` if `left` wins and `Greater` if `right` wins. `None`: no step differs.
fn compare(
    left: DecisionCandidate<'_>,
    right: DecisionCandidate<'_>,
) -> Option<(Ordering, NotBestReason)> {
    use NotBestReason as Step;
    let (l, r) = (left.preference, right.preference);
    let steps = [
        (r.local_pref.cmp(&l.local_pref), Step::LowerLocalPref),
        (
            l.peer.is_some().cmp(&r.peer.is_some()),
            Step::NotOriginatedHere,
        ),
        (l.as_path_length.cmp(&r.as_path_length), Step::LongerAsPath),
        (l.origin.cmp(&r.origin), Step::HigherOrigin),
        (r.is_external.cmp(&l.is_external), Step::InternalPeer),
        (l.router_id.cmp(&r.router_id), Step::HigherRouterId),
        (
            l.cluster_list_length.cmp(&r.cluster_list_length),
            Step::LongerClusterList,
        ),
        (l.peer.cmp(&r.peer), Step::HigherPeerAddress),
        (left.path_id.cmp(&right.path_id), Step::HigherPathId),
    ];
    steps.into_iter().find(|(ordering, _)| ordering.is_ne())
}

/// Reports whether `challenger` is preferred to `best` in the steps except MULTI_EXIT_DISC. If no
/// path of the prefix has a MULTI_EXIT_DISC above 0, these steps are a total order, so that one
/// comparison decides whether `challenger` is the new best path.
pub(crate) fn is_better(challenger: DecisionCandidate<'_>, best: DecisionCandidate<'_>) -> bool {
    compare(challenger, best).is_some_and(|(ordering, _)| ordering.is_lt())
}

/// The lowest MULTI_EXIT_DISC of each neighbouring AS, among the paths that are equal to the best
/// path in all steps before MULTI_EXIT_DISC.
struct MultiExitDiscs(HashMap<Option<Asn>, u32>);

impl MultiExitDiscs {
    fn is_beaten(&self, preference: &Preference) -> bool {
        self.0
            .get(&preference.neighbouring_asn)
            .is_some_and(|low| *low < preference.multi_exit_disc)
    }
}

/// Reports whether two paths are equal in all steps before MULTI_EXIT_DISC.
fn is_tie_before_multi_exit_disc(
    left: DecisionCandidate<'_>,
    right: DecisionCandidate<'_>,
) -> bool {
    compare(left, right).is_none_or(|(_, step)| step > NotBestReason::HigherMultiExitDisc)
}

fn multi_exit_discs<'a>(
    candidates: impl Iterator<Item = DecisionCandidate<'a>>,
    front: DecisionCandidate<'a>,
) -> MultiExitDiscs {
    let mut lowest = HashMap::new();
    for candidate in candidates.filter(|other| is_tie_before_multi_exit_disc(*other, front)) {
        let discriminator = candidate.preference.multi_exit_disc;
        lowest
            .entry(candidate.preference.neighbouring_asn)
            .and_modify(|low: &mut u32| *low = discriminator.min(*low))
            .or_insert(discriminator);
    }
    MultiExitDiscs(lowest)
}

/// Returns the position of the best path in `candidates`, or `None` if there is no candidate.
pub(crate) fn best<'a>(
    candidates: impl Iterator<Item = DecisionCandidate<'a>> + Clone,
) -> Option<usize> {
    let minimum = |candidates: &mut dyn Iterator<Item = (usize, DecisionCandidate<'a>)>| {
        candidates.reduce(|best, other| {
            if is_better(other.1, best.1) {
                other
            } else {
                best
            }
        })
    };
    let (position, front) = minimum(&mut candidates.clone().enumerate())?;
    if !candidates
        .clone()
        .any(|candidate| candidate.preference.has_multi_exit_disc())
    {
        return Some(position);
    }
    let discriminators = multi_exit_discs(candidates.clone(), front);
    let mut rest = candidates.enumerate().filter(|(_, candidate)| {
        is_tie_before_multi_exit_disc(*candidate, front)
            && !discriminators.is_beaten(candidate.preference)
    });
    minimum(&mut rest).map(|(position, _)| position)
}

/// Returns for each path the reason why it is not the best path, and `None` for the best path.
pub(crate) fn verdicts<'a>(
    candidates: impl Iterator<Item = DecisionCandidate<'a>> + Clone,
    best: DecisionCandidate<'a>,
) -> impl Iterator<Item = Option<NotBestReason>> {
    let discriminators = multi_exit_discs(candidates.clone(), best);
    candidates.map(move |candidate| verdict_with(&discriminators, candidate, best))
}

/// Returns the reason why `candidate` is not the best path, or `None` if it is `best`. `candidates`
/// are all paths of the prefix.
pub(crate) fn verdict_among<'a>(
    candidates: impl Iterator<Item = DecisionCandidate<'a>>,
    candidate: DecisionCandidate<'a>,
    best: DecisionCandidate<'a>,
) -> Option<NotBestReason> {
    verdict_with(&multi_exit_discs(candidates, best), candidate, best)
}

/// Returns the reason why `candidate` is not the best path, or `None` if it is `best`. Correct only
/// if no path of the prefix has a MULTI_EXIT_DISC above 0; otherwise use [`verdict_among`].
pub(crate) fn verdict(
    candidate: DecisionCandidate<'_>,
    best: DecisionCandidate<'_>,
) -> Option<NotBestReason> {
    compare(candidate, best).map(|(_, step)| step)
}

fn verdict_with(
    discriminators: &MultiExitDiscs,
    candidate: DecisionCandidate<'_>,
    best: DecisionCandidate<'_>,
) -> Option<NotBestReason> {
    let step = verdict(candidate, best)?;
    let is_beaten =
        step > NotBestReason::HigherMultiExitDisc && discriminators.is_beaten(candidate.preference);
    Some(if is_beaten {
        NotBestReason::HigherMultiExitDisc
    } else {
        step
    })
}

#[cfg(test)]
mod tests;
