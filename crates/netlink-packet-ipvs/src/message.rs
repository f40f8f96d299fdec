//! Messages: a command and its attributes.

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, ErrorContext, Nla, NlaBuffer, NlasIterator, Parseable,
    ParseableParametrized,
};
use netlink_packet_generic::{GenlFamily, GenlHeader};

use crate::{
    DestAttribute, ServiceAttribute,
    attribute::{Codec, HostOrder, Nested},
};

/// `IPVS_GENL_NAME`.
pub const FAMILY_NAME: &str = "IPVS";
/// `IPVS_GENL_VERSION`.
pub const FAMILY_VERSION: u8 = 1;

/// `IPVS_CMD_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IpvsCommand {
    /// Adds a service, or answers [`IpvsCommand::GetService`].
    NewService,
    /// Changes a service.
    SetService,
    /// Deletes a service and its destinations.
    DelService,
    /// Asks for one service, or for all as a dump.
    GetService,
    /// Adds a destination to a service, or answers [`IpvsCommand::GetDest`].
    NewDest,
    /// Changes a destination.
    SetDest,
    /// Deletes a destination.
    DelDest,
    /// Asks for the destinations of a service, as a dump.
    GetDest,
    /// Changes the timeouts, or answers [`IpvsCommand::GetConfig`].
    SetConfig,
    /// Asks for the timeouts.
    GetConfig,
    /// Answers [`IpvsCommand::GetInfo`].
    SetInfo,
    /// Asks for version and size of the connection table.
    GetInfo,
    /// One that this crate does not know: the synchronisation daemon, zeroing counters, flushing.
    Other(u8),
}

/// Attributes of a message. Those of [`IpvsCommand::SetInfo`] are `IPVS_INFO_ATTR_*`, those of all
/// others `IPVS_CMD_ATTR_*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IpvsAttribute {
    /// `IPVS_CMD_ATTR_SERVICE`.
    Service(Vec<ServiceAttribute>),
    /// `IPVS_CMD_ATTR_DEST`.
    Dest(Vec<DestAttribute>),
    /// `IPVS_CMD_ATTR_TIMEOUT_TCP`: seconds.
    TimeoutTcp(u32),
    /// `IPVS_CMD_ATTR_TIMEOUT_TCP_FIN`: seconds.
    TimeoutTcpFin(u32),
    /// `IPVS_CMD_ATTR_TIMEOUT_UDP`: seconds.
    TimeoutUdp(u32),
    /// `IPVS_INFO_ATTR_VERSION`, such as 0x010201 for 1.2.1.
    InfoVersion(u32),
    /// `IPVS_INFO_ATTR_CONN_TAB_SIZE`: rows of the connection table.
    InfoConnectionTableSize(u32),
    /// An attribute that this crate does not know.
    Other(DefaultNla),
}

/// The payload of a generic-netlink message of the family [`FAMILY_NAME`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpvsMessage {
    /// What it asks for or answers to.
    pub command: IpvsCommand,
    /// In the order of the bytes.
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
