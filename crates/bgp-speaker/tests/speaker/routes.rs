//! Tests of the exchange of paths between speakers.

use super::*;

#[tokio::test]
async fn a_path_is_announced_and_withdrawn() {
    let (reflector, client) = pair().await;
    client.originate("10.1.1.10/32").await;
    reflector
        .wait_for_paths(
            "one path",
            |paths| matches!(paths, [path] if path.prefix == net("10.1.1.10/32") && path.is_best),
        )
        .await;
    let paths = reflector.paths().await;
    assert_eq!(paths[0].peer, Some(client.ip().to_string()));
    client
        .handle
        .withdraw(net("10.1.1.10/32"))
        .await
        .expect("the speaker runs");
    reflector.wait_for_paths("no path", <[_]>::is_empty).await;
}

#[tokio::test]
async fn the_paths_of_a_peer_are_removed_after_its_connection_was_lost() {
    let (reflector, client) = pair().await;
    client.originate("10.1.1.10/32").await;
    reflector
        .wait_for_paths("one path", |paths| paths.len() == 1)
        .await;
    client.task.abort();
    reflector.wait_for_paths("no path", <[_]>::is_empty).await;
    // A dynamic peer is removed with its session.
    assert_eq!(reflector.peers().await, []);
}

#[tokio::test]
async fn a_router_with_add_path_gets_the_paths_of_all_clients() {
    let reflector = TestSpeaker::start();
    let clients = [(); 3].map(|()| TestSpeaker::start());
    let router = TestSpeaker::start();
    let add_path = |mode| {
        vec![OfferedFamily {
            family: Family::Ipv4Unicast,
            add_path: Some(mode),
        }]
    };
    let mut to_router = PeerConfig::new(router.address, session());
    to_router.active = false;
    to_router.session.families = add_path(AddPathMode::Send);
    let group = group_of(&clients.each_ref());
    reflector.configure(vec![to_router], vec![group]).await;
    let mut to_reflector = active(reflector.peer_of(&router));
    to_reflector.session.families = add_path(AddPathMode::Receive);
    router.configure(vec![to_reflector], vec![]).await;
    for client in &clients {
        let peer = active(reflector.peer_of(client));
        client.configure(vec![peer], vec![]).await;
        client.originate("10.1.1.0/24").await;
    }
    router
        .wait_for_paths("three paths", |paths| paths.len() == 3)
        .await;
    let [first, ..] = &clients;
    first.task.abort();
    router
        .wait_for_paths("two paths", |paths| paths.len() == 2)
        .await;
}

#[tokio::test]
async fn an_announcement_with_changed_attributes_replaces_the_path() {
    let (reflector, client) = pair().await;
    client.originate("10.1.1.10/32").await;
    let drained = PathAttributes {
        local_pref: Some(0),
        communities: vec![Community::GRACEFUL_SHUTDOWN],
        ..PathAttributes::originate(Ipv4Addr::new(192, 0, 2, 1).into())
    };
    let revision = client.originate_with("10.1.1.10/32", drained.clone()).await;
    client.flushed(revision).await;
    reflector
        .wait_for_paths("the changed path", |paths| {
            matches!(paths, [path] if path.attributes.communities == drained.communities
                && path.attributes.local_pref == Some(0))
        })
        .await;
}

#[tokio::test]
async fn an_unspecified_next_hop_is_replaced_with_the_local_address_of_the_session() {
    let (reflector, client) = pair().await;
    let attributes = PathAttributes::originate(Ipv4Addr::UNSPECIFIED.into());
    let revision = client.originate_with("10.1.1.10/32", attributes).await;
    client.flushed(revision).await;
    // The test reads the Adj-RIB-Out of the client, because the reflector rejects next hops in
    // 127.0.0.0/8.
    let name = client.peers().await[0].name.clone();
    let sent = client
        .handle
        .paths(PathQuery::all(PathTable::AdjRibOut(name)))
        .await;
    let sent = sent.expect("the speaker runs");
    assert!(
        matches!(&sent[..], [path] if path.attributes.next_hop == client.ip()),
        "{sent:#?}"
    );
    client.originate("10.1.1.11/32").await;
    reflector
        .wait_for_paths("the second path", |paths| paths.len() == 1)
        .await;
    assert_eq!(reflector.handle.counters().paths_rejected.get(), 1);
}

#[tokio::test]
async fn an_announcement_to_an_external_peer_has_the_local_as_and_no_local_pref() {
    let (router, client) = (TestSpeaker::start_in(Asn(64600)), TestSpeaker::start());
    let to_client = PeerConfig {
        active: false,
        ..PeerConfig::new(client.address, session())
    };
    router.configure(vec![to_client], vec![]).await;
    let mut to_router = active(router.peer_of(&client));
    to_router.session.peer_asn = Some(Asn(64600));
    client.configure(vec![to_router], vec![]).await;
    let attributes = PathAttributes {
        local_pref: Some(250),
        ..PathAttributes::originate(Ipv4Addr::new(192, 0, 2, 1).into())
    };
    client.originate_with("10.1.1.10/32", attributes).await;
    router
        .wait_for_paths("one path", |paths| paths.len() == 1)
        .await;
    let attributes = router.paths().await[0].attributes.clone();
    assert_eq!(attributes.as_path.to_string(), ASN.to_string());
    // The announcement has no LOCAL_PREF, so the router uses its default.
    assert_eq!(attributes.local_pref, Some(DEFAULT_LOCAL_PREF));
    assert_eq!(attributes.next_hop.to_string(), "192.0.2.1");
}

#[tokio::test]
async fn a_revision_counts_as_flushed_without_an_established_session() {
    let speaker = TestSpeaker::start();
    let revision = speaker.originate("10.1.1.10/32").await;
    speaker.flushed(revision).await;
}
