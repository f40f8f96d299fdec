//! `/metrics`, `/healthz` and `/readyz`.

use axum::{
    Router, extract::State, http::StatusCode, http::header, response::IntoResponse, routing::get,
};

use crate::{Listener, Metrics, Readiness, Shutdown};

#[derive(Clone)]
struct Shown {
    metrics: Metrics,
    readiness: Readiness,
}

pub(crate) async fn serve(
    listener: Listener,
    metrics: Metrics,
    readiness: Readiness,
    shutdown: Shutdown,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(show_readiness))
        .with_state(Shown { metrics, readiness });
    let stopping = async move { shutdown.stopping().await };
    match listener {
        Listener::Tcp(listener) => {
            axum::serve(listener, router)
                .with_graceful_shutdown(stopping)
                .await
        }
        Listener::Unix(listener, _unlink) => {
            axum::serve(listener, router)
                .with_graceful_shutdown(stopping)
                .await
        }
    }
}

async fn show_metrics(State(shown): State<Shown>) -> impl IntoResponse {
    const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, TYPE)], shown.metrics.encode())
}

async fn show_readiness(State(shown): State<Shown>) -> impl IntoResponse {
    let status = if shown.readiness.is_ready() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, shown.readiness.report())
}
