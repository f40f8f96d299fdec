//! Kernel interfaces of the daemon, and their thread.

mod ipvs;
mod local_address;
pub(crate) mod sysctl_file;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    sync::mpsc,
};

use data_plane::ConnectionCounts;
use ipnet::IpNet;
use nftables_table::Nftables;
use nix::errno::Errno;
use tokio::sync::oneshot;
use virtual_server::{EntryKey, EntrySettings, TableChange, TableEntry, VirtualServerTable};

use crate::error::IpvsKernelError;

/// A change that the kernel refused, with its index in the list of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailedChange {
    pub index: usize,
    pub errno: Errno,
}

/// The kernel of one network namespace. Calls block, usually for milliseconds, and longer for a
/// large table.
pub trait IpvsKernel:
    IpvsTable + ConnectionTable + LocalPrefixAccess + NftablesAccess + Sysctls + Send
{
}

impl<K: IpvsTable + ConnectionTable + LocalPrefixAccess + NftablesAccess + Sysctls + Send>
    IpvsKernel for K
{
}

/// Access to the IPVS table of a network namespace.
pub trait IpvsTable {
    /// Reads the whole table.
    fn read_table(&mut self) -> Result<VirtualServerTable, IpvsKernelError>;

    /// Reads the settings of every entry, without the real servers. This takes less time than
    /// reading the whole table.
    fn read_settings(&mut self) -> Result<BTreeMap<EntryKey, EntrySettings>, IpvsKernelError>;

    /// Reads one entry. Returns `None` if it does not exist.
    fn read_entry(&mut self, key: EntryKey) -> Result<Option<TableEntry>, IpvsKernelError>;

    /// Applies the changes in order, and returns the failed changes. Adding an existing entry and
    /// removing a missing entry do not fail, because the caller reads the entries back anyway.
    fn apply(&mut self, changes: &[TableChange]) -> Result<Vec<FailedChange>, IpvsKernelError>;
}

/// Access to the connection counters of IPVS.
pub trait ConnectionTable {
    /// Reads the number of connections of each real server of one entry.
    fn read_connections(
        &mut self,
        key: EntryKey,
    ) -> Result<BTreeMap<SocketAddr, ConnectionCounts>, IpvsKernelError>;
}

/// Access to the prefixes that the kernel accepts as local addresses.
pub trait LocalPrefixAccess {
    /// Reads the prefixes that this daemon has made local.
    fn read_local_prefixes(&mut self) -> Result<BTreeSet<IpNet>, IpvsKernelError>;

    /// Makes a prefix local. Does not fail if the prefix is already local.
    fn add_local_prefix(&mut self, prefix: IpNet) -> Result<(), IpvsKernelError>;

    /// Reverts [`LocalPrefixAccess::add_local_prefix`]. A route of another program stays.
    fn remove_local_prefix(&mut self, prefix: IpNet) -> Result<(), IpvsKernelError>;
}

/// Access to the nftables tables.
pub trait NftablesAccess {
    /// Reports whether the kernel has a table that is equal to `table`.
    fn holds_firewall(
        &mut self,
        table: &nftables_table::NftablesTable,
    ) -> Result<bool, nftables_table::NftablesError>;

    /// Writes `table` in place of the kernel's nftables table with an equal name.
    fn replace_firewall(
        &mut self,
        table: &nftables_table::NftablesTable,
    ) -> Result<(), nftables_table::NftablesError>;
}

/// Access to the sysctls of a network namespace.
pub trait Sysctls {
    /// Reads the value of a sysctl. `name` is a path such as `net/ipv4/vs/sloppy_tcp`.
    fn read_sysctl(&mut self, name: &str) -> Result<String, Errno>;

    /// Sets the value of a sysctl.
    fn write_sysctl(&mut self, name: &str, value: &str) -> Result<(), Errno>;
}

/// The Linux kernel of the network namespace of the thread that called [`LinuxKernel::open`].
#[derive(Debug)]
pub struct LinuxKernel {
    ipvs: ipvs::Ipvs,
    local_addresses: local_address::LocalRoutes,
    /// Opened at the first use, so that the daemon also runs on a kernel without nftables.
    nftables: Option<Nftables>,
}

