//! A table as a value.

use std::fmt;

use ipnet::IpNet;

/// TCP flag RST.
pub const TCP_RST: u8 = 0x04;
/// ICMP port unreachable, type and code (RFC 792).
pub const ICMP_PORT_UNREACHABLE: (u8, u8) = (3, 3);
/// ICMPv6 port unreachable, type and code (RFC 4443 section 3.1).
pub const ICMPV6_PORT_UNREACHABLE: (u8, u8) = (1, 4);

/// Customary priorities of chains (`linux/netfilter_ipv4.h`, enum `nf_ip_hook_priorities`).
pub mod priority {
    /// Before connection tracking.
    pub const RAW: i32 = -300;
    /// After connection tracking, before the route is chosen.
    pub const MANGLE: i32 = -150;
    /// Filtering.
    pub const FILTER: i32 = 0;
    /// Source address translation.
    pub const SRCNAT: i32 = 100;
}

/// A table of the family `inet`, for IPv4 and IPv6, with everything in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its name: 1 to 255 bytes without NUL. Two programs must not use the same one.
    pub name: String,
    /// Its chains, each with a name of its own.
    pub chains: Vec<Chain>,
}

/// A chain on a hook of the kernel. It accepts a packet that no rule decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Name of the chain: 1 to 255 bytes without NUL.
    pub name: String,
    /// What it is for.
    pub kind: Kind,
    /// Where packets meet it.
    pub hook: Hook,
    /// Lower numbers come first; see [`priority`].
    pub priority: i32,
    /// In order.
    pub rules: Vec<Rule>,
}

/// What a chain is for; the kernel calls it the chain's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Sees every packet.
    Filter,
    /// Sees the first packet of each tracked connection and translates its addresses.
    Nat,
}

/// Where packets meet a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    /// All that come in, before the route is chosen.
    Prerouting,
    /// Those for this host.
    Input,
    /// Those that this host sends, before the route is chosen.
    Output,
    /// All that go out, after the route was chosen.
    Postrouting,
}

/// A protocol that IP carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum L4Protocol {
    /// Transmission Control Protocol.
    Tcp,
    /// User Datagram Protocol.
    Udp,
    /// Stream Control Transmission Protocol.
    Sctp,
    /// Internet Control Message Protocol of IPv4.
    Icmp,
    /// Internet Control Message Protocol of IPv6.
    Icmpv6,
}

/// Matches and actions, evaluated in order until a match fails.
pub type Rule = Vec<Expression>;

/// One match or action of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    /// The destination address lies in the prefix. Packets of the other IP version do not match.
    Destination(IpNet),
    /// The source address lies in one of the prefixes, all of one IP version: one lookup in an
    /// interval set, however many there are.
    SourceIn(Vec<IpNet>),
    /// The destination address lies in one of the prefixes, all of one IP version.
    DestinationIn(Vec<IpNet>),
    /// The destination that the connection's first packet was addressed to, before any
    /// translation, lies in the prefix. Packets without a tracked connection do not match.
    OriginalDestination(IpNet),
    /// The destination port that the connection's first packet was addressed to, before any
    /// translation, lies between the two, both included; stands after [`Expression::Protocol`].
    OriginalDestinationPorts(u16, u16),
    /// The protocol that IP carries.
    Protocol(L4Protocol),
    /// The TCP flags under the mask have exactly this value; stands after
    /// `Protocol(L4Protocol::Tcp)`.
    TcpFlags {
        /// Which flags are looked at.
        mask: u8,
        /// Which of these must be set; the others must not.
        value: u8,
    },
    /// The destination port lies between the two, both included; stands after
    /// [`Expression::Protocol`].
    DestinationPorts(u16, u16),
    /// Type and code of an ICMP message; stands after `Protocol(L4Protocol::Icmp)` or
    /// `Protocol(L4Protocol::Icmpv6)`.
    IcmpTypeAndCode(u8, u8),
    /// The packet that an ICMP error quotes was addressed to one of the prefixes, all of one IP
    /// version; stands after [`Expression::IcmpTypeAndCode`].
    QuotedDestinationIn(Vec<IpNet>),
    /// Counts the packets and bytes that get here.
    Counter,
    /// Sets the packet's firewall mark.
    SetMark(u32),
    /// Keeps the packet out of connection tracking; in chains before it ([`priority::RAW`]).
    NoTrack,
    /// Translates the source address to that of the outgoing interface; in chains of
    /// [`Kind::Nat`] at [`Hook::Postrouting`].
    Masquerade,
    /// The packet is gone.
    Drop,
}

/// Tells whether two tables are the same; a hash of what is sent to the kernel, stable over runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub u64);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Expression {
    /// The prefixes that the kernel looks up in a set of their own.
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
