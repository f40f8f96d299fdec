//! What happens over time.

use proptest::{prelude::*, sample::Index};

use super::*;
use virtual_server::DesiredChange;

use service_catalog::finding::Reason;

fn pod_scope(kind: Kind) -> Scope {
    Scope {
        kind,
        namespace: None,
    }
}

fn web(annotations: &str) -> String {
    service("web", annotations, PORT_80)
}

#[test]
fn nothing_is_put_out_before_every_scope_is_listed() {
    let scopes = vec![pod_scope(Kind::Service), pod_scope(Kind::EndpointSlice)];
    let mut catalog = Catalog::new(Settings {
        scopes: scopes.clone(),
        ..settings()
    });
    let mut watcher = Watcher::default();
    catalog.handle(Input::Restarted(scopes[0].clone()));
    feed(&mut catalog, &web(""));
    catalog.handle(Input::RestartedDone(scopes[0].clone()));
    assert!(catalog.take_output().is_empty());
    catalog.handle(Input::Restarted(scopes[1].clone()));
    feed(&mut catalog, &slice("web", "a", ON_80, &["10.0.2.3"]));
    assert!(catalog.take_output().is_empty());
    catalog.handle(Input::RestartedDone(scopes[1].clone()));
    assert!(catalog.is_synced());
    watcher.take(&mut catalog);
    assert_eq!(watcher.shown(), "tcp/10.1.1.10:80 mh -> 10.0.2.3\n");
}

#[test]
fn a_new_list_deletes_what_it_does_not_tell_and_nothing_before_its_end() {
    let in_shop = |kind| Scope {
        kind,
        namespace: Some("shop".into()),
    };
    let mut catalog = Catalog::new(settings());
    let mut watcher = Watcher::default();
    let all = [
        web(""),
        service("api", "portlb.io/address: 10.1.1.11", PORT_80),
        slice("web", "a", ON_80, &["10.0.2.3"]),
        slice("web", "b", ON_80, &["10.0.2.4"]),
    ];
    feed(&mut catalog, &all.concat());
    watcher.take(&mut catalog);
    let before = watcher.shown();
    for kind in [Kind::Service, Kind::EndpointSlice] {
        catalog.handle(Input::Restarted(in_shop(kind)));
    }
    feed(&mut catalog, &[&*all[0], &*all[2]].concat());
    assert_eq!(watcher.take(&mut catalog), 0);
    // What another list of the kind covers is not touched.
    let elsewhere = Scope {
        kind: Kind::Service,
        namespace: Some("other".into()),
    };
    catalog.handle(Input::Restarted(elsewhere.clone()));
    catalog.handle(Input::RestartedDone(elsewhere));
    watcher.take(&mut catalog);
    assert_eq!(watcher.shown(), before);
    for kind in [Kind::Service, Kind::EndpointSlice] {
        catalog.handle(Input::RestartedDone(in_shop(kind)));
    }
    watcher.take(&mut catalog);
    assert_eq!(watcher.shown(), "tcp/10.1.1.10:80 mh -> 10.0.2.3\n");
    assert_eq!(watcher.views.len(), 1);
}

#[test]
fn a_bad_service_keeps_its_last_good_state_and_follows_its_endpoints() {
    let mut catalog = Catalog::new(settings());
    let mut watcher = Watcher::default();
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
fn a_limit_of_clients_withdraws_a_served_service_until_the_limit_goes() {
    let mut catalog = Catalog::new(settings());
    let mut watcher = Watcher::default();
    let limited = "  loadBalancerSourceRanges: [192.0.2.0/24]\n  ports: [{port: 80}]\n";
    feed(&mut catalog, &service("web", "", PORT_80));
    feed(&mut catalog, &slice("web", "x", ON_80, &["10.0.2.3"]));
    watcher.take(&mut catalog);
    assert_eq!(watcher.shown(), "tcp/10.1.1.10:80 mh -> 10.0.2.3\n");
    // The last good state would serve clients from everywhere, also where an annotation is bad.
    for annotations in ["", "portlb.io/address: 10.1.1.10, portlb.io/scheduler: x"] {
        feed(&mut catalog, &service("web", annotations, limited));
        watcher.take(&mut catalog);
        assert_eq!(watcher.shown(), "");
        let view = &watcher.views[&ObjectKey::new("shop", "web")];
        assert!(
            view.is_understood,
            "its status says that it is not announced"
        );
        assert_eq!(
            model_addresses(&view.addresses),
            "10.1.1.10",
            "it keeps its address"
        );
    }
    feed(&mut catalog, &service("web", "", PORT_80));
    watcher.take(&mut catalog);
    assert_eq!(watcher.shown(), "tcp/10.1.1.10:80 mh -> 10.0.2.3\n");
    assert!(watcher.findings("web").is_empty());
}

#[test]
fn a_service_that_was_made_anew_has_no_last_good_state() {
    let mut catalog = Catalog::new(settings());
    let mut watcher = Watcher::default();
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
fn a_bad_weight_leaves_the_last_good_one() {
    let mut catalog = Catalog::new(settings());
    let mut watcher = Watcher::default();
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
          such a number; write 0 to 65535"
        ]
    );
}

