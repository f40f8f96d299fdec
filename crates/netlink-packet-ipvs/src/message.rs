//! IPVS messages: a command and its attributes.

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, ErrorContext, Nla, NlaBuffer, NlasIterator, Parseable,
    ParseableParametrized,
};
use netlink_packet_generic::{GenlFamily, GenlHeader};

use crate::{
    DestAttribute, ServiceAttribute,
    attribute::{Codec, HostOrder, Nested},
};

/// Name of the generic-netlink family of IPVS: `IPVS_GENL_NAME` (linux/ip_vs.h).
pub const FAMILY_NAME: &str = "IPVS";
/// Version of the generic-netlink family: `IPVS_GENL_VERSION` (linux/ip_vs.h).
pub const FAMILY_VERSION: u8 = 1;

/// The command of a message: `IPVS_CMD_*` (linux/ip_vs.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IpvsCommand {
    /// Adds a service. The kernel also sends this command in answers to
    /// [`IpvsCommand::GetService`].
    NewService,
    SetService,
    /// Deletes a service together with its destinations.
    DelService,
    /// Requests one service, or all services as a dump.
    GetService,
    /// Adds a destination to a service. The kernel also sends this command in answers to
    /// [`IpvsCommand::GetDest`].
    NewDest,
    SetDest,
    DelDest,
    /// Requests the destinations of one service as a dump.
    GetDest,
    /// Changes the timeouts of connections. The kernel also sends this command in answers to
    /// [`IpvsCommand::GetConfig`].
    SetConfig,
    /// Requests the timeouts of connections.
    GetConfig,
    SetInfo,
    /// Requests the IPVS version and the size of the connection table.
    GetInfo,
    /// Number of a command that has no variant in this enum, such as `IPVS_CMD_ZERO`,
    /// `IPVS_CMD_FLUSH` and the commands of the synchronization daemon.
    Other(u8),
}

/// An attribute of a message. A message with the command [`IpvsCommand::SetInfo`] has
/// `IPVS_INFO_ATTR_*` attributes. All other messages have `IPVS_CMD_ATTR_*` attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IpvsAttribute {
    Service(Vec<ServiceAttribute>),
    Dest(Vec<DestAttribute>),
    TimeoutTcp(u32),
    TimeoutTcpFin(u32),
    TimeoutUdp(u32),
    /// `IPVS_INFO_ATTR_VERSION`. Example: 0x010201 is version 1.2.1.
    InfoVersion(u32),
    /// `IPVS_INFO_ATTR_CONN_TAB_SIZE`: the number of hash buckets of the connection table.
    InfoConnectionTableSize(u32),
    /// An attribute with a number that this crate does not implement.
    Other(DefaultNla),
}

/// The payload of a generic-netlink message of the family [`FAMILY_NAME`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpvsMessage {
    pub command: IpvsCommand,
    /// Attributes in the order in which the encoder writes them and the decoder reads them.
    pub attributes: Vec<IpvsAttribute>,
}

impl From<u8> for IpvsCommand {
    fn from(number: u8) -> Self {
        match number {
            1 => Self::NewService,
            2 => Self::SetService,
            3 => Self::DelService,
            4 => Self::GetService,
            5 => Self::NewDest,
            6 => Self::SetDest,
            7 => Self::DelDest,
            8 => Self::GetDest,
            12 => Self::SetConfig,
            13 => Self::GetConfig,
            14 => Self::SetInfo,
            15 => Self::GetInfo,
            other => Self::Other(other),
        }
    }
}

impl From<IpvsCommand> for u8 {
    fn from(command: IpvsCommand) -> Self {
        match command {
            IpvsCommand::NewService => 1,
            IpvsCommand::SetService => 2,
            IpvsCommand::DelService => 3,
            IpvsCommand::GetService => 4,
            IpvsCommand::NewDest => 5,
            IpvsCommand::SetDest => 6,
            IpvsCommand::DelDest => 7,
            IpvsCommand::GetDest => 8,
            IpvsCommand::SetConfig => 12,
            IpvsCommand::GetConfig => 13,
            IpvsCommand::SetInfo => 14,
            IpvsCommand::GetInfo => 15,
            IpvsCommand::Other(other) => other,
        }
    }
}

impl Nla for IpvsAttribute {
    fn value_len(&self) -> usize {
        match self {
            Self::Service(attributes) => Nested::len(attributes),
            Self::Dest(attributes) => Nested::len(attributes),
            Self::TimeoutTcp(number)
            | Self::TimeoutTcpFin(number)
            | Self::TimeoutUdp(number)
            | Self::InfoVersion(number)
            | Self::InfoConnectionTableSize(number) => HostOrder::len(number),
            Self::Other(other) => other.value_len(),
        }
    }

    fn kind(&self) -> u16 {
        match self {
            Self::Service(_) | Self::InfoVersion(_) => 1,
            Self::Dest(_) | Self::InfoConnectionTableSize(_) => 2,
            Self::TimeoutTcp(_) => 4,
            Self::TimeoutTcpFin(_) => 5,
            Self::TimeoutUdp(_) => 6,
            Self::Other(other) => other.kind(),
        }
    }

    fn emit_value(&self, buffer: &mut [u8]) {
        match self {
            Self::Service(attributes) => Nested::emit(attributes, buffer),
            Self::Dest(attributes) => Nested::emit(attributes, buffer),
            Self::TimeoutTcp(number)
            | Self::TimeoutTcpFin(number)
            | Self::TimeoutUdp(number)
            | Self::InfoVersion(number)
            | Self::InfoConnectionTableSize(number) => HostOrder::emit(number, buffer),
            Self::Other(other) => other.emit_value(buffer),
        }
    }
}

impl<'a> ParseableParametrized<NlaBuffer<&'a [u8]>, IpvsCommand> for IpvsAttribute {
    fn parse_with_param(
        buffer: &NlaBuffer<&'a [u8]>,
        command: IpvsCommand,
    ) -> Result<Self, DecodeError> {
        let value = buffer.value();
        let info = command == IpvsCommand::SetInfo;
        Ok(match (buffer.kind(), info) {
            (1, true) => Self::InfoVersion(HostOrder::parse(value)?),
            (2, true) => Self::InfoConnectionTableSize(HostOrder::parse(value)?),
            (1, false) => Self::Service(Nested::parse(value)?),
            (2, false) => Self::Dest(Nested::parse(value)?),
            (4, false) => Self::TimeoutTcp(HostOrder::parse(value)?),
            (5, false) => Self::TimeoutTcpFin(HostOrder::parse(value)?),
            (6, false) => Self::TimeoutUdp(HostOrder::parse(value)?),
            _ => Self::Other(DefaultNla::parse(buffer)?),
        })
    }
}

impl GenlFamily for IpvsMessage {
    fn family_name() -> &'static str {
        FAMILY_NAME
    }

    fn command(&self) -> u8 {
        self.command.into()
    }

    fn version(&self) -> u8 {
        FAMILY_VERSION
    }
}

impl Emitable for IpvsMessage {
    fn buffer_len(&self) -> usize {
        self.attributes.as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.attributes.as_slice().emit(buffer);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for IpvsMessage {
    fn parse_with_param(buffer: &[u8], header: GenlHeader) -> Result<Self, DecodeError> {
        let command = IpvsCommand::from(header.cmd);
        let attributes = NlasIterator::new(buffer)
            .map(|attribute| IpvsAttribute::parse_with_param(&attribute?, command))
            .collect::<Result<_, _>>()
            .context("IPVS message")?;
        Ok(Self {
            command,
            attributes,
        })
    }
}
