//! Reflects the announcements of load-balancer pods to the upstream routers.
//!
//! ```text
//!   file, SIGHUP ──► Reflector ── configure ──► Speaker ◄── BGP ──► clients, routers
//!                        │ in force                ▲
//!                        ▼                         │ lists, changes
//!                   ReflectorGrpc ─────────────────┘◄── gRPC
//! ```
//!
//! - [`config::parse`] is pure: text to configuration, each refusal with its place and cure.
//! - `reflector::Reflector` owns the configuration in force and follows the file.
//! - `bgp_speaker::Speaker` owns sessions and RIB.
//! - `grpc` is the only module that knows the generated types, next to `bgp-status`; `metrics` has the metrics.
//! - `readiness` says when another reflector may go.
//!
//! **Invariants.** A session survives every reload that changes nothing of its OPEN, its key and
//! its connection. A file that cannot be used changes nothing. Nothing is accepted from a peer or sent to one that the
//! configuration does not name.

pub mod args;
pub mod config;
pub mod error;
mod grpc;
mod metrics;
mod readiness;
mod reflector;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bgp_session::Cease;
use bgp_speaker::{Speaker, SpeakerGone, SpeakerHandle};
use daemon_api::reflector::v1::route_reflector_service_server::RouteReflectorServiceServer;
use daemon_runtime::{Daemon, GrpcContract, ListenAddress, Shutdown, config_file::FileWatcher};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tonic::service::Routes;

use crate::{
    config::Settings,
    error::StartError,
    grpc::ReflectorGrpc,
    metrics::SessionMetrics,
    readiness::SessionsStep,
    reflector::{InForce, Reflector, Triggers},
};

const CONTRACT: GrpcContract = GrpcContract {
    services: &["portlb.reflector.v1.RouteReflectorService"],
    descriptors: daemon_api::FILE_DESCRIPTOR_SET,
};

/// What the servers get to end after the peers have been told.
const DRAIN_MARGIN: Duration = Duration::from_secs(1);

/// Where a running reflector is reached, with the ports that the kernel chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// gRPC.
    pub grpc: ListenAddress,
    /// BGP.
    pub bgp: Vec<SocketAddr>,
}

/// Starts the tasks.
///
/// # Errors
/// A socket cannot be opened or the file cannot be watched.
pub async fn start(settings: Settings, daemon: &mut Daemon) -> Result<Addresses, StartError> {
    let Settings {
        config,
        file,
        overrides,
        grpc_listen,
        router_timeout,
        shutdown_text,
        shutdown_deadline,
    } = settings;
    daemon.set_drain_deadline(shutdown_deadline + DRAIN_MARGIN);
    let speaker = Speaker::bind(config.speaker.clone())?;
    let triggers = Triggers {
        watcher: FileWatcher::new(&file)?,
        hangup: signal(SignalKind::hangup()).map_err(StartError::Signal)?,
        shutdown: daemon.shutdown().clone(),
    };
    let bgp = speaker.local_addresses().to_vec();
    let handle = speaker.handle();
    daemon.spawn_until_drained("BGP speaker", speaker.run());
    handle.configure(config.peers.clone()).await??;
    tracing::info!(addresses = ?bgp, "BGP is spoken");

    let in_force = InForce {
        config: Arc::new(config),
        file,
        last_error: String::new(),
    };
    let (in_force_sender, in_force) = watch::channel(in_force);
    let service = ReflectorGrpc::new(handle.clone(), in_force.clone());
    let routes = Routes::new(RouteReflectorServiceServer::new(service));
    let grpc = daemon.serve_grpc(&grpc_listen, CONTRACT, routes).await?;

    let step = daemon.readiness().step("configuration", "");
    let reflector = Reflector::new(
        handle.clone(),
        overrides,
        in_force_sender,
        step,
        daemon.metrics(),
    );
    daemon.spawn("configuration", reflector.run(triggers));
    let step = daemon.readiness().step("sessions", "not counted yet");
    let step = SessionsStep::new(step, in_force, router_timeout);
    let metrics = SessionMetrics::new(daemon.metrics(), &handle, step);
    daemon.spawn(
        "metrics",
        metrics.run(handle.clone(), daemon.shutdown().clone()),
    );
    let goodbye = goodbye(
        handle,
        daemon.shutdown().clone(),
        shutdown_text,
        shutdown_deadline,
    );
    daemon.spawn_until_drained("goodbye to the peers", goodbye);
    Ok(Addresses { grpc, bgp })
}

/// Tells every peer why its session ends (RFC 4486, RFC 9003), which ends the speaker.
async fn goodbye(
    speaker: SpeakerHandle,
    shutdown: Shutdown,
    text: String,
    deadline: Duration,
) -> Result<(), SpeakerGone> {
    shutdown.drain_requested().await;
    speaker
        .shutdown(Cease::AdministrativeShutdown { text }, deadline)
        .await
}
