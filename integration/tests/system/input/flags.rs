//! What a daemon says of a flag or a file that it cannot use, and that it says it first.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::process::{Command, Output};

use lab::daemons;

/// A run of a daemon that must end with 2: the program, its flags, the file that `FILE` among
/// them stands for, and the words of its message: field, value, what is allowed, cure.
struct Case {
    program: &'static str,
    flags: &'static [&'static str],
    /// Whether the flags stand beside usable ones, in place of those of the same name.
    is_beside_usable: bool,
    file: &'static str,
    words: &'static [&'static str],
}

const fn flags(
    program: &'static str,
    flags: &'static [&'static str],
    words: &'static [&'static str],
) -> Case {
    file(program, flags, "", words)
}

const fn file(
    program: &'static str,
    flags: &'static [&'static str],
    file: &'static str,
    words: &'static [&'static str],
) -> Case {
    Case {
        program,
        flags,
        is_beside_usable: false,
        file,
        words,
    }
}

const PROGRAMS: [&str; 5] = [
    "pod-watcher",
    "ipvs-programmer",
    "node-router",
    "bgp-announcer",
    "route-reflector",
];

/// What makes each program usable, but for the flag under test.
fn usable(program: &str) -> &'static [&'static str] {
    match program {
        "pod-watcher" => &["--file", "FILE"],
        "node-router" => &[
            "--allowed-prefixes=10.1.1.0/24",
            "--allowed-gateways=10.2.0.0/16",
        ],
        "bgp-announcer" => &[
            "--asn=65000",
            "--peer=127.0.0.1:1179",
            "--allowed-prefixes=10.1.1.0/24",
            "--gateway=10.2.1.2",
        ],
        "route-reflector" => &["--config", "FILE"],
        _ => &[],
    }
}

fn usable_file(program: &str) -> &'static str {
    match program {
        "pod-watcher" => "apiVersion: portlb.io/v1\nkind: VirtualServers\nvirtualServers: []\n",
        "route-reflector" => REFLECTOR,
        _ => "",
    }
}

