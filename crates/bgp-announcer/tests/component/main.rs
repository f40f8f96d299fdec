//! Component tests of bgp-announcer. The daemon runs in the test process. It has real gRPC and BGP
//! connections to a fake data plane, a fake node-router and a BGP speaker in the role of a
//! reflector.
#![cfg(test)]

mod data_plane;
mod environment;
mod node_router;
mod pages;
mod sessions;

use std::time::{Duration, Instant};

use bgp_announcer::{
    announcements::AnnouncementInput, grpc::node_route::NodeRoutes, hold_token::HoldToken,
};
use bgp_packet::{AsPath, AsPathSegment, Asn, Community};
use bgp_speaker::PathStatus;
use daemon_api::announcer::v1::{
    AnnouncementState, DrainRequest, ListSessionsRequest, UndrainRequest,
    WatchAnnouncementsRequest, watch_announcements_response::Event,
};

use crate::environment::{DEADLINE, Environment};

const SERVICE: &str = "10.1.1.10/32";

#[tokio::test]
async fn a_hold_sends_the_nonce_that_arrives_at_its_gateway_back_on_its_stream() {
    let node_router = node_router::FakeNodeRouter::start_new().await;
    node_router.ask_for_proof();
    let target = format!("http://{}", node_router.port.address);
    let target: daemon_runtime::GrpcTarget = target.parse().unwrap();
    let mut routes = NodeRoutes::new(Some(&target), Duration::from_secs(1), None);
    let prefix = "10.1.1.10/32".parse().unwrap();
    routes.hold(prefix, [127, 0, 0, 1].into());
    let held = tokio::time::timeout(DEADLINE, routes.next()).await;
    assert!(matches!(held, Ok(AnnouncementInput::NodeRouteHeld(held)) if held == prefix));
}

#[tokio::test]
async fn each_hold_attempt_sends_the_current_token_of_the_file() {
    let node_router = node_router::FakeNodeRouter::start_new().await;
    node_router.refuse("the token has expired");
    let target = format!("http://{}", node_router.port.address);
    let target: daemon_runtime::GrpcTarget = target.parse().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "first.of.pod\n").unwrap();
    let token = Some(HoldToken::new(&file));
    let mut routes = NodeRoutes::new(Some(&target), Duration::from_millis(20), token);
    routes.hold("10.1.1.10/32".parse().unwrap(), [127, 0, 0, 1].into());
    node_router
        .wait_for_token(Some("Bearer first.of.pod"))
        .await;
    // Like the kubelet, the test replaces the token file with a rename.
    let next = folder.path().join("next");
    std::fs::write(&next, "second.of.pod").unwrap();
    std::fs::rename(&next, &file).unwrap();
    node_router
        .wait_for_token(Some("Bearer second.of.pod"))
        .await;
    // node-router decides whether a hold without a token is enough.
    std::fs::remove_file(&file).unwrap();
    node_router.wait_for_token(None).await;
    node_router.install();
    loop {
        let input = tokio::time::timeout(DEADLINE, routes.next()).await.unwrap();
        if matches!(input, AnnouncementInput::NodeRouteHeld(_)) {
            break;
        }
    }
}

#[tokio::test]
async fn an_address_without_a_node_route_is_not_announced() {
    let mut environment = Environment::start(&["--node-route-timeout=1h"]).await;
    environment.node_router.withhold();
    environment.data_plane.serve(SERVICE);
    environment
        .wait_for_state(SERVICE, AnnouncementState::WaitingForNodeRoute)
        .await;
    assert_eq!(environment.paths().await, []);
    environment.node_router.install();
    environment.wait_for_paths(|paths| paths.len() == 1).await;
    let announcement = environment
        .wait_for_state(SERVICE, AnnouncementState::Announced)
        .await;
    assert_eq!(announcement.next_hop, "192.0.2.11");
    let [path] = &environment.paths().await[..] else {
        panic!("expected one path");
    };
    assert_eq!(path.attributes.next_hop.to_string(), "192.0.2.11");
    assert_eq!(path.attributes.local_pref, Some(100));
    assert_eq!(path.attributes.communities, []);
    assert_eq!(
        environment.node_router.holds(),
        [(SERVICE.into(), "10.244.1.7".into())]
    );
    environment.node_router.withhold();
    environment.wait_for_paths(<[_]>::is_empty).await;
}

