//! Routing tables of a BGP speaker.
//!
//! The crate has the decision process, route reflection and policies. It has no clock and no I/O.
//!
//! ```text
//!  receive ─► import policy ─► Adj-RIB-In ─► decision process ─► Loc-RIB
//!  originate ────────────────────┘                                  │ changed keys
//!                                      take_pending ◄─ export ◄─ Adj-RIB-Out of each peer
//! ```
//! The caller pulls the output. A change of a path only puts the key of the path into the queue of
//! each peer that receives the change. The UPDATE messages are made from the current paths when the
//! connection of the peer has room. So a slow peer gets only the last of several changes of a path,
//! and the queue of a peer has each key at most once.
//!
//! **Invariants.** The Adj-RIB-Out of a peer lists exactly the paths that were sent to the peer. A
//! path is sent with one path id while it exists, and no two paths of a prefix are sent with equal
//! path ids. Equal attributes of one peer are stored once for all prefixes, and so is each form in
//! which these attributes are exported.

mod adj_rib_in;
mod adj_rib_out;
mod attribute_policy;
mod client_rule;
mod decision;
mod export;
mod listing;
mod next_hop;
mod peer;
mod policy;
mod receive;
mod reconfigure;
mod rib;
mod send;
mod table;

pub use attribute_policy::{
    AttributePolicy, CommunityPolicy, LocalPrefPolicy, MedPolicy, ReflectionPolicy,
};
pub use client_rule::{ClientRule, NextHopFilter};
pub use decision::{DEFAULT_LOCAL_PREF, NotBestReason};
pub use listing::{PathKey, PeerCounts, RibPath, SentPath};
pub use next_hop::is_reachable_unicast;
pub use peer::{LocalAddresses, PathSource, PeerId, PeerKind, PeerSettings, RibConfig, RibFamily};
pub use policy::{
    ExportPolicy, ImportPolicy, InvalidPrefixRule, MaximumPathsAction, PrefixFilter, PrefixRule,
    RejectReason, UnknownAttributes,
};
pub use receive::{MaximumPathsExceeded, NextHopFamilyMismatch, ReceiveOutcome};
pub use rib::Rib;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
