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
fn equal_findings_have_one_event_name_and_repeated_changes_have_several() {
    let finding = Finding::new(
        Reason::BadAnnotation,
        "portlb.io/scheduler: no such scheduler",
    );
    let event = ServiceEvent::of_finding(&key(), &view(), &finding);
    assert_eq!(event, ServiceEvent::of_finding(&key(), &view(), &finding));
    assert_eq!(event.severity, EventSeverity::Warning);
    let mut change = StatusChange {
        severity: EventSeverity::Normal,
        reason: "Announced",
        message: String::new(),
        at_second: 1,
    };
    let first = ServiceEvent::of_change(&key(), &view(), &change);
    change.at_second = 2;
    let second = ServiceEvent::of_change(&key(), &view(), &change);
    assert_ne!(first.name, second.name);
}

#[test]
fn the_name_of_an_event_does_not_change_between_versions() {
    let finding = Finding::new(Reason::BadAnnotation, "x");
    let event = ServiceEvent::of_finding(&key(), &view(), &finding);
    assert_eq!(event.name, "shop.58b12cbfa80fb2f7");
}
