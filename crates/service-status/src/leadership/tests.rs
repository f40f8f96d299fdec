use service_catalog::{
    finding::{Finding, Severity},
    model::WrittenStatus,
};

use super::*;

/// The middle of the spread.
const JITTER: f64 = 0.5;

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("shop", name)
}

fn view(address: &str) -> ServiceView {
    ServiceView {
        uid: "u".into(),
        generation: 1,
        is_load_balancer: true,
        addresses: vec![address.parse().unwrap()],
        ports: Vec::new(),
        allocation: Vec::new(),
        weight_levels: None,
        is_of_pool: false,
        findings: Vec::new(),
        is_understood: true,
        written: WrittenStatus::default(),
    }
}

fn report(name: &str, second: i64, prefixes: &str) -> ReportEvent {
    ReportEvent::Put(ReportLease {
        name: name.to_owned(),
        announced: prefixes.to_owned(),
        renewed: jiff::Timestamp::from_second(second).ok(),
        duration_seconds: Some(15),
    })
}

/// Services a, b and c with addresses 10.1.1.1 to 10.1.1.3; own report "own".
fn leadership(now: Instant) -> Leadership {
    let mut leadership = Leadership::new("own".to_owned());
    for (name, address) in [("a", "10.1.1.1"), ("b", "10.1.1.2"), ("c", "10.1.1.3")] {
        let view = Arc::new(view(address));
        leadership.on_view(Published::Changed(key(name), view), now);
    }
    leadership.on_view(Published::Synced, now);
    leadership.on_report(ReportEvent::Began, now);
    leadership.on_report(report("own", 1, ""), now);
    leadership.on_report(report("other", 1, "10.1.1.2/32"), now);
    leadership.on_report(ReportEvent::Listed, now);
    leadership.count(Some(now), now);
    leadership
}

fn event() -> Occurrence {
    Occurrence {
        event: Event {
            name: "a.1".to_owned(),
            service: key("a"),
            uid: "u".to_owned(),
            severity: Severity::Normal,
            reason: "Announced",
            message: String::new(),
        },
        count: 1,
    }
}

/// Names of the Services that are due by then; "event" for an Event. All are written.
fn drain(leadership: &mut Leadership, now: Instant) -> Vec<String> {
    let mut names = Vec::new();
    while let Some(job) = leadership.take(now) {
        match job {
            Job::Status(key) => {
                leadership.wrote_status(&key, true, now);
                names.push(key.name().to_owned());
            }
            Job::Event(_) => {
                leadership.wrote_event(now);
                names.push("event".to_owned());
            }
        }
    }
    names
}

#[test]
fn a_service_that_cannot_be_written_lets_the_others_through_and_waits_longer_each_time() {
    let mut now = Instant::now();
    let mut leadership = leadership(now);
    let mut waits = Vec::new();
    let mut others = Vec::new();
    for _ in 0..40 {
        now = leadership.next_due(now).unwrap().max(now);
        let Some(Job::Status(key)) = leadership.take(now) else {
            panic!("there are no Events");
        };
        if key.name() == "a" {
            leadership.failed_status(key.clone(), FailureScope::Passing, now, JITTER);
            waits.push(leadership.later[&key] - now);
        } else {
            others.push(key.name().to_owned());
            leadership.wrote_status(&key, true, now);
        }
    }
    assert_eq!(others, ["b", "c"]);
    assert!(waits[0] < Duration::from_secs(1), "{waits:?}");
    assert!(*waits.last().unwrap() > LONGEST_DELAY / 2, "{waits:?}");
    // A change of it does not cut the wait short.
    let view = Arc::new(view("10.1.1.1"));
    leadership.on_view(Published::Changed(key("a"), view), now);
    assert!(leadership.next_due(now).unwrap() > now + LONGEST_DELAY / 2);
}

