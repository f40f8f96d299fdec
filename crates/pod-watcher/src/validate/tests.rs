use std::fs;

use expect_test::{Expect, expect};

use super::*;

mod api;
mod cost;

#[track_caller]
fn check_files(files: &[(&str, &str)], expected: Expect) {
    let directory = tempfile::tempdir().unwrap();
    let mut paths = Vec::new();
    for (name, text) in files {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        paths.push(path);
    }
    let settings = CatalogSettings {
        load_balancer_class: "portlb.io/portlb".to_owned(),
        ..CatalogSettings::default()
    };
    let report = check(&paths, settings);
    let of_message = |message: &ValidationMessage| match message.severity {
        MessageSeverity::Note => message.line(),
        MessageSeverity::Error | MessageSeverity::Remark => {
            format!("{} {}", message.severity.as_str(), message.line())
        }
    };
    let lines: Vec<String> = report
        .messages
        .iter()
        .map(of_message)
        .chain([format!("{} Services\n", report.services)])
        .collect();
    let place = format!("{}/", directory.path().display());
    expected.assert_eq(&lines.join("\n").replace(&place, ""));
}

const GOOD: &str = "\
apiVersion: v1
kind: Service
metadata:
  name: web
  namespace: shop
  annotations:
    portlb.io/address: 10.1.1.10
    portlb.io/scheduler: mh
spec:
  type: LoadBalancer
  loadBalancerClass: portlb.io/portlb
  selector: {app: web}
  ports: [{port: 80, targetPort: 80}]
";

