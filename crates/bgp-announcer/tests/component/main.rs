//! The whole daemon in process, between a stand-in data plane, a stand-in node-router and a BGP
//! speaker in the reflector's place, over real gRPC and real BGP.
#![cfg(test)]

mod data_plane;
mod node_router;
mod pages;
mod sessions;
mod world;

use std::time::{Duration, Instant};

use bgp_announcer::{announcements::Input, grpc::node_route::NodeRoutes, hold_token::HoldToken};
use bgp_packet::{AsPath, AsPathSegment, Asn, Community};
use bgp_speaker::PathStatus;
use daemon_api::announcer::v1::{
    AnnouncementState, DrainRequest, ListSessionsRequest, UndrainRequest,
    WatchAnnouncementsRequest, watch_announcements_response::Event,
};

use crate::world::{DEADLINE, World};

const SERVICE: &str = "10.1.1.10/32";

#[tokio::test]
async fn the_holder_sends_the_nonce_of_its_gateway_back_on_its_stream() {
    let node_router = node_router::StandIn::start_new().await;
    node_router.ask_for_proof();
    let target = format!("http://{}", node_router.port.address);
    let target: daemon_runtime::Target = target.parse().unwrap();
    let mut routes = NodeRoutes::new(Some(&target), Duration::from_secs(1), None);
    let prefix = "10.1.1.10/32".parse().unwrap();
    routes.hold(prefix, [127, 0, 0, 1].into());
    let held = tokio::time::timeout(DEADLINE, routes.next()).await;
    assert!(matches!(held, Ok(Input::NodeRouteHeld(held)) if held == prefix));
}

#[tokio::test]
async fn each_attempt_carries_the_token_that_the_file_has_at_that_moment() {
    let node_router = node_router::StandIn::start_new().await;
    node_router.refuse("the token has expired");
    let target = format!("http://{}", node_router.port.address);
    let target: daemon_runtime::Target = target.parse().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "first.of.pod\n").unwrap();
    let token = Some(HoldToken::new(&file));
    let mut routes = NodeRoutes::new(Some(&target), Duration::from_millis(20), token);
    routes.hold("10.1.1.10/32".parse().unwrap(), [127, 0, 0, 1].into());
    node_router
        .wait_for_token(Some("Bearer first.of.pod"))
        .await;
    // As the kubelet does.
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
        if matches!(input, Input::NodeRouteHeld(_)) {
            break;
        }
    }
}

#[tokio::test]
async fn nothing_is_announced_while_the_node_route_is_known_not_to_be_held() {
    let mut world = World::start(&["--node-route-timeout=1h"]).await;
    world.node_router.withhold();
    world.data_plane.serve(SERVICE);
    world
        .wait_for_state(SERVICE, AnnouncementState::WaitingForNodeRoute)
        .await;
    assert_eq!(world.paths().await, []);
    world.node_router.install();
    world.wait_for_paths(|paths| paths.len() == 1).await;
    let announcement = world
        .wait_for_state(SERVICE, AnnouncementState::Announced)
        .await;
    assert_eq!(announcement.next_hop, "192.0.2.11");
    let [path] = &world.paths().await[..] else {
        panic!("one path");
    };
    assert_eq!(path.attributes.next_hop.to_string(), "192.0.2.11");
    assert_eq!(path.attributes.local_pref, Some(100));
    assert_eq!(path.attributes.communities, []);
    assert_eq!(
        world.node_router.holds(),
        [(SERVICE.into(), "10.244.1.7".into())]
    );
    world.node_router.withhold();
    world.wait_for_paths(<[_]>::is_empty).await;
}

#[tokio::test]
async fn attributes_are_those_of_the_flags() {
    let mut world = World::start(&[
        "--local-pref=200",
        "--med=7",
        "--communities=64512:100,NO_EXPORT",
    ])
    .await;
    world.data_plane.serve(SERVICE);
    world.wait_for_paths(|paths| paths.len() == 1).await;
    let attributes = world.paths().await[0].attributes.clone();
    assert_eq!(attributes.local_pref, Some(200));
    assert_eq!(attributes.multi_exit_disc, Some(7));
    let communities = [Community(64512 << 16 | 100), Community::NO_EXPORT];
    assert_eq!(attributes.communities, communities);
}

