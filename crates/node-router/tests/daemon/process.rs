//! Tests of the program: exit codes, messages and signals.

use std::{
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use daemon_api::noderoute::v1::{
    HoldRequest, HoldResponse, node_route_service_client::NodeRouteServiceClient,
};
use daemon_runtime::GrpcTarget;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use tonic::{Code, Streaming};

use crate::{
    namespace::{in_namespace, ip},
    signer::{ISSUER, SigningKey, claims, claims_with, key_set},
    support::{DEADLINE, hold, next},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_node-router");
const RANGES: [&str; 2] = [
    "--allowed-prefixes=10.1.1.0/24",
    "--allowed-gateways=10.244.3.0/24",
];

/// A running program that is killed at the end of the test.
struct RouterProcess(Child);

impl Drop for RouterProcess {
    fn drop(&mut self) {
        // In most tests the program has already exited, so errors are ignored.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl RouterProcess {
    fn start(socket: &Path) -> Self {
        let child = Command::new(PROGRAM)
            .args(RANGES)
            .arg(format!("--grpc-listen=unix:{}", socket.display()))
            .args(["--http-listen=127.0.0.1:0", "--hold-proof=off"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), signal).unwrap();
    }

    /// Waits until the program exits. Returns its exit code, or `None` if a signal ended the
    /// program.
    fn exit_code(&mut self) -> Option<i32> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            assert!(
                Instant::now() < deadline,
                "the program does not exit in time"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

async fn wait_for_socket(socket: &Path) {
    let answers = async {
        while tokio::net::UnixStream::connect(socket).await.is_err() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(DEADLINE, answers).await.unwrap();
}

fn run_to_end(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).output().unwrap()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn an_invalid_flag_causes_exit_code_2_and_creates_no_file() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("test.sock");
    let listen = format!("--grpc-listen=unix:{}", socket.display());
    let usable = [RANGES[0], RANGES[1], &listen];
    let cases: [(&[&str], i32, &str); 4] = [
        (&[RANGES[0], &listen], 2, "--allowed-gateways is missing"),
        (&[&usable[..], &["--adopt-timeout=10"]].concat(), 2, "10s"),
        (
            &[&usable[..], &["--log-level=lou=d=er"]].concat(),
            2,
            "--log-level",
        ),
        (&[&usable[..], &["--check-config"]].concat(), 0, "usable"),
    ];
    for (flags, code, part) in cases {
        let output = run_to_end(PROGRAM, flags);
        assert_eq!(output.status.code(), Some(code), "{}", errors(&output));
        assert!(errors(&output).contains(part), "{}", errors(&output));
    }
    assert_eq!(directory.path().read_dir().unwrap().count(), 0);
}

#[test]
fn help_shows_flags_variables_defaults_and_an_example() {
    let help = run_to_end(PROGRAM, &["--help"]);
    let text = String::from_utf8(help.stdout).unwrap();
    for part in [
        "--allowed-prefixes",
        "PORTLB_ALLOWED_GATEWAYS",
        "[default: 10s]",
        "unix:/run/portlb/node-router.sock",
        "NodeRouteService/ListRoutes",
        "NET_ADMIN",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

/// A running program with a stream that holds a route.
struct ProcessWithHold {
    process: RouterProcess,
    stream: Streaming<HoldResponse>,
}

impl ProcessWithHold {
    async fn start(socket: &Path) -> Self {
        let process = RouterProcess::start(socket);
        wait_for_socket(socket).await;
        let mut client = NodeRouteServiceClient::new(GrpcTarget::Unix(socket.to_owned()).channel());
        let stream = hold(&mut client, "10.1.1.0/24", "10.244.3.7").await;
        let mut stream = stream.unwrap();
        assert!(next(&mut stream).await.unwrap().installed);
        Self { process, stream }
    }
}

#[test]
fn a_held_route_stays_after_sigterm_sigint_and_sigkill_and_the_next_run_accepts_a_hold_of_it() {
    in_namespace(async || {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("node-router.sock");
        for (signal, code) in [
            (Signal::SIGTERM, Some(0)),
            (Signal::SIGINT, Some(0)),
            (Signal::SIGKILL, None),
        ] {
            let mut running = ProcessWithHold::start(&socket).await;
            running.process.signal(signal);
            if code.is_some() {
                let status = next(&mut running.stream).await.unwrap_err();
                assert_eq!(status.code(), Code::Unavailable, "{status:?}");
            }
            assert_eq!(running.process.exit_code(), code, "{signal}");
            assert_eq!(socket.exists(), code.is_none(), "{signal}");
            assert!(ip("route show proto 112").contains("10.1.1.0/24 via 10.244.3.7"));
        }
        ProcessWithHold::start(&socket).await;
    });
}

#[test]
fn no_log_line_at_any_level_contains_a_token() {
    in_namespace(async || {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let key = SigningKey::p256("one");
        std::fs::write(path("jwks.json"), key_set(&[&key])).unwrap();
        let child = Command::new(PROGRAM)
            .args(RANGES)
            .arg(format!("--grpc-listen=unix:{}", path("socket").display()))
            .args(["--http-listen=127.0.0.1:0", "--log-level=trace"])
            .arg("--hold-proof=token")
            .arg(format!("--token-keys-file={}", path("jwks.json").display()))
            .arg(format!("--token-issuer={ISSUER}"))
            .arg("--namespace-prefixes=web=10.1.1.0/24")
            .stderr(std::fs::File::create(path("log")).unwrap())
            .spawn()
            .unwrap();
        let mut process = RouterProcess(child);
        wait_for_socket(&path("socket")).await;
        let mut client = NodeRouteServiceClient::new(GrpcTarget::Unix(path("socket")).channel());
        let tokens = [
            key.sign(&claims("web")),
            key.sign(&claims_with("/exp", 0.into())),
            "no-token-at-all".to_owned(),
        ];
        for token in &tokens {
            let request = HoldRequest {
                prefix: "10.1.1.0/24".to_owned(),
                gateway: "10.244.3.7".to_owned(),
                ..HoldRequest::default()
            };
            let mut request = tonic::Request::new(futures::stream::iter([request]));
            let value = format!("Bearer {token}").parse().unwrap();
            request.metadata_mut().insert("authorization", value);
            client.hold(request).await.unwrap_err();
        }
        process.signal(Signal::SIGTERM);
        assert_eq!(process.exit_code(), Some(0));
        let log = std::fs::read_to_string(path("log")).unwrap();
        for line in ["accepted the token", "has expired", "not a JSON Web Token"] {
            assert!(log.contains(line), "{line}: {log}");
        }
        assert!(log.contains("TRACE"), "{log}");
        for token in &tokens {
            for part in token.split('.') {
                assert!(!log.contains(part), "{part}: {log}");
            }
        }
    });
}

#[test]
fn a_missing_privilege_causes_exit_code_1_and_an_error_with_a_suggestion() {
    in_namespace(async || {
        let directory = tempfile::tempdir().unwrap();
        let listen = format!(
            "--grpc-listen=unix:{}",
            directory.path().join("test.sock").display()
        );
        let output = run_to_end(
            "setpriv",
            &[
                "--bounding-set=-net_admin",
                PROGRAM,
                RANGES[0],
                RANGES[1],
                &listen,
                "--http-listen=127.0.0.1:0",
            ],
        );
        assert_eq!(output.status.code(), Some(1), "{}", errors(&output));
        assert!(
            errors(&output).contains("capabilities.add: [NET_ADMIN]"),
            "{}",
            errors(&output)
        );
    });
}
