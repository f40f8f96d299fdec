//! Changes of the configuration while sessions are established.

use super::*;

#[tokio::test]
async fn reconfiguration_leaves_unchanged_sessions_alone() {
    let reflector = TestSpeaker::start();
    let (stays, changes, goes) = (
        TestSpeaker::start(),
        TestSpeaker::start(),
        TestSpeaker::start(),
    );
    let passive = |peer: &TestSpeaker| PeerConfig {
        active: false,
        ..PeerConfig::new(peer.address, session())
    };
    let peers = vec![passive(&stays), passive(&changes), passive(&goes)];
    reflector.configure(peers, vec![]).await;
    for client in [&stays, &changes, &goes] {
        let peer = active(reflector.peer_of(client));
        client.configure(vec![peer], vec![]).await;
    }
    reflector.wait_established(3).await;

    let mut changed = passive(&changes);
    changed.session.hold_time_seconds = 6;
    reflector
        .configure(vec![passive(&stays), changed], vec![])
        .await;
    let last_error = |peers: &[PeerStatus]| {
        let error = peers
            .first()
            .and_then(|peer| peer.session.last_error.clone());
        error
            .map(|(_, error)| error.to_string())
            .unwrap_or_default()
    };
    goes.wait_for_peers("is told", |peers| {
        last_error(peers).contains("De-configured")
    })
    .await;
    changes
        .wait_for_peers("is told", |peers| {
            last_error(peers).contains("Other Configuration Change")
        })
        .await;
    changes
        .wait_for_peers("comes back", |peers| {
            let negotiated = peers[0].session.negotiated.as_ref();
            negotiated.is_some_and(|it| it.hold_time == Some(Duration::from_secs(6)))
        })
        .await;
    let stays = stays.peers().await;
    assert_eq!(stays[0].session.counters.established, 1);
    assert!(is_established(&stays[0]));
}

/// A group that accepts these prefixes from one peer of a few lines.
fn group_that_accepts(address: Ipv4Addr, prefixes: &[&str]) -> GroupConfig {
    let mut group = group_at(address);
    let rules = prefixes.iter().map(|prefix| PrefixRule::exact(net(prefix)));
    group.session.import.prefixes = PrefixFilter::Only(rules.collect());
    group
}

#[tokio::test]
async fn a_changed_import_policy_asks_a_peer_that_can_answer_for_its_routes() {
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
            .wait_for_paths("what is allowed", |paths| paths.len() == 1)
            .await;

        let group = group_that_accepts(address, &["10.1.1.0/24", "10.1.2.0/24"]);
        speaker.configure(vec![], vec![group]).await;
        if !capabilities.is_empty() {
            let refresh = loop {
                match peer.receive().await.expect("the session stays") {
                    Message::RouteRefresh(refresh) => break refresh,
                    Message::Update(_) | Message::Keepalive => {}
                    other @ (Message::Open(_) | Message::Notification(_)) => panic!("{other:?}"),
                }
            };
            assert_eq!(refresh.family, Some(Family::Ipv4Unicast));
        }
        // Either peer may announce again what was rejected.
        peer.announce("10.1.2.0/24").await;
        speaker
            .wait_for_paths("both", |paths| paths.len() == 2)
            .await;
        let group = group_that_accepts(address, &["10.1.2.0/24"]);
        speaker.configure(vec![], vec![group]).await;
        speaker
            .wait_for_paths(
                "what is still allowed",
                |paths| matches!(paths, [path] if path.prefix == net("10.1.2.0/24")),
            )
            .await;
        let peers = speaker.peers().await;
        assert_eq!(peers[0].session.counters.established, 1);
        assert_eq!(speaker.handle.counters().sessions_lost.get(), 0);
    }
}

#[tokio::test]
async fn an_invalid_configuration_changes_nothing() {
    let (reflector, client) = pair().await;
    let twice = reflector.peer_of(&client);
    let configuration = Configuration {
        peers: vec![twice.clone(), twice.clone()],
        groups: vec![],
    };
    let result = client.handle.configure(configuration).await.expect("runs");
    assert_eq!(result, Err(InvalidConfiguration::PeerNameTwice(twice.name)));
    assert!(is_established(&client.peers().await[0]));
}
