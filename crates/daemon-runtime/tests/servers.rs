//! Tests of the HTTP server and the gRPC server with real sockets.

#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use daemon_runtime::{
    Counter, Daemon, DaemonError, GrpcContract, GrpcTarget, ListenAddress, Readiness, Shutdown,
    SocketPermissions,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixListener},
    task::JoinHandle,
};
use tonic::{Code, service::Routes};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

/// The tests use only health and reflection, so the contract needs no services of portlb.
const CONTRACT: GrpcContract = GrpcContract {
    services: &["test.v1.Test"],
    descriptors: tonic_health::pb::FILE_DESCRIPTOR_SET,
};
const DEADLINE: Duration = Duration::from_secs(10);

fn any_port() -> ListenAddress {
    ListenAddress::from_str("127.0.0.1:0").unwrap()
}

fn socket(directory: &tempfile::TempDir) -> (PathBuf, ListenAddress) {
    let path = directory.path().join("test.sock");
    (path.clone(), ListenAddress::Unix(path))
}

fn target(address: &ListenAddress) -> GrpcTarget {
    match address {
        ListenAddress::Tcp(address) => format!("http://{address}").parse().unwrap(),
        ListenAddress::Unix(path) => GrpcTarget::Unix(path.clone()),
    }
}

async fn serve(daemon: &mut Daemon, address: &ListenAddress) -> Result<ListenAddress, DaemonError> {
    daemon
        .serve_grpc(address, CONTRACT, Routes::default())
        .await
}

fn run(daemon: Daemon) -> (Shutdown, JoinHandle<Result<(), DaemonError>>) {
    let shutdown = daemon.shutdown().clone();
    let running = tokio::spawn(daemon.run_until_drained(std::future::pending()));
    (shutdown, running)
}

async fn stop(shutdown: &Shutdown, running: JoinHandle<Result<(), DaemonError>>) {
    shutdown.request();
    let ended = tokio::time::timeout(DEADLINE, running).await.unwrap();
    ended.unwrap().unwrap();
}

async fn status(target: &GrpcTarget, service: &str) -> Result<ServingStatus, Code> {
    HealthClient::new(target.channel())
        .check(HealthCheckRequest {
            service: service.to_owned(),
        })
        .await
        .map(|response| response.into_inner().status())
        .map_err(|status| status.code())
}

/// Waits until the health service reports the expected status.
async fn wait_for_status(target: &GrpcTarget, service: &str, expected: ServingStatus) {
    let mut updates = HealthClient::new(target.channel())
        .watch(HealthCheckRequest {
            service: service.to_owned(),
        })
        .await
        .unwrap()
        .into_inner();
    let seen = async {
        while let Some(update) = updates.message().await.unwrap() {
            if update.status() == expected {
                return;
            }
        }
        panic!("the watch of {service:?} has ended");
    };
    tokio::time::timeout(DEADLINE, seen)
        .await
        .unwrap_or_else(|_| panic!("{service:?} was never {expected:?}"));
}

async fn reflected_services(target: &GrpcTarget) -> Vec<String> {
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(target.channel())
        .server_reflection_info(futures::stream::iter([request]))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?}");
    };
    list.service
        .into_iter()
        .map(|service| service.name)
        .collect()
}

/// Sends a GET request. Returns the status line with the headers, and the body.
async fn get(address: &ListenAddress, path: &str) -> (String, String) {
    get_with(address, path, "").await
}

