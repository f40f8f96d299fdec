//! Reserved address ranges, through which no remote host can be reached.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

const fn ipv4(first: u8, length: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(first, 0, 0, 0), length))
}

const fn ipv6(first: u16, mapped: u16, length: u8) -> IpNet {
    let address = Ipv6Addr::new(first, 0, 0, 0, 0, mapped, 0, 0);
    IpNet::V6(Ipv6Net::new_assert(address, length))
}

/// The ranges of special-purpose addresses (RFC 6890) and multicast addresses through which no
/// remote host can be reached.
///
/// IPv4: "this network", loopback, multicast, reserved for future use. IPv6: ::/96 (with the
/// unspecified address and loopback), IPv4-mapped, link-local, multicast. The list omits private
/// ranges, documentation ranges and 169.254.0.0/16, because clusters use their addresses.
const RESERVED: [IpNet; 8] = [
    ipv4(0, 8),
    ipv4(127, 8),
    ipv4(224, 4),
    ipv4(240, 4),
    ipv6(0, 0, 96),
    ipv6(0, 0xffff, 96),
    ipv6(0xfe80, 0, 10),
    ipv6(0xff00, 0, 8),
];

/// Returns the reserved range that contains the whole prefix. `None` if no reserved range contains
/// the whole prefix, for example for a default route.
pub fn reserved_range_of(prefix: &IpNet) -> Option<IpNet> {
    RESERVED.into_iter().find(|range| range.contains(prefix))
}

/// Returns the first reserved range that has an address in common with the prefix. A default route
/// has addresses in common with every range of its family.
pub fn overlapping_reserved_range(prefix: &IpNet) -> Option<IpNet> {
    let mut ranges = RESERVED.into_iter();
    ranges.find(|range| range.contains(prefix) || prefix.contains(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(prefix: &str, within: Option<&str>, overlapping: Option<&str>) {
        let net: IpNet = prefix.parse().unwrap();
        let parse = |text: &str| text.parse::<IpNet>().unwrap();
        assert_eq!(reserved_range_of(&net), within.map(parse), "{prefix}");
        let range = overlapping_reserved_range(&net);
        assert_eq!(range, overlapping.map(parse), "{prefix}");
    }

    #[test]
    fn a_private_or_public_unicast_prefix_is_not_reserved() {
        for prefix in [
            "1.0.0.0/8",
            "10.1.1.0/24",
            "126.255.0.0/16",
            "128.0.0.0/8",
            "169.254.1.0/24",
            "223.255.255.255/32",
            "2001:db8::/32",
            "fd00:1::/64",
            "fc00::/7",
            "64:ff9b::/96",
        ] {
            check(prefix, None, None);
        }
    }

    #[test]
    fn loopback_multicast_and_other_special_prefixes_are_reserved() {
        for (prefix, range) in [
            ("0.0.0.0/8", "0.0.0.0/8"),
            ("127.0.0.0/8", "127.0.0.0/8"),
            ("127.0.0.1/32", "127.0.0.0/8"),
            ("224.0.0.0/4", "224.0.0.0/4"),
            ("239.1.1.0/24", "224.0.0.0/4"),
            ("240.0.0.0/4", "240.0.0.0/4"),
            ("255.255.255.255/32", "240.0.0.0/4"),
            ("::1/128", "::/96"),
            ("::ffff:10.1.1.1/128", "::ffff:0:0/96"),
            ("fe80::/10", "fe80::/10"),
            ("fe80::1/128", "fe80::/10"),
            ("ff00::/8", "ff00::/8"),
            ("ff02::1/128", "ff00::/8"),
        ] {
            check(prefix, Some(range), Some(range));
        }
    }

    #[test]
    fn a_prefix_that_contains_a_reserved_range_overlaps_the_range() {
        check("0.0.0.0/0", None, Some("0.0.0.0/8"));
        check("64.0.0.0/2", None, Some("127.0.0.0/8"));
        check("224.0.0.0/3", None, Some("224.0.0.0/4"));
        check("::/0", None, Some("::/96"));
        check("fe00::/8", None, Some("fe80::/10"));
    }
}
