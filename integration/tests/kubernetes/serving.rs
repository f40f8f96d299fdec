//! Tests of the path from API objects to the Discovery stream.

use std::time::Duration;

use crate::cluster::TestControlPlane;
use crate::watcher::{PodWatcherProcess, SOON};

#[test]
fn a_service_and_its_endpoint_changes_reach_the_discovery_stream() {
    let namespace = TestControlPlane::shared().namespace("followed");
    namespace.apply_service("web", "portlb.io/address: 10.1.1.10");
    namespace.apply_endpoints("web", &["10.0.0.1", "10.0.0.2"]);
    let kubeconfig = namespace.kubeconfig(namespace.cluster.control.address());
    let watcher = PodWatcherProcess::start(&namespace, &kubeconfig, &[]);
    let stream = watcher.watch();
    stream.wait_for(&["tcp/10.1.1.10:80 -> 10.0.0.1, 10.0.0.2"], SOON);
    watcher.wait_for_readyz(&["200", "1 virtual servers"], SOON);

    namespace.apply_endpoints("web", &["10.0.0.2", "10.0.0.3"]);
    stream.wait_for(&["tcp/10.1.1.10:80 -> 10.0.0.2, 10.0.0.3"], SOON);
    namespace.apply_service("second", "portlb.io/address: 10.1.1.11");
    namespace.apply_endpoints("second", &["10.0.0.9"]);
    stream.wait_for(
        &[
            "tcp/10.1.1.10:80 -> 10.0.0.2, 10.0.0.3",
            "tcp/10.1.1.11:80 -> 10.0.0.9",
        ],
        SOON,
    );
    namespace.kubectl(&["delete", "service", "web"]);
    stream.wait_for(&["tcp/10.1.1.11:80 -> 10.0.0.9"], SOON);
    assert!(watcher.metric("portlb_kubernetes_objects{kind=\"Service\"}") >= 1.0);
}

#[test]
fn pods_of_the_pod_selector_are_served_without_a_service() {
    let namespace = TestControlPlane::shared().namespace("pods");
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
    let watcher = PodWatcherProcess::start(&namespace, &kubeconfig, &flags);
    let stream = watcher.watch();
    stream.wait_for(&["tcp/10.1.1.10:80 -> 10.0.0.1, 10.0.0.2 draining"], SOON);
    pod("b", "10.0.0.2", "True");
    stream.wait_for(&["tcp/10.1.1.10:80 -> 10.0.0.1, 10.0.0.2"], SOON);
}

#[test]
fn a_service_with_a_bad_annotation_keeps_its_last_good_state_until_the_annotation_is_removed() {
    let namespace = TestControlPlane::shared().namespace("annotations");
    namespace.apply_service("web", "portlb.io/address: 10.1.1.10");
    namespace.apply_endpoints("web", &["10.0.0.1"]);
    let kubeconfig = namespace.kubeconfig(namespace.cluster.control.address());
    let watcher = PodWatcherProcess::start(&namespace, &kubeconfig, &[]);
    let stream = watcher.watch();
    stream.wait_for(&["tcp/10.1.1.10:80 -> 10.0.0.1"], SOON);

    let bad = "portlb.io/address: 10.1.1.10, portlb.io/scheduler: fastest";
    namespace.apply_service("web", bad);
    lab::wait_for("pod-watcher counts a bad Service", SOON, || {
        let bad = watcher.metric("portlb_kubernetes_bad_services");
        lab::ensure_that(bad > 0.5, bad)
    })
    .unwrap();
    assert_eq!(stream.removals(), 0);
    // Changes of the endpoints take effect while the Service has a bad annotation.
    namespace.apply_endpoints("web", &["10.0.0.1", "10.0.0.2"]);
    stream.wait_for(&["tcp/10.1.1.10:80 -> 10.0.0.1, 10.0.0.2"], SOON);

    namespace.apply_service("web", "portlb.io/address: 10.1.1.12");
    let took = stream.wait_for(&["tcp/10.1.1.12:80 -> 10.0.0.1, 10.0.0.2"], SOON);
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn render_writes_the_services_of_a_namespace_as_a_valid_file() {
    let namespace = TestControlPlane::shared().namespace("rendered");
    namespace.apply_service("web", "portlb.io/address: 10.1.1.10");
    namespace.apply_endpoints("web", &["10.0.0.1", "10.0.0.2"]);
    let kubeconfig = namespace.kubeconfig(namespace.cluster.control.address());
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("rendered.yaml");
    let pod_watcher = |arguments: &[&str]| {
        let mut command = lab::daemons::command("pod-watcher").unwrap();
        let output = command.args(arguments).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{errors}");
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
