use std::num::NonZeroU16;

use super::*;
use crate::{
    FailureAction, HealthCheck, IpNet, RealServerHistory, RealServerState, TunnelKind,
    VirtualServerId, Weight,
};

fn port(port: u16) -> NonZeroU16 {
    NonZeroU16::new(port).unwrap()
}

fn real_server(address: &str) -> RealServer {
    RealServer {
        address: address.parse().unwrap(),
        port: None,
        weight: Weight::default(),
        state: RealServerState::default(),
        history: RealServerHistory::default(),
    }
}

fn valid(id: &str) -> VirtualServer {
    let id: VirtualServerId = id.parse().unwrap();
    let real_servers = if id.address.is_ipv4() {
        vec![real_server("10.0.2.3"), real_server("10.0.2.4")]
    } else {
        vec![real_server("fd00:2::3")]
    };
    let tcp = id.protocol == Protocol::Tcp && matches!(id.ports, Ports::Single(_));
    VirtualServer {
        id,
        name: "web".into(),
        scheduler: Scheduler::default(),
        forwarding_method: ForwardingMethod::default(),
        persistence: None,
        real_servers,
        health_check: tcp.then(HealthCheck::default),
        on_failure: FailureAction::default(),
        minimum_healthy: VirtualServer::DEFAULT_MINIMUM_HEALTHY,
        drain_timeout: VirtualServer::DEFAULT_DRAIN_TIMEOUT,
    }
}

/// Changes a valid virtual server and compares the error with `expected`. An empty `expected` means
/// that the changed virtual server is valid.
#[track_caller]
fn check(id: &str, change: impl FnOnce(&mut VirtualServer), expected: &str) {
    let mut virtual_server = valid(id);
    assert_eq!(virtual_server.validate(), Ok(()));
    change(&mut virtual_server);
    let message = virtual_server
        .validate()
        .err()
        .map_or_else(String::new, |invalid| invalid.to_string());
    assert_eq!(message, expected);
}

fn with_real_servers(server: &mut VirtualServer, count: usize) {
    let address = |index: usize| {
        let bits = u32::from_be_bytes([10, 64, 0, 0]) + u32::try_from(index).unwrap();
        IpAddr::V4(bits.into())
    };
    server.real_servers = (0..count)
        .map(|index| RealServer {
            address: address(index),
            ..real_server("10.0.2.3")
        })
        .collect();
}

#[test]
fn the_scheduler_limits_the_number_of_real_servers() {
    let id = "tcp/10.1.1.10:80";
    check(id, |server| with_real_servers(server, 4_093), "");
    check(
        id,
        |server| with_real_servers(server, 4_094),
        "realServers: 4094 are more than mh can have; list at most 4093, or use another \
         scheduler and list at most 65535",
    );
    let with_rr = |server: &mut VirtualServer, count| {
        server.scheduler = Scheduler::Rr;
        with_real_servers(server, count);
    };
    check(id, |server| with_rr(server, 65_535), "");
    check(
        id,
        |server| with_rr(server, 65_536),
        "realServers: 65536 are more than rr can have; list at most 65535",
    );
}

#[test]
fn defaults_are_valid_for_all_protocols_address_families_and_ports() {
    for id in [
        "tcp/10.1.1.10:80",
        "tcp/[fd00::1]:80",
        "udp/10.1.1.10:53",
        "sctp/10.1.1.10:3868",
        "tcp/10.1.1.10:8000-8999",
        "udp/[fd00::1]:*",
    ] {
        assert_eq!(valid(id).validate(), Ok(()), "{id}");
    }
}

#[test]
fn unreachable_addresses_are_rejected() {
    for (address, problem) in [
        ("0.0.0.0", "unspecified"),
        ("::", "unspecified"),
        ("127.0.0.1", "loopback"),
        ("::1", "loopback"),
        ("224.0.0.5", "multicast"),
        ("ff02::1", "multicast"),
        ("255.255.255.255", "broadcast"),
        ("0.1.2.3", "0.0.0.0/8"),
        ("240.0.0.1", "240.0.0.0/4"),
        ("169.254.1.1", "link-local"),
        ("fe80::1", "link-local"),
        ("::ffff:10.1.1.10", "IPv4-mapped"),
    ] {
        let mut virtual_server = valid("tcp/10.1.1.10:80");
        virtual_server.id.address = address.parse().unwrap();
        let as_service = virtual_server.validate().unwrap_err();
        let [invalid] = as_service.listed() else {
            panic!("{as_service}")
        };
        assert_eq!(invalid.field, Field::Address.into());
        assert!(invalid.reason.problem.contains(problem), "{as_service}");

        let mut virtual_server = valid("tcp/10.1.1.10:80");
        virtual_server.real_servers[0].address = address.parse().unwrap();
        let as_real_server = virtual_server.validate().unwrap_err();
        let refused = &as_real_server.listed()[0].reason;
        assert!(refused.problem.contains(problem), "{as_real_server}");
    }
}

