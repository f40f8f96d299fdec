use std::time::Duration;

use proptest::{option, prelude::*};
use virtual_server::{DesiredChange, ServiceRange, Timestamp};

use super::{time::NANOSECONDS_PER_SECOND, *};
use crate::discovery::v1::{self as discovery, watch_response::Event};

fn any_port() -> impl Strategy<Value = NonZeroU16> {
    (1..=u16::MAX).prop_map(|port| NonZeroU16::new(port).unwrap())
}

fn any_ports() -> impl Strategy<Value = Ports> {
    prop_oneof![
        any_port().prop_map(Ports::Single),
        Just(Ports::All),
        (any_port(), any_port()).prop_filter_map("first < last", |(first, last)| {
            (first < last).then_some(Ports::Range(first, last))
        }),
    ]
}

fn any_id() -> impl Strategy<Value = VirtualServerId> {
    let address = prop_oneof![
        (0..=255_u8).prop_map(|host| IpAddr::from([10, 1, 1, host])),
        any::<u16>().prop_map(|host| IpAddr::from([0xfd00, 1, 0, 0, 0, 0, 0, host])),
    ];
    let protocol = prop_oneof![
        Just(Protocol::Tcp),
        Just(Protocol::Udp),
        Just(Protocol::Sctp)
    ];
    (address, protocol, any_ports()).prop_map(|(address, protocol, ports)| VirtualServerId {
        address,
        protocol,
        ports,
    })
}

fn any_scheduler() -> impl Strategy<Value = Scheduler> {
    prop_oneof![
        Just(Scheduler::Rr),
        Just(Scheduler::Wrr),
        Just(Scheduler::Lc),
        Just(Scheduler::Wlc),
        Just(Scheduler::Sed),
        Just(Scheduler::Nq),
        any::<(bool, bool)>()
            .prop_map(|(fallback, port)| Scheduler::Sh(SchedulerFlags { fallback, port })),
        Just(Scheduler::MH_DEFAULT),
        Just(Scheduler::Mh(SchedulerFlags {
            fallback: true,
            port: false
        })),
    ]
}

fn any_health_check() -> impl Strategy<Value = HealthCheck> {
    (
        10..3_600_000_u64,
        1..=100_u32,
        1..=100_u32,
        0..3_600_000_u64,
        any_port(),
    )
        .prop_map(|(interval, rise, fall, jitter, port)| HealthCheck {
            kind: HealthCheckKind::TcpConnect { port: Some(port) },
            interval: Duration::from_millis(interval),
            timeout: Duration::from_millis(1 + interval / 2),
            rise,
            fall,
            initial_jitter: Duration::from_millis(jitter),
        })
}

fn any_virtual_server() -> impl Strategy<Value = VirtualServer> {
    let moment = || {
        let parts = (0..=u64::from(u32::MAX), 0..NANOSECONDS_PER_SECOND);
        option::of(parts.prop_map(|(seconds, nanos)| Timestamp(Duration::new(seconds, nanos))))
    };
    let history = (any::<u64>(), moment(), moment());
    let history = history.prop_map(
        |(position, ready_since, draining_since)| RealServerHistory {
            position,
            ready_since,
            draining_since,
        },
    );
    let real_server = (any::<(u16, u16)>(), any::<bool>(), history);
    let real_server = real_server.prop_map(|((host, weight), ready, history)| {
        let [high, low] = host.to_be_bytes();
        RealServer {
            address: IpAddr::from([10, 2, high, low]),
            port: None,
            weight: Weight(weight),
            state: if ready {
                RealServerState::Ready
            } else {
                RealServerState::Draining
            },
            history,
        }
    });
    let persistence = (1..=2_678_400_u64, 1..=32_u8).prop_map(|(seconds, length)| Persistence {
        timeout: Duration::from_secs(seconds),
        client_prefix_length: length,
    });
    (
        any_id(),
        "[a-z/.-]{1,40}",
        any_scheduler(),
        option::of(persistence),
        prop::collection::vec(real_server, 0..5),
        option::of(any_health_check()),
        any::<bool>(),
        (1..9_u32, 0..86_400_000_u64),
    )
        .prop_map(
            |(id, name, scheduler, persistence, real_servers, health_check, quiesce, numbers)| {
                let (minimum, drain_milliseconds) = numbers;
                let mut virtual_server = VirtualServer {
                    id,
                    name,
                    scheduler,
                    forwarding_method: ForwardingMethod::default(),
                    persistence,
                    real_servers,
                    health_check,
                    on_failure: if quiesce {
                        FailureAction::Quiesce
                    } else {
                        FailureAction::Remove
                    },
                    minimum_healthy: minimum,
                    drain_timeout: Duration::from_millis(drain_milliseconds),
                };
                virtual_server.sort_real_servers();
                virtual_server
                    .real_servers
                    .dedup_by_key(|real_server| real_server.address);
                if minimum % 3 == 0 && id.address.is_ipv4() {
                    virtual_server.forwarding_method = ForwardingMethod::DirectRouting;
                } else if minimum % 3 == 1 && id.address.is_ipv4() {
                    virtual_server.forwarding_method = ForwardingMethod::Masquerade;
                    if matches!(id.ports, Ports::Single(_)) {
                        for real_server in &mut virtual_server.real_servers {
                            real_server.port = NonZeroU16::new(8080);
                        }
                    }
                }
                virtual_server
            },
        )
}

