//! State machine of one BGP peer.
//!
//! A [`Session`] represents one peer, connected or not. The caller, which this crate calls the
//! driver, passes events to the session and performs the actions that the session returns. The
//! session itself uses no clock, no sockets and no randomness.
//!
//! A session can have two TCP connections, one that this side opened and one that the peer opened.
//! The router ids in the OPEN messages decide which connection the session keeps (RFC 4271 section
//! 6.8).
//!
//! ```text
//!             Start                    dial due                    connected
//!   ┌──────┐ ───────► ┌──────────────┐ ────────► ┌─────────────┐ ───────────┐
//!   │ Idle │          │ Active       │           │ Connect     │            │
//!   │      │ ◄─────── │ listens, may │ ◄──────── │ dials and   │            │
//!   └──────┘   Stop   │ wait to dial │  failed   │ listens     │            │
//!      ▲              └──────────────┘           └─────────────┘            ▼
//!      │ Stop, or         ▲   │ accepted               │ accepted     ┌──────────┐
//!      │ Refuse with a    │   └────────────────────────┴────────────► │ OpenSent │
//!      │ pause            │                                           └──────────┘
//!      │                  │ last connection lost                           │ OPEN received
//!      │                  │                                                ▼
//!      │                  │           ┌─────────────┐ KEEPALIVE    ┌─────────────┐
//!      └──────────────────┴────────── │ Established │ ◄─────────── │ OpenConfirm │
//!                                     └─────────────┘   received   └─────────────┘
//! ```
//!
//! Idle, Active and Connect are states of a session without a connection. OpenSent, OpenConfirm and
//! Established are states of a connection; a session with two connections reports the more advanced
//! state. "dial" means an attempt of this side to connect.
//!
//! The crate differs from RFC 4271 section 8 in one point: after an error the session changes to
//! Active instead of Idle, so that the peer can reconnect immediately. RFC 4271 delays a failing
//! session in Idle; this crate lengthens the pause between two dials instead.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod backoff;
mod cease;
mod connection;
mod error;
mod input;
mod negotiation;
mod output;
mod reason;
mod session;
mod settings;
mod status;

pub use cease::Cease;
pub use connection::{ConnectionId, Direction};
pub use error::SessionError;
pub use input::SessionInput;
pub use negotiation::{Negotiated, NegotiatedFamily};
pub use output::SessionOutput;
pub use reason::FailureReason;
pub use session::Session;
pub use settings::{InvalidSettings, OfferedFamily, SessionSettings};
pub use status::{SessionCounters, SessionState, SessionStatus};
