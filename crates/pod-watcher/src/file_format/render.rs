//! A desired set as a document that reads back as the same set.

use std::{
    fmt::{self, Write},
    time::Duration,
};

use virtual_server::{
    DesiredSet, FailureAction, ForwardingMethod, HealthCheck, HealthCheckKind, Ports, Protocol,
    RealServer, RealServerState, Scheduler, TunnelKind, VirtualServer, Weight,
};

/// Writes the document; what is as the default has it is left out.
///
/// Times are written in whole milliseconds, as a valid set has them.
#[must_use]
pub fn render(desired: &DesiredSet) -> String {
    let mut document = String::new();
    write_document(&mut document, desired).expect("a String takes whatever is written");
    document
}

fn write_document(out: &mut String, desired: &DesiredSet) -> fmt::Result {
    writeln!(out, "apiVersion: portlb.io/v1\nkind: VirtualServers")?;
    if !desired.service_ranges.is_empty() {
        writeln!(out, "serviceRanges:")?;
    }
    for range in &desired.service_ranges {
        writeln!(out, "- {}", quoted(&range.to_string()))?;
    }
    if desired.virtual_servers.is_empty() {
        return writeln!(out, "virtualServers: []");
    }
    writeln!(out, "virtualServers:")?;
    for server in desired.virtual_servers.values() {
        write_virtual_server(out, server)?;
    }
    Ok(())
}

fn write_virtual_server(out: &mut String, server: &VirtualServer) -> fmt::Result {
    writeln!(out, "- name: {}", quoted(&server.name))?;
    let address = server.id.address.to_string();
    writeln!(out, "  addresses: [{}]", quoted(&address))?;
    match server.id.ports {
        Ports::All => writeln!(out, "  ports: [all]")?,
        ports @ (Ports::Single(_) | Ports::Range(..)) => writeln!(out, "  ports: [{ports}]")?,
    }
    match server.id.protocol {
        Protocol::Tcp => {}
        protocol @ (Protocol::Udp | Protocol::Sctp) => writeln!(out, "  protocol: {protocol}")?,
    }
    write_scheduler(out, server.scheduler)?;
    match server.forwarding_method {
        // The only kind of tunnel is the default.
        ForwardingMethod::Tunnel(TunnelKind::Ipip) => {}
        method @ (ForwardingMethod::Masquerade | ForwardingMethod::DirectRouting) => {
            writeln!(out, "  forwardingMethod: {method}")?;
        }
    }
    if let Some(persistence) = &server.persistence {
        let longest = if server.id.address.is_ipv4() { 32 } else { 128 };
        writeln!(
            out,
            "  persistence:\n    timeout: {}",
            period(persistence.timeout)
        )?;
        if persistence.client_prefix_length != longest {
            let length = persistence.client_prefix_length;
            writeln!(out, "    clientPrefixLength: {length}")?;
        }
    }
    write_health_check(out, server.health_check.as_ref())?;
    match server.on_failure {
        FailureAction::Quiesce => {}
        FailureAction::Remove => writeln!(out, "  onFailure: remove")?,
    }
    if server.minimum_healthy != VirtualServer::DEFAULT_MINIMUM_HEALTHY {
        writeln!(out, "  minimumHealthy: {}", server.minimum_healthy)?;
    }
    if server.drain_timeout != VirtualServer::DEFAULT_DRAIN_TIMEOUT {
        writeln!(out, "  drainTimeout: {}", period(server.drain_timeout))?;
    }
    if server.real_servers.is_empty() {
        return writeln!(out, "  realServers: []");
    }
    writeln!(out, "  realServers:")?;
    for real_server in &server.real_servers {
        write_real_server(out, real_server)?;
    }
    Ok(())
}

fn write_scheduler(out: &mut String, scheduler: Scheduler) -> fmt::Result {
    if scheduler == Scheduler::default() {
        return Ok(());
    }
    writeln!(out, "  scheduler: {}", scheduler.name())?;
    match scheduler {
        Scheduler::SH_DEFAULT => Ok(()),
        Scheduler::Sh { fallback, port } | Scheduler::Mh { fallback, port } => {
            let fallback = fallback.then_some("fallback");
            let port = port.then_some("port");
            let flags: Vec<&str> = fallback.into_iter().chain(port).collect();
            writeln!(out, "  schedulerFlags: [{}]", flags.join(", "))
        }
        Scheduler::Rr
        | Scheduler::Wrr
        | Scheduler::Lc
        | Scheduler::Wlc
        | Scheduler::Sed
        | Scheduler::Nq => Ok(()),
    }
}