proptest! {
    #[test]
    fn a_virtual_server_is_equal_after_conversion_to_a_message_and_back(virtual_server in any_virtual_server()) {
        let message = wire::VirtualServer::from(&virtual_server);
        prop_assert_eq!(VirtualServer::try_from(message), Ok(virtual_server));
    }

    #[test]
    fn a_virtual_server_id_is_equal_after_conversion_to_a_message_and_back(id in any_id()) {
        prop_assert_eq!(VirtualServerId::try_from(wire::VirtualServerId::from(&id)), Ok(id));
    }

    #[test]
    fn a_change_of_the_desired_set_is_equal_after_conversion_to_messages_and_back(virtual_server in any_virtual_server()) {
        let range = ServiceRange { prefix: "10.1.1.0/24".parse().unwrap() };
        for change in [
            DesiredChange::RemoveServiceRange(range),
            DesiredChange::PutServiceRange(range),
            DesiredChange::RemoveVirtualServer(virtual_server.id),
            DesiredChange::PutVirtualServer(virtual_server),
        ] {
            let received = DesiredSetAssembly::default().receive_all(events(&change));
            prop_assert_eq!(received, [DesiredSetEvent::Change(change)]);
        }
    }

    #[test]
    fn a_virtual_server_is_assembled_from_its_head_and_parts_in_rotated_order(
        virtual_server in any_virtual_server(),
        seed in any::<u64>(),
    ) {
        let change = DesiredChange::PutVirtualServer(virtual_server);
        let mut events = events(&change);
        let turn = usize::try_from(seed % events.len() as u64).unwrap();
        events.rotate_left(turn);
        let received = DesiredSetAssembly::default().receive_all(events);
        prop_assert_eq!(received, [DesiredSetEvent::Change(change)]);
    }

    #[test]
    fn arbitrary_numbers_never_convert_to_an_invalid_virtual_server(
        numbers in any::<[i32; 4]>(),
        others in any::<[u32; 8]>(),
    ) {
        let message = wire::VirtualServer {
            ports: Some(wire::PortRange { first: others[0], last: others[1] }),
            protocol: numbers[0],
            scheduler: Some(wire::Scheduler { kind: numbers[1], fallback: true, port: true }),
            forwarding_method: numbers[2],
            persistence: Some(wire::Persistence {
                timeout: Some(any_duration(others[2])),
                client_prefix_length: others[3],
            }),
            health_check: Some(wire::HealthCheck {
                interval: Some(any_duration(others[4])),
                timeout: Some(any_duration(others[5])),
                rise: others[6],
                fall: others[7],
                ..sample().health_check.unwrap()
            }),
            on_failure: numbers[3],
            ..sample()
        };
        if let Ok(virtual_server) = VirtualServer::try_from(message) {
            prop_assert_eq!(virtual_server.validate(), Ok(()));
        }
    }
}

