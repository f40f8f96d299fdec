//! The operations that can fail here.

use std::io;

use ipnet::IpNet;
use nix::errno::Errno;
use virtual_server::TableChange;

use crate::{netlink::NetlinkError, translate};

/// An operation on the kernel that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// The kernel has no IPVS.
    #[error(
        "the kernel has no IPVS: load its module on the node (`modprobe ip_vs`, with ip_vs_mh and \
         the other schedulers in use), or boot a kernel with CONFIG_IP_VS"
    )]
    NoIpvs,
    /// The process may not change the network namespace.
    #[error(
        "{operation}: not permitted; give the container the capability NET_ADMIN \
         (securityContext.capabilities.add) and the host's user namespace (without \
         `hostUsers: false`), or run as root"
    )]
    NotPermitted {
        /// What was tried.
        operation: &'static str,
    },
    /// IPv6 routes over `lo` need it up.
    #[error("the interface lo is down; bring it up (`ip link set lo up`)")]
    LoopbackDown,
    /// Another program has a route there that takes the packets away from the local ones.
    #[error(
        "another program has a {kind} route to {prefix} in table local; remove it (`ip route del \
         {kind} {prefix} table local`)"
    )]
    RouteInTheWay {
        /// What shall be local.
        prefix: IpNet,
        /// The type of the route, as ip-route(8) calls it.
        kind: String,
    },
    /// An exchange failed in another way.
    #[error("{operation}")]
    Netlink {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        source: NetlinkError,
    },
}

impl KernelError {
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

/// Why an entry of the kernel's table is not what it has to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EntryError {
    /// The kernel refused a change.
    #[error("{}", describe_refusal(change, *errno))]
    Refused {
        change: Box<TableChange>,
        errno: Errno,
    },
    /// The changes could not be made, or the entry could not be read back.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Every change was made, and another program may have made others.
    #[error("the kernel holds something else than was written")]
    Differs,
}

/// Says what the kernel refused and why, with what to do where that is known.
fn describe_refusal(change: &TableChange, errno: Errno) -> String {
    let what = match change {
        TableChange::AddVirtualServer(key, _) => format!("add {key}"),
        TableChange::SetVirtualServer(key, _) => format!("set {key}"),
        TableChange::RemoveVirtualServer(key) => format!("remove {key}"),
        TableChange::AddRealServer(key, address, _) => format!("add {address} to {key}"),
        TableChange::SetRealServer(key, address, _) => format!("set {address} of {key}"),
        TableChange::RemoveRealServer(key, address) => format!("remove {address} of {key}"),
    };
    let why = match (change, errno) {
        (
            TableChange::AddVirtualServer(_, settings) | TableChange::SetVirtualServer(_, settings),
            Errno::ENOENT,
        ) => {
            let (name, _) = translate::scheduler(&settings.scheduler);
            format!("the kernel has no scheduler {name}; load its module (`modprobe ip_vs_{name}`)")
        }
        (_, errno) => errno.desc().to_owned(),
    };
    format!("{what}: {why}")
}

/// The number of an error of the operating system, by which errors can be compared.
pub(crate) fn to_errno(error: io::Error) -> Errno {
    Errno::try_from(error).unwrap_or(Errno::EIO)
}
