//! Fake forwarder in memory, with a log of writes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use daemon_runtime::{Daemon, ListenAddress};
use data_plane::{
    AuditedSlice, Config, ConnectionCounters, ConnectionCounts, CountedConnections, DataPlaneSteps,
    Forwarder, Health, Observation,
};
use data_plane_testbed::TestKernel;
use ipnet::IpNet;
use virtual_server::{DesiredSet, RealServer, RealServerState, VirtualServer, VirtualServerId};

/// Weights of the real servers of a virtual server, by address.
type Weights = BTreeMap<SocketAddr, u32>;

/// The state of the fake kernel, and the failure that a test can request.
#[derive(Debug, Default)]
pub(crate) struct MemoryKernelState {
    pub(crate) table: BTreeMap<VirtualServerId, Weights>,
    pub(crate) local: BTreeSet<IpNet>,
    pub(crate) connections: BTreeMap<SocketAddr, ConnectionCounts>,
    /// All writes since the last call of `take_writes`, oldest first.
    pub(crate) writes: Vec<String>,
    /// The last structure that the owner sent.
    structure: String,
    /// A virtual server that the fake kernel refuses.
    pub(crate) refused: Option<VirtualServerId>,
}

/// A fake kernel. Clones refer to one kernel.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryKernel(Arc<Mutex<MemoryKernelState>>);

/// A forwarder that quiesces real servers that drain, have failed, or have had no health check.
#[derive(Debug)]
struct FakeForwarder {
    kernel: MemoryKernel,
    targets: BTreeMap<VirtualServerId, Weights>,
    pending: BTreeSet<VirtualServerId>,
    has_failed: bool,
}

/// The error for the virtual server that a test refuses.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("refused by a test")]
struct FakeError;

impl TestKernel for MemoryKernel {
    type State = MemoryKernelState;

    async fn start(&self, config: Config, daemon: &mut Daemon) -> ListenAddress {
        let forwarder = FakeForwarder {
            kernel: self.clone(),
            targets: BTreeMap::new(),
            pending: BTreeSet::new(),
            has_failed: false,
        };
        let steps = DataPlaneSteps::register(daemon.readiness());
        let address = data_plane::start(forwarder, steps, config, daemon);
        address.await.unwrap()
    }

    fn state(&self) -> MutexGuard<'_, MemoryKernelState> {
        self.0.lock().unwrap()
    }
}

impl data_plane_testbed::TestKernelState for MemoryKernelState {
    fn weight(&self, id: &str, real_server: &str) -> Option<u32> {
        let weights = self.table.get(&id.parse().unwrap())?;
        weights.get(&real_server.parse().unwrap()).copied()
    }

    fn connections(&mut self) -> &mut BTreeMap<SocketAddr, ConnectionCounts> {
        &mut self.connections
    }

    fn writes(&mut self) -> &mut Vec<String> {
        &mut self.writes
    }
}

impl MemoryKernelState {
    fn connections_of(&self, id: &VirtualServerId) -> BTreeMap<SocketAddr, ConnectionCounts> {
        let counted = |address| self.connections.get(address).copied().unwrap_or_default();
        let weights = self.table.get(id).into_iter().flatten();
        weights
            .map(|(address, _)| (*address, counted(address)))
            .collect()
    }

    fn program(&mut self, id: VirtualServerId, target: Option<&Weights>) {
        let before = self.table.remove(&id).unwrap_or_default();
        let after = target.cloned().unwrap_or_default();
        for (address, weight) in &after {
            if before.get(address) != Some(weight) {
                self.writes
                    .push(format!("set {address} of {id} to {weight}"));
            }
        }
        for address in before.keys().filter(|address| !after.contains_key(address)) {
            self.writes.push(format!("remove {address} of {id}"));
        }
        if target.is_some() {
            self.table.insert(id, after);
        }
    }
}

impl Forwarder for FakeForwarder {
    type Error = FakeError;
    type Counters = MemoryKernel;

    fn counters(&self) -> MemoryKernel {
        self.kernel.clone()
    }

    fn adopt(&mut self, desired: &DesiredSet) -> BTreeSet<VirtualServerId> {
        self.pending = self.kernel.state().table.keys().copied().collect();
        let ids = desired.virtual_servers.keys();
        ids.filter(|id| self.pending.contains(id))
            .copied()
            .collect()
    }