fn write_health_check(out: &mut String, check: Option<&HealthCheck>) -> fmt::Result {
    let default = HealthCheck::default();
    let Some(check) = check else {
        return writeln!(out, "  healthCheck: {{kind: none}}");
    };
    if *check == default {
        return Ok(());
    }
    let HealthCheckKind::TcpConnect { port } = check.kind;
    writeln!(out, "  healthCheck:\n    kind: tcpConnect")?;
    if let Some(port) = port {
        writeln!(out, "    port: {port}")?;
    }
    writeln!(out, "    interval: {}", period(check.interval))?;
    writeln!(out, "    timeout: {}", period(check.timeout))?;
    writeln!(out, "    rise: {}\n    fall: {}", check.rise, check.fall)?;
    writeln!(out, "    initialJitter: {}", period(check.initial_jitter))
}

fn write_real_server(out: &mut String, real_server: &RealServer) -> fmt::Result {
    writeln!(
        out,
        "  - address: {}",
        quoted(&real_server.address.to_string())
    )?;
    if let Some(port) = real_server.port {
        writeln!(out, "    port: {port}")?;
    }
    if real_server.weight != Weight::default() {
        writeln!(out, "    weight: {}", real_server.weight.0)?;
    }
    match real_server.state {
        RealServerState::Ready => Ok(()),
        RealServerState::Draining => writeln!(out, "    state: draining"),
    }
}

/// In the largest unit that keeps it whole.
fn period(period: Duration) -> String {
    let milliseconds = period.as_millis();
    for (unit, length) in [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
    ] {
        if milliseconds > 0 && milliseconds.is_multiple_of(length) {
            return format!("{}{unit}", milliseconds / length);
        }
    }
    format!("{milliseconds}ms")
}

