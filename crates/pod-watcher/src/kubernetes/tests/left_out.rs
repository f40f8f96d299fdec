//! Tests of endpoints that are left out, and of findings about Services.

use expect_test::expect;

use super::*;
use service_catalog::left_out::LeftOutReason;

const NAMED: &str = "  ports: [{name: http, port: 80}, {name: metrics, port: 9090}]\n";

/// Returns the number of endpoints that are left out for each reason. Omits the reasons for which
/// no endpoint is left out.
fn counts(settings: CatalogSettings, manifests: &str) -> Vec<(LeftOutReason, usize)> {
    let mut catalog = Catalog::new(settings);
    feed(&mut catalog, manifests);
    render::of(&mut catalog);
    let counts = catalog.counts().left_out;
    counts.iter().filter(|(_, count)| *count > 0).collect()
}

#[test]
fn a_slice_without_the_port_of_the_service_gives_a_finding() {
    let manifests = [
        service("web", "", NAMED),
        slice("web", "a", "{name: http, port: 80}", &["10.0.2.3"]),
        slice(
            "web",
            "b",
            "{name: web, port: 80}, {name: http, port: 80, protocol: UDP}",
            &["10.0.2.4"],
        ),
    ]
    .concat();
    assert_eq!(
        counts(settings(), &manifests),
        [(LeftOutReason::PortNotInSlice, 2)]
    );
    check(
        settings(),
        &manifests,
        expect![[r#"
            virtualServers:
            - name: shop/web:http
              addresses: [10.1.1.10]
              ports: [80]
              realServers:
              - address: 10.0.2.3
            - name: shop/web:metrics
              addresses: [10.1.1.10]
              ports: [9090]
              realServers: []
            # shop/web: Warning EndpointsLeftOut: 2 endpoints are left out, such as 10.0.2.4 is in a slice without the port http of tcp, which the Service has (the slice lists the port web of tcp and the port http of udp); give the port in the slice the name and protocol of the Service's port, or write the annotation portlb.io/ports
            # shop/web: Warning NoUsableEndpoint: tcp/10.1.1.10:9090 has endpoints, but none of the endpoints can be used: 10.0.2.3 is in a slice without the port metrics of tcp, which the Service has (the slice lists the port http of tcp); give the port in the slice the name and protocol of the Service's port, or write the annotation portlb.io/ports
        "#]],
    );
}

#[test]
fn endpoints_of_a_slice_without_ports_are_left_out() {
    let of_ports = |ports: &str| {
        let slice = slice("web", "a", "", &["10.0.2.3"]).replace("ports: []", ports);
        [service("web", "", PORT_80), slice].concat()
    };
    let left_out = [(LeftOutReason::PortNotInSlice, 1)];
    assert_eq!(counts(settings(), &of_ports("ports: []")), left_out);
    check(
        settings(),
        &of_ports("ports: null"),
        expect![[r#"
            virtualServers:
            - name: shop/web
              addresses: [10.1.1.10]
              ports: [80]
              realServers: []
            # shop/web: Warning EndpointsLeftOut: an endpoint is left out: 10.0.2.3 is in a slice without the unnamed port of tcp, which the Service has (the slice lists no port); give the port in the slice the name and protocol of the Service's port, or write the annotation portlb.io/ports
            # shop/web: Warning NoUsableEndpoint: tcp/10.1.1.10:80 has endpoints, but none of the endpoints can be used: 10.0.2.3 is in a slice without the unnamed port of tcp, which the Service has (the slice lists no port); give the port in the slice the name and protocol of the Service's port, or write the annotation portlb.io/ports
        "#]],
    );
}

#[test]
fn endpoints_of_a_slice_without_ports_are_served_at_the_ports_of_the_annotation() {
    let ranges = "portlb.io/ports: 8000-8999, portlb.io/health-check: none";
    let slice = slice("web", "a", "", &["10.0.2.3"]).replace("ports: []", "ports: null");
    let manifests = [service("web", ranges, PORT_80), slice].concat();
    assert_eq!(counts(settings(), &manifests), []);
    check(
        settings(),
        &manifests,
        expect![[r#"
        virtualServers:
        - name: shop/web
          addresses: [10.1.1.10]
          ports: [8000-8999]
          healthCheck: {kind: none}
          realServers:
          - address: 10.0.2.3
    "#]],
    );
}

#[test]
fn a_second_address_of_an_endpoint_gives_a_finding() {
    let slice = slice("web", "a", ON_80, &["10.0.2.3", "10.0.2.4"])
        .replace("['10.0.2.3']", "['10.0.2.3', '10.0.2.5', '10.0.2.6']");
    let manifests = [service("web", "", PORT_80), slice].concat();
    assert_eq!(
        counts(settings(), &manifests),
        [(LeftOutReason::FurtherAddress, 2)]
    );
    check(
        settings(),
        &manifests,
        expect![[r#"
        virtualServers:
        - name: shop/web
          addresses: [10.1.1.10]
          ports: [80]
          realServers:
          - address: 10.0.2.3
          - address: 10.0.2.4
        # shop/web: Warning EndpointsLeftOut: 2 endpoints are left out, such as 10.0.2.5 is a second or further address of its endpoint, and only the first address is used; list the endpoint once for each address
    "#]],
    );
}

#[test]
fn each_reason_to_leave_endpoints_out_gives_one_finding_and_is_not_counted_after_its_end() {
    let mut settings = settings();
    settings
        .service_ranges
        .insert("10.1.1.0/24".parse().unwrap());
    let mut catalog = Catalog::new(settings);
    let mut watcher = TestWatcher::default();
    let endpoints = ["10.0.2.3", "10.1.1.7", "10.1.1.8", "127.0.0.1"];
    feed(&mut catalog, &service("web", "", PORT_80));
    feed(&mut catalog, &slice("web", "a", ON_80, &endpoints));
    feed(&mut catalog, &slice("web", "b", "", &["10.0.2.9"]));
    watcher.take(&mut catalog);
    expect![[r#"
        Warning EndpointsLeftOut: 2 endpoints are left out, such as 10.1.1.7 lies within the service range 10.1.1.0/24, so packets to it would not leave the load balancer
        Warning EndpointsLeftOut: an endpoint is left out: 10.0.2.9 is in a slice without the unnamed port of tcp, which the Service has (the slice lists no port); give the port in the slice the name and protocol of the Service's port, or write the annotation portlb.io/ports
        Warning EndpointsLeftOut: an endpoint is left out: 127.0.0.1 is a loopback address, which is valid only within a host; write a unicast address that is routed, such as 10.1.1.10 or fd00::10"#]].assert_eq(&watcher.findings("web").join("\n"));
    let counts = |catalog: &Catalog| {
        let counts = catalog.counts().left_out;
        counts.iter().map(|(_, count)| count).sum::<usize>()
    };
    assert_eq!(counts(&catalog), 4);
    feed(&mut catalog, &slice("web", "a", ON_80, &["10.0.2.3"]));
    watcher.take(&mut catalog);
    assert_eq!(counts(&catalog), 1);
    catalog.handle(CatalogInput::ServiceDeleted(ObjectKey::new("shop", "web")));
    watcher.take(&mut catalog);
    assert_eq!(counts(&catalog), 0);
}

#[test]
fn a_service_address_whose_endpoints_are_all_of_the_other_family_gives_a_finding() {
    let families = "  ipFamilies: [IPv4, IPv6]\n  ports: [{port: 80}]\n";
    let service = service(
        "web",
        "portlb.io/address: '10.1.1.10, fd00:1::10'",
        families,
    );
    let manifests = [service, slice("web", "a", ON_80, &["10.0.2.3"])].concat();
    assert_eq!(
        counts(settings(), &manifests),
        [(LeftOutReason::OtherFamily, 1)]
    );
    check(
        settings(),
        &manifests,
        expect![[r#"
        virtualServers:
        - name: shop/web
          addresses: [10.1.1.10]
          ports: [80]
          realServers:
          - address: 10.0.2.3
        - name: shop/web
          addresses: [fd00:1::10]
          ports: [80]
          realServers: []
        # shop/web: Warning EndpointsLeftOut: an endpoint is left out: 10.0.2.3 is not an IPv6 address like the service address, and no other endpoint has one; let the Service and its pods have addresses of both families (spec.ipFamilyPolicy: RequireDualStack)
        # shop/web: Warning NoUsableEndpoint: tcp/[fd00:1::10]:80 has endpoints, but none of the endpoints can be used: 10.0.2.3 is not an IPv6 address like the service address, and no other endpoint has one; let the Service and its pods have addresses of both families (spec.ipFamilyPolicy: RequireDualStack)
    "#]],
    );
}

#[test]
fn a_service_without_endpoints_has_no_endpoints_that_are_left_out() {
    let manifests = [service("web", "", NAMED), slice("web", "a", ON_80, &[])].concat();
    assert_eq!(counts(settings(), &manifests), []);
}

#[test]
fn a_refused_annotation_gives_no_second_finding_about_the_default_in_its_place() {
    check(
        settings(),
        &service(
            "web",
            "portlb.io/scheduler: rr, portlb.io/scheduler-flags: port, \
             portlb.io/health-check: none, portlb.io/health-check-rise: '2'",
            PORT_80,
        ),
        expect![[r#"
            virtualServers: []
            # shop/web: Warning BadAnnotation: annotation portlb.io/health-check-rise: 2 has no effect without a health check; remove it, or use a health check
            # shop/web: Warning BadAnnotation: annotation portlb.io/scheduler-flags: rr has no flags (only sh and mh have flags); remove it
        "#]],
    );
    // The tunnel kind is refused, but the forwarding method is valid: Masquerade can change ports,
    // so there is no finding about the targetPort.
    check(
        settings(),
        &service(
            "web",
            "portlb.io/forwarding-method: Masquerade, portlb.io/tunnel-kind: ipip",
            "  ports: [{port: 80, targetPort: 8080}]\n",
        ),
        expect![[r#"
            virtualServers: []
            # shop/web: Warning BadAnnotation: annotation portlb.io/tunnel-kind: ipip is for forwardingMethod Tunnel, not for Masquerade; remove it
        "#]],
    );
}

#[test]
fn traffic_distribution_is_ignored_with_a_finding() {
    let distributed = "  trafficDistribution: PreferClose\n  ports: [{port: 80}]\n";
    check(
        settings(),
        &service("web", "", distributed),
        expect![[r#"
            virtualServers:
            - name: shop/web
              addresses: [10.1.1.10]
              ports: [80]
              realServers: []
            # shop/web: Normal TrafficDistributionIgnored: spec.trafficDistribution: PreferClose has no effect: every load balancer reaches the pods of all zones and nodes
        "#]],
    );
}
