//! Tests of the start, the end and the refusal of connections.

use super::*;

#[tokio::test]
async fn two_speakers_that_dial_each_other_establish_one_session() {
    for _ in 0..5 {
        let (one, other) = (TestSpeaker::start(), TestSpeaker::start());
        one.configure(vec![other.peer_of(&one)], vec![]).await;
        other.configure(vec![one.peer_of(&other)], vec![]).await;
        one.wait_established(1).await;
        other.wait_established(1).await;
        one.originate("10.1.1.10/32").await;
        other
            .wait_for_paths("one path", |paths| paths.len() == 1)
            .await;
    }
}

#[tokio::test]
async fn a_shutdown_sends_its_reason_to_the_peer_and_ends_before_its_deadline() {
    let (reflector, client) = pair().await;
    let mut changes = client
        .handle
        .changes(false)
        .await
        .expect("the speaker runs");
    let cease = Cease::AdministrativeShutdown {
        text: "maintenance at noon".into(),
    };
    let shutdown = reflector.handle.shutdown(cease, DEADLINE);
    timeout(DEADLINE / 2, shutdown)
        .await
        .expect("the shutdown ends before its deadline")
        .expect("the speaker was running");
    reflector.task.await.expect("the task ends");
    let waiting = async {
        loop {
            for change in changes.next().await.expect("the speaker runs") {
                if let SpeakerChange::Peer(peer) = change
                    && let Some((_, error)) = &peer.session.last_error
                    && error.to_string().contains("maintenance at noon")
                {
                    return;
                }
            }
        }
    };
    timeout(DEADLINE, waiting)
        .await
        .expect("the client received the reason in time");
}

#[tokio::test]
async fn a_speaker_dials_a_lost_peer_until_the_peer_listens_again() {
    let (reflector, client) = pair().await;
    client.originate("10.1.1.10/32").await;
    let address = reflector.address;
    reflector.task.abort();
    let _ = reflector.task.await;
    client.wait_established(0).await;
    let speaker = BgpSpeaker::bind(SpeakerConfig {
        local_asn: ASN,
        router_id: RouterId(Ipv4Addr::new(10, 0, 0, 1)),
        cluster_id: ClusterId(Ipv4Addr::new(10, 0, 0, 1)),
        listen: vec![address],
    })
    .expect("the address is free");
    let reflector = TestSpeaker {
        handle: speaker.handle(),
        address,
        task: tokio::spawn(async move { speaker.run().await.expect("no task panics") }),
    };
    reflector
        .configure(vec![], vec![group_of(&[&client])])
        .await;
    reflector
        .wait_for_paths("the path is announced again", |paths| paths.len() == 1)
        .await;
}

#[tokio::test]
async fn a_connection_from_an_unknown_address_is_refused_and_adds_no_peer() {
    let (speaker, _) = speaker_and_raw_peer().await;
    let mut unknown = RawPeer::connect(fresh_address(), speaker.address).await;
    assert_eq!(unknown.receive().await, None);
    let counters = speaker.handle.counters();
    assert_eq!(counters.connections_without_peer.get(), 1);
    let peers = speaker.peers().await;
    let addresses: Vec<_> = peers.iter().map(|peer| peer.address.ip()).collect();
    assert!(!addresses.contains(&unknown.stream.local_addr().unwrap().ip()));
}

#[tokio::test]
async fn a_group_with_its_maximum_number_of_peers_refuses_further_peers() {
    let speaker = TestSpeaker::start();
    let addresses = [fresh_address(), fresh_address()];
    let group = GroupConfig {
        prefixes: addresses
            .map(|address| IpNet::from(IpAddr::V4(address)))
            .to_vec(),
        maximum_peers: 1,
        ..group_of(&[])
    };
    speaker.configure(vec![], vec![group]).await;
    let mut first = RawPeer::connect(addresses[0], speaker.address).await;
    first.establish(9).await;
    let mut second = RawPeer::connect(addresses[1], speaker.address).await;
    assert_eq!(second.receive().await, None);
    drop(first);
    speaker
        .wait_for_peers("the first peer is removed", <[_]>::is_empty)
        .await;
    let mut second = RawPeer::connect(addresses[1], speaker.address).await;
    second.establish(9).await;
}

#[tokio::test]
async fn connections_that_are_reset_immediately_leave_no_peer() {
    let (speaker, peer) = speaker_and_raw_peer().await;
    let address = peer
        .stream
        .local_addr()
        .expect("the connection is open")
        .ip();
    drop(peer);
    for _ in 0..50 {
        let socket = TcpSocket::new_v4().expect("a socket can be created");
        socket
            .bind((address, 0).into())
            .expect("the loopback address is available");
        let stream = socket
            .connect(speaker.address)
            .await
            .expect("the speaker listens");
        let socket = socket2::SockRef::from(&stream);
        socket
            .set_linger(Some(Duration::ZERO))
            .expect("the connection is open");
    }
    speaker
        .wait_for_peers("all peers are removed", <[_]>::is_empty)
        .await;
}
