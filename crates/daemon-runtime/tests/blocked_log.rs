//! Tests with a log pipe that no process reads.
//!
//! The daemon under test is a child process with this test program.

#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use clap::Parser;
use daemon_runtime::{CommonArgs, run};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const DEADLINE: Duration = Duration::from_secs(20);

/// Environment variable with the behaviour of the child process: serve, fail or panic.
const ROLE: &str = "TEST_BLOCKED_LOG_ROLE";
/// Environment variable with the path of the HTTP server's unix socket in the child process.
const SOCKET: &str = "TEST_BLOCKED_LOG_SOCKET";

#[derive(Parser)]
struct Args {
    #[command(flatten)]
    common: CommonArgs,
}

/// Runs a daemon that logs more lines than the pipe and the queue can hold, and then serves, fails
/// or panics.
fn daemon(role: &str) -> ExitCode {
    let http = format!("--http-listen=unix:{}", std::env::var(SOCKET).unwrap());
    let args = Args::parse_from(["test", "--grpc-listen=127.0.0.1:0", &http]);
    run(
        "test",
        &args.common,
        || Ok(()),
        async |(), daemon| {
            for number in 0..20_000 {
                tracing::info!(number, "a log line that is long enough to fill the pipe");
            }
            match role {
                "serve" => {
                    daemon.spawn("service", std::future::pending::<io::Result<()>>());
                    Ok(())
                }
                "fail" => Err(io::Error::other("the reason of the failure")),
                "panic" => panic!("the reason of the failure"),
                other => panic!("the role {other} is unknown"),
            }
        },
    )
}

/// The entry point of the child process. Does nothing in a normal test run.
#[test]
fn entry_point_of_the_child_process() {
    if let Ok(role) = std::env::var(ROLE) {
        let _ = daemon(&role);
        // Ends the child process before the test harness prints its result.
        std::process::exit(7);
    }
}

struct ChildDaemon(Child);

impl Drop for ChildDaemon {
    fn drop(&mut self) {
        // These calls fail if the child process has already ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl ChildDaemon {
    fn start(role: &str, socket: &Path) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "entry_point_of_the_child_process",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(ROLE, role)
            .env(SOCKET, socket)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// Waits until the child process has ended.
    fn wait_for_exit(&mut self) {
        let began = Instant::now();
        while self.0.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < DEADLINE, "the child process does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Reads the whole log of the child process.
    fn log(&mut self) -> String {
        let mut text = String::new();
        let mut stderr = self.0.stderr.take().unwrap();
        stderr.read_to_string(&mut text).unwrap();
        text
    }
}

fn get(socket: &Path, path: &str) -> String {
    let began = Instant::now();
    let mut stream = loop {
        match std::os::unix::net::UnixStream::connect(socket) {
            Ok(stream) => break stream,
            Err(error) => assert!(began.elapsed() < DEADLINE, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn socket_in(directory: &tempfile::TempDir) -> std::path::PathBuf {
    directory.path().join("http.sock")
}

#[test]
fn a_log_pipe_without_reader_does_not_stop_the_daemon() {
    let directory = tempfile::tempdir().unwrap();
    let socket = socket_in(&directory);
    let mut daemon = ChildDaemon::start("serve", &socket);
    let answer = get(&socket, "/healthz");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
    let metrics = get(&socket, "/metrics");
    let dropped = metrics
        .lines()
        .find_map(|line| line.strip_prefix("portlb_log_lines_dropped_total "))
        .unwrap();
    assert!(dropped.parse::<u64>().unwrap() > 1_000, "{dropped}");

    // When the pipe is read, the daemon logs the number of dropped lines.
    let mut lines = BufReader::new(daemon.0.stderr.take().unwrap()).lines();
    let report = lines.find(|line| line.as_ref().unwrap().contains("log lines were dropped"));
    let report = report.unwrap().unwrap();
    assert!(report.contains("WARN"), "{report}");
    assert!(report.contains(&format!("dropped={dropped}")), "{report}");
    assert!(get(&socket, "/healthz").starts_with("HTTP/1.1 200 "));
}

#[test]
fn a_daemon_whose_log_pipe_is_full_ends_at_sigterm() {
    let directory = tempfile::tempdir().unwrap();
    let socket = socket_in(&directory);
    let mut daemon = ChildDaemon::start("serve", &socket);
    get(&socket, "/healthz");
    let pid = Pid::from_raw(i32::try_from(daemon.0.id()).unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    daemon.wait_for_exit();
}

#[test]
fn a_daemon_whose_log_pipe_is_full_ends_at_an_error_and_at_a_panic() {
    for role in ["fail", "panic"] {
        let directory = tempfile::tempdir().unwrap();
        ChildDaemon::start(role, &socket_in(&directory)).wait_for_exit();
    }
}

#[test]
fn the_reason_of_a_failure_is_logged_although_other_lines_were_dropped() {
    for role in ["fail", "panic"] {
        let directory = tempfile::tempdir().unwrap();
        let mut daemon = ChildDaemon::start(role, &socket_in(&directory));
        let log = daemon.log();
        let rest = log.split("ERROR").nth(1).unwrap_or_default();
        assert!(rest.contains("the reason of the failure"), "{rest:?}");
    }
}
