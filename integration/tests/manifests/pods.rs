//! Tests of the privileges of every pod.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::rendered::{Container, WorkloadPod, component, everything, list, text};

/// Programs that configure the kernel's network. They run as user 0 with `NET_ADMIN`.
const NET_ADMIN: &[&str] = &["ipvs-programmer", "node-router", "tunnel-init"];

fn each_pod(mut check: impl FnMut(&WorkloadPod<'_>)) {
    let mut count = 0;
    for rendered in everything() {
        for pod in rendered.pods() {
            check(&pod);
            count += 1;
        }
    }
    assert!(count > 10, "only {count} pods were found");
}

fn each_container(mut check: impl FnMut(&WorkloadPod<'_>, &Container<'_>)) {
    each_pod(|pod| {
        for container in pod.containers() {
            check(pod, &container);
        }
    });
}

/// Reports whether the container is the init container that sets sysctls. Only a privileged
/// container can set them.
fn is_privileged_init(container: &Container<'_>) -> bool {
    container.is_init && container.value["args"] == json!(["--set-sysctls"])
}

/// Returns a field of the container's securityContext. If the container does not set the field,
/// returns the field of the pod's securityContext.
fn effective<'a>(pod: &'a WorkloadPod<'_>, container: &'a Container<'_>, field: &str) -> &'a Value {
    let own = &container.value["securityContext"][field];
    if own.is_null() {
        &pod.spec["securityContext"][field]
    } else {
        own
    }
}

#[test]
fn only_programs_that_configure_the_kernel_have_net_admin_and_user_0() {
    each_container(|pod, container| {
        let name = &container.name;
        let is_admin = NET_ADMIN.contains(&container.program);
        let user = effective(pod, container, "runAsUser");
        assert_eq!(user, if is_admin { 0 } else { 65532 }, "{name}");
        let context = &container.value["securityContext"];
        assert_eq!(context["readOnlyRootFilesystem"], true, "{name}");
        if is_privileged_init(container) {
            assert_eq!(context["privileged"], true, "{name}");
            return;
        }
        assert!(context["privileged"].is_null(), "{name}");
        assert_eq!(context["allowPrivilegeEscalation"], false, "{name}");
        let capabilities = if is_admin {
            json!({"add": ["NET_ADMIN"], "drop": ["ALL"]})
        } else {
            json!({"drop": ["ALL"]})
        };
        assert_eq!(context["capabilities"], capabilities, "{name}");
        assert_eq!(
            effective(pod, container, "runAsNonRoot") == true,
            !is_admin,
            "{name}"
        );
    });
}

#[test]
fn each_container_runs_as_the_user_of_its_image() {
    each_container(|pod, container| {
        let file = format!("containers/{}/Containerfile", container.program);
        let file = std::fs::read_to_string(lab::repository().join(file)).unwrap();
        let user = file
            .lines()
            .find_map(|line| line.strip_prefix("USER "))
            .unwrap();
        let expected = effective(pod, container, "runAsUser").to_string();
        assert_eq!(
            user.split(':').next(),
            Some(expected.as_str()),
            "{}",
            container.name
        );
        assert_eq!(
            container.tag,
            env!("CARGO_PKG_VERSION"),
            "{}",
            container.name
        );
    });
}

#[test]
fn only_node_router_uses_the_nodes_network_and_the_only_host_folder_of_pods_is_run_portlb() {
    each_pod(|pod| {
        let name = &pod.name;
        let is_node_router = pod.kind == "DaemonSet";
        assert_eq!(pod.spec["hostNetwork"] == true, is_node_router, "{name}");
        for field in ["hostPID", "hostIPC", "shareProcessNamespace"] {
            assert!(pod.spec[field].is_null(), "{name}: {field}");
        }
        assert_eq!(
            pod.spec["securityContext"]["seccompProfile"]["type"], "RuntimeDefault",
            "{name}"
        );
        for volume in list(&pod.spec["volumes"]) {
            let path = &volume["hostPath"]["path"];
            assert!(path.is_null() || path == "/run/portlb", "{name}: {path}");
        }
        assert_eq!(pod.spec["enableServiceLinks"], false, "{name}");
    });
}

#[test]
fn only_pod_watcher_has_a_token_for_the_api_server() {
    let mut with_token = 0;
    each_pod(|pod| {
        assert_eq!(
            pod.spec["automountServiceAccountToken"], false,
            "{}",
            pod.name
        );
        let holds_token = |volume: &&Value| {
            let sources = list(&volume["projected"]["sources"]).iter();
            // A token without an audience is a token for the API server.
            sources.clone().any(|source| {
                let token = &source["serviceAccountToken"];
                !token.is_null() && token["audience"].is_null()
            })
        };
        let volumes = list(&pod.spec["volumes"]).iter().filter(holds_token);
        let names: Vec<&str> = volumes.map(|volume| text(&volume["name"])).collect();
        for container in pod.containers() {
            let mounts = list(&container.value["volumeMounts"]).iter();
            for mount in mounts.filter(|mount| names.contains(&text(&mount["name"]))) {
                assert_eq!(container.program, "pod-watcher", "{}", container.name);
                assert_eq!(mount["readOnly"], true, "{}", container.name);
                with_token += 1;
            }
        }
    });
    assert!(with_token > 0);
}

#[test]
fn announcer_and_node_router_share_a_group_and_mount_only_the_socket_folder() {
    each_container(|pod, container| {
        if ["bgp-announcer", "node-router"].contains(&container.program) {
            assert_eq!(
                effective(pod, container, "runAsGroup"),
                65532,
                "{}",
                container.name
            );
            let mounts = list(&container.value["volumeMounts"]).iter();
            let folders: Vec<&str> = mounts
                .map(|mount| text(&mount["mountPath"]))
                // The mounts of the components tcp-md5 and hold-token are left out, because other
                // tests check them.
                .filter(|folder| {
                    ![
                        "/run/secrets/bgp-tcp-md5",
                        "/run/secrets/portlb-hold-token",
                        "/etc/portlb/hold-token-keys",
                    ]
                    .contains(folder)
                })
                .collect();
            assert_eq!(folders, ["/run/portlb"], "{}", container.name);
        }
    });
}

#[test]
fn only_announcer_and_reflector_containers_mount_the_tcp_md5_key() {
    const SECRET: &str = "bgp-tcp-md5";
    let mut signing = BTreeSet::new();
    for base in ["load-balancer", "route-reflector"] {
        let rendered = component("tcp-md5", base);
        for pod in rendered.pods() {
            let volumes = list(&pod.spec["volumes"]).iter();
            let mut secrets = volumes.filter(|volume| !volume["secret"].is_null());
            let secret = &secrets.next().unwrap()["secret"];
            assert_eq!(secret["secretName"], SECRET, "{}", pod.name);
            // Only the owner and the group may read the key.
            assert_eq!(secret["defaultMode"], 0o440, "{}", pod.name);
            assert!(secrets.next().is_none(), "{}", pod.name);
            for container in pod.containers() {
                let mounts = list(&container.value["volumeMounts"]).iter();
                let mut mounts = mounts.filter(|mount| mount["name"] == SECRET);
                let Some(mount) = mounts.next() else {
                    continue;
                };
                assert_eq!(mount["readOnly"], true, "{}", container.name);
                let folder = text(&mount["mountPath"]);
                assert_eq!(folder, format!("/run/secrets/{SECRET}"));
                let group = &pod.spec["securityContext"]["fsGroup"];
                assert_eq!(effective(&pod, &container, "runAsGroup"), group);
                let variables = list(&container.value["env"]).iter();
                let mut files =
                    variables.filter(|variable| variable["name"] == "PORTLB_MD5_KEY_FILE");
                let file = files
                    .next()
                    .map(|variable| text(&variable["value"]).to_owned());
                let expected = (base == "load-balancer").then(|| format!("{folder}/key"));
                assert_eq!(file, expected, "{}", container.name);
                signing.insert(container.program.to_owned());
            }
        }
        assert_eq!(
            rendered.of_kind("Secret").count(),
            0,
            "the manifests must not contain a Secret, since a published key is not secret"
        );
    }
    assert_eq!(
        Vec::from_iter(signing),
        ["bgp-announcer", "route-reflector"]
    );
}

#[test]
fn only_the_announcer_mounts_the_hold_token() {
    let rendered = component("hold-token", "load-balancer");
    let pods = rendered.pods();
    let [pod] = &pods[..] else {
        panic!("expected one workload");
    };
    let volumes = list(&pod.spec["volumes"]).iter();
    let mut volumes = volumes.filter(|volume| volume["name"] == "hold-token");
    let projected = &volumes.next().unwrap()["projected"];
    assert_eq!(projected["defaultMode"], 0o440);
    let token = json!([{"serviceAccountToken":
        {"path": "token", "audience": "portlb", "expirationSeconds": 3607}}]);
    assert_eq!(projected["sources"], token);
    for container in pod.containers() {
        let is_announcer = container.program == "bgp-announcer";
        let mounts = list(&container.value["volumeMounts"]).iter();
        let mut mounts = mounts.filter(|mount| mount["name"] == "hold-token");
        let folder = "/run/secrets/portlb-hold-token";
        let mount = json!({"name": "hold-token", "mountPath": folder, "readOnly": true});
        assert_eq!(mounts.next(), is_announcer.then_some(&mount));
        if is_announcer {
            let file =
                json!({"name": "PORTLB_HOLD_TOKEN_FILE", "value": format!("{folder}/token")});
            assert!(list(&container.value["env"]).contains(&file));
            let group = &pod.spec["securityContext"]["fsGroup"];
            assert_eq!(effective(pod, &container, "runAsGroup"), group);
        }
    }
}

#[test]
fn with_the_component_hold_token_node_router_requires_tokens_and_mounts_the_token_keys() {
    let rendered = component("hold-token", "node-router");
    let pods = rendered.pods();
    let [pod] = &pods[..] else {
        panic!("expected one workload");
    };
    let volume = json!({"name": "hold-token-keys", "configMap": {"name": "hold-token-keys"}});
    assert!(list(&pod.spec["volumes"]).contains(&volume));
    let [container] = &pod.containers()[..] else {
        panic!("expected one container");
    };
    let folder = "/etc/portlb/hold-token-keys";
    let mount = json!({"name": "hold-token-keys", "mountPath": folder, "readOnly": true});
    assert!(list(&container.value["volumeMounts"]).contains(&mount));
    let variables = list(&container.value["env"]);
    for (name, value) in [
        ("PORTLB_HOLD_PROOF", "token".to_owned()),
        ("PORTLB_TOKEN_KEYS_FILE", format!("{folder}/jwks.json")),
    ] {
        assert!(
            variables.contains(&json!({"name": name, "value": value})),
            "{name}"
        );
    }
    let maps = rendered.of_kind("ConfigMap");
    let mut names = maps.map(|map| text(&map["metadata"]["name"]));
    assert!(
        names.all(|name| !name.starts_with("hold-token-keys")),
        "the manifests must not contain token keys, since each cluster has different keys"
    );
}

#[test]
fn every_container_has_resources_and_every_daemon_has_a_liveness_probe() {
    each_container(|_, container| {
        let name = &container.name;
        let resources = &container.value["resources"];
        for field in ["/requests/cpu", "/requests/memory", "/limits/memory"] {
            assert!(resources.pointer(field).is_some(), "{name}: {field}");
        }
        // A CPU limit can throttle a daemon until its sessions end.
        assert!(resources.pointer("/limits/cpu").is_none(), "{name}");
        let is_daemon = !container.is_init && container.program != "example-web";
        if is_daemon {
            let probe = &container.value["livenessProbe"]["httpGet"];
            assert_eq!(probe["path"], "/healthz", "{name}");
            let ports = list(&container.value["ports"]).iter();
            let mut names = ports.map(|port| &port["name"]);
            assert!(names.any(|port| *port == probe["port"]), "{name}");
        }
    });
}

#[test]
fn workloads_are_spread_over_nodes_and_have_a_priority_class() {
    each_pod(|pod| {
        let name = &pod.name;
        let spread = &pod.spec["topologySpreadConstraints"];
        let apart = &pod.spec["affinity"]["podAntiAffinity"];
        let is_spread = !spread.is_null() || !apart.is_null() || pod.kind == "DaemonSet";
        assert!(is_spread, "{name}");
        if !name.contains("Deployment/web") {
            let class = text(&pod.spec["priorityClassName"]);
            assert!(class.starts_with("system-"), "{name}: {class}");
        }
    });
}
