use std::net::Ipv4Addr;

use bgp_packet::{Asn, Nlri, Open, RouterId, Update};
use tokio::net::TcpListener;

use super::*;

const DEADLINE: Duration = Duration::from_secs(10);

/// More than the buffers of two sockets hold.
const UPDATES: usize = 50_000;

/// A connection, and the peer's end of it. The runtime knows the connection's socket as empty.
async fn connection() -> (Connection, std::net::TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let peer = std::net::TcpStream::connect(address).unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let counters = Arc::new(SpeakerCounters::default());
    let mut connection = Connection::new(ConnectionId(1), stream, counters);
    connection.read();
    (connection, peer)
}

fn bytes(message: &Message) -> BytesMut {
    let mut bytes = BytesMut::new();
    encode(message, &CodecOptions::default(), &mut bytes);
    bytes
}

fn open() -> Message {
    Message::Open(Open {
        asn: Asn(64512),
        hold_time_seconds: 9,
        router_id: RouterId(Ipv4Addr::new(10, 0, 0, 1)),
        capabilities: Vec::new(),
    })
}

async fn next(events: &mut mpsc::Receiver<ConnectionEvent>) -> ConnectionEvent {
    let next = timeout(DEADLINE, events.recv()).await;
    next.expect("events in time").expect("the connection runs")
}

/// Each step of this test runs without a turn of the runtime, as the first steps of a process that
/// has slept do.
#[tokio::test]
async fn a_poll_finds_what_the_runtime_has_not_seen() {
    let (mut connection, mut peer) = connection().await;
    peer.write_all(&bytes(&Message::Keepalive)).unwrap();
    connection.read();
    assert_eq!(connection.received, [], "the runtime has not seen it");
    connection.follow(Order::Poll);
    assert_eq!(connection.received, [Message::Keepalive]);
    assert!(matches!(
        connection.take_event(),
        ConnectionEvent::Received { messages, .. } if messages == [Message::Keepalive]
    ));
    assert!(matches!(
        connection.take_event(),
        ConnectionEvent::Polled { .. }
    ));
    assert!(!connection.has_event());
}

#[tokio::test]
async fn a_poll_is_answered_after_the_rest_of_a_message_that_came_in_parts() {
    let (mut connection, mut peer) = connection().await;
    let bytes = bytes(&open());
    let (head, tail) = bytes.split_at(10);
    peer.write_all(head).unwrap();
    connection.poll();
    assert_eq!(connection.received, []);
    peer.write_all(tail).unwrap();
    connection.follow(Order::Poll);
    assert!(matches!(
        connection.take_event(),
        ConnectionEvent::Received { .. }
    ));
    assert!(matches!(
        connection.take_event(),
        ConnectionEvent::Polled { .. }
    ));
}

#[tokio::test]
async fn a_poll_of_a_silent_or_closed_connection_is_answered() {
    let (mut connection, peer) = connection().await;
    connection.follow(Order::Poll);
    assert!(matches!(
        connection.take_event(),
        ConnectionEvent::Polled { .. }
    ));
    drop(peer);
    connection.follow(Order::Poll);
    assert!(matches!(
        connection.take_event(),
        ConnectionEvent::Received {
            end: Some(ConnectionEnd::Lost(_)),
            ..
        }
    ));
    assert!(matches!(
        connection.take_event(),
        ConnectionEvent::Polled { .. }
    ));
}

/// The kernel holds far more than what the connection takes off its socket.
#[tokio::test]
async fn a_connection_reads_no_more_than_its_share_while_the_owner_is_busy() {
    let (mut connection, mut peer) = connection().await;
    peer.set_nonblocking(true).unwrap();
    let keepalives = bytes(&Message::Keepalive).repeat(10_000);
    let written = peer.write(&keepalives).unwrap();
    assert!(written > 2 * READ_SIZE, "{written}");
    for _ in 0..10 {
        connection.poll();
    }
    assert_eq!(connection.received.len(), SHARE);
    assert!(connection.input.len() <= READ_SIZE);
}

#[tokio::test]
async fn a_share_counts_prefixes() {
    let (mut connection, mut peer) = connection().await;
    // Each message counts one more than its prefixes.
    let prefixes = SHARE - 10;
    let withdrawn = (0..prefixes).map(|number| Nlri {
        prefix: format!("10.1.1.{number}/32").parse().unwrap(),
        path_id: None,
    });
    let update = Message::Update(Update {
        withdrawn: withdrawn.collect(),
        ..Update::default()
    });
    peer.write_all(&bytes(&update).repeat(5)).unwrap();
    connection.poll();
    assert_eq!(connection.received.len(), 2);
    assert_eq!(connection.received_work, 2 * (prefixes + 1));
}

