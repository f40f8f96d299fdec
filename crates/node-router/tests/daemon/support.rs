//! The daemon in process, with a kernel and a firewall that are values.

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
use daemon_runtime::{Daemon, DaemonError, ListenAddress, Metrics, Readiness, Shutdown, Target};
use ipnet::IpNet;
use nftables_table::Table;
use node_router::{
    Config, Firewall, HoldProof, Kernel, KernelError, Link, METRIC, Mode, NotOnLink, Policy,
    Snapshot,
    plan::{Actual, Change, ForeignRoute, NextHop, NextHops, OwnRoute},
    start_with,
    uplink::{self, Guard, IpVersion, Uplinks},
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
    /// Without an IP version, so that no guard is wanted.
    pub(crate) guard: Guard,
    pub(crate) not_forwarding: BTreeSet<IpVersion>,
    /// Error number that every change of the guard's rules is answered with.
    pub(crate) refuses_rules: Option<i32>,
    /// Error number that every change of the guard's routes is answered with.
    pub(crate) refuses_guard_routes: Option<i32>,
    /// Addresses that are no neighbours; all others are on interface 3, `pods0`.
    pub(crate) not_on_link: BTreeMap<IpAddr, NotOnLink>,
    /// Error number that every change is answered with.
    pub(crate) refuses_changes: Option<i32>,
    /// Error number that reading the routes is answered with.
    pub(crate) refuses_reading: Option<i32>,
    /// Acknowledges changes without making them.
    pub(crate) forgets_changes: bool,
    /// Interfaces of the default routes from the next change of the guard on.
    pub(crate) default_uplinks_after_change: Option<BTreeSet<(IpVersion, String)>>,
    /// Sends no notification of the daemon's own changes.
    pub(crate) is_silent: bool,
    pub(crate) changes: Vec<String>,
}

/// The test's side of the kernel.
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

    /// Somebody else changes the kernel, which says so.
    pub(crate) fn change(&self, change: impl FnOnce(&mut KernelState)) {
        self.state.send_modify(change);
        let _ = self.notifications.try_send(());
    }

    fn notify_of_own_change(&self) {
        if !self.state.borrow().is_silent {
            let _ = self.notifications.try_send(());
        }
    }

    /// The kernel changes without a notification.
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
        self.wait_for(&format!("never {routes:?}"), |state| {
            state.routes.own == routes
        })
        .await;
    }
}

impl Kernel for FakeKernel {
    async fn read(&mut self, _prefixes: &BTreeSet<IpNet>) -> Result<Snapshot, KernelError> {
        let state = self.state.borrow();
        match state.refuses_reading {
            Some(errno) => Err(KernelError::ReadRoutes(io::Error::from_raw_os_error(errno))),
            None => Ok(Snapshot {
                routes: state.routes.clone(),
                guard: state.guard.clone(),
                not_forwarding: state.not_forwarding.clone(),
                complete_in: None,
            }),
        }
    }

    async fn apply_guard(&mut self, change: &uplink::Change) -> Result<(), KernelError> {
        let refuses = {
            let state = self.state.borrow();
            match change {
                uplink::Change::Route(_)
                | uplink::Change::AddFallback(..)
                | uplink::Change::RemoveFallback(..) => state.refuses_guard_routes,
                uplink::Change::AddRule(_) | uplink::Change::RemoveRule(_) => state.refuses_rules,
            }
        };
        if let Some(errno) = refuses {
            return Err(KernelError::ApplyGuard {
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
                uplink::Change::Route(change) => apply_to(&mut guard.own, change),
                uplink::Change::AddFallback(prefix, fallback) => {
                    guard.fallbacks.insert(*prefix, *fallback);
                }
                uplink::Change::RemoveFallback(prefix, _) => {
                    guard.fallbacks.remove(prefix);
                }
                uplink::Change::AddRule(rule) => {
                    guard.rules.insert(rule.clone());
                }
                uplink::Change::RemoveRule(rule) => {
                    guard.rules.remove(rule);
                }
            }
        });
        self.notify_of_own_change();
        Ok(())
    }

    async fn link_to(&mut self, gateway: IpAddr) -> Result<Result<Link, NotOnLink>, KernelError> {
        Ok(match self.state.borrow().not_on_link.get(&gateway) {
            Some(reason) => Err(reason.clone()),
            None => Ok(Link {
                interface: 3,
                name: "pods0".to_owned(),
            }),
        })
    }

    async fn apply(&mut self, change: &Change) -> Result<(), KernelError> {
        let refused = |errno| KernelError::Apply {
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

fn apply_to(own: &mut Vec<OwnRoute>, change: &Change) {
    own.retain(|route| route.prefix != change.prefix());
    match change {
        Change::Add { prefix, next_hops } | Change::Replace { prefix, next_hops } => {
            own.push(OwnRoute {
                prefix: *prefix,
                metric: METRIC,
                next_hops: Some(next_hops.clone()),
            });
            own.sort_by_key(|route| route.prefix);
        }
        Change::Remove { .. } => {}
    }
}

/// Makes the error that a call is answered with.
type Refusal = fn() -> nftables_table::Error;

#[derive(Clone, Debug, Default)]
pub(crate) struct FakeFirewall {
    pub(crate) table: Arc<Mutex<Option<Table>>>,
    pub(crate) refuses: Arc<Mutex<Option<Refusal>>>,
}

impl FakeFirewall {
    fn answer(&self) -> Result<(), nftables_table::Error> {
        match *self.refuses.lock().unwrap() {
            Some(error) => Err(error()),
            None => Ok(()),
        }
    }
}

impl Firewall for FakeFirewall {
    fn holds(&mut self, table: &Table) -> Result<bool, nftables_table::Error> {
        self.answer()?;
        Ok(self.table.lock().unwrap().as_ref() == Some(table))
    }

    fn replace(&mut self, table: &Table) -> Result<(), nftables_table::Error> {
        self.answer()?;
        *self.table.lock().unwrap() = Some(table.clone());
        Ok(())
    }
}

pub(crate) struct Node {
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
        socket_mode: Mode(0o660),
        socket_group: None,
    }
}

impl Node {
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
        NodeRouteServiceClient::new(Target::Unix(self.socket.clone()).channel())
    }

    /// A claim over a connection of its own, as a pod's.
    pub(crate) async fn hold(
        &self,
        prefix: &str,
        gateway: &str,
    ) -> Result<Streaming<HoldResponse>, Status> {
        hold(&mut self.client(), prefix, gateway).await
    }

    /// A claim that is granted, with its first response read.
    pub(crate) async fn held(&self, prefix: &str, gateway: &str) -> Streaming<HoldResponse> {
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

    /// Drains; the daemon must end without an error.
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
        .expect("an answer before the deadline")
        .map(tonic::Response::into_inner)
}

/// The next message of a stream, before the deadline.
pub(crate) async fn next<T>(stream: &mut Streaming<T>) -> Result<T, Status> {
    tokio::time::timeout(DEADLINE, stream.message())
        .await
        .expect("a message before the deadline")
        .map(|message| message.expect("the stream goes on"))
}
