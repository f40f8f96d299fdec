//! Sockets and timers that drive BGP sessions and one RIB.
//!
//! ```text
//!   listener ──────┐ accepted                   ┌──────────────────────────┐
//!   dial ──────────┤ dialled                    │ owner                    │ ◄─── SpeakerHandle
//!   connection ────┼──────────► events ────────►│  Rib                     │      (commands)
//!   connection ────┘ messages,   (bounded)      │  a Session for each peer │
//!       ▲            "written"                  └──────────────────────────┘
//!       └────────────────────── orders (bounded) ──────────┘
//! ```
//!
//! One task owns all state. `owner` takes its events and commands (`messages`), `sessions` drives the
//! sessions, and each part of both owns its own state: `peer`, `connections`, `deadlines`, `observe`,
//! `journal`, `admit`, `revisions`. A connection task reads, decodes, encodes and writes for one TCP
//! connection, and knows nothing else.
//!
//! **Invariants.** Output is pulled: a connection is given the next updates of its peer only after
//! the last ones have been written to its socket. Changes therefore leave at once when the peer
//! keeps up, and coalesce in the RIB when it doesn't; no queue grows with either. The owner never
//! waits for a connection, while connections wait for the owner: what is not taken in time stays
//! in the peer's socket. The owner takes at most one share of a bounded number of messages and
//! prefixes from each connection in a turn, so a peer that floods delays the others by its share.

#![warn(missing_docs)]

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// Logs at WARN if the first argument is true, otherwise at DEBUG. The caller passes true once, so
/// that a peer cannot flood the log.
macro_rules! warn_once {
    ($is_due:expr, $($fields:tt)*) => {
        if $is_due {
            tracing::warn!(repetitions = "at level debug", $($fields)*);
        } else {
            tracing::debug!($($fields)*);
        }
    };
}

mod admission;
mod admit;
mod config;
mod connection;
mod connections;
mod counters;
mod deadlines;
mod handle;
mod journal;
mod listener_keys;
mod md5_key;
mod messages;
mod observe;
mod owner;
mod path_list;
mod peer;
mod reconfigure;
mod refused_sessions;
mod revisions;
mod session_log;
mod sessions;
mod socket;
mod speaker;
mod status;

pub use config::{
    Configuration, GroupConfig, InvalidConfiguration, PeerConfig, SessionConfig, SpeakerConfig,
};
pub use counters::{Counter, ReasonCounters, SpeakerCounters};
pub use handle::{Changes, ChangesEnded, SpeakerGone, SpeakerHandle};
pub use md5_key::{Md5Key, Md5KeyError};
pub use observe::Change;
#[cfg(any(test, fuzzing))]
pub use owner::simulation;
pub use path_list::{InvalidPathName, PathName, PathQuery, PathStatus, Table};
pub use refused_sessions::RefusedSession;
pub use socket::ListenError;
pub use speaker::{Speaker, SpeakerError};
pub use status::PeerStatus;
