//! Tests of the manifests with a real API server: validation, pod security and RBAC.

use std::{
    path::PathBuf,
    process::{Command, Output},
    time::Duration,
};

use lab::kubernetes::{ControlPlane, ControlPlaneSettings, binaries};
use serde_json::{Value, json};

use crate::rendered::{
    APPLIED, RenderedManifests, applied, component, each_component, list, manifests, text,
};

/// A minimal CustomResourceDefinition of PodMonitor, so that the API server accepts PodMonitors.
const POD_MONITORS: &str = "\
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: podmonitors.monitoring.coreos.com}
spec:
  group: monitoring.coreos.com
  names: {kind: PodMonitor, listKind: PodMonitorList, plural: podmonitors, singular: podmonitor}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}
";

fn start(test: &str) -> ControlPlane {
    let directory = lab::repository().join("target/lab/manifests").join(test);
    ControlPlane::start(&directory).unwrap()
}

/// Creates the Namespaces of the manifests, and the ServiceAccount `default` in each Namespace.
///
/// In a cluster a controller creates this ServiceAccount, but the API server of the tests has no
/// controllers.
fn create_namespaces(api: &ControlPlane, rendered: &RenderedManifests) {
    for namespace in rendered.of_kind("Namespace") {
        let name = text(&namespace["metadata"]["name"]);
        let yaml = serde_json::to_string(namespace).unwrap();
        api.kubectl_with_input(&["apply", "-f", "-"], &yaml)
            .unwrap();
        let account = ["create", "serviceaccount", "default", "-n", name];
        api.kubectl(&account).unwrap();
    }
}

/// Returns a table with the generation of each workload. The API server increases the generation
/// with each change of the workload's `spec`.
fn generations(api: &ControlPlane) -> String {
    let columns = "-o=custom-columns=NAME:.metadata.name,CHANGES:.metadata.generation";
    let workloads = "deployments,statefulsets,daemonsets";
    api.kubectl(&["get", workloads, "--all-namespaces", columns])
        .unwrap()
}

#[test]
fn the_api_server_accepts_all_manifests_without_a_warning() {
    let api = start("apply");
    api.kubectl_with_input(&["apply", "-f", "-"], POD_MONITORS)
        .unwrap();
    let established = ["wait", "--for=condition=Established", "crd", "--all"];
    api.kubectl(&established).unwrap();
    for path in ["overlays/flat-l2", "examples/second-application"] {
        create_namespaces(&api, &applied(path));
    }
    for path in APPLIED {
        let folder = manifests().join(path);
        let folder = folder.to_str().unwrap();
        let apply = |more: &[&str]| {
            let apply = [
                "apply",
                "--validate=strict",
                "--warnings-as-errors",
                "-k",
                folder,
            ];
            api.kubectl(&[&apply, more].concat()).unwrap()
        };
        apply(&["--dry-run=server"]);
        let output = apply(&[]);
        let objects = applied(path).objects.len();
        assert_eq!(output.lines().count(), objects, "{output}");
        // A second apply of the same manifests changes no workload. A change would replace pods.
        let before = generations(&api);
        apply(&[]);
        assert_eq!(generations(&api), before, "{path}");
    }
    for component in each_component() {
        let apply = [
            "apply",
            "--validate=strict",
            "--warnings-as-errors",
            "-f",
            "-",
        ];
        api.kubectl_with_input(&apply, &component.yaml).unwrap();
    }
    let mut examples = 0;
    for object in objects_in_documents() {
        let dry_run = "--dry-run=server";
        let apply = [
            "apply",
            dry_run,
            "--validate=strict",
            "--warnings-as-errors",
            "-f",
            "-",
        ];
        api.kubectl_with_input(&apply, &object).unwrap();
        examples += 1;
    }
    assert!(
        examples > 1,
        "only {examples} objects were found in the documents"
    );
}

#[test]
fn in_an_ipv6_first_cluster_each_service_with_a_cluster_ip_has_the_family_ipv4() {
    let directory = lab::repository().join("target/lab/manifests/ipv6-first");
    let ranges = ["fd00:96::/112", "10.96.0.0/16"].join(",");
    let settings = ControlPlaneSettings {
        options: vec![
            format!("--service-cluster-ip-range={ranges}"),
            // The API server requires an address of the family of the first Service range. No
            // client connects to this address.
            "--advertise-address=fd00:200::1".to_owned(),
        ],
        ..ControlPlaneSettings::default()
    };
    let api = ControlPlane::start_with(&directory, settings).unwrap();
    let first = ["get", "service", "kubernetes", "-o=json"];
    let first: Value = serde_json::from_str(&api.kubectl(&first).unwrap()).unwrap();
    assert_eq!(first["spec"]["ipFamilies"], json!(["IPv6"]));
    for path in ["overlays/flat-l2", "examples/second-application"] {
        create_namespaces(&api, &applied(path));
    }
    let mut services = 0;
    for path in APPLIED {
        let apply = ["apply", "--dry-run=server", "-o=json", "-f", "-"];
        let applied = api.kubectl_with_input(&apply, &applied(path).yaml).unwrap();
        let applied: Value = serde_json::from_str(&applied).unwrap();
        for object in list(&applied["items"]) {
            // A headless Service has no cluster IP, so its families do not matter.
            let is_headless = object["spec"]["clusterIP"] == "None";
            if object["kind"] != "Service" || is_headless {
                continue;
            }
            let families = &object["spec"]["ipFamilies"];
            assert_eq!(families, &json!(["IPv4"]), "{path}: {object}");
            services += 1;
        }
    }
    assert!(services > 5, "only {services} Services were found");
}

