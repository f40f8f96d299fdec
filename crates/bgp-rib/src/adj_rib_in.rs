//! Adj-RIB-In of a peer or of this speaker, and the checks and conversions of received
//! announcements.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    hash::{Hash, Hasher},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use bgp_packet::{Community, Family, IpNet, PathAttributes, PathId, reserved_range_of};

use crate::{
    decision::{DEFAULT_LOCAL_PREF, Preference},
    export::ExportForm,
    next_hop,
    peer::{PeerKind, PeerSettings, RibConfig, SourceProperties, is_same_family},
    policy::RejectReason,
    table::{PathSlot, PrefixIndex},
};

/// Checks the attributes of an announcement. Returns the reason to reject every prefix of the
/// announcement, or `None` if the attributes are accepted.
pub(crate) fn check_attributes(
    config: &RibConfig,
    peer: &PeerSettings,
    attributes: &PathAttributes,
) -> Option<RejectReason> {
    let is_first_asn_wrong = peer.kind == PeerKind::External
        && attributes.as_path.neighbouring_asn() != Some(peer.peer_asn);
    let is_own_next_hop = match attributes.next_hop {
        IpAddr::V4(address) => peer.local_addresses.ipv4 == Some(address),
        IpAddr::V6(address) => peer.local_addresses.ipv6 == Some(address),
    };
    if attributes.as_path.contains(config.local_asn) {
        Some(RejectReason::AsPathLoop)
    } else if is_first_asn_wrong {
        Some(RejectReason::FirstAsnIsNotThePeers)
    } else if attributes.originator_id == Some(config.router_id) {
        Some(RejectReason::OwnOriginatorId)
    } else if attributes.cluster_list.contains(&config.cluster_id) {
        Some(RejectReason::OwnClusterId)
    } else if is_own_next_hop {
        Some(RejectReason::OwnNextHop)
    } else if !next_hop::is_reachable_unicast(attributes.next_hop) {
        Some(RejectReason::NextHopNotUnicast)
    } else {
        peer.import.check_attributes(attributes, peer.peer_address)
    }
}

/// Checks one prefix of an announcement. Returns the reason to reject the prefix, or `None` if the
/// prefix is accepted.
pub(crate) fn check_prefix(
    peer: &PeerSettings,
    prefix: IpNet,
    next_hop: IpAddr,
) -> Option<RejectReason> {
    if peer.family(&prefix).is_none() {
        Some(RejectReason::FamilyNotNegotiated)
    } else if reserved_range_of(&prefix).is_some() {
        Some(RejectReason::PrefixReserved)
    } else if !is_same_family(&prefix, next_hop) {
        Some(RejectReason::NextHopFamily)
    } else if prefix.addr() == next_hop {
        Some(RejectReason::NextHopIsPrefix)
    } else {
        peer.import.check_prefix(&prefix, peer.peer_address)
    }
}

/// Converts the attributes of a path from an external peer to attributes inside this AS.
///
/// LOCAL_PREF becomes 0 if the path has GRACEFUL_SHUTDOWN (RFC 8326 section 4.2), and
/// [`DEFAULT_LOCAL_PREF`] otherwise. ORIGINATOR_ID and CLUSTER_LIST are removed, because they are
/// valid only on internal sessions (RFC 7606 section 7).
pub(crate) fn convert_external(attributes: &mut PathAttributes) {
    let has_graceful_shutdown = has_graceful_shutdown(attributes);
    attributes.local_pref = Some(if has_graceful_shutdown {
        0
    } else {
        DEFAULT_LOCAL_PREF
    });
    attributes.originator_id = None;
    attributes.cluster_list.clear();
}

/// Reports whether `attributes` contain the community GRACEFUL_SHUTDOWN (RFC 8326).
pub(crate) fn has_graceful_shutdown(attributes: &PathAttributes) -> bool {
    attributes
        .communities
        .contains(&Community::GRACEFUL_SHUTDOWN)
}

/// Attributes that several paths of one source can share. The values that the decision process
/// compares, and each form in which the attributes are exported, are computed once for all these
/// paths.
#[derive(Debug)]
pub(crate) struct LearnedAttributes {
    source: SourceProperties,
    attributes: Arc<PathAttributes>,
    preference: Preference,
    exported: Mutex<Vec<(ExportForm, Arc<PathAttributes>)>>,
}

impl LearnedAttributes {
    fn new(attributes: Arc<PathAttributes>, source: SourceProperties) -> Self {
        let preference = Preference::new(&attributes, source);
        Self {
            source,
            attributes,
            preference,
            exported: Mutex::default(),
        }
    }

    pub(crate) fn source(&self) -> SourceProperties {
        self.source
    }

    pub(crate) fn attributes(&self) -> &Arc<PathAttributes> {
        &self.attributes
    }

