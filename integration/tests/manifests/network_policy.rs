//! Tests of the NetworkPolicy of the reflectors.

use serde_json::{Value, json};

use crate::rendered::{APPLIED, applied, list, text};

/// Reports whether the `matchLabels` of a selector are not empty and are all among `labels`.
fn is_selected(selector: &Value, labels: &Value) -> bool {
    let wanted = selector["matchLabels"].as_object().unwrap();
    !wanted.is_empty() && wanted.iter().all(|(name, value)| labels[name] == *value)
}

#[test]
fn only_load_balancers_of_labelled_namespaces_may_reach_the_bgp_port_of_the_reflectors() {
    let overlays = APPLIED.iter().filter(|path| path.starts_with("overlays/"));
    let mut checked = 0;
    for path in overlays {
        let rendered = applied(path);
        let policy = rendered.get("NetworkPolicy", "portlb-system", "route-reflector");
        assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress"]), "{path}");
        let reflector = rendered.get("StatefulSet", "portlb-system", "route-reflector");
        let labels = &reflector["spec"]["template"]["metadata"]["labels"];
        assert!(
            is_selected(&policy["spec"]["podSelector"], labels),
            "{path}"
        );

        let mut rules = list(&policy["spec"]["ingress"]).iter();
        let mut bgp = rules.clone().filter(|rule| !rule["from"].is_null());
        let from = list(&bgp.next().unwrap()["from"]);
        assert!(bgp.next().is_none(), "{path}");
        // The list `from` must have one entry with both selectors. With one entry for each
        // selector, the policy would also allow pods that match only one selector.
        let [from] = from else {
            panic!("{path}: {from:?}");
        };
        let allows_all = |rule: &Value| rule["from"].is_null();
        let open = rules.find(|rule| allows_all(rule)).unwrap();
        assert_eq!(open["ports"], json!([{"port": "reflector"}]), "{path}");

        for name in ["namespaceSelector", "podSelector"] {
            let labels = from[name]["matchLabels"].as_object().unwrap();
            let are_of_portlb = labels.keys().all(|label| label.starts_with("portlb.io/"));
            assert!(are_of_portlb && !labels.is_empty(), "{path}: {labels:?}");
        }
        let load_balancer = rendered.get("Deployment", "web", "load-balancer");
        let labels = &load_balancer["spec"]["template"]["metadata"]["labels"];
        assert!(is_selected(&from["podSelector"], labels), "{path}");
        let namespaces = rendered.of_kind("Namespace");
        let mut selected = namespaces.filter(|namespace| {
            let labels = &namespace["metadata"]["labels"];
            is_selected(&from["namespaceSelector"], labels)
        });
        assert_eq!(text(&selected.next().unwrap()["metadata"]["name"]), "web");
        assert!(selected.next().is_none(), "{path}");
        checked += 1;
    }
    assert!(checked >= 4, "only {checked} overlays were checked");
}

#[test]
fn the_load_balancer_of_a_second_application_may_connect_to_the_reflectors() {
    let shop = applied("examples/second-application");
    let policies = applied("overlays/flat-l2");
    let policy = policies.get("NetworkPolicy", "portlb-system", "route-reflector");
    let from = &policy["spec"]["ingress"][0]["from"][0];
    let namespace = shop.of_kind("Namespace").next().unwrap();
    let labels = &namespace["metadata"]["labels"];
    assert!(is_selected(&from["namespaceSelector"], labels));
    let load_balancer = shop.get("Deployment", "shop", "load-balancer");
    let labels = &load_balancer["spec"]["template"]["metadata"]["labels"];
    assert!(is_selected(&from["podSelector"], labels));
}
