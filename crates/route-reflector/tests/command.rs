//! Tests of the program route-reflector: exit codes and messages.

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

/// The listen ports are in use, so a process that opens its sockets exits with code 1.
#[test]
fn an_invalid_flag_or_file_ends_the_program_with_code_2_before_it_opens_a_socket() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file.yaml");
    let flags = [
        "--config",
        file.to_str().unwrap(),
        "--listen",
        &listen,
        "--grpc-listen",
        &listen,
    ];
    let check = |flags: &[&str], code: i32, parts: &[&str]| {
        let (actual_code, text) = run(flags);
        assert_eq!(actual_code, Some(code), "{text}");
        for part in parts {
            assert!(text.contains(part), "{part}: {text}");
        }
    };
    check(&[], 2, &["--config <FILE>", "required"]);
    let missing = [
        "cannot read",
        flags[1],
        "give a readable file with --config",
        "docs/reference/route-reflector.md",
    ];
    check(&flags, 2, &missing);

    let example = std::fs::read_to_string(EXAMPLE).unwrap();
    std::fs::write(&file, example.replace("holdTime: 3s", "holdTime: 1s")).unwrap();
    let unusable = "holdTime: 1s is not allowed; write whole seconds from 3s to 65535s";
    check(&flags, 2, &["file.yaml:", unusable]);

    std::fs::write(&file, example).unwrap();
    check(&[&flags[..], &["--check-config"]].concat(), 0, &["usable"]);
    check(&flags, 1, &["cannot open the BGP sockets"]);
}

#[test]
fn the_help_names_the_main_flags_variables_signals_and_commands() {
    let (code, text) = run(&["--help"]);
    assert_eq!(code, Some(0));
    for word in [
        "--check-config",
        "PORTLB_CONFIG",
        "grpcurl",
        "NET_BIND_SERVICE",
        "SIGHUP",
        // A command of two lines ends its first line with a backslash, so that it can be copied.
        "50054 \\\n    portlb.reflector.v1.RouteReflectorService/ListPaths\n",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
}
