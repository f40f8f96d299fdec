//! Tests of addresses that flap.

use super::*;

/// Makes the data plane report `changes` changes of 10.1.1.1/32, one at each `interval`, beginning
/// with "not serving". Returns the number of outputs.
fn flap(transcript: &mut AnnouncementTranscript, changes: u32, interval: Duration) -> usize {
    let mut updates = 0;
    for change in 0..changes {
        let now = transcript.now + interval;
        if let Some(deadline) = transcript.announcements.next_deadline()
            && deadline <= now
        {
            updates += transcript
                .announcements
                .handle(AnnouncementInput::DeadlineReached, now)
                .len();
        }
        transcript.now = now;
        let input = match change % 2 {
            0 => not_serving("10.1.1.1/32"),
            _ => serving("10.1.1.1/32"),
        };
        updates += transcript.announcements.handle(input, now).len();
    }
    updates
}

#[test]
fn a_flapping_address_causes_few_updates_and_has_normal_preference_after_it_stops_flapping() {
    let mut transcript = AnnouncementTranscript::announced(config());
    let updates = flap(&mut transcript, 600, Duration::from_millis(13_000 / 600));
    assert!(updates <= 16, "{updates} updates");
    expect![[r#"
        10.1.1.1/32 LeastPreferred: least preferred: flaps: the data plane stopped serving the address more than 3 times within 30 s
    "#]]
    .assert_eq(&transcript.state());
    assert_eq!(transcript.announcements.flapping(), 1);
    transcript.wait_alive(30);
    expect![[r#"
        10.1.1.1/32 Announced: 
    "#]]
    .assert_eq(&transcript.state());
    assert_eq!(transcript.announcements.flapping(), 0);
}

#[test]
fn an_address_with_four_losses_in_half_a_minute_is_withdrawn_after_the_damping_period() {
    let mut transcript = AnnouncementTranscript::announced(config());
    assert_eq!(flap(&mut transcript, 6, Duration::from_millis(1)), 6);
    transcript.start = transcript.now;
    transcript.feed(not_serving("10.1.1.1/32"));
    transcript.wait(1);
    transcript.check(&expect![[r#"
        0: not serving 10.1.1.1/32
            announce 10.1.1.1/32 local_pref 0 GRACEFUL_SHUTDOWN
        1: DeadlineReached
            withdraw 10.1.1.1/32
    "#]]);
}

#[test]
fn a_flapping_address_is_withdrawn_immediately_when_it_is_removed_or_loses_its_node_route() {
    for withdrawing_input in [
        AnnouncementInput::ServiceAddressRemoved(net("10.1.1.1/32")),
        route_lost(false),
    ] {
        let mut transcript = AnnouncementTranscript::announced(config());
        flap(&mut transcript, 7, Duration::from_millis(1));
        assert_eq!(transcript.announcements.flapping(), 1);
        let outputs = transcript.feed(withdrawing_input);
        assert!(
            outputs.contains(&AnnouncementOutput::Withdraw(net("10.1.1.1/32"))),
            "{outputs:?}"
        );
    }
}

#[test]
fn an_address_that_is_lost_every_twelve_seconds_is_withdrawn_at_each_loss() {
    let mut transcript = AnnouncementTranscript::announced(AnnouncementsConfig {
        data_plane_timeout: Duration::from_secs(3600),
        linger: Duration::from_secs(3600),
        ..config()
    });
    assert_eq!(flap(&mut transcript, 40, Duration::from_secs(6)), 40);
}
