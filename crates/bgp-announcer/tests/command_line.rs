//! Tests of the program bgp-announcer: exit codes, messages and signals.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

const DEADLINE: Duration = Duration::from_secs(10);

const USUAL: &[&str] = &[
    "--asn=64512",
    "--peer=127.80.0.1",
    "--gateway=10.244.1.7",
    "--next-hop=192.0.2.11",
    "--allowed-prefixes=10.1.1.0/24",
    "--data-plane=http://127.80.0.1:1",
    "--grpc-listen=127.0.0.1:0",
    "--http-listen=127.0.0.1:0",
];

fn command(flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bgp-announcer"));
    command.args(flags).stdin(Stdio::null());
    for (name, _) in std::env::vars() {
        if name.starts_with("PORTLB_") {
            command.env_remove(name);
        }
    }
    command
}

fn run(flags: &[&str]) -> (Option<i32>, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command(flags).output().expect("the program starts");
    let text = [stdout, stderr].map(|it| String::from_utf8_lossy(&it).into_owned());
    (status.code(), text.concat())
}

/// The listen port is in use, so a process that opens its sockets exits with code 1.
#[test]
fn an_invalid_flag_ends_the_program_with_code_2_and_one_message_before_it_opens_a_socket() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("the loopback interface is up");
    let address = taken.local_addr().expect("the listener has an address");
    let (grpc, http) = (
        format!("--grpc-listen={address}"),
        "--http-listen=127.0.0.1:0",
    );
    let usable = [&USUAL[..6], &[&grpc, http]].concat();
    let with = |flag: &str| run(&[&usable[..], &[flag]].concat());

    let empty = tempfile::NamedTempFile::new().expect("a temporary file can be created");
    let path = empty.path().display();
    let message = format!(
        "bgp-announcer: --md5-key-file: the TCP MD5 key file {path} contains nothing instead of a \
         key; write the key of the peers into the file, one line of 1 to 80 bytes\n"
    );
    assert_eq!(with(&format!("--md5-key-file={path}")), (Some(2), message));

    let (code, text) = run(&["--asn=64512"]);
    assert_eq!(code, Some(2), "{text}");
    for part in ["--peer <PEER>", "--allowed-prefixes <PREFIXES>", "required"] {
        assert!(text.contains(part), "{part}: {text}");
    }

    let message = "bgp-announcer: flags and files are usable\n".to_owned();
    assert_eq!(with("--check-config"), (Some(0), message));

    let (code, text) = run(&usable);
    assert_eq!(code, Some(1), "{text}");
    let message = format!("cannot listen on {address}");
    assert!(text.contains(&message), "{text}");
}

#[test]
fn each_flag_has_an_environment_variable() {
    let environment = [
        ("PORTLB_ASN", "64512"),
        ("PORTLB_PEER", "192.0.2.2 192.0.2.3:1179,asn=64513"),
        ("PORTLB_GATEWAY", "10.244.1.7,fd00::7"),
        ("PORTLB_NEXT_HOP", "192.0.2.11,2001:db8::11"),
        ("PORTLB_ALLOWED_PREFIXES", "10.1.1.0/24,fd01::/64"),
    ];
    let checked = command(&["--check-config"]).envs(environment).output();
    let checked = checked.expect("the program starts");
    let text = String::from_utf8_lossy(&checked.stderr);
    assert_eq!(checked.status.code(), Some(0), "{text}");
    let (_, help) = run(&["--help"]);
    for line in help
        .lines()
        .filter(|line| line.trim_start().starts_with("--"))
    {
        let flag = line.trim_start_matches([' ', '-']);
        let flag = flag.split([' ', '=']).next().unwrap_or_default();
        let variable = format!("[env: PORTLB_{}=", flag.to_uppercase().replace('-', "_"));
        assert!(
            flag == "check-config" || help.contains(&variable),
            "{variable} is not in\n{help}"
        );
    }
}

