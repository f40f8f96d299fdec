//! Daemon that serves the desired set to data planes.
//!
//! pod-watcher reads the desired virtual servers from a file or from a Kubernetes cluster, and
//! serves them with the contract `DiscoveryService`.
//!
//! ```text
//!  file ──► FileSource ──┐
//!           reads, parses ├──► Index ──► Publisher ──► DiscoveryService.Watch, one stream a watcher
//!  API server ──► Kuber- ─┘    owns the                DiscoveryService.List
//!           netesSource        desired set
//! ```
//!
//! - [`source::DesiredSetSource`] delivers the desired set: first the whole set, later changes.
//! - [`file_format::parse`] converts the text of a file to a desired set.
//!   [`service_catalog::catalog::Catalog`] converts the objects of a cluster to changes of the
//!   desired set. Neither uses a clock or IO.
//! - [`index::Index`] publishes each change. If the source fails, the index keeps the last good
//!   set: an error of the source withdraws no address. `roster` keeps the positions and parts of
//!   the real servers of each virtual server.
//! - [`grpc`] is the only module that uses the generated types of the contract.

pub mod args;
pub mod command;
pub mod config;
pub mod error;
pub mod file_format;
pub mod file_source;
pub mod grpc;
pub mod index;
pub mod kubernetes;
pub mod metrics;
pub mod render;
mod roster;
pub mod source;
pub mod validate;

use std::{convert::Infallible, time::Duration};

use daemon_runtime::{Daemon, GrpcContract, ListenAddress};
use service_status::{ClusterAccess, EndSignals, StatusMetrics};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;

use crate::{
    config::{Config, SourceConfig},
    error::StartError,
    file_source::FileSource,
    grpc::DiscoveryGrpc,
    index::Index,
    kubernetes::tasks,
    metrics::{ClusterMetrics, IndexMetrics, WatchMetrics},
    source::DesiredSetSource,
};

/// Time that all tasks have to end after the linger time is over.
const DRAIN_MARGIN: Duration = Duration::from_secs(10);

const _: () = assert!(service_status::LONGEST_SHUTDOWN.as_millis() < DRAIN_MARGIN.as_millis());

const CONTRACT: GrpcContract = GrpcContract {
    services: &["portlb.discovery.v1.DiscoveryService"],
    descriptors: daemon_api::FILE_DESCRIPTOR_SET,
};

/// Starts all tasks of pod-watcher. Returns the address of the gRPC server.
///
/// # Errors
/// The file cannot be watched, or the address of the gRPC server cannot be bound.
pub async fn start(config: Config, daemon: &mut Daemon) -> Result<ListenAddress, StartError> {
    let Config {
        source,
        grpc_listen,
        linger,
    } = config;
    match source {
        SourceConfig::File(path) => {
            let source = FileSource::new(&path)?;
            start_with(source, &grpc_listen, linger, daemon).await
        }
        SourceConfig::Kubernetes(kubernetes) => {
            let metrics = ClusterMetrics::register(daemon.metrics());
            let source = tasks::source(&kubernetes.cluster, &metrics, daemon);
            let writes = StatusMetrics::register(daemon.metrics());
            let end = EndSignals::default();
            if let Some(status) = kubernetes.status {
                let cluster = ClusterAccess {
                    origin: kubernetes.cluster.origin,
                    watch_timeout: kubernetes.cluster.watch_timeout,
                    requests: metrics.requests,
                };
                service_status::start(&cluster, status, source.views(), &writes, &end, daemon);
            }
            serve(source, &grpc_listen, linger, end, daemon).await
        }
    }
}

/// Starts all tasks with the given source. After a termination signal the tasks continue for at
/// most `linger` while a client watches. Returns the address of the gRPC server.
///
/// # Errors
/// The address of the gRPC server cannot be bound.
pub async fn start_with(
    source: impl DesiredSetSource,
    grpc_listen: &ListenAddress,
    linger: Duration,
    daemon: &mut Daemon,
) -> Result<ListenAddress, StartError> {
    serve(source, grpc_listen, linger, EndSignals::default(), daemon).await
}

async fn serve(
    source: impl DesiredSetSource,
    grpc_listen: &ListenAddress,
    linger: Duration,
    end: EndSignals,
    daemon: &mut Daemon,
) -> Result<ListenAddress, StartError> {
    let step = daemon.readiness().step("source", index::NOT_READ);
    let metrics = IndexMetrics::register(daemon.metrics());
    let (index, reader) = Index::new(source.description(), metrics, step);
    daemon.spawn("index", index.run(source, daemon.shutdown().clone()));
    let watchers = TaskTracker::new();
    let service = DiscoveryGrpc::server(
        reader,
        WatchMetrics::register(daemon.metrics()),
        watchers.clone(),
        daemon.shutdown().clone(),
    );
    let shutdown = daemon.shutdown().clone();
    daemon.set_drain_deadline(linger + DRAIN_MARGIN);
    daemon.spawn_until_drained("watchers", async move {
        shutdown.drain_requested().await;
        watchers.close();
        // The tasks end before the linger time is over if all watches have ended.
        match timeout(linger, watchers.wait()).await {
            Ok(()) => end.data_plane_ended.cancel(),
            Err(_) => end.daemon_ended_alone.cancel(),
        }
        Ok::<_, Infallible>(())
    });
    let address = daemon
        .serve_grpc(grpc_listen, CONTRACT, Routes::new(service))
        .await?;
    Ok(address)
}
