use super::*;

fn policy() -> Policy {
    Policy {
        allowed_prefixes: vec!["10.1.1.0/24".parse().unwrap()],
        allowed_gateways: vec!["10.244.3.0/24".parse().unwrap()],
    }
}

/// A route of the main table as the kernel reports it.
fn reported(family: AddressFamily, kind: RouteType, attributes: &[RouteAttribute]) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.kind = kind;
    message.attributes = attributes.to_vec();
    message
}

fn default_interfaces(route: &RouteMessage) -> Vec<(IpVersion, u32)> {
    let mut interfaces = DefaultInterfaces::new();
    sort_in(route, &policy(), &mut Snapshot::default(), &mut interfaces);
    interfaces.into_iter().collect()
}

#[test]
fn interfaces_of_unicast_default_routes_are_uplinks() {
    let oif = RouteAttribute::Oif(2);
    let single = reported(AddressFamily::Inet, RouteType::Unicast, &[oif.clone()]);
    assert_eq!(default_interfaces(&single), [(IpVersion::V4, 2)]);
    let single = reported(AddressFamily::Inet6, RouteType::Unicast, &[oif]);
    assert_eq!(default_interfaces(&single), [(IpVersion::V6, 2)]);

    let hops = [2, 3].map(|interface| {
        let mut hop = RouteNextHop::default();
        hop.interface_index = interface;
        hop
    });
    let hops = RouteAttribute::MultiPath(hops.to_vec());
    let several = reported(AddressFamily::Inet, RouteType::Unicast, &[hops]);
    let both = [(IpVersion::V4, 2), (IpVersion::V4, 3)];
    assert_eq!(default_interfaces(&several), both);
}

#[test]
fn default_routes_that_drop_packets_or_lead_to_the_loopback_have_no_uplink() {
    for kind in [
        RouteType::Unreachable,
        RouteType::BlackHole,
        RouteType::Prohibit,
        RouteType::Throw,
    ] {
        for interface in [LOOPBACK, 2] {
            let attributes = [RouteAttribute::Oif(interface)];
            let route = reported(AddressFamily::Inet6, kind, &attributes);
            assert_eq!(default_interfaces(&route), [], "{kind:?}");
        }
    }
    let attributes = [RouteAttribute::Oif(LOOPBACK)];
    let route = reported(AddressFamily::Inet, RouteType::Unicast, &attributes);
    assert_eq!(default_interfaces(&route), []);
}
