use service_catalog::{finding::Reason, model::WrittenStatus};

use super::*;

fn key() -> ObjectKey {
    ObjectKey::new("web", "shop")
}

fn view() -> ServiceView {
    ServiceView {
        uid: "u".into(),
        generation: 3,
        is_load_balancer: true,
        addresses: Vec::new(),
        is_understood: true,
        ports: Vec::new(),
        allocation: Vec::new(),
        weight_levels: None,
        is_of_pool: false,
        findings: Vec::new(),
        written: WrittenStatus::default(),
    }
}

#[test]
fn the_same_finding_has_the_same_event_and_a_change_has_one_for_each_time() {
    let finding = Finding::new(
        Reason::BadAnnotation,
        "portlb.io/scheduler: no such scheduler",
    );
    let event = Event::of_finding(&key(), &view(), &finding);
    assert_eq!(event, Event::of_finding(&key(), &view(), &finding));
    assert_eq!(event.severity, Severity::Warning);
    let mut change = StatusChange {
        severity: Severity::Normal,
        reason: "Announced",
        message: String::new(),
        at_second: 1,
    };
    let first = Event::of_change(&key(), &view(), &change);
    change.at_second = 2;
    let second = Event::of_change(&key(), &view(), &change);
    assert_ne!(first.name, second.name);
}

#[test]
fn the_name_of_an_event_is_the_same_in_every_version() {
    let finding = Finding::new(Reason::BadAnnotation, "x");
    let event = Event::of_finding(&key(), &view(), &finding);
    assert_eq!(event.name, "shop.58b12cbfa80fb2f7");
}
