//! A test of servers without free file descriptors.
//!
//! The limit of open files applies to the whole process, so this file must have only one test.

#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

use std::{str::FromStr, time::Duration};

use daemon_runtime::{Daemon, GrpcContract, ListenAddress, Metrics};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};
use tonic::service::Routes;

const CONTRACT: GrpcContract = GrpcContract {
    services: &["test.v1.Test"],
    descriptors: tonic_health::pb::FILE_DESCRIPTOR_SET,
};
const DEADLINE: Duration = Duration::from_secs(10);

/// The first pause after a failed accept.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

fn failures(metrics: &Metrics, server: &str) -> u32 {
    let name = format!("portlb_server_accept_failures_total{{server=\"{server}\"}} ");
    let text = metrics.encode();
    let number = text.lines().find_map(|line| line.strip_prefix(&name));
    number.unwrap().parse().unwrap()
}

#[tokio::test]
async fn servers_pause_between_accepts_while_no_descriptor_is_free_and_serve_afterwards() {
    let mut daemon = Daemon::new("test");
    let metrics = daemon.metrics().clone();
    let any_port = ListenAddress::from_str("127.0.0.1:0").unwrap();
    let grpc = daemon.serve_grpc(&any_port, CONTRACT, Routes::default());
    let grpc = grpc.await.unwrap().to_string();
    let http = daemon.serve_http(&any_port).await.unwrap().to_string();

    // The kernel completes these connections before the daemon's tasks run at the next await.
    let grpc_client = std::net::TcpStream::connect(grpc).unwrap();
    let http_client = std::net::TcpStream::connect(http).unwrap();
    http_client.set_nonblocking(true).unwrap();
    let mut http_client = TcpStream::from_std(http_client).unwrap();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 1, hard).unwrap();
    let began = Instant::now();
    tokio::spawn(daemon.run_until_drained(std::future::pending()));
    let both_have_paused = async {
        while failures(&metrics, "grpc") < 4 || failures(&metrics, "http") < 4 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let in_time = tokio::time::timeout(DEADLINE, both_have_paused).await;
    let most = failures(&metrics, "grpc").max(failures(&metrics, "http"));
    let elapsed = began.elapsed();
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    in_time.unwrap();
    // Each pause is twice as long as the previous pause.
    let least = FIRST_PAUSE * (2_u32.pow(most - 1) - 1);
    assert!(elapsed >= least, "{most} failures in {elapsed:?}");

    let request = b"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n";
    http_client.write_all(request).await.unwrap();
    let mut answer = String::new();
    let read = http_client.read_to_string(&mut answer);
    tokio::time::timeout(DEADLINE, read).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
    drop(grpc_client);
}
