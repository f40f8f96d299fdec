//! BGP speaker: TCP connections, sessions and one RIB.
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
//! One task, the owner, owns all state. The module `owner` receives events and commands (defined in
//! `messages`), and `sessions` drives the sessions. The modules `peer`, `connections`, `deadlines`,
//! `observe`, `journal`, `admit` and `revisions` each own one part of the state. A connection task
//! reads, decodes, encodes and writes the messages of one TCP connection.
//!
//! **Invariants.** A connection gets the next updates for its peer only after it has written the
//! previous updates to its socket. A peer that reads fast gets each change immediately. For a peer
//! that reads slowly, changes coalesce in the RIB, so that no queue grows. The owner never waits
//! for a connection. A connection waits for the owner, and meanwhile the messages of its peer stay
//! in the receive buffer of the kernel. In one turn the owner takes at most one share, a bounded
//! number of messages and prefixes, from each connection. In each turn, a peer that sends too many
//! messages therefore delays the other peers only by the duration of one share.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// Logs at WARN if the first argument is true, otherwise at DEBUG. The caller passes true only for
/// the first of several similar events, so that a peer cannot flood the log.
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
pub use counters::{ReasonCounters, SpeakerCounter, SpeakerCounters};
pub use handle::{ChangesEnded, SpeakerChanges, SpeakerEnded, SpeakerHandle};
pub use md5_key::{Md5Key, Md5KeyError};
pub use observe::SpeakerChange;
#[cfg(any(test, fuzzing))]
pub use owner::simulation;
pub use path_list::{InvalidPathName, PathName, PathQuery, PathStatus, PathTable};
pub use refused_sessions::RefusedSession;
pub use socket::ListenError;
pub use speaker::{BgpSpeaker, SpeakerError};
pub use status::PeerStatus;
