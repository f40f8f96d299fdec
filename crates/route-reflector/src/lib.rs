//! Daemon that reflects announcements of load-balancer pods to routers.
//!
//! ```text
//! file, SIGHUP ──► ConfigurationReloader ─ configure ─► BgpSpeaker ◄─ BGP ─► clients, routers
//!                      │ running configuration             ▲
//!                      ▼                                   │ lists, changes
//!      gRPC ──►   ReflectorGrpc ───────────────────────────┘
//! ```
//!
//! - [`config::parse`] turns a text into a configuration, or into an error with its place in the
//!   text and a suggestion.
//! - `reflector::ConfigurationReloader` owns the running configuration and watches the file.
//! - `bgp_speaker::BgpSpeaker` owns the sessions and the routing tables.
//! - `grpc` and `bgp-status` are the only modules that use the generated types. `metrics` has the
//!   metrics.
//! - `readiness` decides when the reflector is ready, so that a rollout can replace the next
//!   reflector.
//!
//! **Invariants.** A reload ends only sessions whose OPEN message, TCP MD5 key or connection
//! settings change. An invalid file does not change the running configuration. A path is accepted
//! from a peer, or sent to a peer, only if the configuration allows this path.

pub mod args;
pub mod config;
pub mod error;
mod grpc;
mod metrics;
mod readiness;
mod reflector;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bgp_session::Cease;
use bgp_speaker::{BgpSpeaker, SpeakerEnded, SpeakerHandle};
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
    reflector::{ConfigurationReloader, ReloadTriggers, RunningConfiguration},
};

const CONTRACT: GrpcContract = GrpcContract {
    services: &["portlb.reflector.v1.RouteReflectorService"],
    descriptors: daemon_api::FILE_DESCRIPTOR_SET,
};

/// Time for the gRPC and HTTP servers to end after the sessions have ended.
const DRAIN_MARGIN: Duration = Duration::from_secs(1);

/// The listen addresses of a running reflector, with the ports that the kernel chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddresses {
    pub grpc: ListenAddress,
    pub bgp: Vec<SocketAddr>,
}

/// Starts the tasks of the daemon.
///
/// # Errors
/// Returns an error if a socket cannot be opened or the file cannot be watched.
pub async fn start(settings: Settings, daemon: &mut Daemon) -> Result<ListenAddresses, StartError> {
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
    let speaker = BgpSpeaker::bind(config.speaker.clone())?;
    let triggers = ReloadTriggers {
        watcher: FileWatcher::new(&file)?,
        hangup: signal(SignalKind::hangup()).map_err(StartError::Signal)?,
        shutdown: daemon.shutdown().clone(),
    };
    let bgp = speaker.local_addresses().to_vec();
    let handle = speaker.handle();
    daemon.spawn_until_drained("BGP speaker", speaker.run());
    handle.configure(config.peers.clone()).await??;
    tracing::info!(addresses = ?bgp, "accepting BGP connections");

    let running = RunningConfiguration {
        config: Arc::new(config),
        file,
        last_error: String::new(),
    };
    let (running_sender, running) = watch::channel(running);
    let service = ReflectorGrpc::new(handle.clone(), running.clone());
    let routes = Routes::new(RouteReflectorServiceServer::new(service));
    let grpc = daemon.serve_grpc(&grpc_listen, CONTRACT, routes).await?;

    let step = daemon.readiness().step("configuration", "");
    let reflector = ConfigurationReloader::new(
        handle.clone(),
        overrides,
        running_sender,
        step,
        daemon.metrics(),
    );
    daemon.spawn("configuration", reflector.run(triggers));
    let step = daemon.readiness().step("sessions", "not evaluated yet");
    let step = SessionsStep::new(step, running, router_timeout);
    let metrics = SessionMetrics::new(daemon.metrics(), &handle, step);
    daemon.spawn(
        "metrics",
        metrics.run(handle.clone(), daemon.shutdown().clone()),
    );
    let sessions_end = end_sessions(
        handle,
        daemon.shutdown().clone(),
        shutdown_text,
        shutdown_deadline,
    );
    daemon.spawn_until_drained("shutdown of the sessions", sessions_end);
    Ok(ListenAddresses { grpc, bgp })
}

/// Waits for a shutdown request. Then ends every session with Cease and `text` (RFC 4486, RFC
/// 9003), and ends the speaker.
async fn end_sessions(
    speaker: SpeakerHandle,
    shutdown: Shutdown,
    text: String,
    deadline: Duration,
) -> Result<(), SpeakerEnded> {
    shutdown.drain_requested().await;
    speaker
        .shutdown(Cease::AdministrativeShutdown { text }, deadline)
        .await
}
