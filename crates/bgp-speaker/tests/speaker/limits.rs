//! Peers that send too much, or read too little.

use std::collections::BTreeMap;

use super::*;

#[tokio::test]
async fn a_peer_with_too_many_paths_is_kept_out_until_its_maximum_is_raised() {
    let speaker = TestSpeaker::start();
    let address = fresh_address();
    let mut group = GroupConfig {
        prefixes: vec![IpNet::from(IpAddr::V4(address))],
        ..group_of(&[])
    };
    group.session.import.maximum_paths = Some(2);
    group.session.import.at_maximum = MaximumPathsAction::Restart;
    speaker.configure(vec![], vec![group.clone()]).await;
    let mut peer = RawPeer::connect(address, speaker.address).await;
    peer.establish(9).await;
    for prefix in ["10.1.0.1/32", "10.1.0.2/32", "10.1.0.3/32"] {
        peer.announce(prefix).await;
    }
    let notification = loop {
        match peer.receive().await.expect("it is told why") {
            Message::Notification(notification) => break notification,
            Message::Open(_)
            | Message::Update(_)
            | Message::Keepalive
            | Message::RouteRefresh(_) => {}
        }
    };
    assert_eq!(
        notification.error,
        NotificationError::MAXIMUM_PREFIXES_REACHED
    );
    speaker.wait_for_paths("are gone", <[_]>::is_empty).await;
    let is_let_in = async || {
        let mut again = RawPeer::connect(address, speaker.address).await;
        match again.receive().await {
            Some(Message::Open(_)) => true,
            Some(Message::Notification(notification)) => {
                assert_eq!(notification.error, NotificationError::CONNECTION_REJECTED);
                false
            }
            other => panic!("{other:?}"),
        }
    };
    assert!(!is_let_in().await);
    // A change that leaves the maximum as it is does not end the pause.
    group.session.export = ExportPolicy::default();
    speaker.configure(vec![], vec![group.clone()]).await;
    assert!(!is_let_in().await);
    group.session.import.maximum_paths = Some(3);
    speaker.configure(vec![], vec![group]).await;
    assert!(is_let_in().await);
}

#[tokio::test]
async fn paths_beyond_the_maximum_are_refused_and_asked_for_again_when_there_is_room() {
    let (reflector, client) = (TestSpeaker::start(), TestSpeaker::start());
    let mut group = group_of(&[&client]);
    group.session.import.maximum_paths = Some(2);
    reflector.configure(vec![], vec![group]).await;
    client
        .configure(vec![active(reflector.peer_of(&client))], vec![])
        .await;
    let prefixes = |paths: &[PathStatus]| {
        let prefixes = paths.iter().map(|path| path.prefix.to_string());
        prefixes.collect::<Vec<_>>()
    };
    for prefix in ["10.1.0.1/32", "10.1.0.2/32"] {
        client.originate(prefix).await;
    }
    reflector
        .wait_for_paths("both", |paths| paths.len() == 2)
        .await;
    let revision = client.originate("10.1.0.3/32").await;
    client.flushed(revision).await;
    // What is held can change at the limit. The change comes after the refused path.
    let attributes = PathAttributes {
        multi_exit_disc: Some(7),
        ..PathAttributes::originate(Ipv4Addr::new(192, 0, 2, 1).into())
    };
    client.originate_with("10.1.0.2/32", attributes).await;
    reflector
        .wait_for_paths("the change", |paths| {
            paths.len() == 2 && paths[1].attributes.multi_exit_disc == Some(7)
        })
        .await;
    assert_eq!(reflector.handle.counters().paths_over_maximum.get(), 1);

    let withdrawn = client.handle.withdraw(net("10.1.0.1/32")).await;
    withdrawn.expect("the speaker runs");
    reflector
        .wait_for_paths("the refused path", |paths| {
            prefixes(paths) == ["10.1.0.2/32", "10.1.0.3/32"]
        })
        .await;
    let peers = reflector.peers().await;
    assert_eq!(peers[0].session.counters.established, 1);
}

