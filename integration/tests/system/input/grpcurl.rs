//! Tests of queries with grpcurl and with a client of gRPC C-core.

use anyhow::{Context, Result, ensure};
use lab::reference::ReferenceOptions;
use lab::system::{DaemonInstance, System};

/// Each daemon with its gRPC service, and the methods of the service that need no argument.
const DAEMONS: [(DaemonInstance, &str, &[&str]); 5] = [
    (
        DaemonInstance::PodWatcher(0),
        "portlb.discovery.v1.DiscoveryService",
        &["List"],
    ),
    (
        DaemonInstance::IpvsProgrammer(0),
        "portlb.dataplane.v1.DataPlaneService",
        &["ListServiceAddresses", "ListVirtualServers"],
    ),
    (
        DaemonInstance::BgpAnnouncer(0),
        "portlb.announcer.v1.AnnouncerService",
        &["ListAnnouncements", "ListSessions"],
    ),
    (
        DaemonInstance::NodeRouter(0),
        "portlb.noderoute.v1.NodeRouteService",
        &["ListRoutes"],
    ),
    (
        DaemonInstance::RouteReflector(0),
        "portlb.reflector.v1.RouteReflectorService",
        &["ListSessions", "ListPaths", "GetConfiguration"],
    ),
];

fn grpcurl(
    system: &System,
    daemon: DaemonInstance,
    words: &[&str],
    rest: &[&str],
) -> Result<String> {
    let target = system.grpc_target(daemon)?;
    let mut command = vec!["-plaintext"];
    command.extend(words);
    // Every version of grpcurl accepts the form unix:///PATH, and only some accept other forms.
    let target = target.replace("unix:/", "unix:///");
    command.push(target.strip_prefix("http://").unwrap_or(&target));
    command.extend(rest);
    let answer = system.host(daemon)?.output("grpcurl", command);
    answer.with_context(|| format!("{daemon}: {rest:?}"))
}

#[test]
fn grpcurl_lists_describes_and_calls_every_service_of_every_daemon() {
    let system = System::up("input-grpcurl", ReferenceOptions::default()).unwrap();
    for (daemon, own, methods) in lab::sample(DAEMONS, 2) {
        let listed = grpcurl(&system, daemon, &[], &["list"]).unwrap();
        let services: Vec<_> = listed.lines().collect();
        for service in ["grpc.health.v1.Health", own] {
            assert!(services.contains(&service), "{daemon}: {services:?}");
        }
        for service in &services {
            let text = grpcurl(&system, daemon, &[], &["describe", service]).unwrap();
            assert!(text.contains("rpc "), "{daemon} {service}: {text}");
            // Only services of portlb must have comments; tonic's health service has none.
            let is_of_portlb = service.starts_with("portlb.");
            assert!(
                !is_of_portlb || text.contains("// "),
                "{daemon} {service}: {text}"
            );
        }
        let health = grpcurl(&system, daemon, &[], &["grpc.health.v1.Health/Check"]).unwrap();
        assert!(health.contains("SERVING"), "{daemon}: {health}");
        for method in methods {
            let method = format!("{own}/{method}");
            let answer = grpcurl(&system, daemon, &[], &[&method]).unwrap();
            // In a running system every list has at least one item.
            assert!(answer.len() > 10, "{daemon} {method}: {answer}");
        }
    }
}

#[test]
fn grpcurl_shows_state_sessions_paths_and_errors() -> Result<()> {
    let system = System::up("input-operator", ReferenceOptions::default())?;
    let expected: [(DaemonInstance, &str, &[&str]); 5] = [
        (
            DaemonInstance::IpvsProgrammer(0),
            "portlb.dataplane.v1.DataPlaneService/ListVirtualServers",
            &[
                "\"address\"",
                "SCHEDULER_KIND_MH",
                "\"weight\"",
                "\"programmed\": true",
            ],
        ),
        (
            DaemonInstance::BgpAnnouncer(0),
            "portlb.announcer.v1.AnnouncerService/ListSessions",
            &[
                "SESSION_STATE_ESTABLISHED",
                "holdTimerRemaining",
                "reflector-1",
            ],
        ),
        (
            DaemonInstance::BgpAnnouncer(0),
            "portlb.announcer.v1.AnnouncerService/ListAnnouncements",
            &["ANNOUNCEMENT_STATE_ANNOUNCED", "reflector-2"],
        ),
        (
            DaemonInstance::RouteReflector(0),
            "portlb.reflector.v1.RouteReflectorService/ListPaths",
            &["\"nextHop\"", "\"localPref\": 100", "\"best\": true"],
        ),
        (
            DaemonInstance::RouteReflector(0),
            "portlb.reflector.v1.RouteReflectorService/GetConfiguration",
            &["lb-pods", "routers", "\"clusterId\""],
        ),
    ];
    for (daemon, method, words) in expected {
        let answer = grpcurl(&system, daemon, &[], &[method])?;
        for word in words {
            ensure!(
                answer.contains(word),
                "no {word} in the answer of {method}:\n{answer}"
            );
        }
    }
    let method = "portlb.reflector.v1.RouteReflectorService/ListPaths";
    let first = ["-d", "{\"page_size\": 1}"];
    let page = grpcurl(
        &system,
        DaemonInstance::RouteReflector(0),
        &first,
        &[method],
    )?;
    ensure!(page.matches("\"prefix\"").count() == 1, "{page}");
    ensure!(page.contains("\"nextPageToken\""), "{page}");
    let wrong = [
        "-d",
        "{\"table\": \"TABLE_ADJ_RIB_OUT\", \"peer\": \"unknown-peer\"}",
    ];
    let error = grpcurl(
        &system,
        DaemonInstance::RouteReflector(0),
        &wrong,
        &[method],
    );
    let error = error.err().context("an unknown peer has a table")?;
    let error = format!("{error:#}");
    ensure!(error.contains("unknown-peer"), "{error}");
    Ok(())
}

/// A Python program that checks the health three times over one connection.
///
/// The first request has literal header fields, the other two refer to the dynamic table of HPACK.
const HEALTH_BY_C_CORE: &str = "
import sys, grpc
path, authority = sys.argv[1:]
options = [('grpc.default_authority', authority)] if authority else []
with grpc.insecure_channel('unix://' + path, options=options) as channel:
    check = channel.unary_unary(
        '/grpc.health.v1.Health/Check',
        request_serializer=lambda octets: octets,
        response_deserializer=lambda octets: octets)
    for _ in range(3):
        print(check(b'', timeout=10).hex())
";

/// An encoded `HealthCheckResponse` with the status `SERVING`.
const SERVING: &str = "0801";

#[test]
fn a_client_of_grpc_c_core_is_served_on_a_unix_socket() -> Result<()> {
    let system = System::up("input-c-core", ReferenceOptions::default())?;
    let daemon = DaemonInstance::NodeRouter(0);
    let target = system.grpc_target(daemon)?;
    let path = target
        .strip_prefix("unix:")
        .context("the target is not a unix socket")?;
    // Without an authority C-core 1.57 and later send the encoded path; older versions send
    // `localhost`.
    let encoded = path.replace('/', "%2F");
    for authority in ["", &encoded, encoded.trim_start_matches("%2F")] {
        let arguments = ["-c", HEALTH_BY_C_CORE, path, authority];
        let answers = system.host(daemon)?.output("/usr/bin/python3", arguments)?;
        let answers: Vec<_> = answers.lines().collect();
        ensure!(answers == [SERVING; 3], "{authority:?}: {answers:?}");
    }
    Ok(())
}