#[test]
fn a_cleared_status_that_is_refused_is_given_up_and_one_that_may_pass_is_not() {
    let now = Instant::now();
    let mut leadership = leadership(now);
    drain(&mut leadership, now);
    for name in ["a", "b"] {
        leadership.on_view(Published::Removed(key(name)), now);
    }
    leadership.failed_status(key("a"), FailureScope::Refused, now, JITTER);
    leadership.failed_status(key("b"), FailureScope::Passing, now, JITTER);
    assert_eq!(leadership.left.keys().collect::<Vec<_>>(), [&key("b")]);
    assert!(!leadership.later.contains_key(&key("a")));
    assert!(leadership.later.contains_key(&key("b")));
}

#[test]
fn events_take_turns_with_status_and_do_not_hold_it_up() {
    let now = Instant::now();
    let mut leadership = leadership(now);
    leadership.queue_events([event(), event()]);
    assert_eq!(
        drain(&mut leadership, now),
        ["a", "event", "b", "event", "c"]
    );
    leadership.queue_events([event()]);
    let Some(Job::Event(failed)) = leadership.take(now) else {
        panic!("only the Event is due");
    };
    leadership.failed_event(failed, FailureScope::Server, now, JITTER);
    assert!(leadership.take(now).is_none());
    let view = Arc::new(view("10.1.1.1"));
    leadership.on_view(Published::Changed(key("a"), view), now);
    assert_eq!(drain(&mut leadership, now), ["a"]);
    assert_eq!(
        drain(&mut leadership, now + Duration::from_secs(1)),
        ["event"]
    );
}

#[test]
fn allocations_are_first_and_the_others_go_round() {
    let now = Instant::now();
    let mut leadership = leadership(now);
    let Some(Job::Status(first)) = leadership.take(now) else {
        panic!("a is due");
    };
    assert_eq!(first, key("a"));
    let mut allocated = view("10.1.1.3");
    allocated.allocation = allocated.addresses.clone();
    let changed = Arc::new(view("10.1.1.1"));
    leadership.on_view(Published::Changed(key("a"), changed), now);
    leadership.on_view(Published::Changed(key("c"), Arc::new(allocated)), now);
    assert_eq!(drain(&mut leadership, now), ["c", "b", "a"]);
}

#[test]
fn only_what_was_sent_is_followed_by_a_pause() {
    let now = Instant::now();
    let mut leadership = leadership(now);
    leadership.wrote_status(&key("a"), false, now);
    assert_eq!(leadership.next_due(now), Some(now));
    leadership.wrote_status(&key("a"), true, now);
    assert_eq!(leadership.next_due(now), Some(now + PACE));
}

#[test]
fn only_those_whose_count_has_changed_are_due() {
    let now = Instant::now();
    let mut leadership = leadership(now);
    drain(&mut leadership, now);
    leadership.on_report(report("own", 2, "10.1.1.3/32"), now);
    leadership.count(Some(now), now);
    assert_eq!(drain(&mut leadership, now), ["c"]);
}

#[test]
fn reports_that_cannot_be_seen_are_not_gone() {
    let start = Instant::now();
    let mut leadership = leadership(start);
    drain(&mut leadership, start);
    let address = "10.1.1.2".parse().unwrap();
    // The own report is written, but not seen.
    let mut now = start + REPORT_DURATION;
    let written = Some(now - Duration::from_secs(2));
    leadership.count(written, now);
    assert_eq!(leadership.tally.count(address), 1);
    let next = leadership.next_count(written, now);
    assert_eq!(next, written.map(|at| at + REPORT_DURATION));
    // It is seen again before that of the other is.
    now += Duration::from_secs(5);
    leadership.on_report(report("own", 9, ""), now);
    leadership.count(written, now);
    assert_eq!(leadership.tally.count(address), 1);
    // The watch is broken, and nobody can write.
    leadership.on_report(ReportEvent::Trouble(String::new()), now);
    now += REPORT_DURATION * 2;
    leadership.count(written, now);
    assert_eq!(leadership.tally.count(address), 1);
    leadership.on_report(ReportEvent::Recovered, now);
    leadership.count(written, now);
    assert_eq!(leadership.tally.count(address), 1);
    // All is seen, and the other does not renew.
    now += REPORT_DURATION;
    leadership.on_report(report("own", 20, ""), now);
    leadership.count(Some(now), now);
    assert_eq!(leadership.tally.count(address), 0);
    assert_eq!(drain(&mut leadership, now), ["b"]);
}