/// One client sends changes of a few prefixes for as long as the test lasts. The path of another
/// client is handled after a few turns of the owner, each with a bounded share of the flood.
#[tokio::test]
async fn a_client_that_floods_does_not_delay_the_path_of_another_client() {
    // The shares of a few turns, which are 128 UPDATEs each.
    const MOST_BEFORE_THE_OTHER: u64 = 512;
    let speaker = TestSpeaker::start();
    let addresses = [fresh_address(), fresh_address()];
    let group = GroupConfig {
        prefixes: addresses.map(|it| IpNet::from(IpAddr::V4(it))).to_vec(),
        ..group_of(&[])
    };
    speaker.configure(vec![], vec![group]).await;
    let mut flooding = RawPeer::connect(addresses[0], speaker.address).await;
    let mut other = RawPeer::connect(addresses[1], speaker.address).await;
    flooding.establish(0).await;
    other.establish(0).await;
    let socket = socket2::SockRef::from(&flooding.stream);
    let mut socket = std::net::TcpStream::from(socket.try_clone().expect("is open"));
    socket.set_nonblocking(false).expect("is open");
    std::thread::spawn(move || {
        let mut changes = BytesMut::new();
        for number in 0..1000 {
            let update = announcement(&format!("10.1.0.{}/32", number % 100), Some(number));
            encode(&Message::Update(update), &options(), &mut changes);
        }
        // Ends with the connection.
        while std::io::Write::write_all(&mut socket, &changes).is_ok() {}
    });
    let counters = speaker.handle.counters();
    let mut changes = speaker.handle.changes(true).await.expect("runs");
    while counters.updates_received.get() < 5_000 {
        tokio::task::yield_now().await;
    }
    let before = counters.updates_received.get();
    other.announce("10.1.1.10/32").await;
    let waiting = async {
        loop {
            let arrived = changes.next().await.expect("runs").into_iter().any(
                |change| matches!(change, Change::Path(path) if path.prefix == net("10.1.1.10/32")),
            );
            if arrived {
                return;
            }
        }
    };
    timeout(DEADLINE, waiting).await.expect("arrives in time");
    let flood = counters.updates_received.get() - before;
    assert!(flood <= MOST_BEFORE_THE_OTHER, "{flood} UPDATEs came first");
}

/// While a peer does not read, its changes coalesce: the number of UPDATEs that it gets in the end is
/// bounded by the number of prefixes and by the buffers of the connection, not by the number of changes.
#[tokio::test]
async fn a_peer_that_does_not_read_costs_no_queue() {
    const PREFIXES: u32 = 200;
    const ROUNDS: u32 = 40;
    let speaker = TestSpeaker::start();
    let address = fresh_address();
    speaker.configure(vec![], vec![group_at(address)]).await;
    let socket = TcpSocket::new_v4().expect("a socket");
    // Room for a few UPDATEs.
    socket.set_recv_buffer_size(4096).expect("is allowed");
    let mut peer = RawPeer::connect_by(socket, address, speaker.address).await;
    peer.establish(0).await;
    speaker.wait_established(1).await;
    let prefix = |index: u32| IpNet::from(IpAddr::V4(Ipv4Addr::from(0x0a01_0000 + index)));
    let mut revision = 0;
    for round in 0..ROUNDS {
        for index in 0..PREFIXES {
            // Attributes of their own let every prefix fill a message.
            let attributes = PathAttributes {
                multi_exit_disc: Some(round * PREFIXES + index),
                local_pref: Some(100),
                communities: (0..200).map(Community).collect(),
                ..PathAttributes::originate(Ipv4Addr::new(192, 0, 2, 1).into())
            };
            let result = speaker.handle.originate(prefix(index), attributes).await;
            revision = result.expect("runs").expect("families match");
        }
    }
    let last_round = |index: u32| (prefix(index), Some((ROUNDS - 1) * PREFIXES + index));
    let expected = BTreeMap::from_iter((0..PREFIXES).map(last_round));
    let mut received = BTreeMap::new();
    let mut updates = 0;
    while received != expected {
        if let Message::Update(update) = peer.receive().await.expect("the session lives") {
            updates += 1;
            for announced in update.announced {
                for nlri in announced.nlri {
                    received.insert(nlri.prefix, announced.attributes.multi_exit_disc);
                }
            }
        }
    }
    assert!(updates < PREFIXES * ROUNDS / 2, "{updates} updates");
    speaker.flushed(revision).await;
}
