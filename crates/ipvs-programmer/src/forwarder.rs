//! Implementation of [`Forwarder`] on the kernel's IPVS.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use daemon_runtime::{Readiness, error_chain};
use data_plane::{
    AuditedSlice, ConnectionCounters, ConnectionCounts, CountedConnections, Forwarder, Health,
    Observation,
};
use ipnet::IpNet;
use virtual_server::{
    AddressFamily, DesiredSet, EntryKey, RealServer, VirtualServer, VirtualServerId,
};

use crate::{
    IpvsKernelError, desired_table, firewall, firewall_state::FirewallState, kernel::KernelThread,
    marks, metrics::IpvsMetrics, sysctl_state::SysctlState, table_state::TableState,
};

/// Largest number of whole entries that one slice of an audit reads.
const AUDIT_SLICE: usize = 32;

/// The forwarder of one network namespace. It owns the IPVS table, the nftables table, the sysctls
/// and the local routes.
#[derive(Debug)]
pub(crate) struct IpvsForwarder {
    kernel: KernelThread,
    counters: IpvsCounters,
    table: TableState,
    firewall: FirewallState,
    sysctls: SysctlState,
    marks: BTreeMap<VirtualServerId, u32>,
    /// The entry keys of the virtual servers for which `set_target` was called, also of those
    /// without a target because the kernel cannot hold it.
    keys: BTreeMap<VirtualServerId, EntryKey>,
    /// Keys of entries that possibly differ from their targets. The next call of `program` compares
    /// them with the targets.
    pending: BTreeSet<EntryKey>,
    /// Keys of the entries that the current round of the audit has not read yet.
    audit_queue: Vec<EntryKey>,
    metrics: IpvsMetrics,
}

/// Reads connection counters in a separate thread, so that lists do not delay the forwarder.
#[derive(Clone, Debug)]
pub(crate) struct IpvsCounters(KernelThread);

impl IpvsForwarder {
    /// Creates the forwarder from the kernel's table, without a change of the kernel.
    /// `for_counters` is the thread that reads connection counters for lists.
    ///
    /// # Errors
    /// Returns an error if the table cannot be read.
    pub(crate) async fn read(
        kernel: KernelThread,
        for_counters: KernelThread,
        readiness: &Readiness,
        metrics: IpvsMetrics,
    ) -> Result<Self, IpvsKernelError> {
        let table = kernel.call(|kernel| kernel.read_table()).await?;
        let entries = table.entries.values();
        let owned = entries.filter(|entry| entry.settings.owned).count();
        tracing::info!(
            owned,
            foreign = table.entries.len() - owned,
            "read the kernel's IPVS table"
        );
        let sysctls = readiness.step("sysctls", "not checked yet");
        let firewall = readiness.step("nftables", "not written yet");
        Ok(Self {
            counters: IpvsCounters(for_counters),
            table: TableState::new(kernel.clone(), table, metrics.clone()),
            firewall: FirewallState::new(kernel.clone(), firewall, metrics.clone()),
            sysctls: SysctlState::new(kernel.clone(), sysctls, metrics.clone()),
            kernel,
            marks: BTreeMap::new(),
            keys: BTreeMap::new(),
            pending: BTreeSet::new(),
            audit_queue: Vec::new(),
            metrics,
        })
    }

    fn key(&self, id: &VirtualServerId) -> Option<EntryKey> {
        marks::entry_key(id, self.marks.get(id).copied())
    }

    /// Assigns the marks of the desired set. Removes the targets of the virtual servers whose mark
    /// changed or is no longer used, and returns these virtual servers.
    fn assign_marks(&mut self, desired: &DesiredSet) -> BTreeSet<VirtualServerId> {
        let marks = marks::assign(desired.virtual_servers.keys());
        let before = std::mem::replace(&mut self.marks, marks);
        let changed: BTreeSet<VirtualServerId> = (before.into_iter())
            .filter(|(id, mark)| self.marks.get(id) != Some(mark))
            .map(|(id, _)| id)
            .collect();
        for id in &changed {
            self.remove_target(id);
        }
        changed
    }

