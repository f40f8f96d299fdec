//! Connections that come, go and are refused.

use super::*;

#[tokio::test]
async fn speakers_that_dial_each_other_end_with_one_session() {
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
async fn shutdown_tells_each_peer_why_and_waits_for_it() {
    let (reflector, client) = pair().await;
    let mut changes = client.handle.changes(false).await.expect("runs");
    let cease = Cease::AdministrativeShutdown {
        text: "maintenance at noon".into(),
    };
    let shutdown = reflector.handle.shutdown(cease, DEADLINE);
    timeout(DEADLINE / 2, shutdown)
        .await
        .expect("ends before its deadline")
        .expect("it ran");
    reflector.task.await.expect("ends");
    let waiting = async {
        loop {
            for change in changes.next().await.expect("runs") {
                if let Change::Peer(peer) = change
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
        .expect("the client was told");
}

#[tokio::test]
async fn a_lost_listener_is_dialled_until_it_is_back() {
    let (reflector, client) = pair().await;
    client.originate("10.1.1.10/32").await;
    let address = reflector.address;
    reflector.task.abort();
    let _ = reflector.task.await;
    client.wait_established(0).await;
    let speaker = Speaker::bind(SpeakerConfig {
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
        .wait_for_paths("is announced again", |paths| paths.len() == 1)
        .await;
}

#[tokio::test]
async fn a_stranger_is_refused_and_leaves_no_trace() {
    let (speaker, _) = speaker_and_raw_peer().await;
    let mut stranger = RawPeer::connect(fresh_address(), speaker.address).await;
    assert_eq!(stranger.receive().await, None);
    let counters = speaker.handle.counters();
    assert_eq!(counters.strangers_refused.get(), 1);
    let peers = speaker.peers().await;
    let addresses: Vec<_> = peers.iter().map(|peer| peer.address.ip()).collect();
    assert!(!addresses.contains(&stranger.stream.local_addr().unwrap().ip()));
}

#[tokio::test]
async fn a_full_group_takes_no_more_peers() {
    let speaker = TestSpeaker::start();
    let addresses = [fresh_address(), fresh_address()];
    let group = GroupConfig {
        prefixes: addresses.map(|it| IpNet::from(IpAddr::V4(it))).to_vec(),
        maximum_peers: 1,
        ..group_of(&[])
    };
    speaker.configure(vec![], vec![group]).await;
    let mut first = RawPeer::connect(addresses[0], speaker.address).await;
    first.establish(9).await;
    let mut second = RawPeer::connect(addresses[1], speaker.address).await;
    assert_eq!(second.receive().await, None);
    drop(first);
    speaker.wait_for_peers("has room", <[_]>::is_empty).await;
    let mut second = RawPeer::connect(addresses[1], speaker.address).await;
    second.establish(9).await;
}

#[tokio::test]
async fn connections_that_are_reset_at_once_leave_no_peer() {
    let (speaker, peer) = speaker_and_raw_peer().await;
    let address = peer.stream.local_addr().expect("is open").ip();
    drop(peer);
    for _ in 0..50 {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((address, 0).into()).expect("loopback is there");
        let stream = socket.connect(speaker.address).await.expect("it listens");
        let socket = socket2::SockRef::from(&stream);
        socket.set_linger(Some(Duration::ZERO)).expect("is open");
    }
    speaker.wait_for_peers("are gone", <[_]>::is_empty).await;
}
