//! The owner of a data plane: the one task that decides what the forwarder has to hold.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use daemon_runtime::{Reader, Shutdown, in_words, wait_until};
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
    discovery::DesiredEvent,
    drain_tracker::{DrainEnd, DrainTracker},
    forwarder::Forwarder,
    health_check::{Health, HealthCheckEvent, HealthCheckKey, HealthChecks},
    local_prefixes::LocalPrefixes,
    metrics::DataPlaneMetrics,
    start::Steps,
    status::{self, Knowledge, ServiceAddressStatus, VirtualServerStatus},
    status_publisher::StatusPublisher,
};

/// How often the owner shows that it is alive; half of the shortest heartbeat of the contract.
const ALIVE_INTERVAL: Duration = Duration::from_millis(50);
/// The gRPC service itself holds one receiver of the owner's signs of life; each watcher another.
const NO_WATCHERS: usize = 1;
/// What the kernel refused is tried again after this time.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// Changes that arrive together are made together, up to this many.
const LARGEST_TURN: usize = 10_000;

/// A question to the owner.
#[derive(Debug)]
pub(crate) enum Request {
    /// Duration of the last successful run of each health check that had one.
    HealthCheckDurations(oneshot::Sender<HashMap<HealthCheckKey, Duration>>),
}

/// The owner's channels.
#[derive(Debug)]
pub(crate) struct Inputs {
    /// From the client of Discovery.
    pub(crate) desired: mpsc::Receiver<DesiredEvent>,
    /// From the health checks.
    pub(crate) health_checks: mpsc::Receiver<HealthCheckEvent>,
    /// From the gRPC server.
    pub(crate) requests: mpsc::Receiver<Request>,
}

/// What watchers see.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    /// Every virtual server.
    pub(crate) virtual_servers: Reader<VirtualServerId, Arc<VirtualServerStatus>>,
    /// Every service address.
    pub(crate) service_addresses: Reader<IpNet, ServiceAddressStatus>,
    /// Changes as long as the owner is alive.
    pub(crate) alive: watch::Receiver<u64>,
}

