//! What a user should know about a Service.

use std::fmt;

use crate::{left_out::LeftOutReason, model::PREFIX};

/// Something that deserves an Event.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Which of the known ones; also says how bad it is.
    pub reason: Reason,
    /// One sentence with what is wrong, what is allowed and the cure; short enough for an Event.
    pub message: String,
    /// Why the endpoints are left out that it is about.
    left_out: Option<LeftOutReason>,
    /// What the message begins with.
    pub subject: Subject,
}

/// What a finding, or the refusal of an annotation, is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// The Service as a whole.
    #[default]
    Service,
    /// A field of its specification, such as `spec.ports[0].port`.
    Field(Box<str>),
    /// An annotation, by its name with its prefix.
    Annotation(Box<str>),
    /// What no object says: a flag, or an address pool.
    Setting(&'static str),
    /// An EndpointSlice or a Pod behind the Service, which has the same finding itself.
    ObjectBehind(Box<str>),
}

/// What a [`Finding`] is about; the reason of its Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// An annotation cannot be used: the last good state of the Service stays.
    BadAnnotation,
    /// A field of the specification cannot be used: the last good state of the Service stays.
    BadSpecification,
    /// Another Service has the address, or the port of a shared address.
    AddressConflict,
    /// No address pool has an address left, or there is none.
    NoAddress,
    /// Its address is kept, though no address pool has it any more.
    AddressOutsidePools,
    /// Endpoints cannot be real servers and are left out.
    EndpointsLeftOut,
    /// The Service has endpoints, and none of them can be a real server.
    NoUsableEndpoint,
    /// Weights are rounded, since the scheduler cannot keep them apart.
    WeightsRounded,
    /// kube-proxy takes the traffic of `spec.externalIPs` for itself.
    ExternalIpsIntercepted,
    /// The Service limits its clients, which no load balancer enforces: it is not served.
    SourceRangesUnsupported,
    /// `externalTrafficPolicy: Local` asks for the client's address, which Masquerade hides.
    ClientAddressHidden,
    /// `externalTrafficPolicy: Local` has no meaning here.
    TrafficPolicyIgnored,
    /// `trafficDistribution` has no meaning here.
    TrafficDistributionIgnored,
}

/// Type of an Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// `Normal`.
    Normal,
    /// `Warning`.
    Warning,
}

/// Longest message: an Event's note has at most 1024 bytes.
const LONGEST_MESSAGE: usize = 1_000;

impl Finding {
    /// Cuts a message off that is too long for an Event.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        let mut message: String = message.into();
        if message.len() > LONGEST_MESSAGE {
            message.truncate(message.floor_char_boundary(LONGEST_MESSAGE));
            message.push('…');
        }
        Self {
            reason,
            message,
            left_out: None,
            subject: Subject::Service,
        }
    }

    /// Returns a finding about one subject, which its message begins with.
    pub(crate) fn about(reason: Reason, subject: Subject, text: impl fmt::Display) -> Self {
        Self {
            subject: subject.clone(),
            ..Self::new(reason, format!("{subject}: {text}"))
        }
    }

    /// Returns the finding about endpoints that are left out for one reason.
    pub(crate) fn of_left_out(reason: Reason, why: LeftOutReason, message: String) -> Self {
        Self {
            left_out: Some(why),
            ..Self::new(reason, message)
        }
    }

    /// Returns what tells the finding from others with its reason. Endpoints come and go, so that
    /// a finding about them is the same whichever are its example and however many there are.
    #[must_use]
    pub fn identity(&self) -> &str {
        match self.left_out {
            Some(why) => why.as_str(),
            None => &self.message,
        }
    }
}

impl Subject {
    /// Returns the annotation of ours with this name, which has no prefix.
    pub(crate) fn annotation(name: &str) -> Self {
        Self::Annotation(format!("{PREFIX}{name}").into())
    }

    /// Returns a field of the specification.
    pub(crate) fn field(path: impl Into<Box<str>>) -> Self {
        Self::Field(path.into())
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service => Ok(()),
            Self::Field(path) => f.write_str(path),
            Self::Annotation(name) => write!(f, "annotation {name}"),
            Self::Setting(name) => f.write_str(name),
            Self::ObjectBehind(title) => f.write_str(title),
        }
    }
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::BadAnnotation,
        Self::BadSpecification,
        Self::AddressConflict,
        Self::NoAddress,
        Self::AddressOutsidePools,
        Self::EndpointsLeftOut,
        Self::NoUsableEndpoint,
        Self::WeightsRounded,
        Self::ExternalIpsIntercepted,
        Self::SourceRangesUnsupported,
        Self::ClientAddressHidden,
        Self::TrafficPolicyIgnored,
        Self::TrafficDistributionIgnored,
    ];

    /// The reason as an Event says it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadAnnotation => "BadAnnotation",
            Self::BadSpecification => "BadSpecification",
            Self::AddressConflict => "AddressConflict",
            Self::NoAddress => "NoAddress",
            Self::AddressOutsidePools => "AddressOutsidePools",
            Self::EndpointsLeftOut => "EndpointsLeftOut",
            Self::NoUsableEndpoint => "NoUsableEndpoint",
            Self::WeightsRounded => "WeightsRounded",
            Self::ExternalIpsIntercepted => "ExternalIPsIntercepted",
            Self::SourceRangesUnsupported => "SourceRangesUnsupported",
            Self::ClientAddressHidden => "ClientAddressHidden",
            Self::TrafficPolicyIgnored => "TrafficPolicyIgnored",
            Self::TrafficDistributionIgnored => "TrafficDistributionIgnored",
        }
    }

    /// The type of the Event.
    #[must_use]
    pub const fn severity(self) -> Severity {
        match self {
            Self::BadAnnotation
            | Self::BadSpecification
            | Self::AddressConflict
            | Self::NoAddress
            | Self::AddressOutsidePools
            | Self::EndpointsLeftOut
            | Self::NoUsableEndpoint
            | Self::ExternalIpsIntercepted
            | Self::SourceRangesUnsupported
            | Self::ClientAddressHidden => Severity::Warning,
            Self::WeightsRounded
            | Self::TrafficPolicyIgnored
            | Self::TrafficDistributionIgnored => Severity::Normal,
        }
    }

    /// Whether the Service is not served as it is written: it is counted as bad, and `validate`
    /// fails.
    #[must_use]
    pub const fn is_error(self) -> bool {
        match self {
            Self::BadAnnotation
            | Self::BadSpecification
            | Self::AddressConflict
            | Self::NoAddress
            | Self::NoUsableEndpoint
            | Self::SourceRangesUnsupported => true,
            Self::AddressOutsidePools
            | Self::EndpointsLeftOut
            | Self::WeightsRounded
            | Self::ExternalIpsIntercepted
            | Self::ClientAddressHidden
            | Self::TrafficPolicyIgnored
            | Self::TrafficDistributionIgnored => false,
        }
    }
}

impl Severity {
    /// Returns the `type` of the Event: `Normal` or `Warning`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}: {}",
            self.reason.severity(),
            self.reason,
            self.message
        )
    }
}
