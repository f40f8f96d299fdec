//! Addresses that the data plane stops serving again and again.

use super::*;

/// The data plane says `changes` times that it serves the address or not, beginning with not.
fn flap(transcript: &mut Transcript, changes: u32, interval: Duration) -> usize {
    let mut updates = 0;
    for change in 0..changes {
        let now = transcript.now + interval;
        if let Some(deadline) = transcript.announcements.next_deadline()
            && deadline <= now
        {
            updates += transcript
                .announcements
                .handle(Input::DeadlineReached, now)
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
fn an_address_that_flaps_costs_few_updates_and_is_announced_as_usual_when_it_is_calm() {
    let mut transcript = Transcript::announced(config());
    let updates = flap(&mut transcript, 600, Duration::from_millis(13_000 / 600));
    assert!(updates <= 16, "{updates} updates");
    expect![[r#"
        10.1.1.1/32 LeastPreferred: least preferred: flaps: the data plane stopped serving it more than 3 times within 30 s
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
fn the_fourth_loss_of_an_address_within_half_a_minute_is_not_withdrawn_until_the_hold_is_over() {
    let mut transcript = Transcript::announced(config());
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
fn an_address_that_flaps_is_withdrawn_at_once_when_it_is_removed_or_its_route_is_gone() {
    for gone in [
        Input::ServiceAddressRemoved(net("10.1.1.1/32")),
        route_lost(false),
    ] {
        let mut transcript = Transcript::announced(config());
        flap(&mut transcript, 7, Duration::from_millis(1));
        assert_eq!(transcript.announcements.flapping(), 1);
        let outputs = transcript.feed(gone);
        assert!(
            outputs.contains(&Output::Withdraw(net("10.1.1.1/32"))),
            "{outputs:?}"
        );
    }
}

#[test]
fn rare_losses_are_withdrawn_each() {
    let mut transcript = Transcript::announced(AnnouncementsConfig {
        data_plane_timeout: Duration::from_secs(3600),
        linger: Duration::from_secs(3600),
        ..config()
    });
    assert_eq!(flap(&mut transcript, 40, Duration::from_secs(6)), 40);
}