/// Sends a GET request with additional headers. Each header ends with a line break.
async fn get_with(address: &ListenAddress, path: &str, headers: &str) -> (String, String) {
    let ListenAddress::Tcp(address) = address else {
        panic!("{address} is not TCP");
    };
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

#[tokio::test]
async fn the_health_service_reports_the_readiness_of_the_daemon() {
    let mut daemon = Daemon::new("test");
    let step = daemon.readiness().step("table", "not read yet");
    let bound = serve(&mut daemon, &any_port()).await.unwrap();
    let (shutdown, running) = run(daemon);
    let target = target(&bound);

    wait_for_status(&target, "test.v1.Test", ServingStatus::NotServing).await;
    step.ready("");
    wait_for_status(&target, "test.v1.Test", ServingStatus::Serving).await;
    wait_for_status(&target, "", ServingStatus::Serving).await;
    step.missing("lost");
    wait_for_status(&target, "test.v1.Test", ServingStatus::NotServing).await;
    assert_eq!(
        status(&target, "no.such.Service").await,
        Err(Code::NotFound)
    );
    stop(&shutdown, running).await;
}

#[tokio::test]
async fn reflection_lists_the_served_services() {
    let mut daemon = Daemon::new("test");
    let bound = serve(&mut daemon, &any_port()).await.unwrap();
    let (shutdown, running) = run(daemon);

    let services = reflected_services(&target(&bound)).await;
    for expected in ["test.v1.Test", "grpc.health.v1.Health"] {
        assert!(services.iter().any(|name| name == expected), "{services:?}");
    }
    stop(&shutdown, running).await;
}

#[tokio::test]
async fn grpc_is_served_on_a_unix_socket_that_is_removed_when_the_daemon_ends() {
    let directory = tempfile::tempdir().unwrap();
    let (path, address) = socket(&directory);
    let mut daemon = Daemon::new("test");
    let bound = serve(&mut daemon, &address).await.unwrap();
    assert_eq!(bound, address);
    let (shutdown, running) = run(daemon);

    wait_for_status(&target(&bound), "", ServingStatus::Serving).await;
    stop(&shutdown, running).await;
    assert!(!path.exists());
}

/// Sends a health request with this authority. Returns the type of the first response frame:
/// HEADERS or RST_STREAM.
async fn answer_to_authority(path: &Path, authority: &str) -> u8 {
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    let literal = |name: &str, value: &str| {
        let lengths = [name, value].map(|text| u8::try_from(text.len()).unwrap());
        let (name, value) = (name.as_bytes(), value.as_bytes());
        [&[0x40, lengths[0]], name, &[lengths[1]], value].concat()
    };
    let block = [
        literal(":method", "POST"),
        literal(":scheme", "http"),
        literal(":path", "/grpc.health.v1.Health/Check"),
        literal(":authority", authority),
        literal("te", "trailers"),
        literal("content-type", "application/grpc"),
    ]
    .concat();
    let length = u8::try_from(block.len()).unwrap();
    let mut stream = tokio::net::UnixStream::connect(path).await.unwrap();
    let sent = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &[0, 0, 0, 4, 0, 0, 0, 0, 0][..],
        &[0, 0, length, HEADERS, 4, 0, 0, 0, 1],
        &block,
        // An empty gRPC message and the end of the stream.
        &[0, 0, 5, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0],
    ]
    .concat();
    stream.write_all(&sent).await.unwrap();
    loop {
        let mut header = [0; 9];
        stream.read_exact(&mut header).await.unwrap();
        let [high, middle, low, kind, ..] = header;
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await.unwrap();
        if kind == HEADERS || kind == RST_STREAM {
            return kind;
        }
    }
}

#[tokio::test]
async fn the_authorities_of_grpc_clients_on_a_unix_socket_are_accepted() {
    let directory = tempfile::tempdir().unwrap();
    let (path, address) = socket(&directory);
    let mut daemon = Daemon::new("test");
    let bound = daemon.serve_grpc(&address, CONTRACT, Routes::default());
    bound.await.unwrap();
    let (shutdown, running) = run(daemon);
    for authority in [
        "localhost",
        // Authorities of gRPC C-core since 1.57.
        "run%2Fportlb%2Fnode-router.sock",
        "%2Frun%2Fportlb%2Fnode-router.sock",
        // The authority of grpc-java.
        "/run/portlb/node-router.sock",
    ] {
        let answer = answer_to_authority(&path, authority);
        let kind = tokio::time::timeout(DEADLINE, answer).await.unwrap();
        assert_eq!(kind, 1, "{authority}: HEADERS");
    }
    stop(&shutdown, running).await;
}

