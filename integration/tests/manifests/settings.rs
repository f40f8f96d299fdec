//! Values that stand in two places are the same in both.

use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::rendered::{Rendered, applied, component, components, everything, list, text};

fn prefixes(variable: &str) -> BTreeSet<&str> {
    variable.split(',').collect()
}

/// The variables of a load balancer's announcer.
fn announcer<'a>(rendered: &'a Rendered, namespace: &str, name: &str) -> &'a str {
    text(&rendered.get("ConfigMap", namespace, "bgp-announcer")["data"][name])
}

#[test]
fn announcers_speak_to_the_addresses_of_the_reflectors_services() {
    for (name, namespace) in [
        ("overlays/flat-l2", "web"),
        ("overlays/calico", "web"),
        ("overlays/cilium", "web"),
        ("overlays/single-node", "web"),
        ("examples/second-application", "shop"),
    ] {
        let system = applied("overlays/flat-l2");
        let rendered = applied(name);
        let peers = announcer(&rendered, namespace, "PORTLB_PEER");
        let peers: Vec<&str> = peers.split(' ').collect();
        let expected = ["route-reflector-0", "route-reflector-1"].map(|service| {
            let spec = &system.get("Service", "portlb-system", service)["spec"];
            format!("{},name={service}", text(&spec["clusterIP"]))
        });
        assert_eq!(peers, expected, "{name}");
    }
}

#[test]
fn what_a_load_balancer_announces_its_node_and_its_reflectors_allow() {
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
        let announced = announcer(&rendered, namespace, "PORTLB_ALLOWED_PREFIXES");
        for prefix in prefixes(announced) {
            assert!(
                routed.contains(prefix),
                "{name}: node-router refuses {prefix}"
            );
            assert!(
                reflector.contains(&format!("prefix: {prefix},")),
                "{name}: {prefix}"
            );
        }
        let asn = announcer(&rendered, namespace, "PORTLB_ASN");
        assert!(
            reflector.contains(&format!("asn: {asn}\n")),
            "{name}: AS {asn}"
        );
    }
}

/// The 101st of 126 addresses once ended the sessions of all load balancers.
#[test]
fn a_reflector_accepts_a_path_for_each_address_of_a_load_balancer() {
    let system = applied("overlays/flat-l2");
    let reflector = &system.get("ConfigMap", "portlb-system", "route-reflector")["data"];
    let maximum_paths: u64 = text(&reflector["route-reflector.yaml"])
        .lines()
        .find_map(|line| line.trim().strip_prefix("maximumPaths: "))
        .expect("the reflectors' file has a limit")
        .parse()
        .expect("the limit is a number");
    for (name, namespace) in [
        ("overlays/flat-l2", "web"),
        ("examples/second-application", "shop"),
    ] {
        let rendered = applied(name);
        let announced = announcer(&rendered, namespace, "PORTLB_ALLOWED_PREFIXES");
        let addresses: u64 = prefixes(announced)
            .into_iter()
            .map(|prefix| match prefix.parse().expect("a prefix") {
                IpNet::V4(prefix) => 1 << (32 - prefix.prefix_len()),
                // No load balancer announces each address of an IPv6 range.
                IpNet::V6(_) => 256,
            })
            .sum();
        assert!(addresses > 0, "{name}: {announced}");
        // The ranges themselves may be announced, too.
        assert!(maximum_paths > addresses, "{name}: {addresses} addresses");
    }
}

#[test]
fn the_examples_serve_addresses_that_their_load_balancer_may_announce() {
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
            // Tunnels leave the port as it is.
            assert_eq!(
                web.spec["containers"][0]["ports"][0]["containerPort"], 80,
                "{name}"
            );
            assert_eq!(service["spec"]["ports"][0]["port"], 80, "{name}");
        }
    }
}

#[test]
fn the_watcher_finds_nothing_wrong_with_the_examples() {
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
        // That it looks at all.
        let spoilt = rendered
            .yaml
            .replace("portlb.io/address: ", "portlb.io/addres: ");
        std::fs::write(file.path(), spoilt).unwrap();
        let output = validate(file.path());
        assert_eq!(output.status.code(), Some(2), "{name}: {output:?}");
    }
}

/// Namespaces and the example's application are not part of portlb, so that what is deleted by
/// the label leaves them.
#[test]
fn every_object_of_ours_and_no_other_has_the_label_that_it_is_deleted_by() {
    let mut ours = 0;
    for rendered in everything() {
        for object in &rendered.objects {
            let (kind, metadata) = (text(&object["kind"]), &object["metadata"]);
            let name = text(&metadata["name"]);
            let is_ours = kind != "Namespace" && !["web", "web-masquerade"].contains(&name);
            assert_eq!(
                metadata["labels"]["app.kubernetes.io/part-of"].as_str(),
                is_ours.then_some("portlb"),
                "{}: {kind} {name}",
                rendered.name
            );
            ours += usize::from(is_ours);
        }
    }
    assert!(ours > 50, "{ours} objects");
}

#[test]
fn a_watcher_of_a_whole_cluster_has_the_right_to_its_pods_where_it_watches_them() {
    let follows_pods = |rendered: &Rendered| {
        let role = rendered.of_kind("ClusterRole").next().unwrap();
        let mut rules = list(&role["rules"]).iter();
        rules.any(|rule| {
            list(&rule["resources"]).iter().any(|one| one == "pods")
                && ["list", "watch"]
                    .iter()
                    .all(|verb| list(&rule["verbs"]).iter().any(|one| one == verb))
        })
    };
    let mut both = ["cluster-wide-watcher", "pod-weights"];
    for _ in 0..2 {
        let rendered = components(&both, "load-balancer");
        let map = rendered.get("ConfigMap", "web", "pod-watcher");
        assert_eq!(map["data"]["PORTLB_ALL_NAMESPACES"], "true");
        assert_eq!(map["data"]["PORTLB_POD_WEIGHTS"], "true");
        assert!(follows_pods(&rendered), "{}", rendered.name);
        both.reverse();
    }
    let alone = component("cluster-wide-watcher", "load-balancer");
    assert!(!follows_pods(&alone), "no right that is not used");
}