#[test]
fn without_a_report_of_its_own_it_counts_the_others() {
    let start = Instant::now();
    let mut leadership = leadership(start);
    let now = start + REPORT_DURATION;
    leadership.count(Some(start), now);
    assert_eq!(leadership.tally.count("10.1.1.2".parse().unwrap()), 0);
}

#[test]
fn the_last_pod_is_done_when_all_is_written_that_follows_from_its_end() {
    let start = Instant::now();
    let now = start + REPORT_DURATION;
    let mut leadership = leadership(start);
    leadership.on_report(report("own", 15, "10.1.1.3/32"), now);
    leadership.count(Some(now), now);
    drain(&mut leadership, now);
    assert!(!leadership.is_done());
    // Its report could not be taken back, and still comes.
    leadership.end();
    leadership.on_report(report("own", 16, "10.1.1.3/32"), now);
    assert!(!leadership.is_done());
    assert_eq!(leadership.next_due(now), None);
    leadership.count(Some(now), now);
    assert_eq!(leadership.tally.count("10.1.1.3".parse().unwrap()), 0);
    leadership.queue_events([event()]);
    let view = Arc::new(view("10.1.1.1"));
    leadership.on_view(Published::Changed(key("a"), view), now);
    assert!(!leadership.is_done());
    assert_eq!(drain(&mut leadership, now), ["a", "c", "event"]);
    assert!(leadership.is_done());
}

#[test]
fn what_cannot_be_written_is_not_done() {
    let start = Instant::now();
    let now = start + REPORT_DURATION;
    let mut leadership = leadership(start);
    leadership.end();
    leadership.count(None, now);
    drain(&mut leadership, now);
    assert!(leadership.is_done());
    leadership.failed_status(key("a"), FailureScope::Passing, now, JITTER);
    assert!(!leadership.is_done());
}

#[test]
fn a_pod_that_ends_leaves_the_rest_to_another_one_that_lives() {
    let now = Instant::now();
    let mut leadership = leadership(now);
    leadership.end();
    leadership.count(None, now);
    assert_eq!(leadership.tally.pods, 1);
    assert!(leadership.is_done());
}

#[test]
fn whether_another_one_lives_is_not_known_while_reports_cannot_be_seen() {
    let now = Instant::now();
    let mut leadership = leadership(now);
    drain(&mut leadership, now);
    leadership.on_report(ReportEvent::Trouble(String::new()), now);
    leadership.end();
    leadership.count(None, now);
    assert!(!leadership.is_done());
    assert_eq!(leadership.next_due(now), None);
    leadership.on_report(ReportEvent::Recovered, now);
    leadership.count(None, now);
    assert!(leadership.is_done());
}

#[test]
fn a_finding_is_reported_once_for_as_long_as_it_is_there() {
    let mut service = TrackedService {
        view: Arc::new(view("10.1.1.1")),
        reported: BTreeMap::new(),
        written: BTreeMap::new(),
    };
    let mut counts = |text: Option<&str>| {
        let mut view = view("10.1.1.1");
        let finding = text.map(|text| Finding::new(Reason::BadAnnotation, text));
        view.findings = finding.into_iter().collect();
        service.view = Arc::new(view);
        let occurrences = service.new_findings(&key("a")).into_iter();
        occurrences
            .map(|occurrence| occurrence.count)
            .collect::<Vec<u32>>()
    };
    assert_eq!(counts(Some("one")), [1]);
    assert!(counts(Some("one")).is_empty());
    assert_eq!(counts(Some("other")), [1]);
    assert!(counts(None).is_empty());
    assert_eq!(counts(Some("one")), [2]);
}
