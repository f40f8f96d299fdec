//! What both BGP daemons show of their speaker: messages of `portlb.bgp.v1`, and a metric.

#![warn(missing_docs)]

mod messages;
mod refused_sessions;

pub use messages::{path, refused_session, session};
pub use refused_sessions::SessionsRefused;
