//! Why a value, a virtual server or a set of them is refused.

use std::{
    borrow::Cow,
    fmt::{self, Display},
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
};

use crate::{RealServer, ServiceRange, VirtualServerId};

/// A refused field of a virtual server or set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Invalid {
    /// The field, as the file format names it.
    pub field: FieldPath,
    /// Why its value is refused.
    pub reason: BadValue,
}

/// Why a value is refused, wherever it was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{value} {problem}; {suggestion}")]
pub struct BadValue {
    /// The value as given.
    pub value: String,
    /// What is wrong with it.
    pub problem: Cow<'static, str>,
    /// What to write instead.
    pub suggestion: Suggestion,
}

/// What to write instead of a refused value, in the words of the file format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Suggestion {
    /// Another value, or another way to write it.
    Text(Cow<'static, str>),
    /// Nothing: the field is left out.
    LeaveOut,
    /// Nothing, or a kind of health check.
    LeaveOutOrCheck,
    /// This text, or no health check.
    TextOrNoCheck(&'static str),
}

/// A field, shown as the file format names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldPath {
    /// A field of a virtual server.
    VirtualServer(Option<VirtualServerId>, Field),
    /// A service range, which has one field.
    ServiceRange(ServiceRange),
}

/// A field of a virtual server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The service address that clients reach.
    Address,
    /// The ports that clients connect to.
    Ports,
    /// The name that users see.
    Name,
    /// The scheduler, without its flags.
    Scheduler,
    /// The flags of `sh` and `mh`.
    SchedulerFlags,
    /// The forwarding method, without its tunnel.
    ForwardingMethod,
    /// The encapsulation of the method `Tunnel`.
    TunnelKind,
    /// How long a client stays with its real server.
    PersistenceTimeout,
    /// What counts as one client.
    ClientPrefixLength,
    /// The real servers together.
    RealServers,
    /// A field of one real server.
    RealServer(RealServerKey, RealServerField),
    /// A field of the health check.
    HealthCheck(HealthCheckField),
    /// What happens to a real server that fails its health check.
    OnFailure,
    /// Least number of healthy real servers.
    MinimumHealthy,
    /// How long connections to a removed real server last.
    DrainTimeout,
}

/// Names a real server within its virtual server: its place in the list is not the user's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RealServerKey {
    /// The address of the real server.
    pub address: IpAddr,
    /// Its port as given.
    pub port: Option<NonZeroU16>,
}

/// A field of a real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RealServerField {
    /// The real server as a whole.
    Whole,
    /// The address of the real server.
    Address,
    /// The port of the real server.
    Port,
}

/// A field of a health check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthCheckField {
    /// Whether and how real servers are checked.
    Kind,
    /// What the check connects to.
    Port,
    /// From the start of one check to the start of the next.
    Interval,
    /// A check without an answer fails after it.
    Timeout,
    /// Successful checks that make a failed real server healthy.
    Rise,
    /// Failed checks that make a healthy real server failed.
    Fall,
    /// The first check starts at a random moment within it.
    InitialJitter,
}

/// All problems of one object: the first [`Self::MOST`] in full, the others counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems<P = Invalid> {
    listed: Vec<P>,
    unlisted: usize,
}

impl Invalid {
    /// Reads as a sentence: "`field`: `value` `problem`; `suggestion`".
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

    /// Names the virtual server that has the field.
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
    /// Reads as a sentence: "`value` `problem`; `suggestion`".
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
    /// Problems that are kept in full.
    pub const MOST: usize = 100;

    /// Adds a problem, in full or as a count.
    pub fn push(&mut self, problem: P) {
        if self.listed.len() < Self::MOST {
            self.listed.push(problem);
        } else {
            self.unlisted += 1;
        }
    }

    /// Adds the problems of a part, except for those dropped by `convert`.
    pub fn append<Q>(&mut self, of_part: Problems<Q>, mut convert: impl FnMut(Q) -> Option<P>) {
        self.unlisted += of_part.unlisted;
        of_part
            .listed
            .into_iter()
            .filter_map(&mut convert)
            .for_each(|problem| self.push(problem));
    }

    /// The problems that are kept in full.
    #[must_use]
    pub fn listed(&self) -> &[P] {
        &self.listed
    }

    /// The problems that are kept in full, and the number of the others.
    #[must_use]
    pub fn into_parts(self) -> (Vec<P>, usize) {
        (self.listed, self.unlisted)
    }

    /// Returns `value` unless there is a problem.
    ///
    /// # Errors
    /// The problems, if there is one.
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
    /// One problem a line.
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
            Self::LeaveOutOrCheck => f.write_str("leave it out, or write another kind than none"),
            Self::TextOrNoCheck(text) => {
                write!(f, "{text}, or do without the check (kind: none)")
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
