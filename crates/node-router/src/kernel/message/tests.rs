use super::*;

fn policy() -> Policy {
    Policy {
        allowed_prefixes: vec!["10.1.1.0/24".parse().unwrap()],
        allowed_gateways: vec!["10.244.3.0/24".parse().unwrap()],
    }
}

/// Returns a route of the main table in the form in which the kernel reports it.
fn reported(family: AddressFamily, kind: RouteType, attributes: &[RouteAttribute]) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.kind = kind;
    message.attributes = attributes.to_vec();
    message
}

fn interfaces_of(routes: &[RouteMessage]) -> RouteInterfaces {
    let mut foreign_routes = ForeignRoutes::default();
    for route in routes {
        add_foreign_route(route, &policy(), &mut foreign_routes);
    }
    foreign_routes.interfaces
}

fn default_interfaces(route: &RouteMessage) -> Vec<(IpVersion, u32)> {
    let interfaces = interfaces_of(std::slice::from_ref(route));
    interfaces.of_default_routes.into_iter().collect()
}

/// Returns an IPv4 route of the main table, with or without a router.
fn ipv4(destination: &str, interface: u32, router: Option<&str>) -> RouteMessage {
    let destination: Ipv4Net = destination.parse().unwrap();
    let mut attributes = vec![RouteAttribute::Oif(interface)];
    if destination.prefix_len() > 0 {
        let address = RouteAddress::Inet(destination.addr());
        attributes.push(RouteAttribute::Destination(address));
    }
    let router = router.map(|router| RouteAddress::Inet(router.parse().unwrap()));
    attributes.extend(router.map(RouteAttribute::Gateway));
    let mut message = reported(AddressFamily::Inet, RouteType::Unicast, &attributes);
    message.header.destination_prefix_length = destination.prefix_len();
    message
}

/// Checks which interfaces lead to the pods in 10.244.3.0/24.
#[track_caller]
fn check_of_pods(routes: &[RouteMessage], expected: &[u32]) {
    let pod_interfaces = interfaces_of(routes).pod_interfaces(&policy());
    assert_eq!(pod_interfaces.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn interfaces_of_direct_routes_within_the_pod_range_lead_to_pods() {
    let default = ipv4("0.0.0.0/0", 2, Some("10.0.0.1"));
    let pods = ipv4("10.244.3.0/24", 3, None);
    check_of_pods(&[default.clone(), pods.clone()], &[3]);
    let other_node = ipv4("10.244.3.128/25", 2, Some("10.0.0.9"));
    check_of_pods(&[default.clone(), pods.clone(), other_node], &[3]);
    // The prefix of the nodes contains the range of the pods.
    let nodes = ipv4("10.0.0.0/8", 2, None);
    check_of_pods(&[default.clone(), nodes, pods], &[3]);
    let single = [
        ipv4("10.244.3.7/32", 4, None),
        ipv4("10.244.3.8/32", 5, None),
    ];
    check_of_pods(&single, &[4, 5]);
    check_of_pods(&[default, ipv4("10.245.0.0/16", 2, None)], &[]);
}

#[test]
fn the_interface_of_the_longest_direct_route_that_contains_the_pod_range_leads_to_pods() {
    let nodes = ipv4("10.244.0.0/16", 2, None);
    check_of_pods(&[nodes.clone(), ipv4("10.0.0.0/8", 3, None)], &[2]);
    check_of_pods(&[ipv4("0.0.0.0/0", 4, None)], &[4]);
    check_of_pods(&[ipv4("0.0.0.0/0", 4, None), nodes], &[2]);
}

#[test]
fn interfaces_of_unicast_default_routes_are_uplinks() {
    let oif = RouteAttribute::Oif(2);
    let single = reported(
        AddressFamily::Inet,
        RouteType::Unicast,
        std::slice::from_ref(&oif),
    );
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
fn a_default_route_that_drops_packets_or_uses_the_loopback_interface_has_no_uplink() {
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

#[test]
fn the_kernels_route_to_a_prefix_shows_whether_a_foreign_route_wins() {
    let prefix: IpNet = "10.1.1.0/24".parse().unwrap();
    let check = |route: &RouteMessage, expected: Winner| {
        assert_eq!(winner(prefix, route), expected, "{route:?}");
    };
    let mut route = ipv4("10.1.1.0/24", 2, Some("192.0.2.9"));
    route.header.protocol = RouteProtocol::Static;
    let foreign = ForeignRoute {
        prefix,
        metric: 0,
        is_local: false,
        protocol: RouteProtocol::Static.to_string(),
    };
    check(&route, Winner::Foreign(foreign));
    let mut own = route.clone();
    own.header.protocol = RouteProtocol::from(PROTOCOL);
    check(&own, Winner::NoForeign);
    route.header.table = 100;
    check(&route, Winner::Unknown);
    check(&ipv4("0.0.0.0/0", 2, Some("192.0.2.1")), Winner::NoForeign);
    check(&ipv4("10.1.1.0/32", 2, None), Winner::Unknown);
}

#[test]
fn interfaces_of_relevant_foreign_routes_are_recorded() {
    let mut foreign_routes = ForeignRoutes::default();
    for route in [
        ipv4("0.0.0.0/0", 2, Some("192.0.2.1")),
        ipv4("10.1.1.128/25", 3, Some("192.0.2.9")),
        ipv4("10.244.3.0/24", 4, None),
        ipv4("10.99.0.0/16", 5, None),
    ] {
        add_foreign_route(&route, &policy(), &mut foreign_routes);
    }
    assert_eq!(foreign_routes.links, [2, 3, 4].into());
}

/// The fuzz target `message` found this case.
#[test]
fn a_route_with_an_invalid_prefix_length_is_not_a_default_route() {
    let mut route = ipv4("10.244.3.0/24", 3, None);
    route.header.destination_prefix_length = 123;
    assert_eq!(interfaces_of(&[route]), RouteInterfaces::default());
}
