//! Start of the daemon.

use std::time::Duration;

use daemon_api::noderoute::v1::node_route_service_server::NodeRouteServiceServer;
use daemon_runtime::{Daemon, GrpcContract, ListenAddress, SocketPermissions};
use nftables_table::Nftables;
use tokio::sync::{Semaphore, mpsc};
use tonic::service::Routes;

use crate::{
    Config, ExemptionFirewall, HoldProof, NetlinkKernel, OpenedKernel, RouteKernel,
    RouteKernelError, StartError, TokenSettings, exemption,
    grpc::NodeRouteGrpc,
    metrics::{RouterMetrics, register_read_counters},
    node_settings,
    proof::Prover,
    refusal_log::RefusalLog,
    table::{HOLDS_PER_ROUTE, RouteTable, RouterSteps, Settings},
    token::{KeysFile, TokenGate},
};

/// Time after the end of `--linger` in which the drain must end.
const DRAIN_MARGIN: Duration = Duration::from_secs(10);

/// Maximum number of streams of one connection in addition to `--max-routes` streams for holds.
const OTHER_STREAMS: usize = 64;

const CONTRACT: GrpcContract = GrpcContract {
    services: &["portlb.noderoute.v1.NodeRouteService"],
    descriptors: daemon_api::FILE_DESCRIPTOR_SET,
};

/// Starts the daemon with the kernel of this network namespace.
///
/// # Errors
/// The kernel refuses an operation, or a socket cannot be opened.
pub async fn start(config: Config, daemon: &mut Daemon) -> Result<(), StartError> {
    let OpenedKernel {
        kernel,
        changes,
        serving,
        reads,
    } = NetlinkKernel::open(config.policy.clone()).map_err(StartError::Routes)?;
    register_read_counters(daemon.metrics(), reads);
    let shutdown = daemon.shutdown().clone();
    daemon.spawn("netlink sockets", async move {
        tokio::select! {
            result = serving => result,
            () = shutdown.stopping() => Ok(()),
        }
    });
    start_with(config, daemon, kernel, changes, Nftables::open).await?;
    Ok(())
}

/// Starts the daemon with any implementation of the kernel. `changes` receives a value when the
/// kernel's routes can have changed. Returns the address of the gRPC server.
///
/// # Errors
/// The kernel refuses an operation, or a socket cannot be opened.
pub async fn start_with<K: RouteKernel, F: ExemptionFirewall>(
    config: Config,
    daemon: &mut Daemon,
    kernel: K,
    changes: mpsc::Receiver<()>,
    open_firewall: impl FnOnce() -> Result<F, nftables_table::NftablesError>,
) -> Result<ListenAddress, StartError> {
    let metrics = RouterMetrics::register(daemon.metrics());
    let exemption_step = daemon
        .readiness()
        .step("connection tracking exemption", "not installed");
    let steps = RouterSteps {
        routes: daemon.readiness().step("routes", "not read"),
        uplink_guard: daemon.readiness().step("uplink guard", "not read"),
        forwarding: daemon.readiness().step("forwarding", "not read"),
    };
    let settings_step = daemon.readiness().step("node settings", "not read");
    let shutdown = daemon.shutdown().clone();

    // The exemption is installed before any route, because otherwise the node would track the first
    // packets that follow the route.
    let exemption = exemption::install(
        open_firewall,
        &config.policy.allowed_prefixes,
        exemption_step,
        metrics.clone(),
    )
    .await
    .map_err(StartError::Exemption)?;
    if let Some(exemption) = exemption {
        let repair = exemption.repair_periodically(config.audit_interval);
        daemon.spawn_until_stopped("connection tracking exemption", repair);
    }

    let monitor = node_settings::NodeSettingsMonitor::begin(
        config.policy.clone(),
        settings_step,
        metrics.clone(),
    );
    daemon.spawn_until_stopped(
        "node settings",
        monitor.check_periodically(config.audit_interval),
    );

    let settings = Settings {
        max_routes: config.max_routes,
        policy: config.policy.clone(),
        adopt_timeout: config.adopt_timeout,
        release_delay: config.release_delay,
        audit_interval: config.audit_interval,
        uplinks: config.uplinks.clone(),
    };
    let (table, handle) = RouteTable::adopt(kernel, settings, steps, metrics.clone())
        .await
        .map_err(StartError::Routes)?;
    daemon.set_drain_deadline(config.linger + DRAIN_MARGIN);
    daemon.spawn_until_drained("route table", async move {
        table.run(changes, shutdown, config.linger).await;
        Ok::<(), RouteKernelError>(())
    });

    let prover = match config.hold_proof {
        HoldProof::Off => None,
        HoldProof::Address | HoldProof::Token(_) => {
            Some(Prover::open().await.map_err(StartError::Proof)?)
        }
    };
    let token_gate = match config.hold_proof {
        HoldProof::Off | HoldProof::Address => None,
        HoldProof::Token(settings) => Some(token_gate(settings, daemon, &metrics)?),
    };
    let most_pending = config.max_routes.saturating_mul(HOLDS_PER_ROUTE);
    let most_pending = most_pending.min(Semaphore::MAX_PERMITS);
    let service = NodeRouteServiceServer::new(NodeRouteGrpc {
        policy: config.policy.clone(),
        pending_holds: Semaphore::new(most_pending),
        prover,
        token_gate,
        refusal_log: RefusalLog::default(),
        table: handle,
        metrics,
    });
    daemon.set_grpc_stream_limit(config.max_routes + OTHER_STREAMS);
    daemon.set_grpc_socket_permissions(SocketPermissions {
        mode: config.socket_mode.0,
        group: config.socket_group,
    });
    daemon
        .serve_grpc(&config.grpc_listen, CONTRACT, Routes::new(service))
        .await
        .map_err(StartError::Serve)
}

fn token_gate(
    settings: TokenSettings,
    daemon: &mut Daemon,
    metrics: &RouterMetrics,
) -> Result<TokenGate, StartError> {
    let (file, keys) = KeysFile::open(
        settings.keys_file,
        metrics.token_keys.clone(),
        metrics.rejected_token_keys.clone(),
    )
    .map_err(StartError::TokenKeys)?;
    daemon.spawn_until_stopped("token keys", file.follow());
    Ok(TokenGate {
        keys,
        issuer: settings.issuer,
        namespaces: settings.namespaces,
    })
}
