//! The accept loop of the HTTP server and of the gRPC server.

use std::{
    io,
    time::{Duration, Instant},
};

use bounded_io::AcceptRetry;
use nix::sys::resource::{Resource, getrlimit};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::{Interval, MissedTickBehavior},
};
use tonic::transport::server::Connected;

use crate::{
    connection_slots::{Admission, ClientSource, ConnectionSlot, ConnectionSlots},
    server_metrics::{CloseReason, ServerMetrics},
};

/// Time between two checks of the path of a unix socket.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Shortest time between two log lines about the connection limit.
const LIMIT_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Keepalive settings of an accepted TCP connection: after 60 s without data the kernel probes the
/// client, and it closes the connection of a client that does not answer.
///
/// HTTP/2 pings cannot replace the keepalive: hyper checks the timeout of a ping before it reads
/// the answer from the socket. So a daemon that was stopped for some seconds would close all its
/// connections when it continues to run.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(10))
    .with_retries(3);

/// A listening socket for the accept loop: TCP or unix.
pub(crate) trait Listen: Send + 'static {
    /// True for a unix socket. Its gRPC clients send the path of the socket as `:authority`, so the
    /// server has to accept an authority that is not a host.
    const IS_UNIX: bool;

    type Stream: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static;

    /// Accepts one connection. Cancel safe.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, ClientSource)>> + Send;

    /// Checks that the path of a unix socket leads to this socket, and binds the path again if not.
    /// Does nothing for a TCP socket. The accept loop calls it once a second.
    fn check(&mut self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}

impl Listen for TcpListener {
    const IS_UNIX: bool = false;
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, ClientSource)> {
        let (stream, remote) = Self::accept(self).await?;
        // Nagle's algorithm would delay an event until the client has acknowledged the previous
        // event. Both calls below fail only on a closed connection. Then the first read from the
        // connection fails, too, so their errors are ignored.
        let _ = stream.set_nodelay(true);
        let _ = SockRef::from(&stream).set_tcp_keepalive(&KEEPALIVE);
        Ok((stream, ClientSource::Address(remote.ip().to_canonical())))
    }
}

/// A listening socket with its open connections and their limit.
#[derive(Debug)]
pub(crate) struct Acceptor<L> {
    listener: L,
    connections: ConnectionSlots,
    metrics: ServerMetrics,
    retry: AcceptRetry,
    limit_logged: Option<Instant>,
    check: Interval,
}

impl<L: Listen> Acceptor<L> {
    /// Returns an acceptor that allows at most `limit` open connections.
    pub(crate) fn new(listener: L, limit: usize, metrics: ServerMetrics) -> Self {
        let mut check = tokio::time::interval(CHECK_INTERVAL);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            listener,
            connections: ConnectionSlots::new(limit),
            retry: AcceptRetry::new(metrics.server()),
            metrics,
            limit_logged: None,
            check,
        }
    }

    pub(crate) fn metrics(&self) -> &ServerMetrics {
        &self.metrics
    }

    /// Accepts connections until the connection limit admits one of them. Returns the admitted
    /// connection, and closes each refused connection.
    pub(crate) async fn next(&mut self) -> (L::Stream, ConnectionSlot) {
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                _ = self.check.tick() => {
                    self.metrics.set_open(self.connections.open());
                    self.listener.check().await;
                    continue;
                }
            };
            let (stream, source) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    if let Some(pause) = self.retry.failed(&error) {
                        self.metrics.accept_failed();
                        tokio::time::sleep(pause).await;
                    }
                    continue;
                }
            };
            self.retry.succeeded();
            let admission = self.connections.admit(source).await;
            self.metrics.set_open(self.connections.open());
            match admission {
                Admission::Admitted(slot) => return (stream, slot),
                Admission::AdmittedByEviction(slot) => {
                    self.limit_reached("closed an older connection for the new one");
                    return (stream, slot);
                }
                Admission::Refused => {
                    self.limit_reached("refused the new connection");
                }
            }
        }
    }

    /// Counts a closed or refused connection, and logs the consequence at most once a minute.
    fn limit_reached(&mut self, consequence: &'static str) {
        self.metrics.count_closed_connection(CloseReason::Limit);
        let is_logged = self
            .limit_logged
            .is_some_and(|at| at.elapsed() < LIMIT_LOG_INTERVAL);
        if !is_logged {
            self.limit_logged = Some(Instant::now());
            tracing::warn!(
                server = self.metrics.server(),
                limit = self.connections.limit(),
                consequence,
                "connection limit reached"
            );
        }
    }
}

/// Returns the connection limit of a server: `most`, but at most `1 / share` of the open files that
/// the process may have, and at least 1. So descriptors remain for BGP sessions and
/// netlink sockets.
pub(crate) fn connection_limit(most: usize, share: usize) -> usize {
    let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
    limit_of(files, most, share)
}

fn limit_of(files: u64, most: usize, share: usize) -> usize {
    let files = usize::try_from(files).unwrap_or(usize::MAX);
    (files / share).clamp(1, most)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bounded_io::{FIRST_PAUSE, LONGEST_PAUSE};
    use tokio::io::DuplexStream;

    use super::*;

    /// A listener whose next `left` calls of [`Listen::accept`] fail with the error number `error`.
    struct FailingListener {
        left: AtomicUsize,
        error: i32,
    }

    impl Listen for FailingListener {
        const IS_UNIX: bool = false;
        type Stream = DuplexStream;

        async fn accept(&self) -> io::Result<(DuplexStream, ClientSource)> {
            let left = self.left.load(Ordering::Relaxed);
            if left == 0 {
                return Ok((tokio::io::duplex(1).0, ClientSource::User(0)));
            }
            self.left.store(left - 1, Ordering::Relaxed);
            Err(io::Error::from_raw_os_error(self.error))
        }
    }

    /// Returns the total pause after `failures` failed accepts, and the number of failed accepts in
    /// the metric.
    async fn delay(error: i32, failures: usize) -> (Duration, u64) {
        let metrics = ServerMetrics::for_test("http");
        let listener = FailingListener {
            left: failures.into(),
            error,
        };
        let mut acceptor = Acceptor::new(listener, 1, metrics.clone());
        let began = tokio::time::Instant::now();
        acceptor.next().await;
        (began.elapsed(), metrics.accept_failures())
    }

    #[tokio::test(start_paused = true)]
    async fn the_pause_between_accepts_grows_while_no_descriptor_is_free() {
        let emfile = nix::libc::EMFILE;
        let (first, counted) = delay(emfile, 1).await;
        assert!(first < FIRST_PAUSE * 2, "{first:?}");
        assert_eq!(counted, 1);
        let (long, counted) = delay(emfile, 20).await;
        assert!(long > 12 * LONGEST_PAUSE, "{long:?}");
        assert!(long < 20 * LONGEST_PAUSE, "{long:?}");
        assert_eq!(counted, 20);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_the_client_aborted_does_not_delay_the_next_accept() {
        let (delay, counted) = delay(nix::libc::ECONNABORTED, 20).await;
        assert_eq!((delay, counted), (Duration::ZERO, 0));
    }

    #[test]
    fn the_connection_limit_is_a_share_of_the_file_limit() {
        for (files, expected) in [
            (1, 1),
            (256, 32),
            (1024, 128),
            (1_048_576, 200),
            (u64::MAX, 200),
        ] {
            assert_eq!(limit_of(files, 200, 8), expected, "{files}");
        }
    }
}