#[tokio::test]
async fn a_next_hop_of_self_is_left_to_each_session() {
    let mut world = World::start(&["--next-hop=self"]).await;
    world.data_plane.serve(SERVICE);
    let announcement = world
        .wait_for_state(SERVICE, AnnouncementState::Announced)
        .await;
    assert_eq!(announcement.next_hop, "self");
    // The session has loopback addresses, which a reflector refuses as next hops.
    world.wait_for_rejected_path().await;
    assert_eq!(world.paths().await, []);
}

#[tokio::test]
async fn what_is_not_served_is_withdrawn_and_says_why() {
    let mut world = World::start(&["--linger=100ms"]).await;
    world.data_plane.serve(SERVICE);
    world.data_plane.serve("10.1.1.11/32");
    world.wait_for_paths(|paths| paths.len() == 2).await;
    world
        .data_plane
        .stop_serving(SERVICE, "0 of 2 real servers are healthy");
    world.wait_for_paths(|paths| paths.len() == 1).await;
    let announcement = world
        .wait_for_state(SERVICE, AnnouncementState::NotServing)
        .await;
    assert_eq!(announcement.detail, "0 of 2 real servers are healthy");
    world.node_router.wait_for_holds(1).await;
    world.data_plane.remove("10.1.1.11/32");
    world.wait_for_paths(<[_]>::is_empty).await;
    world.node_router.wait_for_holds(0).await;
}

#[tokio::test]
async fn ipv6_is_announced_with_its_own_next_hop() {
    let mut world = World::start(&[
        "--allowed-prefixes=10.1.1.0/24,fd01::/64",
        "--next-hop=192.0.2.11,2001:db8::11",
        "--gateway=10.244.1.7,fd00::7",
    ])
    .await;
    world.data_plane.serve("fd01::10/128");
    world.wait_for_paths(|paths| paths.len() == 1).await;
    let path = &world.paths().await[0];
    assert_eq!(path.attributes.next_hop.to_string(), "2001:db8::11");
    assert_eq!(
        world.node_router.holds(),
        [("fd01::10/128".into(), "fd00::7".into())]
    );
}

#[tokio::test]
async fn without_a_node_router_it_announces_at_once() {
    let mut world = World::start(&["--node-router=none"]).await;
    world.data_plane.serve(SERVICE);
    world.wait_for_paths(|paths| paths.len() == 1).await;
    assert_eq!(world.node_router.holds(), []);
}

#[tokio::test]
async fn a_data_plane_that_is_back_in_time_changes_nothing() {
    let mut world = World::start(&["--data-plane-timeout=5s"]).await;
    world.data_plane.serve(SERVICE);
    world.wait_for_paths(|paths| paths.len() == 1).await;
    let updates = world.updates_received().await;
    let watches = world.data_plane.watches();
    world.data_plane.kill();
    world.wait_for_readyz("missing data-plane").await;
    world.data_plane.start().await;
    world.data_plane.wait_for_watches(watches + 1).await;
    world.wait_for_readyz("ready data-plane").await;
    // A change after it has arrived, thus one before it would have, too.
    world.data_plane.serve("10.1.1.11/32");
    world.wait_for_paths(|paths| paths.len() == 2).await;
    assert_eq!(world.updates_received().await, updates + 1);
}

#[tokio::test]
async fn an_aborted_watch_of_the_data_plane_is_opened_again_and_its_set_replaces_the_old_one() {
    let mut world = World::start(&["--data-plane-timeout=60s"]).await;
    world.data_plane.serve("10.1.1.20/32");
    world.wait_for_paths(|paths| paths.len() == 1).await;
    // The announcer does not learn of the change by its first watch.
    world.data_plane.mute(true);
    world.data_plane.remove("10.1.1.20/32");
    world.data_plane.serve(SERVICE);
    world.data_plane.abort_watches();
    world.data_plane.wait_for_watches(2).await;
    world.data_plane.mute(false);
    world
        .wait_for_paths(|paths| matches!(paths, [path] if path.prefix.to_string() == SERVICE))
        .await;
}

