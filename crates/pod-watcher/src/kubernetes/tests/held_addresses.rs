//! Addresses over time: the holder of an address, and addresses of pools.

use super::*;

pub(super) fn from_pool(name: &str, port: u16, kept: &str) -> String {
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
                 both Services, which then share the address if their ports differ"
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

pub(super) fn model_addresses(addresses: &[IpAddr]) -> String {
    service_catalog::model::address_message(addresses)
}

#[test]
fn a_service_without_an_address_gets_one_when_one_is_free() {
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
fn a_service_that_lost_an_address_of_a_pool_to_an_older_holder_gets_another() {
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
            "Warning AddressOutsidePools: 10.1.1.1 stays in use although no address pool contains \
             it; add it to an --address-pool, or write another address into the annotation \
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