    async fn apply_structure(
        &mut self,
        _: &DesiredSet,
        prefixes: &BTreeSet<IpNet>,
    ) -> BTreeSet<VirtualServerId> {
        let mut state = self.kernel.state();
        let prefixes: Vec<_> = prefixes.iter().map(ToString::to_string).collect();
        let structure = format!("structure {}", prefixes.join(" "));
        // A write of a structure is recorded only if the structure has changed.
        if state.structure != structure {
            state.writes.push(structure.clone());
            state.structure = structure;
        }
        BTreeSet::new()
    }

    fn set_target(
        &mut self,
        server: &VirtualServer,
        health: impl Fn(&RealServer) -> Health,
    ) -> bool {
        let state = self.kernel.state();
        let actual = state.table.get(&server.id);
        let weights = server.real_servers.iter().map(|real_server| {
            let address = server.table_address(real_server);
            let was_in_service = actual
                .is_some_and(|weights| weights.get(&address).is_some_and(|weight| *weight > 0));
            let is_in_service = match health(real_server) {
                Health::Healthy => true,
                Health::Unchecked => was_in_service,
                Health::Failed => false,
            };
            let weight = match (is_in_service, real_server.state) {
                (true, RealServerState::Ready) => u32::from(real_server.weight.0),
                (true, RealServerState::Draining) | (false, _) => 0,
            };
            (address, weight)
        });
        self.targets.insert(server.id, weights.collect());
        self.pending.insert(server.id);
        true
    }

    fn remove_target(&mut self, id: &VirtualServerId) {
        self.targets.remove(id);
        self.pending.insert(*id);
    }

    async fn program(&mut self) {
        let mut state = self.kernel.state();
        self.has_failed = state.refused.is_some();
        for id in std::mem::take(&mut self.pending) {
            if state.refused != Some(id) {
                state.program(id, self.targets.get(&id));
            }
        }
    }

    fn observe(&self, id: &VirtualServerId) -> Observation {
        let state = self.kernel.state();
        let (target, actual) = (self.targets.get(id), state.table.get(id));
        Observation {
            has_target: target.is_some(),
            is_programmed: target.is_some() && target == actual,
            is_owned: actual.is_some(),
            weights: actual.cloned().unwrap_or_default(),
            error: (state.refused == Some(*id)).then(|| FakeError.to_string()),
            firewall_mark: None,
        }
    }

    fn impossible_reason(&self, _: &VirtualServer) -> Option<String> {
        None
    }

    fn needs_retry(&self) -> bool {
        self.has_failed
    }

    async fn connections(
        &mut self,
        ids: Vec<VirtualServerId>,
    ) -> Vec<CountedConnections<FakeError>> {
        let state = self.kernel.state();
        let counted = |id| (id, Ok(state.connections_of(&id)));
        ids.into_iter().map(counted).collect()
    }

    async fn audit(&mut self) -> AuditedSlice {
        let state = self.kernel.state();
        let targets = self.targets.iter();
        let changed = targets.filter(|(id, target)| state.table.get(id) != Some(target));
        AuditedSlice {
            changed: changed.map(|(id, _)| *id).collect(),
            is_last: true,
        }
    }

    async fn read_local_prefixes(&mut self) -> Result<BTreeSet<IpNet>, FakeError> {
        Ok(self.kernel.state().local.clone())
    }

    async fn add_local_prefix(&mut self, prefix: IpNet) -> Result<(), FakeError> {
        let mut state = self.kernel.state();
        state.writes.push(format!("add local {prefix}"));
        state.local.insert(prefix);
        Ok(())
    }

    async fn remove_local_prefix(&mut self, prefix: IpNet) -> Result<(), FakeError> {
        let mut state = self.kernel.state();
        state.writes.push(format!("remove local {prefix}"));
        state.local.remove(&prefix);
        Ok(())
    }
}

impl ConnectionCounters for MemoryKernel {
    async fn read(
        &self,
        id: VirtualServerId,
        _: Option<u32>,
    ) -> BTreeMap<SocketAddr, ConnectionCounts> {
        self.state().connections_of(&id)
    }
}
