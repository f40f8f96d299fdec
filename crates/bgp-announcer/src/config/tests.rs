use bgp_packet::Asn;
use clap::Parser;

use super::*;

const USUAL: &[&str] = &[
    "--asn=64512",
    "--peer=192.0.2.2",
    "--gateway=10.244.1.7",
    "--next-hop=192.0.2.11",
    "--allowed-prefixes=10.1.1.0/24",
];

/// Resolves the usual flags. `flags` replace usual flags of the same name; a name without a value
/// removes the usual flag.
fn resolve(flags: &[&str]) -> Result<Config, String> {
    let name = |flag: &str| flag.split('=').next().unwrap_or_default().to_owned();
    let usual_flags = USUAL
        .iter()
        .filter(|usual_flags| !flags.iter().any(|flag| name(flag) == name(usual_flags)));
    let given = flags.iter().filter(|flag| flag.contains('='));
    let common = [
        "bgp-announcer",
        "--grpc-listen=127.0.0.1:0",
        "--http-listen=127.0.0.1:0",
    ];
    let line = common.iter().chain(usual_flags).chain(given);
    let args = Args::try_parse_from(line).map_err(|error| error.to_string())?;
    Config::resolve(&args).map_err(|error| error.to_string())
}

#[track_caller]
fn check_rejected(flags: &[&str], expected: &str) {
    assert_eq!(resolve(flags).expect_err("the flag is invalid"), expected);
}

#[test]
fn the_usual_flags_give_a_valid_configuration() {
    let config = resolve(&[]).unwrap();
    assert_eq!(config.speaker.router_id.to_string(), "10.244.1.7");
    let inbound = config.announcements.ipv4.unwrap();
    assert_eq!(inbound.next_hop.to_string(), "192.0.2.11");
    assert_eq!(inbound.gateway.unwrap().to_string(), "10.244.1.7");
    assert_eq!(config.announcements.ipv6, None);
    let [peer] = &config.peers.peers[..] else {
        panic!("expected one peer: {config:?}");
    };
    assert!(peer.active && !peer.passive);
    assert_eq!(peer.session.peer_asn, Some(Asn(64512)));
    assert_eq!(peer.session.hold_time_seconds, 9);
}

#[test]
fn a_gateway_can_be_any_host_address_and_a_next_hop_must_be_an_address_that_routers_accept() {
    let config = resolve(&["--gateway=240.0.1.7"]).unwrap();
    let gateway = config.announcements.ipv4.unwrap().gateway.unwrap();
    assert_eq!(gateway.to_string(), "240.0.1.7");
    check_rejected(
        &["--next-hop=240.0.1.7"],
        "--next-hop `240.0.1.7` is not a unicast address of a host: give an IPv4 address, an IPv6 \
         address, both, or self, separated by a comma",
    );
}

#[test]
fn next_hop_self_is_valid_for_both_address_families() {
    let config = resolve(&[
        "--next-hop=self",
        "--gateway=10.244.1.7,fd00::7",
        "--allowed-prefixes=10.1.1.0/24,fd01::/64",
    ]);
    let config = config.unwrap().announcements;
    assert!(config.ipv4.unwrap().next_hop.is_unspecified());
    assert!(config.ipv6.unwrap().next_hop.is_unspecified());
}

#[test]
fn a_gateway_is_not_required_without_a_node_router() {
    let config = resolve(&["--node-router=none", "--gateway", "--router-id=10.0.0.1"]).unwrap();
    assert_eq!(config.announcements.ipv4.unwrap().gateway, None);
}

