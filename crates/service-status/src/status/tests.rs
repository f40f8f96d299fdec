use std::time::Instant;

use service_catalog::model::WrittenStatus;

use super::*;
use crate::reports::{ReportLease, Reports};

const NOW: i64 = 1_700_000_000;

fn key() -> ObjectKey {
    ObjectKey::new("web", "shop")
}

fn now() -> Timestamp {
    Timestamp::from_second(NOW).unwrap()
}

fn view(addresses: &[&str]) -> ServiceView {
    ServiceView {
        uid: "u".into(),
        generation: 3,
        is_load_balancer: true,
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        is_understood: true,
        ports: vec![(Protocol::Tcp, 80)],
        allocation: Vec::new(),
        weight_levels: None,
        is_of_pool: false,
        findings: Vec::new(),
        written: WrittenStatus::default(),
    }
}

fn announcements(pods: &[&str]) -> AnnouncementCounts {
    let now = Instant::now();
    let mut reports = Reports::default();
    for (number, prefixes) in pods.iter().enumerate() {
        let report = ReportLease {
            name: format!("portlb-{number}"),
            announced: (*prefixes).to_owned(),
            renewed: None,
            duration_seconds: Some(15),
        };
        reports.put(report, now);
    }
    reports.announcements(now)
}

fn condition_of(status: &str, reason: &str, message: &str) -> Condition {
    Condition {
        status: status.into(),
        reason: reason.into(),
        message: message.into(),
        last_transition_seconds: NOW - 60,
    }
}

fn ingress(address: &str) -> Ingress {
    Ingress {
        address: address.parse().unwrap(),
        ip_mode: Some("Proxy".into()),
        ports: vec![(Protocol::Tcp, 80)],
    }
}

#[test]
fn the_status_of_a_service_that_was_never_valid_is_not_changed() {
    let mut view = view(&[]);
    view.is_understood = false;
    view.written.address = Some(condition_of("True", "Allocated:10_1_1_10", "10.1.1.10"));
    view.written.ingress = vec![ingress("10.1.1.10")];
    assert_eq!(
        writes(
            &key(),
            &view,
            &announcements(&["10.1.1.0/24"]),
            IpMode::Kept,
            now()
        ),
        []
    );
}

#[test]
fn an_announced_address_is_written_with_ip_mode_and_ports() {
    let writes = writes(
        &key(),
        &view(&["10.1.1.10"]),
        &announcements(&["10.1.1.0/24"; 2]),
        IpMode::Kept,
        now(),
    );
    let [write] = &writes[..] else {
        panic!("{writes:?}")
    };
    assert_eq!(write.manager, STATUS_MANAGER);
    assert_eq!(
        write.document["status"],
        json!({
            "conditions": [{
                "type": "portlb.io/Announced",
                "status": "True",
                "reason": "Announced",
                "message": "10.1.1.10 is announced by 2 load balancers",
                "observedGeneration": 3,
                "lastTransitionTime": "2023-11-14T22:13:20Z",
            }],
            "loadBalancer": { "ingress": [
                { "ip": "10.1.1.10", "ipMode": "Proxy", "ports": [{ "port": 80, "protocol": "TCP" }] },
            ]},
        })
    );
    assert_eq!(write.change.as_ref().unwrap().reason, "Announced");
}

#[test]
fn an_up_to_date_status_is_not_written_again() {
    let mut view = view(&["10.1.1.10"]);
    view.written.ingress = vec![ingress("10.1.1.10")];
    let message = "10.1.1.10 is announced by 1 load balancer";
    view.written.announced = Some(condition_of("True", "Announced", message));
    assert_eq!(
        writes(
            &key(),
            &view,
            &announcements(&["10.1.1.10/32"]),
            IpMode::Kept,
            now()
        ),
        []
    );
}

#[test]
fn an_ip_mode_that_the_api_server_drops_is_not_written_again() {
    let mut view = view(&["10.1.1.10"]);
    let mut without = ingress("10.1.1.10");
    without.ip_mode = None;
    view.written.ingress = vec![without];
    let message = "10.1.1.10 is announced by 1 load balancer";
    view.written.announced = Some(condition_of("True", "Announced", message));
    let announcements = announcements(&["10.1.1.10/32"]);
    let count = |mode| writes(&key(), &view, &announcements, mode, now()).len();
    assert_eq!((count(IpMode::Kept), count(IpMode::Dropped)), (1, 0));
}

#[test]
fn a_status_that_another_program_changed_is_corrected_without_an_event() {
    let mut view = view(&["10.1.1.10"]);
    let mut other = ingress("10.1.1.10");
    other.ip_mode = Some("VIP".into());
    view.written.ingress = vec![other];
    let message = "10.1.1.10 is announced by 1 load balancer";
    view.written.announced = Some(condition_of("True", "Announced", message));
    let writes = writes(
        &key(),
        &view,
        &announcements(&["10.1.1.10/32"]),
        IpMode::Kept,
        now(),
    );
    let status = &writes[0].document["status"];
    assert_eq!(status["loadBalancer"]["ingress"][0]["ipMode"], "Proxy");
    assert_eq!(status["conditions"][0]["reason"], "Announced");
    assert_eq!(writes[0].change, None);
}

#[test]
fn a_changed_number_of_load_balancers_keeps_the_transition_time_and_causes_no_event() {
    let mut view = view(&["10.1.1.10"]);
    view.written.ingress = vec![ingress("10.1.1.10")];
    let message = "10.1.1.10 is announced by 2 load balancers";
    view.written.announced = Some(condition_of("True", "Announced", message));
    let writes = writes(
        &key(),
        &view,
        &announcements(&["10.1.1.10/32"]),
        IpMode::Kept,
        now(),
    );
    let condition = &writes[0].document["status"]["conditions"][0];
    assert_eq!(condition["lastTransitionTime"], "2023-11-14T22:12:20Z");
    assert_eq!(
        condition["message"],
        "10.1.1.10 is announced by 1 load balancer"
    );
    assert_eq!(writes[0].change, None);
}