    /// Sets the target of the standing entry of each address family that has a virtual server. An
    /// existing standing entry stays after the last virtual server of its address family is
    /// removed.
    fn set_standing_entries(&mut self, desired: &DesiredSet) {
        let needed: BTreeSet<AddressFamily> = desired
            .virtual_servers
            .keys()
            .map(|id| AddressFamily::of(id.address))
            .collect();
        for family in [AddressFamily::V4, AddressFamily::V6] {
            let (key, entry) = desired_table::standing_entry(family);
            if needed.contains(&family) || self.table.owns(key) {
                self.table.set_target(key, entry, BTreeMap::new());
                self.pending.insert(key);
            }
        }
    }

    async fn begin_audit(&mut self) {
        let settings = self.kernel.call(|kernel| kernel.read_settings()).await;
        let mut keys = self.table.owned_keys();
        match settings {
            // The kernel can have owned entries that `self.table` does not contain. The kernel has
            // written such an entry if only the answer to the request was lost.
            Ok(settings) => keys.extend(
                settings
                    .into_iter()
                    .filter(|(_, settings)| settings.owned)
                    .map(|(key, _)| key),
            ),
            Err(error) => {
                tracing::warn!(
                    error = error_chain(&error),
                    "cannot audit the IPVS table; retrying at the next audit"
                );
            }
        }
        self.audit_queue = keys.into_iter().collect();
        self.firewall.audit().await;
    }

    async fn audit_slice(&mut self) -> BTreeSet<EntryKey> {
        let rest = self.audit_queue.len().saturating_sub(AUDIT_SLICE);
        let slice = self.audit_queue.split_off(rest);
        let read = self
            .kernel
            .call(move |kernel| {
                slice
                    .into_iter()
                    .map(|key| kernel.read_entry(key).map(|entry| (key, entry)))
                    .collect::<Result<Vec<_>, _>>()
            })
            .await;
        let mut changed = BTreeSet::new();
        match read {
            Ok(entries) => {
                for (key, entry) in entries {
                    if self.table.record_actual(key, entry) {
                        tracing::warn!(
                            entry = %key,
                            "another program changed an IPVS entry; repairing it"
                        );
                        self.metrics.repaired.inc();
                        changed.insert(key);
                    }
                }
            }
            Err(error) => {
                tracing::warn!(
                    error = error_chain(&error),
                    "cannot audit the IPVS table; retrying at the next audit"
                );
            }
        }
        changed
    }
}

impl Forwarder for IpvsForwarder {
    type Error = IpvsKernelError;
    type Counters = IpvsCounters;

    fn counters(&self) -> IpvsCounters {
        self.counters.clone()
    }

    fn adopt(&mut self, desired: &DesiredSet) -> BTreeSet<VirtualServerId> {
        self.marks = marks::assign(desired.virtual_servers.keys());
        self.pending.extend(self.table.owned_keys());
        let owned = |id: &&VirtualServerId| self.key(id).is_some_and(|key| self.table.owns(key));
        let ids = desired.virtual_servers.keys();
        ids.filter(owned).copied().collect()
    }

    /// Writes the nftables table with the guards and the marks, and sets the sysctls. The caller
    /// programs the IPVS table afterwards.
    async fn apply_structure(
        &mut self,
        desired: &DesiredSet,
        prefixes: &BTreeSet<IpNet>,
    ) -> BTreeSet<VirtualServerId> {
        let mut changed = self.assign_marks(desired);
        self.set_standing_entries(desired);
        self.pending.extend(self.table.keys_with_errors());
        let servers = desired.virtual_servers.values();
        let desired_table = firewall::table(prefixes, servers.clone(), &self.marks);
        let was_usable = self.firewall.is_usable();
        self.firewall.set(desired_table).await;
        if was_usable != self.firewall.is_usable() {
            let affected = servers.filter(|server| firewall::is_needed_by(server));
            changed.extend(affected.map(|server| server.id));
        }
        if self.sysctls.set(desired).await {
            changed.extend(desired.virtual_servers.keys().copied());
        }
        changed
    }

    fn set_target(
        &mut self,
        server: &VirtualServer,
        health: impl Fn(&RealServer) -> Health,
    ) -> bool {
        let Some(key) = self.key(&server.id) else {
            return false;
        };
        self.keys.insert(server.id, key);
        self.pending.insert(key);
        // A failed nftables transaction has changed nothing, so an existing entry still works.
        // Without a sysctl that is essential for `server`, its entry does not work.
        let still_works = self.table.owns(key) && self.sysctls.why_unusable(server).is_none();
        if self.impossible_reason(server).is_some() && !still_works {
            self.table.remove_target(key);
            return false;
        }
        let entry = desired_table::entry(server, health, self.table.actual(key));
        let placements = desired_table::placements(server, &entry);
        self.table.set_target(key, entry, placements);
        true
    }