#[tokio::test]
async fn announced_paths_have_the_attributes_of_the_flags() {
    let mut environment = Environment::start(&[
        "--local-pref=200",
        "--med=7",
        "--communities=64512:100,NO_EXPORT",
    ])
    .await;
    environment.data_plane.serve(SERVICE);
    environment.wait_for_paths(|paths| paths.len() == 1).await;
    let attributes = environment.paths().await[0].attributes.clone();
    assert_eq!(attributes.local_pref, Some(200));
    assert_eq!(attributes.multi_exit_disc, Some(7));
    let communities = [Community(64512 << 16 | 100), Community::NO_EXPORT];
    assert_eq!(attributes.communities, communities);
}

#[tokio::test]
async fn next_hop_self_is_replaced_with_the_local_address_of_each_session() {
    let mut environment = Environment::start(&["--next-hop=self"]).await;
    environment.data_plane.serve(SERVICE);
    let announcement = environment
        .wait_for_state(SERVICE, AnnouncementState::Announced)
        .await;
    assert_eq!(announcement.next_hop, "self");
    // The local address of the session is a loopback address, and a reflector rejects a path with a
    // loopback address as next hop.
    environment.wait_for_rejected_path().await;
    assert_eq!(environment.paths().await, []);
}

#[tokio::test]
async fn an_address_that_is_no_longer_served_is_withdrawn_with_the_reason_of_the_data_plane() {
    let mut environment = Environment::start(&["--linger=100ms"]).await;
    environment.data_plane.serve(SERVICE);
    environment.data_plane.serve("10.1.1.11/32");
    environment.wait_for_paths(|paths| paths.len() == 2).await;
    environment
        .data_plane
        .stop_serving(SERVICE, "0 of 2 real servers are healthy");
    environment.wait_for_paths(|paths| paths.len() == 1).await;
    let announcement = environment
        .wait_for_state(SERVICE, AnnouncementState::NotServing)
        .await;
    assert_eq!(announcement.detail, "0 of 2 real servers are healthy");
    environment.node_router.wait_for_holds(1).await;
    environment.data_plane.remove("10.1.1.11/32");
    environment.wait_for_paths(<[_]>::is_empty).await;
    environment.node_router.wait_for_holds(0).await;
}

#[tokio::test]
async fn an_ipv6_address_is_announced_with_the_ipv6_next_hop() {
    let mut environment = Environment::start(&[
        "--allowed-prefixes=10.1.1.0/24,fd01::/64",
        "--next-hop=192.0.2.11,2001:db8::11",
        "--gateway=10.244.1.7,fd00::7",
    ])
    .await;
    environment.data_plane.serve("fd01::10/128");
    environment.wait_for_paths(|paths| paths.len() == 1).await;
    let path = &environment.paths().await[0];
    assert_eq!(path.attributes.next_hop.to_string(), "2001:db8::11");
    assert_eq!(
        environment.node_router.holds(),
        [("fd01::10/128".into(), "fd00::7".into())]
    );
}

#[tokio::test]
async fn without_a_node_router_an_address_is_announced_without_a_hold() {
    let mut environment = Environment::start(&["--node-router=none"]).await;
    environment.data_plane.serve(SERVICE);
    environment.wait_for_paths(|paths| paths.len() == 1).await;
    assert_eq!(environment.node_router.holds(), []);
}

#[tokio::test]
async fn a_data_plane_that_returns_within_its_grace_period_causes_no_update_message() {
    let mut environment = Environment::start(&["--data-plane-timeout=5s"]).await;
    environment.data_plane.serve(SERVICE);
    environment.wait_for_paths(|paths| paths.len() == 1).await;
    let updates = environment.updates_sent().await;
    let watches = environment.data_plane.watches();
    environment.data_plane.kill();
    environment.wait_for_readyz("missing data-plane").await;
    environment.data_plane.start().await;
    environment.data_plane.wait_for_watches(watches + 1).await;
    environment.wait_for_readyz("ready data-plane").await;
    // The change of a second address has arrived, so an earlier UPDATE would have arrived, too.
    environment.data_plane.serve("10.1.1.11/32");
    environment.wait_for_paths(|paths| paths.len() == 2).await;
    assert_eq!(environment.updates_sent().await, updates + 1);
}

