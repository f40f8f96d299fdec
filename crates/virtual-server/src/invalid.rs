//! Errors about values of virtual servers and desired sets.

use std::{
    borrow::Cow,
    fmt::{self, Display},
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
};

use crate::{RealServer, ServiceRange, VirtualServerId};

/// An invalid field of a virtual server or a desired set, with the reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Invalid {
    /// The field, named as in the file format.
    pub field: FieldPath,
    pub reason: BadValue,
}

/// An invalid value with the problem and a suggestion, without the name of its field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{value} {problem}; {suggestion}")]
pub struct BadValue {
    /// The invalid value, as it is shown in messages.
    pub value: String,
    /// The predicate of a sentence that begins with the value: "is not a port".
    pub problem: Cow<'static, str>,
    pub suggestion: Suggestion,
}

/// A correction for an invalid value, in the words of the file format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Suggestion {
    /// Another value, or another way to write the value.
    Text(Cow<'static, str>),
    /// The user must remove the field.
    LeaveOut,
    /// The user must remove the field, or use a health check.
    LeaveOutOrCheck,
    /// The user must follow this text, or use no health check.
    TextOrNoCheck(&'static str),
}

/// The path of a field, shown as in the file format: `virtualServers[tcp/10.1.1.10:80].ports`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldPath {
    /// A field of a virtual server. The id is `None` in the errors of a function that checks only
    /// one virtual server.
    VirtualServer(Option<VirtualServerId>, Field),
    /// A service range, whose only field is the prefix.
    ServiceRange(ServiceRange),
}

/// A field of a virtual server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    Address,
    Ports,
    Name,
    /// The name of the scheduler, without its flags.
    Scheduler,
    SchedulerFlags,
    /// The forwarding method, without its tunnel kind.
    ForwardingMethod,
    TunnelKind,
    PersistenceTimeout,
    /// The length of the prefix by which several client addresses count as one client.
    ClientPrefixLength,
    /// The whole list of real servers.
    RealServers,
    RealServer(RealServerKey, RealServerField),
    HealthCheck(HealthCheckField),
    OnFailure,
    MinimumHealthy,
    DrainTimeout,
}

/// The address and port that identify a real server within its virtual server. Error messages use
/// them instead of the index in the sorted list, which the user cannot see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RealServerKey {
    pub address: IpAddr,
    /// The port as the user wrote it; `None` if the user wrote no port.
    pub port: Option<NonZeroU16>,
}

/// A field of a real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RealServerField {
    /// The whole real server, for example if it is listed twice.
    Whole,
    Address,
    Port,
}

/// A field of a health check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthCheckField {
    Kind,
    Port,
    Interval,
    Timeout,
    Rise,
    Fall,
    InitialJitter,
}

/// All problems of one object: the first [`Self::MAX_LISTED`] problems with their text, and the
/// number of further problems.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems<P = Invalid> {
    listed: Vec<P>,
    unlisted: usize,
}

impl Invalid {
    /// Creates an error that is shown as "`field`: `value` `problem`; `suggestion`".
    pub fn new(
        field: impl Into<FieldPath>,
        value: impl Display,
        problem: impl Into<Cow<'static, str>>,
        suggestion: impl Into<Suggestion>,
    ) -> Self {
        Self {
            field: field.into(),
            reason: BadValue::new(value, problem, suggestion),
        }
    }

    /// Adds the id of the virtual server to the path of the field.
    #[must_use]
    pub fn of(self, id: VirtualServerId) -> Self {
        let field = match self.field {
            FieldPath::VirtualServer(_, field) => FieldPath::VirtualServer(Some(id), field),
            FieldPath::ServiceRange(range) => FieldPath::ServiceRange(range),
        };
        Self { field, ..self }
    }
}

impl BadValue {
    /// Creates an error that is shown as "`value` `problem`; `suggestion`".
    pub fn new(
        value: impl Display,
        problem: impl Into<Cow<'static, str>>,
        suggestion: impl Into<Suggestion>,
    ) -> Self {
        Self {
            value: value.to_string(),
            problem: problem.into(),
            suggestion: suggestion.into(),
        }
    }
}

impl<P> Problems<P> {
    /// The largest number of problems that are stored with their text.
    pub const MAX_LISTED: usize = 100;

    /// Adds a problem. Stores the problem if fewer than [`Self::MAX_LISTED`] problems are stored,
    /// otherwise only counts it.
    pub fn push(&mut self, problem: P) {
        if self.listed.len() < Self::MAX_LISTED {
            self.listed.push(problem);
        } else {
            self.unlisted += 1;
        }
    }

