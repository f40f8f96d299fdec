//! Errors of kernel operations and of table entries.

use std::io;

use ipnet::IpNet;
use nix::errno::Errno;
use virtual_server::TableChange;

use crate::{netlink::NetlinkError, translate};

/// The error of a kernel operation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpvsKernelError {
    #[error(
        "the kernel has no IPVS: load the module on the node (`modprobe ip_vs`, and the modules of \
         the used schedulers, such as ip_vs_mh), or boot a kernel with CONFIG_IP_VS"
    )]
    NoIpvs,
    /// The process has no permission to change the network namespace.
    #[error(
        "cannot {operation}: not permitted; give the container the capability NET_ADMIN \
         (securityContext.capabilities.add) and the host's user namespace (without \
         `hostUsers: false`), or run as root"
    )]
    NotPermitted { operation: &'static str },
    /// The interface `lo` is down, but IPv6 routes over `lo` need it up.
    #[error("the interface lo is down; bring it up (`ip link set lo up`)")]
    LoopbackDown,
    /// A route of another program prevents the local delivery of packets to the prefix.
    #[error(
        "another program has a {kind} route to {prefix} in table local; remove it (`ip route del \
         {kind} {prefix} table local`)"
    )]
    RouteInTheWay {
        prefix: IpNet,
        /// Type of the route, as ip-route(8) names it, such as `unreachable`.
        kind: String,
    },
    /// The kernel refused the request for another reason, or the exchange with the kernel failed.
    #[error("cannot {operation}")]
    Netlink {
        operation: &'static str,
        source: NetlinkError,
    },
}

impl IpvsKernelError {
    pub(crate) fn of(operation: &'static str, source: NetlinkError) -> Self {
        match source {
            NetlinkError::Refused(Errno::EPERM | Errno::EACCES) => Self::NotPermitted { operation },
            source @ (NetlinkError::Refused(_)
            | NetlinkError::Socket(_)
            | NetlinkError::AnswerLost { .. }
            | NetlinkError::Interrupted { .. }) => Self::Netlink { operation, source },
        }
    }
}

/// The reason why an entry of the kernel's table differs from its target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EntryError {
    #[error("{}", describe_refusal(change, *errno))]
    Refused {
        change: Box<TableChange>,
        errno: Errno,
    },
    /// The entry cannot be changed or read back.
    #[error(transparent)]
    Kernel(#[from] IpvsKernelError),
    /// The kernel accepted every change, but the entry that was read back differs, probably because
    /// of another program.
    #[error("the entry that was read back from the kernel differs from the written entry")]
    Differs,
}

/// Describes a refused change with the reason, and with a suggestion for known reasons.
fn describe_refusal(change: &TableChange, errno: Errno) -> String {
    let operation = match change {
        TableChange::AddVirtualServer(key, _) => format!("add virtual server {key}"),
        TableChange::SetVirtualServer(key, _) => format!("change virtual server {key}"),
        TableChange::RemoveVirtualServer(key) => format!("remove virtual server {key}"),
        TableChange::AddRealServer(key, address, _) => {
            format!("add real server {address} to virtual server {key}")
        }
        TableChange::SetRealServer(key, address, _) => {
            format!("change real server {address} of virtual server {key}")
        }
        TableChange::RemoveRealServer(key, address) => {
            format!("remove real server {address} of virtual server {key}")
        }
    };
    let reason = match (change, errno) {
        (
            TableChange::AddVirtualServer(_, settings) | TableChange::SetVirtualServer(_, settings),
            Errno::ENOENT,
        ) => {
            let (name, _) = translate::scheduler(&settings.scheduler);
            format!("the kernel has no scheduler {name}; load its module (`modprobe ip_vs_{name}`)")
        }
        (_, errno) => errno.desc().to_owned(),
    };
    format!("cannot {operation}: {reason}")
}

/// Converts an I/O error to its error number, so that errors can be compared.
pub(crate) fn to_errno(error: io::Error) -> Errno {
    Errno::try_from(error).unwrap_or(Errno::EIO)
}
