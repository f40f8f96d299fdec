//! Virtual servers and real servers as a source describes them.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    time::Duration,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{RealServerKey, text};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

/// The ports of a service address that belong to a virtual server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ports {
    Single(NonZeroU16),
    /// All ports from the first to the last. The last port is greater than the first and belongs to
    /// the range.
    Range(NonZeroU16, NonZeroU16),
    /// All ports from 1 to 65535, written `*`.
    All,
}

/// The identity of a virtual server within a desired set: `tcp/10.1.1.10:80`, `udp/[fd00::1]:53`,
/// `tcp/10.1.1.10:8000-8999` or `tcp/10.1.1.10:*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VirtualServerId {
    pub address: IpAddr,
    pub protocol: Protocol,
    pub ports: Ports,
}

/// The rule by which the kernel shares new connections among the real servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheduler {
    /// Round robin: each real server in turn.
    Rr,
    /// Weighted round robin: each real server in turn, in proportion to its weight.
    Wrr,
    /// Least connection: the real server with the fewest connections.
    Lc,
    /// Weighted least connection: the real server with the fewest connections in proportion to its
    /// weight.
    Wlc,
    /// Source hashing: a hash of the client's address chooses the real server. With the flag `port`
    /// the client's port is part of the hash.
    Sh(SchedulerFlags),
    /// Maglev hashing: a hash of the client's address chooses the real server, and few flows move
    /// when the real servers change. With the flag `port` the client's port is part of the hash.
    Mh(SchedulerFlags),
    /// Shortest expected delay: the real server with the fewest connections in proportion to its
    /// weight, counting the new connection.
    Sed,
    /// Never queue: an idle real server. If no real server is idle, the rule of `sed` applies.
    Nq,
}

/// Flags of the schedulers `sh` and `mh`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "Vec<SchedulerFlag>", into = "Vec<SchedulerFlag>")]
pub struct SchedulerFlags {
    /// A flow that hashes to a quiesced real server goes to another real server.
    pub fallback: bool,
    /// The client's port is part of the hash.
    pub port: bool,
}

/// One flag of [`SchedulerFlags`]. The serialized form of the flags is a list of these words.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum SchedulerFlag {
    Fallback,
    Port,
}

/// The encapsulation of packets to a real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TunnelKind {
    /// IP in IP (RFC 2003; RFC 2473 for IPv6).
    Ipip,
}

/// The way in which the load balancer sends a packet to a real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ForwardingMethod {
    /// The load balancer rewrites the destination of the packet. Replies return through the load
    /// balancer.
    Masquerade,
    /// The load balancer rewrites only the link-layer destination. Replies go directly to the
    /// client.
    DirectRouting,
    /// The load balancer wraps the packet in another packet. Replies go directly to the client.
    Tunnel(TunnelKind),
}

/// Settings by which new connections of one client go to the same real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Persistence {
    /// Time after the client's last connection until the kernel forgets the client: whole seconds,
    /// 1 s to 31 days.
    pub timeout: Duration,
    /// Clients whose addresses have a common prefix of this length count as one client.
    pub client_prefix_length: u8,
}

/// A real server's share of new connections, 0 to 65535, in proportion to the weights of the other
/// real servers. Weight 0 means quiesced.
///
/// The kernel accepts weights above 65535 without an error, but its schedulers compute wrong shares
/// with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Weight(pub u16);

impl Weight {
    /// The weight of a real server that gets no new connections.
    pub const QUIESCED: Self = Self(0);
}

/// The state of a real server in the desired set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RealServerState {
    /// The real server gets new connections in proportion to its weight.
    #[default]
    Ready,
    /// The real server gets no new connections and keeps its established ones.
    Draining,
}

/// A server that receives connections of a virtual server.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RealServer {
    #[serde(deserialize_with = "text::required")]
    pub address: IpAddr,
    /// The port on which the real server listens. `None` means the port to which the client
    /// connected.
    #[serde(
        default,
        deserialize_with = "text::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub port: Option<NonZeroU16>,
    /// The weight of the real server while it is ready and healthy.
    #[serde(
        default,
        deserialize_with = "text::or_default",
        skip_serializing_if = "text::is_default"
    )]
    pub weight: Weight,
    #[serde(default, skip_serializing_if = "text::is_default")]
    pub state: RealServerState,
    /// The source's observations about the real server. The file format has no field for them.
    #[serde(skip)]
    pub history: RealServerHistory,
}

