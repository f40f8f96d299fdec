//! Tests of the cost of `validate` for long lists.

use super::*;

/// Returns a manifest with a list of Services, each with an EndpointSlice.
fn list(services: usize) -> String {
    let mut text = "apiVersion: v1\nkind: List\nitems:\n".to_owned();
    for number in 0..services {
        text.push_str(&format!(
            "- apiVersion: v1
  kind: Service
  metadata:
    name: web-{number}
    namespace: shop
    annotations: {{portlb.io/scheduler: mh}}
  spec:
    type: LoadBalancer
    loadBalancerClass: portlb.io/portlb
    selector: {{app: web-{number}}}
    ports: [{{name: http, port: 80}}]
- apiVersion: discovery.k8s.io/v1
  kind: EndpointSlice
  metadata:
    name: web-{number}-a
    namespace: shop
    labels: {{kubernetes.io/service-name: web-{number}}}
  addressType: IPv4
  ports: [{{name: http, port: 80}}]
  endpoints: [{{addresses: [10.2.{}.{}]}}]
",
            number / 250,
            number % 250 + 1
        ));
    }
    text
}

fn check_list(services: usize) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("list.yaml");
    fs::write(&path, list(services)).unwrap();
    let settings = CatalogSettings {
        load_balancer_class: "portlb.io/portlb".to_owned(),
        ..CatalogSettings::default()
    };
    let report = check(&[path], settings);
    assert_eq!(report.services, services);
    assert!(report.passes(true), "{:?}", report.messages.first());
}

#[test]
fn the_text_that_a_manifest_stores_does_not_grow_with_the_length_of_its_list() {
    let kept = |services: usize| {
        let results = manifests::parse("list.yaml", &list(services));
        results
            .iter()
            .map(|manifest| manifest.as_ref().unwrap().kept_bytes())
            .max()
            .unwrap()
    };
    let (few, many) = (kept(5), kept(400));
    assert!(
        many < few + 64,
        "{few} bytes in a list of 10 objects, {many} bytes in a list of 800"
    );
}

#[test]
fn pools_give_addresses_to_many_services_in_as_many_rounds_as_to_few() {
    let rounds = |count: usize| {
        let results = manifests::parse("list.yaml", &list(count));
        let services = results.iter().flatten().filter_map(Manifest::service);
        let mut catalog = Catalog::new(CatalogSettings {
            load_balancer_class: "portlb.io/portlb".to_owned(),
            pools: pools::assumed(services.clone()),
            ..CatalogSettings::default()
        });
        services.for_each(|service| catalog.handle(CatalogInput::Service(service.clone())));
        let rounds = render::allocate_all(&mut catalog);
        assert!(catalog.views().all(|(_, view)| view.addresses.len() == 1));
        rounds
    };
    assert_eq!(rounds(400), rounds(3));
}

#[test]
fn a_list_of_400_services_is_checked_without_a_remark() {
    check_list(400);
}
