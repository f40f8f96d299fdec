//! Tests of the readiness step `sessions`.

use std::time::Duration;

use crate::harness::{RunningReflector, TestPeer, soon, usual_file};

async fn until_sessions(reflector: &RunningReflector, expected: &str) {
    let wait = async {
        while !reflector.readiness.report().contains(expected) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(expected, wait).await;
    let is_ready = expected.starts_with("ready");
    assert_eq!(reflector.readiness.is_ready(), is_ready, "{expected}");
}

/// Two routers that connect to the reflector.
const TWO_ROUTERS: &str = "\
peers:
- {name: router-1, address: 127.0.3.1, group: routers, connection: passive}
- {name: router-2, address: 127.0.3.2, group: routers, connection: passive}
";

#[tokio::test]
async fn a_reflector_is_not_ready_until_each_router_has_had_a_session() {
    let reflector = RunningReflector::start(&(usual_file() + TWO_ROUTERS)).await;
    let mut client = TestPeer::connecting([127, 0, 1, 1], reflector.bgp).await;
    client.established().await;
    let none = "missing sessions: 1 of 3 established; no session with router-1, router-2";
    until_sessions(&reflector, none).await;
    let answer = reflector.http_get("/readyz").await;
    assert!(
        answer.contains(" 503 ") && answer.contains(none),
        "{answer}"
    );

    let first = TestPeer::connecting([127, 0, 3, 1], reflector.bgp).await;
    let one = "missing sessions: 2 of 3 established; no session with router-2";
    until_sessions(&reflector, one).await;
    let second = TestPeer::connecting([127, 0, 3, 2], reflector.bgp).await;
    until_sessions(&reflector, "ready sessions: 3 of 3 established\n").await;

    second.kill();
    let one = "ready sessions: 2 of 3 established; no session with router-2";
    until_sessions(&reflector, one).await;
    first.kill();
    until_sessions(&reflector, none).await;
}

#[tokio::test]
async fn a_missing_router_does_not_prevent_readiness_after_the_router_timeout() {
    let text = usual_file() + TWO_ROUTERS;
    let reflector = RunningReflector::start_with(&text, Duration::from_millis(300)).await;
    let _router = TestPeer::connecting([127, 0, 3, 1], reflector.bgp).await;
    let one = "ready sessions: 1 of 2 established; no session with router-2";
    until_sessions(&reflector, one).await;
}

#[tokio::test]
async fn a_router_that_is_removed_from_the_file_does_not_prevent_readiness() {
    let reflector = RunningReflector::start(&(usual_file() + TWO_ROUTERS)).await;
    let _router = TestPeer::connecting([127, 0, 3, 1], reflector.bgp).await;
    let both = "missing sessions: 1 of 2 established; no session with router-2";
    until_sessions(&reflector, both).await;
    let one = TWO_ROUTERS.lines().take(2).collect::<Vec<_>>().join("\n");
    reflector.replace_file(&(usual_file() + &one));
    until_sessions(&reflector, "ready sessions: 1 of 1 established\n").await;
}

#[tokio::test]
async fn a_peer_without_export_prefixes_does_not_prevent_readiness() {
    let client =
        "peers:\n- {name: client-1, address: 127.0.5.1, group: clients, connection: passive}\n";
    let reflector = RunningReflector::start(&(usual_file() + client)).await;
    until_sessions(&reflector, "ready sessions: 0 of 1 established\n").await;
}