#[test]
fn a_real_server_at_the_service_address_is_rejected() {
    check(
        "tcp/10.1.1.10:80",
        |vs| vs.real_servers[0] = real_server("10.1.1.10"),
        "realServers[10.1.1.10].address: 10.1.1.10 is the service address itself, so packets \
         would loop; write the real server's own address",
    );
}

#[test]
fn a_real_server_port_that_differs_from_the_port_of_the_virtual_server_requires_masquerade() {
    for method in [
        ForwardingMethod::DirectRouting,
        ForwardingMethod::Tunnel(TunnelKind::Ipip),
    ] {
        check(
            "tcp/10.1.1.10:80",
            |vs| {
                vs.forwarding_method = method;
                vs.real_servers[0].port = Some(port(8080));
            },
            &format!(
                "realServers[10.0.2.3:8080].port: 8080 differs from the virtual server's port \
                 80, which {method} cannot change; leave the port out, or use forwarding method \
                 Masquerade"
            ),
        );
        check(
            "tcp/10.1.1.10:80",
            |vs| {
                vs.forwarding_method = method;
                vs.real_servers[0].port = Some(port(80));
            },
            "",
        );
    }
    check(
        "tcp/10.1.1.10:80",
        |vs| {
            vs.forwarding_method = ForwardingMethod::Masquerade;
            vs.real_servers[0].port = Some(port(8080));
        },
        "",
    );
}

#[test]
fn a_real_server_port_is_rejected_for_a_virtual_server_with_several_ports() {
    check(
        "tcp/10.1.1.10:*",
        |vs| {
            vs.forwarding_method = ForwardingMethod::Masquerade;
            vs.real_servers[0].port = Some(port(80));
        },
        "realServers[10.0.2.3:80].port: 80 would send all of the ports * to one port; \
         leave the port out, so that each connection keeps its port",
    );
}

#[test]
fn a_real_server_of_the_other_address_family_requires_a_tunnel() {
    let other = |vs: &mut VirtualServer| vs.real_servers.push(real_server("fd00:2::9"));
    check("tcp/10.1.1.10:80", other, "");
    for method in [
        ForwardingMethod::Masquerade,
        ForwardingMethod::DirectRouting,
    ] {
        check(
            "tcp/10.1.1.10:80",
            |vs| {
                vs.forwarding_method = method;
                other(vs);
            },
            &format!(
                "realServers[fd00:2::9].address: fd00:2::9 is not of the family of the service \
                 address 10.1.1.10, and {method} cannot reach another family; use forwarding \
                 method Tunnel or an address of the same family"
            ),
        );
    }
}

#[test]
fn a_real_server_that_is_listed_with_and_without_its_port_is_a_duplicate() {
    check(
        "tcp/10.1.1.10:80",
        |vs| {
            let mut again = real_server("10.0.2.3");
            again.port = Some(port(80));
            vs.real_servers.push(again);
        },
        "realServers[10.0.2.3:80]: 10.0.2.3:80 is listed more than once; list each real server \
         once, and set its share with its weight",
    );
    check(
        "tcp/10.1.1.10:80",
        |vs| {
            vs.forwarding_method = ForwardingMethod::Masquerade;
            let mut second_port = real_server("10.0.2.3");
            second_port.port = Some(port(8080));
            vs.real_servers.push(second_port);
        },
        "",
    );
}

#[test]
fn mh_with_port_but_without_fallback_is_rejected() {
    check(
        "tcp/10.1.1.10:80",
        |vs| {
            vs.scheduler = Scheduler::Mh(SchedulerFlags {
                fallback: false,
                port: true,
            });
        },
        "schedulerFlags: port without fallback makes mh drop every new flow that hashes to a \
         quiesced real server; use fallback and port (the default), or no flag",
    );
}

#[test]
fn persistence_outside_of_the_limits_of_the_kernel_is_rejected() {
    let with = |seconds: f64, client_prefix_length| {
        move |vs: &mut VirtualServer| {
            vs.persistence = Some(Persistence {
                timeout: Duration::from_secs_f64(seconds),
                client_prefix_length,
            });
        }
    };
    check("tcp/10.1.1.10:80", with(300.0, 32), "");
    check("tcp/[fd00::1]:80", with(2_678_400.0, 64), "");
    for seconds in [0.0, 1.5, 2_678_401.0] {
        check(
            "tcp/10.1.1.10:80",
            with(seconds, 32),
            &format!(
                "persistence.timeout: {:?} is not a time that the kernel can keep; write whole \
                 seconds from 1s to 31d",
                Duration::from_secs_f64(seconds)
            ),
        );
    }
    for length in [0, 33] {
        check(
            "tcp/10.1.1.10:80",
            with(300.0, length),
            &format!(
                "persistence.clientPrefixLength: {length} is not a prefix length for 10.1.1.10; \
                 write 1 to 32; with 32 each address counts as one client"
            ),
        );
    }
}

