//! The HTTP server with `/metrics`, `/healthz` and `/readyz`.

use std::{pin::pin, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio_util::task::TaskTracker;

use crate::{
    Listener, Metrics, Readiness, Shutdown,
    accept::{Acceptor, Listen, connection_limit},
    connection_slots::ConnectionSlot,
    metrics_format::MetricsFormat,
    server_metrics::{CloseReason, ServerMetrics},
};

/// Largest number of open connections.
const MOST_CONNECTIONS: usize = 64;
/// Divisor of the file limit: the connections may use an eighth of the open files that the process
/// may have.
const SHARE_OF_FILES: usize = 8;

/// Longest time from the accept to the end of the request's headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest time from the accept to the end of the response.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(15);

/// Largest size of the request line and the headers in bytes.
const HEADER_SIZE: usize = 8 * 1024;
const MOST_HEADERS: usize = 64;

#[derive(Clone)]
struct PageState {
    metrics: Metrics,
    readiness: Readiness,
}

pub(crate) fn pages(metrics: Metrics, readiness: Readiness) -> Router {
    Router::new()
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(show_readiness))
        .with_state(PageState { metrics, readiness })
}

pub(crate) async fn serve(
    listener: Listener,
    pages: Router,
    metrics: ServerMetrics,
    shutdown: Shutdown,
) -> std::io::Result<()> {
    match listener {
        Listener::Tcp(listener) => accept(listener, pages, metrics, shutdown).await,
        Listener::Unix(socket) => accept(socket, pages, metrics, shutdown).await,
    }
    Ok(())
}

async fn accept<L: Listen>(listener: L, pages: Router, metrics: ServerMetrics, shutdown: Shutdown) {
    let limit = connection_limit(MOST_CONNECTIONS, SHARE_OF_FILES);
    let mut acceptor = Acceptor::new(listener, limit, metrics.clone());
    let connections = TaskTracker::new();
    loop {
        let (stream, slot) = tokio::select! {
            accepted = acceptor.next() => accepted,
            () = shutdown.stopping() => break,
        };
        let answer = answer(
            stream,
            slot,
            pages.clone(),
            metrics.clone(),
            shutdown.clone(),
        );
        connections.spawn(answer);
    }
    drop(acceptor);
    connections.close();
    connections.wait().await;
}

/// Serves one request and closes the connection.
///
/// Probes and scrapes do not need to reuse a connection, and an open connection without a request
/// would count against the connection limit.
async fn answer<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static>(
    stream: S,
    slot: ConnectionSlot,
    pages: Router,
    metrics: ServerMetrics,
    shutdown: Shutdown,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_header_size(HEADER_SIZE)
        .max_buf_size(2 * HEADER_SIZE)
        .max_headers(MOST_HEADERS)
        .keep_alive(false);
    let pages = TowerToHyperService::new(pages);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), pages));
    let answered = async {
        tokio::select! {
            ended = &mut connection => return ended,
            () = shutdown.stopping() => {}
        }
        connection.as_mut().graceful_shutdown();
        connection.await
    };
    let ended = tokio::select! {
        ended = tokio::time::timeout(CONNECTION_TIMEOUT, answered) => ended,
        () = slot.evicted() => return,
    };
    let is_late = match ended {
        Err(_) => true,
        Ok(Err(error)) => error.is_timeout(),
        Ok(Ok(())) => false,
    };
    if is_late {
        metrics.count_closed_connection(CloseReason::Timeout);
    }
}

async fn show_metrics(State(state): State<PageState>, headers: HeaderMap) -> impl IntoResponse {
    let accepted = headers.get_all(header::ACCEPT).iter();
    let accepted = accepted.filter_map(|value| value.to_str().ok());
    let format = MetricsFormat::negotiate(accepted);
    (
        [
            (header::CONTENT_TYPE, format.content_type()),
            (header::VARY, "accept"),
        ],
        state.metrics.encode_as(format),
    )
}

async fn show_readiness(State(state): State<PageState>) -> impl IntoResponse {
    let status = if state.readiness.is_ready() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, state.readiness.report())
}
