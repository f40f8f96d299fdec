//! Tests of `--pod-selector`: pods that are served without a Service.

use expect_test::expect;

use super::*;

#[test]
fn selected_pods_become_real_servers_without_a_service() {
    let pods = service_catalog::settings::PodService {
        name: "pods".to_owned(),
        addresses: vec!["10.1.1.10".parse().unwrap(), "fd00:1::10".parse().unwrap()],
        ports: vec!["80".parse().unwrap()],
        target_port: Some(8080.try_into().unwrap()),
        annotations: vec![(
            "portlb.io/forwarding-method".to_owned(),
            "Masquerade".to_owned(),
        )],
    };
    let settings = CatalogSettings {
        pods: Some(pods),
        ..settings()
    };
    settings.validate().unwrap();
    let pod = |name: &str, more: &str, addresses: &str, ready: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop{more}}}\n\
             status: {{podIPs: [{addresses}], conditions: [{{type: Ready, status: '{ready}'}}]}}\n"
        )
    };
    check(
        settings,
        &[
            pod("a", "", "{ip: 10.0.2.3}, {ip: 'fd00:2::3'}", "True"),
            pod(
                "b",
                ", annotations: {portlb.io/weight: '7'}",
                "{ip: 10.0.2.4}",
                "True",
            ),
            pod("c", "", "{ip: 10.0.2.5}", "False"),
            pod(
                "d",
                ", deletionTimestamp: '2026-01-01T00:00:00Z'",
                "{ip: 10.0.2.6}",
                "True",
            ),
            pod(
                "e",
                ", annotations: {portlb.io/weihgt: '7'}",
                "{ip: 10.0.2.7}",
                "True",
            ),
        ]
        .concat(),
        expect![[r#"
            virtualServers:
            - name: pods
              addresses: [10.1.1.10]
              ports: [80]
              forwardingMethod: Masquerade
              realServers:
              - address: 10.0.2.3
                port: 8080
              - address: 10.0.2.4
                port: 8080
                weight: 7
              - address: 10.0.2.5
                port: 8080
                state: draining
              - address: 10.0.2.6
                port: 8080
                state: draining
              - address: 10.0.2.7
                port: 8080
            - name: pods
              addresses: [fd00:1::10]
              ports: [80]
              forwardingMethod: Masquerade
              realServers:
              - address: fd00:2::3
                port: 8080
            # /pods: Warning BadAnnotation: Pod e: annotation portlb.io/weihgt: is unknown on this object; did you mean portlb.io/weight?
        "#]],
    );
}

#[test]
fn without_a_target_port_selected_pods_listen_on_the_port_that_clients_connect_to() {
    let settings = CatalogSettings {
        pods: Some(service_catalog::settings::PodService {
            name: "pods".to_owned(),
            addresses: vec!["10.1.1.10".parse().unwrap()],
            ports: vec!["80/TCP".parse().unwrap(), "53/UDP".parse().unwrap()],
            target_port: None,
            annotations: Vec::new(),
        }),
        ..settings()
    };
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: shop}\n\
               status: {podIP: 10.0.2.3, conditions: [{type: Ready, status: 'True'}]}\n";
    check(
        settings,
        pod,
        expect![[r#"
        virtualServers:
        - name: pods
          addresses: [10.1.1.10]
          ports: [80]
          realServers:
          - address: 10.0.2.3
        - name: pods
          addresses: [10.1.1.10]
          ports: [53]
          protocol: udp
          healthCheck: {kind: none}
          realServers:
          - address: 10.0.2.3
    "#]],
    );
}

#[test]
fn the_real_server_of_a_selected_pod_follows_the_pod_until_the_pod_is_deleted() {
    let settings = CatalogSettings {
        pods: Some(service_catalog::settings::PodService {
            name: "pods".to_owned(),
            addresses: vec!["10.1.1.10".parse().unwrap()],
            ports: vec!["80".parse().unwrap()],
            target_port: None,
            annotations: Vec::new(),
        }),
        ..settings()
    };
    let pod = |namespace: &str, weight: &str, addresses: &str, ready: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\n\
             metadata: {{name: a, namespace: {namespace}, annotations: {{portlb.io/weight: '{weight}'}}}}\n\
             status: {{podIPs: [{addresses}], conditions: [{{type: Ready, status: '{ready}'}}]}}\n"
        )
    };
    let mut catalog = Catalog::new(settings);
    let mut watcher = TestWatcher::default();
    let mut served = |manifests: &str, deleted_in: Option<&str>| {
        feed(&mut catalog, manifests);
        if let Some(namespace) = deleted_in {
            catalog.handle(CatalogInput::PodDeleted(ObjectKey::new(namespace, "a")));
        }
        watcher.take(&mut catalog);
        let servers = watcher.desired.virtual_servers.values();
        let real_servers = servers.flat_map(|server| &server.real_servers);
        let shown = real_servers.map(|it| format!("{it}={} {:?}", it.weight.0, it.state));
        let pods = catalog.counts().pods;
        (shown.collect::<Vec<_>>().join(", "), pods)
    };
    let expect = |text: &str, pods| (text.to_owned(), pods);
    // One service address has the pods of several namespaces.
    let [shop, forum] = [
        pod("shop", "2", "{ip: 10.0.2.3}", "True"),
        pod("forum", "3", "{ip: 10.0.2.4}", "True"),
    ];
    assert_eq!(
        served(&[shop, forum].concat(), None),
        expect("10.0.2.3=2 Ready, 10.0.2.4=3 Ready", 2)
    );
    // An invalid weight keeps the last good weight.
    assert_eq!(
        served(&pod("shop", "x", "{ip: 10.0.2.3}", "False"), None),
        expect("10.0.2.3=2 Draining, 10.0.2.4=3 Ready", 2)
    );
    // A pod without addresses has not started, or has ended.
    assert_eq!(
        served(&pod("shop", "2", "", "False"), None),
        expect("10.0.2.4=3 Ready", 2)
    );
    assert_eq!(served("", Some("forum")), expect("", 1));
}
