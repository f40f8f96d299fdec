//! Tests of a silent data plane and a silent node-router.

use super::*;

#[test]
fn a_data_plane_that_returns_within_its_grace_period_changes_no_announcement() {
    let mut transcript = AnnouncementTranscript::announced(config());
    transcript.feed(AnnouncementInput::DataPlaneLost(
        "connection refused".into(),
    ));
    transcript.pass(4);
    transcript.feed_all([
        AnnouncementInput::DataPlaneOpened,
        serving("10.1.1.1/32"),
        AnnouncementInput::Synced,
    ]);
    transcript.wait_alive(10);
    transcript.check(&expect![[r#"
        0: DataPlaneLost("connection refused")
        4: DataPlaneOpened
        4: serving 10.1.1.1/32
        4: Synced
    "#]]);
}

#[test]
fn a_silent_data_plane_makes_the_address_least_preferred_until_it_confirms_the_address() {
    let mut transcript = AnnouncementTranscript::announced(config());
    transcript.wait(1);
    expect![[r#"
        10.1.1.1/32 LeastPreferred: least preferred: data plane: silent for 5000 ms
    "#]]
    .assert_eq(&transcript.state());
    transcript.pass(1);
    transcript.feed(AnnouncementInput::DataPlaneLost(
        "silent for 5000 ms".into(),
    ));
    transcript.pass(1);
    transcript.feed(AnnouncementInput::DataPlaneOpened);
    transcript.feed(AnnouncementInput::Heartbeat);
    transcript.feed(serving("10.1.1.1/32"));
    transcript.check(&expect![[r#"
        5: DeadlineReached
            announce 10.1.1.1/32 local_pref 0 GRACEFUL_SHUTDOWN
        6: DataPlaneLost("silent for 5000 ms")
        7: DataPlaneOpened
        7: Heartbeat
        7: serving 10.1.1.1/32
            announce 10.1.1.1/32 local_pref 100
    "#]]);
}

#[test]
fn a_heartbeat_after_a_silence_confirms_the_reports_of_its_stream() {
    let mut transcript = AnnouncementTranscript::announced(config());
    transcript.wait(1);
    transcript.pass(60);
    transcript.feed(AnnouncementInput::Heartbeat);
    transcript.check(&expect![[r#"
        5: DeadlineReached
            announce 10.1.1.1/32 local_pref 0 GRACEFUL_SHUTDOWN
        65: Heartbeat
            announce 10.1.1.1/32 local_pref 100
    "#]]);
}

#[test]
fn an_address_that_was_never_confirmed_is_not_announced_while_the_data_plane_is_silent() {
    let mut transcript = AnnouncementTranscript::new(config());
    transcript.feed_all([AnnouncementInput::DataPlaneOpened, serving("10.1.1.1/32")]);
    transcript.pass(6);
    transcript.feed(AnnouncementInput::DeadlineReached);
    transcript.feed(AnnouncementInput::NodeRouteHeld(net("10.1.1.1/32")));
    expect![[r#"
        10.1.1.1/32 NotServing: data plane: silent for 5000 ms
    "#]]
    .assert_eq(&transcript.state());
    transcript.feed(AnnouncementInput::Heartbeat);
    transcript.check(&expect![[r#"
        0: DataPlaneOpened
        0: serving 10.1.1.1/32
            hold 10.1.1.1/32 via 10.244.1.7
        6: DeadlineReached
        6: route held 10.1.1.1/32
        6: Heartbeat
            announce 10.1.1.1/32 local_pref 100
    "#]]);
}

#[test]
fn a_least_preferred_address_is_withdrawn_when_it_is_not_served_or_has_no_node_route() {
    for report in [
        not_serving("10.1.1.1/32"),
        AnnouncementInput::ServiceAddressRemoved(net("10.1.1.1/32")),
        route_lost(false),
        AnnouncementInput::Synced,
    ] {
        let mut transcript = AnnouncementTranscript::announced(config());
        transcript.feed(AnnouncementInput::DataPlaneLost(
            "connection refused".into(),
        ));
        transcript.wait(1);
        transcript.feed(AnnouncementInput::DataPlaneOpened);
        assert_eq!(
            transcript.feed(report.clone()),
            [AnnouncementOutput::Withdraw(net("10.1.1.1/32"))],
            "{report:?}"
        );
    }
}

#[test]
fn a_drain_of_a_least_preferred_address_withdraws_it_and_undrain_announces_it_again() {
    let mut transcript = AnnouncementTranscript::announced(config());
    transcript.wait(1);
    transcript.feed(AnnouncementInput::Drain);
    expect![[r#"
        10.1.1.1/32 Draining: announced with GRACEFUL_SHUTDOWN and LOCAL_PREF 0
    "#]]
    .assert_eq(&transcript.state());
    transcript.wait(1);
    transcript.feed(AnnouncementInput::Undrain);
    transcript.check(&expect![[r#"
        5: DeadlineReached
            announce 10.1.1.1/32 local_pref 0 GRACEFUL_SHUTDOWN
        5: Drain
        15: DeadlineReached
            withdraw 10.1.1.1/32
        15: Undrain
            announce 10.1.1.1/32 local_pref 0 GRACEFUL_SHUTDOWN
    "#]]);
}

#[test]
fn heartbeats_of_a_new_stream_do_not_confirm_reports_of_an_old_stream() {
    let mut transcript = AnnouncementTranscript::announced(config());
    transcript.feed_all([
        AnnouncementInput::DataPlaneLost("ended".into()),
        AnnouncementInput::DataPlaneOpened,
    ]);
    transcript.wait_alive(6);
    transcript.check(&expect![[r#"
        0: DataPlaneLost("ended")
        0: DataPlaneOpened
        5: time passes
            announce 10.1.1.1/32 local_pref 0 GRACEFUL_SHUTDOWN
    "#]]);
    expect![[r#"
        10.1.1.1/32 LeastPreferred: least preferred: the data plane has not confirmed the address since its stream was opened again
    "#]]
    .assert_eq(&transcript.state());
}

#[test]
fn an_address_that_a_synced_new_stream_does_not_contain_is_withdrawn() {
    let mut transcript = AnnouncementTranscript::announced(config());
    transcript.feed_all([
        AnnouncementInput::DataPlaneLost("ended".into()),
        AnnouncementInput::DataPlaneOpened,
        AnnouncementInput::Synced,
    ]);
    transcript.check(&expect![[r#"
        0: DataPlaneLost("ended")
        0: DataPlaneOpened
        0: Synced
            withdraw 10.1.1.1/32
    "#]]);
}

#[test]
fn a_node_router_that_returns_within_its_grace_period_changes_no_announcement() {
    let mut transcript = AnnouncementTranscript::announced(config());
    transcript.feed(route_lost(true));
    expect![[r#"
        10.1.1.1/32 Announced: node route: connection refused
    "#]]
    .assert_eq(&transcript.state());
    transcript.wait_alive(1);
    transcript.feed_all([
        route_lost(true),
        AnnouncementInput::NodeRouteHeld(net("10.1.1.1/32")),
    ]);
    transcript.wait_alive(5);
    transcript.check(&expect![[r#"
        0: node-router lost, route unknown 10.1.1.1/32
        1: node-router lost, route unknown 10.1.1.1/32
        1: route held 10.1.1.1/32
    "#]]);
}

#[test]
fn a_silent_node_router_makes_the_address_least_preferred_until_it_holds_the_node_route() {
    let mut transcript = AnnouncementTranscript::announced(config());
    transcript.feed(route_lost(true));
    transcript.wait_alive(1);
    // A second failed attempt to hold the node route does not prolong the grace period.
    transcript.feed(route_lost(true));
    transcript.wait_alive(3600);
    expect![[r#"
        10.1.1.1/32 LeastPreferred: least preferred: node route: connection refused
    "#]]
    .assert_eq(&transcript.state());
    transcript.feed(AnnouncementInput::NodeRouteHeld(net("10.1.1.1/32")));
    transcript.check(&expect![[r#"
        0: node-router lost, route unknown 10.1.1.1/32
        1: node-router lost, route unknown 10.1.1.1/32
        2: time passes
            announce 10.1.1.1/32 local_pref 0 GRACEFUL_SHUTDOWN
        3601: route held 10.1.1.1/32
            announce 10.1.1.1/32 local_pref 100
    "#]]);
}

#[test]
fn without_a_grace_period_a_lost_node_router_makes_the_address_least_preferred_immediately() {
    let mut transcript = AnnouncementTranscript::announced(AnnouncementsConfig {
        node_route_timeout: Duration::ZERO,
        ..config()
    });
    transcript.feed(route_lost(true));
    transcript.check(&expect![[r#"
        0: node-router lost, route unknown 10.1.1.1/32
            announce 10.1.1.1/32 local_pref 0 GRACEFUL_SHUTDOWN
    "#]]);
}

#[test]
fn a_node_router_that_refuses_the_node_route_after_a_silence_causes_a_withdrawal() {
    for seconds in [1, 10] {
        let mut transcript = AnnouncementTranscript::announced(config());
        transcript.feed(route_lost(true));
        transcript.wait_alive(seconds);
        assert_eq!(
            transcript.feed(route_lost(false)),
            [AnnouncementOutput::Withdraw(net("10.1.1.1/32"))]
        );
        // After the refusal, silence of node-router does not bring the announcement back.
        assert_eq!(transcript.feed(route_lost(true)), []);
        expect![[r#"
            10.1.1.1/32 WaitingForNodeRoute: node route: connection refused
        "#]]
        .assert_eq(&transcript.state());
    }
}

#[test]
fn a_report_that_the_node_route_is_missing_causes_an_immediate_withdrawal() {
    let mut transcript = AnnouncementTranscript::announced(config());
    transcript.feed(route_lost(false));
    transcript.check(&expect![[r#"
        0: route lost 10.1.1.1/32
            withdraw 10.1.1.1/32
    "#]]);
}