    /// Adds the problems of a part of the object. `convert` turns a stored problem of the part into
    /// a problem of the object, or returns `None` to drop the problem.
    pub fn append<Q>(
        &mut self,
        part_problems: Problems<Q>,
        mut convert: impl FnMut(Q) -> Option<P>,
    ) {
        self.unlisted += part_problems.unlisted;
        part_problems
            .listed
            .into_iter()
            .filter_map(&mut convert)
            .for_each(|problem| self.push(problem));
    }

    /// Returns the problems that are stored with their text.
    #[must_use]
    pub fn listed(&self) -> &[P] {
        &self.listed
    }

    /// Returns the problems that are stored with their text, and the number of problems that are
    /// only counted.
    #[must_use]
    pub fn into_parts(self) -> (Vec<P>, usize) {
        (self.listed, self.unlisted)
    }

    /// Returns `value` if there is no problem.
    ///
    /// # Errors
    ///
    /// Returns the problems if there is at least one.
    pub fn or<T>(self, value: T) -> Result<T, Self> {
        if self.listed.is_empty() {
            Ok(value)
        } else {
            Err(self)
        }
    }
}

impl<P> Default for Problems<P> {
    fn default() -> Self {
        Self {
            listed: Vec::new(),
            unlisted: 0,
        }
    }
}

impl<P> From<P> for Problems<P> {
    fn from(problem: P) -> Self {
        Self {
            listed: vec![problem],
            unlisted: 0,
        }
    }
}

impl<P> Extend<P> for Problems<P> {
    fn extend<I: IntoIterator<Item = P>>(&mut self, problems: I) {
        problems.into_iter().for_each(|problem| self.push(problem));
    }
}

impl<P: fmt::Debug + Display> std::error::Error for Problems<P> {}

impl<P: Display> Display for Problems<P> {
    /// Writes each stored problem in its own line, and then the number of problems that are only
    /// counted.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.listed.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        match self.unlisted {
            0 => Ok(()),
            more => write!(f, "\n{more} more problems are not listed"),
        }
    }
}

impl From<Field> for FieldPath {
    fn from(field: Field) -> Self {
        Self::VirtualServer(None, field)
    }
}

impl From<HealthCheckField> for FieldPath {
    fn from(field: HealthCheckField) -> Self {
        Field::HealthCheck(field).into()
    }
}

impl From<&'static str> for Suggestion {
    fn from(text: &'static str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Suggestion {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<&RealServer> for RealServerKey {
    fn from(server: &RealServer) -> Self {
        Self {
            address: server.address,
            port: server.port,
        }
    }
}

impl Display for Suggestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::LeaveOut => f.write_str("leave it out"),
            Self::LeaveOutOrCheck => f.write_str("leave it out, or use a health check"),
            Self::TextOrNoCheck(text) => {
                write!(f, "{text}, or use no health check (kind: none)")
            }
        }
    }
}

impl Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::VirtualServer(None, field) => field.fmt(f),
            Self::VirtualServer(Some(id), field) => write!(f, "virtualServers[{id}].{field}"),
            Self::ServiceRange(range) => write!(f, "serviceRanges[{range}]"),
        }
    }
}

impl Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Address => "address",
            Self::Ports => "ports",
            Self::Name => "name",
            Self::Scheduler => "scheduler",
            Self::SchedulerFlags => "schedulerFlags",
            Self::ForwardingMethod => "forwardingMethod",
            Self::TunnelKind => "tunnelKind",
            Self::PersistenceTimeout => "persistence.timeout",
            Self::ClientPrefixLength => "persistence.clientPrefixLength",
            Self::RealServers => "realServers",
            Self::RealServer(key, field) => {
                write!(f, "realServers[{key}]")?;
                match field {
                    RealServerField::Whole => "",
                    RealServerField::Address => ".address",
                    RealServerField::Port => ".port",
                }
            }
            Self::HealthCheck(field) => match field {
                HealthCheckField::Kind => "healthCheck.kind",
                HealthCheckField::Port => "healthCheck.port",
                HealthCheckField::Interval => "healthCheck.interval",
                HealthCheckField::Timeout => "healthCheck.timeout",
                HealthCheckField::Rise => "healthCheck.rise",
                HealthCheckField::Fall => "healthCheck.fall",
                HealthCheckField::InitialJitter => "healthCheck.initialJitter",
            },
            Self::OnFailure => "onFailure",
            Self::MinimumHealthy => "minimumHealthy",
            Self::DrainTimeout => "drainTimeout",
        };
        f.write_str(name)
    }
}

impl Display for RealServerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}", SocketAddr::new(self.address, port.get())),
            None => write!(f, "{}", self.address),
        }
    }
}
