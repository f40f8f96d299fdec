//! Probes, one function for each kind.

use std::{io, net::SocketAddr, time::Duration};

use daemon_runtime::timeout_after_poll;
use nix::errno::Errno;
use tokio::net::TcpStream;

/// The error of a failed probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProbeError {
    /// The real server refused the connection, or the attempt to connect failed with another error.
    #[error("cannot connect to {target}: {}", io::Error::from(*errno))]
    Connect { target: SocketAddr, errno: Errno },
    /// The real server did not answer in time.
    #[error("cannot connect to {target}: no answer within {limit:?}")]
    NoAnswer { target: SocketAddr, limit: Duration },
}

/// Opens a connection and closes it immediately.
pub(super) async fn tcp_connect(target: SocketAddr, limit: Duration) -> Result<(), ProbeError> {
    match timeout_after_poll(limit, TcpStream::connect(target)).await {
        Ok(Ok(stream)) => {
            // Closing by a TCP reset avoids the TIME_WAIT state. Thousands of sockets in TIME_WAIT
            // would use up the local ports.
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