/// Observations of the source of the desired set: the position of a real server, and the times of
/// its last state changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RealServerHistory {
    /// Place in the order of first appearance within the virtual server: a real server with a lower
    /// number appeared earlier. The numbers can have gaps.
    pub position: u64,
    /// Time at which the state became [`RealServerState::Ready`]. `None` if the source did not see
    /// the change.
    pub ready_since: Option<Timestamp>,
    /// Time at which the state became [`RealServerState::Draining`]. `None` if the source did not
    /// see the change.
    pub draining_since: Option<Timestamp>,
}

/// A wall-clock time, stored as the duration since 1970-01-01 00:00 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub Duration);

/// The kind of probe that a health check sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HealthCheckKind {
    /// The probe opens a TCP connection and then closes it.
    TcpConnect {
        /// Port to connect to. `None` means the port of the real server.
        port: Option<NonZeroU16>,
    },
}

/// The settings of a health check: how real servers are probed, and when a real server counts as
/// healthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HealthCheck {
    pub kind: HealthCheckKind,
    /// Time from the start of one probe to the start of the next: 10 ms to 1 h.
    pub interval: Duration,
    /// A probe without an answer fails after this time: 1 ms to the interval.
    pub timeout: Duration,
    /// Successful probes in a row that make a failed real server healthy: 1 to 100.
    pub rise: u32,
    /// Failed probes in a row that make a healthy real server failed: 1 to 100.
    pub fall: u32,
    /// The first probe starts at a random moment within this time after the start of the health
    /// check: at most 1 h.
    pub initial_jitter: Duration,
}

/// The action for a real server that fails its health check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureAction {
    /// The weight of the real server becomes 0, and established connections continue.
    Quiesce,
    /// The real server is removed from the kernel's table.
    Remove,
}

/// An address, a protocol and ports that clients connect to, with the real servers behind them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VirtualServer {
    pub id: VirtualServerId,
    /// The name that the user gave. Several virtual servers can have the same name.
    pub name: String,
    pub scheduler: Scheduler,
    pub forwarding_method: ForwardingMethod,
    /// `None` turns persistence off.
    pub persistence: Option<Persistence>,
    /// The real servers, sorted by address and port, without duplicates.
    pub real_servers: Vec<RealServer>,
    /// `None` means that real servers are not checked and count as healthy.
    pub health_check: Option<HealthCheck>,
    pub on_failure: FailureAction,
    /// The virtual server is serving while at least this many real servers are healthy.
    pub minimum_healthy: u32,
    /// Time for which a real server keeps its established connections after it has left the desired
    /// set: 0 s (connections end immediately) to 24 h. No effect for UDP, and for `sh` and `mh`
    /// without `fallback`: then a removed real server loses its flows immediately.
    pub drain_timeout: Duration,
}

/// A prefix that is announced as a whole while a virtual server in it is serving.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceRange {
    /// In a valid service range the bits after the prefix length are 0.
    pub prefix: IpNet,
}

impl From<Vec<SchedulerFlag>> for SchedulerFlags {
    fn from(list: Vec<SchedulerFlag>) -> Self {
        let mut flags = Self::default();
        for flag in list {
            match flag {
                SchedulerFlag::Fallback => flags.fallback = true,
                SchedulerFlag::Port => flags.port = true,
            }
        }
        flags
    }
}

impl From<SchedulerFlags> for Vec<SchedulerFlag> {
    fn from(flags: SchedulerFlags) -> Self {
        let fallback = flags.fallback.then_some(SchedulerFlag::Fallback);
        let port = flags.port.then_some(SchedulerFlag::Port);
        fallback.into_iter().chain(port).collect()
    }
}

impl Scheduler {
    /// Reports whether the scheduler chooses the real server by a hash of the client. Such a
    /// scheduler gives each real server slots of a table in proportion to its weight.
    #[must_use]
    pub const fn is_hashing(self) -> bool {
        self.flags().is_some()
    }

    /// Returns the flags of a hashing scheduler. The other schedulers have no flags.
    #[must_use]
    pub const fn flags(self) -> Option<SchedulerFlags> {
        match self {
            Self::Sh(flags) | Self::Mh(flags) => Some(flags),
            Self::Rr | Self::Wrr | Self::Lc | Self::Wlc | Self::Sed | Self::Nq => None,
        }
    }

