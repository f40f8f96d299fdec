//! What holds where the user says nothing.
//!
//! Tunnel with Maglev hashing over address and port keeps every established connection when the
//! set of load balancers changes: each of them computes the same real server for a flow without
//! having seen its beginning. Masquerade cannot do that.

use std::time::Duration;

use crate::{
    FailureAction, ForwardingMethod, HealthCheck, HealthCheckKind, Scheduler, SchedulerFlags,
    TunnelKind, VirtualServer, Weight,
};

impl Scheduler {
    /// `mh` with both flags: without `fallback` the flows that hash to a quiesced real server are
    /// dropped.
    pub const MH_DEFAULT: Self = Self::Mh(SchedulerFlags {
        fallback: true,
        port: true,
    });

    /// `sh` with `fallback`, by the client's address alone, as those expect who choose it.
    pub const SH_DEFAULT: Self = Self::Sh(SchedulerFlags {
        fallback: true,
        port: false,
    });
}

impl Default for Scheduler {
    fn default() -> Self {
        Self::MH_DEFAULT
    }
}

impl Default for ForwardingMethod {
    fn default() -> Self {
        Self::Tunnel(TunnelKind::Ipip)
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self(1)
    }
}

impl Default for HealthCheck {
    /// A real server that vanishes is out after `interval * fall + timeout`: 7 s.
    fn default() -> Self {
        Self {
            kind: HealthCheckKind::TcpConnect { port: None },
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 3,
            initial_jitter: Duration::from_millis(100),
        }
    }
}

impl Default for FailureAction {
    /// Quiesced real servers stay in the table, so that the tables of all load balancers agree.
    fn default() -> Self {
        Self::Quiesce
    }
}

impl VirtualServer {
    /// One healthy real server is enough to serve.
    pub const DEFAULT_MINIMUM_HEALTHY: u32 = 1;

    /// Longer than most requests take, and than a pod has to end unless it says otherwise (30 s).
    pub const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_secs(60);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_keeps_connections_when_the_set_of_load_balancers_changes() {
        assert_eq!(
            Scheduler::default(),
            Scheduler::Mh(SchedulerFlags {
                fallback: true,
                port: true
            })
        );
        assert_eq!(
            ForwardingMethod::default(),
            ForwardingMethod::Tunnel(TunnelKind::Ipip)
        );
    }
}