/// Returns a duration that can be negative, and can have more nanoseconds than one second.
fn any_duration(number: u32) -> prost_types::Duration {
    let number = number.cast_signed();
    prost_types::Duration {
        seconds: (number >> 16).into(),
        nanos: number,
    }
}

/// Returns the events of a change, with at most two real servers in each part.
fn events(change: &DesiredChange) -> Vec<Event> {
    match change {
        DesiredChange::RemoveServiceRange(range) => {
            vec![Event::RemovedServiceRange((*range).into())]
        }
        DesiredChange::RemoveVirtualServer(id) => vec![Event::RemovedVirtualServer(id.into())],
        DesiredChange::PutServiceRange(range) => vec![Event::ServiceRange((*range).into())],
        DesiredChange::PutVirtualServer(server) => {
            let parts = server.real_servers.chunks(2);
            let head = virtual_server_head(server, parts.len());
            let parts = parts.enumerate();
            let parts = parts.map(|(number, part)| real_server_part(&server.id, number, part));
            [head].into_iter().chain(parts).collect()
        }
    }
}

impl DesiredSetAssembly {
    /// Receives the events as one change, and checks that only the last event completes it.
    fn receive_all(&mut self, events: Vec<Event>) -> Vec<DesiredSetEvent> {
        let last = events.len();
        let mut received = Vec::new();
        for (event, number) in events.into_iter().zip(1..) {
            assert_eq!(received, []);
            received = self.receive(discovery::WatchResponse {
                revision: 1,
                event: Some(event),
                complete: number == last,
            });
        }
        received
    }
}

fn server(real_servers: &[&str]) -> VirtualServer {
    let mut server = VirtualServer::try_from(sample()).unwrap();
    let template = server.real_servers.remove(0);
    server.real_servers = real_servers
        .iter()
        .map(|address| RealServer {
            address: address.parse().unwrap(),
            ..template.clone()
        })
        .collect();
    server
}

fn put(server: &VirtualServer) -> DesiredSetEvent {
    DesiredSetEvent::Change(DesiredChange::PutVirtualServer(server.clone()))
}

#[test]
fn a_part_replaces_the_received_part_with_an_equal_number() {
    let before = server(&["10.2.0.1", "10.2.0.2", "10.2.0.3"]);
    let mut assembly = DesiredSetAssembly::default();
    let received = assembly.receive_all(events(&DesiredChange::PutVirtualServer(before.clone())));
    assert_eq!(received, [put(&before)]);
    let after = server(&["10.2.0.1", "10.2.0.2", "10.2.0.9"]);
    let part = real_server_part(&after.id, 1, &after.real_servers[2..]);
    assert_eq!(assembly.receive_all(vec![part]), [put(&after)]);
    // A head with fewer parts drops the parts above its count. A later head with more parts does
    // not bring the dropped parts back.
    let fewer = server(&["10.2.0.1", "10.2.0.2"]);
    let received = assembly.receive_all(vec![virtual_server_head(&fewer, 1)]);
    assert_eq!(received, [put(&fewer)]);
    let refused = assembly.receive_all(vec![virtual_server_head(&fewer, 2)]);
    assert_eq!(
        problem(&refused),
        "field `real_server_part[1]`: must be set"
    );
    let removed = DesiredChange::RemoveVirtualServer(after.id);
    let received = assembly.receive_all(events(&removed));
    assert_eq!(received, [DesiredSetEvent::Change(removed)]);
}

#[test]
fn a_change_has_no_effect_before_its_last_message() {
    let server = server(&["10.2.0.1"]);
    let mut assembly = DesiredSetAssembly::default();
    let message = |event, complete| discovery::WatchResponse {
        revision: 1,
        event,
        complete,
    };
    let head = virtual_server_head(&server, 1);
    assert_eq!(assembly.receive(message(Some(head), false)), []);
    let part = real_server_part(&server.id, 0, &server.real_servers);
    assert_eq!(assembly.receive(message(Some(part), false)), []);
    // The last message can have an event of a newer contract, which decodes as no event.
    assert_eq!(assembly.receive(message(None, true)), [put(&server)]);
}

