//! Listening and connecting.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{mpsc, watch},
};

use crate::{admission::Admission, counters::SpeakerCounters, owner::News};

/// The kernel cuts it to `net.core.somaxconn`. Peers that all come at once, as after a restart,
/// must not lose their SYN.
const BACKLOG: i32 = 65535;

/// Pause after a failed accept (out of file descriptors), which would otherwise repeat at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listening socket could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for BGP on {address}")]
pub struct ListenError {
    /// Where.
    pub address: SocketAddr,
    /// Why not.
    pub source: io::Error,
}

pub(crate) fn listen(address: SocketAddr) -> Result<TcpListener, ListenError> {
    let open = || {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM.nonblocking().cloexec(),
            Some(Protocol::TCP),
        )?;
        if address.is_ipv6() {
            // Its IPv4 twin, if wanted, is an address of its own.
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    open().map_err(|source| ListenError { address, source })
}

/// Accepts for as long as the owner lives.
pub(crate) async fn accept(
    listener: TcpListener,
    admission: watch::Receiver<Arc<Admission>>,
    counters: Arc<SpeakerCounters>,
    news: mpsc::Sender<News>,
) {
    loop {
        match listener.accept().await {
            Ok((stream, remote)) => {
                if !admission.borrow().is_admitted(remote.ip()) {
                    counters.strangers_refused.add(1);
                    tracing::debug!(%remote, "connection of a stranger refused");
                    continue;
                }
                if news.send(News::Accepted { stream, remote }).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

pub(crate) async fn connect(remote: SocketAddr, local: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = match remote {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if let Some(local) = local {
        socket.bind(SocketAddr::new(local, 0))?;
    }
    socket.connect(remote).await
}
