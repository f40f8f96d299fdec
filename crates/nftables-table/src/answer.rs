//! Decoder for the kernel's answers.

use netlink_bindings::nftables::{OpGetchainDump, OpGettableDo};
use netlink_bindings::traits::NetlinkRequest;
use netlink_socket::ReceivedMessage;

use crate::{TableFingerprint, encode};

/// A chain in an answer of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportedChain {
    /// Name of the table of this chain. The name can be invalid UTF-8.
    pub table: Vec<u8>,
    /// Name of the chain. Octets that are invalid UTF-8 are replaced by U+FFFD.
    pub name: String,
    /// Number of rules in the chain. The kernel reports how often a chain is used. If the chain is
    /// attached to a hook, only its rules count as uses.
    pub rules: usize,
}

/// Returns the fingerprint in the comment of a table. Returns `TableFingerprint(0)` for a table
/// that this crate did not write.
pub fn fingerprint(message: &ReceivedMessage<'_>) -> TableFingerprint {
    let (_, attributes) = OpGettableDo::decode_reply(message.payload);
    let fingerprint = attributes
        .get_userdata()
        .ok()
        .and_then(encode::fingerprint_in);
    fingerprint.unwrap_or(TableFingerprint(0))
}

/// Returns the chain that a message describes. Returns `None` for a message without a chain.
pub fn chain(message: &ReceivedMessage<'_>) -> Option<ReportedChain> {
    let (_, attributes) = OpGetchainDump::decode_reply(message.payload);
    Some(ReportedChain {
        table: attributes.get_table().ok()?.to_bytes().to_vec(),
        name: attributes.get_name().ok()?.to_string_lossy().into_owned(),
        rules: attributes.get_use().unwrap_or(0) as usize,
    })
}
