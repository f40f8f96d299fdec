//! Routing tables of a BGP speaker.
//!
//! The crate has the decision process, route reflection and policies. It has no clock and no I/O.
//!
//! ```text
//!  receive ─► import policy ─► Adj-RIB-In ─► decision process ─► Loc-RIB
//!  originate ────────────────────┘                                  │ changed keys
//!                                      take_pending ◄─ export ◄─ Adj-RIB-Out of each peer
//! ```
//! The caller pulls the output. A change only marks a key in the queue of each peer. The UPDATE
//! messages are made from the Loc-RIB when the connection of the peer has room. So several changes
//! of a key coalesce for a slow peer, and the queue of a peer never has more keys than the table
//! has paths.
//!
//! **Invariants.** The Adj-RIB-Out of a peer lists exactly the paths that were sent to the peer. A
//! path keeps its path id while it exists, and no two paths of a prefix have equal path ids. Equal
//! attributes of one peer are stored once for all prefixes, and so is each exported form of these
//! attributes.

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
