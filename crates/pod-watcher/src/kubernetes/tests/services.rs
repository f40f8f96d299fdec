//! Tests of the conversion of Services to virtual servers.

use expect_test::expect;

use super::*;

#[test]
fn a_service_becomes_a_virtual_server_with_the_defaults_of_an_entry_in_a_file() {
    check(
        settings(),
        &with_slice(&service("web", "", PORT_80)),
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
fn every_annotation_of_a_service_sets_a_field_of_the_virtual_server() {
    check(
        settings(),
        &with_slice(&service(
            "web",
            "portlb.io/scheduler: sh, portlb.io/scheduler-flags: port, \
             portlb.io/forwarding-method: Masquerade, portlb.io/persistence-timeout: 5m, \
             portlb.io/persistence-ipv4-prefix-length: '24', portlb.io/health-check-port: '8081', \
             portlb.io/health-check-interval: 300ms, portlb.io/health-check-rise: '1', \
             portlb.io/health-check-fall: '2', portlb.io/health-check-initial-jitter: 0ms, \
             portlb.io/on-failure: remove, portlb.io/minimum-healthy: '2', \
             portlb.io/drain-timeout: 10m",
            "  ports: [{name: http, port: 80, targetPort: 8080}]\n",
        ))
        .replace(ON_80, "{name: http, port: 8080}"),
        expect![[r#"
            virtualServers:
            - name: shop/web:http
              addresses: [10.1.1.10]
              ports: [80]
              scheduler: sh
              schedulerFlags: [port]
              forwardingMethod: Masquerade
              persistence:
                timeout: 5m
                clientPrefixLength: 24
              healthCheck:
                kind: tcpConnect
                port: 8081
                interval: 300ms
                timeout: 300ms
                rise: 1
                fall: 2
                initialJitter: 0ms
              onFailure: remove
              minimumHealthy: 2
              drainTimeout: 10m
              realServers:
              - address: 10.0.2.3
                port: 8080
              - address: 10.0.2.4
                port: 8080
        "#]],
    );
}

#[test]
fn a_service_of_another_class_is_not_served() {
    let other = service("web", "", PORT_80).replace("portlb.io/portlb", "example.com/other");
    check(
        settings(),
        &with_slice(&other),
        expect![[r#"
        virtualServers: []
    "#]],
    );
    let without =
        service("web", "", PORT_80).replace("  loadBalancerClass: portlb.io/portlb\n", "");
    check(
        settings(),
        &with_slice(&without),
        expect![[r#"
        virtualServers: []
    "#]],
    );
}

#[test]
fn a_service_of_type_cluster_ip_is_served_if_an_annotation_names_the_class() {
    let headless = service(
        "web",
        "portlb.io/load-balancer-class: portlb.io/portlb",
        "  clusterIP: None\n  ports: [{port: 80}]\n",
    );
    let headless = headless
        .replace("  loadBalancerClass: portlb.io/portlb\n", "")
        .replace("LoadBalancer\n", "ClusterIP\n");
    check(
        settings(),
        &with_slice(&headless),
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
fn a_service_of_type_external_name_is_refused() {
    let alias = service("web", "portlb.io/load-balancer-class: portlb.io/portlb", "")
        .replace("LoadBalancer\n", "ExternalName\n")
        .replace("  loadBalancerClass: portlb.io/portlb\n", "");
    check(
        settings(),
        &alias,
        expect![[r#"
        virtualServers: []
        # shop/web: Warning BadSpecification: spec.type: ExternalName is a name in DNS, without endpoints that could be served; choose another type, or remove the annotation portlb.io/load-balancer-class
    "#]],
    );
}

#[test]
fn every_problem_of_a_service_gives_a_finding() {
    check(
        settings(),
        &service(
            "web",
            "portlb.io/schedular: rr, portlb.io/forwarding-method: tunnel, portlb.io/weight: '3'",
            PORT_80,
        ),
        expect![[r#"
            virtualServers: []
            # shop/web: Warning BadAnnotation: annotation portlb.io/forwarding-method: "tunnel" is not a forwarding method; allowed are Masquerade, DirectRouting and Tunnel
            # shop/web: Warning BadAnnotation: annotation portlb.io/schedular: is unknown on this object; did you mean portlb.io/scheduler?
            # shop/web: Warning BadAnnotation: annotation portlb.io/weight: is unknown on this object; it belongs on a Pod or an EndpointSlice
        "#]],
    );
    check(
        settings(),
        &service(
            "web",
            "portlb.io/minimum-healthy: '0', portlb.io/persistence-timeout: 500ms",
            PORT_80,
        ),
        expect![[r#"
            virtualServers: []
            # shop/web: Warning BadAnnotation: annotation portlb.io/minimum-healthy: 0 would announce an address that no real server serves; write 1 or more
            # shop/web: Warning BadAnnotation: annotation portlb.io/persistence-timeout: 500ms is not a time that the kernel can keep; write whole seconds from 1s to 31d
        "#]],
    );
    check(
        settings(),
        &service(
            "web",
            "portlb.io/scheduler: rr, portlb.io/scheduler-flags: port, portlb.io/address: 127.0.0.1",
            "  ports: [{port: 80}]\n",
        ),
        expect![[r#"
            virtualServers: []
            # shop/web: Warning BadAnnotation: annotation portlb.io/address: 127.0.0.1 is a loopback address, which is valid only within a host; write a unicast address that is routed, such as 10.1.1.10 or fd00::10
            # shop/web: Warning BadAnnotation: annotation portlb.io/scheduler-flags: rr has no flags (only sh and mh have flags); remove it
        "#]],
    );
    check(
        settings(),
        &service(
            "web",
            "",
            "  loadBalancerIP: web.example.com\n  ports: [{port: 80}]\n",
        ),
        expect![[r#"
            virtualServers: []
            # shop/web: Warning BadSpecification: spec.loadBalancerIP: "web.example.com" is not an IP address; write an address such as 10.1.1.10, or remove the value
        "#]],
    );
    check(
        settings(),
        &service("web", "portlb.io/ports: '80, 79-81'", PORT_80),
        expect![[r#"
            virtualServers: []
            # shop/web: Warning BadAnnotation: annotation portlb.io/health-check-port: none is given, but the check cannot choose one of the ports 79-81; write the port to connect to, or use no health check (portlb.io/health-check: none)
            # shop/web: Warning BadAnnotation: annotation portlb.io/ports: tcp/79-81 overlaps tcp/80; list each port once
        "#]],
    );
}

#[test]
fn a_target_port_that_differs_from_the_port_is_refused_with_two_suggestions() {
    let other_port = service(
        "web",
        "",
        "  ports: [{name: http, port: 80, targetPort: 8080}]\n",
    );
    check(
        settings(),
        &other_port,
        expect![[r#"
            virtualServers: []
            # shop/web: Warning BadSpecification: spec.ports[0].targetPort: 8080 differs from the port 80, which Tunnel (ipip) cannot change; let the pods listen on 80 and write that, or write the annotation portlb.io/forwarding-method: Masquerade
        "#]],
    );
}

#[test]
fn a_udp_port_has_no_health_check_unless_an_annotation_names_the_port_to_check() {
    let dns = "  ports: [{name: dns, port: 53, protocol: UDP}, {name: tcp, port: 53}]\n";
    check(
        settings(),
        &service("dns", "", dns),
        expect![[r#"
        virtualServers:
        - name: shop/dns:tcp
          addresses: [10.1.1.10]
          ports: [53]
          realServers: []
        - name: shop/dns:dns
          addresses: [10.1.1.10]
          ports: [53]
          protocol: udp
          healthCheck: {kind: none}
          realServers: []
    "#]],
    );
    check(
        settings(),
        &service("dns", "portlb.io/health-check-port: '8080'", dns),
        expect![[r#"
            virtualServers:
            - name: shop/dns:tcp
              addresses: [10.1.1.10]
              ports: [53]
              healthCheck:
                kind: tcpConnect
                port: 8080
                interval: 2s
                timeout: 1s
                rise: 2
                fall: 3
                initialJitter: 100ms
              realServers: []
            - name: shop/dns:dns
              addresses: [10.1.1.10]
              ports: [53]
              protocol: udp
              healthCheck:
                kind: tcpConnect
                port: 8080
                interval: 2s
                timeout: 1s
                rise: 2
                fall: 3
                initialJitter: 100ms
              realServers: []
        "#]],
    );
    check(
        settings(),
        &service("dns", "portlb.io/health-check: tcpConnect", dns),
        expect![[r#"
            virtualServers: []
            # shop/dns: Warning BadAnnotation: annotation portlb.io/health-check-port: none is given, but a real server need not accept TCP on a port for udp; write a port on which the real servers accept TCP, or use no health check (portlb.io/health-check: none)
        "#]],
    );
}

#[test]
fn session_affinity_becomes_persistence() {
    check(
        settings(),
        &service(
            "web",
            "",
            "  sessionAffinity: ClientIP\n  sessionAffinityConfig: {clientIP: {timeoutSeconds: \
             600}}\n  ports: [{port: 80}]\n",
        ),
        expect![[r#"
            virtualServers:
            - name: shop/web
              addresses: [10.1.1.10]
              ports: [80]
              persistence:
                timeout: 10m
              realServers: []
        "#]],
    );
}

#[test]
fn a_field_of_a_service_that_has_no_effect_gives_a_finding() {
    check(
        settings(),
        &service(
            "web",
            "",
            "  externalTrafficPolicy: Local\n  loadBalancerSourceRanges: [0.0.0.0/0]\n  \
             externalIPs: [10.1.1.10, 10.1.1.9]\n  ports: [{port: 80}]\n",
        ),
        expect![[r#"
            virtualServers:
            - name: shop/web
              addresses: [10.1.1.9]
              ports: [80]
              realServers: []
            - name: shop/web
              addresses: [10.1.1.10]
              ports: [80]
              realServers: []
            # shop/web: Warning ExternalIPsIntercepted: spec.externalIPs: kube-proxy takes the traffic of these addresses for itself on every node, so the traffic bypasses the load balancer; use the annotation portlb.io/address instead, or give the Service the label service.kubernetes.io/service-proxy-name
            # shop/web: Normal TrafficPolicyIgnored: spec.externalTrafficPolicy: Local has no effect: pods see the client's address anyway, and every load balancer reaches the pods of all nodes
        "#]],
    );
}

#[test]
fn a_service_that_limits_its_clients_is_not_served() {
    let ranges = service(
        "field",
        "",
        "  loadBalancerSourceRanges: [192.0.2.0/24]\n  ports: [{port: 80}]\n",
    );
    let annotated = service(
        "annotation",
        "portlb.io/address: 10.1.1.11, \
         service.beta.kubernetes.io/load-balancer-source-ranges: '192.0.2.0/24, 198.51.100.0/24'",
        PORT_80,
    );
    check(
        settings(),
        &[ranges, annotated].concat(),
        expect![[r#"
            virtualServers: []
            # shop/annotation: Warning SourceRangesUnsupported: annotation service.beta.kubernetes.io/load-balancer-source-ranges: no load balancer enforces this limit, so the Service is not served; filter clients at the router or with a NetworkPolicy for the pods, and remove the ranges or write 0.0.0.0/0 and ::/0
            # shop/field: Warning SourceRangesUnsupported: spec.loadBalancerSourceRanges: no load balancer enforces this limit, so the Service is not served; filter clients at the router or with a NetworkPolicy for the pods, and remove the ranges or write 0.0.0.0/0 and ::/0
        "#]],
    );
}

#[test]
fn traffic_policy_local_with_masquerade_gives_a_warning() {
    check(
        settings(),
        &service(
            "web",
            "portlb.io/address: 10.1.1.10, portlb.io/forwarding-method: Masquerade",
            "  externalTrafficPolicy: Local\n  ports: [{port: 80}]\n",
        ),
        expect![[r#"
            virtualServers:
            - name: shop/web
              addresses: [10.1.1.10]
              ports: [80]
              forwardingMethod: Masquerade
              realServers: []
            # shop/web: Warning ClientAddressHidden: spec.externalTrafficPolicy: Local does not preserve the client's address here: with Masquerade pods see the load balancer's address, so that a filter in the pods by client address admits every client; use the annotation portlb.io/forwarding-method: Tunnel
        "#]],
    );
}

#[test]
fn the_ports_annotation_sets_ranges_of_ports() {
    check(
        settings(),
        &with_slice(&service(
            "web",
            "portlb.io/ports: '8000-8999, all/UDP', portlb.io/health-check-port: '8000'",
            PORT_80,
        )),
        expect![[r#"
            virtualServers:
            - name: shop/web
              addresses: [10.1.1.10]
              ports: [8000-8999]
              healthCheck:
                kind: tcpConnect
                port: 8000
                interval: 2s
                timeout: 1s
                rise: 2
                fall: 3
                initialJitter: 100ms
              realServers:
              - address: 10.0.2.3
              - address: 10.0.2.4
            - name: shop/web
              addresses: [10.1.1.10]
              ports: [all]
              protocol: udp
              healthCheck:
                kind: tcpConnect
                port: 8000
                interval: 2s
                timeout: 1s
                rise: 2
                fall: 3
                initialJitter: 100ms
              realServers:
              - address: 10.0.2.3
              - address: 10.0.2.4
        "#]],
    );
}

#[test]
fn invalid_settings_of_pools_ranges_and_pods_are_refused() {
    let mut settings = with_pools(&["a=10.1.1.0/24", "a=10.1.1.8/29,10.1.2.1/24"]);
    settings
        .service_ranges
        .insert("10.1.1.1/24".parse().unwrap());
    settings.pods = Some(service_catalog::settings::PodService {
        name: "pods".to_owned(),
        addresses: vec!["10.1.1.10".parse().unwrap()],
        ports: vec!["80".parse().unwrap()],
        target_port: Some(8080.try_into().unwrap()),
        annotations: Vec::new(),
    });
    let errors = settings.validate().unwrap_err();
    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
    expect![[r#"
        --service-ranges: 10.1.1.1/24 has bits set to the right of its length; write 10.1.1.0/24
        --address-pool: a is the name of two pools; give each pool its own name, or put all prefixes into one pool
        --address-pool: 10.1.1.8/29 overlaps 10.1.1.0/24; give each address to one pool
        --address-pool: 10.1.2.1/24 has bits set to the right of its length; write 10.1.2.0/24
        --pod-selector: the pods cannot be served; --pod-target-port: 8080 differs from port 80, which Tunnel (ipip) cannot change; leave the flag out, or add --pod-annotation portlb.io/forwarding-method=Masquerade"#]].assert_eq(&errors.join("\n"));
}

#[test]
fn a_service_with_more_than_1000_ports_is_refused() {
    let list = |count: u32| {
        let ports: Vec<String> = (1..=count).map(|port| port.to_string()).collect();
        ports.join(",")
    };
    let annotated = |count| {
        service(
            "web",
            &format!("portlb.io/ports: '{}'", list(count)),
            PORT_80,
        )
    };
    let findings = |manifest: &str| {
        let mut catalog = Catalog::new(settings());
        feed(&mut catalog, manifest);
        let findings = render::of(&mut catalog).findings;
        let texts = findings.iter().map(|(_, finding)| finding.to_string());
        texts.collect::<Vec<String>>()
    };
    assert_eq!(findings(&annotated(1_000)), Vec::<String>::new());
    let problem = "1001 entries are more than a Service may have; write at most 1000, and ranges \
                such as 8000-8999 (annotation portlb.io/ports) for more";
    assert_eq!(
        findings(&annotated(1_001)),
        [format!(
            "Warning BadAnnotation: annotation portlb.io/ports: {problem}"
        )]
    );
    let ports: Vec<String> = (1..=1_001)
        .map(|port| format!("{{name: p{port}, port: {port}}}"))
        .collect();
    let specified = service("web", "", &format!("  ports: [{}]\n", ports.join(", ")));
    assert_eq!(
        findings(&specified),
        [format!("Warning BadSpecification: spec.ports: {problem}")]
    );
}
