//! Tests of the catalog with sequences of events.

use proptest::{prelude::*, sample::Index};

use super::*;
use virtual_server::DesiredChange;

use service_catalog::finding::Reason;

use super::held_addresses::{from_pool, model_addresses};

fn all_namespaces(kind: ObjectKind) -> WatchScope {
    WatchScope {
        kind,
        namespace: None,
    }
}

fn web(annotations: &str) -> String {
    service("web", annotations, PORT_80)
}

#[test]
fn the_catalog_has_no_output_before_every_scope_is_listed() {
    let scopes = vec![
        all_namespaces(ObjectKind::Service),
        all_namespaces(ObjectKind::EndpointSlice),
    ];
    let mut catalog = Catalog::new(CatalogSettings {
        scopes: scopes.clone(),
        ..settings()
    });
    let mut watcher = TestWatcher::default();
    catalog.handle(CatalogInput::Restarted(scopes[0].clone()));
    feed(&mut catalog, &web(""));
    catalog.handle(CatalogInput::RestartedDone(scopes[0].clone()));
    assert!(catalog.take_output().is_empty());
    catalog.handle(CatalogInput::Restarted(scopes[1].clone()));
    feed(&mut catalog, &slice("web", "a", ON_80, &["10.0.2.3"]));
    assert!(catalog.take_output().is_empty());
    catalog.handle(CatalogInput::RestartedDone(scopes[1].clone()));
    assert!(catalog.is_synced());
    watcher.take(&mut catalog);
    assert_eq!(watcher.shown(), "tcp/10.1.1.10:80 mh -> 10.0.2.3\n");
}

#[test]
fn the_end_of_a_list_deletes_the_objects_that_the_list_did_not_have() {
    let in_shop = |kind| WatchScope {
        kind,
        namespace: Some("shop".into()),
    };
    let mut catalog = Catalog::new(settings());
    let mut watcher = TestWatcher::default();
    let all = [
        web(""),
        service("api", "portlb.io/address: 10.1.1.11", PORT_80),
        slice("web", "a", ON_80, &["10.0.2.3"]),
        slice("web", "b", ON_80, &["10.0.2.4"]),
    ];
    feed(&mut catalog, &all.concat());
    watcher.take(&mut catalog);
    let before = watcher.shown();
    for kind in [ObjectKind::Service, ObjectKind::EndpointSlice] {
        catalog.handle(CatalogInput::Restarted(in_shop(kind)));
    }
    feed(&mut catalog, &[&*all[0], &*all[2]].concat());
    assert_eq!(watcher.take(&mut catalog), 0);
    // The end of a list of another namespace deletes no object of the namespace shop.
    let elsewhere = WatchScope {
        kind: ObjectKind::Service,
        namespace: Some("other".into()),
    };
    catalog.handle(CatalogInput::Restarted(elsewhere.clone()));
    catalog.handle(CatalogInput::RestartedDone(elsewhere));
    watcher.take(&mut catalog);
    assert_eq!(watcher.shown(), before);
    for kind in [ObjectKind::Service, ObjectKind::EndpointSlice] {
        catalog.handle(CatalogInput::RestartedDone(in_shop(kind)));
    }
    watcher.take(&mut catalog);
    assert_eq!(watcher.shown(), "tcp/10.1.1.10:80 mh -> 10.0.2.3\n");
    assert_eq!(watcher.views.len(), 1);
}

