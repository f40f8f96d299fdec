//! A table as a value.

use std::fmt;

use ipnet::IpNet;

/// TCP flag FIN.
pub const TCP_FIN: u8 = 0x01;
/// TCP flag SYN.
pub const TCP_SYN: u8 = 0x02;
/// TCP flag RST.
pub const TCP_RST: u8 = 0x04;
/// TCP flag ACK.
pub const TCP_ACK: u8 = 0x10;

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
    /// Destination address translation.
    pub const DSTNAT: i32 = -100;
    /// Filtering.
    pub const FILTER: i32 = 0;
    /// Source address translation.
    pub const SRCNAT: i32 = 100;
}

/// Which packets the chains of a table see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// IPv4 and IPv6.
    Inet,
}

/// A table with everything in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Which packets its chains see.
    pub family: Family,
    /// Its name: 1 to 255 bytes without NUL. Two programs must not use the same one.
    pub name: String,
    /// Its chains, each with a name of its own.
    pub chains: Vec<Chain>,
}

/// A chain that hangs on a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name: 1 to 255 bytes without NUL.
    pub name: String,
    /// What it is for.
    pub kind: Kind,
    /// Where packets meet it.
    pub hook: Hook,
    /// Lower numbers come first; see [`priority`].
    pub priority: i32,
    /// What happens to a packet that no rule decides.
    pub policy: Policy,
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
    /// Those that go through.
    Forward,
    /// Those that this host sends, before the route is chosen.
    Output,
    /// All that go out, after the route was chosen.
    Postrouting,
}

/// What happens to a packet that no rule decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Policy {
    /// It goes on.
    Accept,
    /// It is gone.
    Drop,
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// In order.
    pub expressions: Vec<Expression>,
}

/// One match or action of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    /// The source address lies in the prefix. In an [`Family::Inet`] table, packets of the other
    /// IP version do not match.
    Source(IpNet),
    /// The destination address lies in the prefix.
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
    /// The packet goes on; no further rule of this chain sees it.
    Accept,
    /// The packet is gone.
    Drop,
}

/// What an expression compares addresses with.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Prefixes<'a> {
    None,
    One(&'a IpNet),
    Set(&'a [IpNet]),
}

impl<'a> Prefixes<'a> {
    pub(crate) fn as_slice(self) -> &'a [IpNet] {
        match self {
            Self::None => &[],
            Self::One(prefix) => std::slice::from_ref(prefix),
            Self::Set(set) => set,
        }
    }
}

/// Tells whether two tables are the same; a hash of what is sent to the kernel, stable over runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub u64);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Inet => "inet",
        })
    }
}

impl Expression {
    /// The prefixes that the kernel looks up in a set of their own.
    pub(crate) fn set(&self) -> Option<&[IpNet]> {
        match self.prefixes() {
            Prefixes::None | Prefixes::One(_) => None,
            Prefixes::Set(set) => Some(set),
        }
    }

    /// The prefixes that it looks at.
    pub(crate) fn prefixes(&self) -> Prefixes<'_> {
        match self {
            Self::Source(prefix)
            | Self::Destination(prefix)
            | Self::OriginalDestination(prefix) => Prefixes::One(prefix),
            Self::SourceIn(set) | Self::DestinationIn(set) | Self::QuotedDestinationIn(set) => {
                Prefixes::Set(set)
            }
            Self::OriginalDestinationPorts(..)
            | Self::Protocol(_)
            | Self::TcpFlags { .. }
            | Self::DestinationPorts(..)
            | Self::IcmpTypeAndCode(..)
            | Self::Counter
            | Self::SetMark(_)
            | Self::NoTrack
            | Self::Masquerade
            | Self::Accept
            | Self::Drop => Prefixes::None,
        }
    }
}

impl Rule {
    /// A rule without matches and actions.
    pub fn new() -> Self {
        Self::default()
    }

    fn with(mut self, expression: Expression) -> Self {
        self.expressions.push(expression);
        self
    }

    /// See [`Expression::Source`].
    pub fn source(self, prefix: IpNet) -> Self {
        self.with(Expression::Source(prefix))
    }

    /// See [`Expression::Destination`].
    pub fn destination(self, prefix: IpNet) -> Self {
        self.with(Expression::Destination(prefix))
    }

    /// See [`Expression::SourceIn`].
    pub fn source_in(self, prefixes: Vec<IpNet>) -> Self {
        self.with(Expression::SourceIn(prefixes))
    }

    /// See [`Expression::DestinationIn`].
    pub fn destination_in(self, prefixes: Vec<IpNet>) -> Self {
        self.with(Expression::DestinationIn(prefixes))
    }

    /// See [`Expression::OriginalDestination`].
    pub fn original_destination(self, prefix: IpNet) -> Self {
        self.with(Expression::OriginalDestination(prefix))
    }

    /// See [`Expression::OriginalDestinationPorts`].
    pub fn original_destination_ports(self, first: u16, last: u16) -> Self {
        self.with(Expression::OriginalDestinationPorts(first, last))
    }

    /// See [`Expression::Protocol`].
    pub fn protocol(self, protocol: L4Protocol) -> Self {
        self.with(Expression::Protocol(protocol))
    }

    /// See [`Expression::TcpFlags`].
    pub fn tcp_flags(self, mask: u8, value: u8) -> Self {
        self.with(Expression::TcpFlags { mask, value })
    }

    /// See [`Expression::DestinationPorts`].
    pub fn destination_ports(self, first: u16, last: u16) -> Self {
        self.with(Expression::DestinationPorts(first, last))
    }

    /// See [`Expression::IcmpTypeAndCode`].
    pub fn icmp_type_and_code(self, (icmp_type, code): (u8, u8)) -> Self {
        self.with(Expression::IcmpTypeAndCode(icmp_type, code))
    }

    /// See [`Expression::QuotedDestinationIn`].
    pub fn quoted_destination_in(self, prefixes: Vec<IpNet>) -> Self {
        self.with(Expression::QuotedDestinationIn(prefixes))
    }

    /// See [`Expression::Counter`].
    pub fn counter(self) -> Self {
        self.with(Expression::Counter)
    }

    /// See [`Expression::SetMark`].
    pub fn set_mark(self, mark: u32) -> Self {
        self.with(Expression::SetMark(mark))
    }

    /// See [`Expression::NoTrack`].
    pub fn no_track(self) -> Self {
        self.with(Expression::NoTrack)
    }

    /// See [`Expression::Masquerade`].
    pub fn masquerade(self) -> Self {
        self.with(Expression::Masquerade)
    }

    /// See [`Expression::Accept`].
    pub fn accept(self) -> Self {
        self.with(Expression::Accept)
    }

    /// See [`Expression::Drop`].
    pub fn drop(self) -> Self {
        self.with(Expression::Drop)
    }
}
