//! One function for each kind of probe.

use std::{io, net::SocketAddr, time::Duration};

use daemon_runtime::timeout_after_poll;
use nix::errno::Errno;
use tokio::net::TcpStream;

/// Why a health check failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProbeError {
    /// The connection was refused, or could not be tried.
    #[error("cannot connect to {target}: {}", io::Error::from(*errno))]
    Connect { target: SocketAddr, errno: Errno },
    /// The real server did not answer.
    #[error("cannot connect to {target}: no answer within {limit:?}")]
    NoAnswer { target: SocketAddr, limit: Duration },
}

/// Opens a connection and closes it again.
pub(super) async fn tcp_connect(target: SocketAddr, limit: Duration) -> Result<(), ProbeError> {
    match timeout_after_poll(limit, TcpStream::connect(target)).await {
        Ok(Ok(stream)) => {
            // A reset leaves no TIME_WAIT behind; thousands of those would use up the ports.
            let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            Ok(())
        }
        Ok(Err(error)) => Err(ProbeError::Connect {
            target,
            errno: Errno::try_from(error).unwrap_or(Errno::EIO),
        }),
        Err(_) => Err(ProbeError::NoAnswer { target, limit }),
    }
}
