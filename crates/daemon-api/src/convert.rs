//! Conversions between the generated types and the types of portlb.

mod bgp;
mod discovery;
#[cfg(test)]
mod tests;
mod time;

use std::{fmt::Display, net::IpAddr, num::NonZeroU16};

use ipnet::IpNet;
use virtual_server::{
    FailureAction, ForwardingMethod, HealthCheck, HealthCheckKind, Invalid, Persistence, Ports,
    Problems, Protocol, RealServer, RealServerHistory, RealServerState, Scheduler, SchedulerFlags,
    TunnelKind, VirtualServer, VirtualServerId, Weight,
};

use self::time::{timestamp_from_message, timestamp_to_message};
pub use self::{
    discovery::{
        DesiredSetAssembly, DesiredSetEvent, LARGEST_PART, MOST_PARTS, real_server_part,
        virtual_server_head,
    },
    time::{duration, period},
};
use crate::virtualserver::v1 as wire;

/// A message that violates its contract.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("field `{field}`: {problem}")]
pub struct ConversionError {
    /// Path of the invalid field within the message, such as `real_servers[0].weight`.
    pub field: String,
    /// The problem of the field, with its value.
    pub problem: String,
}

impl ConversionError {
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            problem: problem.into(),
        }
    }

    /// Returns the error for a required field that is absent, or an enum that is UNSPECIFIED.
    pub fn unset(field: impl Into<String>) -> Self {
        Self::new(field, "must be set")
    }

    /// Puts `parent` in front of the path in `field`. For the caller that converts a message with a
    /// field `parent`, and gets the error from the conversion of this field.
    #[must_use]
    pub fn within(mut self, parent: impl Display) -> Self {
        self.field = format!("{parent}.{}", self.field);
        self
    }
}

impl From<ConversionError> for tonic::Status {
    fn from(error: ConversionError) -> Self {
        Self::invalid_argument(error.to_string())
    }
}

impl From<Problems> for ConversionError {
    /// Returns the first problem as the error, and drops the others. The path of its field is the
    /// path in the file format, such as `minimumHealthy`.
    fn from(problems: Problems) -> Self {
        let (listed, _) = problems.into_parts();
        let first = listed.first();
        let text = |invalid: &Invalid| (invalid.field.to_string(), invalid.reason.to_string());
        let (field, problem) = first.map(text).unwrap_or_default();
        Self { field, problem }
    }
}

impl From<&VirtualServerId> for wire::VirtualServerId {
    fn from(id: &VirtualServerId) -> Self {
        Self {
            address: id.address.to_string(),
            ports: Some(id.ports.into()),
            protocol: wire::Protocol::from(id.protocol).into(),
        }
    }
}

impl TryFrom<wire::VirtualServerId> for VirtualServerId {
    type Error = ConversionError;

    fn try_from(id: wire::VirtualServerId) -> Result<Self, ConversionError> {
        Ok(Self {
            address: address(&id.address)?,
            protocol: protocol(id.protocol)?,
            ports: ports(id.ports)?,
        })
    }
}

impl From<&VirtualServer> for wire::VirtualServer {
    fn from(virtual_server: &VirtualServer) -> Self {
        Self {
            real_servers: virtual_server.real_servers.iter().map(Into::into).collect(),
            ..without_real_servers(virtual_server)
        }
    }
}

