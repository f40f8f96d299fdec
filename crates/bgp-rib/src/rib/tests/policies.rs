//! Tests of policy changes and of the maximum number of paths.

use super::*;

fn only(prefixes: &[&str]) -> PrefixFilter {
    let rules = prefixes.iter().map(|prefix| prefix.parse().unwrap());
    PrefixFilter::Only(rules.map(PrefixRule::exact).collect())
}

/// Returns the announced prefixes and the withdrawn prefixes of the updates.
fn announced_and_withdrawn(updates: &[Update]) -> (Vec<String>, Vec<String>) {
    let text = |nlri: &Nlri| nlri.prefix.to_string();
    let groups = updates.iter().flat_map(|update| &update.announced);
    let mut announced: Vec<_> = groups
        .flat_map(|group| group.nlri.iter().map(text))
        .collect();
    announced.sort_unstable();
    let withdrawn = updates.iter().flat_map(|update| &update.withdrawn);
    (announced, withdrawn.map(text).collect())
}

#[test]
fn a_changed_import_policy_withdraws_excluded_paths_and_requests_a_route_refresh() {
    let mut rib = reflector();
    rib.receive(A, announce(&attributes(1), &["10.1.1.0/24", "10.1.2.0/24"]))
        .unwrap();
    drain(&mut rib, ROUTER);
    let PeerSettings {
        kind,
        export,
        import,
        ..
    } = rib.peers[&A].settings.clone();
    let mut narrow = import.clone();
    narrow.prefixes = only(&["10.1.2.0/24", "10.1.3.0/24"]);
    let families = rib.set_policies(A, kind, narrow.clone(), export.clone());
    assert_eq!(families, [Family::Ipv4Unicast, Family::Ipv6Unicast]);
    let (announced, withdrawn) = announced_and_withdrawn(&drain(&mut rib, ROUTER));
    assert_eq!(
        (announced.len(), &withdrawn[..]),
        (0, &["10.1.1.0/24".to_owned()][..])
    );

    // If the policies do not change, no family is requested again and no message is sent.
    assert_eq!(rib.set_policies(A, kind, narrow, export.clone()), []);
    assert_eq!(drain(&mut rib, ROUTER), []);

    let nowhere = ImportPolicy {
        next_hops: NextHopFilter {
            prefixes: vec!["192.0.2.0/24".parse().unwrap()],
            is_peer_allowed: false,
        },
        ..import
    };
    rib.set_policies(A, kind, nowhere, export);
    assert_eq!(
        announced_and_withdrawn(&drain(&mut rib, ROUTER)).1,
        ["10.1.2.0/24"]
    );
}

#[test]
fn raising_maximum_paths_requests_rejected_paths_and_lowering_it_removes_no_path() {
    let mut rib = reflector_with_maximum(1, MaximumPathsAction::Block);
    rib.receive(A, announce(&attributes(1), &["10.1.1.0/24", "10.1.2.0/24"]))
        .unwrap();
    let PeerSettings {
        kind,
        export,
        mut import,
        ..
    } = rib.peers[&A].settings.clone();
    import.maximum_paths = Some(2);
    let families = rib.set_policies(A, kind, import.clone(), export.clone());
    assert_eq!(families, [Family::Ipv4Unicast]);
    rib.receive(A, announce(&attributes(1), &["10.1.1.0/24", "10.1.2.0/24"]))
        .unwrap();
    import.maximum_paths = Some(1);
    assert_eq!(rib.set_policies(A, kind, import, export), []);
    assert_eq!(rib.counts(A).paths_received, 2);
}

