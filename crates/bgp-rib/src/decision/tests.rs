use bgp_packet::{AsPath, AsPathSegment, ClusterId, RouterId};

use super::*;

fn router_id(last: u8) -> RouterId {
    RouterId([192, 0, 2, last].into())
}

fn peer(last: u8) -> SourceProperties {
    SourceProperties::Peer {
        id: PeerId(u32::from(last)),
        kind: PeerKind::Client,
        router_id: router_id(last),
        address: [10, 0, 0, last].into(),
    }
}

fn external(last: u8) -> SourceProperties {
    SourceProperties::Peer {
        id: PeerId(u32::from(last)),
        kind: PeerKind::External,
        router_id: router_id(last),
        address: [10, 0, 0, last].into(),
    }
}

fn attributes(edit: impl FnOnce(&mut PathAttributes)) -> PathAttributes {
    let mut attributes = PathAttributes::originate([10, 0, 0, 1].into());
    edit(&mut attributes);
    attributes
}

fn as_path(asns: &[u32]) -> AsPath {
    AsPath {
        segments: vec![AsPathSegment::Sequence(
            asns.iter().copied().map(Asn).collect(),
        )],
    }
}

/// Checks that the first path of `paths` wins and that each other path loses for its given reason,
/// for every rotation of `paths`.
#[track_caller]
fn check(paths: &[(PathAttributes, SourceProperties, Option<NotBestReason>)]) {
    let preferences: Vec<_> = paths
        .iter()
        .map(|(attributes, source, _)| Preference::new(attributes, *source))
        .collect();
    let candidates: Vec<_> = preferences
        .iter()
        .enumerate()
        .map(|(id, preference)| DecisionCandidate {
            preference,
            path_id: Some(PathId(u32::try_from(id).unwrap())),
        })
        .collect();
    for rotation in 0..candidates.len() {
        let mut rotated = candidates.clone();
        rotated.rotate_left(rotation);
        let expected = (candidates.len() - rotation) % candidates.len();
        assert_eq!(
            best(rotated.iter().copied()),
            Some(expected),
            "rotated by {rotation}"
        );
    }
    let reasons: Vec<_> = paths.iter().map(|(_, _, reason)| *reason).collect();
    let all: Vec<_> = verdicts(candidates.iter().copied(), candidates[0]).collect();
    assert_eq!(all, reasons);
    for (candidate, reason) in candidates.iter().zip(reasons) {
        let single = verdict_among(candidates.iter().copied(), *candidate, candidates[0]);
        assert_eq!(single, reason);
    }
}

#[test]
fn the_path_with_the_higher_local_pref_wins() {
    check(&[
        (attributes(|a| a.local_pref = Some(200)), peer(2), None),
        (
            attributes(|_| {}),
            peer(1),
            Some(NotBestReason::LowerLocalPref),
        ),
        (
            attributes(|a| a.local_pref = Some(0)),
            peer(1),
            Some(NotBestReason::LowerLocalPref),
        ),
    ]);
}

#[test]
fn a_missing_local_pref_counts_as_the_default_local_pref() {
    check(&[
        (attributes(|a| a.local_pref = Some(101)), peer(2), None),
        (
            attributes(|_| {}),
            peer(1),
            Some(NotBestReason::LowerLocalPref),
        ),
        (
            attributes(|a| a.local_pref = Some(99)),
            peer(1),
            Some(NotBestReason::LowerLocalPref),
        ),
    ]);
}

#[test]
fn an_originated_path_wins_against_a_path_of_a_peer() {
    let own = SourceProperties::Own {
        router_id: router_id(9),
    };
    check(&[
        (attributes(|_| {}), own, None),
        (
            attributes(|_| {}),
            peer(1),
            Some(NotBestReason::NotOriginatedHere),
        ),
    ]);
}

#[test]
fn the_path_with_the_shorter_as_path_wins() {
    check(&[
        (attributes(|a| a.as_path = as_path(&[1])), peer(2), None),
        (
            attributes(|a| a.as_path = as_path(&[1, 2])),
            peer(1),
            Some(NotBestReason::LongerAsPath),
        ),
    ]);
}

#[test]
fn the_path_with_the_lower_origin_wins() {
    check(&[
        (attributes(|_| {}), peer(2), None),
        (
            attributes(|a| a.origin = Origin::Egp),
            peer(1),
            Some(NotBestReason::HigherOrigin),
        ),
        (
            attributes(|a| a.origin = Origin::Incomplete),
            peer(1),
            Some(NotBestReason::HigherOrigin),
        ),
    ]);
}

