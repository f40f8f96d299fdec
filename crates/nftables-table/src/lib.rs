//! Replaces one nftables table as a whole, in one transaction, and reads whether the kernel holds
//! the table that is wanted.
//!
//! A table is a value: [`Table`], its [`Chain`]s, their [`Rule`]s. Its family is `inet`. [`Nftables::replace`] makes the
//! kernel's table of that name equal to it; no packet sees a moment without the old or the new
//! rules. The kernel keeps the table's [`Fingerprint`] as the table's comment, so that
//! [`Nftables::holds`] tells a later run whether there is anything to do.
//!
//! ```no_run
//! use nftables_table::{Chain, Expression, Hook, Kind, L4Protocol, Nftables, Table, priority};
//!
//! let table = Table {
//!     name: "example".into(),
//!     chains: vec![Chain {
//!         name: "output".into(),
//!         kind: Kind::Filter,
//!         hook: Hook::Output,
//!         priority: priority::FILTER,
//!         rules: vec![vec![
//!             Expression::Destination("10.1.1.0/24".parse().expect("a prefix")),
//!             Expression::Protocol(L4Protocol::Sctp),
//!             Expression::Drop,
//!         ]],
//!     }],
//! };
//! let mut nftables = Nftables::open()?;
//! if !nftables.holds(&table)? {
//!     nftables.replace(&table)?;
//! }
//! # Ok::<(), nftables_table::Error>(())
//! ```
//!
//! The calls block for as long as the kernel needs, milliseconds at most; asynchronous callers use
//! a blocking task.

#![warn(missing_docs)]

pub mod answer;
mod encode;
mod error;
mod expression;
mod interval;
mod model;
mod socket;

pub use error::Error;
pub use model::{
    Chain, Expression, Fingerprint, Hook, ICMP_PORT_UNREACHABLE, ICMPV6_PORT_UNREACHABLE, Kind,
    L4Protocol, Rule, TCP_RST, Table, priority,
};
pub use netlink_socket::NETLINK_TIMEOUT;
pub use socket::Nftables;
