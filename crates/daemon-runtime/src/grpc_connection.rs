//! A connection of the gRPC server with a handshake deadline.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::transport::server::Connected;

use crate::{
    authority::AuthorityFilter,
    connection_slots::{ConnectionSlot, StreamCounter},
    server_metrics::{CloseReason, ServerMetrics},
};

/// Length of the connection preface of HTTP/2 in octets (RFC 9113 section 3.4).
const PREFACE: usize = 24;

/// Longest time from the accept to the end of the connection preface.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// An accepted connection. After the server has evicted the connection, each read or write that
/// would wait fails.
#[derive(Debug)]
pub(crate) struct GrpcConnection<S> {
    stream: S,
    slot: ConnectionSlot,
    evicted: Pin<Box<WaitForCancellationFutureOwned>>,
    /// `None` after the whole preface was received.
    handshake: Option<Handshake>,
    /// `None` for TCP connections.
    authority: Option<AuthorityFilter>,
}

#[derive(Debug)]
struct Handshake {
    /// Octets of the preface that were not received yet.
    missing: usize,
    deadline: Pin<Box<Sleep>>,
    metrics: ServerMetrics,
}

/// Information about a connection, which is attached to each request of this connection.
#[derive(Clone, Debug)]
pub(crate) struct ConnectInfo<T> {
    pub(crate) transport: T,
    pub(crate) stream_counter: StreamCounter,
}

impl<S> GrpcConnection<S> {
    pub(crate) fn new(stream: S, slot: ConnectionSlot, metrics: ServerMetrics) -> Self {
        let handshake = Handshake {
            missing: PREFACE,
            deadline: Box::pin(tokio::time::sleep(HANDSHAKE_TIMEOUT)),
            metrics,
        };
        Self {
            stream,
            evicted: Box::pin(slot.evicted()),
            slot,
            handshake: Some(handshake),
            authority: None,
        }
    }

    /// Makes the connection accept the authorities that clients of a unix socket send.
    pub(crate) fn accept_any_authority(&mut self) {
        self.authority = Some(AuthorityFilter::new());
    }

    /// Returns `result`, or an error if `result` is pending and the server has evicted the
    /// connection.
    ///
    /// Without this error, a client that does not read would keep its connection open with a
    /// pending write.
    fn unless_evicted<T>(
        &mut self,
        result: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if result.is_pending() && self.evicted.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the server closed the connection, because its connection limit is reached",
            )));
        }
        result
    }
}

impl Handshake {
    /// Returns an error after the deadline of the handshake.
    fn poll_timeout(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        self.deadline.as_mut().poll(context).map(|()| {
            self.metrics.count_closed_connection(CloseReason::Timeout);
            io::Error::new(
                io::ErrorKind::TimedOut,
                "the client did not complete the HTTP/2 handshake in time",
            )
        })
    }
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
        let result = this.unless_evicted(result, context);
        if let Some(authority) = &mut this.authority {
            authority.filter(&mut buffer.filled_mut()[before..]);
        }
        let Some(handshake) = &mut this.handshake else {
            return result;
        };
        if result.is_pending() {
            return handshake.poll_timeout(context).map(Err);
        }
        let read = buffer.filled().len() - before;
        handshake.missing = handshake.missing.saturating_sub(read);
        if handshake.missing == 0 {
            this.handshake = None;
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
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.unless_evicted(result, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, buffers);
        self.unless_evicted(result, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(context);
        self.unless_evicted(result, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_shutdown(context);
        self.unless_evicted(result, context)
    }
}

impl<S: Connected> Connected for GrpcConnection<S> {
    type ConnectInfo = ConnectInfo<S::ConnectInfo>;

    fn connect_info(&self) -> Self::ConnectInfo {
        ConnectInfo {
            transport: self.stream.connect_info(),
            stream_counter: self.slot.stream_counter(),
        }
    }
}
