//! What can fail here.

use std::{io, net::IpAddr};

use ipnet::IpNet;

use crate::{
    node_settings::forwarding_problem,
    plan::{Change, ForeignRoute},
    token::{KeysFileError, TokenProblem},
    uplink::{self, IpVersion},
};

/// Why a hold is refused or has ended.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refusal {
    #[error("prefix: {0}")]
    NotAPrefix(String),
    #[error("gateway {gateway:?} is not an IP address; give the pod's address")]
    NotAnAddress { gateway: String },
    #[error("gateway {gateway} is not of the IP version of prefix {prefix}")]
    OtherFamily { prefix: IpNet, gateway: IpAddr },
    #[error(
        "prefix {prefix} is not allowed on this node; allowed here: {allowed} (--allowed-prefixes \
         of node-router)"
    )]
    PrefixNotAllowed { prefix: IpNet, allowed: String },
    #[error(
        "gateway {gateway} is no pod address of this node; allowed here: {allowed} \
         (--allowed-gateways of node-router)"
    )]
    GatewayNotAllowed { gateway: IpAddr, allowed: String },
    #[error("gateway {gateway} is not on a link of this node: {reason}")]
    GatewayNotOnLink { gateway: IpAddr, reason: String },
    #[error(
        "prefix {prefix} has a route that node-router did not make and leaves alone: {route}; \
         remove it, or give it a metric above {}",
        crate::METRIC
    )]
    ForeignRoute { prefix: IpNet, route: ForeignRoute },
    #[error("no packet would reach {prefix}: {}", forwarding_problem(IpVersion::of(.prefix)))]
    NotForwarding { prefix: IpNet },
    #[error("the kernel does not hold the route to {prefix}: {problem}")]
    NotInstalled { prefix: IpNet, problem: String },
    #[error("the kernel's routes cannot be read, so the route to {prefix} is as it was: {problem}")]
    NotRead { prefix: IpNet, problem: String },
    #[error(
        "{limit} prefixes have routes already (held, let go of a moment ago, or of an earlier run), which is the most that this node allows \
         (--max-routes of node-router)"
    )]
    TooMany { limit: usize },
    #[error(
        "{limit} streams hold routes already, which is four for each route that this node allows \
         (--max-routes of node-router)"
    )]
    TooManyHolds { limit: usize },
    #[error("the route to {prefix} has {limit} next hops already, which is the most of one route")]
    TooManyNextHops { prefix: IpNet, limit: usize },
    #[error(
        "the holder does not prove that it owns {gateway}: {problem} (--hold-proof=address of \
         node-router)"
    )]
    NotProved { gateway: IpAddr, problem: String },
    #[error(
        "a nonce that node-router sent by UDP to {gateway} port {port} did not come back on the stream \
         (--hold-proof=address of node-router)"
    )]
    NotAnswered { gateway: IpAddr, port: u16 },
    #[error("the token is refused: {0} (--hold-proof=token of node-router)")]
    Token(#[from] TokenProblem),
    #[error(
        "namespace {namespace} may not hold prefix {prefix}; allowed for it: {allowed} \
         (--namespace-prefixes of node-router)"
    )]
    NamespaceNotAllowed {
        namespace: String,
        prefix: IpNet,
        allowed: String,
    },
    #[error("too many holds wait for an answer; ask again")]
    Busy,
    #[error("no request came on the stream; send one")]
    NoRequest,
    #[error("node-router is stopping; the route stays in the kernel")]
    Stopping,
}

impl Refusal {
    /// One word for metrics.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::NotAPrefix(_)
            | Self::NotAnAddress { .. }
            | Self::OtherFamily { .. }
            | Self::NoRequest => "malformed",
            Self::NotProved { .. } | Self::NotAnswered { .. } | Self::Busy => "not_proved",
            Self::Token(problem) => problem.name(),
            Self::NamespaceNotAllowed { .. } => "namespace_not_allowed",
            Self::PrefixNotAllowed { .. } | Self::GatewayNotAllowed { .. } => "not_allowed",
            Self::GatewayNotOnLink { .. } => "not_on_link",
            Self::ForeignRoute { .. } => "foreign_route",
            Self::NotForwarding { .. } => "not_forwarding",
            Self::NotInstalled { .. } | Self::NotRead { .. } => "kernel",
            Self::TooMany { .. } | Self::TooManyHolds { .. } | Self::TooManyNextHops { .. } => {
                "too_many"
            }
            Self::Stopping => "stopping",
        }
    }

    /// Reports whether the token of the holder is why.
    pub(crate) fn is_by_token(&self) -> bool {
        matches!(self, Self::Token(_) | Self::NamespaceNotAllowed { .. })
    }
}

/// What the kernel refused or did not answer.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A netlink socket cannot be opened.
    #[error("cannot open a netlink socket")]
    Open(#[source] io::Error),
    /// The routes cannot be read.
    #[error("cannot read the kernel's routes")]
    ReadRoutes(#[source] io::Error),
    /// The way to an address cannot be read.
    #[error("cannot ask the kernel for the way to {gateway}")]
    LookUp {
        /// Where to.
        gateway: IpAddr,
        /// Why not.
        source: io::Error,
    },
    /// A change of the routes failed.
    #[error("cannot {change}")]
    Apply {
        /// What was asked for.
        change: Change,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A change of the uplink guard failed.
    #[error("cannot {change}")]
    ApplyGuard {
        /// What was asked for.
        change: uplink::Change,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel's notifications have ended.
    #[error("the kernel's notifications have ended")]
    NotificationsEnded,
}

impl KernelError {
    /// Whether the process lacks a privilege.
    pub fn is_permission_denied(&self) -> bool {
        match self {
            Self::Open(source)
            | Self::ReadRoutes(source)
            | Self::LookUp { source, .. }
            | Self::Apply { source, .. }
            | Self::ApplyGuard { source, .. } => source.kind() == io::ErrorKind::PermissionDenied,
            Self::NotificationsEnded => false,
        }
    }
}

/// Why the daemon cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The kernel's routes cannot be read or adopted.
    #[error("cannot take over the kernel's routes{}", cure(.0.is_permission_denied()))]
    Routes(#[source] KernelError),
    /// The exemption from connection tracking cannot be installed.
    #[error(
        "cannot exempt the service ranges from connection tracking{}",
        cure(is_permission_denied(.0))
    )]
    Exemption(#[source] nftables_table::Error),
    /// No socket for the proof of holds.
    #[error("cannot open a UDP socket for the proof of holds")]
    Proof(#[source] io::Error),
    /// The keys of tokens cannot be read or watched.
    #[error("cannot verify tokens")]
    TokenKeys(#[source] KeysFileError),
    /// A server cannot be opened.
    #[error("cannot serve")]
    Serve(#[source] daemon_runtime::DaemonError),
}

fn cure(permission_denied: bool) -> &'static str {
    if permission_denied {
        "; the process needs the capability NET_ADMIN in the node's network namespace \
         (hostNetwork: true and securityContext.capabilities.add: [NET_ADMIN], or root)"
    } else {
        ""
    }
}

fn is_permission_denied(error: &nftables_table::Error) -> bool {
    matches!(error, nftables_table::Error::NotPermitted { .. })
}
