//! Virtual servers and real servers as a user wants them.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    time::Duration,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{RealServerKey, text};

/// Transport protocol of a virtual server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// Transmission Control Protocol.
    #[default]
    Tcp,
    /// User Datagram Protocol.
    Udp,
    /// Stream Control Transmission Protocol.
    Sctp,
}

/// The ports that a virtual server receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ports {
    /// One port.
    Single(NonZeroU16),
    /// From the first to the last port, both included; the first is smaller than the last.
    Range(NonZeroU16, NonZeroU16),
    /// Every port.
    All,
}

/// Identifies a virtual server within a set. Shown as `tcp/10.1.1.10:80`, `udp/[fd00::1]:53`,
/// `tcp/10.1.1.10:8000-8999` or `tcp/10.1.1.10:*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VirtualServerId {
    /// The service address.
    pub address: IpAddr,
    /// Transport protocol.
    pub protocol: Protocol,
    /// The ports.
    pub ports: Ports,
}

/// How new connections are shared among the real servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheduler {
    /// Round robin.
    Rr,
    /// Weighted round robin.
    Wrr,
    /// Least connection.
    Lc,
    /// Weighted least connection.
    Wlc,
    /// Source hashing.
    Sh(SchedulerFlags),
    /// Maglev hashing.
    Mh(SchedulerFlags),
    /// Shortest expected delay.
    Sed,
    /// Never queue.
    Nq,
}

/// Flags of the schedulers `sh` and `mh`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "Vec<SchedulerFlag>", into = "Vec<SchedulerFlag>")]
pub struct SchedulerFlags {
    /// A flow that hashes to a quiesced real server goes to another one.
    pub fallback: bool,
    /// The client's port is part of the hash.
    pub port: bool,
}

/// One of [`SchedulerFlags`], as a list of them has it.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum SchedulerFlag {
    Fallback,
    Port,
}

/// How a packet is encapsulated on its way to a real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TunnelKind {
    /// IP in IP (RFC 2003; RFC 2473 for IPv6).
    Ipip,
}

/// How a packet travels from the load balancer to a real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ForwardingMethod {
    /// The destination is rewritten; replies return through the load balancer.
    Masquerade,
    /// Only the link-layer destination is rewritten; replies go straight to the client.
    DirectRouting,
    /// The packet is encapsulated; replies go straight to the client.
    Tunnel(TunnelKind),
}

/// New connections of one client go to the same real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Persistence {
    /// How long the binding outlives the client's last connection: whole seconds, 1 s to 31 days.
    pub timeout: Duration,
    /// Length of the prefix that counts as one client.
    pub client_prefix_length: u8,
}

/// Share of new connections, 0 to 65535. 0: quiesced.
///
/// The kernel takes larger numbers silently, but its schedulers do not reckon with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Weight(pub u16);

impl Weight {
    /// No new connections.
    pub const QUIESCED: Self = Self(0);
}

/// What the source of the desired set says of a real server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RealServerState {
    /// Receives new connections by its weight.
    #[default]
    Ready,
    /// Receives no new connections; established ones go on.
    Draining,
}

/// What receives the connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RealServer {
    /// Its address.
    #[serde(deserialize_with = "text::required")]
    pub address: IpAddr,
    /// Its port; `None` keeps the port that the client addressed.
    #[serde(
        default,
        deserialize_with = "text::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub port: Option<NonZeroU16>,
    /// Share of new connections while it is ready and healthy.
    #[serde(
        default,
        deserialize_with = "text::or_default",
        skip_serializing_if = "text::is_default"
    )]
    pub weight: Weight,
    /// Whether it is to receive new connections.
    #[serde(default, skip_serializing_if = "text::is_default")]
    pub state: RealServerState,
    /// What the source of the desired set has seen of it. No file says it.
    #[serde(skip)]
    pub history: RealServerHistory,
}

/// What the source of the desired set has seen of a real server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RealServerHistory {
    /// Order of first appearance within the virtual server: a real server with a smaller number
    /// appeared earlier. Numbers may be missing.
    pub position: u64,
    /// Since when its state is [`RealServerState::Ready`], if the source saw that change.
    pub ready_since: Option<Timestamp>,
    /// Since when its state is [`RealServerState::Draining`], if the source saw that change.
    pub draining_since: Option<Timestamp>,
}

/// Wall-clock time, as the time since 1970-01-01 00:00 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub Duration);

/// What a health check does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HealthCheckKind {
    /// Opens a TCP connection and closes it again.
    TcpConnect {
        /// Port to connect to; `None`: the real server's own.
        port: Option<NonZeroU16>,
    },
}