#[test]
fn the_path_with_the_lower_multi_exit_disc_wins_among_paths_of_one_neighbouring_as() {
    let with = |asn: u32, discriminator: Option<u32>| {
        attributes(|a| {
            a.as_path = as_path(&[asn]);
            a.multi_exit_disc = discriminator;
        })
    };
    check(&[
        (with(1, Some(5)), peer(3), None),
        (
            with(1, Some(10)),
            peer(1),
            Some(NotBestReason::HigherMultiExitDisc),
        ),
        (
            with(2, Some(50)),
            peer(4),
            Some(NotBestReason::HigherRouterId),
        ),
    ]);
    check(&[
        (with(1, None), peer(3), None),
        (
            with(1, Some(1)),
            peer(1),
            Some(NotBestReason::HigherMultiExitDisc),
        ),
    ]);
}

/// Pairwise comparisons of these three paths would form a cycle.
#[test]
fn a_path_that_lost_by_multi_exit_disc_is_ignored_in_all_later_steps() {
    let with = |asn: u32, discriminator: u32| {
        attributes(|a| {
            a.as_path = as_path(&[asn]);
            a.multi_exit_disc = Some(discriminator);
        })
    };
    check(&[
        (with(2, 7), peer(2), None),
        (
            with(1, 10),
            peer(1),
            Some(NotBestReason::HigherMultiExitDisc),
        ),
        (with(1, 5), peer(3), Some(NotBestReason::HigherRouterId)),
    ]);
}

#[test]
fn the_multi_exit_disc_of_a_path_that_lost_in_a_step_before_multi_exit_disc_is_ignored() {
    let with = |asns: &[u32], discriminator: u32| {
        attributes(|a| {
            a.as_path = as_path(asns);
            a.multi_exit_disc = Some(discriminator);
        })
    };
    check(&[
        (with(&[1], 10), peer(2), None),
        (with(&[1, 1], 1), peer(1), Some(NotBestReason::LongerAsPath)),
    ]);
}

#[test]
fn a_path_of_an_external_peer_wins_against_a_path_of_an_internal_peer() {
    check(&[
        (attributes(|_| {}), external(2), None),
        (
            attributes(|_| {}),
            peer(1),
            Some(NotBestReason::InternalPeer),
        ),
    ]);
}

#[test]
fn the_originator_id_replaces_the_router_id_in_the_decision_process() {
    check(&[
        (
            attributes(|a| a.originator_id = Some(router_id(1))),
            peer(9),
            None,
        ),
        (
            attributes(|_| {}),
            peer(2),
            Some(NotBestReason::HigherRouterId),
        ),
        (
            attributes(|a| a.originator_id = Some(router_id(200))),
            peer(1),
            Some(NotBestReason::HigherRouterId),
        ),
    ]);
}

#[test]
fn the_path_with_the_shorter_cluster_list_wins_among_paths_of_one_originator() {
    let with = |clusters: &[u8]| {
        attributes(|a| {
            a.originator_id = Some(router_id(1));
            a.cluster_list = clusters
                .iter()
                .map(|c| ClusterId([0, 0, 0, *c].into()))
                .collect();
        })
    };
    check(&[
        (with(&[7]), peer(9), None),
        (
            with(&[5, 6]),
            peer(2),
            Some(NotBestReason::LongerClusterList),
        ),
    ]);
}

#[test]
fn the_path_of_the_peer_with_the_lower_address_wins_if_all_earlier_steps_are_equal() {
    let at = |id: u32, last: u8| SourceProperties::Peer {
        id: PeerId(id),
        kind: PeerKind::Client,
        router_id: router_id(1),
        address: [10, 0, 0, last].into(),
    };
    check(&[
        (attributes(|_| {}), at(9, 1), None),
        (
            attributes(|_| {}),
            at(1, 2),
            Some(NotBestReason::HigherPeerAddress),
        ),
    ]);
}

#[test]
fn the_path_with_the_lower_path_id_wins_among_paths_of_one_peer() {
    check(&[
        (attributes(|_| {}), peer(1), None),
        (
            attributes(|a| a.next_hop = [10, 0, 0, 2].into()),
            peer(1),
            Some(NotBestReason::HigherPathId),
        ),
    ]);
}
