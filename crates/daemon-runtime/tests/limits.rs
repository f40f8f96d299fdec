//! Tests of the limits for hostile and faulty clients.

#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

use std::{collections::VecDeque, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use daemon_runtime::{Daemon, GrpcContract, GrpcTarget, ListenAddress, Metrics};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time::{Instant, timeout},
};
use tonic::{Code, service::Routes};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_client::HealthClient};

const CONTRACT: GrpcContract = GrpcContract {
    services: &["test.v1.Test"],
    descriptors: tonic_health::pb::FILE_DESCRIPTOR_SET,
};
const DEADLINE: Duration = Duration::from_secs(10);

/// The connection limit of the HTTP server.
const HTTP_CONNECTIONS: usize = 64;
/// The connection limit of the gRPC server.
const GRPC_CONNECTIONS: usize = 256;

const HALF_SENT: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: test\r\n";
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A SETTINGS frame of HTTP/2 (RFC 9113 section 6): length, type, flags, stream.
const EMPTY_SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
const PING: &[u8] = &[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];

fn any_port() -> ListenAddress {
    ListenAddress::from_str("127.0.0.1:0").unwrap()
}

fn tcp(address: ListenAddress) -> SocketAddr {
    match address {
        ListenAddress::Tcp(address) => address,
        ListenAddress::Unix(path) => panic!("{} is not TCP", path.display()),
    }
}

/// Runs a daemon with both servers until the test ends. Returns the addresses of the HTTP server
/// and the gRPC server, and the metrics.
async fn start() -> (SocketAddr, SocketAddr, Metrics) {
    start_with(|_| {}).await
}

async fn start_with(prepare: impl FnOnce(&Metrics)) -> (SocketAddr, SocketAddr, Metrics) {
    let mut daemon = Daemon::new("test");
    let metrics = daemon.metrics().clone();
    prepare(&metrics);
    let any_port = any_port();
    let grpc = daemon.serve_grpc(&any_port, CONTRACT, Routes::default());
    let grpc = tcp(grpc.await.unwrap());
    let http = tcp(daemon.serve_http(&any_port).await.unwrap());
    tokio::spawn(daemon.run_until_drained(std::future::pending()));
    (http, grpc, metrics)
}

fn value(metrics: &Metrics, name: &str) -> u64 {
    let text = metrics.encode();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.unwrap_or_else(|| panic!("no {name} in {text}"));
    number.trim().parse().unwrap()
}

fn cut(metrics: &Metrics, server: &str, reason: &str) -> u64 {
    let name =
        format!("portlb_server_connections_cut_total{{server=\"{server}\",reason=\"{reason}\"}}");
    value(metrics, &name)
}

async fn connect_and_send(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The write fails if the server has already closed the connection because of its limit.
    let _ = stream.write_all(bytes).await;
    stream
}

/// Sends a whole HTTP request and returns the response.
async fn request(address: SocketAddr, text: &str) -> String {
    let mut stream = connect_and_send(address, text.as_bytes()).await;
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    timeout(DEADLINE, read).await.unwrap().unwrap();
    answer
}

