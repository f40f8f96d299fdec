use std::time::Instant;

use data_plane_testbed::checked_virtual_server as virtual_server;
use nix::errno::Errno;
use virtual_server::ForwardingMethod;

use super::*;
use crate::health_check::ProbeError;

fn server() -> VirtualServer {
    virtual_server("tcp/10.1.1.10:80", ForwardingMethod::DirectRouting)
}

fn state(health: Health) -> HealthState {
    let error = ProbeError::Connect {
        target: "10.244.0.1:80".parse().unwrap(),
        errno: Errno::ECONNREFUSED,
    };
    HealthState {
        health,
        last_error: Some(error),
        changed: Instant::now(),
    }
}

/// Returns the kernel state for a forwarder that quiesces draining and unhealthy real servers.
fn programmed(server: &VirtualServer, health: Health) -> Observation {
    let weights = server.real_servers.iter().map(|real_server| {
        let serves = health == Health::Healthy && real_server.state == RealServerState::Ready;
        (server.table_address(real_server), u32::from(serves))
    });
    Observation {
        has_target: true,
        is_programmed: true,
        is_owned: true,
        weights: weights.collect(),
        ..Observation::default()
    }
}

/// Returns the status of a programmed virtual server.
fn status(health: Health, is_checked: bool) -> VirtualServerStatus {
    let server = server();
    let inputs = StatusInputs {
        observation: programmed(&server, health),
        impossible_reason: None,
        is_checked,
    };
    VirtualServerStatus::new(&server, inputs, |_| state(health))
}

fn unprogrammed(impossible: bool) -> VirtualServerStatus {
    let no_scheduler = || "no scheduler".to_owned();
    let inputs = StatusInputs {
        observation: Observation {
            has_target: !impossible,
            error: Some(no_scheduler()),
            ..Observation::default()
        },
        impossible_reason: impossible.then(no_scheduler),
        is_checked: true,
    };
    VirtualServerStatus::new(&server(), inputs, |_| state(Health::Healthy))
}

#[track_caller]
fn assert_virtual_server(
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
fn the_missing_step_of_a_virtual_server_is_the_first_incomplete_step() {
    assert_virtual_server(
        &unprogrammed(false),
        Some(MissingStep::Programmed),
        0,
        "tcp/10.1.1.10:80: no scheduler",
    );
    assert_virtual_server(
        &status(Health::Unchecked, false),
        Some(MissingStep::Checked),
        0,
        "tcp/10.1.1.10:80: 3 of 3 real servers have no result of a health check yet",
    );
    assert_virtual_server(
        &status(Health::Failed, true),
        Some(MissingStep::Healthy),
        0,
        "tcp/10.1.1.10:80: 0 of 3 real servers are in service, the minimum is 1: cannot connect \
         to 10.244.0.1:80: Connection refused (os error 111)",
    );
    assert_virtual_server(
        &status(Health::Healthy, true),
        None,
        3,
        "tcp/10.1.1.10:80 is serving",
    );
}

#[test]
fn a_draining_real_server_does_not_count_towards_the_minimum() {
    let mut server = server();
    for real_server in &mut server.real_servers[..2] {
        real_server.state = RealServerState::Draining;
    }
    server.minimum_healthy = 2;
    let inputs = StatusInputs {
        observation: programmed(&server, Health::Healthy),
        impossible_reason: None,
        is_checked: true,
    };
    let status = VirtualServerStatus::new(&server, inputs, |_| state(Health::Healthy));
    assert_eq!(status.available_real_servers, 1);
    assert_eq!(status.missing_step, Some(MissingStep::Healthy));
}

#[track_caller]
fn assert_missing_step(
    virtual_servers: &[VirtualServerStatus],
    local: Result<(), &str>,
    was_serving: bool,
    step: Option<MissingStep>,
) {
    let prefix = "10.1.1.0/24".parse().unwrap();
    let status = ServiceAddressStatus::new(
        prefix,
        virtual_servers.iter(),
        local.map_err(str::to_owned),
        was_serving,
    );
    assert_eq!(status.missing_step, step, "{status:?}");
}

#[test]
fn an_address_starts_serving_when_all_virtual_servers_are_checked_and_one_is_serving() {
    let serving = status(Health::Healthy, true);
    let failed = status(Health::Failed, true);
    let unchecked = status(Health::Unchecked, false);
    assert_missing_step(&[], Ok(()), false, Some(MissingStep::Healthy));
    assert_missing_step(
        std::slice::from_ref(&failed),
        Ok(()),
        false,
        Some(MissingStep::Healthy),
    );
    assert_missing_step(
        &[serving.clone(), unchecked],
        Ok(()),
        false,
        Some(MissingStep::Checked),
    );
    let pending = unprogrammed(false);
    assert_missing_step(
        &[serving.clone(), pending],
        Ok(()),
        false,
        Some(MissingStep::Programmed),
    );
    assert_missing_step(&[serving.clone(), failed], Ok(()), false, None);
    assert_missing_step(
        &[serving],
        Err("lo is down"),
        false,
        Some(MissingStep::LocalAddress),
    );
}

#[test]
fn a_serving_address_stays_serving_while_one_virtual_server_is_serving() {
    let serving = status(Health::Healthy, true);
    let unchecked = status(Health::Unchecked, false);
    assert_missing_step(&[serving.clone(), unchecked.clone()], Ok(()), true, None);
    assert_missing_step(&[unchecked], Ok(()), true, Some(MissingStep::Checked));
    assert_missing_step(
        &[serving],
        Err("the route is missing"),
        true,
        Some(MissingStep::LocalAddress),
    );
}

#[test]
fn an_address_serves_although_one_virtual_server_can_never_be_programmed() {
    let serving = status(Health::Healthy, true);
    assert_missing_step(&[serving, unprogrammed(true)], Ok(()), false, None);
    assert_missing_step(
        &[unprogrammed(true)],
        Ok(()),
        false,
        Some(MissingStep::Programmed),
    );
}

#[test]
fn first_id_is_not_greater_than_any_id_of_its_address() {
    for id in ["tcp/10.1.1.10:1", "tcp/10.1.1.10:*", "udp/10.1.1.10:53"] {
        let id: VirtualServerId = id.parse().unwrap();
        assert!(first_id(id.address) <= id, "{id}");
    }
}
