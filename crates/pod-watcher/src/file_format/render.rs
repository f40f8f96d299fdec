//! Conversion of a desired set to a document.

use virtual_server::{
    DesiredSet, HealthCheck, HealthCheckChoice, HealthCheckKind, HealthCheckOptions, Scheduler,
    SchedulerFlags, VirtualServer,
};

use super::{EntryPersistence, VirtualServersDocument, VirtualServersEntry};

/// Returns the document of a desired set, without the fields that have their default. [`parse`] of
/// the document returns an equal desired set.
///
/// [`parse`]: super::parse
#[must_use]
pub fn render(desired: &DesiredSet) -> String {
    let entries = desired
        .virtual_servers
        .values()
        .map(VirtualServersEntry::from);
    let document =
        VirtualServersDocument::new(desired.service_ranges.iter().map(|range| range.prefix));
    entries.fold(document, VirtualServersDocument::with).text()
}

impl From<&VirtualServer> for VirtualServersEntry {
    fn from(server: &VirtualServer) -> Self {
        let longest = if server.id.address.is_ipv4() { 32 } else { 128 };
        let differing = |number: u8| Some(number).filter(|number| *number != longest);
        Self {
            name: server.name.clone(),
            addresses: vec![server.id.address],
            ports: vec![server.id.ports],
            protocol: server.id.protocol,
            scheduler: server.scheduler,
            scheduler_flags: scheduler_flags(server.scheduler),
            forwarding_method: server.forwarding_method,
            tunnel_kind: None,
            persistence: server.persistence.map(|persistence| EntryPersistence {
                timeout: persistence.timeout,
                client_prefix_length: differing(persistence.client_prefix_length),
            }),
            real_servers: server.real_servers.clone(),
            health_check: health_check(server.health_check),
            on_failure: server.on_failure,
            minimum_healthy: Some(server.minimum_healthy)
                .filter(|minimum| *minimum != VirtualServer::DEFAULT_MINIMUM_HEALTHY),
            drain_timeout: Some(server.drain_timeout)
                .filter(|timeout| *timeout != VirtualServer::DEFAULT_DRAIN_TIMEOUT),
        }
    }
}

fn scheduler_flags(scheduler: Scheduler) -> Option<SchedulerFlags> {
    match scheduler {
        Scheduler::SH_DEFAULT | Scheduler::MH_DEFAULT => None,
        Scheduler::Sh(flags) | Scheduler::Mh(flags) => Some(flags),
        Scheduler::Rr
        | Scheduler::Wrr
        | Scheduler::Lc
        | Scheduler::Wlc
        | Scheduler::Sed
        | Scheduler::Nq => None,
    }
}

fn health_check(check: Option<HealthCheck>) -> Option<HealthCheckOptions> {
    let Some(check) = check else {
        return Some(HealthCheckOptions {
            kind: Some(HealthCheckChoice::None),
            ..HealthCheckOptions::default()
        });
    };
    let HealthCheckKind::TcpConnect { port } = check.kind;
    (check != HealthCheck::default()).then_some(HealthCheckOptions {
        kind: Some(HealthCheckChoice::TcpConnect),
        port,
        interval: Some(check.interval),
        timeout: Some(check.timeout),
        rise: Some(check.rise),
        fall: Some(check.fall),
        initial_jitter: Some(check.initial_jitter),
    })
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, time::Duration};

    use proptest::prelude::*;
    use virtual_server::{
        FailureAction, ForwardingMethod, Persistence, Ports, RealServer, RealServerState,
        ServiceRange, VirtualServerId, Weight,
    };

    use super::{
        DesiredSet, HealthCheck, HealthCheckKind, Scheduler, SchedulerFlags, VirtualServer, render,
    };
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
            any::<(bool, bool)>()
                .prop_map(|(fallback, port)| Scheduler::Sh(SchedulerFlags { fallback, port })),
            any::<(bool, bool)>().prop_map(|(fallback, port)| Scheduler::Mh(SchedulerFlags {
                fallback: fallback || port,
                port,
            })),
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
                    history: virtual_server::RealServerHistory::default(),
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
                // Parsing rounds the weights, so only a desired set with rounded weights is equal
                // after parsing.
                server.round_weights(None);
                for (real_server, position) in server.real_servers.iter_mut().zip(0..) {
                    real_server.history.position = position;
                }
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
        fn a_rendered_desired_set_parses_to_an_equal_desired_set(desired in desired_set()) {
            prop_assert_eq!(desired.validate(), Ok(()));
            let document = render(&desired);
            match parse(&document) {
                Ok(read) => prop_assert_eq!(read, desired, "{}", document),
                Err(problem) => prop_assert!(false, "{}\n{}", problem, document),
            }
        }
    }

    #[test]
    fn names_that_look_like_yaml_syntax_are_equal_after_rendering_and_parsing() {
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
            "~",
            "0x10",
            "1:30",
            "&a",
            "'",
        ] {
            let mut server = crate::file_format::parse(
                "apiVersion: portlb.io/v1\nkind: VirtualServers\nvirtualServers: [{name: web, \
                 addresses: [10.1.1.10], ports: [80], realServers: []}]\n",
            )
            .unwrap();
            for server in server.virtual_servers.values_mut() {
                server.name = name.to_owned();
            }
            assert_eq!(parse(&render(&server)).unwrap(), server, "{name}");
        }
    }
}
