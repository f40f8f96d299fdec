//! Control planes for the tests, and one namespace for each test.
//!
//! All tests that do not restart their control plane share one control plane.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use lab::kubernetes::ControlPlane;
use tempfile::TempDir;

const LIFETIME: Duration = Duration::from_secs(3600);

/// A control plane and the temporary folder of its files.
pub(crate) struct TestControlPlane {
    pub(crate) control: ControlPlane,
    pub(crate) directory: TempDir,
}

/// A namespace with the ServiceAccount `portlb`, to which a RoleBinding gives the Role `portlb`.
pub(crate) struct TestNamespace<'a> {
    pub(crate) cluster: &'a TestControlPlane,
    pub(crate) name: &'static str,
}

impl TestControlPlane {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let control = ControlPlane::start(&directory.path().join("control-plane")).unwrap();
        Self { control, directory }
    }

    /// Returns the shared control plane. The first call starts the control plane, and the end of
    /// the test program ends it.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<TestControlPlane> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    pub(crate) fn namespace(&self, name: &'static str) -> TestNamespace<'_> {
        self.control.create_namespace(name).unwrap();
        let namespace = TestNamespace {
            cluster: self,
            name,
        };
        namespace.kubectl(&["create", "serviceaccount", "portlb"]);
        namespace.grant(ALL_RULES);
        namespace.kubectl(&[
            "create",
            "rolebinding",
            "portlb",
            "--role=portlb",
            &format!("--serviceaccount={name}:portlb"),
        ]);
        namespace
    }
}

/// All rules that `manifests/` grant to pod-watcher in its namespace, with the rule for pods of the
/// component pod-weights.
pub(crate) const ALL_RULES: &str = r#"
- {apiGroups: [""], resources: [services], verbs: [list, watch]}
- {apiGroups: [""], resources: [services/status], verbs: [patch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
- {apiGroups: [""], resources: [pods], verbs: [list, watch]}
- {apiGroups: [coordination.k8s.io], resources: [leases], resourceNames: [portlb], verbs: [get, update]}
- {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [list, watch, create, patch]}
- {apiGroups: [events.k8s.io], resources: [events], verbs: [create, patch]}
"#;

impl TestNamespace<'_> {
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> String {
        let arguments = [&["-n", self.name], arguments].concat();
        self.cluster.control.kubectl(&arguments).unwrap()
    }

    pub(crate) fn apply(&self, manifest: &str) {
        let arguments = ["-n", self.name, "apply", "-f", "-"];
        let control = &self.cluster.control;
        control.kubectl_with_input(&arguments, manifest).unwrap();
    }

    /// Replaces the rules of the Role `portlb`.
    pub(crate) fn grant(&self, rules: &str) {
        self.apply(&format!(
            "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {{name: portlb}}\n\
             rules: {rules}"
        ));
    }

    pub(crate) fn token(&self) -> String {
        self.cluster
            .control
            .token(self.name, "portlb", LIFETIME)
            .unwrap()
    }

    /// Writes a kubeconfig that connects to `server` as the ServiceAccount `portlb`.
    pub(crate) fn kubeconfig(&self, server: SocketAddr) -> PathBuf {
        let control = &self.cluster.control;
        control
            .kubeconfig_for(self.name, server, &self.token())
            .unwrap()
    }

    /// Applies a Service with portlb's load balancer class and port 80. `annotations` is a YAML
    /// flow mapping without braces.
    pub(crate) fn apply_service(&self, name: &str, annotations: &str) {
        self.apply(&format!(
            "apiVersion: v1
kind: Service
metadata:
  name: {name}
  annotations: {{{annotations}}}
spec:
  type: LoadBalancer
  loadBalancerClass: portlb.io/portlb
  allocateLoadBalancerNodePorts: false
  ports: [{{port: 80}}]
"
        ));
    }

    /// Applies an EndpointSlice of the Service `service`. All its endpoints, `addresses`, are
    /// ready.
    pub(crate) fn apply_endpoints(&self, service: &str, addresses: &[&str]) {
        let endpoints: Vec<String> = addresses
            .iter()
            .map(|address| format!("{{addresses: [{address}], conditions: {{ready: true}}}}"))
            .collect();
        self.apply(&format!(
            "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {service}-1
  labels: {{kubernetes.io/service-name: {service}}}
addressType: IPv4
ports: [{{port: 80, protocol: TCP}}]
endpoints: [{}]
",
            endpoints.join(", ")
        ));
    }

    pub(crate) fn jsonpath(&self, object: &str, path: &str) -> String {
        self.kubectl(&["get", object, "-o", &format!("jsonpath={path}")])
    }
}