fn without_real_servers(virtual_server: &VirtualServer) -> wire::VirtualServer {
    let id = &virtual_server.id;
    let (method, tunnel_kind) = match virtual_server.forwarding_method {
        ForwardingMethod::Masquerade => (
            wire::ForwardingMethod::Masquerade,
            wire::TunnelKind::Unspecified,
        ),
        ForwardingMethod::DirectRouting => (
            wire::ForwardingMethod::DirectRouting,
            wire::TunnelKind::Unspecified,
        ),
        ForwardingMethod::Tunnel(TunnelKind::Ipip) => {
            (wire::ForwardingMethod::Tunnel, wire::TunnelKind::Ipip)
        }
    };
    let on_failure = match virtual_server.on_failure {
        FailureAction::Quiesce => wire::FailureAction::Quiesce,
        FailureAction::Remove => wire::FailureAction::Remove,
    };
    wire::VirtualServer {
        address: id.address.to_string(),
        ports: Some(id.ports.into()),
        protocol: wire::Protocol::from(id.protocol).into(),
        name: virtual_server.name.clone(),
        scheduler: Some(virtual_server.scheduler.into()),
        forwarding_method: method.into(),
        tunnel_kind: tunnel_kind.into(),
        persistence: virtual_server
            .persistence
            .map(|persistence| wire::Persistence {
                timeout: Some(duration(persistence.timeout)),
                client_prefix_length: persistence.client_prefix_length.into(),
            }),
        real_servers: Vec::new(),
        health_check: virtual_server.health_check.map(Into::into),
        on_failure: on_failure.into(),
        minimum_healthy: virtual_server.minimum_healthy,
        drain_timeout: Some(duration(virtual_server.drain_timeout)),
    }
}

impl TryFrom<wire::VirtualServer> for VirtualServer {
    type Error = ConversionError;

    /// Converts the message, sorts the real servers by address and port, and validates the result
    /// with [`VirtualServer::validate`].
    fn try_from(message: wire::VirtualServer) -> Result<Self, ConversionError> {
        let real_servers = message.real_servers.into_iter().enumerate();
        let mut virtual_server = Self {
            id: VirtualServerId {
                address: address(&message.address)?,
                protocol: protocol(message.protocol)?,
                ports: ports(message.ports)?,
            },
            name: message.name,
            scheduler: message
                .scheduler
                .ok_or_else(|| ConversionError::unset("scheduler"))?
                .try_into()
                .map_err(|error: ConversionError| error.within("scheduler"))?,
            forwarding_method: forwarding_method(message.forwarding_method, message.tunnel_kind)?,
            persistence: (message.persistence.map(Persistence::try_from).transpose())
                .map_err(|error| error.within("persistence"))?,
            real_servers: real_servers
                .map(|(index, real_server)| {
                    RealServer::try_from(real_server)
                        .map_err(|error| error.within(format!("real_servers[{index}]")))
                })
                .collect::<Result<_, _>>()?,
            health_check: (message.health_check.map(HealthCheck::try_from).transpose())
                .map_err(|error| error.within("health_check"))?,
            on_failure: match enumeration("on_failure", message.on_failure)? {
                wire::FailureAction::Unspecified => {
                    return Err(ConversionError::unset("on_failure"));
                }
                wire::FailureAction::Quiesce => FailureAction::Quiesce,
                wire::FailureAction::Remove => FailureAction::Remove,
            },
            minimum_healthy: message.minimum_healthy,
            drain_timeout: period("drain_timeout", message.drain_timeout)?,
        };
        virtual_server.sort_real_servers();
        virtual_server.validate()?;
        Ok(virtual_server)
    }
}

impl From<&RealServer> for wire::RealServer {
    fn from(real_server: &RealServer) -> Self {
        let state = match real_server.state {
            RealServerState::Ready => wire::RealServerState::Ready,
            RealServerState::Draining => wire::RealServerState::Draining,
        };
        let history = &real_server.history;
        Self {
            address: real_server.address.to_string(),
            port: real_server.port.map_or(0, |port| port.get().into()),
            weight: real_server.weight.0.into(),
            state: state.into(),
            position: history.position,
            ready_since: history.ready_since.map(timestamp_to_message),
            draining_since: history.draining_since.map(timestamp_to_message),
        }
    }
}

impl TryFrom<wire::RealServer> for RealServer {
    type Error = ConversionError;

    fn try_from(message: wire::RealServer) -> Result<Self, ConversionError> {
        Ok(Self {
            address: address(&message.address)?,
            port: port("port", message.port)?,
            weight: u16::try_from(message.weight).map(Weight).map_err(|_| {
                ConversionError::new("weight", format!("{} is above 65535", message.weight))
            })?,
            state: match enumeration("state", message.state)? {
                wire::RealServerState::Unspecified => {
                    return Err(ConversionError::unset("state"));
                }
                wire::RealServerState::Ready => RealServerState::Ready,
                wire::RealServerState::Draining => RealServerState::Draining,
            },
            history: RealServerHistory {
                position: message.position,
                ready_since: timestamp_from_message("ready_since", message.ready_since)?,
                draining_since: timestamp_from_message("draining_since", message.draining_since)?,
            },
        })
    }
}