#[tokio::test]
async fn an_aborted_watch_of_the_data_plane_is_opened_again_and_replaces_all_addresses() {
    let mut environment = Environment::start(&["--data-plane-timeout=60s"]).await;
    environment.data_plane.serve("10.1.1.20/32");
    environment.wait_for_paths(|paths| paths.len() == 1).await;
    // While muted, the first watch reports neither this removal nor the new address to the
    // announcer.
    environment.data_plane.mute(true);
    environment.data_plane.remove("10.1.1.20/32");
    environment.data_plane.serve(SERVICE);
    environment.data_plane.abort_watches();
    environment.data_plane.wait_for_watches(2).await;
    environment.data_plane.mute(false);
    environment
        .wait_for_paths(|paths| matches!(paths, [path] if path.prefix.to_string() == SERVICE))
        .await;
}

/// Reports whether exactly one path exists, with the attributes of a least preferred path on an
/// internal session.
fn is_least_preferred(paths: &[PathStatus]) -> bool {
    matches!(paths, [path] if path.attributes.local_pref == Some(0)
        && path.attributes.communities == [Community::GRACEFUL_SHUTDOWN])
}

/// Reports whether exactly one path exists and has the default attributes.
fn has_default_attributes(paths: &[PathStatus]) -> bool {
    matches!(paths, [path] if path.attributes.local_pref == Some(100)
        && path.attributes.communities.is_empty())
}

#[tokio::test]
async fn a_silent_data_plane_makes_the_path_least_preferred_until_its_next_message() {
    let mut environment = Environment::start(&["--data-plane-timeout=500ms"]).await;
    environment.data_plane.serve(SERVICE);
    environment.wait_for_paths(|paths| paths.len() == 1).await;
    let begin = Instant::now();
    environment.data_plane.mute(true);
    environment.wait_for_paths(is_least_preferred).await;
    // At the time of `begin`, the last heartbeat was up to a fifth of the timeout old, or older on
    // a busy machine. So the path can become least preferred less than 500 ms after `begin`.
    assert!(
        begin.elapsed() >= Duration::from_millis(150),
        "{:?}",
        begin.elapsed()
    );
    let announcement = environment
        .wait_for_state(SERVICE, AnnouncementState::LeastPreferred)
        .await;
    assert!(
        announcement.detail.contains("data plane"),
        "{announcement:?}"
    );
    // An address is least preferred, so the pod is not ready, and a rollout that silences data
    // planes stops.
    environment
        .wait_for_readyz("missing announced: 10.1.1.10/32: least preferred: data plane")
        .await;
    assert!(!environment.readiness.is_ready());
    let text = environment.metrics.encode();
    assert!(
        text.contains("portlb_announcements{state=\"least_preferred\"} 1"),
        "{text}"
    );
    environment.data_plane.mute(false);
    environment.wait_for_paths(has_default_attributes).await;
    environment.wait_for_readyz("ready announced: 1 of 1").await;
}

#[tokio::test]
async fn towards_another_as_a_least_preferred_path_has_the_highest_med_and_a_longer_as_path() {
    let mut environment = Environment::start(&[
        "--asn=64999",
        "--peer={reflector},asn=64512",
        "--med=7",
        "--data-plane-timeout=500ms",
        "--withdraw-delay=1h",
    ])
    .await;
    let path_of = |count: usize| AsPath {
        segments: vec![AsPathSegment::Sequence(vec![Asn(64999); count])],
    };
    let is_sent = |med: u32, count: usize| {
        let as_path = path_of(count);
        move |paths: &[PathStatus]| {
            matches!(paths, [path] if path.attributes.multi_exit_disc == Some(med)
                && path.attributes.as_path == as_path)
        }
    };
    environment.data_plane.serve(SERVICE);
    environment.wait_for_paths(is_sent(7, 1)).await;
    environment.data_plane.mute(true);
    environment.wait_for_paths(is_sent(u32::MAX, 4)).await;
    environment.data_plane.mute(false);
    environment.wait_for_paths(is_sent(7, 1)).await;
    let mut client = environment.client.clone();
    let drain = tokio::spawn(async move { client.drain(DrainRequest {}).await });
    environment.wait_for_paths(is_sent(u32::MAX, 4)).await;
    drain.abort();
}

