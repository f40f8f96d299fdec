use std::net::Ipv4Addr;

use bgp_packet::{Asn, Nlri, Open, RouterId, Update};
use tokio::net::TcpListener;

use super::*;

const DEADLINE: Duration = Duration::from_secs(10);

/// Number of UPDATE messages that do not fit into the socket buffers of the connection and its
/// peer.
const UPDATES: usize = 50_000;

/// Returns a connection and the socket of its peer. The runtime has seen that the socket of the
/// connection is empty.
async fn connection() -> (ConnectionTask, std::net::TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let peer = std::net::TcpStream::connect(address).unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let counters = Arc::new(SpeakerCounters::default());
    let mut connection = ConnectionTask::new(ConnectionId(1), stream, counters);
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
    next.expect("an event arrives in time")
        .expect("the connection runs")
}

/// The runtime does not poll the socket during this test, as in a process that resumes after it was
/// suspended.
#[tokio::test]
async fn the_order_poll_reads_a_message_before_the_runtime_has_polled_the_socket() {
    let (mut connection, mut peer) = connection().await;
    peer.write_all(&bytes(&Message::Keepalive)).unwrap();
    connection.read();
    assert_eq!(
        connection.received,
        [],
        "the runtime has not polled the socket"
    );
    connection.execute(ConnectionOrder::Poll);
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
async fn the_order_poll_is_answered_after_the_last_part_of_a_fragmented_message() {
    let (mut connection, mut peer) = connection().await;
    let bytes = bytes(&open());
    let (head, tail) = bytes.split_at(10);
    peer.write_all(head).unwrap();
    connection.poll();
    assert_eq!(connection.received, []);
    peer.write_all(tail).unwrap();
    connection.execute(ConnectionOrder::Poll);
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
async fn the_order_poll_is_answered_on_a_silent_and_on_a_closed_connection() {
    let (mut connection, peer) = connection().await;
    connection.execute(ConnectionOrder::Poll);
    assert!(matches!(
        connection.take_event(),
        ConnectionEvent::Polled { .. }
    ));
    drop(peer);
    connection.execute(ConnectionOrder::Poll);
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

/// The peer sends more messages than one share. The connection must leave messages in the buffer of
/// the kernel, except the messages of one share and of one read.
#[tokio::test]
async fn a_connection_decodes_at_most_one_share_before_the_owner_takes_it() {
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
async fn the_prefixes_of_a_message_count_towards_the_limit_of_a_share() {
    let (mut connection, mut peer) = connection().await;
    // The cost of a message is 1 plus the number of its prefixes.
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
async fn a_connection_sends_a_further_share_after_the_turn_of_the_owner_has_ended() {
    let (connection, mut peer) = connection().await;
    peer.write_all(&bytes(&Message::Keepalive).repeat(3 * SHARE))
        .unwrap();
    let (orders, order_receiver) = mpsc::channel(16);
    let (events_sender, mut events) = mpsc::channel(16);
    tokio::spawn(connection.run(order_receiver, events_sender));
    for _ in 0..3 {
        let ConnectionEvent::Received { messages, turn, .. } = next(&mut events).await else {
            panic!("an event without messages");
        };
        assert_eq!(messages.len(), SHARE);
        // The connection sends other events than a share without waiting for the end of the turn.
        orders
            .send(ConnectionOrder::SendUpdates(Vec::new()))
            .await
            .unwrap();
        assert!(matches!(
            next(&mut events).await,
            ConnectionEvent::Written { .. }
        ));
        assert!(events.is_empty());
        drop(turn);
    }
}

/// Starts a connection and orders more updates than fit into the socket buffers. The peer reads
/// nothing before the caller reads from the returned socket of the peer.
async fn stuck_connection(
    send_hold_time: Duration,
) -> (
    std::net::TcpStream,
    mpsc::Sender<ConnectionOrder>,
    mpsc::Receiver<ConnectionEvent>,
) {
    let (connection, peer) = connection().await;
    SockRef::from(&connection.stream)
        .set_send_buffer_size(4096)
        .unwrap();
    let (orders, order_receiver) = mpsc::channel(16);
    let (events_sender, events) = mpsc::channel(16);
    tokio::spawn(connection.run(order_receiver, events_sender));
    let time = ConnectionOrder::SetSendHoldTime(Some(send_hold_time));
    orders.send(time).await.unwrap();
    let update = Update {
        withdrawn: vec![Nlri {
            prefix: "10.1.1.10/32".parse().unwrap(),
            path_id: None,
        }],
        ..Update::default()
    };
    let updates = vec![update; UPDATES];
    orders
        .send(ConnectionOrder::SendUpdates(updates))
        .await
        .unwrap();
    // Wait until the connection has taken both orders. The connection then fills the socket
    // buffers.
    while orders.capacity() < orders.max_capacity() {
        tokio::task::yield_now().await;
    }
    (peer, orders, events)
}

#[tokio::test]
async fn the_send_hold_timer_expires_if_the_peer_reads_nothing() {
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
async fn the_send_hold_timer_does_not_expire_if_the_peer_read_while_this_process_was_suspended() {
    let send_hold_time = Duration::from_millis(500);
    let (mut peer, _orders, mut events) = stuck_connection(send_hold_time).await;
    // The thread ends when the connection closes.
    std::thread::spawn(move || io::copy(&mut peer, &mut io::sink()));
    // Blocks the runtime, as a suspension of this process does.
    std::thread::sleep(2 * send_hold_time);
    let written = next(&mut events).await;
    assert!(
        matches!(written, ConnectionEvent::Written { updates, .. } if updates == UPDATES as u64),
        "{written:?}"
    );
}

/// The TCP reset makes a write of the connection fail before the connection has read the
/// NOTIFICATION.
#[tokio::test]
async fn a_notification_is_read_although_a_tcp_reset_makes_a_write_fail() {
    let (mut connection, mut peer) = connection().await;
    connection.stream.writable().await.unwrap();
    let notification = Message::Notification(bgp_session::Cease::MaximumPaths.notification());
    peer.write_all(&bytes(&notification)).unwrap();
    SockRef::from(&peer)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(peer);
    connection.execute(ConnectionOrder::Send(Message::Keepalive));
    assert!(connection.write_problem.is_some(), "the write succeeded");
    let (_orders, order_receiver) = mpsc::channel(16);
    let (events_sender, mut events) = mpsc::channel(16);
    tokio::spawn(connection.run(order_receiver, events_sender));
    let mut received = Vec::new();
    let problem = loop {
        let ConnectionEvent::Received { messages, end, .. } = next(&mut events).await else {
            panic!("expected received messages");
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
