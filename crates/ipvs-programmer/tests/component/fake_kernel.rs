//! Fake kernel that records writes and simulates failures.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use daemon_runtime::{Daemon, ListenAddress};
use data_plane::{Config, ConnectionCounts};
use data_plane_testbed::TestKernel;
use ipnet::IpNet;
use ipvs_programmer::{
    IpvsKernelError, NetlinkError,
    kernel::{
        ConnectionTable, FailedChange, IpvsTable, LocalPrefixAccess, NftablesAccess, Sysctls,
    },
};
use nix::errno::Errno;
use virtual_server::{
    EntryKey, EntryScheduler, EntrySettings, Scheduler, TableChange, TableEntry, VirtualServerTable,
};

use crate::key;

/// The state of the fake kernel, and the failures that it simulates.
#[derive(Debug, Default)]
pub(crate) struct FakeKernelState {
    pub(crate) table: VirtualServerTable,
    pub(crate) local: BTreeSet<IpNet>,
    pub(crate) firewall: Option<nftables_table::NftablesTable>,
    pub(crate) sysctls: BTreeMap<String, String>,
    /// The sysctl that cannot be written.
    pub(crate) read_only_sysctl: Option<&'static str>,
    pub(crate) connections: BTreeMap<SocketAddr, ConnectionCounts>,
    /// All writes since the last call of `take_writes`, oldest first.
    pub(crate) writes: Vec<String>,
    pub(crate) without_nftables: bool,
    pub(crate) nftables_fails: bool,
    pub(crate) without_mh: bool,
    pub(crate) lo_down: bool,
    /// The next changes are applied, but their answer is lost.
    pub(crate) lose_next_answer: bool,
}

/// A handle of a fake kernel. Clones refer to one kernel.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeIpvsKernel(Arc<Mutex<FakeKernelState>>);

impl TestKernel for FakeIpvsKernel {
    type State = FakeKernelState;

    async fn start(&self, config: Config, daemon: &mut Daemon) -> ListenAddress {
        let address = ipvs_programmer::start_with(self.clone(), self.clone(), config, daemon);
        address.await.unwrap()
    }

    fn state(&self) -> MutexGuard<'_, FakeKernelState> {
        self.0.lock().unwrap()
    }
}

impl data_plane_testbed::TestKernelState for FakeKernelState {
    fn weight(&self, id: &str, real_server: &str) -> Option<u32> {
        let entry = self.table.entries.get(&key(id))?;
        let real_server = entry.real_servers.get(&real_server.parse().unwrap())?;
        Some(real_server.weight)
    }

    fn connections(&mut self) -> &mut BTreeMap<SocketAddr, ConnectionCounts> {
        &mut self.connections
    }

    fn writes(&mut self) -> &mut Vec<String> {
        &mut self.writes
    }
}

impl IpvsTable for FakeIpvsKernel {
    fn read_table(&mut self) -> Result<VirtualServerTable, IpvsKernelError> {
        Ok(self.state().table.clone())
    }

    fn read_settings(&mut self) -> Result<BTreeMap<EntryKey, EntrySettings>, IpvsKernelError> {
        let state = self.state();
        let entries = state.table.entries.iter();
        Ok(entries
            .map(|(key, entry)| (*key, entry.settings.clone()))
            .collect())
    }

    fn read_entry(&mut self, key: EntryKey) -> Result<Option<TableEntry>, IpvsKernelError> {
        Ok(self.state().table.entries.get(&key).cloned())
    }

    fn apply(&mut self, changes: &[TableChange]) -> Result<Vec<FailedChange>, IpvsKernelError> {
        let mut state = self.state();
        let mut failed = Vec::new();
        for (index, change) in changes.iter().enumerate() {
            let settings = match change {
                TableChange::AddVirtualServer(_, settings)
                | TableChange::SetVirtualServer(_, settings) => Some(settings),
                TableChange::RemoveVirtualServer(_)
                | TableChange::AddRealServer(..)
                | TableChange::SetRealServer(..)
                | TableChange::RemoveRealServer(..) => None,
            };
            let is_mh = settings.is_some_and(|settings| {
                matches!(settings.scheduler, EntryScheduler::Known(Scheduler::Mh(_)))
            });
            if is_mh && state.without_mh {
                failed.push(FailedChange {
                    index,
                    errno: Errno::ENOENT,
                });
                continue;
            }
            state.writes.push(format!("{change:?}"));
            state.table.apply(change);
        }
        if std::mem::take(&mut state.lose_next_answer) {
            return Err(IpvsKernelError::Netlink {
                operation: "change the IPVS table",
                source: NetlinkError::AnswerLost { reason: "test" },
            });
        }
        Ok(failed)
    }
}

impl ConnectionTable for FakeIpvsKernel {
    fn read_connections(
        &mut self,
        key: EntryKey,
    ) -> Result<BTreeMap<SocketAddr, ConnectionCounts>, IpvsKernelError> {
        let state = self.state();
        let Some(entry) = state.table.entries.get(&key) else {
            return Ok(BTreeMap::new());
        };
        let connections = |address| state.connections.get(address).copied().unwrap_or_default();
        let real_servers = entry.real_servers.keys();
        Ok(real_servers
            .map(|address| (*address, connections(address)))
            .collect())
    }
}

impl LocalPrefixAccess for FakeIpvsKernel {
    fn read_local_prefixes(&mut self) -> Result<BTreeSet<IpNet>, IpvsKernelError> {
        Ok(self.state().local.clone())
    }

    fn add_local_prefix(&mut self, prefix: IpNet) -> Result<(), IpvsKernelError> {
        let mut state = self.state();
        if state.lo_down {
            return Err(IpvsKernelError::LoopbackDown);
        }
        state.writes.push(format!("add local {prefix}"));
        state.local.insert(prefix);
        Ok(())
    }

    fn remove_local_prefix(&mut self, prefix: IpNet) -> Result<(), IpvsKernelError> {
        let mut state = self.state();
        state.writes.push(format!("remove local {prefix}"));
        state.local.remove(&prefix);
        Ok(())
    }
}

impl NftablesAccess for FakeIpvsKernel {
    fn holds_firewall(
        &mut self,
        table: &nftables_table::NftablesTable,
    ) -> Result<bool, nftables_table::NftablesError> {
        let state = self.state();
        if state.without_nftables {
            return Err(nftables_table::NftablesError::Unsupported {
                what: "open a netfilter socket".into(),
                source: Errno::EPROTONOSUPPORT.into(),
            });
        }
        Ok(state.firewall.as_ref() == Some(table))
    }

    fn replace_firewall(
        &mut self,
        table: &nftables_table::NftablesTable,
    ) -> Result<(), nftables_table::NftablesError> {
        let mut state = self.state();
        if state.nftables_fails {
            return Err(nftables_table::NftablesError::Refused {
                what: "test".into(),
                source: Errno::ENOMEM.into(),
            });
        }
        state.writes.push("replace firewall".into());
        state.firewall = Some(table.clone());
        Ok(())
    }
}

impl Sysctls for FakeIpvsKernel {
    fn read_sysctl(&mut self, name: &str) -> Result<String, Errno> {
        self.state().sysctls.get(name).cloned().ok_or(Errno::ENOENT)
    }

    fn write_sysctl(&mut self, name: &str, value: &str) -> Result<(), Errno> {
        let mut state = self.state();
        if state.read_only_sysctl == Some(name) {
            return Err(Errno::EROFS);
        }
        state.writes.push(format!("{name}={value}"));
        state.sysctls.insert(name.to_owned(), value.to_owned());
        Ok(())
    }
}
