//! Replacement of one nftables table in one transaction.
//!
//! A [`NftablesTable`] is a value with [`Chain`]s and [`Rule`]s; its family is `inet`.
//! [`Nftables::replace`] makes the kernel's table with the same name equal to this value. The
//! replacement is atomic: each packet meets either the old or the new rules. The comment of the
//! kernel's table contains the table's [`TableFingerprint`]. After a restart, [`Nftables::holds`]
//! compares the fingerprint, and the program writes nothing if the kernel already has the table.
//!
//! ```no_run
//! use nftables_table::{
//!     Chain, ChainType, Expression, Hook, L4Protocol, Nftables, NftablesTable, priority,
//! };
//!
//! let table = NftablesTable {
//!     name: "example".into(),
//!     chains: vec![Chain {
//!         name: "output".into(),
//!         kind: ChainType::Filter,
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
//! # Ok::<(), nftables_table::NftablesError>(())
//! ```
//!
//! Each call blocks until the kernel has answered, which takes milliseconds. Asynchronous callers
//! use a blocking task.

pub mod answer;
mod encode;
mod error;
mod expression;
mod interval;
mod model;
mod socket;

pub use error::NftablesError;
pub use model::{
    Chain, ChainType, Expression, Hook, ICMP_PORT_UNREACHABLE, ICMPV6_PORT_UNREACHABLE, L4Protocol,
    NftablesTable, Rule, TCP_RST, TableFingerprint, priority,
};
pub use netlink_socket::NETLINK_TIMEOUT;
pub use socket::Nftables;
