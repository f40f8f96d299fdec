//! The daemon that announces service addresses by BGP.
//!
//! ```text
//!  DataPlane ──► grpc::data_plane ──┐           ┌──► Speaker ──BGP──► reflectors, routers
//!                                   ▼           │
//!                               Announcer ──────┼──► grpc::node_route ──► NodeRouteService.Hold
//!  SIGTERM, Drain, Undrain ────►  owner task    │      a task for each prefix
//!                                               └──► Publisher ──► AnnouncerService.Watch…, metrics,
//!                                                                  /readyz
//! ```
//!
//! - [`announcements::Announcements`] is a state machine without I/O. It decides which addresses
//!   are announced and in which form.
//! - [`announcer::Announcer`] owns the state machine and performs its outputs.
//! - `carried` determines which announcements the BGP sessions carry. Only a carried announcement
//!   counts as announced.
//! - [`grpc`] is the only module that uses the generated types. `bgp-status` makes the generated
//!   types of sessions.
//!
//! **Invariants.** No prefix outside of `--allowed-prefixes` is announced. A prefix is announced
//! only after the node's kernel holds the node route of the prefix, except with `--node-router
//! none`. A node route is released only after the withdrawal of its prefix.

pub mod announcements;
pub mod announcer;
pub mod args;
mod carried;
pub mod config;
pub mod error;
pub mod grpc;
pub mod hold_token;
mod log;
pub mod metrics;
pub mod peer_flag;
mod readiness;

use std::time::Duration;

use bgp_speaker::BgpSpeaker;
use daemon_runtime::{Daemon, GrpcContract, ListenAddress};
use tonic::service::Routes;

use crate::{
    announcer::Announcer,
    config::Config,
    error::StartError,
    grpc::{AnnouncerGrpc, data_plane, node_route::NodeRoutes},
    metrics::AnnouncerMetrics,
    readiness::AnnouncerReadiness,
};

const CONTRACT: GrpcContract = GrpcContract {
    services: &["portlb.announcer.v1.AnnouncerService"],
    descriptors: daemon_api::FILE_DESCRIPTOR_SET,
};

/// Time after a drain for sending Cease and for the peers to close their connections.
const SESSION_SHUTDOWN_TIME: Duration = Duration::from_secs(3);

/// Starts the tasks of the daemon. Returns the address on which the gRPC contract is served.
///
/// # Errors
/// Returns an error if a socket cannot be opened.
pub async fn start(config: Config, daemon: &mut Daemon) -> Result<ListenAddress, StartError> {
    daemon.set_drain_deadline(
        config.announcements.withdraw_delay + config.announcements.linger + SESSION_SHUTDOWN_TIME,
    );
    let readiness = AnnouncerReadiness::register(daemon.readiness(), config.node_router.is_some());
    let speaker = BgpSpeaker::bind(config.speaker.clone())?;
    let metrics = AnnouncerMetrics::register(daemon.metrics(), &speaker.handle());
    let data_plane = data_plane::watch(
        &config.data_plane,
        config.announcements.data_plane_timeout,
        config.longest_retry,
    );
    let node_routes = NodeRoutes::new(
        config.node_router.as_ref(),
        config.longest_retry,
        config.hold_token,
    );
    let (announcer, handle) = Announcer::new(
        config.announcements,
        config.peers,
        config.speaker.local_asn,
        speaker.handle(),
        node_routes,
        metrics,
        readiness,
    );
    daemon.spawn("BGP speaker", speaker.run());
    let shutdown = daemon.shutdown().clone();
    daemon.spawn_until_drained("announcer", announcer.run(data_plane, shutdown));
    let service = AnnouncerGrpc::server(handle, daemon.shutdown().clone());
    let address = daemon
        .serve_grpc(&config.grpc_listen, CONTRACT, Routes::new(service))
        .await?;
    Ok(address)
}
