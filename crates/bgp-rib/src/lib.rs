//! Adj-RIB-In, Loc-RIB, Adj-RIB-Out, decision process, reflection rules, policy. Pure: no clock,
//! no IO.
//!
//! ```text
//!  receive ─► import policy ─► Adj-RIB-In ─► decision process ─► Loc-RIB
//!  originate ────────────────────┘                                  │ changed keys
//!                                      take_pending ◄─ export ◄─ Adj-RIB-Out of each peer
//! ```
//!
//! The output is pulled: a change only marks a key in each peer's queue, and what is sent is
//! derived from the Loc-RIB when the peer has room for it. Changes that a slow peer has not seen
//! therefore coalesce, and its queue never outgrows the table.
//!
//! **Invariants.** What a peer has been sent is exactly what its Adj-RIB-Out lists. A path keeps
//! its path id for as long as it lives, and no two paths of a prefix share one. Attributes are
//! stored once for all prefixes that one peer announces with them, and so is each form in which
//! they leave.

#![warn(missing_docs)]

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
pub use peer::{FamilySettings, LocalAddresses, PeerId, PeerKind, PeerSettings, RibConfig, Source};
pub use policy::{
    ExportPolicy, ImportPolicy, InvalidPrefixRule, MaximumPathsAction, PrefixFilter, PrefixRule,
    RejectReason, UnknownAttributes,
};
pub use receive::{MaximumPathsExceeded, NextHopFamilyMismatch, ReceiveOutcome};
pub use rib::Rib;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
