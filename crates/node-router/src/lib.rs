//! Routes a service address from the node to the load-balancer pods on it, for as long as each pod
//! holds a stream open (`--release-delay` longer where no other pod does), and keeps service
//! addresses out of the node's connection tracking.
//!
//! ```text
//!  bgp-announcer ──NodeRouteService.Hold──► grpc ──commands──► table (owner) ──► kernel: routes
//!   (in each lb pod)                         ▲                  │   ▲
//!                                            └──published───────┘   └── kernel: changes by anybody
//!                                                               exemption ──► kernel: nftables table
//! ```
//!
//! - **A stream is a claim**, so the policy decides first: prefix and gateway must lie in ranges
//!   that the operator allowed, and the gateway must be on a link of this node.
//! - **A claim is proved** ([`HoldProof`]): the holder sends back a nonce that it received at the
//!   gateway, so that no other process can take its place. With `--hold-proof=token` it also shows
//!   a token of its ServiceAccount, and holds the prefixes of its namespace alone.
//! - The routes of this daemon carry the routing protocol number [`PROTOCOL`] and the metric
//!   [`METRIC`]. A route with another number is never changed; if it would win over ours, the hold
//!   is refused.
//! - Everything is derived: the holds and the gateways' links give the desired routes, the kernel
//!   the actual ones, [`plan::plan`] the difference. What is reported was read back.
//! - **Bounded**: `--max-routes` routes, four times as many holds, and as many streams of one
//!   connection as a pod can hold routes.
//! - The [uplink guard](uplink) drops packets from the uplinks for service addresses that no pod of
//!   this node holds, which would otherwise loop between node and router.
//! - **Routes that are held stay when the daemon ends.** The next run adopts them, and removes after
//!   the adoption timeout what nobody has claimed again. Before that end, `--linger` gives holders
//!   that are told to end at the same time a chance to let go.

mod args;
mod config;
mod error;
mod exemption;
mod grpc;
mod hold;
mod kernel;
mod look;
mod metrics;
mod namespaces;
mod node_settings;
pub mod plan;
mod policy;
mod proof;
mod refusal_log;
mod start;
mod table;
mod token;
pub mod uplink;

pub use args::{Args, DEFAULTS, HoldProofKind};
pub use config::{Config, HoldProof, Mode, TokenSettings};
pub use error::{KernelError, Refusal, StartError};
pub use exemption::{Firewall, TABLE_NAME};
pub use kernel::{
    Kernel, Link, NETLINK_TIMEOUT, NetlinkKernel, NotOnLink, OpenedKernel, ROUTES_TIMEOUT, Reads,
    Snapshot, message,
};
pub use namespaces::{NamespaceEntry, NamespacePrefixes};
pub use plan::{METRIC, PROTOCOL};
pub use policy::{Claim, Policy};
pub use proof::PROOF_TIMEOUT;
pub use start::{start, start_with};
pub use token::{AUDIENCE, KeysFileError, LONGEST_TOKEN, TokenKeysError, TokenProblem};
