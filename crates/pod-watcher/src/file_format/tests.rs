use std::time::Duration;

use virtual_server::{
    DesiredSet, FailureAction, ForwardingMethod, HealthCheck, HealthCheckKind, RealServerState,
    Scheduler, SchedulerFlags, TunnelKind, VirtualServer,
};

use super::{parse, read};

const HEAD: &str = "apiVersion: portlb.io/v1\nkind: VirtualServers\n";

/// Returns a document with one entry. `more` are further lines of the entry.
fn entry(more: &str) -> String {
    format!(
        "{HEAD}virtualServers:\n- name: web\n  addresses: [10.1.1.10]\n  ports: [80]\n  \
         realServers:\n  - address: 10.0.2.3\n  - address: 10.0.2.4\n{more}"
    )
}

#[track_caller]
fn good(text: &str) -> DesiredSet {
    parse(text).unwrap_or_else(|problem| panic!("{problem}\n{text}"))
}

#[track_caller]
fn one(text: &str) -> VirtualServer {
    let desired = good(text);
    assert_eq!(desired.virtual_servers.len(), 1);
    desired.virtual_servers.into_values().next().unwrap()
}

#[track_caller]
fn check(text: &str, expected: &str) {
    let problem = parse(text).expect_err("the document is refused");
    assert_eq!(problem.to_string(), expected, "{text}");
}

