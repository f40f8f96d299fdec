use std::{net::Ipv4Addr, time::Duration};

use bgp_packet::{Asn, ClusterId, Message, RouterId};
use bgp_session::ConnectionId;

use super::*;
use tokio::{net::TcpStream, sync::Semaphore};

use crate::{
    BgpSpeaker, GroupConfig, Md5Key, PeerConfig, SessionConfig, admission::AdmissionRules,
};

/// Returns the event of a connection from 127.0.0.1 that a listener accepted with these admission
/// rules.
async fn accepted(admission: Arc<AdmissionRules>) -> ConnectionEvent {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let connect = TcpStream::connect(listener.local_addr().unwrap());
    let (accepted, connected) = tokio::join!(listener.accept(), connect);
    connected.unwrap();
    let (stream, remote) = accepted.unwrap();
    ConnectionEvent::Accepted {
        stream,
        remote,
        admission,
    }
}

fn speaker() -> BgpSpeaker {
    let local = Ipv4Addr::LOCALHOST;
    let config = SpeakerConfig {
        local_asn: Asn(64512),
        router_id: RouterId(local),
        cluster_id: ClusterId(local),
        listen: Vec::new(),
    };
    BgpSpeaker::new(config, Vec::new())
}

/// Returns an event with a full share of messages of the connection with the number `connection`.
fn share(connection: u64, turn: OwnedSemaphorePermit) -> ConnectionEvent {
    ConnectionEvent::Received {
        connection: ConnectionId(connection),
        messages: vec![Message::Keepalive; SHARE],
        work: SHARE,
        end: None,
        turn: Some(turn),
    }
}

#[tokio::test]
async fn a_turn_is_bounded_and_its_connections_can_send_a_further_share_after_its_end() {
    let mut owner = speaker().owner;
    let (events_sender, mut events) = mpsc::channel(20);
    let turns: Vec<_> = (0..20).map(|_| Arc::new(Semaphore::new(1))).collect();
    for (connection, turn) in (0..).zip(&turns) {
        let turn = turn.clone().try_acquire_owned().unwrap();
        let piece = share(connection, turn);
        events_sender.try_send(piece).unwrap();
    }
    let first = events.recv().await.unwrap();
    let work = owner.take_turn(first, &mut events);
    assert!((TURN..TURN + 2 * SHARE).contains(&work), "{work}");
    let handled = turns.len() - events.len();
    assert_eq!(handled, TURN / SHARE);
    let free = |turns: &[Arc<Semaphore>]| -> usize {
        turns.iter().map(|turn| turn.available_permits()).sum()
    };
    assert_eq!(free(&turns), 0);
    owner.finish_turn(Instant::now());
    assert_eq!(free(&turns[..handled]), handled);
    assert_eq!(free(&turns[handled..]), 0);
}

#[tokio::test]
async fn a_connection_that_was_accepted_without_the_new_key_is_dropped() {
    let mut owner = speaker().owner;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, "secret").unwrap();
    let mut group = GroupConfig {
        name: "pods".to_owned(),
        prefixes: vec!["127.0.0.0/8".parse().unwrap()],
        maximum_peers: 10,
        maximum_peers_per_address: 10,
        session: SessionConfig::new(None),
    };
    let configuration = |group: &GroupConfig| Configuration {
        peers: Vec::new(),
        groups: vec![group.clone()],
    };
    let now = Instant::now();
    owner.configure(configuration(&group), now).unwrap();
    let before = owner.groups.admission().borrow().clone();
    let waiting = accepted(before.clone()).await;
    group.session.md5_key = Some(Md5Key::read(&file).unwrap());
    owner.configure(configuration(&group), now).unwrap();
    owner.event(waiting, now);
    assert_eq!(owner.sessions.peers.ids(), []);

    let after = owner.groups.admission().borrow().clone();
    owner.event(accepted(after).await, now);
    assert_eq!(owner.sessions.peers.ids().len(), 1);
}

/// Opens two connections, the second connection 60 s after the first, from the address of a
/// configured peer whose session is established.
#[tokio::test]
async fn a_second_connection_of_an_established_peer_is_logged_at_warn_after_the_collision_window() {
    let mut owner = speaker().owner;
    let address = (Ipv4Addr::LOCALHOST, 179).into();
    let peer = PeerConfig {
        active: false,
        ..PeerConfig::new(address, SessionConfig::new(None))
    };
    let configuration = Configuration {
        peers: vec![peer],
        groups: Vec::new(),
    };
    let now = Instant::now();
    owner.configure(configuration, now).unwrap();
    let id = owner.sessions.peers.ids()[0];
    owner.sessions.peers.get_mut(id).unwrap().established = Some(ConnectionId(1));
    let mut counted_and_logged = async |after: Duration| {
        let admission = owner.groups.admission().borrow().clone();
        owner.event(accepted(admission).await, now + after);
        let counted = owner.sessions.journal.counters.duplicates_refused.get();
        let peer = owner.sessions.peers.get(id).unwrap();
        (counted, peer.logged.duplicate)
    };
    // Directly after the session was established, the second connection can be the loser of a
    // collision.
    assert_eq!(counted_and_logged(Duration::ZERO).await, (1, false));
    assert_eq!(counted_and_logged(Duration::from_secs(60)).await, (2, true));
}
