//! Tests of several speakers behind one address.

use super::*;

/// Models two load balancers on one node: the cluster network masquerades their connections, so
/// both have the address of the node.
#[tokio::test]
async fn each_speaker_behind_a_shared_address_has_its_own_session() {
    let (speaker, mut first) = speaker_and_raw_peer().await;
    let IpAddr::V4(address) = first
        .stream
        .local_addr()
        .expect("the connection is open")
        .ip()
    else {
        panic!("expected an IPv4 address");
    };
    first.establish_as(Ipv4Addr::new(10, 244, 1, 7), 0).await;
    let mut second = RawPeer::connect(address, speaker.address).await;
    second.establish_as(Ipv4Addr::new(10, 244, 1, 8), 0).await;
    for peer in [&mut first, &mut second] {
        peer.announce("10.1.1.10/32").await;
    }
    speaker
        .wait_for_paths("two paths", |paths| paths.len() == 2)
        .await;
    let names = |peers: &[PeerStatus]| -> Vec<String> {
        peers.iter().map(|peer| peer.name.clone()).collect()
    };
    let numbered = format!("{address}#2");
    let peers = speaker.peers().await;
    assert_eq!(names(&peers), [address.to_string(), numbered.clone()]);

    // Applying an equal configuration keeps the sessions of both peers.
    let group = GroupConfig {
        prefixes: vec![IpNet::from(IpAddr::V4(address))],
        ..group_of(&[])
    };
    speaker.configure(vec![], vec![group]).await;
    assert_eq!(speaker.handle.counters().sessions_lost.get(), 0);

    drop(first);
    speaker
        .wait_for_paths(
            "the path of the second peer",
            |paths| matches!(paths, [path] if path.peer.as_deref() == Some(&numbered)),
        )
        .await;
}

#[tokio::test]
async fn a_further_peer_is_refused_while_its_address_has_the_maximum_number_of_peers() {
    let speaker = TestSpeaker::start();
    let (address, other) = (fresh_address(), fresh_address());
    let group = GroupConfig {
        prefixes: [address, other]
            .map(|address| IpNet::from(IpAddr::V4(address)))
            .to_vec(),
        maximum_peers_per_address: 2,
        ..group_of(&[])
    };
    speaker.configure(vec![], vec![group]).await;
    let mut peers = Vec::new();
    for router_id in [7, 8] {
        let mut peer = RawPeer::connect(address, speaker.address).await;
        let router_id = Ipv4Addr::new(10, 244, 1, router_id);
        peer.establish_as(router_id, 0).await;
        peers.push(peer);
    }
    for refused in 1..3 {
        let mut third = RawPeer::connect(address, speaker.address).await;
        assert_eq!(third.receive().await, None);
        let counters = speaker.handle.counters();
        assert_eq!(counters.connections_over_address_maximum.get(), refused);
    }
    // The limit of one address does not affect another address of the group.
    let mut elsewhere = RawPeer::connect(other, speaker.address).await;
    elsewhere.establish(0).await;
    speaker.wait_established(3).await;
    let counters = speaker.handle.counters();
    assert_eq!(counters.sessions_lost.get(), 0);
    assert_eq!(counters.connections_without_peer.get(), 0);

    drop(peers.pop());
    speaker.wait_established(2).await;
    let mut third = RawPeer::connect(address, speaker.address).await;
    third.establish_as(Ipv4Addr::new(10, 244, 1, 9), 0).await;
    speaker.wait_established(3).await;
}

#[tokio::test]
async fn a_second_connection_with_the_address_and_identifier_of_an_established_peer_is_refused() {
    let (speaker, mut first) = speaker_and_raw_peer().await;
    first.establish(0).await;
    let IpAddr::V4(address) = first
        .stream
        .local_addr()
        .expect("the connection is open")
        .ip()
    else {
        panic!("expected an IPv4 address");
    };
    let mut second = RawPeer::connect(address, speaker.address).await;
    assert!(matches!(second.receive().await, Some(Message::Open(_))));
    second.send_open(address, 0, &[]).await;
    let Some(Message::Notification(notification)) = second.receive().await else {
        panic!("the second connection was accepted");
    };
    let collision = NotificationError::CONNECTION_COLLISION_RESOLUTION;
    assert_eq!(notification.error, collision);
    assert_eq!(second.receive().await, None);
    let peers = speaker.peers().await;
    assert!(matches!(&peers[..], [peer] if is_established(peer)));
    let counters = speaker.handle.counters();
    assert_eq!(counters.duplicates_refused.get(), 1);
    assert_eq!(counters.sessions_lost.get(), 0);
}

#[tokio::test]
async fn several_connections_from_one_address_can_wait_for_an_open_message() {
    let (speaker, first) = speaker_and_raw_peer().await;
    let IpAddr::V4(address) = first
        .stream
        .local_addr()
        .expect("the connection is open")
        .ip()
    else {
        panic!("expected an IPv4 address");
    };
    let mut waiting = vec![first];
    for _ in 0..2 {
        waiting.push(RawPeer::connect(address, speaker.address).await);
    }
    speaker
        .wait_for_peers("one peer for each connection", |peers| peers.len() == 3)
        .await;
    for (peer, id) in waiting.iter_mut().zip(1..) {
        peer.establish_as(Ipv4Addr::new(10, 244, 1, id), 9).await;
    }
    speaker.wait_established(3).await;
    assert_eq!(speaker.handle.counters().sessions_lost.get(), 0);
}

#[tokio::test]
async fn connections_without_an_open_message_are_bounded_and_block_no_other_speaker() {
    let speaker = TestSpeaker::start();
    let address = fresh_address();
    let group = GroupConfig {
        maximum_peers_per_address: 3,
        ..group_at(address)
    };
    speaker.configure(vec![], vec![group]).await;
    let mut established = RawPeer::connect(address, speaker.address).await;
    let id = Ipv4Addr::new(10, 244, 1, 7);
    established.establish_as(id, 9).await;
    let mut waiting = Vec::new();
    for _ in 0..10 {
        let mut peer = RawPeer::connect(address, speaker.address).await;
        assert!(matches!(peer.receive().await, Some(Message::Open(_))));
        assert!(speaker.peers().await.len() <= 3);
        waiting.push(peer);
    }
    // A new connection has replaced the oldest connection without an OPEN message.
    let Some(Message::Notification(notification)) = waiting[0].receive().await else {
        panic!("the oldest connection was not closed");
    };
    assert_eq!(notification.error, NotificationError::CONNECTION_REJECTED);
    let mut other = RawPeer::connect(address, speaker.address).await;
    let id = Ipv4Addr::new(10, 244, 1, 8);
    other.establish_as(id, 9).await;
    speaker.wait_established(2).await;
    assert_eq!(speaker.handle.counters().sessions_lost.get(), 0);
}
