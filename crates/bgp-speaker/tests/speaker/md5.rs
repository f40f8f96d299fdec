//! TCP MD5 keys.

use super::*;

fn key(text: &str) -> Md5Key {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("key");
    std::fs::write(&file, text).expect("is written");
    Md5Key::read(&file).expect("is a key")
}

/// Has the client dial with this key, and soon again.
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

/// Nobody answers a SYN that is not signed as it shall be.
async fn wait_until_nobody_answers(client: &TestSpeaker) {
    client
        .wait_for_peers("no answer", |peers| {
            let error = peers[0].session.last_error.as_ref();
            matches!(error, Some((_, SessionError::DialTimeout(_))))
        })
        .await;
}

#[tokio::test]
async fn a_session_comes_up_with_equal_keys_only() {
    let (one, other) = (key("one"), key("other"));
    let reflector = TestSpeaker::start();
    let clients = [(); 3].map(|()| TestSpeaker::start());
    accept_with(&reflector, &clients.each_ref(), Some(&one)).await;
    let [equal, different, without] = &clients;
    dial_with(different, &reflector, Some(&other)).await;
    dial_with(without, &reflector, None).await;
    wait_until_nobody_answers(different).await;
    wait_until_nobody_answers(without).await;
    dial_with(equal, &reflector, Some(&one)).await;
    equal.wait_established(1).await;
    reflector.wait_established(1).await;
    let counters = reflector.handle.counters();
    assert_eq!(counters.connections_accepted.get(), 1);

    let reflector = TestSpeaker::start();
    accept_with(&reflector, &[different, without], None).await;
    dial_with(different, &reflector, Some(&other)).await;
    wait_until_nobody_answers(different).await;
    dial_with(without, &reflector, None).await;
    without.wait_established(1).await;
}

#[tokio::test]
async fn a_session_over_ipv6_comes_up_with_equal_keys_only() {
    let (one, other) = (key("one"), key("other"));
    let at_home = |()| TestSpeaker::start_at(Ipv6Addr::LOCALHOST.into(), fresh_address(), ASN);
    let [reflector, client] = [(); 2].map(at_home);
    accept_with(&reflector, &[&client], Some(&one)).await;
    dial_with(&client, &reflector, Some(&other)).await;
    wait_until_nobody_answers(&client).await;
    dial_with(&client, &reflector, Some(&one)).await;
    client.wait_established(1).await;
}

#[tokio::test]
async fn a_peer_with_an_address_of_its_own_has_a_key_of_its_own() {
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
    wait_until_nobody_answers(&router).await;
    dial_with(&router, &reflector, Some(&other)).await;
    reflector.wait_established(2).await;
}

#[tokio::test]
async fn a_key_can_change_and_go_while_the_speaker_runs() {
    let (one, other) = (key("one"), key("other"));
    let (reflector, client) = (TestSpeaker::start(), TestSpeaker::start());
    accept_with(&reflector, &[&client], Some(&one)).await;
    dial_with(&client, &reflector, Some(&one)).await;
    client.wait_established(1).await;

    accept_with(&reflector, &[&client], Some(&other)).await;
    client
        .wait_for_peers("the session ends", |peers| !is_established(&peers[0]))
        .await;
    wait_until_nobody_answers(&client).await;
    dial_with(&client, &reflector, Some(&other)).await;
    client.wait_established(1).await;

    accept_with(&reflector, &[&client], None).await;
    dial_with(&client, &reflector, None).await;
    client.wait_established(1).await;
    reflector.wait_established(1).await;
}
