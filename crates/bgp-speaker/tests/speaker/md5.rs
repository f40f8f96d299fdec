//! Tests of TCP MD5 keys.

use super::*;

fn key(text: &str) -> Md5Key {
    let folder = tempfile::tempdir().expect("a temporary folder can be created");
    let file = folder.path().join("key");
    std::fs::write(&file, text).expect("the file is written");
    Md5Key::read(&file).expect("the file has a valid key")
}

/// Configures the client to dial the reflector with this key. A dial without an answer fails after
/// 300 ms.
async fn dial_with(client: &TestSpeaker, reflector: &TestSpeaker, key: Option<&Md5Key>) {
    let mut peer = active(reflector.peer_of(client));
    peer.session.md5_key = key.cloned();
    peer.session.connect_timeout = Duration::from_millis(300);
    client.configure(vec![peer], vec![]).await;
}

async fn accept_with(reflector: &TestSpeaker, clients: &[&TestSpeaker], key: Option<&Md5Key>) {
    let mut group = group_of(clients);
    group.session.md5_key = key.cloned();
    reflector.configure(vec![], vec![group]).await;
}

/// Waits until a dial of the client times out: the kernel of the reflector drops a SYN without a
/// valid signature.
async fn wait_for_dial_timeout(client: &TestSpeaker) {
    client
        .wait_for_peers("a dial has timed out", |peers| {
            let error = peers[0].session.last_error.as_ref();
            matches!(error, Some((_, SessionError::DialTimeout(_))))
        })
        .await;
}

#[tokio::test]
async fn a_session_is_established_only_if_the_keys_of_both_sides_are_equal() {
    let (one, other) = (key("one"), key("other"));
    let reflector = TestSpeaker::start();
    let clients = [(); 3].map(|()| TestSpeaker::start());
    accept_with(&reflector, &clients.each_ref(), Some(&one)).await;
    let [equal, different, without] = &clients;
    dial_with(different, &reflector, Some(&other)).await;
    dial_with(without, &reflector, None).await;
    wait_for_dial_timeout(different).await;
    wait_for_dial_timeout(without).await;
    dial_with(equal, &reflector, Some(&one)).await;
    equal.wait_established(1).await;
    reflector.wait_established(1).await;
    let counters = reflector.handle.counters();
    assert_eq!(counters.connections_accepted.get(), 1);

    let reflector = TestSpeaker::start();
    accept_with(&reflector, &[different, without], None).await;
    dial_with(different, &reflector, Some(&other)).await;
    wait_for_dial_timeout(different).await;
    dial_with(without, &reflector, None).await;
    without.wait_established(1).await;
}

#[tokio::test]
async fn a_session_over_ipv6_is_established_only_if_the_keys_of_both_sides_are_equal() {
    let (one, other) = (key("one"), key("other"));
    let on_loopback = |()| TestSpeaker::start_at(Ipv6Addr::LOCALHOST.into(), fresh_address(), ASN);
    let [reflector, client] = [(); 2].map(on_loopback);
    accept_with(&reflector, &[&client], Some(&one)).await;
    dial_with(&client, &reflector, Some(&other)).await;
    wait_for_dial_timeout(&client).await;
    dial_with(&client, &reflector, Some(&one)).await;
    client.wait_established(1).await;
}

#[tokio::test]
async fn the_key_of_a_configured_peer_overrides_the_key_of_a_group_prefix_around_its_address() {
    let (one, other) = (key("one"), key("other"));
    let reflector = TestSpeaker::start();
    let (client, router) = (TestSpeaker::start(), TestSpeaker::start());
    let mut group = group_of(&[&client, &router]);
    group.session.md5_key = Some(one.clone());
    let mut to_router = PeerConfig {
        active: false,
        ..PeerConfig::new(router.address, session())
    };
    to_router.session.md5_key = Some(other.clone());
    reflector.configure(vec![to_router], vec![group]).await;
    dial_with(&client, &reflector, Some(&one)).await;
    dial_with(&router, &reflector, Some(&one)).await;
    wait_for_dial_timeout(&router).await;
    dial_with(&router, &reflector, Some(&other)).await;
    reflector.wait_established(2).await;
}

#[tokio::test]
async fn a_key_can_be_changed_and_removed_while_the_speaker_runs() {
    let (one, other) = (key("one"), key("other"));
    let (reflector, client) = (TestSpeaker::start(), TestSpeaker::start());
    accept_with(&reflector, &[&client], Some(&one)).await;
    dial_with(&client, &reflector, Some(&one)).await;
    client.wait_established(1).await;

    accept_with(&reflector, &[&client], Some(&other)).await;
    client
        .wait_for_peers("the session ends", |peers| !is_established(&peers[0]))
        .await;
    wait_for_dial_timeout(&client).await;
    dial_with(&client, &reflector, Some(&other)).await;
    client.wait_established(1).await;

    accept_with(&reflector, &[&client], None).await;
    dial_with(&client, &reflector, None).await;
    client.wait_established(1).await;
    reflector.wait_established(1).await;
}
