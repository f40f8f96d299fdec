use virtual_server::ForwardingMethod;

use super::*;
use crate::{desired_table, testing::virtual_server};

fn server() -> VirtualServer {
    virtual_server("tcp/10.1.1.10:80", ForwardingMethod::DirectRouting)
}

fn state(health: Health) -> CheckState {
    CheckState {
        health,
        last_error: "refused".into(),
        changed: Instant::now(),
    }
}

/// A virtual server whose table is as it should be.
fn status(health: Health, settled: bool) -> VirtualServerStatus {
    let server = server();
    let entry = desired_table::entry(&server, |_| health, None);
    let observed = Observed {
        target: Some(&entry),
        actual: Some(&entry),
        error: None,
        settled,
        firewall_mark: None,
    };
    VirtualServerStatus::new(&server, observed, |_| state(health))
}

fn unprogrammed(impossible: bool) -> VirtualServerStatus {
    let server = server();
    let entry = desired_table::entry(&server, |_| Health::Healthy, None);
    let observed = Observed {
        target: (!impossible).then_some(&entry),
        actual: None,
        error: Some("no scheduler"),
        settled: true,
        firewall_mark: None,
    };
    VirtualServerStatus::new(&server, observed, |_| state(Health::Healthy))
}

#[track_caller]
fn check_virtual_server(
    status: &VirtualServerStatus,
    step: Option<MissingStep>,
    available: u32,
    detail: &str,
) {
    assert_eq!(status.missing_step, step);
    assert_eq!(status.available_real_servers, available);
    assert_eq!(status.detail(), detail);
}

#[test]
fn the_steps_of_a_virtual_server_come_in_order() {
    check_virtual_server(
        &unprogrammed(false),
        Some(MissingStep::Programmed),
        0,
        "tcp/10.1.1.10:80: no scheduler",
    );
    check_virtual_server(
        &status(Health::Unchecked, false),
        Some(MissingStep::Checked),
        0,
        "tcp/10.1.1.10:80: 3 of 3 real servers have not had their first check",
    );
    check_virtual_server(
        &status(Health::Failed, true),
        Some(MissingStep::Healthy),
        0,
        "tcp/10.1.1.10:80: 0 of 3 real servers are in service, 1 wanted: refused",
    );
    check_virtual_server(
        &status(Health::Healthy, true),
        None,
        3,
        "tcp/10.1.1.10:80 is serving",
    );
}

#[test]
fn a_draining_real_server_does_not_count() {
    let mut server = server();
    for real_server in &mut server.real_servers[..2] {
        real_server.state = RealServerState::Draining;
    }
    server.minimum_healthy = 2;
    let entry = desired_table::entry(&server, |_| Health::Healthy, None);
    let observed = Observed {
        target: Some(&entry),
        actual: Some(&entry),
        error: None,
        settled: true,
        firewall_mark: None,
    };
    let status = VirtualServerStatus::new(&server, observed, |_| state(Health::Healthy));
    assert_eq!(status.available_real_servers, 1);
    assert_eq!(status.missing_step, Some(MissingStep::Healthy));
}

#[track_caller]
fn check(
    virtual_servers: &[VirtualServerStatus],
    local: Result<(), &str>,
    was_serving: bool,
    step: Option<MissingStep>,
) {
    let prefix = "10.1.1.0/24".parse().unwrap();
    let status = ServiceAddressStatus::new(prefix, virtual_servers.iter(), local, was_serving);
    assert_eq!(status.missing_step, step, "{status:?}");
}

#[test]
fn an_address_comes_up_when_all_are_checked_and_one_serves() {
    let serving = status(Health::Healthy, true);
    let failed = status(Health::Failed, true);
    let unchecked = status(Health::Unchecked, false);
    check(&[], Ok(()), false, Some(MissingStep::Healthy));
    check(
        std::slice::from_ref(&failed),
        Ok(()),
        false,
        Some(MissingStep::Healthy),
    );
    check(
        &[serving.clone(), unchecked],
        Ok(()),
        false,
        Some(MissingStep::Checked),
    );
    let pending = unprogrammed(false);
    check(
        &[serving.clone(), pending],
        Ok(()),
        false,
        Some(MissingStep::Programmed),
    );
    check(&[serving.clone(), failed], Ok(()), false, None);
    check(
        &[serving],
        Err("lo is down"),
        false,
        Some(MissingStep::LocalAddress),
    );
}

#[test]
fn an_address_that_is_up_stays_up_while_one_serves() {
    let serving = status(Health::Healthy, true);
    let unchecked = status(Health::Unchecked, false);
    check(&[serving.clone(), unchecked.clone()], Ok(()), true, None);
    check(&[unchecked], Ok(()), true, Some(MissingStep::Checked));
    check(
        &[serving],
        Err("gone"),
        true,
        Some(MissingStep::LocalAddress),
    );
}

#[test]
fn one_that_can_never_be_programmed_holds_up_nobody() {
    let serving = status(Health::Healthy, true);
    check(&[serving, unprogrammed(true)], Ok(()), false, None);
    check(
        &[unprogrammed(true)],
        Ok(()),
        false,
        Some(MissingStep::Programmed),
    );
}

#[test]
fn the_first_id_comes_before_every_other_of_its_address() {
    for id in ["tcp/10.1.1.10:1", "tcp/10.1.1.10:*", "udp/10.1.1.10:53"] {
        let id: VirtualServerId = id.parse().unwrap();
        assert!(first_id(id.address) <= id, "{id}");
    }
}
