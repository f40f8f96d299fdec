//! Tests of drain, undrain and stop.

use super::*;

#[test]
fn a_stop_makes_addresses_least_preferred_then_withdraws_them_then_releases_node_routes() {
    let mut transcript = AnnouncementTranscript::announced(config());
    transcript.feed(serving("10.1.1.2/32"));
    transcript.feed(AnnouncementInput::Stop);
    expect![[r#"
        10.1.1.1/32 Draining: announced with GRACEFUL_SHUTDOWN and LOCAL_PREF 0
        10.1.1.2/32 Drained: not announced because of a drain
    "#]]
    .assert_eq(&transcript.state());
    // An address that is served after the stop is not announced.
    transcript.feed(serving("10.1.1.3/32"));
    transcript.wait_alive(16);
    transcript.check(&expect![[r#"
        0: serving 10.1.1.2/32
            hold 10.1.1.2/32 via 10.244.1.7
        0: Stop
            announce 10.1.1.1/32 local_pref 0 GRACEFUL_SHUTDOWN
            release 10.1.1.2/32
        0: serving 10.1.1.3/32
        10: time passes
            withdraw 10.1.1.1/32
        15: time passes
            release 10.1.1.1/32
            drained
            stopped
        16: time passes
            stopped
    "#]]);
}

#[test]
fn an_address_that_is_no_longer_served_during_a_drain_is_withdrawn_immediately() {
    let mut transcript = AnnouncementTranscript::announced(config());
    transcript.feed(AnnouncementInput::Drain);
    transcript.wait_alive(1);
    transcript.feed(not_serving("10.1.1.1/32"));
    transcript.check(&expect![[r#"
        0: Drain
            announce 10.1.1.1/32 local_pref 0 GRACEFUL_SHUTDOWN
        1: not serving 10.1.1.1/32
            withdraw 10.1.1.1/32
    "#]]);
}

#[test]
fn a_node_route_is_held_for_the_linger_after_a_withdrawal_within_the_withdraw_delay() {
    let mut transcript = AnnouncementTranscript::announced(config());
    transcript.feed(AnnouncementInput::Stop);
    transcript.wait_alive(8);
    transcript.feed(not_serving("10.1.1.1/32"));
    transcript.wait_alive(5);
    transcript.check(&expect![[r#"
        0: Stop
            announce 10.1.1.1/32 local_pref 0 GRACEFUL_SHUTDOWN
        8: not serving 10.1.1.1/32
            withdraw 10.1.1.1/32
        13: time passes
            release 10.1.1.1/32
            drained
            stopped
    "#]]);
}

#[test]
fn a_data_plane_that_ends_during_a_drain_does_not_change_the_drain() {
    let mut transcript = AnnouncementTranscript::announced(config());
    transcript.feed(AnnouncementInput::Stop);
    // When the kubelet stops the pod, it stops all containers, including the data plane.
    transcript.feed(AnnouncementInput::DataPlaneLost(
        "the stream has ended".into(),
    ));
    transcript.wait(3);
    transcript.check(&expect![[r#"
        0: Stop
            announce 10.1.1.1/32 local_pref 0 GRACEFUL_SHUTDOWN
        0: DataPlaneLost("the stream has ended")
        5: DeadlineReached
        10: DeadlineReached
            withdraw 10.1.1.1/32
        15: DeadlineReached
            release 10.1.1.1/32
            drained
            stopped
    "#]]);
}

#[test]
fn undrain_reverts_a_drain_in_each_phase() {
    for seconds in [1, 11, 20] {
        let mut transcript = AnnouncementTranscript::announced(config());
        transcript.feed(AnnouncementInput::Drain);
        transcript.wait_alive(seconds);
        transcript.feed(AnnouncementInput::Undrain);
        transcript.feed(AnnouncementInput::NodeRouteHeld(net("10.1.1.1/32")));
        assert!(!transcript.announcements.is_draining());
        assert_eq!(transcript.state(), "10.1.1.1/32 Announced: \n", "{seconds}");
    }
}

#[test]
fn a_stop_cannot_be_reverted_and_a_drained_process_stops_immediately() {
    let mut transcript = AnnouncementTranscript::announced(config());
    transcript.feed(AnnouncementInput::Drain);
    transcript.wait_alive(16);
    transcript.text.clear();
    transcript.feed_all([AnnouncementInput::Stop, AnnouncementInput::Undrain]);
    transcript.check(&expect![[r#"
        16: Stop
            stopped
        16: Undrain
            stopped
    "#]]);
}

#[test]
fn a_stop_withdraws_addresses_immediately_if_withdraw_delay_and_linger_are_zero() {
    let mut transcript = AnnouncementTranscript::announced(AnnouncementsConfig {
        withdraw_delay: Duration::ZERO,
        linger: Duration::ZERO,
        ..config()
    });
    transcript.feed(AnnouncementInput::Stop);
    transcript.check(&expect![[r#"
        0: Stop
            withdraw 10.1.1.1/32
            release 10.1.1.1/32
            drained
            stopped
    "#]]);
}

#[test]
fn a_stop_before_the_first_session_skips_withdraw_delay_and_linger() {
    let mut transcript = AnnouncementTranscript::without_session(config()).announce();
    transcript.feed(AnnouncementInput::Stop);
    transcript.check(&expect![[r#"
        0: Stop
            withdraw 10.1.1.1/32
            drained
            stopped
    "#]]);
}

#[test]
fn a_stop_after_the_end_of_the_last_session_counts_the_linger_from_the_end_of_the_session() {
    let mut transcript = AnnouncementTranscript::announced(config());
    transcript.feed(AnnouncementInput::SessionsEstablished(false));
    transcript.pass(2);
    transcript.feed(AnnouncementInput::Stop);
    transcript.wait(1);
    transcript.check(&expect![[r#"
        0: SessionsEstablished(false)
        2: Stop
            withdraw 10.1.1.1/32
        5: DeadlineReached
            drained
            stopped
    "#]]);
}

#[test]
fn a_drain_that_loses_its_last_session_skips_the_withdraw_delay() {
    let mut transcript = AnnouncementTranscript::announced(config());
    transcript.feed(AnnouncementInput::Drain);
    transcript.pass(1);
    transcript.feed(AnnouncementInput::SessionsEstablished(false));
    // A second report that no session is established does not prolong the linger.
    transcript.pass(1);
    transcript.feed(AnnouncementInput::SessionsEstablished(false));
    transcript.wait_alive(5);
    transcript.check(&expect![[r#"
        0: Drain
            announce 10.1.1.1/32 local_pref 0 GRACEFUL_SHUTDOWN
        1: SessionsEstablished(false)
            withdraw 10.1.1.1/32
        2: SessionsEstablished(false)
        6: time passes
            release 10.1.1.1/32
            drained
    "#]]);
}
