//! The parts that all daemons share.
//!
//! Flags, logs, task supervision, readiness, metrics, gRPC and HTTP servers, published state:
//!
//! ```text
//!  main.rs ── parse() ── run(): logs, configuration, runtime
//!                            │
//!                            ▼
//!                        Daemon ── spawn()                task that runs until the process exits
//!                            ├──── spawn_until_stopped()  task that can be dropped at any time
//!                            ├──── spawn_until_drained()  task that ends after a drain request
//!                            ├──── serve_grpc()           contract + health + reflection
//!                            └──── serve_http()           /metrics /healthz /readyz
//! ```
//!
//! The first SIGTERM or SIGINT requests a drain. When every task of `spawn_until_drained()`
//! has ended, or the deadline of the drain has passed, or a second signal arrives, the servers stop
//! and the process exits. SIGHUP changes nothing unless a daemon listens for it. A task that ends
//! before the drain request stops the process with an error.

mod accept;
mod args;
mod authority;
mod backoff;
mod build_info;
pub mod config_file;
mod connection_slots;
mod daemon;
mod error_chain;
mod grpc;
mod grpc_connection;
mod http;
mod listen;
mod log;
mod metrics;
mod metrics_format;
mod open_streams;
mod published;
mod readiness;
mod run;
mod server_metrics;
mod shutdown;
mod sleep_watch;
mod startup;
mod target;
mod unix_socket;

pub use args::{CommonArgs, Defaults, LogFormat, parse};
pub use backoff::{Backoff, GracePeriod, LONGEST_RETRY, longest_retry};
pub use bounded_io::{TIME_AFTER_SLEEP, has_slept, timeout_after_poll, wait_until};
pub use config_text::{parse_duration, parse_prefix};
pub use daemon::{Daemon, DaemonError};
pub use error_chain::error_chain;
pub use grpc::GrpcContract;
pub use listen::{ListenAddress, listen_address};
pub use metrics::{Counter, Family, Gauge, Histogram, Labels, Metrics};
pub use published::{
    KEPT_REMOVALS, MOST_WATCHES, PublishedEvent, PublishedSnapshot, Publisher, Reader,
    Subscription, WatchEnded,
};
pub use readiness::{Readiness, ReadinessStep};
pub use run::{ConfigError, run};
pub use shutdown::Shutdown;
pub use sleep_watch::SleepWatch;
pub use target::{CONNECT_TIMEOUT, GrpcTarget};
pub use unix_socket::SocketPermissions;

pub(crate) use build_info::VERSION;
pub(crate) use listen::Listener;

/// Runs the example in the README as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
