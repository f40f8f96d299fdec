use super::*;

const STEP: Duration = Duration::from_millis(20);

/// Changes every 20 ms whether the address is served, for `time`. Returns the lengths in seconds of
/// the damping periods that began.
fn damping_periods(flaps: &mut FlapDetector, now: &mut Instant, time: Duration) -> Vec<u64> {
    let end = *now + time;
    let mut damping_periods = Vec::new();
    let mut is_served = true;
    while *now < end {
        let before = flaps
            .damping_period
            .map(|damping_period| damping_period.until);
        is_served = !is_served;
        flaps.evaluate(is_served, true, *now);
        if let Some(damping_period) = flaps
            .damping_period
            .filter(|damping_period| Some(damping_period.until) != before)
        {
            damping_periods.push(damping_period.length.as_secs());
        }
        *now += STEP;
    }
    damping_periods
}

#[test]
fn each_damping_period_is_twice_as_long_as_the_previous_period_up_to_30_seconds() {
    let (mut flaps, mut now) = (FlapDetector::default(), Instant::now());
    flaps.evaluate(true, true, now);
    let damping_periods = damping_periods(&mut flaps, &mut now, Duration::from_secs(120));
    assert_eq!(damping_periods, [1, 2, 4, 8, 16, 30, 30, 30]);
    assert_eq!(flaps.losses.len(), IMMEDIATE_WITHDRAWALS);
}

#[test]
fn after_a_window_without_losses_the_next_damping_period_has_the_length_of_the_first() {
    let (mut flaps, mut now) = (FlapDetector::default(), Instant::now());
    flaps.evaluate(true, true, now);
    assert_eq!(
        damping_periods(&mut flaps, &mut now, Duration::from_secs(5)),
        [1, 2, 4]
    );
    flaps.evaluate(true, true, now);
    now = flaps.deadline().expect("a damping period");
    flaps.evaluate(true, true, now);
    // The address was lost within the damping period that has just ended, so a further damping
    // period has begun.
    now = flaps.deadline().expect("a further damping period");
    flaps.evaluate(true, true, now);
    assert_eq!(flaps.deadline(), None);
    now += WINDOW;
    assert_eq!(
        damping_periods(&mut flaps, &mut now, Duration::from_secs(1)),
        [1]
    );
}

#[test]
fn an_address_that_is_not_announced_does_not_flap() {
    let (mut flaps, now) = (FlapDetector::default(), Instant::now());
    for is_served in [true, false].into_iter().cycle().take(40) {
        flaps.evaluate(is_served, false, now);
    }
    assert!(!flaps.is_flapping());
}