/// Whether the one path is least preferred by an internal peer.
fn is_least_preferred(paths: &[PathStatus]) -> bool {
    matches!(paths, [path] if path.attributes.local_pref == Some(0)
        && path.attributes.communities == [Community::GRACEFUL_SHUTDOWN])
}

/// Whether the one path is as the flags say.
fn is_as_usual(paths: &[PathStatus]) -> bool {
    matches!(paths, [path] if path.attributes.local_pref == Some(100)
        && path.attributes.communities.is_empty())
}

#[tokio::test]
async fn a_silent_data_plane_makes_the_path_least_preferred_until_it_is_back() {
    let mut world = World::start(&["--data-plane-timeout=500ms"]).await;
    world.data_plane.serve(SERVICE);
    world.wait_for_paths(|paths| paths.len() == 1).await;
    let begin = Instant::now();
    world.data_plane.mute(true);
    world.wait_for_paths(is_least_preferred).await;
    // The last heartbeat was a fifth of the timeout old, or more on a busy machine.
    assert!(
        begin.elapsed() >= Duration::from_millis(150),
        "{:?}",
        begin.elapsed()
    );
    let announcement = world
        .wait_for_state(SERVICE, AnnouncementState::LeastPreferred)
        .await;
    assert!(
        announcement.detail.contains("data plane"),
        "{announcement:?}"
    );
    // A rollout of load balancers with this fault stops.
    world
        .wait_for_readyz("missing announced: 10.1.1.10/32: least preferred: data plane")
        .await;
    assert!(!world.readiness.is_ready());
    let text = world.metrics.encode();
    assert!(
        text.contains("portlb_announcements{state=\"least_preferred\"} 1"),
        "{text}"
    );
    world.data_plane.mute(false);
    world.wait_for_paths(is_as_usual).await;
    world.wait_for_readyz("ready announced: 1 of 1").await;
}

