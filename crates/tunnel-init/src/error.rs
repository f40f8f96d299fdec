//! Errors of the preparation.

use std::io;

use ipnet::IpNet;

use crate::PodRoutingRule;

/// Reason why the web pod is not prepared.
#[derive(Debug, thiserror::Error)]
pub enum TunnelInitError {
    #[error("cannot open a netlink socket")]
    Open(#[source] io::Error),
    #[error(
        "the kernel has no tunnel device {device}; load the module {module} on the node: run modprobe \
         {module}, and add a file to /etc/modules-load.d for the next boot"
    )]
    NoTunnel {
        device: &'static str,
        /// Kernel module that provides the tunnel device.
        module: &'static str,
    },
    #[error(
        "cannot {operation}: permission denied; run as user 0 with the capability NET_ADMIN \
         (securityContext: runAsUser: 0, capabilities: {{drop: [ALL], add: [NET_ADMIN]}})"
    )]
    NotAllowed { operation: String },
    #[error("cannot {operation}")]
    Refused {
        operation: String,
        source: io::Error,
    },
    /// The kernel accepted the change, but the device has another state when it is read back.
    #[error(
        "the tunnel device {device} is {actual} after its setup; check whether another program changes it"
    )]
    UnexpectedDeviceState {
        device: &'static str,
        /// State that was read back.
        actual: String,
    },
    /// The kernel accepted the route, but the route is missing when the routes are read back.
    #[error(
        "the local route to {prefix} is missing after it was added; check whether another program changes routes"
    )]
    MissingLocalRoute { prefix: IpNet },
    /// The kernel accepted the rule, but the rule is missing when the rules are read back.
    #[error(
        "the routing rule \"{rule}\" is missing after it was added; check whether another program changes \
         routing rules"
    )]
    MissingRule { rule: PodRoutingRule },
    /// The kernel removed its rule for the local table, but the rule still exists when the rules
    /// are read back.
    #[error(
        "the routing rule \"0: lookup local\" still exists after its removal, so packets of this pod to the \
         service addresses of other pods do not leave this pod (tunnel device {device}); check \
         whether another program changes routing rules"
    )]
    KernelRuleNotRemoved {
        /// Tunnel device of the IP version of the rule.
        device: &'static str,
    },
}
