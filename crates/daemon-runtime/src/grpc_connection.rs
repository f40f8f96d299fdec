//! A connection of the gRPC server, with a deadline for its handshake.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::transport::server::Connected;

use crate::{
    connections::Slot,
    server_metrics::{Cut, ServerMetrics},
};

/// Octets of the connection preface of HTTP/2 (RFC 9113 section 3.4).
const PREFACE: usize = 24;

/// Longest time from the connection to the end of the preface.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection that keeps its place once its client has sent the preface: streams of watches and
/// holds are silent for hours.
#[derive(Debug)]
pub(crate) struct GrpcConnection<S> {
    stream: S,
    slot: Slot,
    handshake: Option<Handshake>,
}

#[derive(Debug)]
struct Handshake {
    missing: usize,
    deadline: Pin<Box<Sleep>>,
    evicted: Pin<Box<WaitForCancellationFutureOwned>>,
    metrics: ServerMetrics,
}

impl<S> GrpcConnection<S> {
    pub(crate) fn new(stream: S, slot: Slot, metrics: ServerMetrics) -> Self {
        let handshake = Handshake {
            missing: PREFACE,
            deadline: Box::pin(tokio::time::sleep(HANDSHAKE_TIMEOUT)),
            evicted: Box::pin(slot.evicted()),
            metrics,
        };
        Self {
            stream,
            slot,
            handshake: Some(handshake),
        }
    }
}

impl Handshake {
    /// Returns why the handshake has failed, if it has.
    fn poll_failure(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        if self.evicted.as_mut().poll(context).is_ready() {
            return Poll::Ready(evicted());
        }
        ready!(self.deadline.as_mut().poll(context));
        self.metrics.cut(Cut::Timeout);
        Poll::Ready(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client did not complete the handshake of HTTP/2 in time",
        ))
    }
}

fn evicted() -> io::Error {
    io::Error::new(
        io::ErrorKind::ConnectionAborted,
        "the connection is closed for a newer one",
    )
}

impl<S: AsyncRead + Unpin> AsyncRead for GrpcConnection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let result = Pin::new(&mut this.stream).poll_read(context, buffer);
        let Some(handshake) = &mut this.handshake else {
            return result;
        };
        if result.is_pending() {
            return handshake.poll_failure(context).map(Err);
        }
        let read = buffer.filled().len() - before;
        handshake.missing = handshake.missing.saturating_sub(read);
        if handshake.missing == 0 {
            this.handshake = None;
            if !this.slot.establish() {
                return Poll::Ready(Err(evicted()));
            }
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for GrpcConnection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl<S: Connected> Connected for GrpcConnection<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}