#[test]
fn an_address_that_is_no_longer_announced_is_removed_with_an_event() {
    let mut view = view(&["10.1.1.10"]);
    view.written.ingress = vec![ingress("10.1.1.10")];
    view.written.announced = Some(condition_of(
        "True",
        "Announced",
        "10.1.1.10 is announced by 1 load balancer",
    ));
    let writes = writes(&key(), &view, &announcements(&[]), IpMode::Kept, now());
    let status = &writes[0].document["status"];
    assert_eq!(status.get("loadBalancer"), None);
    assert_eq!(status["conditions"][0]["reason"], "NotAnnounced");
    assert_eq!(writes[0].change.as_ref().unwrap().reason, "Withdrawn");
}

#[test]
fn the_event_about_an_address_without_announcement_names_readyz() {
    let view = view(&["10.1.1.10"]);
    let writes = writes(&key(), &view, &announcements(&[]), IpMode::Kept, now());
    let change = writes[0].change.as_ref().unwrap();
    assert_eq!(change.reason, "NotAnnounced");
    assert!(change.message.contains("/readyz"), "{}", change.message);
}

#[test]
fn a_service_with_one_announced_address_family_of_two_is_degraded() {
    let view = view(&["10.1.1.10", "2001:db8::10"]);
    let writes = writes(
        &key(),
        &view,
        &announcements(&["10.1.1.10/32"]),
        IpMode::Kept,
        now(),
    );
    let status = &writes[0].document["status"];
    assert_eq!(status["conditions"][0]["reason"], "PartlyAnnounced");
    assert_eq!(
        status["conditions"][0]["message"],
        "10.1.1.10 is announced by 1 load balancer, 2001:db8::10 is announced by no load balancer"
    );
    assert_eq!(
        status["loadBalancer"]["ingress"].as_array().unwrap().len(),
        1
    );
    assert_eq!(writes[0].change.as_ref().unwrap().reason, "Degraded");
}

#[test]
fn the_condition_that_records_addresses_is_written_and_removed_with_the_allocation() {
    let mut view = view(&[]);
    view.written.announced = Some(condition_of(
        "False",
        "NoAddress",
        "the Service has no address",
    ));
    view.allocation = vec!["10.1.1.9".parse().unwrap(), "2001:db8::9".parse().unwrap()];
    let kept = writes(&key(), &view, &announcements(&[]), IpMode::Kept, now());
    let [write] = &kept[..] else {
        panic!("{kept:?}")
    };
    assert_eq!(write.manager, ADDRESS_MANAGER);
    let condition = &write.document["status"]["conditions"][0];
    assert_eq!(condition["message"], "10.1.1.9, 2001:db8::9");

    view.written.address = Some(condition_of(
        "True",
        "Allocated:10_1_1_9,2001:db8:0:0:0:0:0:9",
        "10.1.1.9, 2001:db8::9",
    ));
    assert_eq!(
        writes(&key(), &view, &announcements(&[]), IpMode::Kept, now()),
        []
    );
    view.allocation.clear();
    let report_removed = writes(&key(), &view, &announcements(&[]), IpMode::Kept, now());
    assert_eq!(report_removed[0].document["status"], json!({}));
}

#[test]
fn the_condition_that_records_weight_levels_is_written_and_removed_with_the_rounding() {
    let mut view = view(&[]);
    view.written.announced = Some(condition_of(
        "False",
        "NoAddress",
        "the Service has no address",
    ));
    view.weight_levels = Some(8);
    let recorded = writes(&key(), &view, &announcements(&[]), IpMode::Kept, now());
    let [write] = &recorded[..] else {
        panic!("{recorded:?}")
    };
    assert_eq!(write.manager, WEIGHT_LEVELS_MANAGER);
    let condition = &write.document["status"]["conditions"][0];
    assert_eq!(condition["type"], "portlb.io/WeightLevels");
    assert_eq!(condition["reason"], "Rounded:8");
    assert_eq!(condition["message"], "weights are rounded to 8 levels");

    view.written.weight_levels = Some(condition_of(
        "True",
        "Rounded:8",
        "weights are rounded to 8 levels",
    ));
    assert_eq!(view.written.recorded_weight_levels(), Some(8));
    assert_eq!(
        writes(&key(), &view, &announcements(&[]), IpMode::Kept, now()),
        []
    );
    view.weight_levels = None;
    let report_removed = writes(&key(), &view, &announcements(&[]), IpMode::Kept, now());
    assert_eq!(report_removed[0].manager, WEIGHT_LEVELS_MANAGER);
    assert_eq!(report_removed[0].document["status"], json!({}));
}

#[test]
fn the_status_of_a_service_that_is_no_longer_served_is_cleared() {
    let mut view = view(&["10.1.1.10"]);
    assert_eq!(clear_status(&key(), &view), []);
    view.written.ingress = vec![ingress("10.1.1.10")];
    view.written.address = Some(condition_of("True", "Allocated:10_1_1_10", "10.1.1.10"));
    view.written.weight_levels = Some(condition_of("True", "Rounded:16", "16"));
    let managers: Vec<_> = clear_status(&key(), &view)
        .iter()
        .map(|w| w.manager)
        .collect();
    let all = [ADDRESS_MANAGER, WEIGHT_LEVELS_MANAGER, STATUS_MANAGER];
    assert_eq!(managers, all);
}
