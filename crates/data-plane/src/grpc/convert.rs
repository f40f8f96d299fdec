//! Our types to those of the contract.

use std::{collections::BTreeMap, net::SocketAddr};

use daemon_api::dataplane::v1 as wire;
use ipnet::IpNet;

use crate::{
    forwarder::Connections,
    health_check::{Health, HealthCheckKey},
    status::{MissingStep, RealServerStatus, ServiceAddressStatus, VirtualServerStatus},
};

pub(super) fn service_address(
    prefix: IpNet,
    status: &ServiceAddressStatus,
) -> wire::ServiceAddress {
    wire::ServiceAddress {
        prefix: prefix.to_string(),
        serving: status.is_serving(),
        missing_step: missing_step(status.missing_step).into(),
        detail: status.detail.clone(),
        virtual_servers: status.virtual_servers,
        serving_virtual_servers: status.serving_virtual_servers,
    }
}

pub(super) fn virtual_server(
    status: &VirtualServerStatus,
    connections: &BTreeMap<SocketAddr, Connections>,
    duration_of: impl Fn(HealthCheckKey) -> u32,
) -> wire::VirtualServerStatus {
    let real_servers = status
        .real_servers
        .iter()
        .map(|real| {
            let connections = connections
                .get(&real.table_address)
                .copied()
                .unwrap_or_default();
            let duration =
                HealthCheckKey::of(&status.desired, &real.desired).map_or(0, &duration_of);
            real_server(real, connections, duration)
        })
        .collect();
    wire::VirtualServerStatus {
        desired: Some((&status.desired).into()),
        programmed: status.programmed,
        serving: status.is_serving(),
        missing_step: missing_step(status.missing_step).into(),
        firewall_mark: status.firewall_mark.unwrap_or(0),
        healthy_real_servers: status.available_real_servers,
        real_servers,
        last_error: status.last_error.clone(),
    }
}

fn real_server(
    status: &RealServerStatus,
    connections: Connections,
    check_duration_microseconds: u32,
) -> wire::RealServerStatus {
    let health = match status.health.health {
        Health::Unchecked => wire::Health::Unchecked,
        Health::Healthy => wire::Health::Healthy,
        Health::Failed => wire::Health::Failed,
    };
    let milliseconds = status.health.changed.elapsed().as_millis();
    wire::RealServerStatus {
        desired: Some((&status.desired).into()),
        effective_weight: status.effective_weight.unwrap_or(0),
        programmed: status.effective_weight.is_some(),
        health: health.into(),
        last_error: status
            .health
            .last_error
            .map_or_else(String::new, |error| error.to_string()),
        milliseconds_since_change: u64::try_from(milliseconds).unwrap_or(u64::MAX),
        active_connections: connections.active,
        inactive_connections: connections.inactive,
        check_duration_microseconds,
    }
}

fn missing_step(step: Option<MissingStep>) -> wire::MissingStep {
    match step {
        None => wire::MissingStep::Unspecified,
        Some(MissingStep::Programmed) => wire::MissingStep::Programmed,
        Some(MissingStep::Checked) => wire::MissingStep::Checked,
        Some(MissingStep::Healthy) => wire::MissingStep::Healthy,
        Some(MissingStep::LocalAddress) => wire::MissingStep::LocalAddress,
    }
}
