//! Tests of hold proofs. The pods have loopback addresses.

use std::time::Duration;

use daemon_api::noderoute::v1::{HoldRequest, HoldResponse};
use node_router::HoldProof;
use tokio::{net::UdpSocket, sync::mpsc};
use tonic::{Code, Status, Streaming};

use crate::support::{DEADLINE, FakeKernel, FakeKernelNode, KernelState, next, own_route, prefix};

const PREFIX: &str = "10.1.1.0/24";
const OWN: &str = "127.0.0.7";
const OTHER: &str = "127.0.0.8";

async fn start() -> FakeKernelNode {
    FakeKernelNode::start_from(KernelState::default(), proving).await
}

fn proving(config: &mut node_router::Config) {
    config.hold_proof = HoldProof::Address;
    config.policy.allowed_gateways = vec![prefix("127.0.0.0/24"), prefix("::1/128")];
}

/// Returns the UDP socket of a pod with this address.
async fn pod(address: &str) -> UdpSocket {
    UdpSocket::bind((address, 0)).await.unwrap()
}

/// A hold request that waits for its response, with its open stream of requests.
struct HoldAttempt {
    requests: mpsc::Sender<HoldRequest>,
    answer: tokio::task::JoinHandle<Result<Streaming<HoldResponse>, Status>>,
}

impl HoldAttempt {
    async fn begin(node: &FakeKernelNode, service: &str, gateway: &str, port: u16) -> Self {
        let (requests, stream) = mpsc::channel(32);
        let first = HoldRequest {
            prefix: service.to_owned(),
            gateway: gateway.to_owned(),
            proof_port: port.into(),
            nonce: Vec::new(),
        };
        requests.send(first).await.unwrap();
        let mut client = node.client();
        let stream = tokio_stream::wrappers::ReceiverStream::new(stream);
        let answer = tokio::spawn(async move {
            let answer = client.hold(stream).await;
            answer.map(tonic::Response::into_inner)
        });
        Self { requests, answer }
    }

    async fn send(&self, nonce: &[u8]) {
        let request = HoldRequest {
            nonce: nonce.to_vec(),
            ..HoldRequest::default()
        };
        // node-router no longer reads the stream after it has refused the hold.
        let _ = self.requests.send(request).await;
    }

    async fn end(self) -> Result<(mpsc::Sender<HoldRequest>, Streaming<HoldResponse>), Status> {
        let answer = tokio::time::timeout(DEADLINE, self.answer).await;
        let stream = answer.expect("a response arrives in time").unwrap()?;
        Ok((self.requests, stream))
    }
}

async fn nonce(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 64];
    let received = tokio::time::timeout(DEADLINE, socket.recv(&mut buffer));
    let length = received.await.expect("a nonce arrives in time").unwrap();
    buffer[..length].to_vec()
}

/// Holds a route like the owner of the gateway: receives the nonce and returns it.
async fn prove(
    node: &FakeKernelNode,
    gateway: &str,
) -> Result<(mpsc::Sender<HoldRequest>, Streaming<HoldResponse>), Status> {
    let socket = pod(gateway).await;
    let port = socket.local_addr().unwrap().port();
    let attempt = HoldAttempt::begin(node, PREFIX, gateway, port).await;
    attempt.send(&nonce(&socket).await).await;
    attempt.end().await
}

#[track_caller]
fn assert_not_proved(status: &Status, kernel: &FakeKernel) {
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    assert!(status.message().contains("--hold-proof"), "{status:?}");
    assert_eq!(kernel.changes(), [""; 0]);
}

/// Checks that the status is `Unavailable`. This code does not mean that the route is missing: the
/// kernel can still have the route of an earlier run.
#[track_caller]
fn assert_unanswered(status: &Status) {
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.message().contains("--hold-proof"), "{status:?}");
}

#[tokio::test]
async fn the_owner_of_the_gateway_holds_the_route() {
    let node = start().await;
    let (_requests, mut stream) = prove(&node, OWN).await.unwrap();
    assert!(next(&mut stream).await.unwrap().installed);
    assert_eq!(node.kernel.own(), [own_route(PREFIX, &[OWN])]);
    node.stop().await;
}

#[tokio::test]
async fn the_owner_of_an_ipv6_gateway_holds_the_route() {
    let node = start().await;
    let socket = pod("::1").await;
    let port = socket.local_addr().unwrap().port();
    let attempt = HoldAttempt::begin(&node, "fd00:1::/64", "::1", port).await;
    attempt.send(&nonce(&socket).await).await;
    let (_requests, mut stream) = attempt.end().await.unwrap();
    assert!(next(&mut stream).await.unwrap().installed);
    node.stop().await;
}