#[test]
fn an_address_goes_from_one_service_to_another_without_a_removal() {
    let mut catalog = Catalog::new(settings());
    let mut watcher = Watcher::default();
    feed(
        &mut catalog,
        &[service("a", "", PORT_80), service("b", "", PORT_80)].concat(),
    );
    watcher.take(&mut catalog);
    assert_eq!(
        watcher.views[&ObjectKey::new("shop", "b")].addresses.len(),
        0
    );
    catalog.handle(Input::ServiceDeleted(ObjectKey::new("shop", "a")));
    let output = catalog.take_output();
    assert!(
        matches!(&*output.changes, [DesiredChange::PutVirtualServer(server)] if server.name == "shop/b"),
        "{output:?}"
    );
    let gone = &output.services[0];
    assert_eq!((&gone.0, &gone.1), (&ObjectKey::new("shop", "a"), &None));
}

#[test]
fn an_endpoint_comes_back_when_its_address_is_no_service_address_any_more() {
    let mut catalog = Catalog::new(settings());
    let mut watcher = Watcher::default();
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
    let reasons = |watcher: &Watcher| {
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
    catalog.handle(Input::ServiceDeleted(ObjectKey::new("shop", "other")));
    watcher.take(&mut catalog);
    assert_eq!(watcher.shown(), "tcp/10.1.1.10:80 mh -> 10.0.2.3\n");
    assert_eq!(reasons(&watcher), []);
}

#[test]
fn a_status_that_only_we_changed_changes_nothing_that_is_served() {
    let mut catalog = Catalog::new(settings());
    let mut watcher = Watcher::default();
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

fn from_pool(name: &str, port: u16, kept: &str) -> String {
    let spec = format!("  ports: [{{port: {port}}}]\n");
    let mut text = service(name, "portlb.io/address-pool: p", &spec);
    if !kept.is_empty() {
        text.push_str(&holding(kept));
    }
    text
}

/// The status of a Service that has the addresses.
fn holding(addresses: &str) -> String {
    let held: Vec<IpAddr> = addresses
        .split(", ")
        .map(|address| address.parse().unwrap())
        .collect();
    let reason = service_catalog::model::address_reason(&held);
    format!(
        "status: {{conditions: [{{type: portlb.io/Address, status: 'True', reason: '{reason}', \
         message: '{addresses}', lastTransitionTime: '2026-01-01T00:00:00Z'}}]}}\n"
    )
}

#[test]
fn an_older_service_takes_over_no_address_that_another_one_holds() {
    let aged = |text: String, year: u32| {
        text.replace(
            "uid: ",
            &format!("creationTimestamp: '{year}-01-01T00:00:00Z', uid: "),
        )
    };
    let mut catalog = Catalog::new(settings());
    let mut watcher = Watcher::default();
    let young = || aged(service("young", "", PORT_80), 2026);
    feed(&mut catalog, &young());
    feed(&mut catalog, &slice("young", "x", ON_80, &["10.0.2.3"]));
    watcher.take(&mut catalog);
    let recorded = |watcher: &Watcher, name: &str| {
        model_addresses(&watcher.views[&ObjectKey::new("shop", name)].allocation)
    };
    assert_eq!(recorded(&watcher, "young"), "10.1.1.10", "to be recorded");
    let served = "tcp/10.1.1.10:80 mh -> 10.0.2.3\n";
    let announced = "status: {loadBalancer: {ingress: [{ip: 10.1.1.10}]}}\n".to_owned();
    for status in [holding("10.1.1.10"), announced] {
        feed(&mut catalog, &(young() + &status));
        // What the older one writes of itself does not count: its own status records another.
        let old = aged(service("old", "", PORT_80), 2025) + &holding("10.1.1.11");
        feed(&mut catalog, &old);
        watcher.take(&mut catalog);
        assert_eq!(watcher.shown(), served);
        assert_eq!(recorded(&watcher, "old"), "");
        assert_eq!(
            watcher.findings("old"),
            [
                "Warning AddressConflict: 10.1.1.10 belongs to Service shop/young; choose another \
                 address, or write the annotation portlb.io/share-address with the same value on \
                 both, which share it where their ports differ"
            ]
        );
        // A pod-watcher that starts later decides the same, in whatever order it learns of them.
        for texts in [
            [old.clone(), young() + &status],
            [young() + &status, old.clone()],
        ] {
            let mut restarted = Catalog::new(settings());
            feed(&mut restarted, &texts.concat());
            feed(&mut restarted, &slice("young", "x", ON_80, &["10.0.2.3"]));
            let mut other = Watcher::default();
            other.take(&mut restarted);
            assert_eq!(other.shown(), served);
        }
    }
    // Whose address it is decides age alone where neither holds it.
    feed(&mut catalog, &young());
    watcher.take(&mut catalog);
    assert_eq!(watcher.shown(), "tcp/10.1.1.10:80 mh -> \n");
    assert_eq!(recorded(&watcher, "old"), "10.1.1.10");
}

#[test]
fn an_address_is_shared_across_namespaces_only_if_both_services_name_the_other() {
    let sharing = |name: &str, port: u16, more: &str| {
        let annotations = format!("portlb.io/address: 10.1.1.10, portlb.io/share-address: k{more}");
        service(
            name,
            &annotations,
            &format!("  ports: [{{port: {port}}}]\n"),
        )
    };
    let names = |namespace: &str| format!(", portlb.io/share-address-namespaces: {namespace}");
    let in_bank = |text: String| text.replace("namespace: shop", "namespace: bank");
    let mut catalog = Catalog::new(settings());
    let mut watcher = Watcher::default();
    feed(
        &mut catalog,
        &(sharing("a", 80, "") + &holding("10.1.1.10")),
    );
    feed(&mut catalog, &in_bank(sharing("b", 443, &names("shop"))));
    watcher.take(&mut catalog);
    assert_eq!(watcher.shown(), "tcp/10.1.1.10:80 mh -> \n");
    let b = &watcher.views[&ObjectKey::new("bank", "b")];
    assert_eq!(
        b.findings[0].to_string(),
        "Warning AddressConflict: 10.1.1.10 belongs to Service shop/a, and the two Services do not \
         share it across namespaces; choose another address, or write the annotation \
         portlb.io/share-address-namespaces on both, each with the namespace of the other"
    );
    let naming = sharing("a", 80, &names("bank")) + &holding("10.1.1.10");
    feed(&mut catalog, &naming);
    watcher.take(&mut catalog);
    assert_eq!(
        watcher.shown(),
        "tcp/10.1.1.10:80 mh -> \ntcp/10.1.1.10:443 mh -> \n"
    );
}

#[test]
fn an_address_from_a_pool_is_served_once_the_status_keeps_it() {
    let mut catalog = Catalog::new(with_pools(&["p=10.1.1.0/24"]));
    let mut watcher = Watcher::default();
    feed(
        &mut catalog,
        &[from_pool("a", 80, ""), from_pool("b", 80, "10.1.1.1")].concat(),
    );
    watcher.take(&mut catalog);
    let allocation = |watcher: &Watcher, name: &str| {
        model_addresses(&watcher.views[&ObjectKey::new("shop", name)].allocation)
    };
    assert_eq!(allocation(&watcher, "a"), "10.1.1.2");
    assert_eq!(allocation(&watcher, "b"), "10.1.1.1");
    assert_eq!(watcher.shown(), "tcp/10.1.1.1:80 mh -> \n");
    feed(&mut catalog, &from_pool("a", 80, "10.1.1.2"));
    watcher.take(&mut catalog);
    assert_eq!(
        watcher.shown(),
        "tcp/10.1.1.1:80 mh -> \ntcp/10.1.1.2:80 mh -> \n"
    );
    // A Service that names its address gives the pool's back.
    feed(
        &mut catalog,
        &service("b", "portlb.io/address: 10.1.1.9", PORT_80),
    );
    watcher.take(&mut catalog);
    assert_eq!(
        allocation(&watcher, "b"),
        "10.1.1.9",
        "its status is to record it"
    );
}

fn model_addresses(addresses: &[IpAddr]) -> String {
    service_catalog::model::address_message(addresses)
}

#[test]
fn who_went_without_gets_an_address_when_one_is_free() {
    let mut catalog = Catalog::new(with_pools(&["p=10.1.1.1/32"]));
    let mut watcher = Watcher::default();
    feed(
        &mut catalog,
        &[from_pool("a", 80, "10.1.1.1"), from_pool("b", 80, "")].concat(),
    );
    watcher.take(&mut catalog);
    assert_eq!(
        watcher.findings("b"),
        [
            "Warning NoAddress: no IPv4 address: none of the 1 in address pool p is free; give the \
          pool another prefix, delete a Service, or write the annotation portlb.io/address"
        ]
    );
    catalog.handle(Input::ServiceDeleted(ObjectKey::new("shop", "a")));
    watcher.take(&mut catalog);
    assert!(watcher.findings("b").is_empty());
    assert_eq!(
        watcher.views[&ObjectKey::new("shop", "b")].allocation.len(),
        1
    );
}

#[test]
fn who_lost_an_address_of_a_pool_to_an_older_holder_gets_another() {
    let mut catalog = Catalog::new(with_pools(&["p=10.1.1.0/24"]));
    let mut watcher = Watcher::default();
    feed(&mut catalog, &from_pool("b", 80, "10.1.1.1"));
    watcher.take(&mut catalog);
    let named = || service("a", "portlb.io/address: 10.1.1.1", PORT_80);
    feed(&mut catalog, &named());
    watcher.take(&mut catalog);
    let addresses = |watcher: &Watcher| {
        let b = &watcher.views[&ObjectKey::new("shop", "b")];
        (
            model_addresses(&b.allocation),
            model_addresses(&b.addresses),
        )
    };
    let one = "10.1.1.1".to_owned();
    assert_eq!(addresses(&watcher), (one.clone(), one), "b holds it");
    // Two statuses record it, by two writers that knew nothing of each other.
    feed(&mut catalog, &(named() + &holding("10.1.1.1")));
    watcher.take(&mut catalog);
    assert_eq!(addresses(&watcher), ("10.1.1.2".to_owned(), String::new()));
}

#[test]
fn a_service_that_was_never_understood_keeps_its_address_from_all_others() {
    let mut catalog = Catalog::new(with_pools(&["p=10.1.1.0/24"]));
    let mut watcher = Watcher::default();
    let bad =
        from_pool("bad", 80, "10.1.1.1").replace("pool: p", "pool: p, portlb.io/scheduler: x");
    feed(&mut catalog, &[bad, from_pool("web", 80, "")].concat());
    watcher.take(&mut catalog);
    let view = |watcher: &Watcher, name| watcher.views[&ObjectKey::new("shop", name)].clone();
    assert!(!view(&watcher, "bad").is_understood);
    assert_eq!(watcher.findings("bad").len(), 1);
    assert_eq!(
        model_addresses(&view(&watcher, "web").allocation),
        "10.1.1.2"
    );
    assert_eq!(watcher.shown(), "");
    feed(&mut catalog, &from_pool("bad", 80, "10.1.1.1"));
    watcher.take(&mut catalog);
    assert!(view(&watcher, "bad").is_understood);
    assert_eq!(watcher.shown(), "tcp/10.1.1.1:80 mh -> \n");
}

#[test]
fn a_service_that_was_never_understood_takes_no_address_from_those_that_share_it() {
    let shared = |name: &str, port: u16| {
        from_pool(name, port, "10.1.1.1").replace("pool: p", "pool: p, portlb.io/share-address: k")
    };
    let bad = shared("a", 80).replace("share-address: k", "share-address: k, portlb.io/ports: x");
    let mut catalog = Catalog::new(with_pools(&["p=10.1.1.0/24"]));
    let mut watcher = Watcher::default();
    feed(&mut catalog, &[bad, shared("b", 443)].concat());
    watcher.take(&mut catalog);
    assert_eq!(watcher.shown(), "tcp/10.1.1.1:443 mh -> \n");
}

#[test]
fn a_pool_that_has_shrunk_or_gone_takes_no_address_away() {
    let kept = |name: &str, address: &str| from_pool(name, 80, address);
    for (pool, finding) in [
        ("p=10.1.2.0/24", None),
        (
            "q=10.1.2.0/24",
            Some(
                "Warning BadAnnotation: annotation portlb.io/address-pool: \"p\" is not an address \
                 pool; known are q",
            ),
        ),
    ] {
        let mut catalog = Catalog::new(with_pools(&[pool]));
        let mut watcher = Watcher::default();
        let other = service("b", "portlb.io/address: 10.1.1.1", PORT_80);
        feed(&mut catalog, &[kept("a", "10.1.1.1"), other].concat());
        watcher.take(&mut catalog);
        assert_eq!(watcher.shown(), "tcp/10.1.1.1:80 mh -> \n");
        let view = &watcher.views[&ObjectKey::new("shop", "a")];
        assert_eq!(model_addresses(&view.allocation), "10.1.1.1");
        let mut expected: Vec<&str> = finding.into_iter().collect();
        expected.push(
            "Warning AddressOutsidePools: 10.1.1.1 is kept, though no address pool has it any more; \
             give it back to an --address-pool, or write another address into the annotation \
             portlb.io/address",
        );
        assert_eq!(watcher.findings("a"), expected);
        assert_eq!(watcher.findings("b").len(), 1, "it belongs to the older");
    }
    // A pool that was renamed.
    let mut catalog = Catalog::new(with_pools(&["q=10.1.1.0/24"]));
    let mut watcher = Watcher::default();
    feed(
        &mut catalog,
        &[
            kept("a", "10.1.1.1"),
            from_pool("b", 80, "").replace("pool: p", "pool: q"),
        ]
        .concat(),
    );
    watcher.take(&mut catalog);
    assert_eq!(watcher.shown(), "tcp/10.1.1.1:80 mh -> \n");
    assert_eq!(watcher.findings("a").len(), 1);
    let allocation = |watcher: &Watcher, name| {
        model_addresses(&watcher.views[&ObjectKey::new("shop", name)].allocation)
    };
    assert_eq!(allocation(&watcher, "b"), "10.1.1.2");
    // The pool that a Service names does not have the address, and another one does.
    let mut catalog = Catalog::new(with_pools(&["p=10.1.2.0/24", "q=10.1.1.0/24"]));
    let mut watcher = Watcher::default();
    feed(&mut catalog, &kept("a", "10.1.1.1"));
    watcher.take(&mut catalog);
    assert_eq!(allocation(&watcher, "a"), "10.1.2.1");
}

#[test]
fn a_pool_gives_no_reserved_address() {
    let mut settings = with_pools(&["p=10.1.1.0/24"]);
    settings.reserved.insert("10.1.1.1".parse().unwrap());
    for kept in ["", "10.1.1.1"] {
        let mut catalog = Catalog::new(settings.clone());
        let mut watcher = Watcher::default();
        feed(&mut catalog, &from_pool("a", 80, kept));
        watcher.take(&mut catalog);
        let view = &watcher.views[&ObjectKey::new("shop", "a")];
        assert_eq!(model_addresses(&view.allocation), "10.1.1.2");
    }
}

#[test]
fn a_pod_touches_the_services_of_its_own_namespace() {
    let mut catalog = Catalog::new(settings());
    let mut watcher = Watcher::default();
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

/// Something that a cluster may say.
#[derive(Clone, Debug)]
enum Event {
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

/// Good ones only, since a bad one leaves what was good before.
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

fn event() -> impl Strategy<Value = Event> {
    let (name, suffix) = (0..NAMES.len(), 0..SUFFIXES.len());
    let endpoints = prop::collection::vec(1_u8..5, 0..4);
    prop_oneof![
        3 => (name.clone(), 0_usize..6)
            .prop_map(|(name, variant)| Event::Service { name, variant }),
        1 => name.clone().prop_map(|name| Event::NoService { name }),
        3 => (name.clone(), suffix.clone(), endpoints)
            .prop_map(|(name, suffix, endpoints)| Event::Slice { name, suffix, endpoints }),
        1 => (name, suffix).prop_map(|(name, suffix)| Event::NoSlice { name, suffix }),
    ]
}

/// What the events leave, by kind and name.
fn outcome(events: &[Event]) -> BTreeMap<(bool, String), Option<String>> {
    let mut outcome = BTreeMap::new();
    for event in events {
        let (is_slice, name, text) = match event {
            Event::Service {
                name,
                variant: which,
            } => (
                false,
                NAMES[*name].to_owned(),
                Some(variant(NAMES[*name], *which)),
            ),
            Event::NoService { name } => (false, NAMES[*name].to_owned(), None),
            Event::Slice {
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
            Event::NoSlice { name, suffix } => (
                true,
                format!("{}-{}", NAMES[*name], SUFFIXES[*suffix]),
                None,
            ),
        };
        outcome.insert((is_slice, name), text);
    }
    outcome
}

fn told(is_slice: bool, name: &str, text: Option<&String>) -> Vec<Input> {
    match text {
        Some(text) => inputs(text),
        None if is_slice => vec![Input::EndpointSliceDeleted(ObjectKey::new("shop", name))],
        None => vec![Input::ServiceDeleted(ObjectKey::new("shop", name))],
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_history_leads_to_what_its_outcome_alone_leads_to(
        events in prop::collection::vec(event(), 0..24),
        looks in prop::collection::vec(any::<bool>(), 24),
        order in prop::collection::vec(any::<Index>(), 12),
    ) {
        let mut catalog = Catalog::new(settings());
        let mut watcher = Watcher::default();
        for (event, look) in events.iter().zip(looks) {
            for ((is_slice, name), text) in outcome(std::slice::from_ref(event)) {
                for input in told(is_slice, &name, text.as_ref()) {
                    catalog.handle(input);
                }
            }
            if look {
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
        let mut anew = Catalog::new(settings());
        let mut expected = Watcher::default();
        feed(&mut anew, &last.concat());
        expected.take(&mut anew);
        prop_assert_eq!(watcher.desired, expected.desired);
        prop_assert_eq!(watcher.views, expected.views);
    }

    #[test]
    fn addresses_of_pools_are_unique_and_stay(
        steps in prop::collection::vec((0..6_usize, any::<bool>(), any::<bool>()), 1..30),
    ) {
        const MANY: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
        let mut catalog = Catalog::new(with_pools(&["p=10.1.1.0/29"]));
        let mut watcher = Watcher::default();
        let mut kept: BTreeMap<&str, String> = BTreeMap::new();
        for (index, is_there, writes) in steps {
            let name = MANY[index];
            if is_there {
                let text = from_pool(name, 80, kept.get(name).map_or("", String::as_str));
                feed(&mut catalog, &text);
            } else {
                catalog.handle(Input::ServiceDeleted(ObjectKey::new("shop", name)));
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
            prop_assert_eq!(allocations.len(), watcher.views.len(), "six of six fit");
            for (name, allocation) in allocations {
                if let Some(kept) = kept.get(name) {
                    prop_assert_eq!(kept, &allocation, "{} keeps its address", name);
                } else if writes {
                    feed(&mut catalog, &from_pool(name, 80, &allocation));
                    kept.insert(name, allocation);
                }
            }
        }
        // Another watcher, or the same after a restart, reads the same from the statuses.
        watcher.take(&mut catalog);
        let mut anew = Catalog::new(with_pools(&["p=10.1.1.0/29"]));
        for name in kept.keys() {
            feed(&mut anew, &from_pool(name, 80, &kept[name]));
        }
        let mut restarted = Watcher::default();
        restarted.take(&mut anew);
        for (name, kept) in kept {
            let view = &restarted.views[&ObjectKey::new("shop", name)];
            prop_assert_eq!(model_addresses(&view.addresses), kept);
        }
    }
}
