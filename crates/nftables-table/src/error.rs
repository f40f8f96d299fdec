//! Errors of operations on nftables.

use std::io;

use netlink_socket::SocketError;
use nix::errno::Errno;

/// A failed operation on the nftables of the kernel.
#[derive(Debug, thiserror::Error)]
pub enum NftablesError {
    /// The kernel lacks nftables, the family `inet`, or a type of chain or expression. A retry does
    /// not help.
    #[error(
        "cannot {what}: the kernel lacks nftables, the table family, or the module of a chain or \
         expression"
    )]
    Unsupported {
        /// Requested operation as a verb phrase, such as `add table inet portlb`.
        what: String,
        source: io::Error,
    },
    /// The process lacks the capability `NET_ADMIN` in the user namespace that owns the network
    /// namespace.
    #[error(
        "cannot {what}: the process lacks the capability NET_ADMIN in the user namespace that owns \
         the network namespace"
    )]
    NotPermitted {
        /// Requested operation as a verb phrase, such as `add table inet portlb`.
        what: String,
        source: io::Error,
    },
    /// The kernel refused the operation for a reason that is not a missing feature or privilege.
    #[error("cannot {what}: the kernel refused the request")]
    Refused {
        /// Requested operation as a verb phrase, such as `add table inet portlb`.
        what: String,
        source: io::Error,
    },
    /// The netlink socket failed.
    #[error("netlink socket: cannot {what}")]
    Socket {
        /// Failed operation on the socket as a verb phrase, such as `send`.
        what: &'static str,
        source: io::Error,
    },
    /// The table is invalid, so it was not sent to the kernel.
    #[error("invalid nftables table: {problem}")]
    Invalid {
        /// Invalid part of the table, and the rule that this part breaks.
        problem: String,
    },
}

impl NftablesError {
    /// Reports whether the kernel lacks a required feature. If so, the caller can only continue
    /// without the table.
    pub fn is_unsupported(&self) -> bool {
        match self {
            Self::Unsupported { .. } => true,
            Self::NotPermitted { .. }
            | Self::Refused { .. }
            | Self::Socket { .. }
            | Self::Invalid { .. } => false,
        }
    }

    /// Converts the error number in the kernel's answer to a request.
    pub(crate) fn from_errno(what: String, errno: Errno) -> Self {
        let source = io::Error::from(errno);
        // A transaction adds each object before it uses or deletes the object. So `ENOENT` does not
        // mean a missing object, but a missing module for a type of chain or expression.
        let unsupported = [
            Errno::ENOENT,
            Errno::EOPNOTSUPP,
            Errno::EAFNOSUPPORT,
            Errno::EPROTONOSUPPORT,
        ];
        if unsupported.contains(&errno) {
            Self::Unsupported { what, source }
        } else if [Errno::EPERM, Errno::EACCES].contains(&errno) {
            Self::NotPermitted { what, source }
        } else {
            Self::Refused { what, source }
        }
    }
}

impl From<SocketError> for NftablesError {
    fn from(error: SocketError) -> Self {
        Self::Socket {
            what: error.operation,
            source: error.errno.into(),
        }
    }
}
