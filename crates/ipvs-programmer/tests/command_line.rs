//! Tests of the program ipvs-programmer: exit codes and messages.
#![cfg(test)]

use std::{
    net::TcpListener,
    process::{Command, Output},
};

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ipvs-programmer"));
    command.args(arguments).env_clear();
    command
}

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!(
        "{}{}",
        String::from_utf8_lossy(out),
        String::from_utf8_lossy(err)
    )
}

fn check(arguments: &[&str], code: i32, expected: &[&str]) {
    let output = command(arguments).output().unwrap();
    let text = text(&output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for part in expected {
        assert!(text.contains(part), "{part} in {text}");
    }
}

/// The address of `--grpc-listen` is in use, so a program that opened its socket would exit with
/// code 1.
#[test]
fn an_invalid_flag_ends_the_program_with_code_2_before_it_opens_a_socket() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("--grpc-listen={}", taken.local_addr().unwrap());
    for (flag, code, expected) in [
        (
            "--discovery=127.0.0.1:50051",
            2,
            &["--discovery", "http://127.0.0.1:50051", "unix:"][..],
        ),
        (
            "--audit-interval=0",
            2,
            &["--audit-interval", "1s and 24h", "30s"],
        ),
        (
            "--audit-interval=soon",
            2,
            &["--audit-interval", "'soon'", "10s"],
        ),
        ("--check-config", 0, &["usable"]),
    ] {
        check(&[&listen, flag], code, expected);
    }
}

#[test]
fn the_help_has_commands_that_list_virtual_servers_and_names_the_needed_capability() {
    check(
        &["--help"],
        0,
        &[
            "NET_ADMIN",
            "ipvsadm -Ln",
            "PORTLB_DISCOVERY",
            "ListVirtualServers",
        ],
    );
}

#[test]
fn a_missing_capability_or_kernel_module_is_reported_with_a_suggestion() {
    // On a kernel without IPVS, the error names the module instead of the capability.
    let output = Command::new("setpriv")
        .args(["--bounding-set=-net_admin", "--inh-caps=-net_admin"])
        .arg(env!("CARGO_BIN_EXE_ipvs-programmer"))
        .args(["--grpc-listen=127.0.0.1:0", "--http-listen=127.0.0.1:0"])
        .output()
        .unwrap();
    let text = text(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let suggestion =
        text.contains("securityContext.capabilities.add") || text.contains("modprobe ip_vs");
    assert!(suggestion, "{text}");
}