#[tokio::test]
async fn a_silent_node_router_makes_the_path_least_preferred_and_its_refusal_withdraws_the_path() {
    let mut environment = Environment::start(&["--node-route-timeout=300ms"]).await;
    environment.data_plane.serve(SERVICE);
    environment.wait_for_paths(|paths| paths.len() == 1).await;
    let begin = Instant::now();
    environment.node_router.kill();
    environment.wait_for_paths(is_least_preferred).await;
    assert!(
        begin.elapsed() >= Duration::from_millis(250),
        "{:?}",
        begin.elapsed()
    );
    environment
        .wait_for_state(SERVICE, AnnouncementState::LeastPreferred)
        .await;
    environment
        .wait_for_readyz("missing node-route: 10.1.1.10/32: least preferred: node route: ")
        .await;
    environment.node_router.start().await;
    environment.wait_for_paths(has_default_attributes).await;

    environment.node_router.kill();
    environment.wait_for_paths(is_least_preferred).await;
    environment
        .node_router
        .refuse("10.1.1.10/32 is not allowed here");
    environment.node_router.start().await;
    environment.wait_for_paths(<[_]>::is_empty).await;
    environment
        .wait_for_state(SERVICE, AnnouncementState::WaitingForNodeRoute)
        .await;
}

#[tokio::test]
async fn a_node_router_that_returns_shortly_before_its_timeout_causes_no_update_message() {
    let mut environment = Environment::start(&["--node-route-timeout=4s"]).await;
    environment.data_plane.serve(SERVICE);
    environment.wait_for_paths(has_default_attributes).await;
    let updates = environment.updates_sent().await;
    environment.node_router.kill();
    // Within 2.6 s, the growing pauses between attempts to reach node-router grow to the longest
    // pause.
    tokio::time::sleep(Duration::from_millis(2600)).await;
    environment.node_router.start().await;
    environment.node_router.wait_for_holds(1).await;
    environment.data_plane.serve("10.1.1.11/32");
    environment.wait_for_paths(|paths| paths.len() == 2).await;
    assert_eq!(environment.updates_sent().await, updates + 1);
}

#[tokio::test]
async fn a_refused_node_route_is_listed_with_the_error_message_of_node_router() {
    let mut environment = Environment::start(&[]).await;
    environment
        .node_router
        .refuse("10.1.1.10/32 is not within --allowed-prefixes");
    environment.data_plane.serve(SERVICE);
    let deadline = Instant::now() + DEADLINE;
    loop {
        let announcement = environment
            .wait_for_state(SERVICE, AnnouncementState::WaitingForNodeRoute)
            .await;
        if announcement
            .detail
            .contains("is not within --allowed-prefixes")
        {
            break;
        }
        assert!(Instant::now() < deadline, "{announcement:?}");
        environment.wait_before_poll().await;
    }
}

#[tokio::test]
async fn a_signal_withdraws_the_addresses_then_releases_the_node_routes_then_ends_the_sessions() {
    let mut environment = Environment::start(&["--withdraw-delay=300ms", "--linger=400ms"]).await;
    environment.data_plane.serve(SERVICE);
    environment.wait_for_paths(|paths| paths.len() == 1).await;
    let begin = Instant::now();
    environment.shutdown.request();

    environment
        .wait_for_paths(|paths| {
            matches!(paths, [path] if path.attributes.local_pref == Some(0)
                && path.attributes.communities == [Community::GRACEFUL_SHUTDOWN])
        })
        .await;
    environment.wait_for_paths(<[_]>::is_empty).await;
    assert!(
        begin.elapsed() >= Duration::from_millis(300),
        "the withdrawal waits for --withdraw-delay"
    );
    assert_eq!(
        environment.node_router.holds().len(),
        1,
        "the node route is still held after the withdrawal"
    );

    environment.node_router.wait_for_holds(0).await;
    assert!(
        begin.elapsed() >= Duration::from_millis(700),
        "the node route is held for --linger"
    );
    let error = environment.wait_for_peer_error().await;
    assert!(
        error.contains("Administrative Shutdown: bgp-announcer is shutting down"),
        "{error}"
    );
    environment.ended().await.expect("the daemon has drained");
}

