//! What the kernel's answers say. Pure.

use netlink_bindings::nftables::{OpGetchainDump, OpGettableDo};
use netlink_bindings::traits::NetlinkRequest;
use netlink_socket::Message;

use crate::{Fingerprint, encode};

/// A chain as the kernel reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportedChain {
    /// Name of the table that the chain belongs to, which need not be UTF-8.
    pub table: Vec<u8>,
    /// Name of the chain; octets that are not UTF-8 are replaced.
    pub name: String,
    /// The kernel counts a chain's uses, which for a chain on a hook are its rules.
    pub rules: usize,
}

/// Returns the fingerprint in a table; 0 in a table that this crate did not make.
pub fn fingerprint(message: &Message<'_>) -> Fingerprint {
    let (_, attributes) = OpGettableDo::decode_reply(message.payload);
    let found = attributes
        .get_userdata()
        .ok()
        .and_then(encode::fingerprint_in);
    found.unwrap_or(Fingerprint(0))
}

/// Returns the chain in a message; `None` for a message without one.
pub fn chain(message: &Message<'_>) -> Option<ReportedChain> {
    let (_, attributes) = OpGetchainDump::decode_reply(message.payload);
    Some(ReportedChain {
        table: attributes.get_table().ok()?.to_bytes().to_vec(),
        name: attributes.get_name().ok()?.to_string_lossy().into_owned(),
        rules: attributes.get_use().unwrap_or(0) as usize,
    })
}
