//! Check whether an address can be the next hop of a path.

use std::net::IpAddr;

use bgp_packet::{IpNet, reserved_range_of};

/// Reports whether the address lies outside of the ranges that other hosts cannot reach, such as
/// loopback, multicast and link-local IPv6 (RFC 4271 section 6.3, RFC 2545 section 3).
///
/// A path is rejected if its next hop lies within one of these ranges, because FRR ends the session
/// when it receives such a next hop.
pub fn is_reachable_unicast(address: IpAddr) -> bool {
    reserved_range_of(&IpNet::from(address)).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(addresses: &[&str], expected: bool) {
        for address in addresses {
            let actual = is_reachable_unicast(address.parse().unwrap());
            assert_eq!(actual, expected, "{address}");
        }
    }

    #[test]
    fn a_unicast_address_that_other_hosts_can_reach_is_a_valid_next_hop() {
        check(
            &[
                "1.0.0.1",
                "10.0.0.1",
                "100.64.0.1",
                "126.255.255.255",
                "128.0.0.1",
                "169.254.0.1",
                "192.0.2.1",
                "223.255.255.255",
                "2001:db8::1",
                "fd00::1",
                "64:ff9b::a00:1",
                "fe7f::1",
                "fec0::1",
            ],
            true,
        );
    }

    #[test]
    fn a_loopback_link_local_multicast_or_reserved_address_is_not_a_valid_next_hop() {
        check(
            &[
                "0.0.0.0",
                "0.255.255.255",
                "127.0.0.1",
                "127.255.255.255",
                "224.0.0.1",
                "239.255.255.255",
                "240.0.0.1",
                "255.255.255.255",
                "::",
                "::1",
                "::a00:1",
                "::ffff:10.0.0.1",
                "fe80::1",
                "febf::1",
                "ff02::1",
                "ff0e::1",
            ],
            false,
        );
    }
}