impl LinuxKernel {
    /// Opens the netlink sockets, and reads the IPVS table to check the privilege of the process.
    ///
    /// # Errors
    /// Returns [`IpvsKernelError::NotPermitted`] without the capability NET_ADMIN, and
    /// [`IpvsKernelError::NoIpvs`] if the kernel has no IPVS.
    pub fn open() -> Result<Self, IpvsKernelError> {
        Ok(Self {
            ipvs: ipvs::Ipvs::open()?,
            local_addresses: local_address::LocalRoutes::open()?,
            nftables: None,
        })
    }

    fn nftables(&mut self) -> Result<&mut Nftables, nftables_table::NftablesError> {
        match &mut self.nftables {
            Some(nftables) => Ok(nftables),
            closed @ None => Ok(closed.insert(Nftables::open()?)),
        }
    }
}

impl IpvsTable for LinuxKernel {
    fn read_table(&mut self) -> Result<VirtualServerTable, IpvsKernelError> {
        self.ipvs.read_table()
    }

    fn read_settings(&mut self) -> Result<BTreeMap<EntryKey, EntrySettings>, IpvsKernelError> {
        self.ipvs.read_settings()
    }

    fn read_entry(&mut self, key: EntryKey) -> Result<Option<TableEntry>, IpvsKernelError> {
        self.ipvs.read_entry(key)
    }

    fn apply(&mut self, changes: &[TableChange]) -> Result<Vec<FailedChange>, IpvsKernelError> {
        self.ipvs.apply(changes)
    }
}

impl ConnectionTable for LinuxKernel {
    fn read_connections(
        &mut self,
        key: EntryKey,
    ) -> Result<BTreeMap<SocketAddr, ConnectionCounts>, IpvsKernelError> {
        self.ipvs.read_connections(key)
    }
}

impl LocalPrefixAccess for LinuxKernel {
    fn read_local_prefixes(&mut self) -> Result<BTreeSet<IpNet>, IpvsKernelError> {
        self.local_addresses.read()
    }

    fn add_local_prefix(&mut self, prefix: IpNet) -> Result<(), IpvsKernelError> {
        self.local_addresses.add(prefix)
    }

    fn remove_local_prefix(&mut self, prefix: IpNet) -> Result<(), IpvsKernelError> {
        self.local_addresses.remove(prefix)
    }
}

impl NftablesAccess for LinuxKernel {
    fn holds_firewall(
        &mut self,
        table: &nftables_table::NftablesTable,
    ) -> Result<bool, nftables_table::NftablesError> {
        self.nftables()?.holds(table)
    }

    fn replace_firewall(
        &mut self,
        table: &nftables_table::NftablesTable,
    ) -> Result<(), nftables_table::NftablesError> {
        self.nftables()?.replace(table)
    }
}

impl Sysctls for LinuxKernel {
    fn read_sysctl(&mut self, name: &str) -> Result<String, Errno> {
        sysctl_file::read(name)
    }

    fn write_sysctl(&mut self, name: &str, value: &str) -> Result<(), Errno> {
        sysctl_file::write(name, value)
    }
}

type KernelJob = Box<dyn FnOnce(&mut dyn IpvsKernel) + Send>;

/// A handle of a thread that owns an [`IpvsKernel`]. Asynchronous callers send it jobs, which run
/// in order.
#[derive(Clone, Debug)]
pub struct KernelThread {
    jobs: mpsc::Sender<KernelJob>,
}

impl KernelThread {
    /// Starts the thread. The thread ends when the last handle is dropped.
    ///
    /// # Errors
    /// Returns an error if the system cannot start a thread.
    pub fn start(mut kernel: impl IpvsKernel + 'static) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<KernelJob>();
        std::thread::Builder::new()
            .name("kernel".into())
            .spawn(move || {
                for job in queue {
                    job(&mut kernel);
                }
            })?;
        Ok(Self { jobs })
    }

    /// Runs a job on the thread and returns its result.
    pub async fn call<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut dyn IpvsKernel) -> R + Send + 'static,
    ) -> R {
        let (answer, received) = oneshot::channel();
        let job: KernelJob = Box::new(move |kernel| {
            // Sending fails if the caller was cancelled, because the receiver is then dropped.
            let _ = answer.send(job(kernel));
        });
        self.jobs
            .send(job)
            .expect("the thread runs while a handle exists");
        received
            .await
            .expect("the thread runs every job to its end")
    }
}
