//! The owner of the table: the one task that decides what the kernel shall hold.

mod audit;
mod desired_events;
mod draining;
mod firewall_state;
mod local_prefixes;
mod publish;
mod sysctls;
mod table_state;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use daemon_runtime::{Publisher, Reader, Shutdown, Step};
use ipnet::IpNet;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use virtual_server::{AddressFamily, DesiredSet, EntryKey, VirtualServer, VirtualServerId};

use crate::{
    check::{CheckEvent, CheckKey, Checks},
    desired::DesiredEvent,
    desired_table, firewall,
    health::Health,
    kernel::KernelThread,
    marks,
    metrics::ProgrammerMetrics,
    status::{self, ServiceAddressStatus, VirtualServerStatus},
};
use audit::Audit;
use draining::Draining;
use firewall_state::FirewallState;
use local_prefixes::LocalPrefixes;
use sysctls::Sysctls;
use table_state::TableState;

/// How often the owner shows that it is alive; half of the shortest heartbeat of the contract.
const ALIVE_INTERVAL: Duration = Duration::from_millis(50);
/// The gRPC service itself looks whether the owner is alive; each watcher does so beside it.
const NO_WATCHERS: usize = 1;
/// What the kernel refused is tried again after this time.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// Changes that arrive together are made together, up to this many.
const LARGEST_TURN: usize = 10_000;

/// A question to the owner.
#[derive(Debug)]
pub enum Request {
    /// Duration of the last successful check of each real server in microseconds.
    CheckDurations(oneshot::Sender<HashMap<CheckKey, u32>>),
}

/// Where the owner hears of the world.
#[derive(Debug)]
pub struct Inputs {
    /// From the client of Discovery.
    pub desired: mpsc::Receiver<DesiredEvent>,
    /// From the health checks.
    pub checks: mpsc::Receiver<CheckEvent>,
    /// From the gRPC server.
    pub requests: mpsc::Receiver<Request>,
}

/// What `/readyz` shows.
#[derive(Debug)]
pub struct Steps {
    /// The desired set has been received.
    pub desired: Step,
    /// The kernel's table holds it.
    pub programmed: Step,
    /// Sysctls, never missing, with what is lost.
    pub sysctls: Step,
    /// The nftables table, never missing, with what is lost.
    pub firewall: Step,
}

/// What watchers see.
#[derive(Clone, Debug)]
pub struct Published {
    /// Every virtual server.
    pub virtual_servers: Reader<VirtualServerId, Arc<VirtualServerStatus>>,
    /// Every service address.
    pub service_addresses: Reader<IpNet, ServiceAddressStatus>,
    /// Changes as long as the owner is alive.
    pub alive: watch::Receiver<u64>,
}

/// The owner of the table.
#[derive(Debug)]
pub struct Programmer {
    desired: Option<DesiredSet>,
    /// Why there is no stream of it; told once.
    lost: Option<String>,
    marks: BTreeMap<VirtualServerId, u32>,
    settled: BTreeSet<VirtualServerId>,
    statuses: BTreeMap<VirtualServerId, Arc<VirtualServerStatus>>,
    service_addresses: BTreeMap<IpNet, ServiceAddressStatus>,
    kernel: KernelThread,
    table: TableState,
    firewall: FirewallState,
    local_prefixes: LocalPrefixes,
    sysctls: Sysctls,
    audit: Audit,
    draining: Draining,
    checks: Checks,
    virtual_server_publisher: Publisher<VirtualServerId, Arc<VirtualServerStatus>>,
    service_address_publisher: Publisher<IpNet, ServiceAddressStatus>,
    alive: watch::Sender<u64>,
    steps: Steps,
    metrics: ProgrammerMetrics,
    retry_at: Option<Instant>,
}

/// What a turn of the owner has to look at.
#[derive(Debug, Default)]
struct Turn {
    /// Virtual servers whose entry or status may differ.
    virtual_servers: BTreeSet<VirtualServerId>,
    /// Entries that may differ from what they should be.
    keys: BTreeSet<EntryKey>,
    /// The set of addresses, ports, ranges or forwarding methods has changed.
    structure: bool,
}

