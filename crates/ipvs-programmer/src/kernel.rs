//! What the daemon does to the kernel, and the thread that does it.

mod ipvs;
mod local_address;
pub(crate) mod sysctl_file;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    sync::mpsc,
};

use data_plane::Connections;
use ipnet::IpNet;
use nftables_table::Nftables;
use nix::errno::Errno;
use tokio::sync::oneshot;
use virtual_server::{Entry, EntryKey, EntrySettings, Table, TableChange};

use crate::error::KernelError;

/// A change that the kernel refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailedChange {
    /// Its place in the list of changes.
    pub index: usize,
    /// Why.
    pub errno: Errno,
}

/// The kernel of one network namespace. Calls block, for milliseconds unless the table is large.
pub trait Kernel: IpvsTable + ConnectionTable + LocalPrefixes + Firewall + Sysctls + Send {}

impl<K: IpvsTable + ConnectionTable + LocalPrefixes + Firewall + Sysctls + Send> Kernel for K {}

/// The IPVS table.
pub trait IpvsTable {
    /// The whole table.
    fn read_table(&mut self) -> Result<Table, KernelError>;

    /// The settings of every entry, without real servers: cheaper than the table by their number.
    fn read_settings(&mut self) -> Result<BTreeMap<EntryKey, EntrySettings>, KernelError>;

    /// One entry; `None` if there is none.
    fn read_entry(&mut self, key: EntryKey) -> Result<Option<Entry>, KernelError>;

    /// Makes the changes in order and returns those that failed. To add what is there, or to remove
    /// what is not, is no failure: the caller reads back anyway.
    fn apply(&mut self, changes: &[TableChange]) -> Result<Vec<FailedChange>, KernelError>;
}

/// The counters of connections.
pub trait ConnectionTable {
    /// The connections of each real server of one entry.
    fn read_connections(
        &mut self,
        key: EntryKey,
    ) -> Result<BTreeMap<SocketAddr, Connections>, KernelError>;
}

/// The prefixes that are accepted as local.
pub trait LocalPrefixes {
    /// The prefixes that we made local.
    fn read_local_prefixes(&mut self) -> Result<BTreeSet<IpNet>, KernelError>;

    /// Accepts a prefix as local. One that is local already is no failure.
    fn add_local_prefix(&mut self, prefix: IpNet) -> Result<(), KernelError>;

    /// Reverts [`LocalPrefixes::add_local_prefix`]; another's route stays.
    fn remove_local_prefix(&mut self, prefix: IpNet) -> Result<(), KernelError>;
}

/// The nftables tables.
pub trait Firewall {
    /// Whether the nftables table of this name is this one.
    fn holds_firewall(
        &mut self,
        table: &nftables_table::Table,
    ) -> Result<bool, nftables_table::Error>;

    /// Replaces the nftables table of this name.
    fn replace_firewall(
        &mut self,
        table: &nftables_table::Table,
    ) -> Result<(), nftables_table::Error>;
}

/// The sysctls.
pub trait Sysctls {
    /// The value of a sysctl, such as of `net/ipv4/vs/sloppy_tcp`.
    fn read_sysctl(&mut self, name: &str) -> Result<String, Errno>;

    /// Sets a sysctl.
    fn write_sysctl(&mut self, name: &str, value: &str) -> Result<(), Errno>;
}

/// The kernel of the network namespace of the thread that opens it.
#[derive(Debug)]
pub struct LinuxKernel {
    ipvs: ipvs::Ipvs,
    local_addresses: local_address::LocalAddresses,
    /// Opened when first needed, so that a kernel without nftables is no obstacle.
    nftables: Option<Nftables>,
}

impl LinuxKernel {
    /// Opens the sockets and reads something that only a privileged process may read.
    ///
    /// # Errors
    /// [`KernelError::NotPermitted`] and [`KernelError::NoIpvs`] say what is missing and what
    /// gives it.
    pub fn open() -> Result<Self, KernelError> {
        Ok(Self {
            ipvs: ipvs::Ipvs::open()?,
            local_addresses: local_address::LocalAddresses::open()?,
            nftables: None,
        })
    }

    fn nftables(&mut self) -> Result<&mut Nftables, nftables_table::Error> {
        match &mut self.nftables {
            Some(nftables) => Ok(nftables),
            closed @ None => Ok(closed.insert(Nftables::open()?)),
        }
    }
}

impl IpvsTable for LinuxKernel {
    fn read_table(&mut self) -> Result<Table, KernelError> {
        self.ipvs.read_table()
    }

    fn read_settings(&mut self) -> Result<BTreeMap<EntryKey, EntrySettings>, KernelError> {
        self.ipvs.read_settings()
    }

    fn read_entry(&mut self, key: EntryKey) -> Result<Option<Entry>, KernelError> {
        self.ipvs.read_entry(key)
    }

    fn apply(&mut self, changes: &[TableChange]) -> Result<Vec<FailedChange>, KernelError> {
        self.ipvs.apply(changes)
    }
}

impl ConnectionTable for LinuxKernel {
    fn read_connections(
        &mut self,
        key: EntryKey,
    ) -> Result<BTreeMap<SocketAddr, Connections>, KernelError> {
        self.ipvs.read_connections(key)
    }
}

impl LocalPrefixes for LinuxKernel {
    fn read_local_prefixes(&mut self) -> Result<BTreeSet<IpNet>, KernelError> {
        self.local_addresses.read()
    }

    fn add_local_prefix(&mut self, prefix: IpNet) -> Result<(), KernelError> {
        self.local_addresses.add(prefix)
    }

    fn remove_local_prefix(&mut self, prefix: IpNet) -> Result<(), KernelError> {
        self.local_addresses.remove(prefix)
    }
}

impl Firewall for LinuxKernel {
    fn holds_firewall(
        &mut self,
        table: &nftables_table::Table,
    ) -> Result<bool, nftables_table::Error> {
        self.nftables()?.holds(table)
    }

    fn replace_firewall(
        &mut self,
        table: &nftables_table::Table,
    ) -> Result<(), nftables_table::Error> {
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

type Job = Box<dyn FnOnce(&mut dyn Kernel) + Send>;

/// A thread that owns a [`Kernel`], for asynchronous callers. Jobs run in order.
#[derive(Clone, Debug)]
pub struct KernelThread {
    jobs: mpsc::Sender<Job>,
}

impl KernelThread {
    /// Starts the thread. It ends when the last handle is gone.
    ///
    /// # Errors
    /// The system has no room for another thread.
    pub fn start(mut kernel: impl Kernel + 'static) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        std::thread::Builder::new()
            .name("kernel".into())
            .spawn(move || {
                for job in queue {
                    job(&mut kernel);
                }
            })?;
        Ok(Self { jobs })
    }

    /// Runs a job and returns what it returns.
    pub async fn call<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut dyn Kernel) -> R + Send + 'static,
    ) -> R {
        let (answer, received) = oneshot::channel();
        let job: Job = Box::new(move |kernel| {
            // The caller may have been dropped.
            let _ = answer.send(job(kernel));
        });
        self.jobs
            .send(job)
            .expect("the thread ends with its last handle");
        received
            .await
            .expect("the thread answers every job that it takes")
    }
}
