//! Which addresses can be a next hop beyond the link that they come from.

use std::net::IpAddr;

use bgp_packet::{IpNet, reserved_range_of};

/// Whether other hosts reach the address: RFC 4271 section 6.3, RFC 2545 section 3.
///
/// FRR ends its session over a next hop that does not qualify, so that none is reflected.
pub fn is_reachable_unicast(address: IpAddr) -> bool {
    reserved_range_of(&IpNet::from(address)).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(addresses: &[&str], expected: bool) {
        for address in addresses {
            let found = is_reachable_unicast(address.parse().unwrap());
            assert_eq!(found, expected, "{address}");
        }
    }

    #[test]
    fn an_address_that_other_hosts_reach_can_be_a_next_hop() {
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
    fn an_address_of_another_scope_cannot_be_a_next_hop() {
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
