//! Tests of the lab's Kubernetes control plane.
//!
//! The tests run on the machine's own kernel, without root. They need the programs that
//! `environment/install packages kubernetes` installs.

use std::path::PathBuf;
use std::time::Duration;

use lab::kubernetes::{ControlPlane, FaultProxy};

const SOON: Duration = Duration::from_secs(20);

fn directory(name: &str) -> PathBuf {
    lab::repository().join("target/lab").join(name)
}

#[test]
fn an_api_server_has_its_objects_and_its_address_after_a_restart() {
    let mut control_plane = ControlPlane::start(&directory("kubernetes-restart")).unwrap();
    let address = control_plane.address();
    let version = [
        "get",
        "namespace",
        "default",
        "-o",
        "jsonpath={.metadata.resourceVersion}",
    ];
    let before = control_plane.kubectl(&version).unwrap();
    control_plane.create_namespace("web").unwrap();

    control_plane.stop().unwrap();
    let refused = control_plane.kubectl(&["get", "namespaces"]).unwrap_err();
    assert!(format!("{refused:#}").contains("refused"), "{refused:#}");

    control_plane.restart().unwrap();
    assert_eq!(control_plane.address(), address);
    let accounts = control_plane.kubectl(&["get", "serviceaccounts", "-n", "web", "-o", "name"]);
    assert_eq!(accounts.unwrap(), "serviceaccount/default\n");
    let watch = format!("/api/v1/namespaces?watch=1&timeoutSeconds=1&resourceVersion={before}");
    let gone = control_plane.kubectl(&["get", "--raw", &watch]).unwrap();
    assert!(gone.contains(r#""code":410"#), "{gone}");
}

#[test]
fn a_service_account_has_only_the_rights_of_its_role_through_a_proxy() {
    let control_plane = ControlPlane::start(&directory("kubernetes-token")).unwrap();
    control_plane.create_namespace("web").unwrap();
    for arguments in [
        &[
            "create",
            "role",
            "reader",
            "--verb=list",
            "--resource=services",
        ][..],
        &[
            "create",
            "rolebinding",
            "reader",
            "--role=reader",
            "--serviceaccount=web:default",
        ],
    ] {
        control_plane
            .kubectl(&[arguments, &["-n", "web"]].concat())
            .unwrap();
    }
    let token = control_plane
        .token("web", "default", Duration::from_secs(600))
        .unwrap();
    let proxy = FaultProxy::start(control_plane.address()).unwrap();
    let kubeconfig = control_plane
        .kubeconfig_for("reader", proxy.address(), &token)
        .unwrap();
    let list = |resource| {
        // kubectl uses the last `--kubeconfig` option if it gets several.
        let as_reader = ["--kubeconfig", kubeconfig.to_str().unwrap()];
        control_plane.kubectl(
            &[
                &as_reader[..],
                &["get", resource, "-n", "web", "-o", "name"],
            ]
            .concat(),
        )
    };
    assert_eq!(list("services").unwrap(), "");
    assert!(proxy.accepted() > 0);
    let forbidden = format!("{:#}", list("pods").unwrap_err());
    assert!(
        forbidden.contains("system:serviceaccount:web:default"),
        "{forbidden}"
    );
    proxy.refuse().unwrap();
    let refused = format!("{:#}", list("services").unwrap_err());
    assert!(refused.contains("refused"), "{refused}");
}

#[test]
fn a_client_that_trusts_the_old_certificate_authority_refuses_the_new_certificate() {
    let mut control_plane = ControlPlane::start(&directory("kubernetes-authority")).unwrap();
    let old = directory("kubernetes-authority").join("old.crt");
    std::fs::copy(control_plane.authority(), &old).unwrap();
    control_plane.restart_with_new_authority().unwrap();
    control_plane.kubectl(&["get", "namespaces"]).unwrap();
    let trusting_the_old = [
        "--certificate-authority",
        old.to_str().unwrap(),
        "get",
        "namespaces",
    ];
    let error = format!(
        "{:#}",
        control_plane.kubectl(&trusting_the_old).unwrap_err()
    );
    assert!(error.contains("certificate"), "{error}");
}

#[test]
fn controllers_create_endpoint_slices_of_pods_that_are_ready() {
    let mut control_plane = ControlPlane::start(&directory("kubernetes-controllers")).unwrap();
    control_plane.start_controllers(&[]).unwrap();
    control_plane
        .kubectl(&["create", "namespace", "web"])
        .unwrap();
    lab::wait_for(
        "the controllers have created the ServiceAccount of the namespace",
        SOON,
        || control_plane.kubectl(&["get", "serviceaccount", "default", "-n", "web"]),
    )
    .unwrap();
    let objects = r#"{"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
         "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}},
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "labels": {"app": "web"}},
         "spec": {"nodeName": "node-a", "containers": [{"name": "web", "image": "none"}]}}]}"#;
    control_plane
        .kubectl_with_input(&["apply", "-n", "web", "-f", "-"], objects)
        .unwrap();
    let status = r#"{"status": {"phase": "Running", "podIP": "10.244.1.5", "podIPs": [{"ip": "10.244.1.5"}],
        "conditions": [{"type": "Ready", "status": "True"}]}}"#;
    let patch = [
        "patch",
        "pod",
        "web",
        "-n",
        "web",
        "--subresource=status",
        "-p",
        status,
    ];
    control_plane.kubectl(&patch).unwrap();
    lab::wait_for("the pod is an endpoint", SOON, || {
        let path = "{.items[*].endpoints[*].addresses[*]}";
        let get = [
            "get",
            "endpointslices",
            "-n",
            "web",
            "-o",
            &format!("jsonpath={path}"),
        ];
        let addresses = control_plane
            .kubectl(&get)
            .map_err(|error| format!("{error:#}"))?;
        lab::ensure_that(addresses == "10.244.1.5", addresses)
    })
    .unwrap();
}
