//! Removal and replacement of path attributes by the import policy.
//!
//! A client that sets LOCAL_PREF, MED, a community or an attribute of reflection influences the
//! decisions of the reflector and of its routers. It could attract the traffic of other clients.

use std::sync::Arc;

use bgp_packet::{Community, PathAttributes};
use serde::Deserialize;

use crate::{decision::DEFAULT_LOCAL_PREF, export::NO_EXPORT_SUBCONFED};

/// Communities that every [`CommunityPolicy`] keeps, because they can only restrict the export of a
/// path or make the path least preferred.
const ALWAYS_KEPT: [Community; 4] = [
    Community::GRACEFUL_SHUTDOWN,
    Community::NO_EXPORT,
    Community::NO_ADVERTISE,
    NO_EXPORT_SUBCONFED,
];

/// Type code of the attribute AIGP (RFC 7311), a metric that routers can compare before MED.
const AIGP: u8 = 26;

/// The part of an import policy that keeps, replaces or removes LOCAL_PREF, MED, AIGP, communities,
/// ORIGINATOR_ID and CLUSTER_LIST. The default keeps all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttributePolicy {
    pub local_pref: LocalPrefPolicy,
    /// Treatment of MULTI_EXIT_DISC and AIGP.
    pub med: MedPolicy,
    /// Treatment of COMMUNITIES, EXTENDED_COMMUNITIES and LARGE_COMMUNITY.
    pub communities: CommunityPolicy,
    /// Treatment of ORIGINATOR_ID and CLUSTER_LIST.
    pub reflection: ReflectionPolicy,
}

/// The treatment of the attribute LOCAL_PREF.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum LocalPrefPolicy {
    /// LOCAL_PREF is kept unchanged.
    #[default]
    Pass,
    /// The value 0, which makes a path least preferred, is kept. Any other value is replaced with
    /// [`DEFAULT_LOCAL_PREF`]. A missing LOCAL_PREF stays missing.
    Clamp,
}

/// The treatment of the attributes MULTI_EXIT_DISC and AIGP.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum MedPolicy {
    /// MULTI_EXIT_DISC and AIGP are kept.
    #[default]
    Pass,
    /// MULTI_EXIT_DISC and AIGP are removed.
    Remove,
}

/// The treatment of standard, extended and large communities.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CommunityPolicy {
    /// All communities are kept.
    #[default]
    Pass,
    /// The communities of this list are kept, and so are GRACEFUL_SHUTDOWN, NO_EXPORT, NO_ADVERTISE
    /// and NO_EXPORT_SUBCONFED. All other communities are removed, including all extended and large
    /// communities.
    Only(Vec<Community>),
}

/// The treatment of ORIGINATOR_ID and CLUSTER_LIST (RFC 4456).
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum ReflectionPolicy {
    /// ORIGINATOR_ID and CLUSTER_LIST are kept. A peer that is a reflector needs this policy,
    /// because other reflectors detect loops by these attributes.
    #[default]
    Pass,
    /// ORIGINATOR_ID and CLUSTER_LIST are removed after they have been checked for loops. The path
    /// then counts as originated by the peer.
    Discard,
}

impl AttributePolicy {
    /// Returns a policy for peers that must not influence the decisions of routers about the paths
    /// of other peers.
    pub fn strict() -> Self {
        Self {
            local_pref: LocalPrefPolicy::Clamp,
            med: MedPolicy::Remove,
            communities: CommunityPolicy::Only(Vec::new()),
            reflection: ReflectionPolicy::Discard,
        }
    }

    /// Applies the policy to `attributes`. Returns `attributes` without a copy if the policy
    /// changes no attribute.
    pub(crate) fn apply(&self, attributes: &Arc<PathAttributes>) -> Arc<PathAttributes> {
        let local_pref = self.local_pref(attributes.local_pref);
        let is_med_removed = self.med == MedPolicy::Remove
            && (attributes.multi_exit_disc.is_some()
                || attributes.others.iter().any(|it| it.type_code == AIGP));
        let is_reflection_removed = self.reflection == ReflectionPolicy::Discard
            && (attributes.originator_id.is_some() || !attributes.cluster_list.is_empty());
        let are_communities_removed = match &self.communities {
            CommunityPolicy::Pass => false,
            CommunityPolicy::Only(allowed) => {
                let mut communities = attributes.communities.iter();
                !attributes.extended_communities.is_empty()
                    || !attributes.large_communities.is_empty()
                    || communities.any(|community| !is_kept(allowed, community))
            }
        };
        if local_pref == attributes.local_pref
            && !is_med_removed
            && !is_reflection_removed
            && !are_communities_removed
        {
            return attributes.clone();
        }
        let mut kept = attributes.as_ref().clone();
        kept.local_pref = local_pref;
        if is_med_removed {
            kept.multi_exit_disc = None;
            kept.others.retain(|it| it.type_code != AIGP);
        }
        if is_reflection_removed {
            kept.originator_id = None;
            kept.cluster_list.clear();
        }
        if let CommunityPolicy::Only(allowed) = &self.communities {
            kept.communities
                .retain(|community| is_kept(allowed, community));
            kept.extended_communities.clear();
            kept.large_communities.clear();
        }
        Arc::new(kept)
    }