#[tokio::test]
async fn a_unix_socket_that_no_process_serves_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let (path, address) = socket(&directory);
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let mut daemon = Daemon::new("test");
    let bound = serve(&mut daemon, &address).await.unwrap();
    let (shutdown, running) = run(daemon);

    wait_for_status(&target(&bound), "", ServingStatus::Serving).await;
    stop(&shutdown, running).await;
}

#[tokio::test]
async fn a_unix_socket_that_another_server_serves_is_refused_and_not_changed() {
    let directory = tempfile::tempdir().unwrap();
    let (path, address) = socket(&directory);
    let living = UnixListener::bind(&path).unwrap();
    let mut daemon = Daemon::new("test");
    let error = serve(&mut daemon, &address).await.unwrap_err();
    assert!(
        matches!(&error, DaemonError::Listen { address: refused, source, .. }
        if *refused == address && source.kind() == std::io::ErrorKind::AddrInUse)
    );

    // The first accepted connection is from the refused bind. The other server still accepts the
    // next connection.
    living.accept().await.unwrap();
    let (client, server) = tokio::join!(tokio::net::UnixStream::connect(&path), living.accept());
    client.unwrap();
    server.unwrap();
}

/// Waits until the readiness of the daemon is `is_ready`.
async fn wait_for_readiness(readiness: &Readiness, is_ready: bool) {
    let changed = async {
        while readiness.is_ready() != is_ready {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, changed)
        .await
        .unwrap_or_else(|_| panic!("{}", readiness.report()));
}

async fn wait_for_path(path: &Path) {
    let bound = async {
        while !path.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, bound).await.unwrap();
}

#[tokio::test]
async fn an_ending_daemon_does_not_remove_the_unix_socket_of_its_successor() {
    let directory = tempfile::tempdir().unwrap();
    let (path, address) = socket(&directory);
    let mut ending = Daemon::new("test");
    let bound = serve(&mut ending, &address).await.unwrap();
    // The open watch delays the end of the first daemon after its socket is closed.
    let (shutdown, running) = run(ending);
    let mut watch = HealthClient::new(target(&bound).channel())
        .watch(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    watch.message().await.unwrap().unwrap();
    shutdown.request();
    let free = async {
        while tokio::net::UnixStream::connect(&path).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(DEADLINE, free).await.unwrap();
    let mut successor = Daemon::new("test");
    serve(&mut successor, &address).await.unwrap();
    running.await.unwrap().unwrap();

    let (shutdown, running) = run(successor);
    wait_for_status(&target(&bound), "", ServingStatus::Serving).await;
    stop(&shutdown, running).await;
    assert!(!path.exists());
}

#[tokio::test]
async fn the_removed_path_of_a_unix_socket_is_bound_again() {
    let directory = tempfile::tempdir().unwrap();
    let (path, address) = socket(&directory);
    let mut daemon = Daemon::new("test");
    daemon.set_grpc_socket_permissions(SocketPermissions {
        mode: 0o640,
        group: None,
    });
    let bound = serve(&mut daemon, &address).await.unwrap();
    let (shutdown, running) = run(daemon);
    wait_for_status(&target(&bound), "", ServingStatus::Serving).await;
    std::fs::remove_file(&path).unwrap();

    wait_for_path(&path).await;
    wait_for_status(&target(&bound), "", ServingStatus::Serving).await;
    let mode = path.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    stop(&shutdown, running).await;
}

#[tokio::test]
async fn a_daemon_is_not_ready_while_another_process_serves_the_path_of_its_unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    let (path, address) = socket(&directory);
    let mut daemon = Daemon::new("test");
    let readiness = daemon.readiness().clone();
    let bound = serve(&mut daemon, &address).await.unwrap();
    let (shutdown, running) = run(daemon);
    wait_for_readiness(&readiness, true).await;
    std::fs::remove_file(&path).unwrap();
    let other = UnixListener::bind(&path).unwrap();

    wait_for_readiness(&readiness, false).await;
    let report = readiness.report();
    let expected = format!("missing gRPC socket: {} does not lead", path.display());
    assert!(report.contains(&expected), "{report}");
    assert!(report.contains("another process serves"), "{report}");
    drop(other);
    wait_for_readiness(&readiness, true).await;
    wait_for_status(&target(&bound), "", ServingStatus::Serving).await;
    stop(&shutdown, running).await;
}

#[tokio::test]
async fn a_regular_file_at_the_path_of_the_socket_is_refused_and_not_changed() {
    let directory = tempfile::tempdir().unwrap();
    let (path, address) = socket(&directory);
    std::fs::write(&path, "the text of another file").unwrap();
    let mut daemon = Daemon::new("test");
    let refused = serve(&mut daemon, &address).await;
    assert!(matches!(refused, Err(DaemonError::Listen { .. })));
    assert_eq!(
        std::fs::read_to_string(&path).unwrap(),
        "the text of another file"
    );
}

#[tokio::test]
async fn the_message_about_a_missing_directory_of_the_socket_has_its_path() {
    let directory = tempfile::tempdir().unwrap();
    let address = ListenAddress::Unix(directory.path().join("missing/test.sock"));
    let error = serve(&mut Daemon::new("test"), &address).await.unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("missing does not exist; create"), "{cause}");
}

#[tokio::test]
async fn the_message_about_a_used_tcp_port_has_its_address_and_flag() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = ListenAddress::Tcp(taken.local_addr().unwrap());
    let error = serve(&mut Daemon::new("test"), &address).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("cannot listen on {address} (--grpc-listen)")
    );
}

