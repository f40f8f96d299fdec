//! Default values of the options of a virtual server.
//!
//! `Tunnel` with Maglev hashing over address and port keeps every established connection when the
//! set of load balancers changes: each load balancer computes the same real server for a flow, even
//! if another load balancer forwarded the first packets of this flow. `Masquerade` cannot do that,
//! because replies must return through the load balancer that rewrote the packet.

use std::time::Duration;

use crate::{
    FailureAction, ForwardingMethod, HealthCheck, HealthCheckKind, Scheduler, SchedulerFlags,
    TunnelKind, VirtualServer, Weight,
};

impl Scheduler {
    /// `mh` with the flags `fallback` and `port`. Without `fallback`, the kernel drops new flows
    /// that hash to a quiesced real server.
    pub const MH_DEFAULT: Self = Self::Mh(SchedulerFlags {
        fallback: true,
        port: true,
    });

    /// `sh` with the flag `fallback`. The hash has only the client's address, because users choose
    /// `sh` to keep all flows of a client on one real server.
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
    /// A real server that stops answering is failed after at most `interval * fall + timeout`: 7 s.
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
    /// With `Quiesce` a failed real server stays in the kernel's table. So load balancers that
    /// notice the failure at different times have the same real servers in their tables.
    fn default() -> Self {
        Self::Quiesce
    }
}

impl VirtualServer {
    pub const DEFAULT_MINIMUM_HEALTHY: u32 = 1;

    /// The default drain timeout is longer than most requests take, and longer than the default
    /// `terminationGracePeriodSeconds` of a pod (30 s).
    pub const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_secs(60);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_maglev_hashing_with_ports_and_the_ipip_tunnel() {
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