#[tokio::test]
async fn drain_withdraws_all_addresses_and_undrain_announces_them_again() {
    let mut environment = Environment::start(&["--withdraw-delay=200ms", "--linger=100ms"]).await;
    environment.data_plane.serve(SERVICE);
    environment.wait_for_paths(|paths| paths.len() == 1).await;
    let drained = environment
        .client
        .drain(DrainRequest {})
        .await
        .expect("the drain succeeds");
    assert_eq!(drained.into_inner().withdrawn, [SERVICE]);
    assert_eq!(environment.paths().await, []);
    assert!(environment.announcements().await.draining);
    // An address that is served during the drain is not announced.
    environment.data_plane.serve("10.1.1.11/32");
    environment
        .wait_for_state("10.1.1.11/32", AnnouncementState::Drained)
        .await;
    environment.node_router.wait_for_holds(0).await;
    for step in [
        "ready serving: 2 of 2",
        "missing node-route: drained; no node route is requested",
        "missing announced: drained; no service address is announced until Undrain",
    ] {
        environment.wait_for_readyz(step).await;
    }
    // During a drain, an address that is not served has the state NotServing.
    environment
        .data_plane
        .stop_serving("10.1.1.11/32", "no real server");
    environment
        .wait_for_state("10.1.1.11/32", AnnouncementState::NotServing)
        .await;
    environment
        .wait_for_readyz("ready serving: 1 of 2; 10.1.1.11/32: no real server")
        .await;
    environment.data_plane.serve("10.1.1.11/32");
    environment
        .wait_for_state("10.1.1.11/32", AnnouncementState::Drained)
        .await;
    // A drain of a drained daemon succeeds immediately.
    let again = environment
        .client
        .drain(DrainRequest {})
        .await
        .expect("a drain of a drained daemon succeeds");
    assert_eq!(again.into_inner().withdrawn, [SERVICE]);
    environment
        .client
        .undrain(UndrainRequest {})
        .await
        .expect("undrain succeeds");
    environment.wait_for_paths(|paths| paths.len() == 2).await;
    assert!(!environment.announcements().await.draining);
}

#[tokio::test]
async fn undrain_interrupts_a_drain_in_progress() {
    let mut environment = Environment::start(&["--withdraw-delay=1h"]).await;
    environment.data_plane.serve(SERVICE);
    environment.wait_for_paths(|paths| paths.len() == 1).await;
    let mut client = environment.client.clone();
    let drain = tokio::spawn(async move { client.drain(DrainRequest {}).await });
    environment
        .wait_for_state(SERVICE, AnnouncementState::Draining)
        .await;
    environment
        .client
        .undrain(UndrainRequest {})
        .await
        .expect("undrain succeeds");
    let status = drain
        .await
        .expect("the task does not panic")
        .expect_err("undrain reverted the drain");
    assert_eq!(status.code(), tonic::Code::Aborted);
    environment
        .wait_for_paths(|paths| matches!(paths, [path] if path.attributes.local_pref == Some(100)))
        .await;
}

