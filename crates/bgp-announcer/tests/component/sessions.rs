//! What is said of an address while no session carries it, and what a drain does then.

use daemon_api::announcer::v1::AnnouncementState;

use crate::{SERVICE, world::World};

/// Nothing listens there.
const ABSENT: &str = "--peer=127.78.255.1:1,name=absent";

/// Evaluates the expression of the outage alert, as `docs/operations.md` has it, over the metrics of
/// one load balancer.
fn is_outage(metrics: &str) -> bool {
    let documented = include_str!("../../../../docs/operations.md");
    let (_, expression) = documented
        .split_once("`sum by (namespace) (portlb_announcements{state=~\"")
        .expect("the alert is documented");
    let (states, rest) = expression.split_once("\"}) == 0`").expect("its end");
    assert!(rest.contains("**outage**"));
    let samples = states.split("\\|").map(|state| {
        let sample = format!("portlb_announcements{{state=\"{state}\"}} ");
        let mut lines = metrics.lines();
        let value = lines.find_map(|line| line.strip_prefix(&sample));
        let value = value.unwrap_or_else(|| panic!("{sample} is not in\n{metrics}"));
        value.parse::<u64>().expect("a number")
    });
    samples.sum::<u64>() == 0
}

async fn wait_until_outage(world: &World, expected: bool) {
    let deadline = std::time::Instant::now() + crate::DEADLINE;
    while is_outage(&world.metrics.encode()) != expected {
        assert!(std::time::Instant::now() < deadline, "outage: {expected}");
        world.next_change().await;
    }
}

#[tokio::test]
async fn without_a_session_nothing_counts_as_announced_and_the_outage_alert_fires() {
    let mut world = World::start(&[ABSENT]).await;
    world.data_plane.serve(SERVICE);
    let announcement = world
        .wait_for_state(SERVICE, AnnouncementState::WaitingForSession)
        .await;
    assert_eq!(
        announcement.detail,
        "no session carries it: absent: its session is not established"
    );
    assert!(announcement.announced_to.is_empty());
    wait_until_outage(&world, true).await;
    world
        .wait_for_readyz("missing announced: 10.1.1.10/32: no session carries it: absent: ")
        .await;
    let text = world.metrics.encode();
    let waiting = "portlb_announcements{state=\"waiting_for_session\"} 1";
    assert!(text.lines().any(|line| line == waiting), "{text}");
}

#[tokio::test]
async fn the_end_of_the_last_session_ends_the_announcement_and_the_outage_alert_fires() {
    let mut world = World::start(&[]).await;
    world.data_plane.serve(SERVICE);
    world
        .wait_for_state(SERVICE, AnnouncementState::Announced)
        .await;
    wait_until_outage(&world, false).await;
    world.end_reflector().await;
    world
        .wait_for_state(SERVICE, AnnouncementState::WaitingForSession)
        .await;
    wait_until_outage(&world, true).await;
    assert!(!world.readiness.is_ready());
}

#[tokio::test]
async fn an_address_that_no_session_can_carry_is_not_announced_and_says_why() {
    let mut world = World::start(&[
        "--allowed-prefixes=10.1.1.0/24,fd01::/64",
        "--next-hop=192.0.2.11,self",
        "--gateway=10.244.1.7,fd00::7",
    ])
    .await;
    world.data_plane.serve(SERVICE);
    world.data_plane.serve("fd01::10/128");
    world
        .wait_for_state(SERVICE, AnnouncementState::Announced)
        .await;
    let announcement = world
        .wait_for_state("fd01::10/128", AnnouncementState::WaitingForSession)
        .await;
    assert!(
        announcement
            .detail
            .contains("the session runs over IPv4, so --next-hop self has no address for IPv6"),
        "{announcement:?}"
    );
    world
        .wait_for_readyz("ready announced: 1 of 2; fd01::10/128: no session carries it: ")
        .await;
}

#[tokio::test]
async fn a_signal_without_a_session_ends_it_without_a_wait() {
    let mut world = World::start(&[ABSENT, "--drain-timeout=1h", "--linger=1h"]).await;
    world.data_plane.serve(SERVICE);
    world
        .wait_for_state(SERVICE, AnnouncementState::WaitingForSession)
        .await;
    world.shutdown.request();
    world.ended().await.expect("drained");
}

#[tokio::test]
async fn an_address_that_flaps_is_least_preferred_and_counted() {
    let mut world = World::start(&["--data-plane-timeout=1h"]).await;
    world.data_plane.serve(SERVICE);
    world.wait_for_paths(|paths| paths.len() == 1).await;
    for _ in 0..3 {
        world.data_plane.stop_serving(SERVICE, "no real server");
        world.wait_for_paths(<[_]>::is_empty).await;
        world.data_plane.serve(SERVICE);
        world.wait_for_paths(|paths| paths.len() == 1).await;
    }
    world.data_plane.stop_serving(SERVICE, "no real server");
    let announcement = world
        .wait_for_state(SERVICE, AnnouncementState::LeastPreferred)
        .await;
    assert!(announcement.detail.contains("flaps"), "{announcement:?}");
    world
        .wait_for_paths(|paths| matches!(paths, [path] if path.attributes.local_pref == Some(0)))
        .await;
    let text = world.metrics.encode();
    let flapping = "portlb_announcements_flapping 1";
    assert!(text.lines().any(|line| line == flapping), "{text}");
    world.data_plane.serve(SERVICE);
    // As usual again when the hold is over.
    world
        .wait_for_paths(|paths| matches!(paths, [path] if path.attributes.local_pref == Some(100)))
        .await;
}
