//! Tests of addresses that no BGP session carries.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use daemon_api::announcer::v1::{AnnouncementState, ListSessionsRequest};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::{SERVICE, environment::Environment};

/// A peer that refuses connections: no process listens on its port.
const ABSENT: &str = "--peer=127.78.255.1:1,name=absent";

/// Evaluates the expression of the outage alert in `docs/reference/metrics.md` with the metrics of
/// one load balancer.
fn is_outage(metrics: &str) -> bool {
    let documented = include_str!("../../../../docs/reference/metrics.md");
    let (_, expression) = documented
        .split_once("`sum by (namespace) (portlb_announcements{state=~\"")
        .expect("docs/reference/metrics.md contains the outage alert");
    let (states, rest) = expression
        .split_once("\"}) == 0`")
        .expect("the expression ends with a comparison");
    assert!(rest.contains("**outage**"));
    let samples = states.split("\\|").map(|state| {
        let sample = format!("portlb_announcements{{state=\"{state}\"}} ");
        let mut lines = metrics.lines();
        let value = lines.find_map(|line| line.strip_prefix(&sample));
        let value = value.unwrap_or_else(|| panic!("{sample} is not in\n{metrics}"));
        value.parse::<u64>().expect("the sample is a number")
    });
    samples.sum::<u64>() == 0
}

async fn wait_until_outage(environment: &Environment, expected: bool) {
    let deadline = Instant::now() + crate::DEADLINE;
    while is_outage(&environment.metrics.encode()) != expected {
        assert!(
            Instant::now() < deadline,
            "the outage alert does not become {expected}"
        );
        environment.wait_before_poll().await;
    }
}

#[tokio::test]
async fn without_a_session_no_address_counts_as_announced_and_the_outage_alert_fires() {
    let mut environment = Environment::start(&[ABSENT]).await;
    environment.data_plane.serve(SERVICE);
    let announcement = environment
        .wait_for_state(SERVICE, AnnouncementState::WaitingForSession)
        .await;
    assert_eq!(
        announcement.detail,
        "no session carries the address: absent: the session is not established"
    );
    assert!(announcement.announced_to.is_empty());
    wait_until_outage(&environment, true).await;
    environment
        .wait_for_readyz(
            "missing announced: 10.1.1.10/32: no session carries the address: absent: ",
        )
        .await;
    let text = environment.metrics.encode();
    let waiting = "portlb_announcements{state=\"waiting_for_session\"} 1";
    assert!(text.lines().any(|line| line == waiting), "{text}");
}

#[tokio::test]
async fn after_the_end_of_the_last_session_no_address_counts_as_announced_and_the_outage_alert_fires()
 {
    let mut environment = Environment::start(&[]).await;
    environment.data_plane.serve(SERVICE);
    environment
        .wait_for_state(SERVICE, AnnouncementState::Announced)
        .await;
    wait_until_outage(&environment, false).await;
    environment.end_reflector().await;
    environment
        .wait_for_state(SERVICE, AnnouncementState::WaitingForSession)
        .await;
    wait_until_outage(&environment, true).await;
    assert!(!environment.readiness.is_ready());
}

#[tokio::test]
async fn an_address_that_no_session_can_carry_has_the_state_waiting_for_session_and_the_reason() {
    let mut environment = Environment::start(&[
        "--allowed-prefixes=10.1.1.0/24,fd01::/64",
        "--next-hop=192.0.2.11,self",
        "--gateway=10.244.1.7,fd00::7",
    ])
    .await;
    environment.data_plane.serve(SERVICE);
    environment.data_plane.serve("fd01::10/128");
    environment
        .wait_for_state(SERVICE, AnnouncementState::Announced)
        .await;
    let announcement = environment
        .wait_for_state("fd01::10/128", AnnouncementState::WaitingForSession)
        .await;
    assert!(
        announcement
            .detail
            .contains("the session runs over IPv4, so --next-hop self has no address for IPv6"),
        "{announcement:?}"
    );
    environment
        .wait_for_readyz("ready announced: 1 of 2; fd01::10/128: no session carries the address: ")
        .await;
}

/// A peer that never answers a connection attempt: the accept queue of its listener is full, so the
/// kernel drops further SYNs.
struct UnresponsivePeer {
    address: SocketAddr,
    _listener: TcpListener,
    _queue: Vec<TcpStream>,
}