/// A text that cannot be taken for anything else stands as it is, every other one in quotes.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '/' | ':');
    let is_v4 = text.starts_with(|c: char| c.is_ascii_digit())
        && text.chars().filter(|c| *c == '.').count() == 3;
    let is_name = text.starts_with(|c: char| c.is_ascii_lowercase()) && text.contains('/');
    if (is_v4 || is_name) && !text.ends_with(':') && text.chars().all(is_plain) {
        return text.to_owned();
    }
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            ' '..='~' => quoted.push(character),
            other => {
                write!(quoted, "\\U{:08x}", u32::from(other)).expect("a String takes anything");
            }
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;
    use virtual_server::{Persistence, ServiceRange, VirtualServerId};

    use super::*;
    use crate::file_format::parse;

    fn ports() -> impl Strategy<Value = Ports> {
        prop_oneof![
            3 => any::<std::num::NonZeroU16>().prop_map(Ports::Single),
            1 => (1_u16..30_000, 1_u16..30_000).prop_map(|(first, more)| {
                let port = |number: u16| number.try_into().unwrap();
                Ports::Range(port(first), port(first + more))
            }),
            1 => Just(Ports::All),
        ]
    }

    fn scheduler() -> impl Strategy<Value = Scheduler> {
        prop_oneof![
            Just(Scheduler::Rr),
            Just(Scheduler::Wlc),
            Just(Scheduler::Nq),
            any::<(bool, bool)>().prop_map(|(fallback, port)| Scheduler::Sh { fallback, port }),
            any::<(bool, bool)>().prop_map(|(fallback, port)| Scheduler::Mh {
                fallback: fallback || port,
                port,
            }),
        ]
    }

    fn milliseconds(range: std::ops::RangeInclusive<u64>) -> impl Strategy<Value = Duration> {
        range.prop_map(Duration::from_millis)
    }

    fn health_check() -> impl Strategy<Value = Option<HealthCheck>> {
        let port = any::<std::num::NonZeroU16>();
        let checked = (
            port,
            milliseconds(10..=3_600_000),
            1_u32..=100,
            1_u32..=100,
            milliseconds(0..=3_600_000),
        );
        let checked = checked.prop_map(|(port, interval, rise, fall, initial_jitter)| {
            Some(HealthCheck {
                kind: HealthCheckKind::TcpConnect { port: Some(port) },
                interval,
                timeout: Duration::from_millis(interval.as_millis() as u64 / 2 + 1),
                rise,
                fall,
                initial_jitter,
            })
        });
        prop_oneof![Just(None), checked]
    }

    fn real_servers() -> impl Strategy<Value = Vec<RealServer>> {
        let one = (any::<u16>(), any::<u16>(), any::<bool>());
        prop::collection::vec(one, 0..4).prop_map(|servers| {
            let mut servers: Vec<RealServer> = servers
                .into_iter()
                .map(|(host, weight, is_draining)| RealServer {
                    address: IpAddr::from([10, 2, host.to_be_bytes()[0], host.to_be_bytes()[1]]),
                    port: None,
                    weight: Weight(weight),
                    state: if is_draining {
                        RealServerState::Draining
                    } else {
                        RealServerState::Ready
                    },
                })
                .collect();
            servers.sort_by_key(|server| server.address);
            servers.dedup_by_key(|server| server.address);
            servers
        })
    }

    fn virtual_server() -> impl Strategy<Value = VirtualServer> {
        let id = (
            0_u8..4,
            prop::sample::select(vec!["tcp", "udp", "sctp"]),
            ports(),
        );
        let persistence = prop::option::of((1_u64..2_678_400, 1_u8..=32));
        (
            (id, "[^\\p{C}]{1,20}", scheduler(), 0_u8..3, persistence),
            (
                real_servers(),
                health_check(),
                any::<bool>(),
                1_u32..9,
                drain_timeout(),
            ),
        )
            .prop_map(|(first, second)| {
                let ((host, protocol, ports), name, scheduler, method, persistence) = first;
                let (real_servers, health_check, removes, minimum_healthy, drain_timeout) = second;
                VirtualServer {
                    id: VirtualServerId {
                        address: match host {
                            0 => "fd00::1".parse().unwrap(),
                            host => IpAddr::from([10, 1, 1, host]),
                        },
                        protocol: protocol.parse().unwrap(),
                        ports,
                    },
                    name,
                    scheduler,
                    forwarding_method: match (method, host) {
                        (1, 1..) => ForwardingMethod::Masquerade,
                        (2, 1..) => ForwardingMethod::DirectRouting,
                        _ => ForwardingMethod::default(),
                    },
                    persistence: persistence.map(|(seconds, client_prefix_length)| Persistence {
                        timeout: Duration::from_secs(seconds),
                        client_prefix_length,
                    }),
                    real_servers,
                    health_check,
                    on_failure: if removes {
                        FailureAction::Remove
                    } else {
                        FailureAction::Quiesce
                    },
                    minimum_healthy,
                    drain_timeout,
                }
            })
    }

    fn drain_timeout() -> impl Strategy<Value = Duration> {
        let given = (0_u64..=86_400_000).prop_map(Duration::from_millis);
        prop_oneof![Just(VirtualServer::DEFAULT_DRAIN_TIMEOUT), given]
    }

    fn desired_set() -> impl Strategy<Value = DesiredSet> {
        let servers = prop::collection::vec(virtual_server(), 0..5);
        (servers, any::<bool>()).prop_map(|(servers, has_ranges)| {
            let mut desired = DesiredSet::default();
            if has_ranges {
                for prefix in ["10.1.1.0/24", "fd00::/64"] {
                    let prefix = prefix.parse().unwrap();
                    desired.service_ranges.insert(ServiceRange { prefix });
                }
            }
            for mut server in servers {
                // No source gives other weights.
                server.round_weights(None);
                let id = server.id;
                let overlaps = |other: &VirtualServerId| {
                    (other.address, other.protocol) == (id.address, id.protocol)
                        && other.ports.overlaps(id.ports)
                };
                if !desired.virtual_servers.keys().any(overlaps) {
                    desired.virtual_servers.insert(id, server);
                }
            }
            desired
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_written_reads_back_as_the_same(desired in desired_set()) {
            prop_assert_eq!(desired.validate(), Ok(()));
            let document = render(&desired);
            match parse(&document) {
                Ok(read) => prop_assert_eq!(read, desired, "{}", document),
                Err(problem) => prop_assert!(false, "{}\n{}", problem, document),
            }
        }
    }

    #[test]
    fn names_that_look_like_something_else_are_put_in_quotes() {
        for name in [
            "true",
            "null",
            "1.5",
            "a: b",
            "#",
            "- a",
            "ä\u{2028}\"\\",
            " a ",
            "a/b:",
        ] {
            let quoted = quoted(name);
            assert!(quoted.starts_with('"'), "{quoted}");
        }
        assert_eq!(quoted("shop/web:http"), "shop/web:http");
    }
}
