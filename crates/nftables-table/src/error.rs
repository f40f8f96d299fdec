//! What can fail.

use std::io;

use netlink_socket::SocketError;
use nix::errno::Errno;

/// An operation on the kernel's nftables that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel cannot do it: built without nftables, without it for this family, or without
    /// this kind of chain or expression. Asking again does not help.
    #[error("the kernel does not support nftables here: {what}")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The caller lacks the `NET_ADMIN` capability in the user namespace that owns the network
    /// namespace.
    #[error("not permitted without the capability NET_ADMIN: {what}")]
    NotPermitted {
        /// What was asked for.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel refused it for another reason.
    #[error("the kernel refused it: {what}")]
    Refused {
        /// What was asked for.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The netlink socket failed.
    #[error("netlink socket: {what}")]
    Socket {
        /// The operation on the socket.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The table cannot be: a name with a NUL byte or longer than the kernel takes.
    #[error("table cannot be: {problem}")]
    Invalid {
        /// What is wrong with it.
        problem: String,
    },
}

impl Error {
    /// Whether the kernel cannot do it at all, so that a caller goes on without nftables.
    pub fn is_unsupported(&self) -> bool {
        match self {
            Self::Unsupported { .. } => true,
            Self::NotPermitted { .. }
            | Self::Refused { .. }
            | Self::Socket { .. }
            | Self::Invalid { .. } => false,
        }
    }

    /// The kernel's answer to a request.
    pub(crate) fn refused(what: String, errno: Errno) -> Self {
        let source = io::Error::from(errno);
        // A batch deletes nothing that it has not added first, so ENOENT means a kind of chain or
        // an expression whose module is missing.
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

impl From<SocketError> for Error {
    fn from(error: SocketError) -> Self {
        Self::Socket {
            what: error.operation,
            source: error.errno.into(),
        }
    }
}