impl From<HealthCheck> for wire::HealthCheck {
    fn from(check: HealthCheck) -> Self {
        let kind = match check.kind {
            HealthCheckKind::TcpConnect { port } => {
                wire::health_check::Kind::TcpConnect(wire::TcpConnectCheck {
                    port: port.map_or(0, |port| port.get().into()),
                })
            }
        };
        Self {
            kind: Some(kind),
            interval: Some(duration(check.interval)),
            timeout: Some(duration(check.timeout)),
            rise: check.rise,
            fall: check.fall,
            initial_jitter: Some(duration(check.initial_jitter)),
        }
    }
}

impl TryFrom<wire::HealthCheck> for HealthCheck {
    type Error = ConversionError;

    fn try_from(message: wire::HealthCheck) -> Result<Self, ConversionError> {
        let kind = match message.kind {
            None => return Err(ConversionError::unset("kind")),
            Some(wire::health_check::Kind::TcpConnect(check)) => HealthCheckKind::TcpConnect {
                port: port("tcp_connect.port", check.port)?,
            },
        };
        Ok(Self {
            kind,
            interval: period("interval", message.interval)?,
            timeout: period("timeout", message.timeout)?,
            rise: message.rise,
            fall: message.fall,
            initial_jitter: period("initial_jitter", message.initial_jitter)?,
        })
    }
}

impl TryFrom<wire::Persistence> for Persistence {
    type Error = ConversionError;

    fn try_from(message: wire::Persistence) -> Result<Self, ConversionError> {
        let length = message.client_prefix_length;
        Ok(Self {
            timeout: period("timeout", message.timeout)?,
            client_prefix_length: u8::try_from(length).map_err(|_| {
                ConversionError::new("client_prefix_length", format!("{length} is above 128"))
            })?,
        })
    }
}

impl From<Scheduler> for wire::Scheduler {
    fn from(scheduler: Scheduler) -> Self {
        let none = SchedulerFlags::default();
        let (kind, SchedulerFlags { fallback, port }) = match scheduler {
            Scheduler::Rr => (wire::SchedulerKind::Rr, none),
            Scheduler::Wrr => (wire::SchedulerKind::Wrr, none),
            Scheduler::Lc => (wire::SchedulerKind::Lc, none),
            Scheduler::Wlc => (wire::SchedulerKind::Wlc, none),
            Scheduler::Sh(flags) => (wire::SchedulerKind::Sh, flags),
            Scheduler::Mh(flags) => (wire::SchedulerKind::Mh, flags),
            Scheduler::Sed => (wire::SchedulerKind::Sed, none),
            Scheduler::Nq => (wire::SchedulerKind::Nq, none),
        };
        Self {
            kind: kind.into(),
            fallback,
            port,
        }
    }
}

impl TryFrom<wire::Scheduler> for Scheduler {
    type Error = ConversionError;

    fn try_from(message: wire::Scheduler) -> Result<Self, ConversionError> {
        let wire::Scheduler { fallback, port, .. } = message;
        let scheduler = match enumeration("kind", message.kind)? {
            wire::SchedulerKind::Unspecified => return Err(ConversionError::unset("kind")),
            wire::SchedulerKind::Rr => Self::Rr,
            wire::SchedulerKind::Wrr => Self::Wrr,
            wire::SchedulerKind::Lc => Self::Lc,
            wire::SchedulerKind::Wlc => Self::Wlc,
            wire::SchedulerKind::Sh => return Ok(Self::Sh(SchedulerFlags { fallback, port })),
            wire::SchedulerKind::Mh => return Ok(Self::Mh(SchedulerFlags { fallback, port })),
            wire::SchedulerKind::Sed => Self::Sed,
            wire::SchedulerKind::Nq => Self::Nq,
        };
        for (field, is_set) in [("fallback", fallback), ("port", port)] {
            if is_set {
                return Err(ConversionError::new(
                    field,
                    format!("is allowed only for sh and mh, not for {scheduler}"),
                ));
            }
        }
        Ok(scheduler)
    }
}

