//! From objects of the API server to the Discovery stream.

use std::time::Duration;

use crate::cluster::Cluster;
use crate::watcher::{SOON, Watcher};

#[test]
fn a_service_and_its_endpoints_are_told_and_followed() {
    let namespace = Cluster::shared().namespace("followed");
    namespace.service("web", "portlb.io/address: 10.1.1.10");
    namespace.endpoints("web", &["10.0.0.1", "10.0.0.2"]);
    let kubeconfig = namespace.kubeconfig(namespace.cluster.control.address());
    let watcher = Watcher::start(&namespace, &kubeconfig, &[]);
    let told = watcher.watch();
    told.wait_for(&["tcp/10.1.1.10:80 -> 10.0.0.1, 10.0.0.2"], SOON);
    watcher.wait_for_readyz(&["200", "1 virtual servers"], SOON);

    namespace.endpoints("web", &["10.0.0.2", "10.0.0.3"]);
    told.wait_for(&["tcp/10.1.1.10:80 -> 10.0.0.2, 10.0.0.3"], SOON);
    namespace.service("second", "portlb.io/address: 10.1.1.11");
    namespace.endpoints("second", &["10.0.0.9"]);
    told.wait_for(
        &[
            "tcp/10.1.1.10:80 -> 10.0.0.2, 10.0.0.3",
            "tcp/10.1.1.11:80 -> 10.0.0.9",
        ],
        SOON,
    );
    namespace.kubectl(&["delete", "service", "web"]);
    told.wait_for(&["tcp/10.1.1.11:80 -> 10.0.0.9"], SOON);
    assert!(watcher.metric("portlb_kubernetes_objects{kind=\"Service\"}") >= 1.0);
}

#[test]
fn pods_are_served_without_a_service() {
    let namespace = Cluster::shared().namespace("pods");
    let pod = |name: &str, address: &str, ready: &str| {
        namespace.apply(&format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{app: web}}}},
              spec: {{containers: [{{name: web, image: web}}]}}}}"
        ));
        let status = format!(
            r#"{{"status": {{"phase": "Running", "podIP": "{address}", "podIPs": [{{"ip": "{address}"}}],
               "conditions": [{{"type": "Ready", "status": "{ready}"}}]}}}}"#
        );
        namespace.kubectl(&["patch", "pod", name, "--subresource=status", "-p", &status]);
    };
    pod("a", "10.0.0.1", "True");
    pod("b", "10.0.0.2", "False");
    let kubeconfig = namespace.kubeconfig(namespace.cluster.control.address());
    let flags = [
        "--pod-selector=app=web",
        "--pod-addresses=10.1.1.10",
        "--pod-ports=80/TCP",
        "--service-ranges=10.1.1.0/24",
    ];
    let watcher = Watcher::start(&namespace, &kubeconfig, &flags);
    let told = watcher.watch();
    told.wait_for(&["tcp/10.1.1.10:80 -> 10.0.0.1, 10.0.0.2 draining"], SOON);
    pod("b", "10.0.0.2", "True");
    told.wait_for(&["tcp/10.1.1.10:80 -> 10.0.0.1, 10.0.0.2"], SOON);
}

#[test]
fn a_bad_annotation_keeps_the_last_good_state_and_a_corrected_one_counts_at_once() {
    let namespace = Cluster::shared().namespace("annotations");
    namespace.service("web", "portlb.io/address: 10.1.1.10");
    namespace.endpoints("web", &["10.0.0.1"]);
    let kubeconfig = namespace.kubeconfig(namespace.cluster.control.address());
    let watcher = Watcher::start(&namespace, &kubeconfig, &[]);
    let told = watcher.watch();
    told.wait_for(&["tcp/10.1.1.10:80 -> 10.0.0.1"], SOON);

    let bad = "portlb.io/address: 10.1.1.10, portlb.io/scheduler: fastest";
    namespace.service("web", bad);
    lab::wait_for("the metric", SOON, || {
        let bad = watcher.metric("portlb_kubernetes_bad_services");
        lab::ensure_that(bad > 0.5, bad)
    })
    .unwrap();
    assert_eq!(told.removals(), 0);
    // What its pods do counts all the same.
    namespace.endpoints("web", &["10.0.0.1", "10.0.0.2"]);
    told.wait_for(&["tcp/10.1.1.10:80 -> 10.0.0.1, 10.0.0.2"], SOON);

    namespace.service("web", "portlb.io/address: 10.1.1.12");
    let took = told.wait_for(&["tcp/10.1.1.12:80 -> 10.0.0.1, 10.0.0.2"], SOON);
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn a_cluster_is_rendered_as_a_file_that_serves_the_same() {
    let namespace = Cluster::shared().namespace("rendered");
    namespace.service("web", "portlb.io/address: 10.1.1.10");
    namespace.endpoints("web", &["10.0.0.1", "10.0.0.2"]);
    let kubeconfig = namespace.kubeconfig(namespace.cluster.control.address());
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("rendered.yaml");
    let pod_watcher = |arguments: &[&str]| {
        let mut command = lab::daemons::command("pod-watcher").unwrap();
        let output = command.args(arguments).output().unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{complaint}");
        String::from_utf8(output.stdout).unwrap()
    };
    let kubeconfig = kubeconfig.to_str().unwrap();
    let flags = [
        "render",
        "--namespaces",
        "rendered",
        "--allowed-prefixes",
        "10.1.1.0/24",
        "--kubeconfig",
        kubeconfig,
    ];
    let document = pod_watcher(&flags);
    assert!(document.contains("10.1.1.10"), "{document}");
    assert!(document.contains("10.0.0.2"), "{document}");
    std::fs::write(&file, document).unwrap();
    pod_watcher(&["--check-config", "--file", file.to_str().unwrap()]);
}
