//! Conversion of status types to contract messages.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use daemon_api::{dataplane::v1 as wire, duration};
use ipnet::IpNet;

use crate::{
    forwarder::ConnectionCounts,
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
    connections: &BTreeMap<SocketAddr, ConnectionCounts>,
    duration_of: impl Fn(HealthCheckKey) -> Option<Duration>,
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
                HealthCheckKey::of(&status.desired, &real.desired).and_then(&duration_of);
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
    connections: ConnectionCounts,
    check_duration: Option<Duration>,
) -> wire::RealServerStatus {
    let health = match status.health.health {
        Health::Unchecked => wire::Health::Unchecked,
        Health::Healthy => wire::Health::Healthy,
        Health::Failed => wire::Health::Failed,
    };
    wire::RealServerStatus {
        desired: Some((&status.desired).into()),
        effective_weight: status.effective_weight.unwrap_or(0),
        programmed: status.effective_weight.is_some(),
        health: health.into(),
        last_error: status
            .health
            .last_error
            .map_or_else(String::new, |error| error.to_string()),
        time_since_change: Some(duration(status.health.changed.elapsed())),
        active_connections: connections.active,
        inactive_connections: connections.inactive,
        check_duration: check_duration.map(duration),
    }
}

fn missing_step(step: Option<MissingStep>) -> wire::MissingStep {
    match step {
        None => wire::MissingStep::None,
        Some(MissingStep::Programmed) => wire::MissingStep::Programmed,
        Some(MissingStep::Checked) => wire::MissingStep::Checked,
        Some(MissingStep::Healthy) => wire::MissingStep::Healthy,
        Some(MissingStep::LocalAddress) => wire::MissingStep::LocalAddress,
    }
}