    /// Returns this scheduler with these flags, or `None` if the scheduler has no flags.
    #[must_use]
    pub const fn with_flags(self, flags: SchedulerFlags) -> Option<Self> {
        match self {
            Self::Sh(_) => Some(Self::Sh(flags)),
            Self::Mh(_) => Some(Self::Mh(flags)),
            Self::Rr | Self::Wrr | Self::Lc | Self::Wlc | Self::Sed | Self::Nq => None,
        }
    }

    /// Reports whether this is Maglev hashing, with any flags.
    #[must_use]
    pub const fn is_mh(self) -> bool {
        matches!(self, Self::Mh(_))
    }

    /// Returns the largest number of real servers that this scheduler supports.
    ///
    /// For `mh`, the kernel rejects more real servers than its lookup table has slots
    /// (`ip_vs_mh.c`, `IP_VS_MH_TAB_SIZE`): 4,093 with the kernel's default configuration.
    #[must_use]
    pub const fn most_real_servers(self) -> usize {
        if self.is_mh() {
            4_093
        } else {
            VirtualServer::MOST_REAL_SERVERS
        }
    }
}

impl Ports {
    /// Returns the first and the last port.
    #[must_use]
    pub const fn bounds(self) -> (u16, u16) {
        match self {
            Self::Single(port) => (port.get(), port.get()),
            Self::Range(first, last) => (first.get(), last.get()),
            Self::All => (1, u16::MAX),
        }
    }

    /// Reports whether at least one port belongs to both `self` and `other`.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        let (first, last) = self.bounds();
        let (other_first, other_last) = other.bounds();
        first <= other_last && other_first <= last
    }
}

impl VirtualServer {
    /// Largest number of real servers of one virtual server; the limit of `mh` is lower. The number
    /// is limited because one message of a data plane carries the status of all of them.
    pub const MOST_REAL_SERVERS: usize = 65_535;

    /// Returns the port on which a real server receives connections: the port of the real server,
    /// or the single port of the virtual server. Returns `None` if the real server has no port and
    /// the virtual server has several ports, because each connection then keeps its port.
    #[must_use]
    pub const fn real_server_port(&self, real_server: &RealServer) -> Option<NonZeroU16> {
        match (real_server.port, self.id.ports) {
            (Some(port), _) | (None, Ports::Single(port)) => Some(port),
            (None, Ports::Range(..) | Ports::All) => None,
        }
    }

    /// Returns the address and port of a real server in the kernel's table. Port 0 means that each
    /// connection keeps the port to which the client connected.
    #[must_use]
    pub fn table_address(&self, real_server: &RealServer) -> SocketAddr {
        let port = self
            .real_server_port(real_server)
            .map_or(0, NonZeroU16::get);
        SocketAddr::new(real_server.address, port)
    }

    /// Returns the port to which the health check of a real server connects. For a valid virtual
    /// server, `None` means that it has no health check.
    #[must_use]
    pub const fn health_check_port(&self, real_server: &RealServer) -> Option<NonZeroU16> {
        match self.health_check {
            None => None,
            Some(HealthCheck {
                kind: HealthCheckKind::TcpConnect { port: Some(port) },
                ..
            }) => Some(port),
            Some(HealthCheck {
                kind: HealthCheckKind::TcpConnect { port: None },
                ..
            }) => self.real_server_port(real_server),
        }
    }

    /// Sorts the real servers by address, then by port.
    pub fn sort_real_servers(&mut self) {
        self.real_servers
            .sort_by_key(|real_server| (real_server.address, real_server.port));
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Single(port) => write!(f, "{port}"),
            Self::Range(first, last) => write!(f, "{first}-{last}"),
            Self::All => f.write_str("*"),
        }
    }
}

impl fmt::Display for VirtualServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            IpAddr::V4(address) => write!(f, "{}/{address}:{}", self.protocol, self.ports),
            IpAddr::V6(address) => write!(f, "{}/[{address}]:{}", self.protocol, self.ports),
        }
    }
}

impl fmt::Display for RealServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        RealServerKey::from(self).fmt(f)
    }
}

impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())?;
        let Some(flags) = self.flags() else {
            return Ok(());
        };
        let fallback = if flags.fallback { ",fallback" } else { "" };
        let port = if flags.port { ",port" } else { "" };
        write!(f, "{fallback}{port}")
    }
}

impl fmt::Display for ForwardingMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Masquerade | Self::DirectRouting => f.write_str(self.word()),
            Self::Tunnel(kind) => write!(f, "{} ({kind})", self.word()),
        }
    }
}

impl fmt::Display for ServiceRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.prefix.fmt(f)
    }
}
