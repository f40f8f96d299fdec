//! One BGP peer's state machine: input in, actions out. Pure: no clock, no IO, no randomness.
//!
//! A [`Session`] stands for a configured peer, whether it is connected or not. Up to two TCP
//! connections belong to it, one that this side opened and one that the peer opened, until their
//! OPEN messages tell which of them stays (RFC 4271 section 6.8).
//!
//! ```text
//!             Start                    dial due                    connected
//!   ┌──────┐ ───────► ┌──────────────┐ ────────► ┌─────────────┐ ───────────┐
//!   │ Idle │          │ Active       │           │ Connect     │            │
//!   │      │ ◄─────── │ listens, may │ ◄──────── │ dials and   │            │
//!   └──────┘   Stop   │ wait to dial │  failed   │ listens     │            │
//!      ▲              └──────────────┘           └─────────────┘            ▼
//!      │ Stop, or         ▲   │ accepted               │ accepted     ┌──────────┐
//!      │ Fail with a      │   └────────────────────────┴────────────► │ OpenSent │
//!      │ pause            │                                           └──────────┘
//!      │                  │ last connection lost                           │ OPEN received
//!      │                  │                                                ▼
//!      │                  │           ┌─────────────┐ KEEPALIVE    ┌─────────────┐
//!      └──────────────────┴────────── │ Established │ ◄─────────── │ OpenConfirm │
//!                                     └─────────────┘   received   └─────────────┘
//! ```
//!
//! The first line of states is the session's, the second that of each connection; the session
//! shows the furthest of them. It differs from RFC 4271 section 8 in this: after an error the
//! session goes to Active instead of Idle, so that a peer that comes back at once is let in. What
//! a delay in Idle is to damp there, the growing pause between dials damps here.

#![warn(missing_docs)]

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
pub use input::Input;
pub use negotiation::{Negotiated, NegotiatedFamily};
pub use output::Output;
pub use reason::FailureReason;
pub use session::Session;
pub use settings::{FamilySettings, InvalidSettings, Settings};
pub use status::{Counters, SessionState, Status};