#[test]
fn an_invalid_flag_is_rejected_with_the_allowed_values() {
    check_rejected(
        &["--gateway"],
        "--gateway is missing: give the addresses of this pod as the targets of node routes, such \
         as --gateway 10.244.1.7, or --node-router none if no node route is needed",
    );
    check_rejected(
        &["--gateway=10.244.1.7,10.244.1.8"],
        "--gateway `10.244.1.8` is the second address of its family: give an IPv4 address, an IPv6 \
         address, or both, separated by a comma",
    );
    check_rejected(
        &["--next-hop=127.0.0.1"],
        "--next-hop `127.0.0.1` is not a unicast address of a host: give an IPv4 address, an IPv6 \
         address, both, or self, separated by a comma",
    );
    // A route reflector rejects a path with a link-local next hop.
    check_rejected(
        &["--next-hop=fe80::1"],
        "--next-hop `fe80::1` is not a unicast address of a host: give an IPv4 address, an IPv6 \
         address, both, or self, separated by a comma",
    );
    check_rejected(
        &["--gateway=fd00::7", "--next-hop=self"],
        "--router-id is missing, and --gateway has no IPv4 address as its default: give an id that \
         no other BGP speaker has, such as --router-id 10.244.1.7",
    );
    check_rejected(
        &["--router-id=0.0.0.0"],
        "--router-id 0.0.0.0 is not allowed: give an id that no other BGP speaker has, such as the \
         IPv4 address of this pod",
    );
    check_rejected(
        &["--asn=0"],
        "--asn 0 is reserved: give an AS number from 1 to 4294967294, or a private AS number such \
         as 64512",
    );
    check_rejected(
        &["--asn=4294967295"],
        "--asn 4294967295 is reserved: give an AS number from 1 to 4294967294, or a private AS \
         number such as 64512",
    );
    check_rejected(
        &["--allowed-prefixes=10.1.1.1/24"],
        "--allowed-prefixes: 10.1.1.1/24 has bits set to the right of its length; write 10.1.1.0/24",
    );
    check_rejected(
        &["--allowed-prefixes=0.0.0.0/0"],
        "--allowed-prefixes 0.0.0.0/0 contains every address: give only the service ranges, such as \
         10.1.1.0/24",
    );
    check_rejected(
        &["--allowed-prefixes=::/0"],
        "--allowed-prefixes ::/0 contains every address: give only the service ranges, such as \
         10.1.1.0/24",
    );
    for (prefix, reserved) in [
        ("0.0.0.0/8", "0.0.0.0/8"),
        ("127.0.0.0/8", "127.0.0.0/8"),
        ("64.0.0.0/2", "127.0.0.0/8"),
        ("224.0.0.0/4", "224.0.0.0/4"),
        ("240.0.0.0/4", "240.0.0.0/4"),
        ("::1/128", "::/96"),
        ("fe80::/10", "fe80::/10"),
        ("ff00::/8", "ff00::/8"),
    ] {
        check_rejected(
            &[&format!("--allowed-prefixes={prefix}")],
            &format!(
                "--allowed-prefixes {prefix} overlaps {reserved}, in which no address belongs to a \
                 single host: give only the service ranges, such as 10.1.1.0/24"
            ),
        );
    }
    check_rejected(
        &["--allowed-prefixes=10.1.1.0/24,fd01::/64"],
        "--allowed-prefixes: fd01::/64 can never be announced, because --next-hop or --gateway has \
         no IPv6 address; add an IPv6 address, or omit fd01::/64",
    );
    for hold_time in ["2s", "1500ms", "65536s", "9"] {
        check_rejected(
            &[&format!("--hold-time={hold_time}")],
            &format!(
                "--hold-time `{hold_time}` is not allowed: give whole seconds from 3s to 65535s, \
                 or 0 for no hold time; BGP allows no hold time below 3s"
            ),
        );
    }
    check_rejected(
        &["--data-plane-timeout=100ms"],
        "--data-plane-timeout 100 ms is too short: a pause of a busy data plane would make every \
         address least preferred; give at least 500ms",
    );
    check_rejected(
        &["--node-router=nowhere"],
        "--node-router `nowhere`: expected http://ADDRESS:PORT with a numeric address, such as \
         http://127.0.0.1:PORT, or unix:PATH, or `none` if no node route is needed",
    );
    for second in ["192.0.2.2", "192.0.2.2:179,name=b"] {
        check_rejected(
            &[&format!("--peer=192.0.2.2 {second}")],
            "--peer: 192.0.2.2:179 is given twice; each address may be listed once, a different \
             name= does not make a second peer",
        );
    }
    check_rejected(
        &["--peer=192.0.2.2,name=a 192.0.2.3,name=a"],
        "--peer: peer name `a` is used twice; list each peer once, or give each peer its own name=NAME",
    );
    check_rejected(
        &["--gateway=10.1.1.7"],
        "--gateway `10.1.1.7` lies within 10.1.1.0/24 of --allowed-prefixes, but the address of a \
         pod or node cannot be a service address; give service ranges without this address",
    );
    check_rejected(
        &["--next-hop=10.1.1.11"],
        "--next-hop `10.1.1.11` lies within 10.1.1.0/24 of --allowed-prefixes, but the address of \
         a pod or node cannot be a service address; give service ranges without this address",
    );
}

