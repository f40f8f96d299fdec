//! What is said of an address while no session carries it, and what a drain does then.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use daemon_api::announcer::v1::{AnnouncementState, ListSessionsRequest};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::{SERVICE, world::World};

/// Nothing listens there.
const ABSENT: &str = "--peer=127.78.255.1:1,name=absent";

/// Evaluates the expression of the outage alert, as `docs/how-to/operations.md` has it, over the metrics of
/// one load balancer.
fn is_outage(metrics: &str) -> bool {
    let documented = include_str!("../../../../docs/how-to/operations.md");
    let (_, expression) = documented
        .split_once("`sum by (namespace) (portlb_announcements{state=~\"")
        .expect("the alert is documented");
    let (states, rest) = expression.split_once("\"}) == 0`").expect("its end");
    assert!(rest.contains("**outage**"));
    let samples = states.split("\\|").map(|state| {
        let sample = format!("portlb_announcements{{state=\"{state}\"}} ");
        let mut lines = metrics.lines();
        let value = lines.find_map(|line| line.strip_prefix(&sample));
        let value = value.unwrap_or_else(|| panic!("{sample} is not in\n{metrics}"));
        value.parse::<u64>().expect("a number")
    });
    samples.sum::<u64>() == 0
}

async fn wait_until_outage(world: &World, expected: bool) {
    let deadline = Instant::now() + crate::DEADLINE;
    while is_outage(&world.metrics.encode()) != expected {
        assert!(Instant::now() < deadline, "outage: {expected}");
        world.next_change().await;
    }
}

#[tokio::test]
async fn without_a_session_nothing_counts_as_announced_and_the_outage_alert_fires() {
    let mut world = World::start(&[ABSENT]).await;
    world.data_plane.serve(SERVICE);
    let announcement = world
        .wait_for_state(SERVICE, AnnouncementState::WaitingForSession)
        .await;
    assert_eq!(
        announcement.detail,
        "no session carries it: absent: its session is not established"
    );
    assert!(announcement.announced_to.is_empty());
    wait_until_outage(&world, true).await;
    world
        .wait_for_readyz("missing announced: 10.1.1.10/32: no session carries it: absent: ")
        .await;
    let text = world.metrics.encode();
    let waiting = "portlb_announcements{state=\"waiting_for_session\"} 1";
    assert!(text.lines().any(|line| line == waiting), "{text}");
}

#[tokio::test]
async fn the_end_of_the_last_session_ends_the_announcement_and_the_outage_alert_fires() {
    let mut world = World::start(&[]).await;
    world.data_plane.serve(SERVICE);
    world
        .wait_for_state(SERVICE, AnnouncementState::Announced)
        .await;
    wait_until_outage(&world, false).await;
    world.end_reflector().await;
    world
        .wait_for_state(SERVICE, AnnouncementState::WaitingForSession)
        .await;
    wait_until_outage(&world, true).await;
    assert!(!world.readiness.is_ready());
}

#[tokio::test]
async fn an_address_that_no_session_can_carry_is_not_announced_and_says_why() {
    let mut world = World::start(&[
        "--allowed-prefixes=10.1.1.0/24,fd01::/64",
        "--next-hop=192.0.2.11,self",
        "--gateway=10.244.1.7,fd00::7",
    ])
    .await;
    world.data_plane.serve(SERVICE);
    world.data_plane.serve("fd01::10/128");
    world
        .wait_for_state(SERVICE, AnnouncementState::Announced)
        .await;
    let announcement = world
        .wait_for_state("fd01::10/128", AnnouncementState::WaitingForSession)
        .await;
    assert!(
        announcement
            .detail
            .contains("the session runs over IPv4, so --next-hop self has no address for IPv6"),
        "{announcement:?}"
    );
    world
        .wait_for_readyz("ready announced: 1 of 2; fd01::10/128: no session carries it: ")
        .await;
}

/// A peer that never answers: its queue of connections is full, so the kernel drops further SYNs.
struct Unreachable {
    address: SocketAddr,
    _listener: TcpListener,
    _queue: Vec<TcpStream>,
}

