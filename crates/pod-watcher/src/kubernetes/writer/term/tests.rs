use serde_json::json;

use super::*;
use service_catalog::{finding::Finding, model::WrittenStatus};

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

fn report(name: &str, second: i64, prefixes: &str) -> News<Lease> {
    let lease = json!({
        "metadata": { "name": name, "annotations": { "portlb.io/announced": prefixes } },
        "spec": {
            "leaseDurationSeconds": 15,
            "renewTime": format!("2026-01-01T00:00:{second:02}.000000Z"),
        },
    });
    News::Put(serde_json::from_value(lease).unwrap())
}

/// Services a, b and c with addresses 10.1.1.1 to 10.1.1.3; own report "own".
fn term(now: Instant) -> Term {
    let mut term = Term::new("own".to_owned());
    for (name, address) in [("a", "10.1.1.1"), ("b", "10.1.1.2"), ("c", "10.1.1.3")] {
        let view = Arc::new(view(address));
        term.viewed(Published::Changed(key(name), view), now);
    }
    term.viewed(Published::Synced, now);
    term.reported(News::Began, now);
    term.reported(report("own", 1, ""), now);
    term.reported(report("other", 1, "10.1.1.2/32"), now);
    term.reported(News::Listed, now);
    term.count(Some(now), now);
    term
}

fn event() -> Occurrence {
    Occurrence {
        event: Box::default(),
        count: 1,
    }
}

/// Names of the Services that are due by then; "event" for an Event. All are written.
fn drain(term: &mut Term, now: Instant) -> Vec<String> {
    let mut names = Vec::new();
    while let Some(job) = term.take(now) {
        match job {
            Job::Status(key) => {
                term.wrote_status(&key, true, now);
                names.push(key.name().to_owned());
            }
            Job::Event(_) => {
                term.wrote_event(now);
                names.push("event".to_owned());
            }
        }
    }
    names
}

#[test]
fn a_service_that_cannot_be_written_lets_the_others_through_and_waits_longer_each_time() {
    let mut now = Instant::now();
    let mut term = term(now);
    let mut waits = Vec::new();
    let mut others = Vec::new();
    for _ in 0..40 {
        now = term.next_due(now).unwrap().max(now);
        let Some(Job::Status(key)) = term.take(now) else {
            panic!("there are no Events");
        };
        if key.name() == "a" {
            term.failed_status(key.clone(), Extent::Passing, now);
            waits.push(term.later[&key] - now);
        } else {
            others.push(key.name().to_owned());
            term.wrote_status(&key, true, now);
        }
    }
    assert_eq!(others, ["b", "c"]);
    assert!(waits[0] < Duration::from_secs(1), "{waits:?}");
    assert!(*waits.last().unwrap() > LONGEST_DELAY / 2, "{waits:?}");
    // A change of it does not cut the wait short.
    let view = Arc::new(view("10.1.1.1"));
    term.viewed(Published::Changed(key("a"), view), now);
    assert!(term.next_due(now).unwrap() > now + LONGEST_DELAY / 2);
}

#[test]
fn a_farewell_that_is_refused_is_given_up_and_one_that_may_pass_is_not() {
    let now = Instant::now();
    let mut term = term(now);
    drain(&mut term, now);
    for name in ["a", "b"] {
        term.viewed(Published::Removed(key(name)), now);
    }
    term.failed_status(key("a"), Extent::Refused, now);
    term.failed_status(key("b"), Extent::Passing, now);
    assert_eq!(term.left.keys().collect::<Vec<_>>(), [&key("b")]);
    assert!(!term.later.contains_key(&key("a")));
    assert!(term.later.contains_key(&key("b")));
}

#[test]
fn events_take_turns_with_status_and_do_not_hold_it_up() {
    let now = Instant::now();
    let mut term = term(now);
    term.tell([event(), event()]);
    assert_eq!(drain(&mut term, now), ["a", "event", "b", "event", "c"]);
    term.tell([event()]);
    let Some(Job::Event(failed)) = term.take(now) else {
        panic!("only the Event is due");
    };
    term.failed_event(failed, Extent::Server, now);
    assert!(term.take(now).is_none());
    let view = Arc::new(view("10.1.1.1"));
    term.viewed(Published::Changed(key("a"), view), now);
    assert_eq!(drain(&mut term, now), ["a"]);
    assert_eq!(drain(&mut term, now + Duration::from_secs(1)), ["event"]);
}

#[test]
fn allocations_are_first_and_the_others_go_round() {
    let now = Instant::now();
    let mut term = term(now);
    let Some(Job::Status(first)) = term.take(now) else {
        panic!("a is due");
    };
    assert_eq!(first, key("a"));
    let mut allocated = view("10.1.1.3");
    allocated.allocation = allocated.addresses.clone();
    let changed = Arc::new(view("10.1.1.1"));
    term.viewed(Published::Changed(key("a"), changed), now);
    term.viewed(Published::Changed(key("c"), Arc::new(allocated)), now);
    assert_eq!(drain(&mut term, now), ["c", "b", "a"]);
}