fn ids(desired: &DesiredSet) -> Vec<String> {
    desired
        .virtual_servers
        .keys()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn an_entry_with_only_the_required_fields_gets_every_default() {
    let server = one(&entry(""));
    assert_eq!(server.id.to_string(), "tcp/10.1.1.10:80");
    assert_eq!(server.name, "web");
    assert_eq!(server.scheduler, Scheduler::MH_DEFAULT);
    assert_eq!(
        server.forwarding_method,
        ForwardingMethod::Tunnel(TunnelKind::Ipip)
    );
    assert_eq!(server.persistence, None);
    assert_eq!(server.health_check, Some(HealthCheck::default()));
    assert_eq!(server.on_failure, FailureAction::Quiesce);
    assert_eq!(server.minimum_healthy, 1);
    assert_eq!(server.drain_timeout, Duration::from_secs(60));
    let real_server = &server.real_servers[0];
    assert_eq!(real_server.port, None);
    assert_eq!(real_server.weight.0, 1);
    assert_eq!(real_server.state, RealServerState::Ready);
}

#[test]
fn every_field_of_an_entry_sets_a_field_of_the_virtual_server() {
    let server = one(&format!(
        "{HEAD}virtualServers:
- name: shop/web
  addresses: [10.1.1.10]
  ports: [80]
  protocol: tcp
  scheduler: sh
  schedulerFlags: [port]
  forwardingMethod: Masquerade
  persistence: {{timeout: 5m, clientPrefixLength: 24}}
  realServers:
  - {{address: 10.0.2.4, port: 8080, weight: 0}}
  - {{address: 10.0.2.3, port: 8081, weight: 65535, state: draining}}
  healthCheck:
    kind: tcpConnect
    port: 9000
    interval: 300ms
    timeout: 100ms
    rise: 1
    fall: 2
    initialJitter: 0ms
  onFailure: remove
  minimumHealthy: 2
  drainTimeout: 5m
"
    ));
    assert_eq!(
        server.scheduler,
        Scheduler::Sh(SchedulerFlags {
            fallback: false,
            port: true
        })
    );
    assert_eq!(server.forwarding_method, ForwardingMethod::Masquerade);
    let persistence = server.persistence.unwrap();
    assert_eq!(persistence.timeout, Duration::from_secs(300));
    assert_eq!(persistence.client_prefix_length, 24);
    let shown: Vec<String> = server
        .real_servers
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(shown, ["10.0.2.3:8081", "10.0.2.4:8080"]);
    assert_eq!(server.real_servers[0].weight.0, 65535);
    assert_eq!(server.real_servers[0].state, RealServerState::Draining);
    let check = server.health_check.unwrap();
    assert_eq!(
        check,
        HealthCheck {
            kind: HealthCheckKind::TcpConnect {
                port: std::num::NonZeroU16::new(9000)
            },
            interval: Duration::from_millis(300),
            timeout: Duration::from_millis(100),
            rise: 1,
            fall: 2,
            initial_jitter: Duration::ZERO,
        }
    );
    assert_eq!(server.on_failure, FailureAction::Remove);
    assert_eq!(server.minimum_healthy, 2);
    assert_eq!(server.drain_timeout, Duration::from_secs(300));
}

#[test]
fn an_entry_becomes_a_virtual_server_for_each_pair_of_address_and_ports() {
    let desired = good(&format!(
        "{HEAD}serviceRanges: [10.1.1.0/24, 'fd00:1::/64']
virtualServers:
- name: web
  addresses: [10.1.1.10, fd00:1::10]
  ports: [80, 8000-8999]
  realServers:
  - address: 10.0.2.3
  - address: fd00:2::3
  - address: 10.0.2.4
  healthCheck: {{port: 80}}
"
    ));
    assert_eq!(
        ids(&desired),
        [
            "tcp/10.1.1.10:80",
            "tcp/10.1.1.10:8000-8999",
            "tcp/[fd00:1::10]:80",
            "tcp/[fd00:1::10]:8000-8999"
        ]
    );
    let families: Vec<usize> = desired
        .virtual_servers
        .values()
        .map(|server| server.real_servers.len())
        .collect();
    assert_eq!(families, [2, 2, 1, 1]);
    let ranges: Vec<String> = desired
        .service_ranges
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(ranges, ["10.1.1.0/24", "fd00:1::/64"]);
}

#[test]
fn a_virtual_server_with_an_ipv4_address_can_have_an_ipv6_real_server() {
    let server = one(&format!(
        "{HEAD}virtualServers:\n- name: web\n  addresses: [10.1.1.10]\n  ports: [80]\n  \
         realServers: [{{address: fd00:2::3}}]\n"
    ));
    assert!(server.real_servers[0].address.is_ipv6());
}

#[test]
fn the_default_timeout_of_a_health_check_is_at_most_its_interval() {
    let server = one(&entry("  healthCheck: {interval: 300ms}\n"));
    assert_eq!(
        server.health_check.unwrap().timeout,
        Duration::from_millis(300)
    );
}

#[test]
fn an_explicit_empty_list_is_valid_and_a_missing_list_is_refused() {
    assert_eq!(
        good(&format!("{HEAD}virtualServers: []\n")),
        DesiredSet::default()
    );
    check(
        HEAD,
        "2:1: the field `virtualServers` is missing here; add it",
    );
    check(
        &format!("{HEAD}virtualServers:\n"),
        "3:15: a list is missing here; write [] for an empty list",
    );
    check(
        &format!("{HEAD}virtualServers: null\n"),
        "3:17: a list is missing here; write [] for an empty list",
    );
    for field in ["addresses", "ports", "realServers", "serviceRanges"] {
        let document = entry("serviceRanges: [10.9.0.0/16]\n")
            .replace("  - address: 10.0.2.3\n  - address: 10.0.2.4\n", "");
        let cut: Vec<&str> = document
            .lines()
            .map(|line| match line.split_once(&format!("{field}:")) {
                Some((before, _)) => &line[..before.len() + field.len() + 1],
                None => line,
            })
            .collect();
        let problem = parse(&cut.join("\n")).unwrap_err().to_string();
        assert!(problem.contains("a list is missing here"), "{problem}");
    }
    for text in ["", "# only a comment\n"] {
        check(
            text,
            " the file is empty; write at least apiVersion: portlb.io/v1, kind: VirtualServers \
             and virtualServers: [], a line each",
        );
    }
}

#[test]
fn an_unknown_api_version_or_kind_of_a_document_is_refused_with_its_value() {
    check(
        "apiVersion: portlb.io/v2\nkind: VirtualServers\nvirtualServers: []\n",
        "1:13: unknown value `portlb.io/v2`; did you mean `portlb.io/v1`? allowed here: \
         portlb.io/v1",
    );
    check(
        "apiVersion: portlb.io/v1\nkind: Peers\nvirtualServers: []\n",
        "2:7: unknown value `Peers`; allowed here: VirtualServers",
    );
}

#[test]
fn a_misspelt_field_is_refused_with_its_line_and_a_suggestion() {
    check(
        &entry("  forwardMethod: Tunnel\n"),
        "10:3: unknown field `forwardMethod`; did you mean `forwardingMethod`? allowed here: name, \
         addresses, ports, protocol, scheduler, schedulerFlags, forwardingMethod, tunnelKind, \
         persistence, healthCheck, onFailure, minimumHealthy, drainTimeout, realServers",
    );
    check(
        &entry("  - address: 10.0.2.5\n    wheight: 3\n"),
        "11:5: unknown field `wheight`; did you mean `weight`? allowed here: address, port, \
         weight, state",
    );
}

#[test]
fn a_value_that_cannot_be_parsed_is_refused_with_its_line() {
    check(
        &entry("  - address: web-1\n"),
        "10:14: \"web-1\" is not an IP address; write one such as 10.1.1.10 or fd00::10 (names \
         are not looked up)",
    );
    check(
        &entry("").replace("[80]", "[99999]"),
        "6:11: \"99999\" is not a port; write one from 1 to 65535 such as 80, a range such as \
         8000-8999, or all",
    );
    check(
        &entry("").replace("[80]", "['*']"),
        "6:11: \"*\" is not accepted for all ports; write all",
    );
    check(
        &entry("  healthCheck: {interval: 2}\n"),
        "10:27: \"2\" is not a time; expected a whole number with its unit: 500ms, 10s, 2m, 1h or \
         7d",
    );
    check(
        &entry("  scheduler: maglev\n"),
        "10:14: unknown value `maglev`; allowed here: rr, wrr, lc, wlc, sh, mh, sed, nq",
    );
    assert!(
        parse(&entry("  - {address: 10.0.2.5, weight: 65536}\n"))
            .unwrap_err()
            .to_string()
            .starts_with("10:33: ")
    );
}

#[test]
fn an_invalid_entry_is_refused_with_the_line_of_the_invalid_field() {
    check(
        &entry("  - address: 10.0.2.5\n    port: 8080\n"),
        "10:5: tcp/10.1.1.10:80: realServers[10.0.2.5:8080].port: 8080 differs from the virtual \
         server's port 80, which Tunnel (ipip) cannot change; leave the port out, or use \
         forwarding method Masquerade",
    );
    check(
        &entry("  - address: 10.0.2.3\n"),
        "10:5: tcp/10.1.1.10:80: realServers[10.0.2.3]: 10.0.2.3 is listed more than once; list \
         each real server once, and set its share with its weight",
    );
    check(
        &entry("").replace("10.1.1.10", "127.0.0.1"),
        "5:15: tcp/127.0.0.1:80: address: 127.0.0.1 is a loopback address, which is valid only \
         within a host; write a unicast address that is routed, such as 10.1.1.10 or fd00::10",
    );
    check(
        &entry("  schedulerFlags: [port]\n"),
        "10:19: tcp/10.1.1.10:80: schedulerFlags: port without fallback makes mh drop every new \
         flow that hashes to a quiesced real server; use fallback and port (the default), or no flag",
    );
    check(
        &entry("  scheduler: rr\n  schedulerFlags: [port]\n"),
        "11:19: schedulerFlags: rr has no flags (only sh and mh have flags); leave it out",
    );
    check(
        &entry("  forwardingMethod: Masquerade\n  tunnelKind: ipip\n"),
        "11:15: tunnelKind: ipip is for forwardingMethod Tunnel, not for Masquerade; leave it out",
    );
    check(
        &entry("  healthCheck: {kind: none, rise: 2}\n"),
        "10:16: healthCheck.rise: 2 has no effect without a health check; leave it out, or use a \
         health check",
    );
    check(
        &entry("  minimumHealthy: 0\n"),
        "10:19: tcp/10.1.1.10:80: minimumHealthy: 0 would announce an address that no real server \
         serves; write 1 or more",
    );
    check(
        &entry("  drainTimeout: 25h\n"),
        "10:17: tcp/10.1.1.10:80: drainTimeout: 90000s is out of range; write 0s (connections \
         end immediately) to 24h",
    );
    check(
        &entry("").replace("ports: [80]", "ports: []"),
        "4:3: ports: the list is empty; write at least one value",
    );
}

#[test]
fn one_error_lists_all_problems_of_a_document() {
    check(
        &entry(
            "  minimumHealthy: 0\n  healthCheck: {rise: 0}\n  drainTimeout: 25h\n- name: ''\n  \
             addresses: [10.1.1.11, 10.1.1.12]\n  ports: [80, 81]\n  realServers: [{address: \
             10.1.1.10}]\n",
        ),
        "11:16: tcp/10.1.1.10:80: healthCheck.rise: 0 is out of range; write 1 to 100\n\
         10:19: tcp/10.1.1.10:80: minimumHealthy: 0 would announce an address that no real server serves; \
         write 1 or more\n\
         12:17: tcp/10.1.1.10:80: drainTimeout: 90000s is out of range; write 0s (connections \
         end immediately) to 24h\n\
         13:9: tcp/10.1.1.11:80: name: \"\" is empty; write a name of 1 to 253 printable \
         characters\n\
         14:15: virtualServers[tcp/10.1.1.11:80].realServers[10.1.1.10].address: 10.1.1.10 is a \
         service address, so packets to it would not leave the load balancer; write the real \
         server's own address\n\
         14:15: virtualServers[tcp/10.1.1.11:81].realServers[10.1.1.10].address: 10.1.1.10 is a \
         service address, so packets to it would not leave the load balancer; write the real \
         server's own address\n\
         14:26: virtualServers[tcp/10.1.1.12:80].realServers[10.1.1.10].address: 10.1.1.10 is a \
         service address, so packets to it would not leave the load balancer; write the real \
         server's own address\n\
         14:26: virtualServers[tcp/10.1.1.12:81].realServers[10.1.1.10].address: 10.1.1.10 is a \
         service address, so packets to it would not leave the load balancer; write the real \
         server's own address",
    );
}

#[test]
fn a_udp_virtual_server_needs_a_health_check_with_a_port_or_of_the_kind_none() {
    let udp = |more: &str| entry(&format!("  protocol: udp\n{more}"));
    let problem = parse(&udp("")).unwrap_err().to_string();
    assert!(problem.contains("healthCheck.port"), "{problem}");
    assert!(problem.contains("kind: none"), "{problem}");
    assert_eq!(
        one(&udp("  healthCheck: {kind: none}\n")).health_check,
        None
    );
    assert!(
        one(&udp("  healthCheck: {port: 8080}\n"))
            .health_check
            .is_some()
    );
}

#[test]
fn conflicting_objects_are_refused_with_the_line_of_one_of_them() {
    let second = |ports: &str| {
        entry(&format!(
            "- name: other\n  addresses: [10.1.1.10]\n  ports: [{ports}]\n  realServers: []\n  \
             healthCheck: {{kind: none}}\n"
        ))
    };
    check(
        &second("80"),
        "11:15: the virtual server tcp/10.1.1.10:80 is given twice, first in line 5; remove one \
         of the two",
    );
    check(
        &second("all"),
        "5:15: virtualServers[tcp/10.1.1.10:80].ports: 80 overlaps the ports of \
         tcp/10.1.1.10:*; give each port of an address to one virtual server",
    );
    let ranges = |ranges: &str| format!("{HEAD}serviceRanges: [{ranges}]\nvirtualServers: []\n");
    check(
        &ranges("10.1.1.0/24, 10.1.1.0/25"),
        "3:30: serviceRanges[10.1.1.0/25]: 10.1.1.0/25 lies within the service range \
         10.1.1.0/24; remove one of the two service ranges",
    );
    check(
        &ranges("10.1.1.0/24, 10.1.1.0/24"),
        "3:30: the service range 10.1.1.0/24 is given twice, first in line 3; remove one of the \
         two",
    );
    check(
        &ranges("10.1.1.7/24"),
        "3:17: serviceRanges[10.1.1.7/24]: 10.1.1.7/24 has bits set to the right of its \
         length; write 10.1.1.0/24",
    );
}

#[test]
fn a_minimum_healthy_above_the_number_of_real_servers_gives_a_warning_with_a_line() {
    let warnings = |more: &str| -> Vec<String> {
        let content = read(&entry(more)).unwrap();
        content.warnings.iter().map(ToString::to_string).collect()
    };
    assert_eq!(warnings("  minimumHealthy: 2\n"), [] as [&str; 0]);
    assert_eq!(
        warnings("  minimumHealthy: 3\n"),
        [
            "10:19: tcp/10.1.1.10:80: minimumHealthy: 3 is more than the number of real servers \
             (2), so the virtual server is never serving; list more real servers, or write a \
             smaller number"
        ]
    );
    // An entry without real servers and without minimumHealthy gives no warning: the author can add
    // the real servers later.
    let empty = entry("").replace("  - address: 10.0.2.3\n  - address: 10.0.2.4\n", "    []\n");
    assert_eq!(read(&empty).unwrap().warnings, []);
}

#[test]
fn weights_that_mh_cannot_distinguish_are_rounded_with_a_warning() {
    let weighted = entry("").replace(
        "  - address: 10.0.2.3\n  - address: 10.0.2.4\n",
        "  - {address: 10.0.2.3, weight: 100}\n  - {address: 10.0.2.4, weight: 51}\n",
    );
    let content = read(&weighted).unwrap();
    let warnings: Vec<String> = content.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].ends_with(
            "tcp/10.1.1.10:80: weights are rounded to 16 levels, because mh cannot distinguish \
             more levels with so many real servers; write weights with small whole-number ratios, \
             such as 1, 2 and 4, or another scheduler"
        ),
        "{warnings:?}"
    );
    let server = content.desired.virtual_servers.values().next().unwrap();
    let weights: Vec<u16> = server
        .real_servers
        .iter()
        .map(|server| server.weight.0)
        .collect();
    assert_eq!(weights, [16, 8]);
    let other = weighted.replace("  ports:", "  scheduler: wrr\n  ports:");
    assert_eq!(read(&other).unwrap().warnings, []);
}

