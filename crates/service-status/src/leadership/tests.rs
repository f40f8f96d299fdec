use service_catalog::{
    finding::{EventSeverity, Finding},
    model::WrittenStatus,
};

use super::*;

/// The middle of the range of random delays.
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

/// Returns a leader with the Services a, b and c, whose addresses are 10.1.1.1, 10.1.1.2 and
/// 10.1.1.3. The report "own" of this pod announces nothing, and the report "other" announces
/// 10.1.1.2.
fn leadership(now: Instant) -> Leadership {
    let mut leadership = Leadership::new("own".to_owned());
    for (name, address) in [("a", "10.1.1.1"), ("b", "10.1.1.2"), ("c", "10.1.1.3")] {
        let view = Arc::new(view(address));
        leadership.on_view(PublishedEvent::Changed(key(name), view), now);
    }
    leadership.on_view(PublishedEvent::Synced, now);
    leadership.on_report(ReportEvent::ListStarted, now);
    leadership.on_report(report("own", 1, ""), now);
    leadership.on_report(report("other", 1, "10.1.1.2/32"), now);
    leadership.on_report(ReportEvent::Listed, now);
    leadership.recount(Some(now), now);
    leadership
}

fn event() -> Occurrence {
    Occurrence {
        event: ServiceEvent {
            name: "a.1".to_owned(),
            service: key("a"),
            uid: "u".to_owned(),
            severity: EventSeverity::Normal,
            reason: "Announced",
            message: String::new(),
        },
        count: 1,
    }
}

/// Writes everything that is due at `now`. Returns the names of the written Services, and "event"
/// for each Event.
fn drain(leadership: &mut Leadership, now: Instant) -> Vec<String> {
    let mut names = Vec::new();
    while let Some(job) = leadership.take(now) {
        match job {
            WriteJob::Status(key) => {
                leadership.wrote_status(&key, true, now);
                names.push(key.name().to_owned());
            }
            WriteJob::Event(_) => {
                leadership.wrote_event(now);
                names.push("event".to_owned());
            }
        }
    }
    names
}

#[test]
fn a_service_whose_writes_fail_waits_longer_each_time_and_does_not_delay_other_services() {
    let mut now = Instant::now();
    let mut leadership = leadership(now);
    let mut waits = Vec::new();
    let mut others = Vec::new();
    for _ in 0..40 {
        now = leadership.next_due(now).unwrap().max(now);
        let Some(WriteJob::Status(key)) = leadership.take(now) else {
            panic!("only status writes are due");
        };
        if key.name() == "a" {
            leadership.failed_status(key.clone(), FailureScope::Transient, now, JITTER);
            waits.push(leadership.not_before[&key] - now);
        } else {
            others.push(key.name().to_owned());
            leadership.wrote_status(&key, true, now);
        }
    }
    assert_eq!(others, ["b", "c"]);
    assert!(waits[0] < Duration::from_secs(1), "{waits:?}");
    assert!(*waits.last().unwrap() > LONGEST_DELAY / 2, "{waits:?}");
    // A changed view of the Service does not shorten the delay.
    let view = Arc::new(view("10.1.1.1"));
    leadership.on_view(PublishedEvent::Changed(key("a"), view), now);
    assert!(leadership.next_due(now).unwrap() > now + LONGEST_DELAY / 2);
}

#[test]
fn clearing_a_status_is_retried_unless_the_api_server_refuses_it() {
    let now = Instant::now();
    let mut leadership = leadership(now);
    drain(&mut leadership, now);
    for name in ["a", "b"] {
        leadership.on_view(PublishedEvent::Removed(key(name)), now);
    }
    leadership.failed_status(key("a"), FailureScope::Refused, now, JITTER);
    leadership.failed_status(key("b"), FailureScope::Transient, now, JITTER);
    assert_eq!(leadership.released.keys().collect::<Vec<_>>(), [&key("b")]);
    assert!(!leadership.not_before.contains_key(&key("a")));
    assert!(leadership.not_before.contains_key(&key("b")));
}

#[test]
fn events_alternate_with_status_writes_and_do_not_delay_them() {
    let now = Instant::now();
    let mut leadership = leadership(now);
    leadership.queue_events([event(), event()]);
    assert_eq!(
        drain(&mut leadership, now),
        ["a", "event", "b", "event", "c"]
    );
    leadership.queue_events([event()]);
    let Some(WriteJob::Event(failed)) = leadership.take(now) else {
        panic!("only the Event is due");
    };
    leadership.failed_event(failed, FailureScope::Server, now, JITTER);
    assert!(leadership.take(now).is_none());
    let view = Arc::new(view("10.1.1.1"));
    leadership.on_view(PublishedEvent::Changed(key("a"), view), now);
    assert_eq!(drain(&mut leadership, now), ["a"]);
    assert_eq!(
        drain(&mut leadership, now + Duration::from_secs(1)),
        ["event"]
    );
}

#[test]
fn new_allocations_are_written_first_and_other_services_take_turns() {
    let now = Instant::now();
    let mut leadership = leadership(now);
    let Some(WriteJob::Status(first)) = leadership.take(now) else {
        panic!("a is due");
    };
    assert_eq!(first, key("a"));
    let mut allocated = view("10.1.1.3");
    allocated.allocation = allocated.addresses.clone();
    let changed = Arc::new(view("10.1.1.1"));
    leadership.on_view(PublishedEvent::Changed(key("a"), changed), now);
    leadership.on_view(PublishedEvent::Changed(key("c"), Arc::new(allocated)), now);
    assert_eq!(drain(&mut leadership, now), ["c", "b", "a"]);
}

