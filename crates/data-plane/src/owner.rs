//! The owner task, which decides the targets of the forwarder.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use daemon_runtime::{Reader, Shutdown, error_chain, wait_until};
use ipnet::IpNet;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinError,
    time::{Instant, MissedTickBehavior, interval},
};
use virtual_server::{DesiredChange, DesiredSet, RealServer, VirtualServer, VirtualServerId};

use crate::{
    audit_clock::AuditClock,
    desired_state::DesiredState,
    discovery::DiscoveryEvent,
    drain_tracker::{DrainEnd, DrainTracker},
    forwarder::Forwarder,
    health_check::{Health, HealthCheckEvent, HealthCheckKey, HealthChecks},
    local_prefixes::LocalPrefixState,
    metrics::DataPlaneMetrics,
    start::DataPlaneSteps,
    status::{self, ServiceAddressStatus, StatusInputs, VirtualServerStatus},
    status_publisher::StatusPublisher,
};

/// Time between two signs of life of the owner: half of the shortest heartbeat interval of the
/// contract.
const ALIVE_INTERVAL: Duration = Duration::from_millis(50);
/// Number of receivers of the owner's signs of life while no client watches. The gRPC service holds
/// one receiver, and each watch holds another receiver.
const NO_WATCHERS: usize = 1;
/// Pause before operations that the kernel refused are repeated.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// Most events that the owner handles in one turn, in addition to the event that begins the turn.
const LARGEST_TURN: usize = 10_000;

/// A request of the gRPC server to the owner.
#[derive(Debug)]
pub(crate) enum OwnerRequest {
    /// Asks for the duration of the last successful probe of each health check.
    HealthCheckDurations(oneshot::Sender<HashMap<HealthCheckKey, Duration>>),
}

/// The receivers of the owner.
#[derive(Debug)]
pub(crate) struct Inputs {
    /// Events of the client of Discovery.
    pub(crate) desired: mpsc::Receiver<DiscoveryEvent>,
    /// Changed results of the health checks.
    pub(crate) health_checks: mpsc::Receiver<HealthCheckEvent>,
    /// Requests of the gRPC server.
    pub(crate) requests: mpsc::Receiver<OwnerRequest>,
}

/// The published state of the owner for lists and watches.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    pub(crate) virtual_servers: Reader<VirtualServerId, Arc<VirtualServerStatus>>,
    pub(crate) service_addresses: Reader<IpNet, ServiceAddressStatus>,
    /// The signs of life of the owner: a counter that the owner increases every `ALIVE_INTERVAL`.
    pub(crate) alive: watch::Receiver<u64>,
}

