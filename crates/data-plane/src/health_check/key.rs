//! Identity of a health check: target and settings.

use std::net::SocketAddr;

use virtual_server::{HealthCheck, HealthCheckKind, RealServer, VirtualServer};

use super::probe::{self, ProbeError};

/// The identity of a health check. Health checks with equal keys share one task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct HealthCheckKey {
    target: SocketAddr,
    settings: HealthCheck,
}

impl HealthCheckKey {
    /// Returns the key of the health check of a real server. `None`: the real server has no health
    /// check.
    pub(crate) fn of(virtual_server: &VirtualServer, real_server: &RealServer) -> Option<Self> {
        let port = virtual_server.health_check_port(real_server)?;
        let settings = virtual_server.health_check?;
        let kind = match settings.kind {
            // `target` already contains the port. Without the port in `kind`, a check with the real
            // server's port and a check with an equal port in its settings have equal keys, so they
            // share a task.
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

    /// Probes the real server once.
    pub(super) async fn probe(&self) -> Result<(), ProbeError> {
        let timeout = self.settings.timeout;
        match self.settings.kind {
            HealthCheckKind::TcpConnect { port: _ } => {
                probe::tcp_connect(self.target, timeout).await
            }
        }
    }
}
