//! The kernel's table of virtual servers and real servers.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
};

use crate::{ForwardingMethod, Persistence, Protocol, Scheduler};

/// The virtual servers in a kernel's table, with their real servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VirtualServerTable {
    /// All entries, including the entries of other programs.
    pub entries: BTreeMap<EntryKey, TableEntry>,
}

/// The key of an entry of the table: the packets that belong to the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryKey {
    /// Packets to this destination.
    Address {
        protocol: Protocol,
        address: IpAddr,
        /// Port 0 means all ports. The kernel allows port 0 only with persistence.
        port: u16,
    },
    /// Packets with this firewall mark.
    FirewallMark {
        family: AddressFamily,
        /// The mark, which is never 0: 0 means that a packet has no mark.
        mark: u32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressFamily {
    V4,
    V6,
}

/// A virtual server in the kernel's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableEntry {
    pub settings: EntrySettings,
    /// Real servers by address and port. Port 0 means that each connection keeps the port to which
    /// the client connected.
    pub real_servers: BTreeMap<SocketAddr, RealServerEntry>,
}

/// The settings of a virtual server in the kernel's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntrySettings {
    /// True if portlb added the entry or has taken it over. An entry of another program is not
    /// changed unless its key is desired.
    pub owned: bool,
    pub scheduler: EntryScheduler,
    /// `None` if persistence is off.
    pub persistence: Option<Persistence>,
    /// True if the scheduler chooses a real server for each packet (one-packet scheduling). A
    /// desired entry never has this flag.
    pub one_packet: bool,
}

/// A scheduler in the kernel's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryScheduler {
    /// A scheduler that a desired set can contain.
    Known(Scheduler),
    /// The kernel's name of a scheduler that no desired set contains.
    Foreign(String),
}

/// A real server in the kernel's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RealServerEntry {
    /// A real server's share of new connections. Desired weights are at most 65535, but another
    /// program can set a greater weight.
    pub weight: u32,
    pub forwarding_method: EntryForwardingMethod,
    /// Number of connections at which the real server stops getting new connections. 0 means no
    /// limit.
    pub upper_threshold: u32,
    /// A real server that has reached the upper threshold gets new connections only when it has
    /// fewer connections than this number. 0 means three quarters of the upper threshold
    /// (`ip_vs_conn.c`).
    pub lower_threshold: u32,
}

/// A forwarding method in the kernel's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryForwardingMethod {
    /// A forwarding method that a desired set can contain.
    Known(ForwardingMethod),
    /// A forwarding method that no desired set contains, or a tunnel with parameters that no
    /// desired set contains.
    Foreign,
}

/// One change of the kernel's table. Each variant is one command of the kernel's interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableChange {
    /// Adds a virtual server without real servers.
    AddVirtualServer(EntryKey, EntrySettings),
    /// Replaces the settings of a virtual server. Its real servers and connections stay.
    SetVirtualServer(EntryKey, EntrySettings),
    /// Removes a virtual server with all of its real servers.
    RemoveVirtualServer(EntryKey),
    AddRealServer(EntryKey, SocketAddr, RealServerEntry),
    /// Replaces the settings of a real server. Its connections stay.
    SetRealServer(EntryKey, SocketAddr, RealServerEntry),
    RemoveRealServer(EntryKey, SocketAddr),
}

impl VirtualServerTable {
    /// Applies a change as the kernel would. A change or removal of an object that does not exist
    /// has no effect, and neither has an addition of an object that exists.
    pub fn apply(&mut self, change: &TableChange) {
        let key = change.key();
        match change {
            TableChange::AddVirtualServer(_, settings) => {
                self.entries
                    .entry(key)
                    .or_insert_with(|| TableEntry::without_real_servers(settings.clone()));
            }
            TableChange::SetVirtualServer(_, settings) => {
                if let Some(entry) = self.entries.get_mut(&key) {
                    entry.settings = settings.clone();
                }
            }
            TableChange::RemoveVirtualServer(_) => {
                self.entries.remove(&key);
            }
            TableChange::AddRealServer(_, address, real_server) => {
                if let Some(entry) = self.entries.get_mut(&key) {
                    entry.real_servers.entry(*address).or_insert(*real_server);
                }
            }
            TableChange::SetRealServer(_, address, real_server) => {
                if let Some(entry) = self.entries.get_mut(&key)
                    && let Some(entry_real_server) = entry.real_servers.get_mut(address)
                {
                    *entry_real_server = *real_server;
                }
            }
            TableChange::RemoveRealServer(_, address) => {
                if let Some(entry) = self.entries.get_mut(&key) {
                    entry.real_servers.remove(address);
                }
            }
        }
    }
}

impl TableEntry {
    /// Returns an entry with these settings and without real servers. Such an entry receives
    /// packets and forwards none.
    pub fn without_real_servers(settings: EntrySettings) -> Self {
        Self {
            settings,
            real_servers: BTreeMap::new(),
        }
    }
}

impl TableChange {
    /// Returns the key of the virtual server that the change modifies.
    pub fn key(&self) -> EntryKey {
        match self {
            Self::AddVirtualServer(key, _)
            | Self::SetVirtualServer(key, _)
            | Self::RemoveVirtualServer(key)
            | Self::AddRealServer(key, _, _)
            | Self::SetRealServer(key, _, _)
            | Self::RemoveRealServer(key, _) => *key,
        }
    }
}

impl EntryKey {
    /// Returns the IP version of the packets that belong to the entry.
    pub fn family(&self) -> AddressFamily {
        match self {
            Self::Address { address, .. } => AddressFamily::of(*address),
            Self::FirewallMark { family, .. } => *family,
        }
    }
}

impl AddressFamily {
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for AddressFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

impl fmt::Display for EntryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address {
                protocol,
                address,
                port,
            } => {
                write!(f, "{protocol}/{}", SocketAddr::new(*address, *port))
            }
            Self::FirewallMark { family, mark } => write!(f, "{family} mark {mark:#010x}"),
        }
    }
}
