//! Listening sockets and outgoing connections.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bounded_io::{AcceptRetry, timeout_after_poll};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{mpsc, watch},
    time::error::Elapsed,
};

use crate::{
    admission::AdmissionRules,
    counters::SpeakerCounters,
    listener_keys::ListenerKeys,
    md5_key::{self, Md5Key},
    messages::ConnectionEvent,
};

/// Largest number of connections that wait in the accept queue of a listening socket. The kernel
/// limits this number to `net.core.somaxconn`. The number must be large: after a restart of this
/// speaker, all peers connect simultaneously, and the kernel drops SYN packets while the queue is
/// full.
pub(crate) const BACKLOG: i32 = 65535;

/// An error while a listening socket was opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for BGP on {address}")]
pub struct ListenError {
    pub address: SocketAddr,
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
            // `[::]` must not accept IPv4 connections: the configuration lists IPv4 addresses
            // separately.
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    open().map_err(|source| ListenError { address, source })
}

/// Accepts connections until the owner ends, and sends them to the owner. Closes a connection whose
/// address belongs to no peer and no group, and a connection of a peer whose TCP MD5 key could not
/// be set on the socket.
pub(crate) async fn accept(
    listener: TcpListener,
    mut admissions: watch::Receiver<Arc<AdmissionRules>>,
    counters: Arc<SpeakerCounters>,
    events: mpsc::Sender<ConnectionEvent>,
) {
    let mut admission = admissions.borrow().clone();
    let mut keys = ListenerKeys::default();
    let mut retry = AcceptRetry::new("bgp");
    loop {
        let accepted = tokio::select! {
            biased;
            changed = admissions.changed() => {
                if changed.is_err() {
                    return;
                }
                admission = admissions.borrow_and_update().clone();
                keys.apply(&listener, &admission.keys);
                continue;
            }
            () = keys.retry() => {
                keys.apply(&listener, &admission.keys);
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, remote)) => {
                retry.succeeded();
                let address = remote.ip();
                let is_known = admission.is_admitted(address);
                if !is_known || keys.is_refused(address) {
                    counters.connections_without_peer.add(1);
                    tracing::debug!(
                        %remote,
                        is_known,
                        "connection refused: the address belongs to no peer, or its TCP MD5 key \
                         could not be set"
                    );
                    continue;
                }
                let accepted = ConnectionEvent::Accepted {
                    stream,
                    remote,
                    admission: admission.clone(),
                };
                if events.send(accepted).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                if let Some(pause) = retry.failed(&error) {
                    counters.accept_failures.add(1);
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }
}

/// Connects to `remote`, and returns [`Elapsed`] if the peer does not answer within
/// `connect_timeout`.
pub(crate) async fn connect_within(
    connect_timeout: Duration,
    remote: SocketAddr,
    local: Option<IpAddr>,
    key: Option<Md5Key>,
) -> Result<io::Result<TcpStream>, Elapsed> {
    timeout_after_poll(connect_timeout, connect(remote, local, key)).await
}

async fn connect(
    remote: SocketAddr,
    local: Option<IpAddr>,
    key: Option<Md5Key>,
) -> io::Result<TcpStream> {
    let socket = match remote {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if let Some(key) = key {
        md5_key::set_for_only_peer(&socket, remote.ip(), &key)?;
    }
    if let Some(local) = local {
        socket.bind(SocketAddr::new(local, 0))?;
    }
    socket.connect(remote).await
}
