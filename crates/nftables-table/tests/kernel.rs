//! Tests on the kernel of this machine.
//!
//! Each test runs in its own network namespace. The tests need root, and the command `nft`, with
//! which they read the tables back.

#![cfg(test)]

use std::process::Command;

use nftables_table::{
    Chain, ChainType, Expression::*, Hook, ICMP_PORT_UNREACHABLE, ICMPV6_PORT_UNREACHABLE,
    L4Protocol, Nftables, NftablesError, NftablesTable, Rule, TCP_RST, TableFingerprint, priority,
};
use nix::sched::{CloneFlags, unshare};

/// Runs `test` on a thread in an empty network namespace.
fn in_namespace(test: impl FnOnce(Nftables) + Send + 'static) {
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("creating a network namespace needs root");
        test(Nftables::open().unwrap());
    })
    .join()
    .unwrap();
}

/// Returns the lines of `nft list ruleset` without indentation and closing braces.
fn ruleset() -> Vec<String> {
    let output = Command::new("nft")
        .args(["-nn", "list", "ruleset"])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| line.trim().to_owned())
        .filter(|line| !line.is_empty() && line != "}")
        .collect()
}

fn chain(name: &str, hook: Hook, priority: i32, rules: Vec<Rule>) -> Chain {
    Chain {
        name: name.into(),
        kind: ChainType::Filter,
        hook,
        priority,
        rules,
    }
}

fn table(chains: Vec<Chain>) -> NftablesTable {
    NftablesTable {
        name: "portlb-test".into(),
        chains,
    }
}

fn table_with_every_expression() -> NftablesTable {
    let v4 = || "10.1.1.0/24".parse().unwrap();
    let v6 = || "fd00:1::/64".parse().unwrap();
    let icmp = |(kind, code)| IcmpTypeAndCode(kind, code);
    table(vec![
        chain(
            "prerouting",
            Hook::Prerouting,
            priority::RAW,
            vec![
                vec![Destination(v4()), NoTrack],
                vec![Destination(v6()), NoTrack],
            ],
        ),
        chain(
            "marks",
            Hook::Prerouting,
            priority::MANGLE,
            vec![
                vec![
                    Destination("10.1.1.10/32".parse().unwrap()),
                    Protocol(L4Protocol::Udp),
                    DestinationPorts(8000, 8999),
                    SetMark(0x504c_0001),
                ],
                vec![Protocol(L4Protocol::Sctp), DestinationPorts(9, 9), Counter],
            ],
        ),
        chain(
            "output",
            Hook::Output,
            priority::FILTER,
            vec![
                vec![
                    SourceIn(vec![v4(), "10.2.0.1/32".parse().unwrap()]),
                    Protocol(L4Protocol::Tcp),
                    TcpFlags {
                        mask: TCP_RST,
                        value: TCP_RST,
                    },
                    Counter,
                    Drop,
                ],
                vec![DestinationIn(vec![v6()]), Drop],
                vec![
                    Protocol(L4Protocol::Icmp),
                    icmp(ICMP_PORT_UNREACHABLE),
                    QuotedDestinationIn(vec![v4()]),
                    Drop,
                ],
                vec![
                    Protocol(L4Protocol::Icmpv6),
                    icmp(ICMPV6_PORT_UNREACHABLE),
                    QuotedDestinationIn(vec![v6()]),
                    Drop,
                ],
            ],
        ),
        Chain {
            name: "postrouting".into(),
            kind: ChainType::Nat,
            hook: Hook::Postrouting,
            priority: priority::SRCNAT,
            rules: vec![
                vec![OriginalDestination(v4()), Masquerade],
                vec![OriginalDestination(v6()), Masquerade],
                vec![
                    OriginalDestination(v4()),
                    Protocol(L4Protocol::Tcp),
                    OriginalDestinationPorts(80, 80),
                    Masquerade,
                ],
            ],
        },
    ])
}

#[test]
fn nft_shows_the_table_that_was_written() {
    in_namespace(|mut nftables| {
        nftables.replace(&table_with_every_expression()).unwrap();
        let fingerprint = table_with_every_expression().fingerprint();
        let comment = format!("comment \"contents {fingerprint}\"");
        let expected = [
            "table inet portlb-test {",
            &comment,
            "chain prerouting {",
            "type filter hook prerouting priority -300; policy accept;",
            "ip daddr 10.1.1.0/24 notrack",
            "ip6 daddr fd00:1::/64 notrack",
            "chain marks {",
            "type filter hook prerouting priority -150; policy accept;",
            "ip daddr 10.1.1.10 udp dport 8000-8999 meta mark set 0x504c0001",
            "sctp dport 9 counter packets 0 bytes 0",
            "chain output {",
            "type filter hook output priority 0; policy accept;",
            "ip saddr { 10.1.1.0/24, 10.2.0.1 } tcp flags & 0x4 == 0x4 counter packets 0 bytes 0 drop",
            "ip6 daddr { fd00:1::/64 } drop",
            "icmp type 3 icmp code 3 @th,192,32 { 10.1.1.0/24 } drop",
            "icmpv6 type 1 icmpv6 code 4 @th,256,128 { fd00:1::/64 } drop",
            "chain postrouting {",
            "type nat hook postrouting priority 100; policy accept;",
            "ct original ip daddr 10.1.1.0/24 masquerade",
            "ct original ip6 daddr fd00:1::/64 masquerade",
            "ct original ip daddr 10.1.1.0/24 meta l4proto 6 ct original proto-dst 80 masquerade",
        ];
        assert_eq!(ruleset(), expected);
    });
}