#[test]
fn only_a_sent_request_is_followed_by_a_pause() {
    let now = Instant::now();
    let mut leadership = leadership(now);
    leadership.wrote_status(&key("a"), false, now);
    assert_eq!(leadership.next_due(now), Some(now));
    leadership.wrote_status(&key("a"), true, now);
    assert_eq!(leadership.next_due(now), Some(now + PACE));
}

#[test]
fn only_services_with_a_changed_announcement_count_are_due() {
    let now = Instant::now();
    let mut leadership = leadership(now);
    drain(&mut leadership, now);
    leadership.on_report(report("own", 2, "10.1.1.3/32"), now);
    leadership.recount(Some(now), now);
    assert_eq!(drain(&mut leadership, now), ["c"]);
}

#[test]
fn expired_reports_count_while_the_watch_of_reports_is_broken() {
    let start = Instant::now();
    let mut leadership = leadership(start);
    drain(&mut leadership, start);
    let address = "10.1.1.2".parse().unwrap();
    // This pod has written its own report, but the watch has not delivered it.
    let mut now = start + REPORT_DURATION;
    let written = Some(now - Duration::from_secs(2));
    leadership.recount(written, now);
    assert_eq!(leadership.announcements.count(address), 1);
    let next = leadership.next_count(written, now);
    assert_eq!(next, written.map(|at| at + REPORT_DURATION));
    // The watch delivers this pod's report before the report of the other pod.
    now += Duration::from_secs(5);
    leadership.on_report(report("own", 9, ""), now);
    leadership.recount(written, now);
    assert_eq!(leadership.announcements.count(address), 1);
    // The watch is broken, and no pod can renew its report.
    leadership.on_report(ReportEvent::Failed(String::new()), now);
    now += REPORT_DURATION * 2;
    leadership.recount(written, now);
    assert_eq!(leadership.announcements.count(address), 1);
    leadership.on_report(ReportEvent::Recovered, now);
    leadership.recount(written, now);
    assert_eq!(leadership.announcements.count(address), 1);
    // The watch delivers all reports, and the other pod has not renewed its report.
    now += REPORT_DURATION;
    leadership.on_report(report("own", 20, ""), now);
    leadership.recount(Some(now), now);
    assert_eq!(leadership.announcements.count(address), 0);
    assert_eq!(drain(&mut leadership, now), ["b"]);
}

#[test]
fn expired_reports_do_not_count_while_this_pod_cannot_write_its_own_report() {
    let start = Instant::now();
    let mut leadership = leadership(start);
    let now = start + REPORT_DURATION;
    leadership.recount(Some(start), now);
    assert_eq!(
        leadership.announcements.count("10.1.1.2".parse().unwrap()),
        0
    );
}

#[test]
fn the_last_ending_pod_is_done_after_it_has_written_all_changes() {
    let start = Instant::now();
    let now = start + REPORT_DURATION;
    let mut leadership = leadership(start);
    leadership.on_report(report("own", 15, "10.1.1.3/32"), now);
    leadership.recount(Some(now), now);
    drain(&mut leadership, now);
    assert!(!leadership.is_done());
    // The removal of this pod's report has failed, and the watch still delivers the report.
    leadership.end();
    leadership.on_report(report("own", 16, "10.1.1.3/32"), now);
    assert!(!leadership.is_done());
    assert_eq!(leadership.next_due(now), None);
    leadership.recount(Some(now), now);
    assert_eq!(
        leadership.announcements.count("10.1.1.3".parse().unwrap()),
        0
    );
    leadership.queue_events([event()]);
    let view = Arc::new(view("10.1.1.1"));
    leadership.on_view(PublishedEvent::Changed(key("a"), view), now);
    assert!(!leadership.is_done());
    assert_eq!(drain(&mut leadership, now), ["a", "c", "event"]);
    assert!(leadership.is_done());
}

#[test]
fn an_ending_pod_is_not_done_while_a_write_fails() {
    let start = Instant::now();
    let now = start + REPORT_DURATION;
    let mut leadership = leadership(start);
    leadership.end();
    leadership.recount(None, now);
    drain(&mut leadership, now);
    assert!(leadership.is_done());
    leadership.failed_status(key("a"), FailureScope::Transient, now, JITTER);
    assert!(!leadership.is_done());
}

#[test]
fn an_ending_pod_leaves_the_remaining_writes_to_another_pod() {
    let now = Instant::now();
    let mut leadership = leadership(now);
    leadership.end();
    leadership.recount(None, now);
    assert_eq!(leadership.announcements.pods, 1);
    assert!(leadership.is_done());
}

#[test]
fn an_ending_pod_is_not_done_while_the_watch_of_reports_is_broken() {
    let now = Instant::now();
    let mut leadership = leadership(now);
    drain(&mut leadership, now);
    leadership.on_report(ReportEvent::Failed(String::new()), now);
    leadership.end();
    leadership.recount(None, now);
    assert!(!leadership.is_done());
    assert_eq!(leadership.next_due(now), None);
    leadership.on_report(ReportEvent::Recovered, now);
    leadership.recount(None, now);
    assert!(leadership.is_done());
}

#[test]
fn a_finding_is_reported_again_only_after_it_was_absent() {
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
