//! The gRPC server with health and reflection.

use std::io;

use futures::{Stream, stream};
use tonic::{
    service::Routes,
    transport::{Server, server::Connected},
};
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    Listener, Readiness, Shutdown,
    accept::{Acceptor, Listen, connection_limit},
    grpc_connection::GrpcConnection,
    open_streams::CountStreams,
    server_metrics::ServerMetrics,
};

/// Largest number of open connections.
const MOST_CONNECTIONS: usize = 256;
/// Divisor of the file limit: the connections may use a quarter of the open files that the process
/// may have.
const SHARE_OF_FILES: usize = 4;

/// Default of the largest number of open streams on one connection.
pub(crate) const MOST_STREAMS: u32 = 256;

/// The gRPC services of a daemon.
#[derive(Clone, Copy, Debug)]
pub struct GrpcContract {
    /// Full names of the services, such as `portlb.discovery.v1.DiscoveryService`.
    pub services: &'static [&'static str],
    /// Encoded file descriptor set with the services.
    pub descriptors: &'static [u8],
}

/// The reason why the gRPC server cannot start or has ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GrpcError {
    #[error("cannot build the reflection service")]
    Reflection(#[source] tonic_reflection::server::Error),
    #[error("the gRPC server has failed")]
    Serve(#[source] tonic::transport::Error),
}

pub(crate) async fn serve(
    listener: Listener,
    contract: GrpcContract,
    routes: Routes,
    streams: u32,
    metrics: ServerMetrics,
    readiness: Readiness,
    shutdown: Shutdown,
) -> Result<(), GrpcError> {
    let (reporter, health) = tonic_health::server::health_reporter();
    let mut reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(contract.descriptors)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .with_service_name("grpc.health.v1.Health");
    for service in contract.services {
        reflection = reflection.with_service_name(*service);
    }
    let reflection = reflection.build_v1().map_err(GrpcError::Reflection)?;
    let routes = routes.add_service(health).add_service(reflection);
    let stopping = shutdown.stopping();
    let server = async {
        match listener {
            Listener::Tcp(listener) => {
                serve_routes(listener, routes, streams, metrics, stopping).await
            }
            Listener::Unix(socket) => {
                serve_routes(socket, routes, streams, metrics, stopping).await
            }
        }
    };
    tokio::select! {
        ended = server => ended.map_err(GrpcError::Serve),
        never = follow_readiness(&reporter, contract, &readiness) => never,
    }
}

async fn serve_routes<L: Listen>(
    listener: L,
    routes: Routes,
    streams: u32,
    metrics: ServerMetrics,
    stopping: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    Server::builder()
        .max_concurrent_streams(streams)
        .layer(CountStreams::<<L::Stream as Connected>::ConnectInfo>::new())
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming(listener, metrics), stopping)
        .await
}

fn incoming<L: Listen>(
    listener: L,
    metrics: ServerMetrics,
) -> impl Stream<Item = io::Result<GrpcConnection<L::Stream>>> {
    let limit = connection_limit(MOST_CONNECTIONS, SHARE_OF_FILES);
    let acceptor = Acceptor::new(listener, limit, metrics);
    stream::unfold(acceptor, async |mut acceptor| {
        let (stream, slot) = acceptor.next().await;
        let mut connection = GrpcConnection::new(stream, slot, acceptor.metrics().clone());
        if L::IS_UNIX {
            connection.accept_any_authority();
        }
        Some((Ok(connection), acceptor))
    })
}

/// Sets the status that the gRPC health service reports: `SERVING` while all readiness steps are
/// ready, otherwise `NOT_SERVING`.
async fn follow_readiness<T>(
    reporter: &HealthReporter,
    contract: GrpcContract,
    readiness: &Readiness,
) -> T {
    loop {
        let changed = readiness.changes();
        let status = if readiness.is_ready() {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        for service in contract.services.iter().chain(&[""]) {
            reporter.set_service_status(*service, status).await;
        }
        changed.await;
    }
}