/// Why the owner ends.
#[derive(Debug, thiserror::Error)]
pub enum ProgrammerError {
    /// The kernel's state could not be read at start.
    #[error("cannot read what the kernel holds")]
    Adopt(#[source] crate::KernelError),
    /// A health check has panicked.
    #[error("a health check has panicked")]
    Check(#[source] tokio::task::JoinError),
}

impl Programmer {
    /// Reads what the kernel holds, and changes nothing.
    ///
    /// # Errors
    /// The kernel cannot be read.
    pub async fn adopt(
        kernel: KernelThread,
        checks: Checks,
        steps: Steps,
        metrics: ProgrammerMetrics,
        audit_interval: Duration,
    ) -> Result<Self, ProgrammerError> {
        let table = kernel.call(|kernel| kernel.read_table()).await;
        let table = table.map_err(ProgrammerError::Adopt)?;
        let local = kernel.call(|kernel| kernel.read_local_prefixes()).await;
        let local = local.map_err(ProgrammerError::Adopt)?;
        let owned = table
            .entries
            .values()
            .filter(|entry| entry.settings.owned)
            .count();
        tracing::info!(
            owned,
            foreign = table.entries.len() - owned,
            local_prefixes = local.len(),
            "the kernel's table was read"
        );
        Ok(Self {
            desired: None,
            lost: None,
            marks: BTreeMap::new(),
            settled: BTreeSet::new(),
            statuses: BTreeMap::new(),
            service_addresses: BTreeMap::new(),
            table: TableState::new(kernel.clone(), table, metrics.clone()),
            firewall: FirewallState::new(kernel.clone()),
            local_prefixes: LocalPrefixes::new(kernel.clone(), local),
            sysctls: Sysctls::default(),
            audit: Audit::new(audit_interval),
            draining: Draining::new(metrics.clone()),
            kernel,
            checks,
            virtual_server_publisher: Publisher::new(),
            service_address_publisher: Publisher::new(),
            alive: watch::Sender::new(0),
            steps,
            metrics,
            retry_at: None,
        })
    }

    /// For those who read and watch.
    pub fn published(&self) -> Published {
        Published {
            virtual_servers: self.virtual_server_publisher.reader(),
            service_addresses: self.service_address_publisher.reader(),
            alive: self.alive.subscribe(),
        }
    }

    /// Owns the table until a drain is requested, and then for as long as `linger` while somebody
    /// watches the service addresses; leaves the kernel as it is.
    ///
    /// # Errors
    /// A health check has panicked.
    pub async fn run(
        mut self,
        mut inputs: Inputs,
        shutdown: Shutdown,
        linger: Duration,
    ) -> Result<(), ProgrammerError> {
        let lingered = async {
            shutdown.drain_requested().await;
            tokio::time::sleep(linger).await;
        };
        tokio::pin!(lingered);
        let mut alive = interval(ALIVE_INTERVAL);
        alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut turn = Turn::default();
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
                Some(event) = inputs.desired.recv() => self.take_desired(event, &mut turn),
                Some(event) = inputs.checks.recv() => {
                    turn.virtual_servers.extend(self.checks.record(event));
                }
                error = self.checks.panicked() => return Err(ProgrammerError::Check(error)),
                () = sleep_until(retry_at.unwrap_or_else(Instant::now)), if retry_at.is_some() => {
                    self.retry(&mut turn);
                }
                () = self.draining.due(), if !self.draining.is_empty() => {
                    self.look_at_draining(&mut turn).await;
                }
                () = self.audit.due(), if self.desired.is_some() => self.audit(&mut turn).await,
            }
            for _ in 0..LARGEST_TURN {
                if let Ok(event) = inputs.desired.try_recv() {
                    self.take_desired(event, &mut turn);
                } else if let Ok(event) = inputs.checks.try_recv() {
                    turn.virtual_servers.extend(self.checks.record(event));
                } else {
                    break;
                }
            }
            self.end_failed_drains(&mut turn);
            self.reconcile(turn).await;
        }
    }

    fn answer(&self, request: Request) {
        match request {
            Request::CheckDurations(answer) => {
                // Whoever asked may be gone.
                let _ = answer.send(self.checks.microseconds());
            }
        }
    }

    /// What the kernel refused may work now.
    fn retry(&mut self, turn: &mut Turn) {
        self.retry_at = None;
        turn.structure = true;
        turn.keys.extend(self.table.keys_with_errors());
        let unprogrammed = self
            .statuses
            .iter()
            .filter(|(_, status)| !status.programmed);
        turn.virtual_servers.extend(unprogrammed.map(|(id, _)| *id));
    }

    /// Makes the kernel equal to the desired set where the turn says that it may differ: guards and
    /// marks first, then the table, then the addresses; what goes goes in the other order.
    async fn reconcile(&mut self, mut turn: Turn) {
        let Some(desired) = self.desired.take() else {
            return;
        };
        if turn.structure {
            self.follow_structure(&desired, &mut turn).await;
        }
        for id in &turn.virtual_servers {
            turn.keys
                .extend(self.set_target(*id, desired.virtual_servers.get(id)));
        }
        self.table.program(std::mem::take(&mut turn.keys)).await;
        self.local_prefixes.complete().await;
        self.publish(&desired, &turn);
        self.draining.show();
        self.desired = Some(desired);
        let incomplete = self.table.has_errors()
            || self.local_prefixes.has_errors()
            || self.firewall.has_failed()
            || self.sysctls.lacks_essential();
        if incomplete && self.retry_at.is_none() {
            self.retry_at = Some(Instant::now() + RETRY_INTERVAL);
        }
    }

