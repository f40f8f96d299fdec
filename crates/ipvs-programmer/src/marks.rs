//! Firewall marks of virtual servers with several ports.
//!
//! A virtual server with a port range or all ports needs a mark, because the kernel's table has no
//! key for several ports. The kernel finds the entry by the mark of a packet.

use std::collections::{BTreeMap, BTreeSet};

use virtual_server::{AddressFamily, EntryKey, Ports, VirtualServerId};

/// The upper 8 bits of every mark of this daemon. Another program in the pod is unlikely to use
/// marks with these bits.
const BASE: u32 = 0x5000_0000;
/// Number of lower bits, which distinguish the marks of this daemon.
const BITS: u32 = 24;

/// Mark of the standing entries that keep the hooks of IPVS registered. No packet has this mark.
pub const STANDING_MARK: u32 = BASE;

/// Returns a mark for each virtual server that needs a mark. The mark is a hash of the id, so that
/// it does not depend on other virtual servers and every pod uses an equal mark. If the hashes of
/// two ids are equal, the greater id gets the next free mark.
pub fn assign<'a>(
    ids: impl IntoIterator<Item = &'a VirtualServerId>,
) -> BTreeMap<VirtualServerId, u32> {
    let ids: BTreeSet<_> = ids.into_iter().filter(|id| needs_mark(id)).collect();
    let mut used = BTreeSet::from([STANDING_MARK]);
    let mut marks = BTreeMap::new();
    for id in ids {
        let mut number = hash(&id.to_string());
        while !used.insert(BASE | number) {
            number = (number + 1) % (1 << BITS);
        }
        marks.insert(*id, BASE | number);
    }
    marks
}

/// Reports whether the virtual server needs a mark, because the kernel's table has no key for its
/// ports.
pub fn needs_mark(id: &VirtualServerId) -> bool {
    match id.ports {
        Ports::Single(_) => false,
        Ports::Range(..) | Ports::All => true,
    }
}

/// Returns the key of a virtual server in the kernel's table. Returns `None` if the virtual server
/// needs a mark and `mark` is `None`.
pub fn entry_key(id: &VirtualServerId, mark: Option<u32>) -> Option<EntryKey> {
    match id.ports {
        Ports::Single(port) => Some(EntryKey::Address {
            protocol: id.protocol,
            address: id.address,
            port: port.get(),
        }),
        Ports::Range(..) | Ports::All => Some(EntryKey::FirewallMark {
            family: AddressFamily::of(id.address),
            mark: mark?,
        }),
    }
}

/// Returns the FNV-1a hash of `text`, folded to [`BITS`] bits. Unlike the standard library's
/// hasher, the result is equal in every build.
fn hash(text: &str) -> u32 {
    let hash = text.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    (hash ^ (hash >> BITS)) & ((1 << BITS) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(texts: &[String]) -> Vec<VirtualServerId> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_mark_does_not_depend_on_the_other_virtual_servers() {
        let one = ids(&["tcp/10.1.1.10:8000-8999".into()]);
        let several = ids(&[
            "tcp/10.1.1.9:*".into(),
            "tcp/10.1.1.10:8000-8999".into(),
            "udp/[fd00::1]:1-9".into(),
        ]);
        assert_eq!(assign(&one)[&one[0]], assign(&several)[&one[0]]);
        // A different number would change the marks while pods of the previous version still run.
        assert_eq!(assign(&one)[&one[0]], 0x505d_651a);
    }

    #[test]
    fn a_virtual_server_with_a_single_port_needs_no_mark() {
        assert_eq!(assign(&ids(&["tcp/10.1.1.10:80".into()])), BTreeMap::new());
    }

    #[test]
    fn each_virtual_server_has_a_unique_mark() {
        // Enough ids that some of their 24-bit hashes are equal.
        let ids = ids(&(0..20_000_u32)
            .map(|n| format!("tcp/10.1.{}.{}:*", n / 256, n % 256))
            .collect::<Vec<_>>());
        let marks = assign(&ids);
        let hashes: BTreeSet<_> = ids.iter().map(|id| hash(&id.to_string())).collect();
        let distinct: BTreeSet<_> = marks.values().collect();
        assert!(hashes.len() < ids.len());
        assert_eq!(distinct.len(), ids.len());
        assert!(
            marks
                .values()
                .all(|mark| mark & 0xff00_0000 == BASE && *mark != STANDING_MARK)
        );
    }
}