#[test]
fn a_change_without_a_last_message_is_dropped_after_1024_messages() {
    let mut assembly = DesiredSetAssembly::default();
    let mut receive = |event, complete| {
        assembly.receive(discovery::WatchResponse {
            revision: 1,
            event: Some(event),
            complete,
        })
    };
    let synced = Event::Synced(discovery::Synced {});
    let problem = |received: &[DesiredSetEvent]| match received {
        [DesiredSetEvent::Invalid { id: None, error }] => error.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        problem(&receive(synced.clone(), false)),
        "field `complete`: must be set in the message with `synced`"
    );
    let range = "10.1.1.0/24".parse::<ServiceRange>().unwrap();
    for _ in 1..1_024 {
        assert_eq!(receive(Event::ServiceRange(range.into()), false), []);
    }
    let refused = problem(&receive(Event::ServiceRange(range.into()), false));
    assert!(refused.contains("is unset in 1024 messages"), "{refused}");
    assert_eq!(receive(synced, true), [DesiredSetEvent::Synced]);
}

#[test]
fn the_smallest_number_of_seconds_is_refused_as_a_duration() {
    let least = prost_types::Duration {
        seconds: i64::MIN,
        nanos: 0,
    };
    let error = period("interval", Some(least)).unwrap_err();
    assert!(error.to_string().contains("is not a duration"), "{error}");
}

#[test]
fn a_virtual_server_with_an_invalid_part_is_invalid_until_the_part_is_replaced() {
    let good = server(&["10.2.0.1"]);
    let mut assembly = DesiredSetAssembly::default();
    let mut broken = wire::RealServer::from(&good.real_servers[0]);
    broken.state = 0;
    let part = |real_servers| {
        Event::RealServerPart(discovery::RealServerPart {
            virtual_server: Some((&good.id).into()),
            number: 0,
            real_servers,
        })
    };
    let head = virtual_server_head(&good, 1);
    let refused = assembly.receive_all(vec![head.clone(), part(vec![broken])]);
    let invalid = "field `real_server_part[0].real_servers[0].state`: must be set";
    assert_eq!(problem(&refused), invalid);
    assert_eq!(problem(&assembly.receive_all(vec![head])), invalid);
    let good_part = part(vec![(&good.real_servers[0]).into()]);
    assert_eq!(assembly.receive_all(vec![good_part]), [put(&good)]);
}

#[test]
fn a_head_or_part_above_a_limit_is_refused_with_the_limit() {
    let server = server(&["10.2.0.1"]);
    let refuse = |event| problem(&DesiredSetAssembly::default().receive_all(vec![event]));
    assert_eq!(
        refuse(virtual_server_head(&server, 257)),
        "field `virtual_server_head.part_count`: 257 is above 256, the largest number of parts"
    );
    assert_eq!(
        refuse(real_server_part(&server.id, 256, &[])),
        "field `real_server_part.number`: 256 is above 255, the largest part number"
    );
    let many = vec![server.real_servers[0].clone(); 257];
    let events = vec![
        virtual_server_head(&server, 1),
        real_server_part(&server.id, 0, &many),
    ];
    assert_eq!(
        problem(&DesiredSetAssembly::default().receive_all(events)),
        "field `real_server_part[0].real_servers`: 257 real servers are more than 256, the limit of a part"
    );
    let mut head = virtual_server_head(&server, 0);
    if let Event::VirtualServerHead(head) = &mut head {
        head.virtual_server = Some((&server).into());
    }
    assert_eq!(
        refuse(head),
        "field `virtual_server_head.virtual_server.real_servers`: must be empty; send the real servers in parts"
    );
}

#[track_caller]
fn problem(events: &[DesiredSetEvent]) -> String {
    match events {
        [DesiredSetEvent::Invalid { error, .. }] => error.to_string(),
        other => panic!("{other:?}"),
    }
}

