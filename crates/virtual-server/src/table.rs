//! The table in the shape that the kernel keeps it in.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
};

use crate::{ForwardingMethod, Persistence, Protocol, Scheduler};

/// Virtual servers as a kernel holds them, with their real servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Every entry, whoever made it.
    pub entries: BTreeMap<EntryKey, Entry>,
}

/// What packets are taken by an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryKey {
    /// Those with this destination.
    Address {
        /// Transport protocol.
        protocol: Protocol,
        /// The service address.
        address: IpAddr,
        /// The port; 0 takes all ports, which the kernel allows only with persistence.
        port: u16,
    },
    /// Those that carry this firewall mark.
    FirewallMark {
        /// IP version.
        family: AddressFamily,
        /// The mark, not 0.
        mark: u32,
    },
}

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A virtual server in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What is set on the virtual server itself.
    pub settings: EntrySettings,
    /// By address and port; port 0 keeps the port that the client addressed.
    pub real_servers: BTreeMap<SocketAddr, RealServerEntry>,
}

/// What is set on a virtual server in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntrySettings {
    /// Whether we made it: an entry of another program is left alone unless its key is desired.
    pub owned: bool,
    /// How new connections are shared.
    pub scheduler: EntryScheduler,
    /// Whether a client stays with its real server over several connections.
    pub persistence: Option<Persistence>,
    /// Whether each packet is scheduled for itself; never desired.
    pub one_packet: bool,
}

/// A scheduler in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryScheduler {
    /// One that can be desired.
    Known(Scheduler),
    /// Another one, by its name in the kernel.
    Foreign(String),
}

/// A real server in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RealServerEntry {
    /// Share of new connections. Desired ones are at most 65535; the kernel takes more.
    pub weight: u32,
    /// How packets reach it.
    pub forwarding_method: EntryForwardingMethod,
    /// No new connections above this many; 0: no threshold.
    pub upper_threshold: u32,
    /// New connections again below this many.
    pub lower_threshold: u32,
}

/// A forwarding method in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryForwardingMethod {
    /// One that can be desired.
    Known(ForwardingMethod),
    /// Another one, or a tunnel with parameters that cannot be desired.
    Foreign,
}

/// One step from one table to another; the imperatives of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableChange {
    /// Adds a virtual server without real servers.
    AddVirtualServer(EntryKey, EntrySettings),
    /// Replaces the settings of a virtual server; its real servers and connections stay.
    SetVirtualServer(EntryKey, EntrySettings),
    /// Removes a virtual server and its real servers.
    RemoveVirtualServer(EntryKey),
    /// Adds a real server to a virtual server.
    AddRealServer(EntryKey, SocketAddr, RealServerEntry),
    /// Replaces the settings of a real server; its connections stay.
    SetRealServer(EntryKey, SocketAddr, RealServerEntry),
    /// Removes a real server from a virtual server.
    RemoveRealServer(EntryKey, SocketAddr),
}

impl Table {
    /// Does what a kernel does: a change to an entry that is not there, or an addition of one that
    /// is, changes nothing.
    pub fn apply(&mut self, change: &TableChange) {
        let key = change.key();
        match change {
            TableChange::AddVirtualServer(_, settings) => {
                self.entries
                    .entry(key)
                    .or_insert_with(|| Entry::without_real_servers(settings.clone()));
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
                    && let Some(found) = entry.real_servers.get_mut(address)
                {
                    *found = *real_server;
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

impl Entry {
    /// An entry that takes packets and forwards none.
    pub fn without_real_servers(settings: EntrySettings) -> Self {
        Self {
            settings,
            real_servers: BTreeMap::new(),
        }
    }
}

impl TableChange {
    /// The virtual server that it concerns.
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
    /// The IP version of the packets that it takes.
    pub fn family(&self) -> AddressFamily {
        match self {
            Self::Address { address, .. } => AddressFamily::of(*address),
            Self::FirewallMark { family, .. } => *family,
        }
    }
}

impl AddressFamily {
    /// The IP version of an address.
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
