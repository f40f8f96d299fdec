//! What the command says to flags that cannot be used and to a kernel that cannot be programmed.
#![cfg(test)]

use std::process::{Command, Output};

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

#[test]
fn unusable_flags_end_with_exit_code_2_and_the_cure() {
    check(
        &["--discovery", "127.0.0.1:50051"],
        2,
        &["--discovery", "http://127.0.0.1:50051"],
    );
    check(
        &["--audit-interval", "10ms"],
        2,
        &["--audit-interval", "1s and 24h", "30s"],
    );
    check(
        &["--audit-interval", "soon"],
        2,
        &["--audit-interval", "soon"],
    );
    check(
        &["--grpc-listen", "here"],
        2,
        &["--grpc-listen", "127.0.0.1:50051"],
    );
    check(&["--no-such-flag"], 2, &["--no-such-flag"]);
}

#[test]
fn usable_flags_are_said_to_be_usable_without_any_privilege() {
    check(
        &["--check-config", "--discovery", "unix:/run/x"],
        0,
        &["usable"],
    );
}

#[test]
fn the_help_shows_how_to_look_at_what_it_does() {
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
fn a_missing_privilege_or_kernel_part_is_named_with_what_gives_it() {
    // Where the kernel has no IPVS, that comes first.
    let output = Command::new("setpriv")
        .args(["--bounding-set=-net_admin", "--inh-caps=-net_admin"])
        .arg(env!("CARGO_BIN_EXE_ipvs-programmer"))
        .args(["--grpc-listen=127.0.0.1:0", "--http-listen=127.0.0.1:0"])
        .output()
        .unwrap();
    let text = text(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let cure = text.contains("securityContext.capabilities.add") || text.contains("modprobe ip_vs");
    assert!(cure, "{text}");
}