#[test]
fn a_data_plane_and_a_peer_that_cannot_be_reached_are_each_logged_once_at_warn() {
    let flags = [
        "--log-format=json",
        "--log-level=info,bgp_announcer=debug,bgp_speaker=debug",
    ];
    let mut child = command(&[USUAL, &flags].concat())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let log = BufReader::new(child.stderr.take().expect("stderr is piped"));
    let mut lines = log.lines().map(|line| line.expect("the log is text"));
    let (mut warnings, mut attempts, mut dials) = (Vec::new(), 0, 0);
    while attempts < 3 || dials < 2 {
        let line = lines.next().expect("the program continues to run");
        attempts += usize::from(line.contains("cannot reach the data plane"));
        dials += usize::from(line.contains("session did not come up"));
        if line.contains("\"WARN\"") {
            warnings.push(line);
        }
    }
    signal(&child, "-TERM");
    warnings.extend(lines.filter(|line| line.contains("\"WARN\"")));
    assert_eq!(wait(&mut child), Some(0));
    assert_eq!(warnings.len(), 2, "{warnings:#?}");
    let warning = |text: &str| {
        let matching = warnings.iter().find(|warning| warning.contains(text));
        matching.unwrap_or_else(|| panic!("{text} is not in {warnings:#?}"))
    };
    warning("cannot reach the data plane (--data-plane)");
    let peer = warning("session did not come up");
    for part in ["\"peer\":\"127.80.0.1\"", "\"reason\":\"dial_failed\""] {
        assert!(peer.contains(part), "no {part} in {peer}");
    }
}

#[test]
fn the_json_log_of_the_start_has_a_field_for_each_setting() {
    let mut child = command(&[USUAL, &["--log-format=json"]].concat())
        .env("PORTLB_HOLD_TIME", "30s")
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let log = BufReader::new(child.stderr.take().expect("stderr is piped"));
    let mut lines = log.lines().map(|line| line.expect("the log is text"));
    let line = lines
        .find(|line| line.contains("\"message\":\"starting\""))
        .expect("the program logs its start");
    signal(&child, "-TERM");
    lines.for_each(drop);
    assert_eq!(wait(&mut child), Some(0));
    assert!(line.starts_with("{\"config\":{"), "{line}");
    for field in [
        "\"asn\":\"64512\"",
        "\"allowed_prefixes\":\"10.1.1.0/24\"",
        "\"hold_time\":\"30s\"",
        "\"level\":\"INFO\"",
        "\"timestamp\":\"20",
        "\"version\":\"",
    ] {
        assert!(line.contains(field), "no {field} in {line}");
    }
}

#[test]
fn a_misspelled_environment_variable_is_logged_at_warn_with_the_nearest_known_variable() {
    let output = command(&[USUAL, &["--check-config"]].concat())
        .env("PORTLB_HOLDTIME", "30s")
        .output()
        .expect("the program starts");
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text.lines().collect();
    let [warning, result] = lines[..] else {
        panic!("{text}");
    };
    for part in [
        "WARN",
        "no flag of this daemon reads the environment variable",
        "variable=\"PORTLB_HOLDTIME\"",
        "nearest=\"PORTLB_HOLD_TIME\"",
    ] {
        assert!(warning.contains(part), "no {part} in {warning}");
    }
    assert_eq!(result, "bgp-announcer: flags and files are usable");
}

/// Starts the program, and returns after it serves HTTP.
fn start(flags: &[&str]) -> Child {
    let flags = [USUAL, flags, &["--log-format=json"]].concat();
    let mut child = command(&flags)
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let log = BufReader::new(child.stderr.take().expect("stderr is piped"));
    let mut lines = log.lines();
    let is_served = lines.any(|line| line.expect("the log is text").contains("HTTP is served"));
    assert!(is_served, "the program ended");
    // The thread reads the log until the program ends, because a full pipe would block the program.
    std::thread::spawn(move || lines.for_each(drop));
    child
}

fn signal(child: &Child, name: &str) {
    let id = child.id().to_string();
    let status = Command::new("kill").args([name, &id]).status();
    assert!(status.expect("the command kill exists").success());
}

fn wait(child: &mut Child) -> Option<i32> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(status) = child
            .try_wait()
            .expect("the process is a child of the test")
        {
            return status.code();
        }
        if Instant::now() > deadline {
            child.kill().expect("the process is a child of the test");
            panic!("the program did not end in time");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn sigterm_and_sigint_end_the_program_with_exit_code_0() {
    for name in ["-TERM", "-INT"] {
        let mut child = start(&[]);
        signal(&child, name);
        assert_eq!(wait(&mut child), Some(0), "{name}");
    }
}
