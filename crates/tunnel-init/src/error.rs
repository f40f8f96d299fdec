//! What can fail here.

use std::io;

use ipnet::IpNet;

use crate::Rule;

/// Why the pod is not prepared.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No netlink socket.
    #[error("cannot open a netlink socket")]
    Open(#[source] io::Error),
    /// The kernel does not know such tunnels.
    #[error(
        "the kernel has no {device}: load the module {module} on the node (modprobe {module}, and a \
         file in /etc/modules-load.d for the next boot)"
    )]
    NoTunnel {
        /// The device's name.
        device: &'static str,
        /// The module that makes it.
        module: &'static str,
    },
    /// `NET_ADMIN` is missing.
    #[error(
        "not allowed to {operation}: run as user 0 with the capability NET_ADMIN \
         (securityContext: runAsUser: 0, capabilities: {{drop: [ALL], add: [NET_ADMIN]}})"
    )]
    NotAllowed {
        /// What was tried.
        operation: String,
    },
    /// The kernel refused something.
    #[error("cannot {operation}")]
    Refused {
        /// What was tried.
        operation: String,
        /// Why not.
        source: io::Error,
    },
    /// Done without an error, but not in force.
    #[error("{device} is {found} after it was set up; does another program change it?")]
    NotInForce {
        /// The device's name.
        device: &'static str,
        /// What was read back.
        found: String,
    },
    /// Done without an error, but not in force.
    #[error("{prefix} is not local after it was made so; does another program change routes?")]
    NotLocal {
        /// What was to be local.
        prefix: IpNet,
    },
    /// Added without an error, but not found.
    #[error(
        "the rule \"{rule}\" is missing after it was added; does another program change rules?"
    )]
    NoRule {
        /// The rule, as `ip rule` shows it.
        rule: Rule,
    },
    /// Removed without an error, but found.
    #[error(
        "the routing rule \"0: lookup local\" is left after its removal, so this pod answers itself on the \
         service addresses of others (tunnel device {device}); does another program change rules?"
    )]
    FirstRule {
        /// The tunnel device of the rule's IP version.
        device: &'static str,
    },
}