#[test]
fn valid_manifests_have_no_error_and_other_kinds_are_ignored() {
    let other =
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {whatever: 1}\n";
    check_files(
        &[(
            "web.yaml",
            &format!("# ours\n---\n{GOOD}---\n{other}---\n# nothing\n"),
        )],
        expect![[r#"
            note: Service shop/web: not checked whether the address is allowed, because --allowed-prefixes is not set; set the flag to the value that the load balancer has
            1 Services
        "#]],
    );
}

#[test]
fn every_error_is_reported_with_file_line_and_document() {
    let bad = GOOD
        .replace("scheduler: mh", "scheduler: maglev")
        .replace("address: 10.1.1.10", "adress: 10.1.1.10");
    let other = GOOD
        .replace("name: web", "name: api")
        .replace("targetPort: 80", "targetPort: 8080");
    let external = GOOD
        .replace("name: web", "name: external")
        .replace("10.1.1.10", "10.1.1.11")
        .replace("  selector", "  externalIPs: [192.0.2.1]\n  selector");
    check_files(
        &[
            ("a.yaml", &format!("{bad}---\n{other}")),
            ("b.yaml", &external),
        ],
        expect![[r#"
            error a.yaml:7 (document 1): Service shop/web: annotation portlb.io/adress: is unknown on this object; did you mean portlb.io/address?
            error a.yaml:8 (document 1): Service shop/web: annotation portlb.io/scheduler: "maglev" is not a scheduler; allowed are rr, wrr, lc, wlc, sh, mh, sed and nq
            error a.yaml:27 (document 2): Service shop/api: spec.ports[0].targetPort: 8080 differs from the port 80, which Tunnel (ipip) cannot change; let the pods listen on 80 and write that, or write the annotation portlb.io/forwarding-method: Masquerade
            remark b.yaml:12 (document 1): Service shop/external: spec.externalIPs: kube-proxy takes the traffic of these addresses for itself on every node, so the traffic bypasses the load balancer; use the annotation portlb.io/address instead, or give the Service the label service.kubernetes.io/service-proxy-name
            note: Service shop/external: not checked whether the address is allowed, because --allowed-prefixes is not set; set the flag to the value that the load balancer has
            3 Services
        "#]],
    );
}

#[test]
fn a_document_that_is_not_a_valid_object_is_reported_with_file_and_line() {
    check_files(
        &[
            ("list.yaml", "- a\n"),
            ("kind.yaml", "metadata: {name: web}\n"),
            (
                "yaml.yaml",
                &format!("{GOOD}---\napiVersion: v1\nkind: [\n"),
            ),
            (
                "number.yaml",
                &GOOD.replace("scheduler: mh", "minimum-healthy: 2"),
            ),
            (
                "field.yaml",
                &GOOD.replace("loadBalancerClass", "loadBalancerclass"),
            ),
            ("type.yaml", &GOOD.replace("port: 80,", "port: http,")),
            ("name.yaml", &GOOD.replace("  name: web\n", "")),
        ],
        expect![[r#"
            error list.yaml:1 (document 1): is not an object; write apiVersion, kind, metadata and spec
            error kind.yaml:1 (document 1): has no apiVersion or no kind; write both
            error yaml.yaml:16 (document 2): unclosed bracket '['
            error number.yaml:8 (document 1): Service shop/web: annotation portlb.io/minimum-healthy: 2 is not text; write it in quotes: "2"
            error field.yaml:11 (document 1): Service shop/web: spec.loadBalancerclass: is not a field of this kind; did you mean loadBalancerClass?
            error type.yaml:13 (document 1): Service shop/web: spec.ports[0].port: "http" is not a whole number; write a whole number
            error name.yaml:3 (document 1): Service shop/: metadata.name: is missing; write this field
            note: 2 Services, the first is Service shop/web: not checked whether the address is allowed, because --allowed-prefixes is not set; set the flag to the value that the load balancer has
            3 Services
        "#]],
    );
    let settings = CatalogSettings::default();
    let report = check(&["/nonexistent/web.yaml".into()], settings);
    assert!(
        report.messages[0].text.contains("cannot be read"),
        "{report:?}"
    );
}

#[test]
fn a_service_with_portlb_annotations_and_without_a_class_is_an_error() {
    check_files(
        &[
            (
                "none.yaml",
                &GOOD.replace("  loadBalancerClass: portlb.io/portlb\n", ""),
            ),
            (
                "other.yaml",
                &GOOD.replace("portlb.io/portlb", "example.com/other"),
            ),
            (
                "cluster.yaml",
                "apiVersion: v1\nkind: Service\nmetadata: {name: db}\n",
            ),
        ],
        expect![[r#"
            error none.yaml:7 (document 1): Service shop/web: has portlb.io/ annotations, but no class, so no load balancer serves the Service; write spec.type: LoadBalancer and spec.loadBalancerClass: portlb.io/portlb, or, for a Service of another type, the annotation portlb.io/load-balancer-class: portlb.io/portlb
            remark other.yaml:11 (document 1): Service shop/web: spec.loadBalancerClass: "example.com/other" is not the class of this load balancer; write portlb.io/portlb, or remove all portlb.io/ annotations
            note: Service default/db: not checked, because the Service does not have the class of this load balancer
            0 Services
        "#]],
    );
}

#[test]
fn without_address_pools_the_pools_of_the_services_are_assumed_with_a_note() {
    let from_pool = GOOD.replace("address: 10.1.1.10", "address-pool: shop");
    let from_any = GOOD
        .replace("    portlb.io/address: 10.1.1.10\n", "")
        .replace("name: web", "name: api");
    check_files(
        &[("web.yaml", &from_pool), ("api.yaml", &from_any)],
        expect![[r#"
            note: 2 Services, the first is Service shop/api: the address is from an assumed pool, because --address-pool is not set; to check pools, too, set the flag to the value that the load balancer has
            2 Services
        "#]],
    );
    check_files(
        &[("web.yaml", &from_pool), ("good.yaml", GOOD)],
        expect![[r#"
            note: Service shop/web: the address is from an assumed pool, because --address-pool is not set; to check pools, too, set the flag to the value that the load balancer has
            note: Service shop/web: not checked whether the address is allowed, because --allowed-prefixes is not set; set the flag to the value that the load balancer has
            2 Services
        "#]],
    );
}

#[test]
fn with_an_address_pool_in_the_settings_no_pool_is_assumed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("web.yaml");
    fs::write(
        &path,
        GOOD.replace("    portlb.io/address: 10.1.1.10\n", ""),
    )
    .unwrap();
    let settings = CatalogSettings {
        load_balancer_class: "portlb.io/portlb".to_owned(),
        pools: vec!["web=10.1.1.128/25".parse().unwrap()],
        ..CatalogSettings::default()
    };
    let report = check(&[path], settings);
    let expected = ValidationReport {
        services: 1,
        ..ValidationReport::default()
    };
    assert_eq!(report, expected);
}

#[test]
fn a_recorded_address_is_accepted_with_an_assumed_pool() {
    let given = "\
status:
  conditions:
  - type: portlb.io/Address
    status: 'True'
    reason: Allocated:10_1_1_130
    message: 10.1.1.130
    lastTransitionTime: 2026-11-21T00:00:00Z
";
    let kept = GOOD.replace("    portlb.io/address: 10.1.1.10\n", "") + given;
    check_files(
        &[("web.yaml", &kept)],
        expect![[r#"
            note: Service shop/web: the address is from an assumed pool, because --address-pool is not set; to check pools, too, set the flag to the value that the load balancer has
            1 Services
        "#]],
    );
}

#[test]
fn messages_of_one_severity_are_in_the_order_of_the_files_and_documents() {
    let wrong_value = GOOD.replace("scheduler: mh", "scheduler: maglev");
    let wrong_type = GOOD
        .replace("name: web", "name: api")
        .replace("scheduler: mh", "minimum-healthy: 2")
        .replace("  annotations", "  labels: {}\n  annotations");
    let wrong_fields = GOOD
        .replace("name: web", "name: a")
        .replace("  type: LoadBalancer", "  typ: LoadBalancer\n  selectr: {}");
    let wrong_weight = "\
apiVersion: v1
kind: Pod
metadata: {name: p, namespace: shop, annotations: {portlb.io/weight: '-1'}}
";
    let all = format!("{wrong_value}---\n{wrong_weight}---\n{wrong_type}---\n{wrong_fields}");
    let last = wrong_value.replace("name: web", "name: aa");
    check_files(
        &[("b.yaml", &all), ("a.yaml", &last)],
        expect![[r#"
            error b.yaml:8 (document 1): Service shop/web: annotation portlb.io/scheduler: "maglev" is not a scheduler; allowed are rr, wrr, lc, wlc, sh, mh, sed and nq
            error b.yaml:17 (document 2): Pod shop/p: annotation portlb.io/weight: "-1" is not an allowed number; write 0 to 65535
            error b.yaml:27 (document 3): Service shop/api: annotation portlb.io/minimum-healthy: 2 is not text; write it in quotes: "2"
            error b.yaml:43 (document 4): Service shop/a: spec.typ: is not a field of this kind; did you mean type?
            error b.yaml:44 (document 4): Service shop/a: spec.selectr: is not a field of this kind; did you mean selector?
            error b.yaml:45 (document 4): Service shop/a: spec.loadBalancerClass: is allowed only with spec.type: LoadBalancer; write this type, or replace the field by the annotation portlb.io/load-balancer-class
            error a.yaml:8 (document 1): Service shop/aa: annotation portlb.io/scheduler: "maglev" is not a scheduler; allowed are rr, wrr, lc, wlc, sh, mh, sed and nq
            note: Service shop/api: not checked whether the address is allowed, because --allowed-prefixes is not set; set the flag to the value that the load balancer has
            3 Services
        "#]],
    );
}

#[test]
fn conflicts_between_objects_of_a_json_list_are_reported() {
    let list = r#"{"apiVersion": "v1", "kind": "List", "items": [
  {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "annotations": {"portlb.io/address": "10.1.1.1"}},
   "spec": {"type": "LoadBalancer", "loadBalancerClass": "portlb.io/portlb", "ports": [{"port": 80}]}},
  {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "b", "annotations": {"portlb.io/address": "10.1.1.1"}},
   "spec": {"type": "LoadBalancer", "loadBalancerClass": "portlb.io/portlb", "ports": [{"port": 80}]}},
  {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "annotations": {"portlb.io/weight": "-1"}},
   "spec": {"containers": []}}
]}"#;
    check_files(
        &[("list.json", list)],
        expect![[r#"
            error list.json:4 (document 1): Service default/b: 10.1.1.1 belongs to Service default/a; choose another address, or write the annotation portlb.io/share-address with the same value on both Services, which then share the address if their ports differ
            error list.json:6 (document 1): Pod default/p: annotation portlb.io/weight: "-1" is not an allowed number; write 0 to 65535
            note: Service default/a: not checked whether the address is allowed, because --allowed-prefixes is not set; set the flag to the value that the load balancer has
            2 Services
        "#]],
    );
}

#[test]
fn both_manifests_of_a_service_in_two_files_are_checked() {
    let bad = GOOD.replace("scheduler: mh", "scheduler: maglev");
    check_files(
        &[("a.yaml", GOOD), ("b.yaml", &bad)],
        expect![[r#"
            error b.yaml:8 (document 1): Service shop/web: annotation portlb.io/scheduler: "maglev" is not a scheduler; allowed are rr, wrr, lc, wlc, sh, mh, sed and nq
            note: Service shop/web: not checked whether the address is allowed, because --allowed-prefixes is not set; set the flag to the value that the load balancer has
            2 Services
        "#]],
    );
}
