//! Virtual servers for unit tests.

use virtual_server::{
    FailureAction, ForwardingMethod, HealthCheck, RealServer, RealServerHistory, RealServerState,
    Scheduler, SchedulerFlags, VirtualServer, Weight,
};

/// Returns a virtual server with three real servers and a health check.
pub fn checked_virtual_server(id: &str, forwarding_method: ForwardingMethod) -> VirtualServer {
    let id: virtual_server::VirtualServerId = id.parse().unwrap();
    VirtualServer {
        id,
        name: "web".into(),
        scheduler: Scheduler::Mh(SchedulerFlags {
            fallback: true,
            port: true,
        }),
        forwarding_method,
        persistence: None,
        real_servers: (1..=3)
            .map(|last| RealServer {
                address: match id.address {
                    std::net::IpAddr::V4(_) => format!("10.244.0.{last}").parse().unwrap(),
                    std::net::IpAddr::V6(_) => format!("fd00:244::{last}").parse().unwrap(),
                },
                port: None,
                weight: Weight(1),
                state: RealServerState::Ready,
                history: RealServerHistory::default(),
            })
            .collect(),
        health_check: Some(HealthCheck::default()),
        on_failure: FailureAction::Quiesce,
        minimum_healthy: 1,
        drain_timeout: VirtualServer::DEFAULT_DRAIN_TIMEOUT,
    }
}
