//! Tests of the conversion of endpoints to real servers.

use expect_test::expect;

use super::*;

#[test]
fn an_endpoint_that_is_not_ready_drains_whether_it_is_serving_or_terminating() {
    let endpoints = [
        "10.0.2.9 ready",
        "10.0.2.8 serving,terminating",
        "10.0.2.7 terminating",
        "10.0.2.6 serving",
        "10.0.2.5 ready,terminating",
    ];
    let manifests = [
        service("web", "", PORT_80),
        slice("web", "a", ON_80, &endpoints),
    ]
    .concat();
    check(
        settings(),
        &manifests,
        expect![[r#"
            virtualServers:
            - name: shop/web
              addresses: [10.1.1.10]
              ports: [80]
              realServers:
              - address: 10.0.2.5
              - address: 10.0.2.6
                state: draining
              - address: 10.0.2.7
                state: draining
              - address: 10.0.2.8
                state: draining
              - address: 10.0.2.9
        "#]],
    );
}

#[test]
fn endpoints_above_the_limit_of_the_scheduler_are_left_out_and_the_other_endpoints_are_served() {
    let endpoints: Vec<String> = (0..4_095_u32)
        .map(|index| {
            let conditions = if index == 0 { "serving" } else { "ready" };
            format!("10.0.{}.{} {conditions}", index / 256, index % 256)
        })
        .collect();
    let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
    let mut catalog = Catalog::new(settings());
    let mut watcher = TestWatcher::default();
    feed(&mut catalog, &service("web", "", PORT_80));
    feed(&mut catalog, &slice("web", "a", ON_80, &endpoints));
    watcher.take(&mut catalog);
    let server = watcher.desired.virtual_servers.values().next().unwrap();
    assert_eq!(server.real_servers.len(), 4_093);
    assert_eq!(
        server.real_servers[0].to_string(),
        "10.0.0.1",
        "the draining endpoint 10.0.0.0 is left out before ready endpoints"
    );
    assert_eq!(
        watcher.findings("web"),
        [
            "Warning EndpointsLeftOut: 2 endpoints are left out, such as 10.0.15.254 exceeds the \
             4093 real servers that mh can have; select fewer pods, or write the annotation \
             portlb.io/scheduler with another scheduler"
        ]
    );
    let rr = "portlb.io/address: 10.1.1.10, portlb.io/scheduler: rr";
    feed(&mut catalog, &service("web", rr, PORT_80));
    watcher.take(&mut catalog);
    let server = watcher.desired.virtual_servers.values().next().unwrap();
    assert_eq!(server.real_servers.len(), 4_095);
    assert!(watcher.findings("web").is_empty());
}

#[test]
fn weights_that_mh_cannot_distinguish_are_rounded_with_a_finding() {
    let weighted = |suffix: &str, weight: u32, address: &str| {
        slice("web", suffix, ON_80, &[address]).replace(
            "namespace: shop,",
            &format!("namespace: shop, annotations: {{portlb.io/weight: '{weight}'}},"),
        )
    };
    let manifests = [
        service("web", "", PORT_80),
        weighted("a", 100, "10.0.2.3"),
        weighted("b", 51, "10.0.2.4"),
    ]
    .concat();
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
                weight: 16
              - address: 10.0.2.4
                weight: 8
            # shop/web: Normal WeightsRounded: weights are rounded to 16 levels: with more levels and so many pods, the schedulers mh and sh would move flows of all pods after a change of one weight; use weights with small whole-number ratios, such as 1, 2 and 4, or the annotation portlb.io/scheduler: wrr
        "#]],
    );
}

/// Without recorded levels, the weights of 30 pods have 16 levels. With 8 levels in the status they
/// keep 8 levels until at most 27 pods are left.
#[test]
fn the_weight_levels_in_the_status_stay_until_the_number_of_pods_falls_by_a_tenth() {
    let weighted = |suffix: &str, weight: u32, pods: std::ops::Range<u8>| {
        let addresses: Vec<String> = pods.map(|pod| format!("10.0.2.{pod}")).collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        slice("web", suffix, ON_80, &addresses).replace(
            "namespace: shop,",
            &format!("namespace: shop, annotations: {{portlb.io/weight: '{weight}'}},"),
        )
    };
    let status = "status: {conditions: [{type: portlb.io/WeightLevels, status: 'True', \
                  reason: 'Rounded:8', message: '', lastTransitionTime: '2026-01-01T00:00:00Z'}]}\n";
    for (pods, recorded, levels) in [(30, "", 16), (30, status, 8), (27, status, 16)] {
        let mut catalog = Catalog::new(settings());
        let mut watcher = TestWatcher::default();
        let manifests = [
            service("web", "", PORT_80),
            recorded.to_owned(),
            weighted("a", 99, 1..2),
            weighted("b", 100, 2..pods + 1),
        ];
        feed(&mut catalog, &manifests.concat());
        watcher.take(&mut catalog);
        let server = watcher.desired.virtual_servers.values().next().unwrap();
        let weights: BTreeSet<u16> = server.real_servers.iter().map(|it| it.weight.0).collect();
        assert_eq!(weights, BTreeSet::from([levels]), "{pods} pods");
        assert_eq!(server.real_servers.len(), usize::from(pods));
    }
}

#[test]
fn an_endpoint_without_conditions_is_ready() {
    let silent = slice("web", "a", ON_80, &["10.0.2.3"]).replace(
        ", conditions: {ready: true, serving: true, terminating: false}",
        "",
    );
    check(
        settings(),
        &[service("web", "", PORT_80), silent].concat(),
        expect![[r#"
        virtualServers:
        - name: shop/web
          addresses: [10.1.1.10]
          ports: [80]
          realServers:
          - address: 10.0.2.3
    "#]],
    );
}

#[test]
fn endpoints_that_are_not_ready_are_served_with_publish_not_ready_addresses() {
    let service = service(
        "web",
        "",
        "  publishNotReadyAddresses: true\n  ports: [{port: 80}]\n",
    );
    let slice = slice(
        "web",
        "a",
        ON_80,
        &["10.0.2.3 none", "10.0.2.4 serving,terminating"],
    );
    check(
        settings(),
        &[service, slice].concat(),
        expect![[r#"
        virtualServers:
        - name: shop/web
          addresses: [10.1.1.10]
          ports: [80]
          realServers:
          - address: 10.0.2.3
          - address: 10.0.2.4
    "#]],
    );
}

#[test]
fn the_slices_of_a_service_are_merged_and_an_endpoint_of_two_slices_counts_once() {
    let slices = [
        slice(
            "web",
            "a",
            ON_80,
            &["10.0.2.3 serving,terminating", "10.0.2.4"],
        ),
        slice("web", "b", ON_80, &["10.0.2.3 ready", "10.0.2.2"]),
        slice("other", "a", ON_80, &["10.0.2.9"]),
    ];
    check(
        settings(),
        &[service("web", "", PORT_80), slices.concat()].concat(),
        expect![[r#"
        virtualServers:
        - name: shop/web
          addresses: [10.1.1.10]
          ports: [80]
          realServers:
          - address: 10.0.2.2
          - address: 10.0.2.3
          - address: 10.0.2.4
    "#]],
    );
}

#[test]
fn a_named_target_port_can_have_different_numbers_in_different_pods() {
    let ports = "  ports: [{name: http, port: 80, targetPort: web}]\n";
    let slices = [
        slice("web", "a", "{name: http, port: 8080}", &["10.0.2.3"]),
        slice("web", "b", "{name: http, port: 8081}", &["10.0.2.4"]),
        slice("web", "c", "{name: http, port: 80}", &["10.0.2.5"]),
        slice("web", "d", "{name: metrics, port: 80}", &["10.0.2.6"]),
        slice(
            "web",
            "e",
            "{name: http, port: 80, protocol: UDP}",
            &["10.0.2.7"],
        ),
    ]
    .concat();
    let masquerade = service("web", "portlb.io/forwarding-method: Masquerade", ports);
    check(
        settings(),
        &[masquerade, slices.clone()].concat(),
        expect![[r#"
            virtualServers:
            - name: shop/web:http
              addresses: [10.1.1.10]
              ports: [80]
              forwardingMethod: Masquerade
              realServers:
              - address: 10.0.2.3
                port: 8080
              - address: 10.0.2.4
                port: 8081
              - address: 10.0.2.5
            # shop/web: Warning EndpointsLeftOut: 2 endpoints are left out, such as 10.0.2.6 is in a slice without the port http of tcp, which the Service has (the slice lists the port metrics of tcp); give the port in the slice the name and protocol of the Service's port, or write the annotation portlb.io/ports
        "#]],
    );
    check(
        settings(),
        &[service("web", "", ports), slices].concat(),
        expect![[r#"
            virtualServers:
            - name: shop/web:http
              addresses: [10.1.1.10]
              ports: [80]
              realServers:
              - address: 10.0.2.5
            # shop/web: Warning EndpointsLeftOut: 2 endpoints are left out, such as 10.0.2.3:8080 listens on 8080, and Tunnel (ipip) cannot change the port 80; let the endpoint listen on 80, or write the annotation portlb.io/forwarding-method: Masquerade
            # shop/web: Warning EndpointsLeftOut: 2 endpoints are left out, such as 10.0.2.6 is in a slice without the port http of tcp, which the Service has (the slice lists the port metrics of tcp); give the port in the slice the name and protocol of the Service's port, or write the annotation portlb.io/ports
        "#]],
    );
}

#[test]
fn a_service_without_a_selector_has_the_endpoints_of_manually_written_slices() {
    let service = service("web", "", PORT_80).replace("  selector: {app: web}\n", "");
    let slices = [
        slice("web", "a", ON_80, &["192.0.2.3"]),
        slice("web", "b", "{name: '', port: 8080}", &["192.0.2.4"]),
        slice("web", "c", "{name: ''}", &["192.0.2.5"]),
    ];
    check(
        settings(),
        &[service, slices.concat()].concat(),
        expect![[r#"
        virtualServers:
        - name: shop/web
          addresses: [10.1.1.10]
          ports: [80]
          realServers:
          - address: 192.0.2.3
          - address: 192.0.2.5
        # shop/web: Warning EndpointsLeftOut: an endpoint is left out: 192.0.2.4:8080 listens on 8080, and Tunnel (ipip) cannot change the port 80; let the endpoint listen on 80, or write the annotation portlb.io/forwarding-method: Masquerade
    "#]],
    );
}

#[test]
fn a_service_address_of_each_family_gets_the_endpoints_of_its_family() {
    let service = service(
        "web",
        "portlb.io/address: '10.1.1.10, fd00:1::10'",
        "  ipFamilies: [IPv6, IPv4]\n  ports: [{port: 80}]\n",
    );
    let slices = [
        slice("web", "a", ON_80, &["10.0.2.3"]),
        slice("web", "b", ON_80, &["fd00:2::3"]),
    ];
    check(
        settings(),
        &[service, slices.concat()].concat(),
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
          realServers:
          - address: fd00:2::3
    "#]],
    );
}

#[test]
fn a_service_address_gets_endpoints_of_the_other_family_only_with_tunnel() {
    let service = |method: &str| {
        service(
            "web",
            &format!("portlb.io/address: 'fd00:1::10', portlb.io/forwarding-method: {method}"),
            "  ipFamilies: [IPv4]\n  ports: [{port: 80}]\n",
        )
    };
    let slice = slice("web", "a", ON_80, &["10.0.2.3", "10.0.2.4"]);
    check(
        settings(),
        &[service("Tunnel"), slice.clone()].concat(),
        expect![[r#"
        virtualServers:
        - name: shop/web
          addresses: [fd00:1::10]
          ports: [80]
          realServers:
          - address: 10.0.2.3
          - address: 10.0.2.4
    "#]],
    );
    check(
        settings(),
        &[service("DirectRouting"), slice].concat(),
        expect![[r#"
            virtualServers:
            - name: shop/web
              addresses: [fd00:1::10]
              ports: [80]
              forwardingMethod: DirectRouting
              realServers: []
            # shop/web: Warning EndpointsLeftOut: 2 endpoints are left out, such as 10.0.2.3 is not of the family of the service address fd00:1::10, and DirectRouting cannot reach another family; use forwarding method Tunnel or an address of the same family
            # shop/web: Warning NoUsableEndpoint: tcp/[fd00:1::10]:80 has endpoints, but none of the endpoints can be used: 10.0.2.3 is not of the family of the service address fd00:1::10, and DirectRouting cannot reach another family; use forwarding method Tunnel or an address of the same family
        "#]],
    );
}

#[test]
fn an_endpoint_with_a_service_address_or_an_address_in_a_service_range_is_left_out() {
    let mut settings = settings();
    settings
        .service_ranges
        .insert("10.1.1.0/24".parse().unwrap());
    let manifests = [
        service("web", "portlb.io/address: 10.9.9.9", PORT_80),
        service("other", "portlb.io/address: 10.0.2.4", PORT_80),
        slice("web", "a", ON_80, &["10.0.2.3", "10.0.2.4", "10.1.1.7"]),
    ];
    check(
        settings,
        &manifests.concat(),
        expect![[r#"
            serviceRanges:
            - 10.1.1.0/24
            virtualServers:
            - name: shop/other
              addresses: [10.0.2.4]
              ports: [80]
              realServers: []
            - name: shop/web
              addresses: [10.9.9.9]
              ports: [80]
              realServers:
              - address: 10.0.2.3
            # shop/web: Warning EndpointsLeftOut: an endpoint is left out: 10.0.2.4 is a service address, so packets to it would not leave the load balancer
            # shop/web: Warning EndpointsLeftOut: an endpoint is left out: 10.1.1.7 lies within the service range 10.1.1.0/24, so packets to it would not leave the load balancer
        "#]],
    );
}

#[test]
fn the_weight_and_state_of_a_real_server_come_from_annotations_of_its_pod_and_its_slice() {
    let pod = |name: &str, annotations: &str, address: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, \
             annotations: {{{annotations}}}}}\nstatus: {{podIPs: [{{ip: {address}}}]}}\n"
        )
    };
    let weighed = slice(
        "web",
        "a",
        ON_80,
        &["10.0.2.3", "10.0.2.4", "10.0.2.5", "10.0.2.6"],
    )
    .replace(
        "namespace: shop",
        "namespace: shop, annotations: {portlb.io/weight: '10'}",
    );
    let manifests = [
        service("web", "", PORT_80),
        weighed,
        pod("a", "portlb.io/weight: '0'", "10.0.2.3"),
        pod("b", "portlb.io/state: draining", "10.0.2.4"),
        pod("c", "portlb.io/weight: heavy", "10.0.2.5"),
        pod("d", "portlb.io/weight: '3'", "10.0.2.6").replace("shop", "other"),
    ];
    check(
        settings(),
        &manifests.concat(),
        expect![[r#"
        virtualServers:
        - name: shop/web
          addresses: [10.1.1.10]
          ports: [80]
          realServers:
          - address: 10.0.2.3
            weight: 0
          - address: 10.0.2.4
            weight: 10
            state: draining
          - address: 10.0.2.5
            weight: 10
          - address: 10.0.2.6
            weight: 10
        # shop/web: Warning BadAnnotation: Pod c: annotation portlb.io/weight: "heavy" is not an allowed number; write 0 to 65535
    "#]],
    );
}

#[test]
fn an_endpoint_with_a_name_instead_of_an_address_is_left_out() {
    let names = slice("web", "a", ON_80, &["example.com"]).replace("IPv4", "FQDN");
    check(
        settings(),
        &[service("web", "", PORT_80), names].concat(),
        expect![[r#"
            virtualServers:
            - name: shop/web
              addresses: [10.1.1.10]
              ports: [80]
              realServers: []
            # shop/web: Warning EndpointsLeftOut: an endpoint is left out: example.com is not an IP address, and names are not looked up; list the addresses in slices of addressType IPv4 or IPv6
            # shop/web: Warning NoUsableEndpoint: tcp/10.1.1.10:80 has endpoints, but none of the endpoints can be used: example.com is not an IP address, and names are not looked up; list the addresses in slices of addressType IPv4 or IPv6
        "#]],
    );
}