#[tokio::test]
async fn a_holder_that_names_the_address_of_another_pod_gets_no_route() {
    let node = start().await;
    let other = pod(OTHER).await;
    let port = other.local_addr().unwrap().port();
    let attempt = HoldAttempt::begin(&node, PREFIX, OTHER, port).await;
    // The other pod receives the nonce, and only a few datagrams that repeat the nonce.
    let first = nonce(&other).await;
    attempt.send(&[0; 32]).await;
    let status = attempt.end().await.unwrap_err();
    assert_unanswered(&status);
    assert_eq!(node.kernel.changes(), [""; 0]);
    let mut repeated = 0;
    let mut buffer = [0; 64];
    while let Ok(length) = other.try_recv(&mut buffer) {
        assert_eq!(buffer[..length], first);
        repeated += 1;
    }
    assert!(repeated <= 10, "{repeated} datagrams");
    node.stop().await;
}

#[tokio::test]
async fn a_nonce_is_valid_only_once_and_only_on_the_stream_of_its_hold() {
    let node = start().await;
    let other = pod(OTHER).await;
    let port = other.local_addr().unwrap().port();
    let victim = HoldAttempt::begin(&node, PREFIX, OTHER, port).await;
    let of_victim = nonce(&other).await;
    let thief = HoldAttempt::begin(&node, "10.1.2.0/24", OTHER, port).await;
    thief.send(&of_victim).await;
    victim.send(&of_victim).await;
    let _held = victim.end().await.unwrap();
    assert_unanswered(&thief.end().await.unwrap_err());
    let replay = HoldAttempt::begin(&node, "10.1.3.0/24", OTHER, port).await;
    replay.send(&of_victim).await;
    assert_unanswered(&replay.end().await.unwrap_err());
    assert_eq!(node.kernel.own(), [own_route(PREFIX, &[OTHER])]);
    node.stop().await;
}

#[tokio::test]
async fn a_hold_is_refused_after_more_than_16_wrong_nonces() {
    let node = start().await;
    let other = pod(OTHER).await;
    let port = other.local_addr().unwrap().port();
    let attempt = HoldAttempt::begin(&node, PREFIX, OTHER, port).await;
    for guess in 0..17 {
        attempt.send(&[guess; 32]).await;
    }
    let status = attempt.end().await.unwrap_err();
    assert_not_proved(&status, &node.kernel);
    assert!(status.message().contains("too many wrong"), "{status:?}");
    node.stop().await;
}

#[tokio::test]
async fn a_request_without_a_proof_port_or_without_a_nonce_is_refused() {
    let node = start().await;
    let attempt = HoldAttempt::begin(&node, PREFIX, OWN, 0).await;
    let status = attempt.end().await.unwrap_err();
    assert_not_proved(&status, &node.kernel);
    assert!(status.message().contains("proof_port"), "{status:?}");
    // This client closes its stream of requests immediately, like a version of bgp-announcer
    // without hold proofs.
    let status = node.hold(PREFIX, OWN).await.unwrap_err();
    assert_not_proved(&status, &node.kernel);
    let metrics = node.metrics.encode();
    let refused = r#"refused_holds_total{reason="not_proved"} 2"#;
    assert!(metrics.contains(refused), "{metrics}");
    node.stop().await;
}

#[tokio::test]
async fn only_the_owner_of_the_gateway_can_hold_an_adopted_route() {
    let mut state = KernelState::default();
    state.routes.own = vec![own_route(PREFIX, &[OWN])];
    let node = FakeKernelNode::start_from(state, |config| {
        proving(config);
        config.adopt_timeout = Duration::from_secs(4);
    })
    .await;
    // The adopted route stays while the holder proves that it owns the gateway, and the hold
    // changes nothing in the kernel.
    let (_requests, mut stream) = prove(&node, OWN).await.unwrap();
    assert!(next(&mut stream).await.unwrap().installed);
    assert_eq!(node.kernel.changes(), [""; 0]);
    let kernel = node.stop().await;

    let (_, changes) = mpsc::channel(1);
    let node = FakeKernelNode::start_on(kernel, changes, Default::default(), |config| {
        proving(config);
        config.adopt_timeout = Duration::from_secs(4);
    })
    .await;
    let other = pod(OTHER).await;
    let port = other.local_addr().unwrap().port();
    let attempt = HoldAttempt::begin(&node, PREFIX, OWN, port).await;
    assert_unanswered(&attempt.end().await.unwrap_err());
    node.kernel.wait_for_own(&[]).await;
    node.stop().await;
}

#[tokio::test]
async fn the_number_of_pending_holds_is_limited_to_four_times_max_routes() {
    let node = FakeKernelNode::start_from(KernelState::default(), |config| {
        proving(config);
        config.max_routes = 1;
    })
    .await;
    let socket = pod(OWN).await;
    let port = socket.local_addr().unwrap().port();
    let mut waiting = Vec::new();
    let mut nonces = std::collections::BTreeSet::new();
    for number in 1..=4 {
        waiting.push(HoldAttempt::begin(&node, PREFIX, OWN, port).await);
        // node-router repeats the nonces of earlier requests, and the set keeps each nonce only
        // once.
        while nonces.len() < number {
            nonces.insert(nonce(&socket).await);
        }
    }
    let status = node.hold(PREFIX, OWN).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.message().contains("retry"), "{status:?}");
    node.stop().await;
}
