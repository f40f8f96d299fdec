//! The way to the API server: credentials, errors with their remedy, and one list and watch.

#![warn(missing_docs)]

pub mod client;
pub mod grant;
pub mod metrics;
pub mod watch;