#[test]
fn health_check_settings_outside_of_their_limits_are_rejected() {
    let with = |change: fn(&mut HealthCheck)| {
        move |vs: &mut VirtualServer| change(vs.health_check.as_mut().unwrap())
    };
    let id = "tcp/10.1.1.10:80";
    check(id, with(|h| h.timeout = h.interval), "");
    check(
        id,
        with(|h| h.timeout = h.interval + Duration::from_millis(1)),
        "healthCheck.timeout: 2.001s is out of range; write 1ms up to the interval",
    );
    check(
        id,
        with(|h| h.interval = Duration::from_millis(9)),
        "healthCheck.interval: 9ms is out of range; write 10ms to 1h",
    );
    check(
        id,
        with(|h| h.interval = Duration::from_micros(10_500)),
        "healthCheck.interval: 10.5ms is not a whole number of milliseconds; write 10ms to 1h",
    );
    check(
        id,
        with(|h| h.rise = 0),
        "healthCheck.rise: 0 is out of range; write 1 to 100",
    );
    check(
        id,
        with(|h| h.fall = 101),
        "healthCheck.fall: 101 is out of range; write 1 to 100",
    );
    check(
        id,
        with(|h| h.initial_jitter = Duration::from_secs(3601)),
        "healthCheck.initialJitter: 3601s is out of range; write 0ms to 1h",
    );
}

#[test]
fn a_tcp_health_check_requires_a_port_unless_the_virtual_server_has_one_tcp_port() {
    for id in ["udp/10.1.1.10:53", "sctp/10.1.1.10:3868", "tcp/10.1.1.10:*"] {
        let mut virtual_server = valid(id);
        virtual_server.health_check = Some(HealthCheck::default());
        assert_eq!(
            virtual_server.validate().unwrap_err().listed()[0].field,
            HealthCheckField::Port.into(),
            "{id}"
        );
        virtual_server.health_check = Some(HealthCheck {
            kind: HealthCheckKind::TcpConnect {
                port: Some(port(8080)),
            },
            ..HealthCheck::default()
        });
        assert_eq!(virtual_server.validate(), Ok(()));
        let checked = virtual_server.health_check_port(&virtual_server.real_servers[0]);
        assert_eq!(checked, Some(port(8080)));
    }
}

#[test]
fn a_health_check_without_a_port_connects_to_the_port_of_the_real_server() {
    let mut virtual_server = valid("tcp/10.1.1.10:80");
    let real_server = virtual_server.real_servers[0].clone();
    assert_eq!(
        virtual_server.health_check_port(&real_server),
        Some(port(80))
    );
    virtual_server.forwarding_method = ForwardingMethod::Masquerade;
    let moved = RealServer {
        port: Some(port(8080)),
        ..real_server
    };
    assert_eq!(virtual_server.health_check_port(&moved), Some(port(8080)));
    virtual_server.health_check = None;
    assert_eq!(virtual_server.health_check_port(&moved), None);
}

#[test]
fn an_invalid_name_or_minimum_healthy_or_drain_timeout_is_rejected() {
    let id = "tcp/10.1.1.10:80";
    let suggestion = "write a name of 1 to 253 printable characters";
    check(
        id,
        |vs| vs.name.clear(),
        &format!("name: \"\" is empty; {suggestion}"),
    );
    check(
        id,
        |vs| vs.name = "a\nb".into(),
        &format!("name: \"a\\nb\" contains a control character; {suggestion}"),
    );
    check(id, |vs| vs.name = "x".repeat(253), "");
    check(
        id,
        |vs| vs.minimum_healthy = 0,
        "minimumHealthy: 0 would announce an address that no real server serves; write 1 or more",
    );
    check(
        id,
        |vs| vs.drain_timeout = Duration::from_secs(86_401),
        "drainTimeout: 86401s is out of range; write 0s (connections end immediately) to 24h",
    );
    check(id, |vs| vs.drain_timeout = Duration::ZERO, "");
}

#[test]
fn service_ranges_with_host_bits_or_too_many_addresses_are_rejected() {
    let check = |prefix: &str, expected: &str| {
        let range = ServiceRange {
            prefix: prefix.parse::<IpNet>().unwrap(),
        };
        let message = range
            .validate()
            .err()
            .map_or_else(String::new, |invalid| invalid.to_string());
        assert_eq!(message, expected);
    };
    check("10.1.1.0/24", "");
    check("10.1.1.10/32", "");
    check("fd00:1::/64", "");
    check(
        "10.1.1.10/24",
        "10.1.1.10/24 has bits set to the right of its length; write 10.1.1.0/24",
    );
    check(
        "0.0.0.0/0",
        "0.0.0.0/0 contains too many addresses to be announced; write a \
         length from 8 to 32",
    );
    check(
        "224.0.0.0/24",
        "224.0.0.0/24 is a multicast address; write a unicast address that is routed, \
         such as 10.1.1.10 or fd00::10",
    );
}
