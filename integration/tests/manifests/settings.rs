//! Tests that settings of different manifests fit together.

use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::rendered::{RenderedManifests, applied, component, components, everything, list, text};

fn prefixes(variable: &str) -> BTreeSet<&str> {
    variable.split(',').collect()
}

/// Returns the value of an environment variable of the bgp-announcer in a namespace.
fn announcer_variable<'a>(rendered: &'a RenderedManifests, namespace: &str, name: &str) -> &'a str {
    text(&rendered.get("ConfigMap", namespace, "bgp-announcer")["data"][name])
}

#[test]
fn announcers_connect_to_the_addresses_of_the_reflectors_services() {
    for (name, namespace) in [
        ("overlays/flat-l2", "web"),
        ("overlays/calico", "web"),
        ("overlays/cilium", "web"),
        ("overlays/single-node", "web"),
        ("examples/second-application", "shop"),
    ] {
        let system = applied("overlays/flat-l2");
        let rendered = applied(name);
        let peers = announcer_variable(&rendered, namespace, "PORTLB_PEER");
        let peers: Vec<&str> = peers.split(' ').collect();
        let expected = ["route-reflector-0", "route-reflector-1"].map(|service| {
            let spec = &system.get("Service", "portlb-system", service)["spec"];
            format!("{},name={service}", text(&spec["clusterIP"]))
        });
        assert_eq!(peers, expected, "{name}");
    }
}

#[test]
fn node_router_and_reflectors_allow_every_prefix_of_the_announcers() {
    let system = applied("overlays/flat-l2");
    let node_router = system.get("ConfigMap", "portlb-system", "node-router");
    let routed = prefixes(text(&node_router["data"]["PORTLB_ALLOWED_PREFIXES"]));
    let reflector = &system.get("ConfigMap", "portlb-system", "route-reflector")["data"];
    let reflector = text(&reflector["route-reflector.yaml"]);
    for (name, namespace) in [
        ("overlays/flat-l2", "web"),
        ("examples/second-application", "shop"),
    ] {
        let rendered = applied(name);
        let announced = announcer_variable(&rendered, namespace, "PORTLB_ALLOWED_PREFIXES");
        for prefix in prefixes(announced) {
            assert!(
                routed.contains(prefix),
                "{name}: node-router does not allow {prefix}"
            );
            assert!(
                reflector.contains(&format!("prefix: {prefix},")),
                "{name}: the reflectors do not allow {prefix}"
            );
        }
        let asn = announcer_variable(&rendered, namespace, "PORTLB_ASN");
        assert!(
            reflector.contains(&format!("asn: {asn}\n")),
            "{name}: the AS of the reflectors is not {asn}, the AS of the announcers"
        );
    }
}

/// A reflector refuses the paths of a load balancer beyond `maximumPaths`, so addresses beyond this
/// limit would not be announced.
#[test]
fn a_reflector_accepts_a_path_for_each_address_of_a_load_balancer() {
    let system = applied("overlays/flat-l2");
    let reflector = &system.get("ConfigMap", "portlb-system", "route-reflector")["data"];
    let maximum_paths: u64 = text(&reflector["route-reflector.yaml"])
        .lines()
        .find_map(|line| line.trim().strip_prefix("maximumPaths: "))
        .expect("the reflectors' file has maximumPaths")
        .parse()
        .expect("maximumPaths is a number");
    for (name, namespace) in [
        ("overlays/flat-l2", "web"),
        ("examples/second-application", "shop"),
    ] {
        let rendered = applied(name);
        let announced = announcer_variable(&rendered, namespace, "PORTLB_ALLOWED_PREFIXES");
        let addresses: u64 = prefixes(announced)
            .into_iter()
            .map(|prefix| match prefix.parse().expect("a prefix") {
                IpNet::V4(prefix) => 1 << (32 - prefix.prefix_len()),
                // No load balancer announces each address of an IPv6 range, so a smaller number is
                // enough.
                IpNet::V6(_) => 256,
            })
            .sum();
        assert!(addresses > 0, "{name}: {announced}");
        // The announcer can also announce each range as a whole, so the limit must be larger than
        // the number of addresses.
        assert!(
            maximum_paths > addresses,
            "{name}: maximumPaths must be larger than {addresses} addresses"
        );
    }
}