/// An error that ends the owner: a health check task has panicked.
#[derive(Debug, thiserror::Error)]
#[error("a health check has panicked")]
pub struct HealthCheckPanicked(#[source] JoinError);

/// The state of the owner task.
#[derive(Debug)]
pub(crate) struct DataPlaneOwner<F: Forwarder> {
    forwarder: F,
    desired: DesiredState,
    drains: DrainTracker,
    health_checks: HealthChecks,
    local_prefixes: LocalPrefixState<F>,
    status: StatusPublisher,
    audit: AuditClock,
    alive: watch::Sender<u64>,
    retry_at: Option<Instant>,
}

/// The work that the current turn of the owner must do.
#[derive(Debug, Default)]
struct PendingWork {
    /// Virtual servers whose target or status might have changed.
    virtual_servers: BTreeSet<VirtualServerId>,
    /// Whether the structure must be applied: addresses, ports, ranges or forwarding methods have
    /// changed, refused operations are repeated, or a round of the audit begins.
    structure: bool,
}

impl<F: Forwarder> DataPlaneOwner<F> {
    /// Creates the owner and reads the local prefixes. Changes nothing in the kernel.
    ///
    /// # Errors
    /// The local prefixes cannot be read.
    pub(crate) async fn new(
        mut forwarder: F,
        health_checks: HealthChecks,
        steps: DataPlaneSteps,
        metrics: DataPlaneMetrics,
        audit_interval: Duration,
    ) -> Result<Self, F::Error> {
        let local = forwarder.read_local_prefixes().await?;
        tracing::info!(local_prefixes = local.len(), "read the local prefixes");
        Ok(Self {
            forwarder,
            desired: DesiredState::new(steps.desired, metrics.clone()),
            drains: DrainTracker::new(metrics.clone()),
            health_checks,
            local_prefixes: LocalPrefixState::new(local),
            status: StatusPublisher::new(steps.programmed, metrics),
            audit: AuditClock::new(audit_interval),
            alive: watch::Sender::new(0),
            retry_at: None,
        })
    }

    /// Returns readers of the published state.
    pub(crate) fn published(&self) -> Published {
        Published {
            virtual_servers: self.status.virtual_servers(),
            service_addresses: self.status.service_addresses(),
            alive: self.alive.subscribe(),
        }
    }

    /// Runs until the stop of the daemon is requested. Then continues while a client watches the
    /// service addresses, but at most for `linger`. Leaves the kernel state unchanged at the end.
    ///
    /// # Errors
    /// A health check has panicked.
    pub(crate) async fn run(
        mut self,
        mut inputs: Inputs,
        shutdown: Shutdown,
        linger: Duration,
    ) -> Result<(), HealthCheckPanicked> {
        let lingered = async {
            shutdown.drain_requested().await;
            tokio::time::sleep(linger).await;
        };
        tokio::pin!(lingered);
        let mut alive = interval(ALIVE_INTERVAL);
        alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut work = PendingWork::default();
            let retry_at = self.retry_at;
            tokio::select! {
                biased;
                () = &mut lingered => return Ok(()),
                _ = alive.tick() => {
                    self.alive.send_modify(|count| *count += 1);
                    if shutdown.is_requested() && self.alive.receiver_count() <= NO_WATCHERS {
                        return Ok(());
                    }
                    continue;
                }
                Some(request) = inputs.requests.recv() => {
                    self.answer(request);
                    continue;
                }
                Some(event) = inputs.desired.recv() => self.on_desired_event(event, &mut work),
                Some(event) = inputs.health_checks.recv() => {
                    work.virtual_servers.extend(self.health_checks.record(event));
                }
                error = self.health_checks.panicked() => return Err(HealthCheckPanicked(error)),
                () = wait_until(retry_at) => self.retry(&mut work),
                () = self.drains.due(), if !self.drains.is_empty() => {
                    self.poll_drains(&mut work).await;
                }
                () = self.audit.due(), if self.desired.get().is_some() => {
                    self.audit(&mut work).await;
                }
            }
            for _ in 0..LARGEST_TURN {
                if let Ok(event) = inputs.desired.try_recv() {
                    self.on_desired_event(event, &mut work);
                } else if let Ok(event) = inputs.health_checks.try_recv() {
                    work.virtual_servers
                        .extend(self.health_checks.record(event));
                } else {
                    break;
                }
            }
            self.end_failed_drains(&mut work);
            self.reconcile(work).await;
        }
    }

    fn answer(&self, request: OwnerRequest) {
        match request {
            OwnerRequest::HealthCheckDurations(answer) => {
                // Sending fails if the client has cancelled its request.
                let _ = answer.send(self.health_checks.durations());
            }
        }
    }

    /// Handles one event of Discovery. Adds the resulting changes of the kernel to `work`.
    fn on_desired_event(&mut self, event: DiscoveryEvent, work: &mut PendingWork) {
        match event {
            DiscoveryEvent::Set { desired, invalid } => self.on_desired_set(desired, invalid, work),
            DiscoveryEvent::Change(change) => self.on_change(change, work),
            DiscoveryEvent::InvalidObject => self.desired.on_invalid_object(),
            DiscoveryEvent::Lost(loss) => self.desired.on_loss(loss),
        }
    }

    fn on_desired_set(
        &mut self,
        mut desired: DesiredSet,
        invalid: BTreeSet<VirtualServerId>,
        work: &mut PendingWork,
    ) {
        let drains = &self.drains;
        let listed = |server: &_| drains.listed(server);
        let Some(changes) = self.desired.changes_to(&mut desired, invalid, listed) else {
            return;
        };
        if self.desired.get().is_none() {
            self.desired.begin();
            // A virtual server that an earlier run of the daemon had in service continues to serve
            // before its first health check.
            self.status.set_checked(self.forwarder.adopt(&desired));
            work.structure = true;
        }
        for change in changes {
            self.on_change(change, work);
        }
    }

    fn on_change(&mut self, mut change: DesiredChange, work: &mut PendingWork) {
        let Some(desired) = self.desired.get() else {
            return;
        };
        tracing::debug!(?change, "applying a change of the desired set");
        match &mut change {
            DesiredChange::PutServiceRange(_) | DesiredChange::RemoveServiceRange(_) => {
                work.structure = true;
            }
            DesiredChange::PutVirtualServer(server) => {
                let former = desired.virtual_servers.get(&server.id);
                work.structure |= former
                    .is_none_or(|former| former.forwarding_method != server.forwarding_method);
                work.virtual_servers.insert(server.id);
                let observation = self.forwarder.observe(&server.id);
                let health = |server: &_, real: &_| self.health_checks.state(server, real).health;
                self.drains
                    .retain_draining(server, former, &observation, health, Instant::now());
                self.health_checks.replace(former, Some(server));
            }
            DesiredChange::RemoveVirtualServer(id) => {
                work.structure = true;
                work.virtual_servers.insert(*id);
                self.drains.remove_virtual_server(id);
                self.health_checks
                    .replace(desired.virtual_servers.get(id), None);
            }
        }
        self.desired.apply(change);
    }

    /// Makes the turn repeat the operations that the kernel refused: the structure, and the targets
    /// of all virtual servers that are not programmed.
    fn retry(&mut self, work: &mut PendingWork) {
        self.retry_at = None;
        work.structure = true;
        work.virtual_servers.extend(self.status.unprogrammed());
    }

    /// Counts the connections of one slice of the virtual servers that have draining real servers,
    /// and ends the drains that are due to end.
    async fn poll_drains(&mut self, work: &mut PendingWork) {
        let counted = self.forwarder.connections(self.drains.next_slice()).await;
        let mut errors = (counted.iter())
            .filter_map(|(id, connections)| Some((id, connections.as_ref().err()?)));
        if let Some((id, error)) = errors.next() {
            tracing::warn!(
                virtual_server = %id,
                more = errors.count(),
                error = error_chain(error),
                "cannot count the connections of draining real servers; retrying"
            );
        }
        let now = Instant::now();
        for (id, connections) in counted {
            let Some(server) = self.desired.virtual_server(&id) else {
                continue;
            };
            let connections = connections.unwrap_or_default();
            let ended = self.drains.due_to_end(server, &connections, now);
            self.end_drains(id, &ended, work);
        }
    }

    /// Ends the drains of real servers that have failed their health check.
    fn end_failed_drains(&mut self, work: &mut PendingWork) {
        if self.drains.is_empty() {
            return;
        }
        for id in work.virtual_servers.clone() {
            let Some(server) = self.desired.virtual_server(&id) else {
                continue;
            };
            let health = |real: &RealServer| self.health_checks.state(server, real).health;
            let failed = self.drains.failed(server, health);
            self.end_drains(id, &failed, work);
        }
    }

    fn end_drains(
        &mut self,
        id: VirtualServerId,
        ended: &[(SocketAddr, DrainEnd)],
        work: &mut PendingWork,
    ) {
        if ended.is_empty() {
            return;
        }
        let addresses = ended.iter().map(|(address, _)| *address).collect();
        let Some((before, after)) = self.desired.remove_real_servers(&id, &addresses) else {
            return;
        };
        self.health_checks.replace(Some(&before), Some(after));
        for (address, end) in ended {
            self.drains.end(&id, *address, *end);
        }
        work.virtual_servers.insert(id);
    }

    /// Audits one slice. Adds the differences to `work`, so that the turn repairs them.
    async fn audit(&mut self, work: &mut PendingWork) {
        if self.audit.begin_slice() {
            self.local_prefixes.audit(&mut self.forwarder).await;
            work.structure = true;
        }
        let slice = self.forwarder.audit().await;
        self.audit.finish_slice(slice.is_last);
        work.virtual_servers.extend(slice.changed);
    }

    /// Makes the kernel equal to the desired set for the virtual servers in `work`. First removes
    /// local prefixes that are not desired, then changes the structure (guards and marks) and the
    /// targets, then adds missing local prefixes.
    async fn reconcile(&mut self, mut work: PendingWork) {
        let Some(desired) = self.desired.get() else {
            return;
        };
        if work.structure {
            let prefixes = status::service_prefixes(desired);
            // Local prefixes are removed before their guards and targets.
            self.local_prefixes
                .set_desired(&mut self.forwarder, prefixes.clone())
                .await;
            let changed = self.forwarder.apply_structure(desired, &prefixes).await;
            work.virtual_servers.extend(changed);
        }
        for id in &work.virtual_servers {
            let Some(server) = desired.virtual_servers.get(id) else {
                self.forwarder.remove_target(id);
                continue;
            };
            let health = |real: &RealServer| self.health_checks.state(server, real).health;
            let has_target = self.forwarder.set_target(server, health);
            let is_checked =
                (server.real_servers.iter()).all(|real| health(real) != Health::Unchecked);
            if has_target && is_checked {
                self.status.set_checked([*id]);
            }
        }
        self.forwarder.program().await;
        self.local_prefixes.add_missing(&mut self.forwarder).await;
        self.publish(&work);
        self.drains.update_metrics();
        let is_incomplete = self.forwarder.needs_retry() || self.local_prefixes.has_errors();
        if is_incomplete && self.retry_at.is_none() {
            self.retry_at = Some(Instant::now() + RETRY_INTERVAL);
        }
    }

    /// Publishes the status of the virtual servers and service addresses that the turn might have
    /// changed.
    fn publish(&mut self, work: &PendingWork) {
        let Some(desired) = self.desired.get() else {
            return;
        };
        let mut prefixes = BTreeSet::new();
        for id in &work.virtual_servers {
            prefixes.insert(status::service_prefix(desired, id.address));
            match desired.virtual_servers.get(id) {
                Some(server) => {
                    let status = self.virtual_server_status(server);
                    self.status.set_virtual_server(*id, status);
                }
                None => self.status.remove_virtual_server(id),
            }
        }
        let desired_prefixes = self.local_prefixes.desired();
        if work.structure {
            prefixes.extend(desired_prefixes);
        }
        for prefix in prefixes.intersection(desired_prefixes) {
            let local = self.local_prefixes.state(*prefix);
            self.status.set_service_address(*prefix, local);
        }
        // Service addresses that are no longer desired are removed after the new service addresses
        // are published, because a new service range can replace a removed address.
        if work.structure {
            self.status.retain_service_addresses(desired_prefixes);
        }
        self.status.finish_turn();
    }

    fn virtual_server_status(&self, server: &VirtualServer) -> VirtualServerStatus {
        let inputs = StatusInputs {
            observation: self.forwarder.observe(&server.id),
            impossible_reason: self.forwarder.impossible_reason(server),
            is_checked: self.status.is_checked(&server.id),
        };
        VirtualServerStatus::new(server, inputs, |real| {
            self.health_checks.state(server, real)
        })
    }
}
