//! The desired set of a test, built from the types of pod-watcher's file format.

use std::{net::IpAddr, num::NonZeroU16, time::Duration};

pub use pod_watcher::file_format::{
    EntryPersistence as Persistence, VirtualServersDocument as Desired,
    VirtualServersEntry as VirtualServer,
};
use virtual_server::{
    HealthCheckChoice, HealthCheckOptions, Ports, RealServer, RealServerHistory, RealServerState,
    Weight,
};

/// Returns a virtual server with the defaults of the file format. Only the health check differs: it
/// has an interval of 300 ms, and `rise` and `fall` are 2.
pub fn virtual_server(
    name: &str,
    addresses: impl IntoIterator<Item = IpAddr>,
    ports: impl IntoIterator<Item = Ports>,
    real_servers: impl IntoIterator<Item = IpAddr>,
) -> VirtualServer {
    VirtualServer {
        name: name.to_owned(),
        addresses: addresses.into_iter().collect(),
        ports: ports.into_iter().collect(),
        real_servers: real_servers.into_iter().map(real_server).collect(),
        health_check: Some(HealthCheckOptions {
            interval: Some(Duration::from_millis(300)),
            timeout: Some(Duration::from_millis(300)),
            rise: Some(2),
            fall: Some(2),
            initial_jitter: Some(Duration::from_millis(50)),
            ..HealthCheckOptions::default()
        }),
        ..VirtualServer::default()
    }
}

/// Returns `virtual_server` without a health check.
pub fn unchecked(virtual_server: VirtualServer) -> VirtualServer {
    VirtualServer {
        health_check: Some(HealthCheckOptions {
            kind: Some(HealthCheckChoice::None),
            ..HealthCheckOptions::default()
        }),
        ..virtual_server
    }
}

/// Returns a ready real server with the default weight. It has no port, so a connection keeps the
/// port that the client has chosen.
pub fn real_server(address: IpAddr) -> RealServer {
    RealServer {
        address,
        port: None,
        weight: Weight::default(),
        state: RealServerState::Ready,
        history: RealServerHistory::default(),
    }
}

/// Returns `Ports` of the single port `port`.
///
/// # Panics
/// If `port` is 0.
pub const fn port(port: u16) -> Ports {
    Ports::Single(NonZeroU16::new(port).expect("a port is not 0"))
}
