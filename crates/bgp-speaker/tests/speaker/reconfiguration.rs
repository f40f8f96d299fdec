//! Tests of configuration changes while sessions are established.

use super::*;

#[tokio::test]
async fn a_reconfiguration_keeps_the_sessions_of_unchanged_peers() {
    let reflector = TestSpeaker::start();
    let (unchanged, changed_peer, removed) = (
        TestSpeaker::start(),
        TestSpeaker::start(),
        TestSpeaker::start(),
    );
    let passive = |peer: &TestSpeaker| PeerConfig {
        active: false,
        ..PeerConfig::new(peer.address, session())
    };
    let peers = vec![
        passive(&unchanged),
        passive(&changed_peer),
        passive(&removed),
    ];
    reflector.configure(peers, vec![]).await;
    for client in [&unchanged, &changed_peer, &removed] {
        let peer = active(reflector.peer_of(client));
        client.configure(vec![peer], vec![]).await;
    }
    reflector.wait_established(3).await;

    let mut changed = passive(&changed_peer);
    changed.session.hold_time_seconds = 6;
    reflector
        .configure(vec![passive(&unchanged), changed], vec![])
        .await;
    let last_error = |peers: &[PeerStatus]| {
        let error = peers
            .first()
            .and_then(|peer| peer.session.last_error.clone());
        error
            .map(|(_, error)| error.to_string())
            .unwrap_or_default()
    };
    removed
        .wait_for_peers("the removed peer receives the reason", |peers| {
            last_error(peers).contains("De-configured")
        })
        .await;
    changed_peer
        .wait_for_peers("the changed peer receives the reason", |peers| {
            last_error(peers).contains("Other Configuration Change")
        })
        .await;
    changed_peer
        .wait_for_peers("the session has the changed hold time", |peers| {
            let negotiated = peers[0].session.negotiated.as_ref();
            negotiated
                .is_some_and(|negotiated| negotiated.hold_time == Some(Duration::from_secs(6)))
        })
        .await;
    let peers = unchanged.peers().await;
    assert_eq!(peers[0].session.counters.established, 1);
    assert!(is_established(&peers[0]));
}

/// Returns a group that accepts these prefixes from a peer at this address.
fn group_that_accepts(address: Ipv4Addr, prefixes: &[&str]) -> GroupConfig {
    let mut group = group_at(address);
    let rules = prefixes.iter().map(|prefix| PrefixRule::exact(net(prefix)));
    group.session.import.prefixes = PrefixFilter::Only(rules.collect());
    group
}

#[tokio::test]
async fn a_peer_with_route_refresh_is_asked_for_its_routes_after_a_change_of_import_policy() {
    for capabilities in [&[Capability::RouteRefresh][..], &[]] {
        let speaker = TestSpeaker::start();
        let address = fresh_address();
        let group = group_that_accepts(address, &["10.1.1.0/24"]);
        speaker.configure(vec![], vec![group]).await;
        let mut peer = RawPeer::connect(address, speaker.address).await;
        peer.establish_with(0, capabilities).await;
        peer.announce("10.1.2.0/24").await;
        peer.announce("10.1.1.0/24").await;
        speaker
            .wait_for_paths("the allowed path", |paths| paths.len() == 1)
            .await;

        let group = group_that_accepts(address, &["10.1.1.0/24", "10.1.2.0/24"]);
        speaker.configure(vec![], vec![group]).await;
        if !capabilities.is_empty() {
            let refresh = loop {
                match peer
                    .receive()
                    .await
                    .expect("the session is still established")
                {
                    Message::RouteRefresh(refresh) => break refresh,
                    Message::Update(_) | Message::Keepalive => {}
                    other @ (Message::Open(_) | Message::Notification(_)) => panic!("{other:?}"),
                }
            };
            assert_eq!(refresh.family, Some(Family::Ipv4Unicast));
        }
        // A peer with or without the ROUTE-REFRESH capability can announce the rejected path once
        // more.
        peer.announce("10.1.2.0/24").await;
        speaker
            .wait_for_paths("both paths", |paths| paths.len() == 2)
            .await;
        let group = group_that_accepts(address, &["10.1.2.0/24"]);
        speaker.configure(vec![], vec![group]).await;
        speaker
            .wait_for_paths(
                "the path that is still allowed",
                |paths| matches!(paths, [path] if path.prefix == net("10.1.2.0/24")),
            )
            .await;
        let peers = speaker.peers().await;
        assert_eq!(peers[0].session.counters.established, 1);
        assert_eq!(speaker.handle.counters().sessions_lost.get(), 0);
    }
}

#[tokio::test]
async fn an_invalid_configuration_is_rejected_and_the_session_stays_established() {
    let (reflector, client) = pair().await;
    let peer = reflector.peer_of(&client);
    let configuration = Configuration {
        peers: vec![peer.clone(), peer.clone()],
        groups: vec![],
    };
    let result = client
        .handle
        .configure(configuration)
        .await
        .expect("the speaker runs");
    assert_eq!(result, Err(InvalidConfiguration::PeerNameTwice(peer.name)));
    assert!(is_established(&client.peers().await[0]));
}
