//! Tests of limits: peers that send too much or read too slowly.

use std::collections::BTreeMap;

use super::*;

#[tokio::test]
async fn a_peer_with_too_many_paths_is_refused_until_its_maximum_of_paths_is_raised() {
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
        match peer.receive().await.expect("the peer receives the reason") {
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
    speaker
        .wait_for_paths("all paths are withdrawn", <[_]>::is_empty)
        .await;
    let is_accepted = async || {
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
    assert!(!is_accepted().await);
    // A configuration change without a higher maximum of paths does not end the pause.
    group.session.export = ExportPolicy::default();
    speaker.configure(vec![], vec![group.clone()]).await;
    assert!(!is_accepted().await);
    group.session.import.maximum_paths = Some(3);
    speaker.configure(vec![], vec![group]).await;
    assert!(is_accepted().await);
}

#[tokio::test]
async fn a_path_beyond_the_maximum_of_paths_is_requested_again_after_a_withdrawal() {
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
        .wait_for_paths("both paths", |paths| paths.len() == 2)
        .await;
    let revision = client.originate("10.1.0.3/32").await;
    client.flushed(revision).await;
    // A client at its maximum of paths can change an accepted path. The reflector receives this
    // change after the path that it refuses.
    let attributes = PathAttributes {
        multi_exit_disc: Some(7),
        ..PathAttributes::originate(Ipv4Addr::new(192, 0, 2, 1).into())
    };
    client.originate_with("10.1.0.2/32", attributes).await;
    reflector
        .wait_for_paths("the changed path", |paths| {
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

/// One client continuously sends changes of 100 prefixes. The owner must handle the path of another
/// client after a few turns, each with a bounded share of the changes of the first client.
#[tokio::test]
async fn a_client_that_sends_continuously_does_not_delay_the_path_of_another_client() {
    // The limit of the cost of four turns, 4 * 256, divided by the cost of an UPDATE message with
    // one prefix, 2.
    const MAX_UPDATES_BEFORE_THE_PATH: u64 = 512;
    let speaker = TestSpeaker::start();
    let addresses = [fresh_address(), fresh_address()];
    let group = GroupConfig {
        prefixes: addresses
            .map(|address| IpNet::from(IpAddr::V4(address)))
            .to_vec(),
        ..group_of(&[])
    };
    speaker.configure(vec![], vec![group]).await;
    let mut flooding = RawPeer::connect(addresses[0], speaker.address).await;
    let mut other = RawPeer::connect(addresses[1], speaker.address).await;
    flooding.establish(0).await;
    other.establish(0).await;
    let socket = socket2::SockRef::from(&flooding.stream);
    let mut socket = std::net::TcpStream::from(socket.try_clone().expect("the connection is open"));
    socket
        .set_nonblocking(false)
        .expect("the connection is open");
    std::thread::spawn(move || {
        let mut changes = BytesMut::new();
        for number in 0..1000 {
            let update = announcement(&format!("10.1.0.{}/32", number % 100), Some(number));
            encode(&Message::Update(update), &options(), &mut changes);
        }
        // The thread ends when the connection closes.
        while std::io::Write::write_all(&mut socket, &changes).is_ok() {}
    });
    let counters = speaker.handle.counters();
    let mut changes = speaker
        .handle
        .changes(true)
        .await
        .expect("the speaker runs");
    while counters.updates_received.get() < 5_000 {
        tokio::task::yield_now().await;
    }
    let before = counters.updates_received.get();
    other.announce("10.1.1.10/32").await;
    let waiting = async {
        loop {
            let arrived = changes.next().await.expect("the speaker runs").into_iter().any(
                |change| matches!(change, SpeakerChange::Path(path) if path.prefix == net("10.1.1.10/32")),
            );
            if arrived {
                return;
            }
        }
    };
    timeout(DEADLINE, waiting)
        .await
        .expect("the path arrives in time");
    let flood = counters.updates_received.get() - before;
    assert!(
        flood <= MAX_UPDATES_BEFORE_THE_PATH,
        "{flood} UPDATE messages were handled before the path"
    );
}

/// While a peer does not read, the changes for this peer coalesce. The number of UPDATE messages
/// that the peer finally receives depends on the number of prefixes and the buffers of the
/// connection, not on the number of changes.
#[tokio::test]
async fn the_changes_for_a_peer_that_does_not_read_coalesce() {
    const PREFIXES: u32 = 200;
    const ROUNDS: u32 = 40;
    let speaker = TestSpeaker::start();
    let address = fresh_address();
    speaker.configure(vec![], vec![group_at(address)]).await;
    let socket = TcpSocket::new_v4().expect("a socket can be created");
    // The receive buffer holds only a few UPDATE messages.
    socket
        .set_recv_buffer_size(4096)
        .expect("the buffer size is set");
    let mut peer = RawPeer::connect_by(socket, address, speaker.address).await;
    peer.establish(0).await;
    speaker.wait_established(1).await;
    let prefix = |index: u32| IpNet::from(IpAddr::V4(Ipv4Addr::from(0x0a01_0000 + index)));
    let mut revision = 0;
    for round in 0..ROUNDS {
        for index in 0..PREFIXES {
            // Every prefix has different attributes, so every prefix needs its own message.
            let attributes = PathAttributes {
                multi_exit_disc: Some(round * PREFIXES + index),
                local_pref: Some(100),
                communities: (0..200).map(Community).collect(),
                ..PathAttributes::originate(Ipv4Addr::new(192, 0, 2, 1).into())
            };
            let result = speaker.handle.originate(prefix(index), attributes).await;
            revision = result
                .expect("the speaker runs")
                .expect("the next hop is of the family of the prefix");
        }
    }
    let last_round = |index: u32| (prefix(index), Some((ROUNDS - 1) * PREFIXES + index));
    let expected = BTreeMap::from_iter((0..PREFIXES).map(last_round));
    let mut received = BTreeMap::new();
    let mut updates = 0;
    while received != expected {
        if let Message::Update(update) = peer.receive().await.expect("the session is established") {
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