impl Unreachable {
    async fn new() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket
            .bind("127.0.0.1:0".parse().expect("an address"))
            .expect("a free port");
        let listener = socket.listen(1).expect("listens");
        let address = listener.local_addr().expect("is bound");
        let mut queue = Vec::new();
        for _ in 0..2 {
            queue.push(TcpStream::connect(address).await.expect("has room"));
        }
        Self {
            address,
            _listener: listener,
            _queue: queue,
        }
    }
}

/// How long the daemon takes from the request to the end. The default drain and linger take 15 s.
async fn time_to_end(peer: &str) -> Duration {
    let mut world = World::start(&[peer]).await;
    world.data_plane.serve(SERVICE);
    world
        .wait_for_state(SERVICE, AnnouncementState::WaitingForSession)
        .await;
    let began = Instant::now();
    world.shutdown.request();
    world.ended().await.expect("drained");
    began.elapsed()
}

#[tokio::test]
async fn a_signal_without_a_session_ends_it_at_once_also_during_a_dial() {
    let took = time_to_end(ABSENT).await;
    assert!(took < Duration::from_secs(1), "refused: {took:?}");
    let peer = Unreachable::new().await;
    let took = time_to_end(&format!("--peer={}", peer.address)).await;
    assert!(took < Duration::from_secs(1), "unreachable: {took:?}");
}

#[tokio::test]
async fn a_session_that_does_not_come_up_is_counted_and_listed_with_its_reason() {
    let mut world = World::start(&[ABSENT]).await;
    let deadline = Instant::now() + crate::DEADLINE;
    let refused = loop {
        let listed = world
            .client
            .list_sessions(ListSessionsRequest::default())
            .await;
        let listed = listed.expect("is served").into_inner();
        let session = &listed.sessions[0];
        assert_eq!(
            (session.peer_address.as_str(), session.peer_port),
            ("127.78.255.1", 1)
        );
        if let [refused] = &listed.refused_sessions[..] {
            break refused.clone();
        }
        assert!(Instant::now() < deadline, "{listed:?}");
        world.next_change().await;
    };
    assert_eq!(refused.address, "127.78.255.1");
    assert_eq!(refused.peer, "absent");
    assert_eq!(refused.reason, "dial_failed");
    assert!(refused.time_since_last.is_some());
    let text = world.metrics.encode();
    let metric = "portlb_bgp_sessions_refused_total{reason=\"dial_failed\"} ";
    let value = text.lines().find_map(|line| line.strip_prefix(metric));
    assert!(value.is_some_and(|value| value != "0"), "{text}");
}

#[tokio::test]
async fn an_address_that_flaps_is_least_preferred_and_counted() {
    let mut world = World::start(&["--data-plane-timeout=1h"]).await;
    world.data_plane.serve(SERVICE);
    world.wait_for_paths(|paths| paths.len() == 1).await;
    for _ in 0..3 {
        world.data_plane.stop_serving(SERVICE, "no real server");
        world.wait_for_paths(<[_]>::is_empty).await;
        world.data_plane.serve(SERVICE);
        world.wait_for_paths(|paths| paths.len() == 1).await;
    }
    world.data_plane.stop_serving(SERVICE, "no real server");
    let announcement = world
        .wait_for_state(SERVICE, AnnouncementState::LeastPreferred)
        .await;
    assert!(announcement.detail.contains("flaps"), "{announcement:?}");
    world
        .wait_for_paths(|paths| matches!(paths, [path] if path.attributes.local_pref == Some(0)))
        .await;
    let text = world.metrics.encode();
    let flapping = "portlb_announcements_flapping 1";
    assert!(text.lines().any(|line| line == flapping), "{text}");
    world.data_plane.serve(SERVICE);
    // As usual again when the hold is over.
    world
        .wait_for_paths(|paths| matches!(paths, [path] if path.attributes.local_pref == Some(100)))
        .await;
}