#[test]
fn a_replaced_table_keeps_no_chain_or_rule_of_the_old_table() {
    in_namespace(|mut nftables| {
        nftables.replace(&table_with_every_expression()).unwrap();
        let second = table(vec![chain("input", Hook::Input, 110, vec![vec![Drop]])]);
        nftables.replace(&second).unwrap();
        let text = ruleset();
        assert_eq!(
            text[2..],
            [
                "chain input {".to_owned(),
                "type filter hook input priority 110; policy accept;".to_owned(),
                "drop".to_owned()
            ]
        );
    });
}

#[test]
fn the_fingerprint_can_be_read_by_a_new_socket_and_differs_between_tables() {
    in_namespace(|mut nftables| {
        let table = table_with_every_expression();
        assert_eq!(nftables.fingerprint("portlb-test").unwrap(), None);
        nftables.replace(&table).unwrap();
        drop(nftables);
        let mut again = Nftables::open().unwrap();
        let fingerprint = again.fingerprint("portlb-test").unwrap();
        assert_eq!(fingerprint, Some(table.fingerprint()));
        let mut other = table_with_every_expression();
        other.chains[0].rules.pop();
        assert_ne!(other.fingerprint(), table.fingerprint());
    });
}

#[test]
fn holds_detects_rules_and_chains_that_another_program_adds_or_removes() {
    in_namespace(|mut nftables| {
        let nft = |command: &str| {
            let status = Command::new("nft")
                .args(command.split(' '))
                .status()
                .unwrap();
            assert!(status.success(), "nft {command}");
        };
        let table = table_with_every_expression();
        assert!(!nftables.holds(&table).unwrap());
        for command in [
            "flush chain inet portlb-test output",
            "add rule inet portlb-test marks accept",
            "add chain inet portlb-test other",
            "flush ruleset",
        ] {
            nftables.replace(&table).unwrap();
            assert!(nftables.holds(&table).unwrap());
            nft(command);
            assert!(!nftables.holds(&table).unwrap(), "{command}");
        }
    });
}

#[test]
fn a_table_of_another_program_has_the_fingerprint_zero_and_stays_unchanged() {
    in_namespace(|mut nftables| {
        let status = Command::new("nft")
            .args(["add", "table", "inet", "foreign"])
            .status();
        assert!(status.unwrap().success());
        let fingerprint = nftables.fingerprint("foreign").unwrap();
        assert_eq!(fingerprint, Some(TableFingerprint(0)));
        nftables.replace(&table_with_every_expression()).unwrap();
        assert_eq!(ruleset()[0], "table inet foreign {");
    });
}

#[test]
fn the_error_of_a_refused_transaction_names_the_rule_and_the_old_table_stays() {
    in_namespace(|mut nftables| {
        nftables.replace(&table_with_every_expression()).unwrap();
        let before = ruleset();
        // The kernel allows `masquerade` only in chains of the type `nat`.
        let rules = vec![vec![Counter], vec![Masquerade]];
        let bad = table(vec![chain("postrouting", Hook::Postrouting, 100, rules)]);
        let error = nftables.replace(&bad).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot add rule 2 of chain postrouting in table portlb-test: the kernel lacks nftables, \
             the table family, or the module of a chain or expression"
        );
        assert_eq!(ruleset(), before);
    });
}

#[test]
fn one_transaction_writes_ten_thousand_prefixes() {
    in_namespace(|mut nftables| {
        let prefixes = (0..10_000_u32)
            .map(|index| {
                format!("10.{}.{}.0/25", index / 256, index % 256)
                    .parse()
                    .unwrap()
            })
            .collect();
        let rules = vec![vec![SourceIn(prefixes), Drop]];
        let large = table(vec![chain("output", Hook::Output, 0, rules)]);
        nftables.replace(&large).unwrap();
        assert_eq!(ruleset().join(" ").matches("/25").count(), 10_000);
    });
}

#[test]
fn one_transaction_writes_ten_thousand_rules() {
    in_namespace(|mut nftables| {
        let rules = (0..10_000).map(|mark| vec![SetMark(mark)]).collect();
        let large = table(vec![chain("marks", Hook::Prerouting, -150, rules)]);
        nftables.replace(&large).unwrap();
        assert_eq!(ruleset().len(), 10_004);
    });
}

#[test]
fn an_invalid_table_is_rejected_before_it_is_sent_to_the_kernel() {
    in_namespace(|mut nftables| {
        let mut check = |table: &NftablesTable, expected: &str| {
            let error = nftables.replace(table).unwrap_err();
            assert!(matches!(error, NftablesError::Invalid { .. }), "{error}");
            assert_eq!(
                error.to_string(),
                format!("invalid nftables table: {expected}")
            );
        };
        let mut named = table_with_every_expression();
        named.name = "a\0b".into();
        check(
            &named,
            "the name \"a\\0b\" is invalid; give 1 to 255 bytes without NUL",
        );
        let rules = vec![vec![SourceIn(vec![])]];
        check(
            &table(vec![chain("c", Hook::Input, 0, rules)]),
            "chain \"c\": a set of prefixes is empty, or contains IPv4 and IPv6 prefixes",
        );
    });
}