#[tokio::test]
async fn a_connection_hands_over_one_share_until_the_owner_has_finished_its_turn() {
    let (connection, mut peer) = connection().await;
    peer.write_all(&bytes(&Message::Keepalive).repeat(3 * SHARE))
        .unwrap();
    let (orders, order_receiver) = mpsc::channel(16);
    let (events_sender, mut events) = mpsc::channel(16);
    tokio::spawn(connection.run(order_receiver, events_sender));
    for _ in 0..3 {
        let ConnectionEvent::Received { messages, turn, .. } = next(&mut events).await else {
            panic!("no messages");
        };
        assert_eq!(messages.len(), SHARE);
        // What else there is to report does not wait for the turn.
        orders.send(Order::SendUpdates(Vec::new())).await.unwrap();
        assert!(matches!(
            next(&mut events).await,
            ConnectionEvent::Written { .. }
        ));
        assert!(events.is_empty());
        drop(turn);
    }
}

/// Starts a connection whose peer reads nothing yet, with more updates than the sockets hold.
async fn stuck_connection(
    send_hold_time: Duration,
) -> (
    std::net::TcpStream,
    mpsc::Sender<Order>,
    mpsc::Receiver<ConnectionEvent>,
) {
    let (connection, peer) = connection().await;
    SockRef::from(&connection.stream)
        .set_send_buffer_size(4096)
        .unwrap();
    let (orders, order_receiver) = mpsc::channel(16);
    let (events_sender, events) = mpsc::channel(16);
    tokio::spawn(connection.run(order_receiver, events_sender));
    let time = Order::SetSendHoldTime(Some(send_hold_time));
    orders.send(time).await.unwrap();
    let update = Update {
        withdrawn: vec![Nlri {
            prefix: "10.1.1.10/32".parse().unwrap(),
            path_id: None,
        }],
        ..Update::default()
    };
    let updates = vec![update; UPDATES];
    orders.send(Order::SendUpdates(updates)).await.unwrap();
    // Lets the connection fill the sockets.
    while orders.capacity() < orders.max_capacity() {
        tokio::task::yield_now().await;
    }
    (peer, orders, events)
}

#[tokio::test]
async fn a_peer_that_takes_nothing_off_its_socket_is_reported_after_the_send_hold_time() {
    let begin = Instant::now();
    let send_hold_time = Duration::from_millis(200);
    let (_peer, _orders, mut events) = stuck_connection(send_hold_time).await;
    assert!(matches!(
        next(&mut events).await,
        ConnectionEvent::SendHoldTimerExpired { .. }
    ));
    assert!(begin.elapsed() >= send_hold_time);
}

#[tokio::test]
async fn a_peer_that_read_during_a_sleep_of_this_process_is_not_reported() {
    let send_hold_time = Duration::from_millis(500);
    let (mut peer, _orders, mut events) = stuck_connection(send_hold_time).await;
    // Ends with the connection.
    std::thread::spawn(move || io::copy(&mut peer, &mut io::sink()));
    // The runtime stands still, as in a process that was stopped.
    std::thread::sleep(2 * send_hold_time);
    let written = next(&mut events).await;
    assert!(
        matches!(written, ConnectionEvent::Written { updates, .. } if updates == UPDATES as u64),
        "{written:?}"
    );
}

/// The first thing that this side sees of the reset is its own write.
#[tokio::test]
async fn a_notification_before_a_reset_is_read_although_a_write_fails() {
    let (mut connection, mut peer) = connection().await;
    connection.stream.writable().await.unwrap();
    let notification = Message::Notification(bgp_session::Cease::MaximumPaths.notification());
    peer.write_all(&bytes(&notification)).unwrap();
    SockRef::from(&peer)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(peer);
    connection.follow(Order::Send(Message::Keepalive));
    assert!(connection.write_problem.is_some(), "the write succeeded");
    let (_orders, order_receiver) = mpsc::channel(16);
    let (events_sender, mut events) = mpsc::channel(16);
    tokio::spawn(connection.run(order_receiver, events_sender));
    let mut received = Vec::new();
    let problem = loop {
        let ConnectionEvent::Received { messages, end, .. } = next(&mut events).await else {
            panic!("other events");
        };
        received.extend(messages);
        match end {
            Some(ConnectionEnd::Lost(problem)) => break problem,
            Some(ConnectionEnd::Malformed(error)) => panic!("{error:?}"),
            None => {}
        }
    };
    assert_eq!(received, [notification]);
    assert!(problem.contains("reset"), "{problem}");
}