    async fn follow_structure(&mut self, desired: &DesiredSet, turn: &mut Turn) {
        let marks = marks::assign(desired.virtual_servers.keys());
        let changed: Vec<VirtualServerId> = (self.marks.iter())
            .filter(|(id, mark)| marks.get(id) != Some(mark))
            .map(|(id, _)| *id)
            .collect();
        for id in changed {
            turn.keys.extend(self.remove_target(id));
            turn.virtual_servers.insert(id);
        }
        self.marks = marks;
        turn.keys.extend(self.keep_standing_entries(desired));

        let addresses = desired.virtual_servers.keys().map(|id| id.address);
        let prefixes: BTreeSet<IpNet> = addresses
            .map(|address| status::service_prefix(desired, address))
            .chain(desired.service_ranges.iter().map(|range| range.prefix))
            .collect();
        let wanted = firewall::table(&prefixes, desired.virtual_servers.values(), &self.marks);
        // The addresses of what goes go before its guards and its entries do.
        self.local_prefixes.set_wanted(prefixes).await;
        let was_usable = self.firewall.is_usable();
        self.firewall.set(wanted).await;
        self.metrics
            .firewall_in_force
            .set(i64::from(self.firewall.is_usable()));
        self.steps.firewall.ready(self.firewall.detail());
        if was_usable != self.firewall.is_usable() {
            let concerned = desired
                .virtual_servers
                .values()
                .filter(|server| firewall::is_needed_by(server));
            turn.virtual_servers
                .extend(concerned.map(|server| server.id));
        }
        if self.sysctls.set(&self.kernel, desired, &self.metrics).await {
            turn.virtual_servers
                .extend(desired.virtual_servers.keys().copied());
        }
        self.steps.sysctls.ready(self.sysctls.detail());
    }

    /// Why this pod cannot hold a virtual server at all.
    fn why_impossible(&self, server: &VirtualServer) -> Option<String> {
        if firewall::is_needed_by(server) && !self.firewall.is_usable() {
            return Some(self.firewall.why_unusable(server.forwarding_method));
        }
        self.sysctls.why_unusable(server)
    }

    /// Standing entries come with the first virtual server of their IP version, and stay.
    fn keep_standing_entries(&mut self, desired: &DesiredSet) -> Vec<EntryKey> {
        let needed: BTreeSet<AddressFamily> = desired
            .virtual_servers
            .keys()
            .map(|id| AddressFamily::of(id.address))
            .collect();
        let mut keys = Vec::new();
        for family in [AddressFamily::V4, AddressFamily::V6] {
            let (key, entry) = desired_table::standing_entry(family);
            if needed.contains(&family) || self.table.owns(key) {
                self.table.set_target(key, entry, BTreeMap::new());
                keys.push(key);
            }
        }
        keys
    }

    /// Says what the table shall hold for a virtual server; returns the key to look at.
    fn set_target(
        &mut self,
        id: VirtualServerId,
        server: Option<&VirtualServer>,
    ) -> Option<EntryKey> {
        let Some(server) = server else {
            self.settled.remove(&id);
            return self.remove_target(id);
        };
        let key = marks::entry_key(&id, self.marks.get(&id).copied())?;
        // A transaction that failed has changed nothing, so an entry that is there goes on working;
        // without an essential sysctl none works, whoever put it there.
        let works_on = self.table.owns(key) && self.sysctls.why_unusable(server).is_none();
        if self.why_impossible(server).is_some() && !works_on {
            self.table.remove_target(key);
            return Some(key);
        }
        let checks = &self.checks;
        let health = |real: &_| checks.state(server, real).health;
        let entry = desired_table::entry(server, health, self.table.actual(key));
        let unchecked = server
            .real_servers
            .iter()
            .any(|real| health(real) == Health::Unchecked);
        if !unchecked {
            self.settled.insert(id);
        }
        let placements = desired_table::placements(server, &entry);
        self.table.set_target(key, entry, placements);
        Some(key)
    }

    fn remove_target(&mut self, id: VirtualServerId) -> Option<EntryKey> {
        let mark = self
            .statuses
            .get(&id)
            .and_then(|status| status.firewall_mark);
        let key = marks::entry_key(&id, mark.or_else(|| self.marks.get(&id).copied()))?;
        self.table.remove_target(key);
        Some(key)
    }
}