#[test]
fn a_service_that_becomes_invalid_keeps_its_last_good_state_and_follows_its_endpoints() {
    let mut catalog = Catalog::new(settings());
    let mut watcher = TestWatcher::default();
    feed(
        &mut catalog,
        &[
            web("portlb.io/scheduler: rr"),
            slice("web", "a", ON_80, &["10.0.2.3"]),
        ]
        .concat(),
    );
    watcher.take(&mut catalog);
    feed(
        &mut catalog,
        &web("portlb.io/scheduler: maglev, portlb.io/address: 10.1.1.99"),
    );
    assert_eq!(watcher.take(&mut catalog), 0);
    assert_eq!(watcher.findings("web").len(), 1);
    feed(&mut catalog, &slice("web", "a", ON_80, &["10.0.2.4"]));
    watcher.take(&mut catalog);
    assert_eq!(watcher.shown(), "tcp/10.1.1.10:80 rr -> 10.0.2.4\n");
    feed(&mut catalog, &web("portlb.io/scheduler: wrr"));
    watcher.take(&mut catalog);
    assert_eq!(watcher.shown(), "tcp/10.1.1.10:80 wrr -> 10.0.2.4\n");
    assert!(watcher.findings("web").is_empty());
}

#[test]
fn a_service_that_limits_its_clients_is_not_served_until_the_limit_is_removed() {
    let mut catalog = Catalog::new(settings());
    let mut watcher = TestWatcher::default();
    let limited = "  loadBalancerSourceRanges: [192.0.2.0/24]\n  ports: [{port: 80}]\n";
    feed(&mut catalog, &service("web", "", PORT_80));
    feed(&mut catalog, &slice("web", "x", ON_80, &["10.0.2.3"]));
    watcher.take(&mut catalog);
    assert_eq!(watcher.shown(), "tcp/10.1.1.10:80 mh -> 10.0.2.3\n");
    // The last good state without a limit is not kept, because it would admit all clients. With an
    // additional invalid annotation it is not kept either.
    for annotations in ["", "portlb.io/address: 10.1.1.10, portlb.io/scheduler: x"] {
        feed(&mut catalog, &service("web", annotations, limited));
        watcher.take(&mut catalog);
        assert_eq!(watcher.shown(), "");
        let view = &watcher.views[&ObjectKey::new("shop", "web")];
        assert!(
            view.is_understood,
            "the Service is understood, so its status can show that it is not announced"
        );
        assert_eq!(
            model_addresses(&view.addresses),
            "10.1.1.10",
            "the Service keeps its address"
        );
    }
    feed(&mut catalog, &service("web", "", PORT_80));
    watcher.take(&mut catalog);
    assert_eq!(watcher.shown(), "tcp/10.1.1.10:80 mh -> 10.0.2.3\n");
    assert!(watcher.findings("web").is_empty());
}

#[test]
fn a_service_that_was_deleted_and_created_again_has_no_last_good_state() {
    let mut catalog = Catalog::new(settings());
    let mut watcher = TestWatcher::default();
    feed(&mut catalog, &web(""));
    watcher.take(&mut catalog);
    feed(
        &mut catalog,
        &web("portlb.io/scheduler: maglev").replace("uid-web", "uid-2"),
    );
    watcher.take(&mut catalog);
    assert_eq!(watcher.shown(), "");
    assert_eq!(watcher.findings("web").len(), 1);
}

#[test]
fn an_invalid_weight_keeps_the_last_good_weight() {
    let mut catalog = Catalog::new(settings());
    let mut watcher = TestWatcher::default();
    let weighed = |weight: &str| {
        slice("web", "a", ON_80, &["10.0.2.3"]).replace(
            "namespace: shop",
            &format!("namespace: shop, annotations: {{portlb.io/weight: '{weight}'}}"),
        )
    };
    feed(&mut catalog, &[web(""), weighed("9")].concat());
    watcher.take(&mut catalog);
    feed(&mut catalog, &weighed("nine"));
    assert_eq!(watcher.take(&mut catalog), 0);
    assert_eq!(
        watcher.findings("web"),
        [
            "Warning BadAnnotation: EndpointSlice web-a: annotation portlb.io/weight: \"nine\" is not \
          an allowed number; write 0 to 65535"
        ]
    );
}

