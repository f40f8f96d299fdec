//! An operator's first look at each daemon, with the real grpcurl and a client of gRPC C-core.

use anyhow::{Context, Result, ensure};
use lab::reference::Options;
use lab::system::{Daemon, System};

/// A daemon, its service, and what an operator may ask of it without an argument.
const DAEMONS: [(Daemon, &str, &[&str]); 5] = [
    (
        Daemon::PodWatcher(0),
        "portlb.discovery.v1.DiscoveryService",
        &["List"],
    ),
    (
        Daemon::IpvsProgrammer(0),
        "portlb.dataplane.v1.DataPlaneService",
        &["ListServiceAddresses", "ListVirtualServers"],
    ),
    (
        Daemon::BgpAnnouncer(0),
        "portlb.announcer.v1.AnnouncerService",
        &["ListAnnouncements", "ListSessions"],
    ),
    (
        Daemon::NodeRouter(0),
        "portlb.noderoute.v1.NodeRouteService",
        &["ListRoutes"],
    ),
    (
        Daemon::RouteReflector(0),
        "portlb.reflector.v1.RouteReflectorService",
        &["ListSessions", "ListPaths", "GetConfiguration"],
    ),
];

fn grpcurl(system: &System, daemon: Daemon, words: &[&str], rest: &[&str]) -> Result<String> {
    let target = system.grpc_target(daemon)?;
    let mut command = vec!["-plaintext"];
    command.extend(words);
    // The form unix:///PATH is the only one that every version of grpcurl takes.
    let target = target.replace("unix:/", "unix:///");
    command.push(target.strip_prefix("http://").unwrap_or(&target));
    command.extend(rest);
    let answer = system.host(daemon)?.output("grpcurl", command);
    answer.with_context(|| format!("{daemon}: {rest:?}"))
}

#[test]
fn grpcurl_lists_describes_and_asks_every_service_of_every_daemon() {
    let system = System::up("input-grpcurl", Options::default()).unwrap();
    for (daemon, own, questions) in lab::sample(DAEMONS, 2) {
        let listed = grpcurl(&system, daemon, &[], &["list"]).unwrap();
        let services: Vec<_> = listed.lines().collect();
        for service in ["grpc.health.v1.Health", own] {
            assert!(services.contains(&service), "{daemon}: {services:?}");
        }
        for service in &services {
            let text = grpcurl(&system, daemon, &[], &["describe", service]).unwrap();
            assert!(text.contains("rpc "), "{daemon} {service}: {text}");
            // The health service of tonic has no comments.
            let is_ours = service.starts_with("portlb.");
            assert!(
                !is_ours || text.contains("// "),
                "{daemon} {service}: {text}"
            );
        }
        let health = grpcurl(&system, daemon, &[], &["grpc.health.v1.Health/Check"]).unwrap();
        assert!(health.contains("SERVING"), "{daemon}: {health}");
        for question in questions {
            let method = format!("{own}/{question}");
            let answer = grpcurl(&system, daemon, &[], &[&method]).unwrap();
            // Something is going on in a system that is up.
            assert!(answer.len() > 10, "{daemon} {method}: {answer}");
        }
    }
}

#[test]
fn grpcurl_sees_what_an_operator_looks_for() -> Result<()> {
    let system = System::up("input-operator", Options::default())?;
    let expected: [(Daemon, &str, &[&str]); 5] = [
        (
            Daemon::IpvsProgrammer(0),
            "portlb.dataplane.v1.DataPlaneService/ListVirtualServers",
            &[
                "\"address\"",
                "SCHEDULER_KIND_MH",
                "\"weight\"",
                "\"programmed\": true",
            ],
        ),
        (
            Daemon::BgpAnnouncer(0),
            "portlb.announcer.v1.AnnouncerService/ListSessions",
            &[
                "SESSION_STATE_ESTABLISHED",
                "holdTimerRemaining",
                "reflector-1",
            ],
        ),
        (
            Daemon::BgpAnnouncer(0),
            "portlb.announcer.v1.AnnouncerService/ListAnnouncements",
            &["ANNOUNCEMENT_STATE_ANNOUNCED", "reflector-2"],
        ),
        (
            Daemon::RouteReflector(0),
            "portlb.reflector.v1.RouteReflectorService/ListPaths",
            &["\"nextHop\"", "\"localPref\": 100", "\"best\": true"],
        ),
        (
            Daemon::RouteReflector(0),
            "portlb.reflector.v1.RouteReflectorService/GetConfiguration",
            &["lb-pods", "routers", "\"clusterId\""],
        ),
    ];
    for (daemon, method, words) in expected {
        let answer = grpcurl(&system, daemon, &[], &[method])?;
        for word in words {
            ensure!(answer.contains(word), "{method} without {word}:\n{answer}");
        }
    }
    let method = "portlb.reflector.v1.RouteReflectorService/ListPaths";
    let first = ["-d", "{\"page_size\": 1}"];
    let page = grpcurl(&system, Daemon::RouteReflector(0), &first, &[method])?;
    ensure!(page.matches("\"prefix\"").count() == 1, "{page}");
    ensure!(page.contains("\"nextPageToken\""), "{page}");
    let wrong = [
        "-d",
        "{\"table\": \"TABLE_ADJ_RIB_OUT\", \"peer\": \"nobody\"}",
    ];
    let error = grpcurl(&system, Daemon::RouteReflector(0), &wrong, &[method]);
    let error = format!("{:#}", error.err().context("nobody has a table")?);
    ensure!(error.contains("nobody"), "{error}");
    Ok(())
}

/// Asks for the health three times over one connection: the first request has its header fields
/// written out, the others refer to the table of HPACK.
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

/// `HealthCheckResponse` with the status SERVING.
const SERVING: &str = "0801";

#[test]
fn a_client_of_grpc_c_core_is_served_on_a_unix_socket() -> Result<()> {
    let system = System::up("input-c-core", Options::default())?;
    let daemon = Daemon::NodeRouter(0);
    let target = system.grpc_target(daemon)?;
    let path = target.strip_prefix("unix:").context("a unix socket")?;
    // What C-core sends since 1.57 if no authority is set; older versions send `localhost`.
    let encoded = path.replace('/', "%2F");
    for authority in ["", &encoded, encoded.trim_start_matches("%2F")] {
        let arguments = ["-c", HEALTH_BY_C_CORE, path, authority];
        let answers = system.host(daemon)?.output("/usr/bin/python3", arguments)?;
        let answers: Vec<_> = answers.lines().collect();
        ensure!(answers == [SERVING; 3], "{authority:?}: {answers:?}");
    }
    Ok(())
}