#[test]
fn the_examples_use_addresses_that_their_load_balancer_may_announce() {
    for (name, address, range, tunnel) in [
        ("examples/web/tunnel", "10.1.1.10", "10.1.1.0/24", true),
        ("examples/web/masquerade", "10.1.1.20", "10.1.1.0/24", false),
        (
            "examples/second-application",
            "10.1.2.10",
            "10.1.2.0/24",
            true,
        ),
    ] {
        let rendered = applied(name);
        let service = rendered.of_kind("Service").next().unwrap();
        assert_eq!(
            service["metadata"]["annotations"]["portlb.io/address"], address,
            "{name}"
        );
        assert_eq!(
            service["spec"]["loadBalancerClass"], "portlb.io/portlb",
            "{name}"
        );
        let pods = rendered.pods();
        let web = pods
            .iter()
            .find(|pod| pod.name.contains("Deployment/web"))
            .unwrap();
        let init: Vec<_> = list(&web.spec["initContainers"]).iter().collect();
        assert_eq!(init.len(), usize::from(tunnel), "{name}");
        if tunnel {
            assert_eq!(
                init[0]["args"][0],
                format!("--service-ranges={range}"),
                "{name}"
            );
            // A tunnel does not change the port of a packet, so the port of the container must be
            // equal to the port of the Service.
            assert_eq!(
                web.spec["containers"][0]["ports"][0]["containerPort"], 80,
                "{name}"
            );
            assert_eq!(service["spec"]["ports"][0]["port"], 80, "{name}");
        }
    }
}

#[test]
fn pod_watcher_validates_the_examples_without_findings() {
    for name in [
        "examples/web/tunnel",
        "examples/web/masquerade",
        "examples/second-application",
    ] {
        let rendered = applied(name);
        let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
        std::fs::write(file.path(), &rendered.yaml).unwrap();
        let validate = |path: &std::path::Path| {
            let mut command = lab::daemons::command("pod-watcher").unwrap();
            command.arg("validate").arg(path).output().unwrap()
        };
        let output = validate(file.path());
        assert!(output.status.success(), "{name}: {output:?}");
        // `validate` must find an unknown annotation. This shows that `validate` really reads the
        // file.
        let misspelled = rendered
            .yaml
            .replace("portlb.io/address: ", "portlb.io/addres: ");
        std::fs::write(file.path(), misspelled).unwrap();
        let output = validate(file.path());
        assert_eq!(output.status.code(), Some(2), "{name}: {output:?}");
    }
}

/// The namespaces and the objects of the example application do not have the label
/// `app.kubernetes.io/part-of`. So they stay when a user deletes portlb by this label.
#[test]
fn exactly_the_objects_of_portlb_have_the_label_part_of() {
    let mut labelled = 0;
    for rendered in everything() {
        for object in &rendered.objects {
            let (kind, metadata) = (text(&object["kind"]), &object["metadata"]);
            let name = text(&metadata["name"]);
            let is_of_portlb = kind != "Namespace" && !["web", "web-masquerade"].contains(&name);
            assert_eq!(
                metadata["labels"]["app.kubernetes.io/part-of"].as_str(),
                is_of_portlb.then_some("portlb"),
                "{}: {kind} {name}",
                rendered.name
            );
            labelled += usize::from(is_of_portlb);
        }
    }
    assert!(
        labelled > 50,
        "only {labelled} objects have the label part-of"
    );
}

#[test]
fn a_cluster_wide_pod_watcher_may_watch_pods_only_with_pod_weights() {
    let may_watch_pods = |rendered: &RenderedManifests| {
        let role = rendered.of_kind("ClusterRole").next().unwrap();
        let mut rules = list(&role["rules"]).iter();
        rules.any(|rule| {
            list(&rule["resources"])
                .iter()
                .any(|resource| resource == "pods")
                && ["list", "watch"]
                    .iter()
                    .all(|verb| list(&rule["verbs"]).iter().any(|allowed| allowed == verb))
        })
    };
    let mut both = ["cluster-wide-watcher", "pod-weights"];
    for _ in 0..2 {
        let rendered = components(&both, "load-balancer");
        let map = rendered.get("ConfigMap", "web", "pod-watcher");
        assert_eq!(map["data"]["PORTLB_ALL_NAMESPACES"], "true");
        assert_eq!(map["data"]["PORTLB_POD_WEIGHTS"], "true");
        assert!(may_watch_pods(&rendered), "{}", rendered.name);
        both.reverse();
    }
    let alone = component("cluster-wide-watcher", "load-balancer");
    assert!(
        !may_watch_pods(&alone),
        "without pod-weights the right to watch pods is unused"
    );
}