#[test]
fn an_address_moves_to_another_service_without_a_removal_of_the_virtual_server() {
    let mut catalog = Catalog::new(settings());
    let mut watcher = TestWatcher::default();
    feed(
        &mut catalog,
        &[service("a", "", PORT_80), service("b", "", PORT_80)].concat(),
    );
    watcher.take(&mut catalog);
    assert_eq!(
        watcher.views[&ObjectKey::new("shop", "b")].addresses.len(),
        0
    );
    catalog.handle(CatalogInput::ServiceDeleted(ObjectKey::new("shop", "a")));
    let output = catalog.take_output();
    assert!(
        matches!(&*output.changes, [DesiredChange::PutVirtualServer(server)] if server.name == "shop/b"),
        "{output:?}"
    );
    let deleted = &output.services[0];
    let expected = ObjectKey::new("shop", "a");
    assert_eq!((&deleted.0, &deleted.1), (&expected, &None));
}

#[test]
fn an_endpoint_is_served_again_when_its_address_is_no_longer_a_service_address() {
    let mut catalog = Catalog::new(settings());
    let mut watcher = TestWatcher::default();
    feed(
        &mut catalog,
        &[web(""), slice("web", "a", ON_80, &["10.0.2.3"])].concat(),
    );
    watcher.take(&mut catalog);
    feed(
        &mut catalog,
        &service("other", "portlb.io/address: 10.0.2.3", PORT_80),
    );
    watcher.take(&mut catalog);
    assert_eq!(
        watcher.shown(),
        "tcp/10.0.2.3:80 mh -> \ntcp/10.1.1.10:80 mh -> \n"
    );
    let reasons = |watcher: &TestWatcher| {
        let view = &watcher.views[&ObjectKey::new("shop", "web")];
        let findings = view.findings.iter();
        findings
            .map(|finding| finding.reason)
            .collect::<Vec<Reason>>()
    };
    assert_eq!(
        reasons(&watcher),
        [Reason::EndpointsLeftOut, Reason::NoUsableEndpoint]
    );
    catalog.handle(CatalogInput::ServiceDeleted(ObjectKey::new(
        "shop", "other",
    )));
    watcher.take(&mut catalog);
    assert_eq!(watcher.shown(), "tcp/10.1.1.10:80 mh -> 10.0.2.3\n");
    assert_eq!(reasons(&watcher), []);
}

#[test]
fn a_status_that_pod_watcher_wrote_changes_no_virtual_server() {
    let mut catalog = Catalog::new(settings());
    let mut watcher = TestWatcher::default();
    feed(&mut catalog, &web(""));
    watcher.take(&mut catalog);
    let written = "status: {loadBalancer: {ingress: [{ip: 10.1.1.10, ipMode: Proxy, ports: [{port: 80, protocol: TCP}]}]}}\n";
    feed(&mut catalog, &[&*web(""), written].concat());
    assert_eq!(watcher.take(&mut catalog), 0);
    let ingress = &watcher.views[&ObjectKey::new("shop", "web")]
        .written
        .ingress;
    assert_eq!(ingress[0].ip_mode.as_deref(), Some("Proxy"));
    assert!(catalog.take_output().is_empty());
}

#[test]
fn a_pod_changes_only_the_services_of_its_own_namespace() {
    let mut catalog = Catalog::new(settings());
    let mut watcher = TestWatcher::default();
    let both = |name: &str, address: &str| {
        let address = format!("portlb.io/address: {address}");
        service(name, &address, PORT_80) + &slice(name, "x", ON_80, &["10.0.2.3"])
    };
    let elsewhere = |namespace: &str, address: &str| {
        both("web", address).replace("namespace: shop", &format!("namespace: {namespace}"))
    };
    feed(
        &mut catalog,
        &[
            both("a", "10.1.1.1"),
            both("z", "10.1.1.2"),
            elsewhere("shop-2", "10.1.1.3"),
            elsewhere("sho", "10.1.1.4"),
        ]
        .concat(),
    );
    watcher.take(&mut catalog);
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: shop, annotations: \
               {portlb.io/state: draining}}\nstatus: {podIPs: [{ip: 10.0.2.3}]}\n";
    feed(&mut catalog, pod);
    assert_eq!(watcher.take(&mut catalog), 2);
}