#[test]
fn a_malformed_value_is_rejected_with_its_flag_and_an_example() {
    for (flag, value, allowed) in [
        ("--asn", "AS65000", "4294967295"),
        ("--peer", "reflector:179", "192.0.2.2"),
        ("--communities", "65000:99999", "0 to 65535"),
    ] {
        let problem = resolve(&[&format!("{flag}={value}")]).expect_err("the flag is invalid");
        for part in [flag, value, allowed] {
            assert!(problem.contains(part), "{part}: {problem}");
        }
    }
}

#[test]
fn the_longest_retry_is_at_most_a_quarter_of_each_grace_period() {
    let longest_retry = |flags: &[&str]| resolve(flags).map(|config| config.longest_retry);
    let milliseconds = Duration::from_millis;
    assert_eq!(longest_retry(&[]), Ok(milliseconds(500)));
    assert_eq!(
        longest_retry(&["--data-plane-timeout=1s"]),
        Ok(milliseconds(250))
    );
    assert_eq!(
        longest_retry(&["--node-route-timeout=0", "--longest-retry=1s"]),
        Ok(milliseconds(1000))
    );
    check_rejected(
        &["--longest-retry=600ms"],
        "--node-route-timeout 2000 ms is shorter than 4 times --longest-retry 600 ms: a daemon \
         that comes back in time could be reached too late; give --node-route-timeout at least 2400 \
         ms, or a shorter --longest-retry",
    );
    check_rejected(
        &["--longest-retry=2s", "--node-route-timeout=1m"],
        "--data-plane-timeout 5000 ms is shorter than 4 times --longest-retry 2000 ms: a daemon \
         that comes back in time could be reached too late; give --data-plane-timeout at least 8000 \
         ms, or a shorter --longest-retry",
    );
}

#[test]
fn a_peer_uses_the_key_of_its_peer_flag_or_the_key_of_the_flag_md5_key_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    for name in ["all", "own"] {
        std::fs::write(file(name), name).unwrap();
    }
    let (all, own) = (file("all"), file("own"));
    let peers = format!("--peer=192.0.2.2 192.0.2.3,md5-key-file={own}");
    let config = resolve(&[&peers, &format!("--md5-key-file={all}")]).unwrap();
    let keys = config
        .peers
        .peers
        .iter()
        .map(|peer| peer.session.md5_key.clone());
    let read = |path: &str| Some(Md5Key::read(path.as_ref()).unwrap());
    assert_eq!(Vec::from_iter(keys), [read(&all), read(&own)]);
    let config = resolve(&[&peers]).unwrap();
    assert_eq!(config.peers.peers[0].session.md5_key, None);
    assert_eq!(
        format!("{read:?}", read = read(&own)),
        "Some(Md5Key(hidden))"
    );

    for (flag, name) in [
        (format!("--md5-key-file={}", file("none")), "--md5-key-file"),
        (
            format!("--peer=192.0.2.2,md5-key-file={}", file("none")),
            "--peer: md5-key-file",
        ),
    ] {
        let expected = format!(
            "{name}: cannot read the TCP MD5 key file {}; it must be a regular file that this user \
             has permission to read: No such file or directory (os error 2)",
            file("none")
        );
        check_rejected(&[&flag], &expected);
    }
}

#[test]
fn the_hold_token_requires_a_unix_socket_and_its_file_is_read_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let flag = format!("--hold-token-file={}", file.display());
    let problem = resolve(&[&flag]).unwrap_err();
    assert!(
        problem.starts_with("--hold-token-file: cannot read"),
        "{problem}"
    );
    std::fs::write(&file, "first.of.pod\n").unwrap();
    let config = resolve(&[&flag]).unwrap();
    assert_eq!(config.hold_token, Some(HoldToken::new(&file)));
    assert!(!format!("{config:?}").contains("first"));
    assert_eq!(resolve(&[]).unwrap().hold_token, None);
    for (node_router, part) in [
        (
            "--node-router=http://127.0.0.1:50054",
            "only over a unix socket",
        ),
        ("--node-router=none", "no effect"),
    ] {
        let problem = resolve(&[&flag, node_router]).unwrap_err();
        assert!(problem.starts_with("--hold-token-file"), "{problem}");
        assert!(problem.contains(part), "{problem}");
    }
}