/// A health check has panicked, so that the owner ends.
#[derive(Debug, thiserror::Error)]
#[error("a health check has panicked")]
pub struct HealthCheckPanicked(#[source] JoinError);

/// The owner of a data plane.
#[derive(Debug)]
pub(crate) struct Owner<F: Forwarder> {
    forwarder: F,
    desired: DesiredState,
    drains: DrainTracker,
    health_checks: HealthChecks,
    local_prefixes: LocalPrefixes<F>,
    status: StatusPublisher,
    audit: AuditClock,
    alive: watch::Sender<u64>,
    retry_at: Option<Instant>,
}

/// What a turn of the owner has to look at.
#[derive(Debug, Default)]
struct PendingWork {
    /// Virtual servers whose target or status may differ.
    virtual_servers: BTreeSet<VirtualServerId>,
    /// The set of addresses, ports, ranges or forwarding methods has changed.
    structure: bool,
}

impl<F: Forwarder> Owner<F> {
    /// Reads the local prefixes, and changes nothing.
    ///
    /// # Errors
    /// They cannot be read.
    pub(crate) async fn new(
        mut forwarder: F,
        health_checks: HealthChecks,
        steps: Steps,
        metrics: DataPlaneMetrics,
        audit_interval: Duration,
    ) -> Result<Self, F::Error> {
        let local = forwarder.read_local_prefixes().await?;
        tracing::info!(local_prefixes = local.len(), "the local prefixes were read");
        Ok(Self {
            forwarder,
            desired: DesiredState::new(steps.desired, metrics.clone()),
            drains: DrainTracker::new(metrics.clone()),
            health_checks,
            local_prefixes: LocalPrefixes::new(local),
            status: StatusPublisher::new(steps.programmed, metrics),
            audit: AuditClock::new(audit_interval),
            alive: watch::Sender::new(0),
            retry_at: None,
        })
    }

    /// Returns what readers and watchers see.
    pub(crate) fn published(&self) -> Published {
        Published {
            virtual_servers: self.status.virtual_servers(),
            service_addresses: self.status.service_addresses(),
            alive: self.alive.subscribe(),
        }
    }

    /// Owns the data plane until a drain is requested, and then for as long as `linger` while a
    /// client watches the service addresses; leaves the kernel as it is.
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

    fn answer(&self, request: Request) {
        match request {
            Request::HealthCheckDurations(answer) => {
                // The client may be gone.
                let _ = answer.send(self.health_checks.durations());
            }
        }
    }

    /// Takes over one event; what it changes is left to the turn.
    fn on_desired_event(&mut self, event: DesiredEvent, work: &mut PendingWork) {
        match event {
            DesiredEvent::Set { desired, kept } => self.on_desired_set(desired, kept, work),
            DesiredEvent::Change(change) => self.on_change(change, work),
            DesiredEvent::InvalidObject => self.desired.on_invalid_object(),
            DesiredEvent::Lost(loss) => self.desired.on_loss(loss),
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
            // A virtual server that an earlier run had in service serves on before its first
            // health check.
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
        tracing::debug!(?change, "the desired set changes");
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
                self.drains.forget(id);
                self.health_checks
                    .replace(desired.virtual_servers.get(id), None);
            }
        }
        self.desired.apply(change);
    }

    /// Looks again at everything that the kernel refused.
    fn retry(&mut self, work: &mut PendingWork) {
        self.retry_at = None;
        work.structure = true;
        work.virtual_servers.extend(self.status.unprogrammed());
    }

    /// Counts the connections of one slice of the drains, and ends those that are over.
    async fn poll_drains(&mut self, work: &mut PendingWork) {
        let counted = self.forwarder.connections(self.drains.next_slice()).await;
        let mut errors = (counted.iter())
            .filter_map(|(id, connections)| Some((id, connections.as_ref().err()?)));
        if let Some((id, error)) = errors.next() {
            tracing::warn!(
                virtual_server = %id,
                more = errors.count(),
                error = in_words(error),
                "connections could not be counted"
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

    /// Audits one slice; what differs is left to the turn to repair.
    async fn audit(&mut self, work: &mut PendingWork) {
        if self.audit.begin_slice() {
            self.local_prefixes.audit(&mut self.forwarder).await;
            work.structure = true;
        }
        let slice = self.forwarder.audit().await;
        self.audit.finish_slice(slice.is_last);
        work.virtual_servers.extend(slice.changed);
    }

    /// Makes the kernel equal to the desired set where the work says that it may differ: what the
    /// forwarder needs for a structure first, then the targets, then the addresses; removals run in
    /// reverse order.
    async fn reconcile(&mut self, mut work: PendingWork) {
        let Some(desired) = self.desired.get() else {
            return;
        };
        if work.structure {
            let prefixes = status::service_prefixes(desired);
            // Addresses are removed before their guards and their targets are.
            self.local_prefixes
                .set_wanted(&mut self.forwarder, prefixes.clone())
                .await;
            let changed = self.forwarder.follow_structure(desired, &prefixes).await;
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
        self.local_prefixes.complete(&mut self.forwarder).await;
        self.publish(&work);
        self.drains.show();
        let is_incomplete = self.forwarder.needs_retry() || self.local_prefixes.has_errors();
        if is_incomplete && self.retry_at.is_none() {
            self.retry_at = Some(Instant::now() + RETRY_INTERVAL);
        }
    }

    /// Publishes what the turn may have changed.
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
        let wanted = self.local_prefixes.wanted();
        if work.structure {
            prefixes.extend(wanted);
        }
        for prefix in prefixes.intersection(wanted) {
            let local = self.local_prefixes.state(*prefix);
            self.status.set_service_address(*prefix, local);
        }
        // After the new ones, which may take their place.
        if work.structure {
            self.status.retain_service_addresses(wanted);
        }
        self.status.finish_turn();
    }

    fn virtual_server_status(&self, server: &VirtualServer) -> VirtualServerStatus {
        let knowledge = Knowledge {
            observation: self.forwarder.observe(&server.id),
            why_impossible: self.forwarder.why_impossible(server),
            is_checked: self.status.is_checked(&server.id),
        };
        VirtualServerStatus::new(server, knowledge, |real| {
            self.health_checks.state(server, real)
        })
    }
}