    fn local_pref(&self, local_pref: Option<u32>) -> Option<u32> {
        match (self.local_pref, local_pref) {
            (LocalPrefPolicy::Pass, local_pref) => local_pref,
            (LocalPrefPolicy::Clamp, None | Some(0)) => local_pref,
            (LocalPrefPolicy::Clamp, Some(_)) => Some(DEFAULT_LOCAL_PREF),
        }
    }
}

fn is_kept(allowed: &[Community], community: &Community) -> bool {
    ALWAYS_KEPT.contains(community) || allowed.contains(community)
}

#[cfg(test)]
mod tests {
    use bgp_packet::{ClusterId, LargeCommunity, RawAttribute, RouterId};

    use super::*;

    const OWN: Community = Community(64512 << 16 | 100);
    const OTHER: Community = Community(64512 << 16 | 200);

    fn announced() -> Arc<PathAttributes> {
        let raw = |type_code| RawAttribute {
            flags: 0xc0,
            type_code,
            value: Vec::new().into(),
        };
        Arc::new(PathAttributes {
            local_pref: Some(4_000_000_000),
            multi_exit_disc: Some(7),
            communities: vec![
                OWN,
                Community::GRACEFUL_SHUTDOWN,
                OTHER,
                Community::NO_EXPORT,
            ],
            originator_id: Some(RouterId([10, 0, 0, 1].into())),
            cluster_list: vec![ClusterId([10, 0, 0, 2].into())],
            extended_communities: vec![[0; 8]],
            large_communities: vec![LargeCommunity(1, 2, 3)],
            others: vec![raw(AIGP), raw(35)],
            ..PathAttributes::originate([10, 7, 0, 1].into())
        })
    }

    #[test]
    fn the_strict_policy_removes_or_replaces_the_attributes_that_influence_routers() {
        let kept = AttributePolicy::strict().apply(&announced());
        let expected = PathAttributes {
            local_pref: Some(100),
            communities: vec![Community::GRACEFUL_SHUTDOWN, Community::NO_EXPORT],
            others: announced().others[1..].to_vec(),
            ..PathAttributes::originate([10, 7, 0, 1].into())
        };
        assert_eq!(*kept, expected);
    }

    #[test]
    fn local_pref_is_clamped_to_zero_or_the_default() {
        let policy = AttributePolicy::strict();
        for (announced, expected) in [
            (None, None),
            (Some(0), Some(0)),
            (Some(1), Some(100)),
            (Some(100), Some(100)),
            (Some(u32::MAX), Some(100)),
        ] {
            assert_eq!(policy.local_pref(announced), expected, "{announced:?}");
        }
    }

    #[test]
    fn each_part_of_the_strict_policy_can_be_relaxed_separately() {
        let announced = announced();
        let strict = AttributePolicy::strict;
        let kept = AttributePolicy {
            local_pref: LocalPrefPolicy::Pass,
            ..strict()
        };
        assert_eq!(kept.apply(&announced).local_pref, announced.local_pref);
        let kept = AttributePolicy {
            med: MedPolicy::Pass,
            ..strict()
        };
        let kept = kept.apply(&announced);
        assert_eq!(kept.multi_exit_disc, announced.multi_exit_disc);
        assert_eq!(kept.others, announced.others);
        let kept = AttributePolicy {
            communities: CommunityPolicy::Only(vec![OWN]),
            ..strict()
        };
        assert_eq!(
            kept.apply(&announced).communities,
            [OWN, Community::GRACEFUL_SHUTDOWN, Community::NO_EXPORT]
        );
        let kept = AttributePolicy {
            reflection: ReflectionPolicy::Pass,
            ..strict()
        };
        let kept = kept.apply(&announced);
        assert_eq!(kept.originator_id, announced.originator_id);
        assert_eq!(kept.cluster_list, announced.cluster_list);
    }

    #[test]
    fn attributes_that_the_policy_does_not_change_are_not_copied() {
        let announced = announced();
        let kept = AttributePolicy::default().apply(&announced);
        assert!(Arc::ptr_eq(&kept, &announced));
        let plain = Arc::new(PathAttributes::originate([10, 7, 0, 1].into()));
        let kept = AttributePolicy::strict().apply(&plain);
        assert!(Arc::ptr_eq(&kept, &plain));
    }
}