async fn ensure_alive(address: SocketAddr) {
    let answer = request(address, "GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
}

/// Waits until the server closes the connection. Returns the duration of the wait.
async fn time_until_closed(mut stream: TcpStream) -> Duration {
    let began = Instant::now();
    let mut rest = Vec::new();
    // An error is a reset, which also means that the server closed the connection.
    let _ = stream.read_to_end(&mut rest).await;
    began.elapsed()
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.unwrap().parse().unwrap()
}

#[tokio::test]
async fn ten_thousand_incomplete_requests_neither_block_probes_nor_use_much_memory() {
    let (http, _, metrics) = start().await;
    let before = resident_kib();
    let mut open = VecDeque::new();
    for number in 0..10_000 {
        open.push_back(connect_and_send(http, HALF_SENT).await);
        if open.len() > 300 {
            open.pop_front();
        }
        if number % 100 == 0 {
            ensure_alive(http).await;
            let connections = value(&metrics, "portlb_server_connections{server=\"http\"}");
            assert!(connections <= HTTP_CONNECTIONS as u64, "{connections}");
        }
    }
    let growth = resident_kib().saturating_sub(before);
    assert!(growth < 16 * 1024, "{growth} KiB");
    assert!(cut(&metrics, "http", "limit") > 5_000);
    ensure_alive(http).await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_with_an_incomplete_request_is_closed_after_the_header_timeout() {
    let (http, _, metrics) = start().await;
    let stream = connect_and_send(http, HALF_SENT).await;
    let lasted = time_until_closed(stream).await;
    assert!((4..=7).contains(&lasted.as_secs()), "{lasted:?}");
    assert_eq!(cut(&metrics, "http", "timeout"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_a_request_is_closed_after_the_header_timeout() {
    let (http, _, metrics) = start().await;
    let lasted = time_until_closed(connect_and_send(http, b"").await).await;
    assert!((4..=7).contains(&lasted.as_secs()), "{lasted:?}");
    assert_eq!(cut(&metrics, "http", "timeout"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_response_that_the_client_does_not_read_ends_after_the_connection_timeout() {
    let (http, _, metrics) = start_with(|metrics| {
        // The response must be larger than the socket buffers of client and server.
        let help = "x".repeat(32 * 1024 * 1024);
        metrics.register(
            "long",
            help.leak(),
            daemon_runtime::Counter::<u64>::default(),
        );
    })
    .await;
    let request =
        b"GET /metrics HTTP/1.1\r\nHost: test\r\nAccept: application/openmetrics-text\r\n\r\n";
    let began = Instant::now();
    let mut stream = connect_and_send(http, request).await;
    while cut(&metrics, "http", "timeout") == 0 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(began.elapsed() < Duration::from_secs(30));
    }
    assert!(began.elapsed() > Duration::from_secs(10));
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.ends_with(b"# EOF\n"), "{}", answer.len());
}

#[tokio::test]
async fn an_http_connection_serves_only_one_request() {
    let (http, _, _) = start().await;
    let twice = "GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n".repeat(2);
    let answer = request(http, &twice).await;
    assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 1, "{answer:?}");
    assert!(answer.contains("connection: close"), "{answer:?}");
}

#[tokio::test]
async fn requests_with_too_long_or_too_many_headers_are_refused() {
    let (http, _, _) = start().await;
    let long = format!("Long: {}\r\n", "x".repeat(9 * 1024));
    let many = "Many: x\r\n".repeat(65);
    for headers in [long, many] {
        let text = format!("GET /healthz HTTP/1.1\r\nHost: test\r\n{headers}\r\n");
        let answer = request(http, &text).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer:?}");
    }
}

async fn client(address: SocketAddr) -> HealthClient<tonic::transport::Channel> {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    HealthClient::new(endpoint.connect().await.unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_grpc_connection_without_a_handshake_is_closed_after_the_handshake_timeout() {
    let (_, grpc, metrics) = start().await;
    for bytes in [&b""[..], &PREFACE[..23]] {
        let lasted = time_until_closed(connect_and_send(grpc, bytes).await).await;
        assert!((4..=7).contains(&lasted.as_secs()), "{lasted:?}");
    }
    assert_eq!(cut(&metrics, "grpc", "timeout"), 2);
}

#[tokio::test]
async fn an_open_grpc_stream_is_not_closed_during_a_flood_of_connections() {
    let (_, grpc, metrics) = start().await;
    let mut watching = client(grpc).await;
    let watch = watching.watch(HealthCheckRequest::default()).await.unwrap();
    let mut watch = watch.into_inner();
    watch.message().await.unwrap().unwrap();
    let mut open = VecDeque::new();
    for _ in 0..2_000 {
        open.push_back(connect_and_send(grpc, &PREFACE[..10]).await);
        if open.len() > 300 {
            open.pop_front();
        }
    }
    assert!(cut(&metrics, "grpc", "limit") > 0);
    // A new client is served, and the stream is still open.
    let mut new = client(grpc).await;
    new.check(HealthCheckRequest::default()).await.unwrap();
    watching.check(HealthCheckRequest::default()).await.unwrap();
    let next = timeout(Duration::from_millis(50), watch.message()).await;
    assert!(next.is_err(), "{next:?}");
}

/// Opens a stream on a new connection.
async fn watch(
    target: &GrpcTarget,
) -> Result<tonic::Streaming<HealthCheckResponse>, tonic::Status> {
    let mut client = HealthClient::new(target.channel());
    let watching = client.watch(HealthCheckRequest::default()).await;
    let mut stream = watching?.into_inner();
    stream.message().await?;
    Ok(stream)
}

fn target(address: SocketAddr) -> GrpcTarget {
    format!("http://{address}").parse().unwrap()
}

/// Waits until a new client is served.
async fn wait_until_served(target: &GrpcTarget) {
    let served = async {
        loop {
            let mut client = HealthClient::new(target.channel());
            if client.check(HealthCheckRequest::default()).await.is_ok() {
                break;
            }
        }
    };
    timeout(DEADLINE, served).await.unwrap();
}

#[tokio::test]
async fn a_grpc_server_full_of_open_streams_refuses_the_next_connection() {
    let (_, grpc, metrics) = start().await;
    let mut open = Vec::new();
    for _ in 0..GRPC_CONNECTIONS {
        open.push(watch(&target(grpc)).await.unwrap());
    }
    let refused = connect_and_send(grpc, b"").await;
    timeout(DEADLINE, time_until_closed(refused)).await.unwrap();
    assert_eq!(cut(&metrics, "grpc", "limit"), 1);
    open.pop();
    wait_until_served(&target(grpc)).await;
}

#[tokio::test]
async fn grpc_connections_without_open_streams_are_closed_at_the_connection_limit() {
    let (_, grpc, metrics) = start().await;
    let mut open_watch = watch(&target(grpc)).await.unwrap();
    let mut idle = Vec::new();
    for _ in 0..300 {
        let mut client = client(grpc).await;
        client.check(HealthCheckRequest::default()).await.unwrap();
        idle.push(client);
    }
    assert_eq!(
        cut(&metrics, "grpc", "limit"),
        300 + 1 - GRPC_CONNECTIONS as u64
    );
    // A client whose connection was closed connects again.
    idle[0].check(HealthCheckRequest::default()).await.unwrap();
    let next = timeout(Duration::from_millis(50), open_watch.message()).await;
    assert!(next.is_err(), "{next:?}");
}

/// Runs a daemon whose gRPC server listens on a unix socket until the test ends.
async fn start_on_unix_socket() -> (tempfile::TempDir, PathBuf, Metrics) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("test.sock");
    let mut daemon = Daemon::new("test");
    let metrics = daemon.metrics().clone();
    let address = ListenAddress::Unix(path.clone());
    let bound = daemon.serve_grpc(&address, CONTRACT, Routes::default());
    bound.await.unwrap();
    tokio::spawn(daemon.run_until_drained(std::future::pending()));
    (directory, path, metrics)
}

#[tokio::test]
async fn idle_connections_of_the_unix_socket_lock_no_client_out() {
    let (_directory, path, metrics) = start_on_unix_socket().await;
    let socket = GrpcTarget::Unix(path.clone());
    let mut open_watch = watch(&socket).await.unwrap();
    let mut idle = Vec::new();
    for _ in 0..300 {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        stream.write_all(PREFACE).await.unwrap();
        stream.write_all(EMPTY_SETTINGS).await.unwrap();
        // The server's SETTINGS follow the client's preface.
        stream.read_exact(&mut [0; 9]).await.unwrap();
        idle.push(stream);
    }
    for _ in 0..10 {
        let mut client = HealthClient::new(socket.channel());
        client.check(HealthCheckRequest::default()).await.unwrap();
        let connections = value(&metrics, "portlb_server_connections{server=\"grpc\"}");
        assert!(connections <= GRPC_CONNECTIONS as u64, "{connections}");
    }
    let next = timeout(Duration::from_millis(50), open_watch.message()).await;
    assert!(next.is_err(), "{next:?}");
}

#[tokio::test]
async fn a_connection_whose_client_does_not_read_is_closed_at_the_limit() {
    let (_directory, path, _metrics) = start_on_unix_socket().await;
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        stream.write_all(PREFACE).await.unwrap();
        stream.write_all(EMPTY_SETTINGS).await.unwrap();
        // The replies to these pings fill the socket until the server can no longer write.
        while timeout(
            Duration::from_millis(20),
            stream.write_all(&PING.repeat(1_000)),
        )
        .await
        .is_ok()
        {}
        open.push(stream);
    }
    while open.len() < GRPC_CONNECTIONS {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        stream.write_all(PREFACE).await.unwrap();
        open.push(stream);
    }
    for _ in 0..5 {
        wait_until_served(&GrpcTarget::Unix(path.clone())).await;
    }
}

#[tokio::test]
async fn one_process_has_streams_on_a_quarter_of_the_connections_of_a_unix_socket() {
    let (_directory, path, _metrics) = start_on_unix_socket().await;
    let socket = GrpcTarget::Unix(path);
    let mut open = Vec::new();
    for _ in 0..GRPC_CONNECTIONS / 4 {
        open.push(watch(&socket).await.unwrap());
    }
    let refused = watch(&socket).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("64 connections"), "{refused}");
    open.pop();
    wait_until_served(&socket).await;
}
