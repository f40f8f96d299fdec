//! Tests of `validate`: rules of the API server, classes, allowed prefixes, and the report as JSON.

use expect_test::expect;

use super::*;

const SLICE: &str = "\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-a, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: '', port: 80}]
endpoints:
- {addresses: [10.0.2.3]}
";

#[test]
fn invalid_enum_values_and_numbers_of_a_service_are_errors() {
    let bad = GOOD
        .replace("targetPort: 80}", "protocol: udp, targetPort: 70000, nodePort: -1}, {port: 70000}")
        .replace(
            "  selector",
            "  sessionAffinity: clientIP\n  sessionAffinityConfig: {clientIP: {timeoutSeconds: \
             90000}}\n  externalTrafficPolicy: local\n  ipFamilies: [ipv4]\n  ipFamilyPolicy: Dual\n  \
             trafficDistribution: Nearest\n  selector",
        );
    check_files(
        &[("a.yaml", &bad)],
        expect![[r#"
            error a.yaml:12 (document 1): Service shop/web: spec.sessionAffinity: "clientIP" is not an allowed value; did you mean ClientIP? allowed are None, ClientIP
            error a.yaml:13 (document 1): Service shop/web: spec.sessionAffinityConfig.clientIP.timeoutSeconds: 90000 is not a timeout in seconds; write 1 to 86400
            error a.yaml:14 (document 1): Service shop/web: spec.externalTrafficPolicy: "local" is not an allowed value; did you mean Local? allowed are Cluster, Local
            error a.yaml:15 (document 1): Service shop/web: spec.ipFamilies[0]: "ipv4" is not an allowed value; did you mean IPv4? allowed are IPv4, IPv6
            error a.yaml:16 (document 1): Service shop/web: spec.ipFamilyPolicy: "Dual" is not an allowed value; did you mean PreferDualStack? allowed are SingleStack, PreferDualStack, RequireDualStack
            error a.yaml:17 (document 1): Service shop/web: spec.trafficDistribution: "Nearest" is not an allowed value; allowed are PreferClose, PreferSameZone, PreferSameNode
            error a.yaml:19 (document 1): Service shop/web: spec.ports[0]: has no name; write a name, because the Service has several ports
            error a.yaml:19 (document 1): Service shop/web: spec.ports[0].protocol: "udp" is not an allowed value; did you mean UDP? allowed are TCP, UDP, SCTP
            error a.yaml:19 (document 1): Service shop/web: spec.ports[0].targetPort: 70000 is not a port; write 1 to 65535
            error a.yaml:19 (document 1): Service shop/web: spec.ports[0].nodePort: -1 is not a port; write 1 to 65535
            error a.yaml:19 (document 1): Service shop/web: spec.ports[1]: has no name; write a name, because the Service has several ports
            error a.yaml:19 (document 1): Service shop/web: spec.ports[1].port: 70000 is not a port; write 1 to 65535
            1 Services
        "#]],
    );
    let cluster = GOOD.replace("LoadBalancer", "Loadbalancer");
    check_files(
        &[("type.yaml", &cluster)],
        expect![[r#"
            error type.yaml:10 (document 1): Service shop/web: spec.type: "Loadbalancer" is not an allowed value; did you mean LoadBalancer? allowed are ClusterIP, NodePort, LoadBalancer, ExternalName
            0 Services
        "#]],
    );
}

#[test]
fn invalid_names_of_a_service_and_its_ports_are_errors() {
    let bad = GOOD
        .replace("name: web", "name: Web")
        .replace("namespace: shop", "namespace: my_shop")
        .replace(
            "[{port: 80, targetPort: 80}]",
            "[{port: 80, name: HTTP}, {port: 81, targetPort: no--name}, {port: 82, name: HTTP, targetPort: web}]",
        );
    check_files(
        &[("a.yaml", &bad)],
        expect![[r#"
        error a.yaml:4 (document 1): Service my_shop/Web: metadata.name: "Web" is not a valid name; write at most 63 lowercase letters, digits and `-`, with a letter or digit first and last
        error a.yaml:5 (document 1): Service my_shop/Web: metadata.namespace: "my_shop" is not a valid name; write at most 63 lowercase letters, digits and `-`, with a letter or digit first and last
        error a.yaml:13 (document 1): Service my_shop/Web: spec.ports[0].name: "HTTP" is not a valid name; write at most 63 lowercase letters, digits and `-`, with a letter or digit first and last
        error a.yaml:13 (document 1): Service my_shop/Web: spec.ports[1]: has no name; write a name, because the Service has several ports
        error a.yaml:13 (document 1): Service my_shop/Web: spec.ports[1].targetPort: "no--name" is neither a port number nor a port name; write 1 to 65535 without quotes, or at most 15 lowercase letters, digits and `-`, one of them a letter
        error a.yaml:13 (document 1): Service my_shop/Web: spec.ports[2]: has the name "HTTP" of another port; write a different name
        error a.yaml:13 (document 1): Service my_shop/Web: spec.ports[2].name: "HTTP" is not a valid name; write at most 63 lowercase letters, digits and `-`, with a letter or digit first and last
        note: Service my_shop/Web: not checked whether the address is allowed, because --allowed-prefixes is not set; set the flag to the value that the load balancer has
        1 Services
    "#]],
    );
}

#[test]
fn every_field_of_the_wrong_type_is_an_error_with_path_and_line() {
    let bad = "\
apiVersion: v1
kind: Service
metadata:
  name: web
  labels: [a]
  annotations:
    portlb.io/address: 10.1.1.10
    # port: this comment is no problem
    portlb.io/scheduler: maglev
spec:
  type: LoadBalancer
  loadBalancerClass: portlb.io/portlb
  publishNotReadyAddresses: maybe
  selector: {port: web}
  ports:
  - name: a
    port: http
  - name: b
    port: 80.5
    targetPort: [81]
  - name: 3
    port: 82
    nodePort: 4294967296
    protocl: TCP
  externalIPs: 10.1.1.1
";
    check_files(
        &[("a.yaml", bad)],
        expect![[r#"
            error a.yaml:5 (document 1): Service default/web: metadata.labels: a list is not a set of fields; write name: value
            error a.yaml:9 (document 1): Service default/web: annotation portlb.io/scheduler: "maglev" is not a scheduler; allowed are rr, wrr, lc, wlc, sh, mh, sed and nq
            error a.yaml:13 (document 1): Service default/web: spec.publishNotReadyAddresses: "maybe" is not true or false; write true or false
            error a.yaml:17 (document 1): Service default/web: spec.ports[0].port: "http" is not a whole number; write a whole number
            error a.yaml:19 (document 1): Service default/web: spec.ports[1].port: 80.5 is not a whole number; write a whole number
            error a.yaml:20 (document 1): Service default/web: spec.ports[1].targetPort: a list is not a whole number or text; write a number or a name
            error a.yaml:21 (document 1): Service default/web: spec.ports[2].name: 3 is not text; write it in quotes: "3"
            error a.yaml:23 (document 1): Service default/web: spec.ports[2].nodePort: 4294967296 is not a port; write 1 to 65535
            error a.yaml:24 (document 1): Service default/web: spec.ports[2].protocl: is not a field of this kind; did you mean protocol?
            error a.yaml:25 (document 1): Service default/web: spec.externalIPs: "10.1.1.1" is not a list; write each item in a line that begins with -
            1 Services
        "#]],
    );
}

#[test]
fn invalid_objects_of_the_kinds_endpoint_slice_and_endpoints_are_errors() {
    let slice = SLICE
        .replace(
            "port: 80}",
            "port: 0, protocol: tcp}, {name: '', port: 70000}",
        )
        .replace(
            "[10.0.2.3]}",
            "[10.0.2.3]}\n- {addresses: ['fd00::1', web]}\n- {addresses: []}",
        );
    let no_type = SLICE
        .replace("addressType: IPv4\n", "")
        .replace("web-a", "web-b");
    let no_owner = SLICE.replace("labels: {kubernetes.io/service-name: web}", "labels: {}");
    let endpoints = "\
apiVersion: v1
kind: Endpoints
metadata: {name: api}
subsets:
- addresses: [{ip: ten}]
  ports: [{port: 70000, protocol: udp}]
";
    let old = SLICE.replace("discovery.k8s.io/v1", "discovery.k8s.io/v1beta1");
    let small = "apiVersion: v1\nkind: service\nmetadata: {name: web}\n";
    check_files(
        &[
            ("slice.yaml", &slice),
            ("type.yaml", &no_type),
            ("owner.yaml", &no_owner),
            ("endpoints.yaml", endpoints),
            ("old.yaml", &old),
            ("small.yaml", small),
        ],
        expect![[r#"
            error slice.yaml:5 (document 1): EndpointSlice shop/web-a: ports[0].port: 0 is not a port; write 1 to 65535
            error slice.yaml:5 (document 1): EndpointSlice shop/web-a: ports[0].protocol: "tcp" is not an allowed value; did you mean TCP? allowed are TCP, UDP, SCTP
            error slice.yaml:5 (document 1): EndpointSlice shop/web-a: ports[1]: has the name "" of another port; write a different name
            error slice.yaml:5 (document 1): EndpointSlice shop/web-a: ports[1].port: 70000 is not a port; write 1 to 65535
            error slice.yaml:8 (document 1): EndpointSlice shop/web-a: endpoints[1].addresses[0]: "fd00::1" is not an address of the addressType IPv4; write an IPv4 address, or move it to an EndpointSlice with the matching addressType
            error slice.yaml:8 (document 1): EndpointSlice shop/web-a: endpoints[1].addresses[1]: "web" is not an address of the addressType IPv4; write an IPv4 address, or move it to an EndpointSlice with the matching addressType
            error slice.yaml:9 (document 1): EndpointSlice shop/web-a: endpoints[2]: has no addresses; write at least one address
            error type.yaml:1 (document 1): EndpointSlice shop/web-b: addressType: is missing; write IPv4, IPv6 or FQDN
            error endpoints.yaml:5 (document 1): Endpoints default/api: subsets[0].addresses[0].ip: "ten" is not an IP address; write an IP address
            error endpoints.yaml:6 (document 1): Endpoints default/api: subsets[0].ports[0].port: 70000 is not a port; write 1 to 65535
            error endpoints.yaml:6 (document 1): Endpoints default/api: subsets[0].ports[0].protocol: "udp" is not an allowed value; did you mean UDP? allowed are TCP, UDP, SCTP
            error old.yaml:1 (document 1): apiVersion: "discovery.k8s.io/v1beta1" of EndpointSlice does not exist in present API servers; write discovery.k8s.io/v1
            error small.yaml:1 (document 1): kind: "service" does not exist; did you mean Service?
            remark owner.yaml:3 (document 1): EndpointSlice shop/web-a: has no label kubernetes.io/service-name, so the slice belongs to no Service; write the label with the name of the Service
            remark endpoints.yaml:1 (document 1): Endpoints default/api: are not used, because the files have no Service with this name; check the Service together with its Endpoints
            0 Services
        "#]],
    );
}

#[test]
fn a_service_without_a_usable_endpoint_is_an_error() {
    let named = SLICE.replace("name: ''", "name: web");
    check_files(
        &[("a.yaml", &format!("{GOOD}---\n{named}"))],
        expect![[r#"
            error a.yaml:1 (document 1): Service shop/web: tcp/10.1.1.10:80 has endpoints, but none of the endpoints can be used: 10.0.2.3 is in a slice without the unnamed port of tcp, which the Service has (the slice lists the port web of tcp); give the port in the slice the name and protocol of the Service's port, or write the annotation portlb.io/ports
            remark a.yaml:1 (document 1): Service shop/web: an endpoint is left out: 10.0.2.3 is in a slice without the unnamed port of tcp, which the Service has (the slice lists the port web of tcp); give the port in the slice the name and protocol of the Service's port, or write the annotation portlb.io/ports
            note: Service shop/web: not checked whether the address is allowed, because --allowed-prefixes is not set; set the flag to the value that the load balancer has
            1 Services
        "#]],
    );
    let null = SLICE.replace("[{name: '', port: 80}]", "null");
    check_files(
        &[("a.yaml", &format!("{GOOD}---\n{null}"))],
        expect![[r#"
            error a.yaml:1 (document 1): Service shop/web: tcp/10.1.1.10:80 has endpoints, but none of the endpoints can be used: 10.0.2.3 is in a slice without the unnamed port of tcp, which the Service has (the slice lists no port); give the port in the slice the name and protocol of the Service's port, or write the annotation portlb.io/ports
            remark a.yaml:1 (document 1): Service shop/web: an endpoint is left out: 10.0.2.3 is in a slice without the unnamed port of tcp, which the Service has (the slice lists no port); give the port in the slice the name and protocol of the Service's port, or write the annotation portlb.io/ports
            note: Service shop/web: not checked whether the address is allowed, because --allowed-prefixes is not set; set the flag to the value that the load balancer has
            1 Services
        "#]],
    );
    check_files(
        &[("a.yaml", &format!("{GOOD}---\n{SLICE}"))],
        expect![[r#"
            note: Service shop/web: not checked whether the address is allowed, because --allowed-prefixes is not set; set the flag to the value that the load balancer has
            1 Services
        "#]],
    );
}

#[test]
fn an_object_of_kind_endpoints_is_used_only_if_a_cluster_would_mirror_it() {
    let endpoints = |port: &str| {
        format!(
            "apiVersion: v1\nkind: Endpoints\nmetadata: {{name: web, namespace: shop}}\nsubsets:\n\
             - {{addresses: [{{ip: 10.0.2.3}}], ports: [{port}]}}\n"
        )
    };
    let without = GOOD.replace("  selector: {app: web}\n", "");
    let good = endpoints("{port: 80}");
    check_files(
        &[("a.yaml", &without), ("b.yaml", &good)],
        expect![[r#"
        note: Service shop/web: not checked whether the address is allowed, because --allowed-prefixes is not set; set the flag to the value that the load balancer has
        1 Services
    "#]],
    );
    let other = endpoints("{port: 80, name: web}");
    check_files(
        &[("a.yaml", &without), ("b.yaml", &other)],
        expect![[r#"
            error a.yaml:1 (document 1): Service shop/web: tcp/10.1.1.10:80 has endpoints, but none of the endpoints can be used: 10.0.2.3 is in a slice without the unnamed port of tcp, which the Service has (the slice lists the port web of tcp); give the port in the slice the name and protocol of the Service's port, or write the annotation portlb.io/ports
            remark a.yaml:1 (document 1): Service shop/web: an endpoint is left out: 10.0.2.3 is in a slice without the unnamed port of tcp, which the Service has (the slice lists the port web of tcp); give the port in the slice the name and protocol of the Service's port, or write the annotation portlb.io/ports
            note: Service shop/web: not checked whether the address is allowed, because --allowed-prefixes is not set; set the flag to the value that the load balancer has
            1 Services
        "#]],
    );
    check_files(
        &[("a.yaml", GOOD), ("b.yaml", &good)],
        expect![[r#"
        remark b.yaml:1 (document 1): Endpoints shop/web: are not used, because the Service has a selector: the cluster creates the EndpointSlices from the pods; remove spec.selector of the Service, or the Endpoints
        note: Service shop/web: not checked whether the address is allowed, because --allowed-prefixes is not set; set the flag to the value that the load balancer has
        1 Services
    "#]],
    );
    let skipped = good.replace(
        "name: web,",
        "name: web, labels: {endpointslice.kubernetes.io/skip-mirror: 'true'},",
    );
    check_files(
        &[("a.yaml", &without), ("b.yaml", &skipped)],
        expect![[r#"
            remark b.yaml:1 (document 1): Endpoints shop/web: are not used, because of their label endpointslice.kubernetes.io/skip-mirror; remove the label, or write EndpointSlices
            note: Service shop/web: not checked whether the address is allowed, because --allowed-prefixes is not set; set the flag to the value that the load balancer has
            1 Services
        "#]],
    );
    check_files(
        &[("b.yaml", &good)],
        expect![[r#"
        remark b.yaml:1 (document 1): Endpoints shop/web: are not used, because the files have no Service with this name; check the Service together with its Endpoints
        0 Services
    "#]],
    );
}

#[test]
fn a_service_without_the_class_of_this_load_balancer_is_an_error_a_remark_or_a_note() {
    let plain = "apiVersion: v1\nkind: Service\nmetadata: {name: db}\nspec: {ports: [{port: 1}]}\n";
    let unclassed = plain.replace("spec: {", "spec: {type: LoadBalancer, ");
    let misspelt = GOOD.replace("portlb.io/portlb", "portlb.io/prtlb");
    let annotated = plain.replace(
        "name: db",
        "name: x, annotations: {portlb.io/load-balancer-class: portlb}",
    );
    let no_type = GOOD.replace("  type: LoadBalancer\n", "");
    check_files(
        &[
            ("plain.yaml", plain),
            ("unclassed.yaml", &unclassed),
            ("misspelt.yaml", &misspelt),
            ("annotated.yaml", &annotated),
            ("type.yaml", &no_type),
        ],
        expect![[r#"
            error misspelt.yaml:11 (document 1): Service shop/web: spec.loadBalancerClass: "portlb.io/prtlb" is not the class of this load balancer; did you mean portlb.io/portlb?
            error annotated.yaml:3 (document 1): Service default/x: annotation portlb.io/load-balancer-class: "portlb" is not the class of this load balancer; did you mean portlb.io/portlb?
            error type.yaml:10 (document 1): Service shop/web: spec.loadBalancerClass: is allowed only with spec.type: LoadBalancer; write this type, or replace the field by the annotation portlb.io/load-balancer-class
            remark unclassed.yaml:1 (document 1): Service default/db: has no class, so this load balancer does not serve the Service; to change this, write spec.loadBalancerClass: portlb.io/portlb
            note: Service default/db: not checked, because the Service does not have the class of this load balancer
            0 Services
        "#]],
    );
}

#[test]
fn an_address_outside_of_the_allowed_prefixes_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("web.yaml");
    fs::write(&path, GOOD).unwrap();
    let settings = CatalogSettings {
        load_balancer_class: "portlb.io/portlb".to_owned(),
        allowed_prefixes: vec!["10.9.0.0/16".parse().unwrap()],
        is_confined: true,
        ..CatalogSettings::default()
    };
    let report = check(&[path], settings);
    let [message] = report.messages.as_slice() else {
        panic!("{report:?}");
    };
    assert_eq!(message.severity, MessageSeverity::Error);
    assert_eq!(message.place.as_ref().unwrap().position.unwrap().line, 7);
    assert_eq!(message.field, "annotation portlb.io/address");
    assert!(message.text.contains("10.9.0.0/16"), "{message:?}");
}

#[test]
fn several_json_objects_in_one_file_are_checked() {
    let object = |name: &str, scheduler: &str| {
        format!(
            "{{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Service\",\n\t\"metadata\": {{\"name\": \
             \"{name}\", \"annotations\": {{\n\t\t\"portlb.io/address\": \"10.1.1.1\\u0030\",\n\t\t\
             \"portlb.io/scheduler\": \"{scheduler}\"}}}},\n\t\"spec\": {{\"type\": \
             \"LoadBalancer\", \"loadBalancerClass\": \"portlb.io\\/portlb\", \"ports\": \
             [{{\"port\": 80}}]}}\n}}"
        )
    };
    let all = format!(
        "{}{}\n\n{}\n",
        object("a", "mh"),
        object("b", "rr"),
        object("c", "x")
    );
    check_files(
        &[("all.json", &all)],
        expect![[r#"
        error all.json:9 (document 2): Service default/b: 10.1.1.10 belongs to Service default/a; choose another address, or write the annotation portlb.io/share-address with the same value on both Services, which then share the address if their ports differ
        error all.json:22 (document 3): Service default/c: annotation portlb.io/scheduler: "x" is not a scheduler; allowed are rr, wrr, lc, wlc, sh, mh, sed and nq
        note: Service default/a: not checked whether the address is allowed, because --allowed-prefixes is not set; set the flag to the value that the load balancer has
        3 Services
    "#]],
    );
}

#[test]
fn a_report_is_written_as_json_and_a_remark_fails_only_with_strict() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("web.yaml");
    let local = GOOD.replace("  selector", "  externalTrafficPolicy: Local\n  selector");
    fs::write(&path, local.replace("scheduler: mh", "scheduler: rr")).unwrap();
    let settings = CatalogSettings {
        load_balancer_class: "portlb.io/portlb".to_owned(),
        ..CatalogSettings::default()
    };
    let report = check(&[directory.path().to_owned()], settings);
    assert!(report.passes(false) && !report.passes(true), "{report:?}");
    assert_eq!(report.verdict(false), "the Service can be served");
    assert_eq!(
        report.verdict(true),
        "0 errors, 1 remark (with --strict, a remark is an error)"
    );
    let json = format!("{:#}", report.json(true));
    let json = json.replace(&format!("{}/", directory.path().display()), "");
    expect![[r#"
        {
          "errors": 0,
          "messages": [
            {
              "column": 3,
              "document": 1,
              "field": "spec.externalTrafficPolicy",
              "file": "web.yaml",
              "line": 12,
              "message": "spec.externalTrafficPolicy: Local has no effect: pods see the client's address anyway, and every load balancer reaches the pods of all nodes",
              "object": "Service shop/web",
              "reason": "TrafficPolicyIgnored",
              "severity": "remark"
            },
            {
              "column": null,
              "document": null,
              "field": null,
              "file": null,
              "line": null,
              "message": "Service shop/web: not checked whether the address is allowed, because --allowed-prefixes is not set; set the flag to the value that the load balancer has",
              "object": null,
              "reason": null,
              "severity": "note"
            }
          ],
          "remarks": 1,
          "services": 1,
          "valid": false
        }"#]].assert_eq(&json);
}