/// Returns the YAML examples in the folders of `docs/` that begin with `apiVersion:`, as Kubernetes
/// objects do. Examples of portlb's own configuration files are left out.
fn objects_in_documents() -> Vec<String> {
    let entries = |folder: PathBuf| {
        let entries = std::fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().path())
    };
    let folders = entries(lab::repository().join("docs")).filter(|path| path.is_dir());
    let documents = folders
        .flat_map(entries)
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let mut objects = Vec::new();
    for document in documents {
        let text = std::fs::read_to_string(document).unwrap();
        let blocks = text.split("```yaml\n").skip(1);
        let blocks = blocks.map(|rest| rest.split("```").next().unwrap().to_owned());
        objects.extend(blocks.filter(|block| {
            block.starts_with("apiVersion:") && !block.starts_with("apiVersion: portlb.io/")
        }));
    }
    objects
}

#[test]
fn a_delete_by_the_label_of_portlb_keeps_the_namespaces() {
    const SELECTOR: &str = "-l app.kubernetes.io/part-of=portlb";
    let guide = std::fs::read_to_string(lab::repository().join("docs/how-to/upgrade.md")).unwrap();
    assert!(guide.contains(SELECTOR));
    let api = start("delete");
    apply(&api, "overlays/flat-l2");
    let folder = manifests().join("overlays/flat-l2");
    let delete = ["delete", "-k", folder.to_str().unwrap()];
    let selector: Vec<&str> = SELECTOR.split(' ').collect();
    api.kubectl(&[&delete, selector.as_slice()].concat())
        .unwrap();
    let get = ["get", "--ignore-not-found", "-o", "name", "-f", "-"];
    let yaml = &applied("overlays/flat-l2").yaml;
    let remaining = api.kubectl_with_input(&get, yaml).unwrap();
    let mut remaining: Vec<&str> = remaining.lines().collect();
    remaining.sort_unstable();
    assert_eq!(remaining, ["namespace/portlb-system", "namespace/web"]);
}

/// Returns the name of each workload, and whether the API server admits the pod of the workload
/// into the namespace.
///
/// The pods are created with `--dry-run`, so no pod exists afterwards.
fn admission(
    api: &ControlPlane,
    rendered: &RenderedManifests,
    namespace: &str,
) -> Vec<(String, bool)> {
    let pods = rendered.pods();
    pods.iter()
        .map(|pod| {
            let pod_object = json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "asked-for", "namespace": namespace},
                "spec": pod.spec,
            });
            let create = ["create", "--dry-run=server", "-f", "-"];
            let answer = api.kubectl_with_input(&create, &pod_object.to_string());
            if let Err(refusal) = &answer {
                let refusal = format!("{refusal:#}");
                assert!(
                    refusal.contains("violates PodSecurity"),
                    "{}: {refusal}",
                    pod.name
                );
            }
            let name = pod.name.rsplit('/').next().unwrap().to_owned();
            (name, answer.is_ok())
        })
        .collect()
}

#[test]
fn each_workload_is_admitted_exactly_by_the_pod_security_levels_that_it_needs() {
    let api = start("admission");
    let overlay = applied("overlays/flat-l2");
    create_namespaces(&api, &overlay);
    for level in ["privileged", "baseline", "restricted"] {
        api.create_namespace(level).unwrap();
        let label = format!("pod-security.kubernetes.io/enforce={level}");
        api.kubectl(&["label", "namespace", level, &label]).unwrap();
    }
    for namespace in ["web", "privileged", "baseline", "restricted"] {
        api.kubectl(&["create", "serviceaccount", "load-balancer", "-n", namespace])
            .unwrap();
    }
    let expect = |rendered: &RenderedManifests, namespace: &str, expected: &[(&str, bool)]| {
        let actual = admission(&api, rendered, namespace);
        let actual: Vec<(&str, bool)> = actual
            .iter()
            .map(|(name, is_admitted)| (name.as_str(), *is_admitted))
            .collect();
        assert_eq!(actual, expected, "{} in {namespace}", rendered.name);
    };
    let workloads = ["load-balancer", "route-reflector", "node-router"];
    expect(&overlay, "privileged", &workloads.map(|name| (name, true)));
    for level in ["baseline", "restricted"] {
        let only_reflectors = workloads.map(|name| (name, name == "route-reflector"));
        expect(&overlay, level, &only_reflectors);
    }
    let tunnel = applied("examples/web/tunnel");
    expect(&tunnel, "web", &[("web", true)]);
    expect(&tunnel, "baseline", &[("web", false)]);
    let masquerade = applied("examples/web/masquerade");
    expect(&masquerade, "restricted", &[("web-masquerade", true)]);
}

