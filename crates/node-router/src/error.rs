//! Errors of holds, of the kernel and of the start.

use std::{io, net::IpAddr};

use ipnet::IpNet;

use crate::{
    node_settings::forwarding_problem,
    plan::{ForeignRoute, RouteChange},
    token::{KeysFileError, TokenProblem},
    uplink::{self, IpVersion},
};

/// Reason why node-router refuses or ends a hold.
#[derive(Clone, Debug, thiserror::Error)]
pub enum HoldRefusal {
    #[error("invalid prefix: {0}")]
    NotAPrefix(String),
    #[error("invalid gateway {gateway:?}: not an IP address; send the address of the pod")]
    NotAnAddress { gateway: String },
    #[error(
        "gateway {gateway} and prefix {prefix} have different IP versions; send a gateway of the IP \
         version of the prefix"
    )]
    OtherFamily { prefix: IpNet, gateway: IpAddr },
    #[error(
        "prefix {prefix} is not allowed on this node; allowed here: {allowed} \
         (node-router --allowed-prefixes)"
    )]
    PrefixNotAllowed { prefix: IpNet, allowed: String },
    #[error(
        "gateway {gateway} is not an allowed pod address of this node; allowed here: {allowed} \
         (node-router --allowed-gateways)"
    )]
    GatewayNotAllowed { gateway: IpAddr, allowed: String },
    #[error("gateway {gateway} is not on a link of this node: {reason}")]
    GatewayNotOnLink { gateway: IpAddr, reason: String },
    #[error(
        "prefix {prefix} has a route of another program, which node-router does not change: {route}; \
         remove this route, or give it a metric above {}",
        crate::METRIC
    )]
    ForeignRoute { prefix: IpNet, route: ForeignRoute },
    #[error("the node forwards no packets to {prefix}: {}", forwarding_problem(IpVersion::of(.prefix)))]
    NotForwarding { prefix: IpNet },
    #[error("the route to {prefix} is not installed in the kernel: {problem}")]
    NotInstalled { prefix: IpNet, problem: String },
    #[error("node-router cannot check the route to {prefix}, which stays unchanged: {problem}")]
    NotRead { prefix: IpNet, problem: String },
    #[error(
        "the limit of {limit} routed prefixes is reached (held, recently released, or left by an \
         earlier run); raise node-router --max-routes"
    )]
    TooManyRoutes { limit: usize },
    #[error(
        "the limit of {limit} holds is reached, which is four for each allowed route; raise \
         node-router --max-routes"
    )]
    TooManyHolds { limit: usize },
    #[error(
        "the route to {prefix} has {limit} next hops, which is the maximum for one route; run fewer \
         load-balancer pods with this prefix on the node"
    )]
    TooManyNextHops { prefix: IpNet, limit: usize },
    #[error(
        "the holder did not prove that it owns the gateway {gateway}: {problem} (node-router \
         --hold-proof=address)"
    )]
    NotProved { gateway: IpAddr, problem: String },
    #[error(
        "the nonce that node-router sent by UDP to {gateway} port {port} did not return on the stream \
         in time (node-router --hold-proof=address)"
    )]
    NotAnswered { gateway: IpAddr, port: u16 },
    #[error("hold token rejected: {0} (node-router --hold-proof=token)")]
    Token(#[from] TokenProblem),
    #[error(
        "namespace {namespace} is not allowed to hold prefix {prefix}; allowed for this namespace: \
         {allowed} (node-router --namespace-prefixes)"
    )]
    NamespaceNotAllowed {
        namespace: String,
        prefix: IpNet,
        allowed: String,
    },
    #[error("too many hold requests are pending; retry later")]
    Busy,
    #[error("no hold request arrived on the stream; send a hold request as the first message")]
    NoRequest,
    #[error("node-router is stopping; the route stays in the kernel")]
    Stopping,
}

impl HoldRefusal {
    /// Returns the value of the label `reason` in metrics.
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
            Self::TooManyRoutes { .. }
            | Self::TooManyHolds { .. }
            | Self::TooManyNextHops { .. } => "too_many",
            Self::Stopping => "stopping",
        }
    }

    /// Reports whether node-router refused the hold because of the hold token.
    pub(crate) fn is_caused_by_token(&self) -> bool {
        matches!(self, Self::Token(_) | Self::NamespaceNotAllowed { .. })
    }
}

/// A failed operation on the kernel's routes or routing rules.
#[derive(Debug, thiserror::Error)]
pub enum RouteKernelError {
    #[error("cannot open a netlink socket")]
    Open(#[source] io::Error),
    #[error("cannot read the kernel's routes")]
    ReadRoutes(#[source] io::Error),
    #[error("cannot look up the route to the gateway {gateway}")]
    LookUp { gateway: IpAddr, source: io::Error },
    #[error("cannot {change}")]
    Apply {
        change: RouteChange,
        source: io::Error,
    },
    #[error("cannot {change}")]
    ApplyGuard {
        change: uplink::GuardChange,
        source: io::Error,
    },
    #[error("the netlink connection for the kernel's notifications ended")]
    NotificationsEnded,
}

impl RouteKernelError {
    /// Reports whether the operation failed because the process lacks a privilege.
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

/// Reason why the daemon cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot read or adopt the kernel's routes{}", permission_suggestion(.0.is_permission_denied()))]
    Routes(#[source] RouteKernelError),
    #[error(
        "cannot exempt the service ranges from connection tracking{}",
        permission_suggestion(is_permission_denied(.0))
    )]
    Exemption(#[source] nftables_table::NftablesError),
    #[error("cannot open a UDP socket for hold proofs")]
    Proof(#[source] io::Error),
    #[error("cannot load the token keys")]
    TokenKeys(#[source] KeysFileError),
    #[error("cannot serve gRPC")]
    Serve(#[source] daemon_runtime::DaemonError),
}

fn permission_suggestion(permission_denied: bool) -> &'static str {
    if permission_denied {
        "; the process needs the capability NET_ADMIN in the node's network namespace \
         (hostNetwork: true and securityContext.capabilities.add: [NET_ADMIN], or root)"
    } else {
        ""
    }
}

fn is_permission_denied(error: &nftables_table::NftablesError) -> bool {
    matches!(error, nftables_table::NftablesError::NotPermitted { .. })
}