#[tokio::test]
async fn while_a_step_is_missing_readyz_names_the_step_and_healthz_succeeds() {
    let mut daemon = Daemon::new("test");
    let step = daemon.readiness().step("table", "not read yet");
    let bound = daemon.serve_http(&any_port()).await.unwrap();
    let (shutdown, running) = run(daemon);

    let (head, body) = get(&bound, "/readyz").await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert_eq!(body, "missing table: not read yet\n");
    let (head, _) = get(&bound, "/healthz").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");

    step.ready("12 entries");
    let (head, body) = get(&bound, "/readyz").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(body, "ready table: 12 entries\n");
    stop(&shutdown, running).await;
}

#[tokio::test]
async fn metrics_are_served_in_the_format_that_the_client_accepts() {
    let mut daemon = Daemon::new("test");
    let counter = Counter::<u64>::default();
    daemon
        .metrics()
        .register("things", "A counter of this test", counter.clone());
    let bound = daemon.serve_http(&any_port()).await.unwrap();
    let (shutdown, running) = run(daemon);

    counter.inc_by(3);
    let accept = "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n";
    let (head, body) = get_with(&bound, "/metrics", accept).await;
    assert!(
        head.to_lowercase()
            .contains("content-type: application/openmetrics-text"),
        "{head}"
    );
    assert!(body.contains("# TYPE portlb_build info\n"), "{body}");
    assert!(body.contains("portlb_things_total 3\n"), "{body}");
    assert!(body.contains("portlb_build_info{daemon=\"test\""), "{body}");
    assert!(body.ends_with("# EOF\n"), "{body}");

    // The text format 0.0.4 has no type `info`, so the build information is a gauge.
    let (head, body) = get(&bound, "/metrics").await;
    assert!(
        head.to_lowercase()
            .contains("content-type: text/plain; version=0.0.4"),
        "{head}"
    );
    assert!(body.contains("# TYPE portlb_build_info gauge\n"), "{body}");
    assert!(
        body.contains("# TYPE portlb_things_total counter\n"),
        "{body}"
    );
    assert!(body.contains("portlb_things_total 3\n"), "{body}");
    assert!(body.contains("portlb_build_info{daemon=\"test\""), "{body}");
    assert!(!body.contains("# EOF"), "{body}");
    stop(&shutdown, running).await;
}

#[tokio::test]
async fn an_open_stream_does_not_delay_the_end_of_the_daemon() {
    let mut daemon = Daemon::new("test");
    let bound = serve(&mut daemon, &any_port()).await.unwrap();
    let (shutdown, running) = run(daemon);
    let mut watch = HealthClient::new(target(&bound).channel())
        .watch(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    watch.message().await.unwrap().unwrap();

    stop(&shutdown, running).await;
}
