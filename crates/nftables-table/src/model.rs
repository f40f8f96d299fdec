//! nftables tables as values.

use std::fmt;

use ipnet::IpNet;

pub const TCP_RST: u8 = 0x04;
/// Type and code of the ICMP message "port unreachable" (RFC 792).
pub const ICMP_PORT_UNREACHABLE: (u8, u8) = (3, 3);
/// Type and code of the ICMPv6 message "port unreachable" (RFC 4443 section 3.1).
pub const ICMPV6_PORT_UNREACHABLE: (u8, u8) = (1, 4);

/// Usual priorities of chains (`linux/netfilter_ipv4.h`, enum `nf_ip_hook_priorities`).
pub mod priority {
    /// Before connection tracking, so that rules can exclude packets from connection tracking.
    pub const RAW: i32 = -300;
    /// After connection tracking and before the routing decision.
    pub const MANGLE: i32 = -150;
    pub const FILTER: i32 = 0;
    pub const SRCNAT: i32 = 100;
}

/// An nftables table of the family `inet` with its chains. The family `inet` sees IPv4 and IPv6
/// packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NftablesTable {
    /// 1 to 255 bytes without NUL. Two programs in one network namespace must use different names.
    pub name: String,
    /// Chain names are unique within the table.
    pub chains: Vec<Chain>,
}

/// A chain that is attached to a hook of the kernel. The chain accepts packets on which no rule
/// decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// 1 to 255 bytes without NUL, unique within the table.
    pub name: String,
    pub kind: ChainType,
    pub hook: Hook,
    /// Of the chains of one hook, the chain with the lowest number runs first. See [`priority`].
    pub priority: i32,
    pub rules: Vec<Rule>,
}

/// Purpose of a chain, which the kernel calls the type of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChainType {
    /// Sees every packet that passes its hook.
    Filter,
    /// Sees only the first packet of each tracked connection. Its rules translate the addresses of
    /// the whole connection.
    Nat,
}

/// Point of a packet's path through the kernel at which a chain runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    /// Incoming packets, before the routing decision.
    Prerouting,
    /// Incoming packets with an address of this host as destination.
    Input,
    /// Packets that this host generates, before the routing decision.
    Output,
    /// Outgoing packets, after the routing decision.
    Postrouting,
}

/// A protocol with packets directly inside of IP packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum L4Protocol {
    Tcp,
    Udp,
    Sctp,
    Icmp,
    Icmpv6,
}

/// Matches and actions of one rule. The kernel evaluates them in order and stops at the first match
/// that fails.
pub type Rule = Vec<Expression>;

/// A match or an action of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    /// Matches packets with a destination address in the prefix. Packets of the other IP version do
    /// not match.
    Destination(IpNet),
    /// Matches packets with a source address in one of the prefixes, which must have one IP
    /// version. The kernel does one lookup in an interval set, independent of the number of
    /// prefixes.
    SourceIn(Vec<IpNet>),
    /// Matches packets with a destination address in one of the prefixes, which must have one IP
    /// version.
    DestinationIn(Vec<IpNet>),
    /// Matches packets of a tracked connection if the connection's first packet had a destination
    /// address in the prefix before address translation. Packets without a tracked connection do
    /// not match.
    OriginalDestination(IpNet),
    /// Matches packets of a tracked connection if the connection's first packet had a destination
    /// port from the first to the last port before address translation. Must follow
    /// [`Expression::Protocol`].
    OriginalDestinationPorts(u16, u16),
    Protocol(L4Protocol),
    /// Matches packets with exactly the TCP flags `value` among the flags `mask`. Must follow
    /// `Protocol(L4Protocol::Tcp)`.
    TcpFlags {
        /// TCP flags that are compared.
        mask: u8,
        /// Compared flags that must be set. The other flags of `mask` must be clear.
        value: u8,
    },
    /// Matches packets with a destination port from the first to the last port. Must follow
    /// [`Expression::Protocol`].
    DestinationPorts(u16, u16),
    /// Matches ICMP messages with this type and code. Must follow `Protocol(L4Protocol::Icmp)` or
    /// `Protocol(L4Protocol::Icmpv6)`.
    IcmpTypeAndCode(u8, u8),
    /// Matches ICMP errors that quote a packet with a destination address in one of the prefixes,
    /// which must have one IP version. Must follow [`Expression::IcmpTypeAndCode`].
    QuotedDestinationIn(Vec<IpNet>),
    /// Counts the packets and bytes that reach this expression.
    Counter,
    SetMark(u32),
    /// Excludes the packet from connection tracking. Only effective in a chain that runs before
    /// connection tracking, such as [`priority::RAW`].
    NoTrack,
    /// Translates the source address to the address of the outgoing interface. Only allowed in
    /// chains of [`ChainType::Nat`] at [`Hook::Postrouting`].
    Masquerade,
    Drop,
}

/// A hash of the requests that write a table. The hash of a table is equal in every process, so a
/// restarted program recognizes its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TableFingerprint(pub u64);

impl fmt::Display for TableFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Expression {
    /// Returns the prefixes of an expression that looks up an address in a set.
    pub(crate) fn set(&self) -> Option<&[IpNet]> {
        match self {
            Self::SourceIn(set) | Self::DestinationIn(set) | Self::QuotedDestinationIn(set) => {
                Some(set)
            }
            Self::Destination(_)
            | Self::OriginalDestination(_)
            | Self::OriginalDestinationPorts(..)
            | Self::Protocol(_)
            | Self::TcpFlags { .. }
            | Self::DestinationPorts(..)
            | Self::IcmpTypeAndCode(..)
            | Self::Counter
            | Self::SetMark(_)
            | Self::NoTrack
            | Self::Masquerade
            | Self::Drop => None,
        }
    }
}