/// A client of the API server that has only the token of a ServiceAccount.
struct Account<'a> {
    api: &'a ControlPlane,
    token: String,
    kubeconfig: std::path::PathBuf,
}

impl Account<'_> {
    fn kubectl(&self, arguments: &[&str], input: Option<&Value>) -> Output {
        let mut command = Command::new(binaries().unwrap().join("kubectl"));
        command
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(arguments);
        command.env(
            "KUBECACHEDIR",
            self.api.kubeconfig().with_extension("cache"),
        );
        let Some(input) = input else {
            return command.output().unwrap();
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        serde_json::to_writer(&file, input).unwrap();
        command.arg("-f").arg(file.path()).output().unwrap()
    }

    #[track_caller]
    fn may(&self, arguments: &[&str]) {
        let output = self.kubectl(arguments, None);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }

    #[track_caller]
    fn may_create(&self, arguments: &[&str], object: &Value) {
        let output = self.kubectl(arguments, Some(object));
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }

    #[track_caller]
    fn may_not(&self, arguments: &[&str]) {
        let output = self.kubectl(arguments, None);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{arguments:?} is allowed");
        assert!(errors.contains("orbidden"), "{arguments:?}: {errors}");
    }

    /// Checks that the account may patch an object. The account need not have the right to get the
    /// object.
    ///
    /// The request is sent with curl, because `kubectl patch` would get the object first.
    #[track_caller]
    fn may_patch(&self, path: &str, patch: &Value) {
        let (status, answer) = self.patch(path, patch);
        assert_eq!(status, "200", "{path}: {answer}");
    }

    fn patch(&self, path: &str, patch: &Value) -> (String, String) {
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--request", "PATCH", "--cacert"])
            .arg(self.api.authority())
            .args(["--header", &format!("Authorization: Bearer {}", self.token)])
            .args(["--header", "Content-Type: application/merge-patch+json"])
            .args([
                "--data",
                &patch.to_string(),
                "--write-out",
                "\n%{http_code}",
            ])
            .arg(format!("{}{path}", self.api.url()))
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let (answer, status) = text.rsplit_once('\n').unwrap();
        (status.to_owned(), answer.to_owned())
    }

    /// Checks that the account may list and watch the objects at `path`. The API server ends the
    /// watch after one second.
    #[track_caller]
    fn may_list_and_watch(&self, path: &str) {
        self.may(&["get", "--raw", path]);
        self.may(&[
            "get",
            "--raw",
            &format!("{path}?watch=true&timeoutSeconds=1"),
        ]);
    }
}

/// Returns the account of the load balancer's ServiceAccount in the namespace `web`.
fn watcher(api: &ControlPlane) -> Account<'_> {
    let token = api
        .token("web", "load-balancer", Duration::from_secs(600))
        .unwrap();
    let kubeconfig = api
        .kubeconfig_for("load-balancer", api.address(), &token)
        .unwrap();
    Account {
        api,
        token,
        kubeconfig,
    }
}

fn apply(api: &ControlPlane, path: &str) {
    let folder = manifests().join(path);
    api.kubectl(&["apply", "-k", folder.to_str().unwrap()])
        .unwrap();
}

