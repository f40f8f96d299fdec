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
    connections::{Admission, Connections, Slot, Source},
    server_metrics::{Cut, ServerMetrics},
};

/// How often the path of a unix socket is checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Shortest time between two log lines about connections beyond the limit.
const LIMIT_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The kernel finds a remote host that is gone. Pings of HTTP/2 would do that as well, but hyper
/// looks at the clock before it looks at the socket, so that a server that was stopped for some
/// seconds would close each connection when it continues.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(10))
    .with_retries(3);

/// A listening socket.
pub(crate) trait Listen: Send + 'static {
    /// Whether its clients name a path in place of a host.
    const IS_UNIX: bool;

    /// An accepted connection.
    type Stream: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static;

    /// Accepts one connection. Safe to cancel.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Source)>> + Send;

    /// Makes sure that clients reach this socket. Called once a second.
    fn check(&mut self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}

impl Listen for TcpListener {
    const IS_UNIX: bool = false;
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, Source)> {
        let (stream, remote) = Self::accept(self).await?;
        // Nagle's algorithm would hold an event back until the previous one is acknowledged. A
        // failure means that the connection is closed; its first read says so.
        let _ = stream.set_nodelay(true);
        let _ = SockRef::from(&stream).set_tcp_keepalive(&KEEPALIVE);
        Ok((stream, Source::Address(remote.ip().to_canonical())))
    }
}

/// A listening socket, its open connections and their limit.
#[derive(Debug)]
pub(crate) struct Acceptor<L> {
    listener: L,
    connections: Connections,
    metrics: ServerMetrics,
    retry: AcceptRetry,
    limit_logged: Option<Instant>,
    check: Interval,
}

impl<L: Listen> Acceptor<L> {
    /// At most `limit` connections are open at a time.
    pub(crate) fn new(listener: L, limit: usize, metrics: ServerMetrics) -> Self {
        let mut check = tokio::time::interval(CHECK_INTERVAL);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            listener,
            connections: Connections::new(limit),
            retry: AcceptRetry::new(metrics.server()),
            metrics,
            limit_logged: None,
            check,
        }
    }

    pub(crate) fn metrics(&self) -> &ServerMetrics {
        &self.metrics
    }

    /// Returns the next connection that has a place.
    pub(crate) async fn next(&mut self) -> (L::Stream, Slot) {
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
                    self.limit_reached("an older connection is closed for a new one");
                    return (stream, slot);
                }
                Admission::Refused => self.limit_reached("a new connection is refused"),
            }
        }
    }

    fn limit_reached(&mut self, consequence: &'static str) {
        self.metrics.cut(Cut::Limit);
        let is_logged = self
            .limit_logged
            .is_some_and(|at| at.elapsed() < LIMIT_LOG_INTERVAL);
        if !is_logged {
            self.limit_logged = Some(Instant::now());
            tracing::warn!(
                server = self.metrics.server(),
                limit = self.connections.limit(),
                consequence,
                "as many connections are open as the server allows"
            );
        }
    }
}

/// Returns the most connections of a server: `most`, but at most one in `share` of the files that
/// this process may open, so that descriptors are left for BGP sessions and for the kernel's
/// sockets.
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

    /// A socket whose first accepts fail as without free descriptors.
    struct Failing {
        left: AtomicUsize,
        error: i32,
    }

    impl Listen for Failing {
        const IS_UNIX: bool = false;
        type Stream = DuplexStream;

        async fn accept(&self) -> io::Result<(DuplexStream, Source)> {
            let left = self.left.load(Ordering::Relaxed);
            if left == 0 {
                return Ok((tokio::io::duplex(1).0, Source::User(0)));
            }
            self.left.store(left - 1, Ordering::Relaxed);
            Err(io::Error::from_raw_os_error(self.error))
        }
    }

    /// How long `failures` failed accepts delay the next one, and how many of them are counted.
    async fn delay(error: i32, failures: usize) -> (Duration, u64) {
        let metrics = ServerMetrics::for_test("http");
        let listener = Failing {
            left: failures.into(),
            error,
        };
        let mut acceptor = Acceptor::new(listener, 1, metrics.clone());
        let began = tokio::time::Instant::now();
        acceptor.next().await;
        (began.elapsed(), metrics.accept_failures())
    }

    #[tokio::test(start_paused = true)]
    async fn the_pause_grows_while_descriptors_are_short() {
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
    async fn a_connection_that_its_client_aborted_causes_no_pause() {
        let (delay, counted) = delay(nix::libc::ECONNABORTED, 20).await;
        assert_eq!((delay, counted), (Duration::ZERO, 0));
    }

    #[test]
    fn both_servers_leave_more_than_half_of_the_descriptors() {
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