    fn remove_target(&mut self, id: &VirtualServerId) {
        if let Some(key) = self.keys.remove(id) {
            self.table.remove_target(key);
            self.pending.insert(key);
        }
    }

    async fn program(&mut self) {
        self.table.program(std::mem::take(&mut self.pending)).await;
    }

    fn observe(&self, id: &VirtualServerId) -> Observation {
        let firewall_mark = self.marks.get(id).copied();
        let Some(key) = self.key(id) else {
            return Observation::default();
        };
        let (target, actual) = (self.table.target(key), self.table.actual(key));
        let real_servers = actual.into_iter().flat_map(|entry| &entry.real_servers);
        Observation {
            has_target: target.is_some(),
            is_programmed: target.is_some() && target == actual,
            is_owned: self.table.owns(key),
            weights: real_servers
                .map(|(address, real_server)| (*address, real_server.weight))
                .collect(),
            error: self.table.error(key).map(|error| error_chain(error)),
            firewall_mark,
        }
    }

    fn impossible_reason(&self, server: &VirtualServer) -> Option<String> {
        if firewall::is_needed_by(server)
            && let Some(error) = self.firewall.why_unusable(server.forwarding_method)
        {
            return Some(error);
        }
        self.sysctls.why_unusable(server)
    }

    fn needs_retry(&self) -> bool {
        self.table.has_errors() || self.firewall.needs_retry() || self.sysctls.lacks_essential()
    }

    async fn connections(
        &mut self,
        ids: Vec<VirtualServerId>,
    ) -> Vec<CountedConnections<IpvsKernelError>> {
        let keys: Vec<_> = (ids.into_iter())
            .filter_map(|id| Some((id, self.key(&id)?)))
            .collect();
        self.kernel
            .call(move |kernel| {
                let read = |(id, key)| (id, kernel.read_connections(key));
                keys.into_iter().map(read).collect()
            })
            .await
    }

    /// Runs the next slice of the audit. The first slice reads the settings of all entries and the
    /// nftables table. Each further slice reads up to `AUDIT_SLICE` whole entries.
    async fn audit(&mut self) -> AuditedSlice {
        let mut changed = BTreeSet::new();
        if self.audit_queue.is_empty() {
            self.begin_audit().await;
        } else {
            changed = self.audit_slice().await;
        }
        let ids = self.keys.iter().filter(|(_, key)| changed.contains(key));
        let slice = AuditedSlice {
            changed: ids.map(|(id, _)| *id).collect(),
            is_last: self.audit_queue.is_empty(),
        };
        self.pending.extend(changed);
        slice
    }

    async fn read_local_prefixes(&mut self) -> Result<BTreeSet<IpNet>, IpvsKernelError> {
        self.kernel
            .call(|kernel| kernel.read_local_prefixes())
            .await
    }

    async fn add_local_prefix(&mut self, prefix: IpNet) -> Result<(), IpvsKernelError> {
        self.kernel
            .call(move |kernel| kernel.add_local_prefix(prefix))
            .await
    }

    async fn remove_local_prefix(&mut self, prefix: IpNet) -> Result<(), IpvsKernelError> {
        self.kernel
            .call(move |kernel| kernel.remove_local_prefix(prefix))
            .await
    }
}

impl ConnectionCounters for IpvsCounters {
    async fn read(
        &self,
        id: VirtualServerId,
        firewall_mark: Option<u32>,
    ) -> BTreeMap<SocketAddr, ConnectionCounts> {
        let Some(key) = marks::entry_key(&id, firewall_mark) else {
            return BTreeMap::new();
        };
        let read = self.0.call(move |kernel| kernel.read_connections(key));
        match read.await {
            Ok(connections) => connections,
            Err(error) => {
                tracing::debug!(
                    error = error_chain(&error),
                    "cannot read the connection counters"
                );
                BTreeMap::new()
            }
        }
    }
}
