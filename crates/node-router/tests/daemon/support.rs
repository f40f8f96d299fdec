//! The daemon in the process of the test, with a fake kernel and a fake firewall.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use daemon_api::noderoute::v1::{
    HoldRequest, HoldResponse, ListRoutesRequest, Route,
    node_route_service_client::NodeRouteServiceClient,
};
use daemon_runtime::{
    Daemon, DaemonError, GrpcTarget, ListenAddress, Metrics, Readiness, Shutdown,
};
use ipnet::IpNet;
use nftables_table::NftablesTable;
use node_router::{
    Config, ExemptionFirewall, GatewayLink, HoldProof, METRIC, NotOnLink, Policy, RouteKernel,
    RouteKernelError, RouteSnapshot, SocketMode,
    plan::{Actual, ForeignRoute, NextHop, NextHops, OwnRoute, RouteChange},
    start_with,
    uplink::{self, ActualGuard, IpVersion, Uplinks},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tonic::{Status, Streaming, transport::Channel};

pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

pub(crate) fn prefix(text: &str) -> IpNet {
    text.parse().unwrap()
}

pub(crate) fn next_hops(gateways: &[&str]) -> NextHops {
    let hop = |gateway: &&str| NextHop {
        gateway: gateway.parse().unwrap(),
        interface: 3,
    };
    gateways.iter().map(hop).collect()
}

pub(crate) fn own_route(text: &str, gateways: &[&str]) -> OwnRoute {
    OwnRoute {
        prefix: prefix(text),
        metric: METRIC,
        next_hops: Some(next_hops(gateways)),
    }
}

pub(crate) fn foreign_route(text: &str, metric: u32) -> ForeignRoute {
    ForeignRoute {
        prefix: prefix(text),
        metric,
        is_local: false,
        protocol: "static".to_owned(),
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct KernelState {
    pub(crate) routes: Actual,
    /// By default no IP version has routing rules, so the daemon installs no guard.
    pub(crate) guard: ActualGuard,
    pub(crate) not_forwarding: BTreeSet<IpVersion>,
    /// `Some`: the fake kernel refuses changes of the guard's rules with this error number.
    pub(crate) refuses_rules: Option<i32>,
    /// `Some`: the fake kernel refuses changes of the guard's routes with this error number.
    pub(crate) refuses_guard_routes: Option<i32>,
    /// Gateways that are not on a link. All other gateways are on interface 3, `pods0`.
    pub(crate) not_on_link: BTreeMap<IpAddr, NotOnLink>,
    /// `Some`: the fake kernel refuses changes of the main table with this error number.
    pub(crate) refuses_changes: Option<i32>,
    /// `Some`: the fake kernel refuses to send its routes with this error number.
    pub(crate) refuses_reading: Option<i32>,
    /// The fake kernel acknowledges changes of the main table without applying them.
    pub(crate) forgets_changes: bool,
    /// `Some`: the next change of the guard sets the interfaces of the default routes to this
    /// value.
    pub(crate) default_uplinks_after_change: Option<BTreeSet<(IpVersion, String)>>,
    /// The fake kernel sends no notifications about changes of the daemon.
    pub(crate) is_silent: bool,
    pub(crate) changes: Vec<String>,
}

/// A fake kernel. Clones share the state, so the test can read and change it while the daemon runs.
#[derive(Clone, Debug)]
pub(crate) struct FakeKernel {
    state: watch::Sender<KernelState>,
    notifications: mpsc::Sender<()>,
}

impl FakeKernel {
    pub(crate) fn new(state: KernelState, notifications: mpsc::Sender<()>) -> Self {
        Self {
            state: watch::Sender::new(state),
            notifications,
        }
    }

    /// Changes the state like another program, and sends a notification.
    pub(crate) fn change(&self, change: impl FnOnce(&mut KernelState)) {
        self.state.send_modify(change);
        let _ = self.notifications.try_send(());
    }

    fn notify_of_own_change(&self) {
        if !self.state.borrow().is_silent {
            let _ = self.notifications.try_send(());
        }
    }

    /// Changes the state without a notification.
    pub(crate) fn change_silently(&self, change: impl FnOnce(&mut KernelState)) {
        self.state.send_modify(change);
    }

    pub(crate) fn own(&self) -> Vec<OwnRoute> {
        self.state.borrow().routes.own.clone()
    }

    pub(crate) fn foreign(&self) -> Vec<ForeignRoute> {
        self.state.borrow().routes.foreign.clone()
    }

    pub(crate) fn changes(&self) -> Vec<String> {
        self.state.borrow().changes.clone()
    }

    pub(crate) async fn wait_for(&self, what: &str, is_so: impl FnMut(&KernelState) -> bool) {
        let mut state = self.state.subscribe();
        let seen = tokio::time::timeout(DEADLINE, state.wait_for(is_so)).await;
        assert!(
            seen.is_ok(),
            "{what}; the kernel: {:?}",
            self.state.borrow()
        );
    }

    pub(crate) async fn wait_for_own(&self, routes: &[OwnRoute]) {
        self.wait_for(
            &format!("the own routes never become {routes:?}"),
            |state| state.routes.own == routes,
        )
        .await;
    }
}

impl RouteKernel for FakeKernel {
    async fn read(
        &mut self,
        _prefixes: &BTreeSet<IpNet>,
    ) -> Result<RouteSnapshot, RouteKernelError> {
        let state = self.state.borrow();
        match state.refuses_reading {
            Some(errno) => Err(RouteKernelError::ReadRoutes(io::Error::from_raw_os_error(
                errno,
            ))),
            None => Ok(RouteSnapshot {
                routes: state.routes.clone(),
                guard: state.guard.clone(),
                not_forwarding: state.not_forwarding.clone(),
                complete_in: None,
            }),
        }
    }

    async fn apply_guard(&mut self, change: &uplink::GuardChange) -> Result<(), RouteKernelError> {
        let refuses = {
            let state = self.state.borrow();
            match change {
                uplink::GuardChange::Route(_)
                | uplink::GuardChange::AddFallback(..)
                | uplink::GuardChange::RemoveFallback(..) => state.refuses_guard_routes,
                uplink::GuardChange::AddRule(_) | uplink::GuardChange::RemoveRule(_) => {
                    state.refuses_rules
                }
            }
        };
        if let Some(errno) = refuses {
            return Err(RouteKernelError::ApplyGuard {
                change: change.clone(),
                source: io::Error::from_raw_os_error(errno),
            });
        }
        self.state.send_modify(|state| {
            state.changes.push(change.to_string());
            let guard = &mut state.guard;
            if let Some(uplinks) = state.default_uplinks_after_change.take() {
                guard.default_uplinks = uplinks;
            }
            match change {
                uplink::GuardChange::Route(change) => apply_to(&mut guard.own, change),
                uplink::GuardChange::AddFallback(prefix, fallback) => {
                    guard.fallbacks.insert(*prefix, *fallback);
                }
                uplink::GuardChange::RemoveFallback(prefix, _) => {
                    guard.fallbacks.remove(prefix);
                }
                uplink::GuardChange::AddRule(rule) => {
                    guard.rules.insert(rule.clone());
                }
                uplink::GuardChange::RemoveRule(rule) => {
                    guard.rules.remove(rule);
                }
            }
        });
        self.notify_of_own_change();
        Ok(())
    }

    async fn link_to(
        &mut self,
        gateway: IpAddr,
    ) -> Result<Result<GatewayLink, NotOnLink>, RouteKernelError> {
        Ok(match self.state.borrow().not_on_link.get(&gateway) {
            Some(reason) => Err(reason.clone()),
            None => Ok(GatewayLink {
                interface: 3,
                name: "pods0".to_owned(),
            }),
        })
    }

    async fn apply(&mut self, change: &RouteChange) -> Result<(), RouteKernelError> {
        let refused = |errno| RouteKernelError::Apply {
            change: change.clone(),
            source: io::Error::from_raw_os_error(errno),
        };
        if let Some(errno) = self.state.borrow().refuses_changes {
            return Err(refused(errno));
        }
        self.state.send_modify(|state| {
            state.changes.push(change.to_string());
            if state.forgets_changes {
                return;
            }
            apply_to(&mut state.routes.own, change);
        });
        self.notify_of_own_change();
        Ok(())
    }
}

fn apply_to(own: &mut Vec<OwnRoute>, change: &RouteChange) {
    own.retain(|route| route.prefix != change.prefix());
    match change {
        RouteChange::Add { prefix, next_hops } | RouteChange::Replace { prefix, next_hops } => {
            own.push(OwnRoute {
                prefix: *prefix,
                metric: METRIC,
                next_hops: Some(next_hops.clone()),
            });
            own.sort_by_key(|route| route.prefix);
        }
        RouteChange::Remove { .. } => {}
    }
}

/// Returns the error with which the fake firewall fails.
type ErrorMaker = fn() -> nftables_table::NftablesError;

#[derive(Clone, Debug, Default)]
pub(crate) struct FakeFirewall {
    pub(crate) table: Arc<Mutex<Option<NftablesTable>>>,
    pub(crate) refuses: Arc<Mutex<Option<ErrorMaker>>>,
}

impl FakeFirewall {
    fn answer(&self) -> Result<(), nftables_table::NftablesError> {
        match *self.refuses.lock().unwrap() {
            Some(error) => Err(error()),
            None => Ok(()),
        }
    }
}

impl ExemptionFirewall for FakeFirewall {
    fn holds(&mut self, table: &NftablesTable) -> Result<bool, nftables_table::NftablesError> {
        self.answer()?;
        Ok(self.table.lock().unwrap().as_ref() == Some(table))
    }

    fn replace(&mut self, table: &NftablesTable) -> Result<(), nftables_table::NftablesError> {
        self.answer()?;
        *self.table.lock().unwrap() = Some(table.clone());
        Ok(())
    }
}

pub(crate) struct FakeKernelNode {
    pub(crate) kernel: FakeKernel,
    pub(crate) metrics: Metrics,
    pub(crate) readiness: Readiness,
    pub(crate) shutdown: Shutdown,
    pub(crate) socket: PathBuf,
    running: JoinHandle<Result<(), DaemonError>>,
    directory: tempfile::TempDir,
}

pub(crate) fn config(socket: PathBuf) -> Config {
    Config {
        grpc_listen: ListenAddress::Unix(socket),
        policy: Policy {
            allowed_prefixes: vec![prefix("10.1.0.0/16"), prefix("fd00:1::/64")],
            allowed_gateways: vec![prefix("10.244.3.0/24"), prefix("fd00:244:3::/64")],
        },
        uplinks: Uplinks::OfDefaultRoutes,
        adopt_timeout: Duration::from_secs(3600),
        release_delay: Duration::ZERO,
        linger: Duration::ZERO,
        audit_interval: Duration::from_secs(3600),
        max_routes: 1_000,
        hold_proof: HoldProof::Off,
        socket_mode: SocketMode(0o660),
        socket_group: None,
    }
}

impl FakeKernelNode {
    pub(crate) async fn start() -> Self {
        Self::start_from(KernelState::default(), |_| {}).await
    }

    pub(crate) async fn start_from(state: KernelState, adjust: impl FnOnce(&mut Config)) -> Self {
        let (notifications, changes) = mpsc::channel(1);
        let kernel = FakeKernel::new(state, notifications);
        let firewall = FakeFirewall::default();
        Self::start_on(kernel, changes, firewall, adjust).await
    }

    pub(crate) async fn start_on(
        kernel: FakeKernel,
        changes: mpsc::Receiver<()>,
        firewall: FakeFirewall,
        adjust: impl FnOnce(&mut Config),
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("node-router.sock");
        let mut config = config(socket.clone());
        adjust(&mut config);
        let mut daemon = Daemon::new("node-router");
        let started = start_with(config, &mut daemon, kernel.clone(), changes, || {
            Ok(firewall)
        });
        started.await.unwrap();
        Self {
            kernel,
            metrics: daemon.metrics().clone(),
            readiness: daemon.readiness().clone(),
            shutdown: daemon.shutdown().clone(),
            socket,
            running: tokio::spawn(daemon.run_until_drained(std::future::pending())),
            directory,
        }
    }

    pub(crate) fn client(&self) -> NodeRouteServiceClient<Channel> {
        NodeRouteServiceClient::new(GrpcTarget::Unix(self.socket.clone()).channel())
    }

    /// Holds a route over a new connection, like a pod. Returns the stream of responses.
    pub(crate) async fn hold(
        &self,
        prefix: &str,
        gateway: &str,
    ) -> Result<Streaming<HoldResponse>, Status> {
        hold(&mut self.client(), prefix, gateway).await
    }

    /// Holds a route and checks that the first response reports the route as installed.
    pub(crate) async fn granted_hold(
        &self,
        prefix: &str,
        gateway: &str,
    ) -> Streaming<HoldResponse> {
        let mut stream = self.hold(prefix, gateway).await.unwrap();
        let first = next(&mut stream).await.unwrap();
        assert!(first.installed);
        assert_eq!(first.interface, "pods0");
        stream
    }

    pub(crate) async fn routes(&self) -> Vec<Route> {
        let response = self
            .client()
            .list_routes(ListRoutesRequest::default())
            .await;
        response.unwrap().into_inner().routes
    }

    /// Requests a drain and waits until the daemon ends. Panics if the daemon ends with an error.
    pub(crate) async fn stop(self) -> FakeKernel {
        self.shutdown.request();
        let ended = tokio::time::timeout(DEADLINE, self.running).await.unwrap();
        ended.unwrap().unwrap();
        drop(self.directory);
        self.kernel
    }
}

pub(crate) async fn hold(
    client: &mut NodeRouteServiceClient<Channel>,
    prefix: &str,
    gateway: &str,
) -> Result<Streaming<HoldResponse>, Status> {
    let request = HoldRequest {
        prefix: prefix.to_owned(),
        gateway: gateway.to_owned(),
        ..HoldRequest::default()
    };
    let requests = futures::stream::iter([request]);
    let response = tokio::time::timeout(DEADLINE, client.hold(requests)).await;
    response
        .expect("a response arrives before the deadline")
        .map(tonic::Response::into_inner)
}

/// Returns the next message of the stream. Panics if no message arrives before the deadline.
pub(crate) async fn next<T>(stream: &mut Streaming<T>) -> Result<T, Status> {
    tokio::time::timeout(DEADLINE, stream.message())
        .await
        .expect("a message arrives before the deadline")
        .map(|message| message.expect("the stream has another message"))
}