#[test]
fn pod_watcher_has_exactly_the_rights_that_it_uses() {
    let api = start("rights");
    apply(&api, "overlays/flat-l2");
    apply(&api, "examples/web/tunnel");
    let watcher = watcher(&api);

    watcher.may_list_and_watch("/api/v1/namespaces/web/services");
    watcher.may_list_and_watch("/apis/discovery.k8s.io/v1/namespaces/web/endpointslices");
    watcher.may_not(&["get", "service", "web", "-n", "web"]);
    let ingress = json!({"loadBalancer": {"ingress": [{"ip": "10.1.1.10", "ipMode": "Proxy"}]}});
    let status = json!({"status": ingress});
    watcher.may_patch("/api/v1/namespaces/web/services/web/status", &status);

    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "portlb", "namespace": "web"},
        "spec": {"holderIdentity": "load-balancer-0", "leaseDurationSeconds": 15},
    });
    watcher.may_create(&["create"], &lease);
    watcher.may_create(&["replace"], &lease);
    watcher.may(&["get", "lease", "portlb", "-n", "web"]);
    let mut report = lease.clone();
    report["metadata"]["name"] = json!("portlb-load-balancer-0");
    watcher.may_create(&["create"], &report);
    let reports = "/apis/coordination.k8s.io/v1/namespaces/web/leases";
    let renewed = json!({"spec": {"leaseTransitions": 1}});
    watcher.may_patch(&format!("{reports}/portlb-load-balancer-0"), &renewed);
    watcher.may_list_and_watch(reports);
    // pod-watcher must not delete any Lease, because other programs in the namespace can also use
    // Leases.
    for name in ["portlb", "portlb-load-balancer-0"] {
        watcher.may_not(&["delete", "lease", name, "-n", "web"]);
    }
    watcher.may_not(&["delete", "leases", "--all", "-n", "web"]);
    watcher.may_not(&["get", "lease", "portlb-load-balancer-0", "-n", "web"]);

    let about = json!({"apiVersion": "v1", "kind": "Service", "name": "web", "namespace": "web"});
    let event = json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": "web.event", "namespace": "web"},
        "eventTime": "2026-11-21T00:00:00.000000Z",
        "reportingController": "portlb.io/pod-watcher",
        "reportingInstance": "load-balancer-0",
        "action": "Converting",
        "reason": "BadAnnotation",
        "regarding": about,
        "type": "Warning",
    });
    watcher.may_create(&["create"], &event);
    let events = "/apis/events.k8s.io/v1/namespaces/web/events/web.event";
    let series = json!({"count": 2, "lastObservedTime": "2026-11-21T00:01:00.000000Z"});
    watcher.may_patch(events, &json!({"series": series}));

    watcher.may_not(&["delete", "service", "web", "-n", "web"]);
    let labels = json!({"metadata": {"labels": {"a": "b"}}});
    let (status, answer) = watcher.patch("/api/v1/namespaces/web/services/web", &labels);
    assert_eq!(status, "403", "{answer}");
    watcher.may_not(&["get", "secrets", "-n", "web"]);
    watcher.may_not(&["get", "configmaps", "-n", "web"]);
    watcher.may_not(&["get", "pods", "-n", "web"]);
    watcher.may_not(&["get", "services", "-n", "portlb-system"]);
    watcher.may_not(&["get", "services", "--all-namespaces"]);
    watcher.may_not(&["get", "nodes"]);
    watcher.may_not(&["create", "token", "load-balancer", "-n", "web"]);
}

#[test]
fn with_the_component_pod_weights_pod_watcher_may_list_and_watch_pods() {
    let api = start("pod-weights");
    apply(&api, "overlays/flat-l2");
    let rendered = component("pod-weights", "load-balancer");
    api.kubectl_with_input(&["apply", "-f", "-"], &rendered.yaml)
        .unwrap();
    let watcher = watcher(&api);
    watcher.may_list_and_watch("/api/v1/namespaces/web/pods");
    watcher.may_list_and_watch("/api/v1/namespaces/web/services");
    watcher.may_not(&["delete", "pod", "web-0", "-n", "web"]);
}

#[test]
fn a_cluster_wide_pod_watcher_may_watch_services_and_write_status_in_every_namespace() {
    let api = start("cluster-wide");
    apply(&api, "overlays/flat-l2");
    apply(&api, "examples/second-application");
    let rendered = component("cluster-wide-watcher", "load-balancer");
    api.kubectl_with_input(&["apply", "-f", "-"], &rendered.yaml)
        .unwrap();
    let map = rendered.get("ConfigMap", "web", "pod-watcher");
    assert_eq!(map["data"]["PORTLB_ALL_NAMESPACES"], "true");
    let watcher = watcher(&api);
    watcher.may_list_and_watch("/api/v1/services");
    watcher.may_list_and_watch("/apis/discovery.k8s.io/v1/endpointslices");
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "10.1.2.10"}]}}});
    watcher.may_patch("/api/v1/namespaces/shop/services/web/status", &status);
    watcher.may_not(&["get", "secrets", "--all-namespaces"]);
    watcher.may_not(&["get", "leases", "-n", "shop"]);
}

#[test]
fn a_load_balancer_with_a_file_source_has_no_rights_and_no_token() {
    let rendered = component("file-source", "load-balancer");
    for kind in ["Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"] {
        assert_eq!(rendered.of_kind(kind).count(), 0, "{kind}");
    }
    for pod in rendered.pods() {
        for volume in list(&pod.spec["volumes"]) {
            assert!(volume["projected"].is_null(), "{}: {volume}", pod.name);
        }
    }
}