#[test]
fn a_document_that_is_cut_off_anywhere_never_makes_the_parser_panic() {
    let whole = entry("  healthCheck: {interval: 300ms}\n  persistence: {timeout: 5m}\n");
    for end in 0..whole.len() {
        // Some of the documents that are cut off are valid, so the result is not checked.
        let _ = parse(&whole[..end]);
    }
}

#[test]
fn a_yaml_error_is_reported_with_the_field_and_a_suggestion() {
    let file = "apiVersion: portlb.io/v1\nkind: VirtualServers\nvirtualServers:\n- name: shop\n  \
                addresses: [10.1.1.10]\n  ports: [80, 443]\n  realServers:\n  - address: \
                10.0.2.3\n    weight: 3\n  - {address: 10.0.2.4, weight: 4}\n  minimumHealthy: \
                1\n  healthCheck:\n    port: 80\n";
    for (written, instead, expected) in [
        (
            "weight: 3",
            "weight: 70000",
            "9:13: weight: 70000 is not a whole number from 0 to 65535; write one",
        ),
        (
            "weight: 3",
            "weight: -1",
            "9:13: weight: -1 is not a whole number from 0 to 65535; write one",
        ),
        (
            "weight: 3",
            "weight: 1.5   # half as much again",
            "9:13: weight: 1.5 is not a whole number from 0 to 65535; write one",
        ),
        (
            "weight: 4}",
            "weight: heavy}",
            "10:33: weight: heavy is not a whole number from 0 to 65535; write one",
        ),
        (
            "minimumHealthy: 1",
            "minimumHealthy: yes",
            "11:19: minimumHealthy: yes is not a whole number from 0 to 4294967295; write one",
        ),
        (
            "port: 80\n",
            "port: 0\n",
            "13:11: \"0\" is not a port; write one from 1 to 65535",
        ),
        (
            "[80, 443]",
            "80",
            "6:10: ports: a list is expected; write [80], or one item a line beginning with -",
        ),
        (
            "[80, 443]",
            "{from: 80}",
            "6:10: ports: a list is expected; write one item a line beginning with -",
        ),
        (
            "name: shop",
            "name:shop",
            "4:3: fields are expected (name: value); is a space missing after the colon?",
        ),
        (
            "healthCheck:\n    port: 80",
            "healthCheck: tcp",
            "12:16: healthCheck: fields are expected (name: value); is a space missing after the \
             colon?",
        ),
        (
            "ports: [80",
            "ports [80",
            "6:3: a colon is missing after the field's name; write name: value",
        ),
        (
            "    weight: 3",
            "\tweight: 3",
            "9:1: a tab is used here; indent with spaces",
        ),
        (
            "name: shop",
            "name:",
            "4:7: name: the field has no value; write one, or leave the field out",
        ),
        (
            "443]",
            "443",
            "7:14: a colon is not allowed here; is a ] or } missing before it, or quotes around a \
             text with a colon?",
        ),
        (
            "  ports",
            "   ports",
            "6:4: the indentation fits no field above; indent all fields of an entry alike",
        ),
        (
            "name: shop",
            "name: \"shop",
            "5:3: a text in quotes continues here; is the closing quote missing above?",
        ),
        (
            "port: 80\n",
            "port: 80\n---\nkind: VirtualServers\n",
            "15:1: a second document begins here; write only one document in a file, without ---",
        ),
    ] {
        good(file);
        assert_eq!(file.matches(written).count(), 1, "{written}");
        check(&file.replace(written, instead), expected);
    }
}
