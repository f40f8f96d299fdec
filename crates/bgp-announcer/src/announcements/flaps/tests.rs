use super::*;

const STEP: Duration = Duration::from_millis(20);

/// Flaps for the time; returns the lengths of the holds that began.
fn holds(flaps: &mut Flaps, now: &mut Instant, time: Duration) -> Vec<u64> {
    let end = *now + time;
    let mut holds = Vec::new();
    let mut is_served = true;
    while *now < end {
        let before = flaps.hold.map(|hold| hold.until);
        is_served = !is_served;
        flaps.evaluate(is_served, true, *now);
        if let Some(hold) = flaps.hold.filter(|hold| Some(hold.until) != before) {
            holds.push(hold.length.as_secs());
        }
        *now += STEP;
    }
    holds
}

#[test]
fn each_hold_is_twice_as_long_up_to_the_longest() {
    let (mut flaps, mut now) = (Flaps::default(), Instant::now());
    flaps.evaluate(true, true, now);
    let holds = holds(&mut flaps, &mut now, Duration::from_secs(120));
    assert_eq!(holds, [1, 2, 4, 8, 16, 30, 30, 30]);
    assert_eq!(flaps.losses.len(), FREE_LOSSES);
}

#[test]
fn after_a_calm_window_the_first_hold_is_as_short_as_ever() {
    let (mut flaps, mut now) = (Flaps::default(), Instant::now());
    flaps.evaluate(true, true, now);
    assert_eq!(
        holds(&mut flaps, &mut now, Duration::from_secs(5)),
        [1, 2, 4]
    );
    flaps.evaluate(true, true, now);
    now = flaps.deadline().expect("a hold");
    flaps.evaluate(true, true, now);
    // It was lost again within that hold.
    now = flaps.deadline().expect("a further hold");
    flaps.evaluate(true, true, now);
    assert_eq!(flaps.deadline(), None);
    now += WINDOW;
    assert_eq!(holds(&mut flaps, &mut now, Duration::from_secs(1)), [1]);
}

#[test]
fn what_is_not_announced_is_not_lost() {
    let (mut flaps, now) = (Flaps::default(), Instant::now());
    for is_served in [true, false].into_iter().cycle().take(40) {
        flaps.evaluate(is_served, false, now);
    }
    assert!(!flaps.is_flapping());
}