#[test]
fn only_what_was_sent_is_followed_by_a_pause() {
    let now = Instant::now();
    let mut term = term(now);
    term.wrote_status(&key("a"), false, now);
    assert_eq!(term.next_due(now), Some(now));
    term.wrote_status(&key("a"), true, now);
    assert_eq!(term.next_due(now), Some(now + PACE));
}

#[test]
fn only_those_whose_count_has_changed_are_due() {
    let now = Instant::now();
    let mut term = term(now);
    drain(&mut term, now);
    term.reported(report("own", 2, "10.1.1.3/32"), now);
    term.count(Some(now), now);
    assert_eq!(drain(&mut term, now), ["c"]);
}

#[test]
fn reports_that_cannot_be_seen_are_not_gone() {
    let start = Instant::now();
    let mut term = term(start);
    drain(&mut term, start);
    let address = "10.1.1.2".parse().unwrap();
    // The own report is written, but not seen.
    let mut now = start + REPORT_DURATION;
    let written = Some(now - Duration::from_secs(2));
    term.count(written, now);
    assert_eq!(term.tally.count(address), 1);
    let next = term.next_count(written, now);
    assert_eq!(next, written.map(|at| at + REPORT_DURATION));
    // It is seen again before that of the other is.
    now += Duration::from_secs(5);
    term.reported(report("own", 9, ""), now);
    term.count(written, now);
    assert_eq!(term.tally.count(address), 1);
    // The watch is broken, and nobody can write.
    term.reported(News::Trouble(String::new()), now);
    now += REPORT_DURATION * 2;
    term.count(written, now);
    assert_eq!(term.tally.count(address), 1);
    term.reported(News::Recovered, now);
    term.count(written, now);
    assert_eq!(term.tally.count(address), 1);
    // All is seen, and the other does not renew.
    now += REPORT_DURATION;
    term.reported(report("own", 20, ""), now);
    term.count(Some(now), now);
    assert_eq!(term.tally.count(address), 0);
    assert_eq!(drain(&mut term, now), ["b"]);
}

#[test]
fn without_a_report_of_its_own_it_counts_the_others() {
    let start = Instant::now();
    let mut term = term(start);
    let now = start + REPORT_DURATION;
    term.count(Some(start), now);
    assert_eq!(term.tally.count("10.1.1.2".parse().unwrap()), 0);
}

#[test]
fn the_last_pod_is_done_when_all_is_written_that_follows_from_its_end() {
    let start = Instant::now();
    let now = start + REPORT_DURATION;
    let mut term = term(start);
    term.reported(report("own", 15, "10.1.1.3/32"), now);
    term.count(Some(now), now);
    drain(&mut term, now);
    assert!(!term.is_done());
    // Its report could not be taken back, and still comes.
    term.end();
    term.reported(report("own", 16, "10.1.1.3/32"), now);
    assert!(!term.is_done());
    assert_eq!(term.next_due(now), None);
    term.count(Some(now), now);
    assert_eq!(term.tally.count("10.1.1.3".parse().unwrap()), 0);
    term.tell([event()]);
    let view = Arc::new(view("10.1.1.1"));
    term.viewed(Published::Changed(key("a"), view), now);
    assert!(!term.is_done());
    assert_eq!(drain(&mut term, now), ["a", "c", "event"]);
    assert!(term.is_done());
}

#[test]
fn what_cannot_be_written_is_not_done() {
    let start = Instant::now();
    let now = start + REPORT_DURATION;
    let mut term = term(start);
    term.end();
    term.count(None, now);
    drain(&mut term, now);
    assert!(term.is_done());
    term.failed_status(key("a"), Extent::Passing, now);
    assert!(!term.is_done());
}

#[test]
fn a_pod_that_ends_leaves_the_rest_to_another_one_that_lives() {
    let now = Instant::now();
    let mut term = term(now);
    term.end();
    term.count(None, now);
    assert_eq!(term.tally.pods, 1);
    assert!(term.is_done());
}

#[test]
fn whether_another_one_lives_is_not_known_while_reports_cannot_be_seen() {
    let now = Instant::now();
    let mut term = term(now);
    drain(&mut term, now);
    term.reported(News::Trouble(String::new()), now);
    term.end();
    term.count(None, now);
    assert!(!term.is_done());
    assert_eq!(term.next_due(now), None);
    term.reported(News::Recovered, now);
    term.count(None, now);
    assert!(term.is_done());
}

#[test]
fn a_finding_of_which_only_numbers_change_is_told_once() {
    let mut known = Known {
        view: Arc::new(view("10.1.1.1")),
        told: BTreeMap::new(),
        written: BTreeMap::new(),
    };
    let mut told = |text: &str| {
        let mut view = view("10.1.1.1");
        view.findings = vec![Finding::new(Reason::EndpointsLeftOut, text)];
        known.view = Arc::new(view);
        known.begun(&key("a"), "pod-1").len()
    };
    assert_eq!(
        told("an endpoint is left out: 10.0.0.2:80 is a service address"),
        1
    );
    assert_eq!(
        told("3 endpoints are left out, such as 10.0.0.9:80 is a service address"),
        0
    );
    assert_eq!(
        told("an endpoint is left out: 10.0.0.2:80 listens on 80"),
        1
    );
}