const CASES: &[Case] = &[
    flags("pod-watcher", &[], &["incluster", "--kubeconfig", "--file"]),
    flags(
        "pod-watcher",
        &["--file=/nowhere/web.yaml"],
        &["--file", "/nowhere/web.yaml", "No such file", "readable"],
    ),
    flags(
        "pod-watcher",
        &["--file=/"],
        &["--file", "directory", "readable"],
    ),
    file("pod-watcher", &["--file=FILE"], "", &["FILE"]),
    file(
        "pod-watcher",
        &["--file=FILE"],
        "apiVersion: portlb.io/v1\nkind: VirtualServers\nvirtualServers:\n- name: web\n  adresses: [10.1.1.1]\n",
        &["FILE:5:3", "`adresses`", "`addresses`", "allowed here"],
    ),
    file(
        "pod-watcher",
        &["--file=FILE"],
        "apiVersion: portlb.io/v2\nkind: VirtualServers\nvirtualServers: []\n",
        &["FILE:1", "portlb.io/v2", "portlb.io/v1"],
    ),
    file(
        "pod-watcher",
        &["--file=FILE"],
        "apiVersion: portlb.io/v1\nkind: VirtualServers\nvirtualServers:\n- name: web\n  addresses: [10.1.1.1]\n  ports: [70000]\n  realServers: []\n",
        &["FILE:6", "70000", "65535"],
    ),
    file(
        "pod-watcher",
        &["--file=FILE"],
        "apiVersion: portlb.io/v1\nkind: VirtualServers\nvirtualServers: [",
        &["FILE:3"],
    ),
    flags(
        "ipvs-programmer",
        &["--discovery=127.0.0.1:50051"],
        &["--discovery", "'127.0.0.1:50051'", "http://", "unix:"],
    ),
    flags(
        "ipvs-programmer",
        &["--audit-interval=0"],
        &["--audit-interval", "1s and 24h", "30s"],
    ),
    flags(
        "ipvs-programmer",
        &["--audit-interval=soon"],
        &["--audit-interval", "'soon'", "10s"],
    ),
    flags(
        "node-router",
        &[],
        &["--allowed-prefixes", "missing", "10.1.1.0/24"],
    ),
    flags(
        "node-router",
        &[
            "--allowed-prefixes=0.0.0.0/0",
            "--allowed-gateways=10.2.0.0/16",
        ],
        &["--allowed-prefixes", "0.0.0.0/0", "10.1.1.0/24"],
    ),
    flags(
        "node-router",
        &[
            "--allowed-prefixes=10.1.1.1/24",
            "--allowed-gateways=10.2.0.0/16",
        ],
        &["--allowed-prefixes", "10.1.1.1/24", "write 10.1.1.0/24"],
    ),
    flags(
        "node-router",
        &[
            "--allowed-prefixes=10.1.1.0/24",
            "--allowed-gateways=10.1.0.0/16",
        ],
        &[
            "--allowed-prefixes",
            "10.1.1.0/24",
            "10.1.0.0/16",
            "--allowed-gateways",
        ],
    ),
    flags(
        "node-router",
        &[
            "--allowed-prefixes=10.1.1.0/24",
            "--allowed-gateways=10.2.0.0/16",
            "--socket-mode=999",
        ],
        &["--socket-mode", "999", "0 to 0777", "0660"],
    ),
    flags(
        "bgp-announcer",
        &["--asn=65000"],
        &["--peer <PEER>", "--allowed-prefixes <PREFIXES>", "required"],
    ),
    announcer(&["--asn=0"], &["--asn 0", "1 to 4294967294", "64512"]),
    announcer(&["--asn=AS65000"], &["--asn", "'AS65000'", "4294967295"]),
    announcer(
        &["--peer=reflector:179"],
        &["--peer", "reflector:179", "192.0.2.2"],
    ),
    announcer(
        &["--peer=127.0.0.1:1179"],
        &["--peer", "127.0.0.1", "twice", "name=NAME"],
    ),
    announcer(&["--hold-time=1s"], &["--hold-time", "3s to 65535s"]),
    announcer(
        &["--next-hop=127.0.0.1"],
        &["--next-hop", "127.0.0.1", "self"],
    ),
    announcer(
        &["--communities=65000:99999"],
        &["--communities", "65000:99999", "0 to 65535"],
    ),
    announcer(
        &["--data-plane-timeout=1ms"],
        &["--data-plane-timeout", "1 ms", "500ms"],
    ),
    announcer(
        &["--router-id=0.0.0.0"],
        &["--router-id", "0.0.0.0", "IPv4"],
    ),
    announcer(
        &["--node-router=/run/x.sock"],
        &["--node-router", "/run/x.sock", "unix:", "none"],
    ),
    announcer(
        &["--allowed-prefixes=fd00::/64"],
        &["--allowed-prefixes", "fd00::/64", "IPv6"],
    ),
    flags(
        "bgp-announcer",
        &[
            "--asn=65000",
            "--peer=127.0.0.1",
            "--allowed-prefixes=10.1.1.0/24",
        ],
        &["--gateway", "missing", "10.244.1.7", "--node-router none"],
    ),
    flags("route-reflector", &[], &["--config <FILE>", "required"]),
    flags(
        "route-reflector",
        &["--config=/nowhere.yaml"],
        &[
            "--config",
            "/nowhere.yaml",
            "No such file",
            "docs/route-reflector.md",
        ],
    ),
    flags(
        "route-reflector",
        &["--config=/nowhere.yaml", "--listen=179"],
        &["--listen", "'179'", "0.0.0.0:179"],
    ),
    reflector(
        "  holdTme: 3s",
        &["FILE:9:3", "`holdTme`", "`holdTime`", "allowed here"],
    ),
    reflector(
        "  holdTime: 1s",
        &["FILE:9", "holdTime", "1s", "3s to 65535s"],
    ),
    reflector("  maximumPeers: 0", &["FILE:9", "maximumPeers", "0"]),
    reflector("  families: [ipv5]", &["FILE:9", "ipv5", "ipv4", "ipv6"]),
    reflector(
        "  importPrefixes: [10.1.1.1/24]",
        &["FILE:9", "10.1.1.1/24", "10.1.1.0/24"],
    ),
    reflector(
        "peers:\n- {name: a, address: 192.0.2.1, group: routers}",
        &["FILE:10", "group", "`routers`", "peerGroups"],
    ),
    reflector(
        "peers:\n- {name: a, address: router-1, group: pods}",
        &["FILE:10", "address", "router-1"],
    ),
];

const fn beside_usable(
    program: &'static str,
    flags: &'static [&'static str],
    words: &'static [&'static str],
) -> Case {
    Case {
        program,
        flags,
        is_beside_usable: true,
        file: "",
        words,
    }
}

const fn announcer(flags: &'static [&'static str], words: &'static [&'static str]) -> Case {
    beside_usable("bgp-announcer", flags, words)
}