    pub(crate) fn preference(&self) -> &Preference {
        &self.preference
    }

    /// Returns the attributes as `form` changes them. The result for each form is computed once and
    /// used for all prefixes and peers.
    pub(crate) fn exported(&self, form: ExportForm) -> Arc<PathAttributes> {
        let mut exported = self.exported.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, attributes)) = exported.iter().find(|(existing, _)| *existing == form) {
            return attributes.clone();
        }
        let attributes = Arc::new(form.apply(&self.attributes));
        exported.push((form, attributes.clone()));
        attributes
    }
}

/// An element of the set of stored attributes. Two elements are equal if their attributes are
/// equal, so that a lookup by attributes finds the stored copy.
#[derive(Debug)]
struct Interned(Arc<LearnedAttributes>);

impl PartialEq for Interned {
    fn eq(&self, other: &Self) -> bool {
        self.0.attributes == other.0.attributes
    }
}

impl Eq for Interned {}

impl Hash for Interned {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.attributes.hash(state);
    }
}

impl std::borrow::Borrow<PathAttributes> for Interned {
    fn borrow(&self) -> &PathAttributes {
        &self.0.attributes
    }
}

/// The Adj-RIB-In of one source: its accepted paths.
#[derive(Debug)]
pub(crate) struct AdjRibIn {
    source: SourceProperties,
    paths: HashMap<(PrefixIndex, Option<PathId>), PathSlot>,
    interned: HashSet<Interned>,
    sweep_at: usize,
    /// Families with a path that was rejected at the maximum number of paths and has not been
    /// requested by ROUTE-REFRESH since the rejection.
    blocked: BTreeSet<Family>,
}

/// Number of stored attribute sets below which unused attribute sets are not removed.
const SMALLEST_SWEEP: usize = 64;

impl AdjRibIn {
    pub(crate) fn new(source: SourceProperties) -> Self {
        Self {
            source,
            paths: HashMap::new(),
            interned: HashSet::new(),
            sweep_at: SMALLEST_SWEEP,
            blocked: BTreeSet::new(),
        }
    }

    /// Changes the kind of the peer for paths that are stored after this call. A path that is
    /// stored before this call keeps the previous kind until the caller stores the path again.
    pub(crate) fn set_kind(&mut self, kind: PeerKind) {
        if let SourceProperties::Peer { kind: existing, .. } = &mut self.source {
            *existing = kind;
        }
        self.interned.clear();
    }

    /// Returns the stored copy of `attributes`. Stores the attributes if there is no such copy.
    pub(crate) fn intern(&mut self, attributes: &Arc<PathAttributes>) -> Arc<LearnedAttributes> {
        if let Some(existing) = self.interned.get(attributes.as_ref()) {
            return existing.0.clone();
        }
        if self.interned.len() >= self.sweep_at {
            self.interned
                .retain(|entry| Arc::strong_count(&entry.0) > 1);
            self.sweep_at = SMALLEST_SWEEP.max(2 * self.interned.len());
        }
        let learned = Arc::new(LearnedAttributes::new(attributes.clone(), self.source));
        self.interned.insert(Interned(learned.clone()));
        learned
    }

    pub(crate) fn slot(&self, prefix: PrefixIndex, path_id: Option<PathId>) -> Option<PathSlot> {
        self.paths.get(&(prefix, path_id)).copied()
    }

    pub(crate) fn insert(&mut self, prefix: PrefixIndex, path_id: Option<PathId>, slot: PathSlot) {
        self.paths.insert((prefix, path_id), slot);
    }

    pub(crate) fn remove(
        &mut self,
        prefix: PrefixIndex,
        path_id: Option<PathId>,
    ) -> Option<PathSlot> {
        self.paths.remove(&(prefix, path_id))
    }

    pub(crate) fn len(&self) -> usize {
        self.paths.len()
    }

    /// Records that a path of the family was rejected at the maximum number of paths.
    pub(crate) fn block(&mut self, family: Family) {
        self.blocked.insert(family);
    }

    /// Returns the families with rejected paths and forgets them if the peer has fewer paths than
    /// `maximum_paths`, or if there is no maximum. Otherwise returns no family and forgets none.
    pub(crate) fn take_unblocked(&mut self, maximum_paths: Option<u32>) -> Vec<Family> {
        if maximum_paths.is_some_and(|limit| self.len() >= limit as usize) {
            return Vec::new();
        }
        std::mem::take(&mut self.blocked).into_iter().collect()
    }

    pub(crate) fn slots(&self) -> impl Iterator<Item = (PrefixIndex, Option<PathId>, PathSlot)> {
        self.paths
            .iter()
            .map(|(&(prefix, path_id), &slot)| (prefix, path_id, slot))
    }
}