#[test]
fn a_changed_export_policy_announces_newly_allowed_paths_and_withdraws_paths_that_it_excludes() {
    let mut rib = reflector();
    rib.receive(
        A,
        announce(
            &attributes(1),
            &["10.1.1.0/24", "10.1.2.0/24", "10.1.3.0/24"],
        ),
    )
    .unwrap();
    drain(&mut rib, ROUTER);
    let PeerSettings {
        kind,
        export,
        import,
        ..
    } = rib.peers[&ROUTER].settings.clone();
    let mut check = |prefixes: PrefixFilter, announced: &[&str], withdrawn: &[&str]| {
        let export = ExportPolicy {
            prefixes,
            ..export.clone()
        };
        assert_eq!(rib.set_policies(ROUTER, kind, import.clone(), export), []);
        let mut announced_and_withdrawn = announced_and_withdrawn(&drain(&mut rib, ROUTER));
        announced_and_withdrawn.1.sort_unstable();
        assert_eq!(
            (
                &announced_and_withdrawn.0[..],
                &announced_and_withdrawn.1[..]
            ),
            (
                &announced
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()[..],
                &withdrawn
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()[..],
            )
        );
    };
    check(only(&["10.1.1.0/24", "10.1.2.0/24"]), &[], &["10.1.3.0/24"]);
    check(
        only(&["10.1.2.0/24", "10.1.3.0/24"]),
        &["10.1.3.0/24"],
        &["10.1.1.0/24"],
    );
    check(PrefixFilter::none(), &[], &["10.1.2.0/24", "10.1.3.0/24"]);
    check(
        PrefixFilter::All,
        &["10.1.1.0/24", "10.1.2.0/24", "10.1.3.0/24"],
        &[],
    );
    check(PrefixFilter::All, &[], &[]);
    // After the export policy allows prefixes again, the peer also receives changes that follow.
    rib.receive(B, announce(&attributes(2), &["10.1.4.0/24"]))
        .unwrap();
    assert_eq!(
        announced_and_withdrawn(&drain(&mut rib, ROUTER)).0,
        ["10.1.4.0/24"]
    );
}

#[test]
fn a_changed_peer_kind_changes_the_paths_that_are_reflected_from_and_to_the_peer() {
    let mut rib = reflector();
    let non_client = PeerSettings {
        kind: PeerKind::NonClient,
        ..peer(ROUTER, true)
    };
    rib.add_peer(ROUTER, non_client);
    rib.receive(A, announce(&attributes(1), &["10.1.1.0/24"]))
        .unwrap();
    assert_eq!(
        announced_and_withdrawn(&drain(&mut rib, ROUTER)).0,
        ["10.1.1.0/24"]
    );
    let PeerSettings { export, import, .. } = rib.peers[&A].settings.clone();
    // Paths of a non-client do not go to another non-client.
    let families = rib.set_policies(A, PeerKind::NonClient, import.clone(), export.clone());
    assert_eq!(families, []);
    assert_eq!(
        announced_and_withdrawn(&drain(&mut rib, ROUTER)).1,
        ["10.1.1.0/24"]
    );
    rib.set_policies(A, PeerKind::Client, import, export);
    assert_eq!(
        announced_and_withdrawn(&drain(&mut rib, ROUTER)).0,
        ["10.1.1.0/24"]
    );
}

#[test]
fn unknown_attributes_are_removed_from_stored_paths_when_the_policy_changes_to_discard() {
    let mut rib = reflector();
    let mut passing = peer(A, false);
    passing.import.unknown_attributes = UnknownAttributes::Pass;
    rib.add_peer(A, passing);
    let mut attributes = PathAttributes::originate([10, 7, 0, 1].into());
    attributes.others = vec![RawAttribute {
        flags: 0xe0,
        type_code: 99,
        value: (&b"anything"[..]).into(),
    }];
    rib.receive(A, announce(&Arc::new(attributes), &["10.1.1.0/24"]))
        .unwrap();
    drain(&mut rib, ROUTER);
    let PeerSettings {
        kind,
        export,
        mut import,
        ..
    } = rib.peers[&A].settings.clone();
    import.unknown_attributes = UnknownAttributes::Discard;
    rib.set_policies(A, kind, import, export);
    let sent = drain(&mut rib, ROUTER);
    assert_eq!(sent[0].announced[0].attributes.others, []);
}

