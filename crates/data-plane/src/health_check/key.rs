//! What one health check asks, and of which socket.

use std::net::SocketAddr;

use virtual_server::{HealthCheck, HealthCheckKind, RealServer, VirtualServer};

use super::probe::{self, ProbeError};

/// Identifies a health check: equal keys share one task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct HealthCheckKey {
    target: SocketAddr,
    settings: HealthCheck,
}

impl HealthCheckKey {
    /// Returns the health check of a real server; `None`: it has none.
    pub(crate) fn of(virtual_server: &VirtualServer, real_server: &RealServer) -> Option<Self> {
        let port = virtual_server.health_check_port(real_server)?;
        let settings = virtual_server.health_check?;
        let kind = match settings.kind {
            // The target has the port, so that two ways to give one port share a task.
            HealthCheckKind::TcpConnect { port: _ } => HealthCheckKind::TcpConnect { port: None },
        };
        Some(Self {
            target: SocketAddr::new(real_server.address, port.get()),
            settings: HealthCheck { kind, ..settings },
        })
    }

    pub(super) fn target(&self) -> SocketAddr {
        self.target
    }

    pub(super) fn settings(&self) -> HealthCheck {
        self.settings
    }

    /// Asks the real server once.
    pub(super) async fn probe(&self) -> Result<(), ProbeError> {
        let timeout = self.settings.timeout;
        match self.settings.kind {
            HealthCheckKind::TcpConnect { port: _ } => {
                probe::tcp_connect(self.target, timeout).await
            }
        }
    }
}
