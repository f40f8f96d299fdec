//! Tests of silent peers, a suspended process and invalid messages.

use super::*;

#[tokio::test]
async fn the_paths_of_a_silent_peer_are_removed_after_the_hold_time() {
    let (speaker, mut peer) = speaker_and_raw_peer().await;
    peer.establish(3).await;
    peer.announce("10.1.1.10/32").await;
    speaker
        .wait_for_paths("one path", |paths| paths.len() == 1)
        .await;
    let begin = std::time::Instant::now();
    speaker.wait_for_paths("no path", <[_]>::is_empty).await;
    let passed = begin.elapsed();
    assert!(
        passed > Duration::from_millis(2000) && passed < Duration::from_millis(8000),
        "{passed:?}"
    );
}

/// Blocks the thread of the speaker for longer than the hold time, as a suspension by SIGSTOP does.
#[tokio::test]
async fn the_session_of_a_peer_that_sends_keepalives_survives_a_suspension_of_this_process() {
    let (speaker, mut peer) = speaker_and_raw_peer().await;
    peer.establish(3).await;
    speaker.wait_established(1).await;
    let socket = socket2::SockRef::from(&peer.stream);
    let mut socket = std::net::TcpStream::from(socket.try_clone().expect("the connection is open"));
    let mut keepalive = BytesMut::new();
    encode(&Message::Keepalive, &options(), &mut keepalive);
    for _ in 0..4 {
        std::thread::sleep(Duration::from_secs(1));
        std::io::Write::write_all(&mut socket, &keepalive).expect("the send buffer has room");
    }
    // This request for the peers wakes the owner before the runtime polls a socket.
    assert!(is_established(&speaker.peers().await[0]));
    peer.announce("10.1.1.10/32").await;
    speaker
        .wait_for_paths("one path", |paths| paths.len() == 1)
        .await;
    assert_eq!(speaker.handle.counters().sessions_lost.get(), 0);
}

#[tokio::test]
async fn the_session_of_a_silent_peer_ends_within_two_seconds_after_a_suspension_of_this_process() {
    let (speaker, mut peer) = speaker_and_raw_peer().await;
    peer.establish(3).await;
    speaker.wait_established(1).await;
    std::thread::sleep(Duration::from_secs(4));
    let begin = std::time::Instant::now();
    speaker
        .wait_for_peers("the peer is removed", <[_]>::is_empty)
        .await;
    let passed = begin.elapsed();
    assert!(passed < Duration::from_secs(2), "{passed:?}");
}

#[tokio::test]
async fn invalid_bytes_are_answered_with_a_notification() {
    let (_speaker, mut peer) = speaker_and_raw_peer().await;
    assert!(matches!(peer.receive().await, Some(Message::Open(_))));
    peer.stream
        .write_all(b"GET / HTTP/1.1\r\nHost: bgp.example\r\n\r\n")
        .await
        .expect("the connection is open");
    let Some(Message::Notification(notification)) = peer.receive().await else {
        panic!("no NOTIFICATION");
    };
    assert_eq!(
        notification.error,
        NotificationError::CONNECTION_NOT_SYNCHRONIZED
    );
    assert_eq!(peer.receive().await, None);
}
