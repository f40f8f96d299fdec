//! Knows what shall be served and tells whoever programs a data plane.
//!
//! ```text
//!  file ──► FileSource ──┐
//!           reads, parses ├──► Index ──► Publisher ──► Discovery.Watch, one stream a watcher
//!  API server ──► Kuber- ─┘    owns the                Discovery.List
//!           netesSource        desired set
//! ```
//!
//! - [`source::Source`] says what shall be served: as a whole, or what has changed.
//! - [`file_format::parse`] is pure: text to desired set. So is [`kubernetes::catalog::Catalog`]:
//!   objects of a cluster to changes of it.
//! - [`index::Index`] publishes what differs, and keeps the last good set when the source fails:
//!   an error of the source never withdraws anything.
//! - [`grpc`] is the only module that knows the generated types.

#![warn(missing_docs)]

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
pub mod source;
pub mod validate;

use daemon_runtime::{Daemon, GrpcContract, ListenAddress};
use tonic::service::Routes;

use crate::{
    config::{Config, SourceConfig},
    error::StartError,
    file_source::FileSource,
    grpc::DiscoveryService,
    index::Index,
    kubernetes::tasks,
    metrics::{ClusterMetrics, IndexMetrics, WatchMetrics},
    source::Source,
};

const CONTRACT: GrpcContract = GrpcContract {
    services: &["portlb.discovery.v1.Discovery"],
    descriptors: daemon_api::FILE_DESCRIPTOR_SET,
};

/// Starts the tasks; returns the address on which the contract is served.
///
/// # Errors
/// The file cannot be watched, or the address cannot be bound.
pub async fn start(config: Config, daemon: &mut Daemon) -> Result<ListenAddress, StartError> {
    match config.source {
        SourceConfig::File(path) => {
            let source = FileSource::new(&path)?;
            start_with(source, &config.grpc_listen, daemon).await
        }
        SourceConfig::Kubernetes(kubernetes) => {
            let metrics = ClusterMetrics::register(daemon.metrics());
            let source = tasks::source(&kubernetes.cluster, &metrics, daemon);
            if let Some(status) = kubernetes.status {
                let views = source.views();
                tasks::write_status(&kubernetes.cluster, status, views, &metrics, daemon);
            }
            start_with(source, &config.grpc_listen, daemon).await
        }
    }
}

/// The same with a source of one's own.
///
/// # Errors
/// The address cannot be bound.
pub async fn start_with(
    source: impl Source,
    grpc_listen: &ListenAddress,
    daemon: &mut Daemon,
) -> Result<ListenAddress, StartError> {
    let step = daemon.readiness().step("source", index::NOT_READ);
    let metrics = IndexMetrics::register(daemon.metrics());
    let (index, reader) = Index::new(source.description(), metrics, step);
    daemon.spawn("index", index.run(source, daemon.shutdown().clone()));
    let service = DiscoveryService::server(
        reader,
        WatchMetrics::register(daemon.metrics()),
        daemon.shutdown().clone(),
    );
    let address = daemon
        .serve_grpc(grpc_listen, CONTRACT, Routes::new(service))
        .await?;
    Ok(address)
}