const fn reflector(line: &'static str, words: &'static [&'static str]) -> Case {
    file("route-reflector", &["--config=FILE"], line, words)
}

impl Case {
    fn flags_and_file(&self) -> (Vec<&'static str>, String) {
        let mut flags = self.flags.to_vec();
        if self.is_beside_usable {
            let name = |flag: &'static str| flag.split('=').next().unwrap_or(flag);
            let mut usable = usable(self.program).to_vec();
            // A peer may be there twice.
            usable.retain(|flag| {
                name(flag) == "--peer" || !self.flags.iter().any(|other| name(other) == name(flag))
            });
            flags.extend(usable);
            return (flags, usable_file(self.program).to_owned());
        }
        if self.program == "route-reflector" && !self.file.is_empty() {
            return (flags, format!("{REFLECTOR}{}\n", self.file));
        }
        (flags, self.file.to_owned())
    }
}

/// Eight lines, to which a case adds others.
const REFLECTOR: &str = "\
apiVersion: portlb.io/v1
kind: RouteReflector
asn: 64512
routerId: 192.0.2.10
listen: ['127.0.0.1:TAKEN']
peerGroups:
- name: pods
  role: client
";

/// Runs a program where every port that it could listen on is taken, so that one that opens a
/// socket too early fails in another way.
struct Machine {
    taken: [TcpListener; 2],
    directory: tempfile::TempDir,
}

impl Machine {
    fn new() -> io::Result<Self> {
        Ok(Self {
            taken: [
                TcpListener::bind("127.0.0.1:0")?,
                TcpListener::bind("127.0.0.1:0")?,
            ],
            directory: tempfile::tempdir()?,
        })
    }

    fn run(&self, program: &str, flags: &[&str], file: &str) -> io::Result<Output> {
        let mut ports = Vec::new();
        for taken in &self.taken {
            ports.push(taken.local_addr()?.port().to_string());
        }
        let path = self.directory.path().join("FILE");
        fs::write(&path, file.replace("TAKEN", &ports[0]))?;
        let path = path.to_str().expect("the path is UTF-8").to_owned();
        let binary = daemons::binary(program).expect("the daemons are built");
        // One that takes the bad value for a good one must not run for ever.
        let mut command = Command::new("timeout");
        command.arg("10").arg(binary).env_clear();
        let listeners = ["--http-listen", "--grpc-listen"].into_iter().zip(&ports);
        for (flag, port) in
            listeners.filter(|(flag, _)| !flags.iter().any(|given| given.starts_with(flag)))
        {
            command.arg(format!("{flag}=127.0.0.1:{port}"));
        }
        command.args(flags.iter().map(|flag| flag.replace("FILE", &path)));
        command.output()
    }
}

#[test]
fn an_unusable_flag_or_file_ends_every_daemon_with_2_and_one_message_before_any_socket() {
    let machine = Machine::new().unwrap();
    let mut wrong = Vec::new();
    let common: Vec<_> = PROGRAMS.into_iter().flat_map(common_cases).collect();
    for case in CASES.iter().chain(&common) {
        let (flags, text) = case.flags_and_file();
        let output = machine.run(case.program, &flags, &text).unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        let missing: Vec<_> = case
            .words
            .iter()
            .filter(|word| !message.contains(**word))
            .collect();
        // clap's own messages end with a hint of two lines.
        let is_one = message
            .lines()
            .filter(|line| line.contains(case.program))
            .count()
            <= 1
            && (message.starts_with(case.program) || message.starts_with("error: "));
        if output.status.code() != Some(2) || !missing.is_empty() || !is_one {
            wrong.push(format!(
                "{} {flags:?}: {}, without {missing:?}:\n{message}",
                case.program, output.status
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn common_cases(program: &'static str) -> [Case; 5] {
    let case = |flags, words| beside_usable(program, flags, words);
    [
        case(
            &["--grpc-listen=localhost"],
            &[
                "--grpc-listen",
                "'localhost'",
                "127.0.0.1:50051",
                "unix:PATH",
            ],
        ),
        case(
            &["--http-listen=127.0.0.1:99999"],
            &["--http-listen", "127.0.0.1:99999", "ADDRESS:PORT"],
        ),
        case(
            &["--log-format=xml"],
            &["--log-format", "'xml'", "text, json"],
        ),
        case(&["--log-level=loud"], &["--log-level", "loud", "info"]),
        case(&["--frobnicate"], &["--frobnicate", "--help"]),
    ]
}

#[test]
fn a_taken_port_ends_a_daemon_with_1_and_the_address_so_that_the_test_above_proves_the_order() {
    let machine = Machine::new().unwrap();
    let addresses = machine
        .taken
        .each_ref()
        .map(|taken| taken.local_addr().unwrap().to_string());
    for program in ["pod-watcher", "bgp-announcer", "route-reflector"] {
        let output = machine
            .run(program, usable(program), usable_file(program))
            .unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{program}: {message}");
        let is_named = addresses.iter().any(|address| message.contains(address));
        assert!(is_named, "{program}: {message}");
    }
}

#[test]
fn a_check_of_usable_flags_opens_nothing_and_ends_with_0() {
    let machine = Machine::new().unwrap();
    for program in PROGRAMS {
        let mut flags = usable(program).to_vec();
        flags.push("--check-config");
        let output = machine.run(program, &flags, usable_file(program)).unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{program}: {message}");
    }
}
