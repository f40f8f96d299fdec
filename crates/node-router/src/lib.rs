//! Routes from a node to its load-balancer pods.
//!
//! A route to a service address exists while a pod holds it with an open stream. If no other pod
//! holds the prefix, the route stays for `--release-delay` after the end of the stream. node-router
//! also exempts service addresses from the node's connection tracking.
//!
//! ```text
//!  bgp-announcer ──NodeRouteService.Hold──► grpc ──commands──► table (owner) ──► kernel: routes
//!   (in each lb pod)                         ▲                  │   ▲
//!                                            └──published───────┘   └── kernel: notifications
//!                                                               exemption ──► kernel: nftables table
//! ```
//!
//! - **Each stream claims a route.** The policy checks the claim first: prefix and gateway must lie
//!   in ranges that the operator allowed, and the gateway must be on a link of this node.
//! - **The holder proves its claim** ([`HoldProof`]): it returns a nonce that it received at the
//!   gateway, so that no other process can claim a route to this gateway. With `--hold-proof=token`
//!   the holder also sends a token of its ServiceAccount, and may hold only prefixes of its
//!   namespace.
//! - The routes of this daemon have the routing protocol number [`PROTOCOL`] and the metric
//!   [`METRIC`]. The daemon never changes a route with another protocol number. If a foreign route
//!   wins over a route of this daemon, the daemon refuses the hold.
//! - The desired routes follow from the holds and the links of their gateways. The actual routes
//!   are read from the kernel. [`plan::plan`] returns the changes between desired and actual
//!   routes. The daemon reports only state that it has read back from the kernel.
//! - **Limits**: `--max-routes` limits the routes. The number of holds is limited to four times
//!   `--max-routes`, and the number of streams of one connection to `--max-routes` plus 64.
//! - The [uplink guard](uplink) drops packets from the uplinks for service addresses that no pod of
//!   this node holds. These packets would otherwise loop between the node and its router.
//! - **Held routes stay when the daemon exits.** The next run adopts them. After the adoption
//!   timeout the next run removes the adopted routes that no pod has claimed since the start of
//!   this run. If one command ends the daemon together with the holders, `--linger` gives the
//!   holders time to release their routes.

mod args;
mod config;
mod error;
mod exemption;
mod grpc;
mod hold;
mod kernel;
mod metrics;
mod namespaces;
mod node_settings;
pub mod plan;
mod policy;
mod proof;
mod reconciliation;
mod refusal_log;
mod start;
mod table;
mod token;
pub mod uplink;

pub use args::{Args, DEFAULTS, HoldProofKind};
pub use config::{Config, HoldProof, SocketMode, TokenSettings};
pub use error::{HoldRefusal, RouteKernelError, StartError};
pub use exemption::{ExemptionFirewall, TABLE_NAME};
pub use kernel::{
    GatewayLink, KernelReadCounters, NETLINK_TIMEOUT, NetlinkKernel, NotOnLink, OpenedKernel,
    ROUTES_TIMEOUT, RouteKernel, RouteSnapshot, message,
};
pub use namespaces::{NamespaceEntry, NamespacePrefixes};
pub use plan::{METRIC, PROTOCOL};
pub use policy::{Policy, RouteClaim};
pub use proof::PROOF_TIMEOUT;
pub use start::{start, start_with};
pub use token::{AUDIENCE, KeysFileError, LONGEST_TOKEN, TokenKeysError, TokenProblem};
