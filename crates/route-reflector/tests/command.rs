//! The command itself: what it says and how it exits.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{net::TcpListener, process::Command};

fn run(flags: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_route-reflector"))
        .args(flags)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

const EXAMPLE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../docs/examples/route-reflector.yaml"
);

#[test]
fn the_example_passes_the_check() {
    let (code, text) = run(&["--config", EXAMPLE, "--check-config"]);
    assert_eq!((code, text.contains("usable")), (Some(0), true), "{text}");
}

/// If it opened a socket first, it would fail with code 1, since the port is taken.
#[test]
fn an_unusable_file_ends_with_code_2_before_any_socket_is_opened() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file.yaml");
    let file = file.to_str().unwrap();
    let flags = [
        "--config",
        file,
        "--listen",
        &listen,
        "--grpc-listen",
        &listen,
    ];
    let (code, text) = run(&flags);
    assert_eq!(code, Some(2), "{text}");
    assert!(
        text.contains("cannot read") && text.contains(file) && text.contains("--config must name"),
        "{text}"
    );

    let example = std::fs::read_to_string(EXAMPLE).unwrap();
    std::fs::write(file, example.replace("holdTime: 3s", "holdTime: 1s")).unwrap();
    let (code, text) = run(&flags);
    assert_eq!(code, Some(2), "{text}");
    assert!(
        text.contains("holdTime: 1s is not allowed; write whole seconds from 3s to 65535s"),
        "{text}"
    );
    assert!(text.contains("file.yaml:"), "{text}");

    std::fs::write(file, example).unwrap();
    let (code, text) = run(&flags);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("cannot open the BGP sockets"), "{text}");
}

#[test]
fn the_help_teaches() {
    let (code, text) = run(&["--help"]);
    assert_eq!(code, Some(0));
    for word in [
        "--check-config",
        "PORTLB_CONFIG",
        "grpcurl",
        "NET_BIND_SERVICE",
        "SIGHUP",
        // A command of two lines survives being pasted.
        "50054 \\\n    portlb.reflector.v1.Reflector/ListPaths\n",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
}
