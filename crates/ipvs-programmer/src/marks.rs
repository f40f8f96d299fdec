//! Firewall marks that stand for the ports of virtual servers that the kernel's table cannot hold
//! by themselves: ranges, and all ports. Pure.

use std::collections::{BTreeMap, BTreeSet};

use virtual_server::{AddressFamily, EntryKey, Ports, VirtualServerId};

/// Our marks have these upper bits; a mark of another program in the pod is hardly like that.
const BASE: u32 = 0x5000_0000;
/// The lower bits tell our marks apart.
const BITS: u32 = 24;

/// Mark of the standing entries that keep IPVS's hooks registered. No packet carries it.
pub const STANDING_MARK: u32 = BASE;

/// A mark for each virtual server that needs one: a hash of its id, so that it does not depend on
/// the others and is the same on every pod. Where two hashes meet, the later id takes the next
/// free number.
pub fn assign<'a>(
    ids: impl IntoIterator<Item = &'a VirtualServerId>,
) -> BTreeMap<VirtualServerId, u32> {
    let ids: BTreeSet<_> = ids.into_iter().filter(|id| needs_mark(id)).collect();
    let mut taken = BTreeSet::from([STANDING_MARK]);
    let mut marks = BTreeMap::new();
    for id in ids {
        let mut number = hash(&id.to_string());
        while !taken.insert(BASE | number) {
            number = (number + 1) % (1 << BITS);
        }
        marks.insert(*id, BASE | number);
    }
    marks
}

/// Whether the kernel's table has no key for these ports.
pub fn needs_mark(id: &VirtualServerId) -> bool {
    match id.ports {
        Ports::Single(_) => false,
        Ports::Range(..) | Ports::All => true,
    }
}

/// The key of a virtual server in the kernel's table; `None` if it needs a mark and has none.
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

/// FNV-1a, folded: short, and the same in every build, unlike the standard library's hasher.
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
        // Another number would change the mark under running pods of the version before.
        assert_eq!(assign(&one)[&one[0]], 0x505d_651a);
    }

    #[test]
    fn a_single_port_needs_no_mark() {
        assert_eq!(assign(&ids(&["tcp/10.1.1.10:80".into()])), BTreeMap::new());
    }

    #[test]
    fn no_two_virtual_servers_share_a_mark() {
        // Enough for some hashes of 24 bits to meet.
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