impl From<Protocol> for wire::Protocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::Tcp,
            Protocol::Udp => Self::Udp,
            Protocol::Sctp => Self::Sctp,
        }
    }
}

impl From<Ports> for wire::PortRange {
    fn from(ports: Ports) -> Self {
        let (first, last) = match ports {
            Ports::Single(port) => (port.get(), port.get()),
            Ports::Range(first, last) => (first.get(), last.get()),
            Ports::All => (0, 0),
        };
        Self {
            first: first.into(),
            last: last.into(),
        }
    }
}

/// Parses the value of a field as a prefix in CIDR notation.
///
/// # Errors
/// The text is not a prefix. The error names `field`.
pub fn prefix(field: &str, text: &str) -> Result<IpNet, ConversionError> {
    text.parse()
        .map_err(|_| ConversionError::new(field, format!("{text:?} is not a prefix")))
}

fn address(text: &str) -> Result<IpAddr, ConversionError> {
    text.parse()
        .map_err(|_| ConversionError::new("address", format!("{text:?} is not an IP address")))
}

fn protocol(number: i32) -> Result<Protocol, ConversionError> {
    match enumeration("protocol", number)? {
        wire::Protocol::Unspecified => Err(ConversionError::unset("protocol")),
        wire::Protocol::Tcp => Ok(Protocol::Tcp),
        wire::Protocol::Udp => Ok(Protocol::Udp),
        wire::Protocol::Sctp => Ok(Protocol::Sctp),
    }
}

fn ports(range: Option<wire::PortRange>) -> Result<Ports, ConversionError> {
    let range = range.ok_or_else(|| ConversionError::unset("ports"))?;
    let first = port("ports.first", range.first)?;
    let last = port("ports.last", range.last)?;
    match (first, last) {
        (None, None) => Ok(Ports::All),
        (Some(first), Some(last)) if first == last => Ok(Ports::Single(first)),
        (Some(first), Some(last)) if first < last => Ok(Ports::Range(first, last)),
        (_, _) => Err(ConversionError::new(
            "ports",
            format!("{} to {} is not a range of ports", range.first, range.last),
        )),
    }
}

/// Returns the port of a field, or `None` for the number 0.
fn port(field: &str, number: u32) -> Result<Option<NonZeroU16>, ConversionError> {
    u16::try_from(number)
        .map(NonZeroU16::new)
        .map_err(|_| ConversionError::new(field, format!("{number} is above 65535")))
}

fn forwarding_method(method: i32, kind: i32) -> Result<ForwardingMethod, ConversionError> {
    let kind = match enumeration("tunnel_kind", kind)? {
        wire::TunnelKind::Unspecified => None,
        wire::TunnelKind::Ipip => Some(TunnelKind::Ipip),
    };
    match (enumeration("forwarding_method", method)?, kind) {
        (wire::ForwardingMethod::Unspecified, _) => {
            Err(ConversionError::unset("forwarding_method"))
        }
        (wire::ForwardingMethod::Tunnel, Some(kind)) => Ok(ForwardingMethod::Tunnel(kind)),
        (wire::ForwardingMethod::Tunnel, None) => Err(ConversionError::unset("tunnel_kind")),
        (wire::ForwardingMethod::Masquerade, None) => Ok(ForwardingMethod::Masquerade),
        (wire::ForwardingMethod::DirectRouting, None) => Ok(ForwardingMethod::DirectRouting),
        (wire::ForwardingMethod::Masquerade | wire::ForwardingMethod::DirectRouting, Some(_)) => {
            Err(ConversionError::new(
                "tunnel_kind",
                "is set although the forwarding method is not a tunnel",
            ))
        }
    }
}

fn enumeration<E: TryFrom<i32>>(field: &str, number: i32) -> Result<E, ConversionError> {
    E::try_from(number).map_err(|_| {
        ConversionError::new(
            field,
            format!("{number} is a value that this version of the receiver does not have"),
        )
    })
}
