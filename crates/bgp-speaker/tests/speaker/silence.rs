//! Silence, sleep and garbage.

use super::*;

#[tokio::test]
async fn a_silent_peer_is_given_up_after_the_hold_time() {
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

/// The thread that runs the speaker stands still for longer than the hold time, as after SIGSTOP.
#[tokio::test]
async fn a_sleep_of_this_process_ends_no_session_of_a_live_peer() {
    let (speaker, mut peer) = speaker_and_raw_peer().await;
    peer.establish(3).await;
    speaker.wait_established(1).await;
    let socket = socket2::SockRef::from(&peer.stream);
    let mut socket = std::net::TcpStream::from(socket.try_clone().expect("is open"));
    let mut keepalive = BytesMut::new();
    encode(&Message::Keepalive, &options(), &mut keepalive);
    for _ in 0..4 {
        std::thread::sleep(Duration::from_secs(1));
        std::io::Write::write_all(&mut socket, &keepalive).expect("the kernel takes it");
    }
    // This command wakes the owner before the runtime polls a socket.
    assert!(is_established(&speaker.peers().await[0]));
    peer.announce("10.1.1.10/32").await;
    speaker
        .wait_for_paths("one path", |paths| paths.len() == 1)
        .await;
    assert_eq!(speaker.handle.counters().sessions_lost.get(), 0);
}

#[tokio::test]
async fn a_peer_that_is_silent_during_a_sleep_of_this_process_is_given_up_after_it() {
    let (speaker, mut peer) = speaker_and_raw_peer().await;
    peer.establish(3).await;
    speaker.wait_established(1).await;
    std::thread::sleep(Duration::from_secs(4));
    let begin = std::time::Instant::now();
    speaker.wait_for_peers("is gone", <[_]>::is_empty).await;
    let passed = begin.elapsed();
    assert!(passed < Duration::from_secs(2), "{passed:?}");
}

#[tokio::test]
async fn garbage_is_answered_with_a_notification() {
    let (_speaker, mut peer) = speaker_and_raw_peer().await;
    assert!(matches!(peer.receive().await, Some(Message::Open(_))));
    peer.stream
        .write_all(b"GET / HTTP/1.1\r\nHost: bgp.example\r\n\r\n")
        .await
        .expect("is open");
    let Some(Message::Notification(notification)) = peer.receive().await else {
        panic!("no NOTIFICATION");
    };
    assert_eq!(
        notification.error,
        NotificationError::CONNECTION_NOT_SYNCHRONIZED
    );
    assert_eq!(peer.receive().await, None);
}
