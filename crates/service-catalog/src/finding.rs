//! Findings about a Service.

use std::fmt;

use crate::{left_out::LeftOutReason, model::PREFIX};

/// A message about a Service, which becomes an Event.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The kind of the finding. The kind decides the type of the Event and whether the finding is
    /// an error.
    pub reason: Reason,
    /// A sentence with the problem and the correction, short enough for the note of an Event.
    pub message: String,
    /// The reason why endpoints are left out. `None` if the finding is not about endpoints that are
    /// left out.
    left_out: Option<LeftOutReason>,
    /// The subject of the finding. The message begins with the subject, unless the subject is the
    /// whole Service.
    pub subject: Subject,
}

/// The subject of a finding, or of an annotation or setting that cannot be used.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    #[default]
    Service,
    /// A field of the Service, such as `spec.ports[0].port`.
    Field(Box<str>),
    /// The name of an annotation, with its prefix, such as `portlb.io/address`.
    Annotation(Box<str>),
    /// A flag of pod-watcher, or the words `address pool`.
    Setting(&'static str),
    /// An EndpointSlice or a pod behind the Service, such as `Pod web-1`.
    ObjectBehind(Box<str>),
}

/// The kind of a [`Finding`], and the reason of its Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// An annotation is invalid. The last valid state of the Service stays in force.
    BadAnnotation,
    /// A field of the specification is invalid. The last valid state of the Service stays in force.
    BadSpecification,
    /// Another Service has the address and does not share it, or uses a port of the shared address.
    AddressConflict,
    /// No address pool has a free address of an address family that the Service needs.
    NoAddress,
    /// The Service keeps an address although no address pool contains it.
    AddressOutsidePools,
    /// Some endpoints cannot be real servers and are left out.
    EndpointsLeftOut,
    /// A virtual server has endpoints, but no endpoint can be a real server.
    NoUsableEndpoint,
    /// The weights are rounded to the few levels that portlb uses for so many real servers with
    /// this scheduler.
    WeightsRounded,
    /// kube-proxy intercepts the traffic of `spec.externalIPs`.
    ExternalIpsIntercepted,
    /// The Service limits its clients. No load balancer enforces the limit, so the Service is not
    /// served.
    SourceRangesUnsupported,
    /// `externalTrafficPolicy: Local` requires the client's address, but `Masquerade` hides it.
    ClientAddressHidden,
    /// `externalTrafficPolicy: Local` has no effect.
    TrafficPolicyIgnored,
    /// `trafficDistribution` has no effect.
    TrafficDistributionIgnored,
}

/// The type of an Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventSeverity {
    Normal,
    Warning,
}

/// Number of bytes above which a message is truncated to this length, before `…` is appended. The
/// note of an Event can have at most 1024 bytes.
const LONGEST_MESSAGE: usize = 1_000;

impl Finding {
    /// Creates a finding about the whole Service. A message that is too long for an Event is
    /// truncated.
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

    /// Creates a finding whose message begins with the subject.
    pub(crate) fn about(reason: Reason, subject: Subject, text: impl fmt::Display) -> Self {
        Self {
            subject: subject.clone(),
            ..Self::new(reason, format!("{subject}: {text}"))
        }
    }

    /// Creates the finding about the endpoints that are left out for one reason.
    pub(crate) fn of_left_out(reason: Reason, why: LeftOutReason, message: String) -> Self {
        Self {
            left_out: Some(why),
            ..Self::new(reason, message)
        }
    }

    /// Returns the text that distinguishes the finding from other findings with the same `reason`:
    /// the [`LeftOutReason`] of endpoints that are left out, otherwise the message. The message
    /// about endpoints that are left out is not used, because it changes with their number and with
    /// the example in it.
    #[must_use]
    pub fn identity(&self) -> &str {
        match self.left_out {
            Some(why) => why.as_str(),
            None => &self.message,
        }
    }
}

impl Subject {
    /// Creates the subject for an annotation with the prefix `portlb.io/`. `name` has no prefix.
    pub(crate) fn annotation(name: &str) -> Self {
        Self::Annotation(format!("{PREFIX}{name}").into())
    }

    /// Creates the subject for a field of the specification.
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

    /// Returns the `reason` of the Event.
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

    /// Returns the type of the Event.
    #[must_use]
    pub const fn severity(self) -> EventSeverity {
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
            | Self::ClientAddressHidden => EventSeverity::Warning,
            Self::WeightsRounded
            | Self::TrafficPolicyIgnored
            | Self::TrafficDistributionIgnored => EventSeverity::Normal,
        }
    }

    /// Reports whether a Service with this finding is not served in the way that its author wrote.
    /// Such a Service counts as bad in the metrics, and `pod-watcher validate` fails.
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

impl EventSeverity {
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

impl fmt::Display for EventSeverity {
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