#[tokio::test]
async fn a_watch_sends_all_announcements_then_synced_then_changes() {
    let mut environment = Environment::start(&[]).await;
    environment.data_plane.serve(SERVICE);
    environment
        .wait_for_state(SERVICE, AnnouncementState::Announced)
        .await;
    let watch = environment
        .client
        .watch_announcements(WatchAnnouncementsRequest {});
    let mut watch = watch.await.expect("the call succeeds").into_inner();
    let mut is_synced = false;
    let mut seen = Vec::new();
    environment.data_plane.serve("10.9.9.9/32");
    while !seen.contains(&"10.9.9.9/32".to_owned()) {
        let message = tokio::time::timeout(DEADLINE, watch.message()).await;
        match message
            .expect("in time")
            .expect("is open")
            .expect("is open")
            .event
        {
            Some(Event::Announcement(it)) => {
                assert!(is_synced || it.prefix == SERVICE, "{it:?}");
                seen.push(it.prefix);
            }
            Some(Event::Synced(_)) => is_synced = true,
            Some(Event::RemovedAnnouncement(_)) | None => {}
        }
    }
    assert_eq!(seen[0], SERVICE);
}

#[tokio::test]
async fn one_established_session_of_two_makes_the_step_ready_and_readyz_names_the_missing_peer() {
    let mut environment =
        Environment::start(&["--peer={reflector} 127.78.255.1:1,name=absent"]).await;
    environment.data_plane.serve(SERVICE);
    let announcement = environment.wait_for_announced_to(SERVICE, 1).await;
    assert_eq!(announcement.announced_to, ["reflector"]);
    environment
        .wait_for_readyz("ready bgp-session: absent is in ")
        .await;
    environment
        .wait_for_readyz("cannot connect: Connection refused")
        .await;
    environment.wait_for_readyz("ready announced: 1 of 1").await;
    assert!(environment.readiness.is_ready());
}

#[tokio::test]
async fn sessions_are_listed_with_their_state_and_hold_timer() {
    let mut environment = Environment::start(&["--hold-time=30s"]).await;
    environment.data_plane.serve(SERVICE);
    let announcement = environment.wait_for_announced_to(SERVICE, 1).await;
    assert_eq!(announcement.announced_to, ["reflector"]);
    let sessions = environment
        .client
        .list_sessions(ListSessionsRequest::default())
        .await;
    let sessions = sessions.expect("the call succeeds").into_inner().sessions;
    let [session] = &sessions[..] else {
        panic!("expected one session: {sessions:?}");
    };
    assert_eq!(session.state, 6, "the session is established");
    assert_eq!(session.peer, "reflector");
    let remaining = session.hold_timer_remaining.expect("the hold timer runs");
    assert!(remaining.seconds >= 20, "{remaining}");
    assert_eq!(session.paths_sent, 1);
    assert_eq!(session.last_error, "");
}

#[tokio::test]
async fn readyz_names_the_missing_step_in_each_phase_of_coming_up() {
    let mut environment = Environment::start_without_data_plane(&[]).await;
    environment.node_router.withhold();
    environment
        .wait_for_readyz("missing data-plane: data plane: ")
        .await;
    environment.data_plane.start().await;
    environment
        .wait_for_readyz("missing serving: the data plane has no service address")
        .await;
    environment
        .data_plane
        .stop_serving(SERVICE, "not checked yet");
    environment
        .wait_for_readyz("missing serving: 10.1.1.10/32: not checked yet")
        .await;
    environment.data_plane.serve(SERVICE);
    environment
        .wait_for_readyz("missing node-route: 10.1.1.10/32: ")
        .await;
    assert!(!environment.readiness.is_ready());
    environment.node_router.install();
    environment.wait_for_readyz("ready announced: 1 of 1").await;
    assert!(
        environment.readiness.is_ready(),
        "{}",
        environment.readiness.report()
    );
}

#[tokio::test]
async fn metrics_count_announcements_by_state_and_show_established_sessions() {
    let mut environment = Environment::start(&[]).await;
    environment.data_plane.serve(SERVICE);
    environment.wait_for_announced_to(SERVICE, 1).await;
    let text = environment.metrics.encode();
    for line in [
        "portlb_announcements{state=\"announced\"} 1",
        "portlb_announcements{state=\"refused\"} 0",
        "portlb_announcements_made_total 1",
        "portlb_bgp_session_established{peer=\"reflector\"} 1",
        "portlb_bgp_sessions_established_total 1",
    ] {
        assert!(
            text.lines().any(|it| it == line),
            "{line} is not in\n{text}"
        );
    }
}