/// A change of an object in a cluster.
#[derive(Clone, Debug)]
enum ClusterEvent {
    Service {
        name: usize,
        variant: usize,
    },
    NoService {
        name: usize,
    },
    Slice {
        name: usize,
        suffix: usize,
        endpoints: Vec<u8>,
    },
    NoSlice {
        name: usize,
        suffix: usize,
    },
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const SUFFIXES: [&str; 2] = ["x", "y"];

/// Returns one of several valid states of a Service. An invalid state would keep the last good
/// state, so that the result would depend on the order of the events.
fn variant(name: &str, variant: usize) -> String {
    let (annotations, port) = match variant {
        0 => ("portlb.io/address: 10.1.1.1", 80),
        1 => (
            "portlb.io/address: 10.1.1.1, portlb.io/share-address: k",
            80,
        ),
        2 => (
            "portlb.io/address: 10.1.1.1, portlb.io/share-address: k",
            443,
        ),
        3 => ("portlb.io/address: 10.1.1.2, portlb.io/scheduler: wlc", 80),
        4 => (
            "portlb.io/address: 10.0.2.1, portlb.io/ports: 80-90, portlb.io/health-check: none",
            80,
        ),
        _ => ("portlb.io/address: '10.1.1.3, fd00::3'", 80),
    };
    service(name, annotations, &format!("  ports: [{{port: {port}}}]\n"))
}

fn event() -> impl Strategy<Value = ClusterEvent> {
    let (name, suffix) = (0..NAMES.len(), 0..SUFFIXES.len());
    let endpoints = prop::collection::vec(1_u8..5, 0..4);
    prop_oneof![
        3 => (name.clone(), 0_usize..6)
            .prop_map(|(name, variant)| ClusterEvent::Service { name, variant }),
        1 => name.clone().prop_map(|name| ClusterEvent::NoService { name }),
        3 => (name.clone(), suffix.clone(), endpoints)
            .prop_map(|(name, suffix, endpoints)| ClusterEvent::Slice { name, suffix, endpoints }),
        1 => (name, suffix).prop_map(|(name, suffix)| ClusterEvent::NoSlice { name, suffix }),
    ]
}

/// Returns the manifests of the objects that exist after the events; `None` for a deleted object.
/// The key is the kind (whether the object is a slice) and the name.
fn outcome(events: &[ClusterEvent]) -> BTreeMap<(bool, String), Option<String>> {
    let mut outcome = BTreeMap::new();
    for event in events {
        let (is_slice, name, text) = match event {
            ClusterEvent::Service {
                name,
                variant: which,
            } => (
                false,
                NAMES[*name].to_owned(),
                Some(variant(NAMES[*name], *which)),
            ),
            ClusterEvent::NoService { name } => (false, NAMES[*name].to_owned(), None),
            ClusterEvent::Slice {
                name,
                suffix,
                endpoints,
            } => {
                let endpoints: Vec<String> = endpoints
                    .iter()
                    .map(|host| format!("10.0.2.{host}"))
                    .collect();
                let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
                let text = slice(NAMES[*name], SUFFIXES[*suffix], ON_80, &endpoints);
                (
                    true,
                    format!("{}-{}", NAMES[*name], SUFFIXES[*suffix]),
                    Some(text),
                )
            }
            ClusterEvent::NoSlice { name, suffix } => (
                true,
                format!("{}-{}", NAMES[*name], SUFFIXES[*suffix]),
                None,
            ),
        };
        outcome.insert((is_slice, name), text);
    }
    outcome
}

fn inputs_for(is_slice: bool, name: &str, text: Option<&String>) -> Vec<CatalogInput> {
    match text {
        Some(text) => inputs(text),
        None if is_slice => vec![CatalogInput::EndpointSliceDeleted(ObjectKey::new(
            "shop", name,
        ))],
        None => vec![CatalogInput::ServiceDeleted(ObjectKey::new("shop", name))],
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_desired_set_depends_only_on_the_objects_that_exist_after_all_events(
        events in prop::collection::vec(event(), 0..24),
        takes_output in prop::collection::vec(any::<bool>(), 24),
        order in prop::collection::vec(any::<Index>(), 12),
    ) {
        let mut catalog = Catalog::new(settings());
        let mut watcher = TestWatcher::default();
        for (event, takes_output) in events.iter().zip(takes_output) {
            for ((is_slice, name), text) in outcome(std::slice::from_ref(event)) {
                for input in inputs_for(is_slice, &name, text.as_ref()) {
                    catalog.handle(input);
                }
            }
            if takes_output {
                watcher.take(&mut catalog);
            }
        }
        watcher.take(&mut catalog);

        let mut last: Vec<String> = outcome(&events).into_values().flatten().collect();
        for (place, index) in order.iter().enumerate() {
            if !last.is_empty() {
                let place = place % last.len();
                let other = index.index(last.len());
                last.swap(place, other);
            }
        }
        let mut fresh = Catalog::new(settings());
        let mut expected = TestWatcher::default();
        feed(&mut fresh, &last.concat());
        expected.take(&mut fresh);
        prop_assert_eq!(watcher.desired, expected.desired);
        prop_assert_eq!(watcher.views, expected.views);
    }

    #[test]
    fn each_service_keeps_an_address_of_the_pool_that_no_other_service_has(
        steps in prop::collection::vec((0..6_usize, any::<bool>(), any::<bool>()), 1..30),
    ) {
        const MANY: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
        let mut catalog = Catalog::new(with_pools(&["p=10.1.1.0/29"]));
        let mut watcher = TestWatcher::default();
        let mut kept: BTreeMap<&str, String> = BTreeMap::new();
        for (index, exists, writes) in steps {
            let name = MANY[index];
            if exists {
                let text = from_pool(name, 80, kept.get(name).map_or("", String::as_str));
                feed(&mut catalog, &text);
            } else {
                catalog.handle(CatalogInput::ServiceDeleted(ObjectKey::new("shop", name)));
                kept.remove(name);
            }
            watcher.take(&mut catalog);
            let allocations: Vec<(&str, String)> = MANY
                .iter()
                .filter_map(|name| {
                    let view = watcher.views.get(&ObjectKey::new("shop", name))?;
                    Some((*name, model_addresses(&view.allocation)))
                })
                .filter(|(_, allocation)| !allocation.is_empty())
                .collect();
            let distinct: BTreeSet<&String> = allocations.iter().map(|(_, a)| a).collect();
            prop_assert_eq!(distinct.len(), allocations.len());
            prop_assert_eq!(allocations.len(), watcher.views.len(), "the pool has an address for each of six Services");
            for (name, allocation) in allocations {
                if let Some(kept) = kept.get(name) {
                    prop_assert_eq!(kept, &allocation, "{} keeps its address", name);
                } else if writes {
                    feed(&mut catalog, &from_pool(name, 80, &allocation));
                    kept.insert(name, allocation);
                }
            }
        }
        // A second pod-watcher, or a restarted pod-watcher, reads the recorded addresses from the
        // statuses of the Services.
        watcher.take(&mut catalog);
        let mut fresh = Catalog::new(with_pools(&["p=10.1.1.0/29"]));
        for name in kept.keys() {
            feed(&mut fresh, &from_pool(name, 80, &kept[name]));
        }
        let mut restarted = TestWatcher::default();
        restarted.take(&mut fresh);
        for (name, kept) in kept {
            let view = &restarted.views[&ObjectKey::new("shop", name)];
            prop_assert_eq!(model_addresses(&view.addresses), kept);
        }
    }
}
