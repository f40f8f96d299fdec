//! The kernel's answers from octets. Pure.

use netlink_bindings::nftables::{OpGetchainDump, OpGettableDo};
use netlink_bindings::traits::NetlinkRequest;
use nix::errno::Errno;

use crate::{Fingerprint, encode};

/// Octets of a netlink header.
pub(crate) const HEADER_LEN: usize = 16;

/// Type of a message with an error number, or of an acknowledgement.
pub const NLMSG_ERROR: u16 = 2;
/// Type of the last message of an answer in parts.
pub const NLMSG_DONE: u16 = 3;

const NLM_F_DUMP_INTR: u16 = 0x10;

/// A received message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// What the payload is.
    pub message_type: u16,
    flags: u16,
    /// The number of the request that this message answers.
    pub sequence: u32,
    /// All that is behind the header.
    pub payload: &'a [u8],
}

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

/// Returns the messages of a datagram, up to the first that is cut short.
pub fn messages(mut rest: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let (header, _) = rest.split_first_chunk::<HEADER_LEN>()?;
        let number = |at: usize| {
            u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let len = number(0) as usize;
        let payload = rest.get(HEADER_LEN..len)?;
        let message = Message {
            message_type: u16::from_ne_bytes([header[4], header[5]]),
            flags: u16::from_ne_bytes([header[6], header[7]]),
            sequence: number(8),
            payload,
        };
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

impl Message<'_> {
    /// Reports whether what is read has changed since the answer began.
    pub fn is_interrupted(&self) -> bool {
        self.flags & NLM_F_DUMP_INTR != 0
    }

    /// Returns the error number of an `NLMSG_ERROR`; 0 for an acknowledgement.
    pub fn errno(&self) -> i32 {
        match self.payload {
            [a, b, c, d, ..] => i32::from_ne_bytes([*a, *b, *c, *d]).saturating_neg(),
            _ => Errno::EBADMSG as i32,
        }
    }

    /// Returns the fingerprint in a table; 0 in a table that this crate did not make.
    pub fn fingerprint(&self) -> Fingerprint {
        let (_, attributes) = OpGettableDo::decode_reply(self.payload);
        let found = attributes
            .get_userdata()
            .ok()
            .and_then(encode::fingerprint_in);
        found.unwrap_or(Fingerprint(0))
    }

    /// Returns the chain in a message; `None` for a message without one.
    pub fn chain(&self) -> Option<ReportedChain> {
        let (_, attributes) = OpGetchainDump::decode_reply(self.payload);
        Some(ReportedChain {
            table: attributes.get_table().ok()?.to_bytes().to_vec(),
            name: attributes.get_name().ok()?.to_string_lossy().into_owned(),
            rules: attributes.get_use().unwrap_or(0) as usize,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_of_an_interrupted_dump_is_read_from_the_header() {
        let datagram = |flags: u16| {
            let mut datagram = Vec::new();
            datagram.extend((HEADER_LEN as u32).to_ne_bytes());
            datagram.extend(NLMSG_DONE.to_ne_bytes());
            datagram.extend(flags.to_ne_bytes());
            datagram.extend([0; 8]);
            datagram
        };
        let is_interrupted = |flags| messages(&datagram(flags)).next().unwrap().is_interrupted();
        assert!(is_interrupted(NLM_F_DUMP_INTR | 0x2));
        assert!(!is_interrupted(0x2));
    }
}