/// When a real server counts as healthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HealthCheck {
    /// What is done at each check.
    pub kind: HealthCheckKind,
    /// From the start of one check to the start of the next: 10 ms to 1 h.
    pub interval: Duration,
    /// A check without an answer fails after this time: 1 ms to the interval.
    pub timeout: Duration,
    /// Successful checks in a row after which a failed real server is healthy again: 1 to 100.
    pub rise: u32,
    /// Failed checks in a row after which a healthy real server has failed: 1 to 100.
    pub fall: u32,
    /// The first check starts at a random moment within this time: at most 1 h.
    pub initial_jitter: Duration,
}

/// What happens to a real server that fails its health check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureAction {
    /// Its weight becomes 0: established connections go on.
    Quiesce,
    /// It leaves the table.
    Remove,
}

/// One address, protocol and port (or range of ports), and the real servers behind it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VirtualServer {
    /// What identifies it within a set.
    pub id: VirtualServerId,
    /// What the user calls it; several virtual servers may share a name.
    pub name: String,
    /// How new connections are shared.
    pub scheduler: Scheduler,
    /// How packets reach the real servers.
    pub forwarding_method: ForwardingMethod,
    /// Whether a client stays with its real server over several connections.
    pub persistence: Option<Persistence>,
    /// Sorted by address and port, without duplicates.
    pub real_servers: Vec<RealServer>,
    /// `None`: real servers are not checked and count as healthy.
    pub health_check: Option<HealthCheck>,
    /// What happens to a real server that fails its check.
    pub on_failure: FailureAction,
    /// It is serving while at least this many real servers are healthy.
    pub minimum_healthy: u32,
    /// How long a real server that is listed no more keeps the connections that it has: 0 (none) to
    /// 24 h. UDP has none to keep, and `sh` and `mh` without fallback keep none.
    pub drain_timeout: Duration,
}

/// A prefix that is announced as a whole while virtual servers in it can be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceRange {
    /// Without host bits.
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
    /// Reports whether it chooses the real server by a hash of the client, over places that each
    /// real server has by its weight.
    #[must_use]
    pub const fn is_hashing(self) -> bool {
        match self {
            Self::Sh(_) | Self::Mh(_) => true,
            Self::Rr | Self::Wrr | Self::Lc | Self::Wlc | Self::Sed | Self::Nq => false,
        }
    }

    /// Returns how many real servers a virtual server with it may have.
    ///
    /// The kernel refuses more destinations than the table of `mh` has places (`ip_vs_mh.c`,
    /// `IP_VS_MH_TAB_SIZE`; 4,093 unless the kernel was built with another size).
    #[must_use]
    pub const fn most_real_servers(self) -> usize {
        match self {
            Self::Mh(_) => 4_093,
            Self::Rr | Self::Wrr | Self::Lc | Self::Wlc | Self::Sh(_) | Self::Sed | Self::Nq => {
                VirtualServer::MOST_REAL_SERVERS
            }
        }
    }
}

impl Ports {
    /// First and last port.
    #[must_use]
    pub const fn bounds(self) -> (u16, u16) {
        match self {
            Self::Single(port) => (port.get(), port.get()),
            Self::Range(first, last) => (first.get(), last.get()),
            Self::All => (1, u16::MAX),
        }
    }

    /// Whether a port belongs to both.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        let (first, last) = self.bounds();
        let (other_first, other_last) = other.bounds();
        first <= other_last && other_first <= last
    }
}

impl VirtualServer {
    /// Most real servers of a virtual server, whatever its scheduler. One message of a data plane
    /// carries the status of all of them.
    pub const MOST_REAL_SERVERS: usize = 65_535;

    /// The port on which a real server receives: its own, or the one that clients address.
    /// `None`: each of several ports.
    #[must_use]
    pub const fn real_server_port(&self, real_server: &RealServer) -> Option<NonZeroU16> {
        match (real_server.port, self.id.ports) {
            (Some(port), _) | (None, Ports::Single(port)) => Some(port),
            (None, Ports::Range(..) | Ports::All) => None,
        }
    }

    /// Address and port of a real server in a kernel's table; port 0 keeps the client's.
    #[must_use]
    pub fn table_address(&self, real_server: &RealServer) -> SocketAddr {
        let port = self
            .real_server_port(real_server)
            .map_or(0, NonZeroU16::get);
        SocketAddr::new(real_server.address, port)
    }

    /// The port that the health check of a real server connects to. `None`: it is not checked;
    /// in a valid virtual server that means that it has no health check.
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

    /// Brings the real servers into their order: by address, then by port.
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
        match self {
            Self::Rr | Self::Wrr | Self::Lc | Self::Wlc | Self::Sed | Self::Nq => Ok(()),
            Self::Sh(flags) | Self::Mh(flags) => {
                let fallback = if flags.fallback { ",fallback" } else { "" };
                let port = if flags.port { ",port" } else { "" };
                write!(f, "{fallback}{port}")
            }
        }
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
