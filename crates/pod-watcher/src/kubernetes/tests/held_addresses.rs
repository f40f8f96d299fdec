//! Tests of changes of the holder of an address, and of addresses from pools.

use super::*;

pub(super) fn from_pool(name: &str, port: u16, kept: &str) -> String {
    let spec = format!("  ports: [{{port: {port}}}]\n");
    let mut text = service(name, "portlb.io/address-pool: p", &spec);
    if !kept.is_empty() {
        text.push_str(&recorded_status(kept));
    }
    text
}

/// Returns a `status` that records the addresses as the addresses of its Service.
fn recorded_status(addresses: &str) -> String {
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
fn an_older_service_does_not_take_an_address_that_a_younger_service_holds() {
    let aged = |text: String, year: u32| {
        text.replace(
            "uid: ",
            &format!("creationTimestamp: '{year}-01-01T00:00:00Z', uid: "),
        )
    };
    let mut catalog = Catalog::new(settings());
    let mut watcher = TestWatcher::default();
    let young = || aged(service("young", "", PORT_80), 2026);
    feed(&mut catalog, &young());
    feed(&mut catalog, &slice("young", "x", ON_80, &["10.0.2.3"]));
    watcher.take(&mut catalog);
    let recorded = |watcher: &TestWatcher, name: &str| {
        model_addresses(&watcher.views[&ObjectKey::new("shop", name)].allocation)
    };
    assert_eq!(
        recorded(&watcher, "young"),
        "10.1.1.10",
        "the status must record the address"
    );
    let served = "tcp/10.1.1.10:80 mh -> 10.0.2.3\n";
    let announced = "status: {loadBalancer: {ingress: [{ip: 10.1.1.10}]}}\n".to_owned();
    for status in [recorded_status("10.1.1.10"), announced] {
        feed(&mut catalog, &(young() + &status));
        // The older Service names the address in its annotation, but its status records another
        // address.
        let old = aged(service("old", "", PORT_80), 2025) + &recorded_status("10.1.1.11");
        feed(&mut catalog, &old);
        watcher.take(&mut catalog);
        assert_eq!(watcher.shown(), served);
        assert_eq!(recorded(&watcher, "old"), "");
        assert_eq!(
            watcher.findings("old"),
            [
                "Warning AddressConflict: 10.1.1.10 belongs to Service shop/young; choose another \
                 address, or write the annotation portlb.io/share-address with the same value on \
                 both Services, which then share the address if their ports differ"
            ]
        );
        // A new catalog also gives the address to the younger Service, in each order of the two
        // Services.
        for texts in [
            [old.clone(), young() + &status],
            [young() + &status, old.clone()],
        ] {
            let mut restarted = Catalog::new(settings());
            feed(&mut restarted, &texts.concat());
            feed(&mut restarted, &slice("young", "x", ON_80, &["10.0.2.3"]));
            let mut other = TestWatcher::default();
            other.take(&mut restarted);
            assert_eq!(other.shown(), served);
        }
    }
    // If no status records the address, the older Service gets the address.
    feed(&mut catalog, &young());
    watcher.take(&mut catalog);
    assert_eq!(watcher.shown(), "tcp/10.1.1.10:80 mh -> \n");
    assert_eq!(recorded(&watcher, "old"), "10.1.1.10");
}

#[test]
fn an_address_is_shared_across_namespaces_only_if_each_service_names_the_other_namespace() {
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
    let mut watcher = TestWatcher::default();
    feed(
        &mut catalog,
        &(sharing("a", 80, "") + &recorded_status("10.1.1.10")),
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
    let naming = sharing("a", 80, &names("bank")) + &recorded_status("10.1.1.10");
    feed(&mut catalog, &naming);
    watcher.take(&mut catalog);
    assert_eq!(
        watcher.shown(),
        "tcp/10.1.1.10:80 mh -> \ntcp/10.1.1.10:443 mh -> \n"
    );
}

#[test]
fn an_address_from_a_pool_is_served_only_after_the_status_records_it() {
    let mut catalog = Catalog::new(with_pools(&["p=10.1.1.0/24"]));
    let mut watcher = TestWatcher::default();
    feed(
        &mut catalog,
        &[from_pool("a", 80, ""), from_pool("b", 80, "10.1.1.1")].concat(),
    );
    watcher.take(&mut catalog);
    let allocation = |watcher: &TestWatcher, name: &str| {
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
    // A Service that names an address in an annotation releases its address from the pool.
    feed(
        &mut catalog,
        &service("b", "portlb.io/address: 10.1.1.9", PORT_80),
    );
    watcher.take(&mut catalog);
    assert_eq!(
        allocation(&watcher, "b"),
        "10.1.1.9",
        "the status must record the address"
    );
}

pub(super) fn model_addresses(addresses: &[IpAddr]) -> String {
    service_catalog::model::address_message(addresses)
}

#[test]
fn a_service_without_an_address_gets_an_address_when_the_pool_has_a_free_address() {
    let mut catalog = Catalog::new(with_pools(&["p=10.1.1.1/32"]));
    let mut watcher = TestWatcher::default();
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
    catalog.handle(CatalogInput::ServiceDeleted(ObjectKey::new("shop", "a")));
    watcher.take(&mut catalog);
    assert!(watcher.findings("b").is_empty());
    assert_eq!(
        watcher.views[&ObjectKey::new("shop", "b")].allocation.len(),
        1
    );
}

#[test]
fn a_service_that_loses_an_address_of_a_pool_to_an_older_holder_gets_another_address() {
    let mut catalog = Catalog::new(with_pools(&["p=10.1.1.0/24"]));
    let mut watcher = TestWatcher::default();
    feed(&mut catalog, &from_pool("b", 80, "10.1.1.1"));
    watcher.take(&mut catalog);
    let named = || service("a", "portlb.io/address: 10.1.1.1", PORT_80);
    feed(&mut catalog, &named());
    watcher.take(&mut catalog);
    let addresses = |watcher: &TestWatcher| {
        let b = &watcher.views[&ObjectKey::new("shop", "b")];
        (
            model_addresses(&b.allocation),
            model_addresses(&b.addresses),
        )
    };
    let one = "10.1.1.1".to_owned();
    assert_eq!(addresses(&watcher), (one.clone(), one), "b holds it");
    // The statuses of two Services record the address, because two pods wrote them independently.
    feed(&mut catalog, &(named() + &recorded_status("10.1.1.1")));
    watcher.take(&mut catalog);
    assert_eq!(addresses(&watcher), ("10.1.1.2".to_owned(), String::new()));
}

#[test]
fn the_recorded_address_of_a_service_without_a_valid_state_is_not_given_to_another_service() {
    let mut catalog = Catalog::new(with_pools(&["p=10.1.1.0/24"]));
    let mut watcher = TestWatcher::default();
    let bad =
        from_pool("bad", 80, "10.1.1.1").replace("pool: p", "pool: p, portlb.io/scheduler: x");
    feed(&mut catalog, &[bad, from_pool("web", 80, "")].concat());
    watcher.take(&mut catalog);
    let view = |watcher: &TestWatcher, name| watcher.views[&ObjectKey::new("shop", name)].clone();
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
fn a_service_without_a_valid_state_does_not_block_the_services_that_share_its_address() {
    let shared = |name: &str, port: u16| {
        from_pool(name, port, "10.1.1.1").replace("pool: p", "pool: p, portlb.io/share-address: k")
    };
    let bad = shared("a", 80).replace("share-address: k", "share-address: k, portlb.io/ports: x");
    let mut catalog = Catalog::new(with_pools(&["p=10.1.1.0/24"]));
    let mut watcher = TestWatcher::default();
    feed(&mut catalog, &[bad, shared("b", 443)].concat());
    watcher.take(&mut catalog);
    assert_eq!(watcher.shown(), "tcp/10.1.1.1:443 mh -> \n");
}

#[test]
fn a_service_keeps_its_recorded_address_when_the_pool_shrinks_or_is_removed() {
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
        let mut watcher = TestWatcher::default();
        let other = service("b", "portlb.io/address: 10.1.1.1", PORT_80);
        feed(&mut catalog, &[kept("a", "10.1.1.1"), other].concat());
        watcher.take(&mut catalog);
        assert_eq!(watcher.shown(), "tcp/10.1.1.1:80 mh -> \n");
        let view = &watcher.views[&ObjectKey::new("shop", "a")];
        assert_eq!(model_addresses(&view.allocation), "10.1.1.1");
        let mut expected: Vec<&str> = finding.into_iter().collect();
        expected.push(
            "Warning AddressOutsidePools: 10.1.1.1 stays in use although no address pool contains \
             it; add it to an --address-pool, or write another address into the annotation \
             portlb.io/address",
        );
        assert_eq!(watcher.findings("a"), expected);
        assert_eq!(
            watcher.findings("b").len(),
            1,
            "the address belongs to Service a, the holder"
        );
    }
    // The pool p was renamed to q.
    let mut catalog = Catalog::new(with_pools(&["q=10.1.1.0/24"]));
    let mut watcher = TestWatcher::default();
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
    let allocation = |watcher: &TestWatcher, name| {
        model_addresses(&watcher.views[&ObjectKey::new("shop", name)].allocation)
    };
    assert_eq!(allocation(&watcher, "b"), "10.1.1.2");
    // The recorded address is in the pool q, but the Service names the pool p.
    let mut catalog = Catalog::new(with_pools(&["p=10.1.2.0/24", "q=10.1.1.0/24"]));
    let mut watcher = TestWatcher::default();
    feed(&mut catalog, &kept("a", "10.1.1.1"));
    watcher.take(&mut catalog);
    assert_eq!(allocation(&watcher, "a"), "10.1.2.1");
}

#[test]
fn a_pool_never_gives_a_reserved_address() {
    let mut settings = with_pools(&["p=10.1.1.0/24"]);
    settings.reserved.insert("10.1.1.1".parse().unwrap());
    for kept in ["", "10.1.1.1"] {
        let mut catalog = Catalog::new(settings.clone());
        let mut watcher = TestWatcher::default();
        feed(&mut catalog, &from_pool("a", 80, kept));
        watcher.take(&mut catalog);
        let view = &watcher.views[&ObjectKey::new("shop", "a")];
        assert_eq!(model_addresses(&view.allocation), "10.1.1.2");
    }
}