#[tokio::test]
async fn towards_another_as_silence_and_drain_announce_the_highest_med_and_a_longer_path() {
    let mut world = World::start(&[
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
    world.data_plane.serve(SERVICE);
    world.wait_for_paths(is_sent(7, 1)).await;
    world.data_plane.mute(true);
    world.wait_for_paths(is_sent(u32::MAX, 4)).await;
    world.data_plane.mute(false);
    world.wait_for_paths(is_sent(7, 1)).await;
    let mut client = world.client.clone();
    let drain = tokio::spawn(async move { client.drain(DrainRequest {}).await });
    world.wait_for_paths(is_sent(u32::MAX, 4)).await;
    drain.abort();
}

#[tokio::test]
async fn a_node_router_that_stays_away_makes_the_path_least_preferred_and_its_refusal_withdraws() {
    let mut world = World::start(&["--node-route-timeout=300ms"]).await;
    world.data_plane.serve(SERVICE);
    world.wait_for_paths(|paths| paths.len() == 1).await;
    let begin = Instant::now();
    world.node_router.kill();
    world.wait_for_paths(is_least_preferred).await;
    assert!(
        begin.elapsed() >= Duration::from_millis(250),
        "{:?}",
        begin.elapsed()
    );
    world
        .wait_for_state(SERVICE, AnnouncementState::LeastPreferred)
        .await;
    world
        .wait_for_readyz("missing node-route: 10.1.1.10/32: least preferred: node route: ")
        .await;
    world.node_router.start().await;
    world.wait_for_paths(is_as_usual).await;

    world.node_router.kill();
    world.wait_for_paths(is_least_preferred).await;
    world.node_router.refuse("10.1.1.10/32 is not allowed here");
    world.node_router.start().await;
    world.wait_for_paths(<[_]>::is_empty).await;
    world
        .wait_for_state(SERVICE, AnnouncementState::WaitingForNodeRoute)
        .await;
}

#[tokio::test]
async fn a_node_router_that_is_back_shortly_before_its_timeout_changes_nothing() {
    let mut world = World::start(&["--node-route-timeout=4s"]).await;
    world.data_plane.serve(SERVICE);
    world.wait_for_paths(is_as_usual).await;
    let updates = world.updates_received().await;
    world.node_router.kill();
    // Longer than the first pauses between two attempts together, so that the longest is in force.
    tokio::time::sleep(Duration::from_millis(2600)).await;
    world.node_router.start().await;
    world.node_router.wait_for_holds(1).await;
    world.data_plane.serve("10.1.1.11/32");
    world.wait_for_paths(|paths| paths.len() == 2).await;
    assert_eq!(world.updates_received().await, updates + 1);
}

#[tokio::test]
async fn a_refused_node_route_is_shown_with_the_words_of_the_node_router() {
    let mut world = World::start(&[]).await;
    world
        .node_router
        .refuse("10.1.1.10/32 is not within --allowed-prefixes");
    world.data_plane.serve(SERVICE);
    let deadline = Instant::now() + DEADLINE;
    loop {
        let announcement = world
            .wait_for_state(SERVICE, AnnouncementState::WaitingForNodeRoute)
            .await;
        if announcement
            .detail
            .contains("is not within --allowed-prefixes")
        {
            break;
        }
        assert!(Instant::now() < deadline, "{announcement:?}");
        world.next_change().await;
    }
}

#[tokio::test]
async fn a_signal_drains_in_the_order_that_loses_no_packet() {
    let mut world = World::start(&["--withdraw-delay=300ms", "--linger=400ms"]).await;
    world.data_plane.serve(SERVICE);
    world.wait_for_paths(|paths| paths.len() == 1).await;
    let begin = Instant::now();
    world.shutdown.request();

    world
        .wait_for_paths(|paths| {
            matches!(paths, [path] if path.attributes.local_pref == Some(0)
                && path.attributes.communities == [Community::GRACEFUL_SHUTDOWN])
        })
        .await;
    world.wait_for_paths(<[_]>::is_empty).await;
    assert!(
        begin.elapsed() >= Duration::from_millis(300),
        "waits for traffic to move"
    );
    assert_eq!(
        world.node_router.holds().len(),
        1,
        "packets are still forwarded"
    );

    world.node_router.wait_for_holds(0).await;
    assert!(begin.elapsed() >= Duration::from_millis(700), "lingers");
    let error = world.wait_for_peer_error().await;
    assert!(
        error.contains("Administrative Shutdown: bgp-announcer was told to end"),
        "{error}"
    );
    world.ended().await.expect("drained");
}

#[tokio::test]
async fn drain_moves_traffic_away_and_undrain_lets_it_come_again() {
    let mut world = World::start(&["--withdraw-delay=200ms", "--linger=100ms"]).await;
    world.data_plane.serve(SERVICE);
    world.wait_for_paths(|paths| paths.len() == 1).await;
    let drained = world.client.drain(DrainRequest {}).await.expect("drains");
    assert_eq!(drained.into_inner().withdrawn, [SERVICE]);
    assert_eq!(world.paths().await, []);
    assert!(world.announcements().await.draining);
    // What comes while it is drained stays away.
    world.data_plane.serve("10.1.1.11/32");
    world
        .wait_for_state("10.1.1.11/32", AnnouncementState::Drained)
        .await;
    world.node_router.wait_for_holds(0).await;
    for step in [
        "ready serving: 2 of 2",
        "missing node-route: drained, so none is asked for",
        "missing announced: draining is done, nothing is announced until Undrain",
    ] {
        world.wait_for_readyz(step).await;
    }
    // A drain does not hide what is not served.
    world
        .data_plane
        .stop_serving("10.1.1.11/32", "no real server");
    world
        .wait_for_state("10.1.1.11/32", AnnouncementState::NotServing)
        .await;
    world
        .wait_for_readyz("ready serving: 1 of 2; 10.1.1.11/32: no real server")
        .await;
    world.data_plane.serve("10.1.1.11/32");
    world
        .wait_for_state("10.1.1.11/32", AnnouncementState::Drained)
        .await;
    // Draining twice is no error.
    let again = world
        .client
        .drain(DrainRequest {})
        .await
        .expect("is drained");
    assert_eq!(again.into_inner().withdrawn, [SERVICE]);
    world
        .client
        .undrain(UndrainRequest {})
        .await
        .expect("reverts");
    world.wait_for_paths(|paths| paths.len() == 2).await;
    assert!(!world.announcements().await.draining);
}

#[tokio::test]
async fn undrain_reverts_a_drain_that_is_under_way() {
    let mut world = World::start(&["--withdraw-delay=1h"]).await;
    world.data_plane.serve(SERVICE);
    world.wait_for_paths(|paths| paths.len() == 1).await;
    let mut client = world.client.clone();
    let drain = tokio::spawn(async move { client.drain(DrainRequest {}).await });
    world
        .wait_for_state(SERVICE, AnnouncementState::Draining)
        .await;
    world
        .client
        .undrain(UndrainRequest {})
        .await
        .expect("reverts");
    let status = drain.await.expect("no panic").expect_err("was reverted");
    assert_eq!(status.code(), tonic::Code::Aborted);
    world
        .wait_for_paths(|paths| matches!(paths, [path] if path.attributes.local_pref == Some(100)))
        .await;
}

#[tokio::test]
async fn a_watch_opens_with_everything_then_synced_then_changes() {
    let mut world = World::start(&[]).await;
    world.data_plane.serve(SERVICE);
    world
        .wait_for_state(SERVICE, AnnouncementState::Announced)
        .await;
    let watch = world
        .client
        .watch_announcements(WatchAnnouncementsRequest {});
    let mut watch = watch.await.expect("is served").into_inner();
    let mut is_synced = false;
    let mut seen = Vec::new();
    world.data_plane.serve("10.9.9.9/32");
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
async fn one_peer_of_two_is_enough_and_the_other_is_named() {
    let mut world = World::start(&["--peer={reflector} 127.78.255.1:1,name=absent"]).await;
    world.data_plane.serve(SERVICE);
    let announcement = world.wait_for_announced_to(SERVICE, 1).await;
    assert_eq!(announcement.announced_to, ["reflector"]);
    world
        .wait_for_readyz("ready bgp-session: absent is in ")
        .await;
    world
        .wait_for_readyz("cannot connect: Connection refused")
        .await;
    world.wait_for_readyz("ready announced: 1 of 1").await;
    assert!(world.readiness.is_ready());
}

#[tokio::test]
async fn sessions_are_listed_with_their_state_and_timers() {
    let mut world = World::start(&["--hold-time=30s"]).await;
    world.data_plane.serve(SERVICE);
    let announcement = world.wait_for_announced_to(SERVICE, 1).await;
    assert_eq!(announcement.announced_to, ["reflector"]);
    let sessions = world
        .client
        .list_sessions(ListSessionsRequest::default())
        .await;
    let sessions = sessions.expect("is served").into_inner().sessions;
    let [session] = &sessions[..] else {
        panic!("one session: {sessions:?}");
    };
    assert_eq!(session.state, 6, "established");
    assert_eq!(session.peer, "reflector");
    let remaining = session.hold_timer_remaining.expect("the timer runs");
    assert!(remaining.seconds >= 20, "{remaining}");
    assert_eq!(session.paths_sent, 1);
    assert_eq!(session.last_error, "");
}

#[tokio::test]
async fn readyz_names_the_missing_step_at_each_stage() {
    let mut world = World::start_without_data_plane(&[]).await;
    world.node_router.withhold();
    world
        .wait_for_readyz("missing data-plane: data plane: ")
        .await;
    world.data_plane.start().await;
    world
        .wait_for_readyz("missing serving: no service address is known")
        .await;
    world.data_plane.stop_serving(SERVICE, "not checked yet");
    world
        .wait_for_readyz("missing serving: 10.1.1.10/32: not checked yet")
        .await;
    world.data_plane.serve(SERVICE);
    world
        .wait_for_readyz("missing node-route: 10.1.1.10/32: ")
        .await;
    assert!(!world.readiness.is_ready());
    world.node_router.install();
    world.wait_for_readyz("ready announced: 1 of 1").await;
    assert!(world.readiness.is_ready(), "{}", world.readiness.report());
}

#[tokio::test]
async fn metrics_tell_states_and_sessions() {
    let mut world = World::start(&[]).await;
    world.data_plane.serve(SERVICE);
    world.wait_for_announced_to(SERVICE, 1).await;
    let text = world.metrics.encode();
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
