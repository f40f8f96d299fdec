//! Tests of sessions that end or are refused.

use std::time::Duration;

use daemon_api::reflector::v1::ListSessionsRequest;

use crate::harness::{RunningReflector, TestPeer, soon, usual_file};

#[tokio::test]
async fn a_shutdown_sends_the_shutdown_text_to_an_established_peer() {
    let reflector = RunningReflector::start(&usual_file()).await;
    let mut client = TestPeer::connecting([127, 0, 1, 1], reflector.bgp).await;
    client.established().await;
    reflector.shutdown.request();
    client.until_error("stopped by a test").await;
    soon("the end of the daemon", reflector.daemon)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_shutdown_without_a_session_ends_the_daemon_immediately() {
    let reflector = RunningReflector::start(&usual_file()).await;
    let began = std::time::Instant::now();
    reflector.shutdown.request();
    let ended = soon("the end of the daemon", reflector.daemon).await;
    ended.unwrap().unwrap();
    let passed = began.elapsed();
    assert!(passed < Duration::from_secs(2), "{passed:?}");
}

#[tokio::test]
async fn a_client_that_offers_no_hold_time_is_refused_counted_and_listed() {
    let mut reflector = RunningReflector::start(&usual_file()).await;
    let mut client = TestPeer::connecting_without_hold_time([127, 0, 1, 9], reflector.bgp).await;
    client.until_error("Unacceptable Hold Time").await;
    let sessions = reflector
        .client
        .list_sessions(ListSessionsRequest::default());
    let refused = sessions.await.unwrap().into_inner().refused_sessions;
    let [refused] = refused.as_slice() else {
        panic!("{refused:?}");
    };
    assert_eq!(
        (refused.address.as_str(), refused.group.as_str()),
        ("127.0.1.9", "clients")
    );
    assert_eq!(refused.reason, "unacceptable_hold_time");
    assert_eq!(
        refused.error,
        "peer offers no hold time, at least 3 s are required"
    );
    assert!(refused.count >= 1);
    let metric = "portlb_bgp_sessions_refused_total{reason=\"unacceptable_hold_time\"} ";
    let metrics = reflector.http_get("/metrics").await;
    assert!(metrics.contains(metric), "{metrics}");
    assert!(!metrics.contains(&format!("{metric}0\n")), "{metrics}");
}