fn reflector_with_maximum(limit: u32, action: MaximumPathsAction) -> Rib {
    let mut rib = reflector();
    let mut limited = peer(A, false);
    limited.import.maximum_paths = Some(limit);
    limited.import.at_maximum = action;
    rib.add_peer(A, limited);
    rib
}

#[test]
fn a_path_beyond_maximum_paths_is_rejected_and_stored_paths_stay() {
    let mut rib = reflector_with_maximum(2, MaximumPathsAction::Block);
    let update = announce(
        &attributes(1),
        &["10.1.1.0/24", "10.1.2.0/24", "10.1.3.0/24"],
    );
    let outcome = rib.receive(A, update).unwrap();
    assert_eq!(outcome.announced, 2);
    let rejected = (nlri("10.1.3.0/24"), RejectReason::MaximumPaths);
    assert_eq!(outcome.rejected, [rejected]);
    assert_eq!(outcome.unblocked, []);
    // At the maximum number of paths, an announcement can still replace a stored path.
    let update = announce(&attributes(2), &["10.1.2.0/24", "10.1.3.0/24"]);
    let outcome = rib.receive(A, update).unwrap();
    assert_eq!((outcome.announced, outcome.rejected.len()), (1, 1));
    assert_eq!(rib.counts(A).paths_received, 2);
    // The maximum number of paths of peer A does not limit the paths of peer B.
    let outcome = rib.receive(B, announce(&attributes(3), &["10.1.3.0/24"]));
    assert_eq!(outcome.unwrap().announced, 1);
}

#[test]
fn families_with_paths_rejected_at_maximum_paths_are_requested_once_when_there_is_room() {
    let mut rib = reflector_with_maximum(2, MaximumPathsAction::Block);
    let v6 = Arc::new(PathAttributes::originate("fd00::1".parse().unwrap()));
    for update in [
        announce(
            &attributes(1),
            &["10.1.1.0/24", "10.1.2.0/24", "10.1.3.0/24"],
        ),
        announce(&v6, &["fd00:10::/64", "fd00:11::/64"]),
        withdraw(&["10.1.3.0/24"]),
    ] {
        assert_eq!(rib.receive(A, update).unwrap().unblocked, []);
    }
    let unblocked = rib
        .receive(A, withdraw(&["10.1.1.0/24"]))
        .unwrap()
        .unblocked;
    assert_eq!(unblocked, [Family::Ipv4Unicast, Family::Ipv6Unicast]);
    let outcome = rib.receive(A, withdraw(&["10.1.2.0/24"])).unwrap();
    assert_eq!(
        outcome.unblocked,
        [],
        "no path was rejected since the last request"
    );
    // A rejected announcement removes the stored path, so that there is room for another path.
    let update = announce(
        &attributes(1),
        &["10.1.1.0/24", "10.1.2.0/24", "10.1.3.0/24"],
    );
    assert_eq!(rib.receive(A, update).unwrap().rejected.len(), 1);
    let mut looped = PathAttributes::originate([10, 7, 0, 1].into());
    looped.cluster_list = vec![CLUSTER];
    let outcome = rib.receive(A, announce(&Arc::new(looped), &["10.1.1.0/24"]));
    assert_eq!(outcome.unwrap().unblocked, [Family::Ipv4Unicast]);
}

#[test]
fn a_path_beyond_maximum_paths_returns_an_error_if_the_action_is_restart() {
    let mut rib = reflector_with_maximum(2, MaximumPathsAction::Restart);
    rib.receive(A, announce(&attributes(1), &["10.1.1.0/24", "10.1.2.0/24"]))
        .unwrap();
    rib.receive(A, announce(&attributes(2), &["10.1.1.0/24", "10.1.2.0/24"]))
        .unwrap();
    let error = rib
        .receive(A, announce(&attributes(1), &["10.1.3.0/24"]))
        .unwrap_err();
    assert_eq!(error, MaximumPathsExceeded { limit: 2 });
    rib.remove_peer(A);
    assert_eq!(rib.paths().count(), 0);
}