impl UnresponsivePeer {
    async fn new() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket can be opened");
        socket
            .bind("127.0.0.1:0".parse().expect("the address is valid"))
            .expect("a port is free");
        let listener = socket.listen(1).expect("the socket can listen");
        let address = listener.local_addr().expect("the listener has an address");
        let mut queue = Vec::new();
        for _ in 0..2 {
            queue.push(
                TcpStream::connect(address)
                    .await
                    .expect("the accept queue has room"),
            );
        }
        Self {
            address,
            _listener: listener,
            _queue: queue,
        }
    }
}

/// Returns the time from the request to shut down until the daemon has ended. With a session, the
/// default withdraw delay and linger would take 15 s.
async fn time_to_shut_down(peer: &str) -> Duration {
    let mut environment = Environment::start(&[peer]).await;
    environment.data_plane.serve(SERVICE);
    environment
        .wait_for_state(SERVICE, AnnouncementState::WaitingForSession)
        .await;
    let began = Instant::now();
    environment.shutdown.request();
    environment.ended().await.expect("drained");
    began.elapsed()
}

#[tokio::test]
async fn without_a_session_a_signal_ends_the_daemon_immediately_even_during_a_connection_attempt() {
    let took = time_to_shut_down(ABSENT).await;
    assert!(
        took < Duration::from_secs(1),
        "with a peer that refuses connections: {took:?}"
    );
    let peer = UnresponsivePeer::new().await;
    let took = time_to_shut_down(&format!("--peer={}", peer.address)).await;
    assert!(
        took < Duration::from_secs(1),
        "with a peer that does not answer: {took:?}"
    );
}

#[tokio::test]
async fn a_failed_connection_attempt_is_counted_and_listed_with_its_reason() {
    let mut environment = Environment::start(&[ABSENT]).await;
    let deadline = Instant::now() + crate::DEADLINE;
    let refused = loop {
        let listed = environment
            .client
            .list_sessions(ListSessionsRequest::default())
            .await;
        let listed = listed.expect("ListSessions succeeds").into_inner();
        let session = &listed.sessions[0];
        assert_eq!(
            (session.peer_address.as_str(), session.peer_port),
            ("127.78.255.1", 1)
        );
        if let [refused] = &listed.refused_sessions[..] {
            break refused.clone();
        }
        assert!(Instant::now() < deadline, "{listed:?}");
        environment.wait_before_poll().await;
    };
    assert_eq!(refused.address, "127.78.255.1");
    assert_eq!(refused.peer, "absent");
    assert_eq!(refused.reason, "dial_failed");
    assert!(refused.time_since_last.is_some());
    let text = environment.metrics.encode();
    let metric = "portlb_bgp_sessions_refused_total{reason=\"dial_failed\"} ";
    let value = text.lines().find_map(|line| line.strip_prefix(metric));
    assert!(value.is_some_and(|value| value != "0"), "{text}");
}

#[tokio::test]
async fn a_flapping_address_is_announced_as_least_preferred_and_counted_in_the_metrics() {
    let mut environment = Environment::start(&["--data-plane-timeout=1h"]).await;
    environment.data_plane.serve(SERVICE);
    environment.wait_for_paths(|paths| paths.len() == 1).await;
    for _ in 0..3 {
        environment
            .data_plane
            .stop_serving(SERVICE, "no real server");
        environment.wait_for_paths(<[_]>::is_empty).await;
        environment.data_plane.serve(SERVICE);
        environment.wait_for_paths(|paths| paths.len() == 1).await;
    }
    environment
        .data_plane
        .stop_serving(SERVICE, "no real server");
    let announcement = environment
        .wait_for_state(SERVICE, AnnouncementState::LeastPreferred)
        .await;
    assert!(announcement.detail.contains("flaps"), "{announcement:?}");
    environment
        .wait_for_paths(|paths| matches!(paths, [path] if path.attributes.local_pref == Some(0)))
        .await;
    let text = environment.metrics.encode();
    let flapping = "portlb_announcements_flapping 1";
    assert!(text.lines().any(|line| line == flapping), "{text}");
    environment.data_plane.serve(SERVICE);
    // After the damping period, the address has its normal preference again.
    environment
        .wait_for_paths(|paths| matches!(paths, [path] if path.attributes.local_pref == Some(100)))
        .await;
}