fn sample() -> wire::VirtualServer {
    wire::VirtualServer {
        address: "10.1.1.10".into(),
        ports: Some(wire::PortRange {
            first: 80,
            last: 80,
        }),
        protocol: wire::Protocol::Tcp.into(),
        name: "web".into(),
        scheduler: Some(Scheduler::MH_DEFAULT.into()),
        forwarding_method: wire::ForwardingMethod::Tunnel.into(),
        tunnel_kind: wire::TunnelKind::Ipip.into(),
        persistence: None,
        real_servers: vec![wire::RealServer {
            address: "10.0.2.3".into(),
            port: 0,
            weight: 1,
            state: wire::RealServerState::Ready.into(),
            ..wire::RealServer::default()
        }],
        health_check: Some(HealthCheck::default().into()),
        on_failure: wire::FailureAction::Quiesce.into(),
        minimum_healthy: 1,
        drain_timeout: Some(duration(Duration::from_secs(60))),
    }
}

#[track_caller]
fn check(change: impl FnOnce(&mut wire::VirtualServer), expected: &str) {
    let mut message = sample();
    assert!(VirtualServer::try_from(message.clone()).is_ok());
    change(&mut message);
    let error = VirtualServer::try_from(message).unwrap_err();
    assert_eq!(error.to_string(), expected);
}

#[test]
fn the_error_of_an_invalid_virtual_server_names_the_field() {
    check(
        |m| m.address = "web".into(),
        "field `address`: \"web\" is not an IP address",
    );
    check(|m| m.ports = None, "field `ports`: must be set");
    check(
        |m| m.ports = Some(wire::PortRange { first: 9, last: 8 }),
        "field `ports`: 9 to 8 is not a range of ports",
    );
    check(
        |m| {
            m.ports = Some(wire::PortRange {
                first: 0,
                last: 70_000,
            });
        },
        "field `ports.last`: 70000 is above 65535",
    );
    check(
        |m| m.protocol = 9,
        "field `protocol`: 9 is a value that this version of the receiver does not have",
    );
    check(|m| m.protocol = 0, "field `protocol`: must be set");
    check(|m| m.scheduler = None, "field `scheduler`: must be set");
    check(
        |m| {
            m.scheduler = Some(wire::Scheduler {
                kind: wire::SchedulerKind::Rr.into(),
                fallback: false,
                port: true,
            });
        },
        "field `scheduler.port`: is allowed only for sh and mh, not for rr",
    );
    check(|m| m.tunnel_kind = 0, "field `tunnel_kind`: must be set");
    check(
        |m| m.forwarding_method = wire::ForwardingMethod::Masquerade.into(),
        "field `tunnel_kind`: is set although the forwarding method is not a tunnel",
    );
    check(
        |m| m.real_servers[0].weight = 65_536,
        "field `real_servers[0].weight`: 65536 is above 65535",
    );
    check(
        |m| m.real_servers[0].state = 0,
        "field `real_servers[0].state`: must be set",
    );
    check(
        |m| {
            m.real_servers[0].ready_since = Some(prost_types::Timestamp {
                seconds: -1,
                nanos: 0,
            });
        },
        "field `real_servers[0].ready_since`: -1 s and 0 ns is not a time since 1970",
    );
    check(
        |m| {
            m.drain_timeout = Some(prost_types::Duration {
                seconds: -1,
                nanos: 0,
            });
        },
        "field `drain_timeout`: -1 s and 0 ns is not a duration of 0 or more",
    );
    check(
        |m| m.health_check.as_mut().unwrap().kind = None,
        "field `health_check.kind`: must be set",
    );
    check(
        |m| m.minimum_healthy = 0,
        "field `minimumHealthy`: 0 would announce an address that no real server serves; write 1 or more",
    );
}

#[test]
fn an_invalid_service_range_is_refused() {
    let range = |prefix: &str| {
        ServiceRange::try_from(discovery::ServiceRange {
            prefix: prefix.into(),
        })
        .map_err(|error| error.field)
    };
    assert!(range("10.1.1.0/24").is_ok());
    assert_eq!(range("10.1.1.10/24"), Err("prefix".into()));
    assert_eq!(range("10.1.1.10"), Err("prefix".into()));
}
