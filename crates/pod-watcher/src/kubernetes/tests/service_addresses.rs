//! Tests of the sources of a Service's address, of shared addresses and of allowed prefixes.

use expect_test::expect;

use super::*;

#[test]
fn the_address_annotation_precedes_load_balancer_ip_which_precedes_external_ips() {
    let spec = "  loadBalancerIP: 10.1.1.2\n  externalIPs: [10.1.1.3]\n  ports: [{port: 80}]\n";
    let addresses = |manifest: &str, settings: CatalogSettings| {
        let mut catalog = Catalog::new(settings);
        feed(&mut catalog, manifest);
        render::of(&mut catalog);
        let servers = catalog.desired().virtual_servers;
        servers
            .keys()
            .map(|id| id.address.to_string())
            .collect::<Vec<String>>()
    };
    let pool = with_pools(&["a=10.1.1.4/32"]);
    let annotated = service("web", "portlb.io/address: 10.1.1.1", spec);
    assert_eq!(addresses(&annotated, pool.clone()), ["10.1.1.1"]);
    assert_eq!(
        addresses(&service("web", "", spec), pool.clone()),
        ["10.1.1.2"]
    );
    let external = "  externalIPs: [10.1.1.3]\n  ports: [{port: 80}]\n";
    assert_eq!(
        addresses(&service("web", "", external), pool.clone()),
        ["10.1.1.3"]
    );
    let from_pool =
        "  ipFamilies: [IPv4]\n  allocateLoadBalancerNodePorts: false\n  ports: [{port: 80}]\n";
    assert_eq!(
        addresses(
            &service("web", "portlb.io/address-pool: a", from_pool),
            pool
        ),
        ["10.1.1.4"]
    );
}

#[test]
fn a_pool_gives_the_lowest_free_address_of_each_family() {
    let dual = |name: &str, pool: &str| {
        service(
            name,
            &format!("portlb.io/address-pool: {pool}"),
            "  ipFamilies: [IPv4, IPv6]\n  ports: [{port: 80}]\n",
        )
    };
    let pools = with_pools(&["a=10.1.1.0/30", "b=10.1.2.0/30,fd00:1::/64"]);
    check(
        pools.clone(),
        &[dual("one", "b"), dual("two", "b")].concat(),
        expect![[r#"
        virtualServers:
        - name: shop/one
          addresses: [10.1.2.1]
          ports: [80]
          realServers: []
        - name: shop/two
          addresses: [10.1.2.2]
          ports: [80]
          realServers: []
        - name: shop/one
          addresses: [fd00:1::1]
          ports: [80]
          realServers: []
        - name: shop/two
          addresses: [fd00:1::2]
          ports: [80]
          realServers: []
    "#]],
    );
    check(
        pools,
        &[
            dual("one", "b"),
            dual("two", "b"),
            dual("three", "b"),
            dual("four", "c"),
        ]
        .concat(),
        expect![[r#"
            virtualServers:
            - name: shop/one
              addresses: [10.1.2.1]
              ports: [80]
              realServers: []
            - name: shop/three
              addresses: [10.1.2.2]
              ports: [80]
              realServers: []
            - name: shop/one
              addresses: [fd00:1::1]
              ports: [80]
              realServers: []
            - name: shop/three
              addresses: [fd00:1::2]
              ports: [80]
              realServers: []
            - name: shop/two
              addresses: [fd00:1::3]
              ports: [80]
              realServers: []
            # shop/four: Warning BadAnnotation: annotation portlb.io/address-pool: "c" is not an address pool; known are a, b
            # shop/two: Warning NoAddress: no IPv4 address: none of the 2 in address pool b is free; give the pool another prefix, delete a Service, or write the annotation portlb.io/address
        "#]],
    );
}

#[test]
fn the_older_of_two_services_with_the_same_address_gets_the_address() {
    let aged = |name: &str, year: u32| {
        service(name, "", PORT_80).replace(
            "uid: ",
            &format!("creationTimestamp: '{year}-01-01T00:00:00Z', uid: "),
        )
    };
    check(
        settings(),
        &[aged("a-young-one", 2026), aged("the-old-one", 2025)].concat(),
        expect![[r#"
            virtualServers:
            - name: shop/the-old-one
              addresses: [10.1.1.10]
              ports: [80]
              realServers: []
            # shop/a-young-one: Warning AddressConflict: 10.1.1.10 belongs to Service shop/the-old-one; choose another address, or write the annotation portlb.io/share-address with the same value on both Services, which then share the address if their ports differ
        "#]],
    );
}

#[test]
fn services_with_the_same_share_key_and_different_ports_share_an_address() {
    let sharing = |name: &str, port: u16| {
        service(
            name,
            "portlb.io/share-address: k, portlb.io/address: 10.1.1.10",
            &format!("  ports: [{{port: {port}}}]\n"),
        )
    };
    check(
        settings(),
        &[sharing("a", 80), sharing("b", 443), sharing("c", 80)].concat(),
        expect![[r#"
            virtualServers:
            - name: shop/a
              addresses: [10.1.1.10]
              ports: [80]
              realServers: []
            - name: shop/b
              addresses: [10.1.1.10]
              ports: [443]
              realServers: []
            # shop/c: Warning AddressConflict: tcp/80 of the shared address 10.1.1.10 belongs to Service shop/a; choose other ports or another address
        "#]],
    );
    let from_pool = |name: &str, port: u16| {
        sharing(name, port).replace("portlb.io/address: 10.1.1.10", "portlb.io/address-pool: p")
    };
    check(
        with_pools(&["p=10.1.1.0/24"]),
        &[from_pool("a", 80), from_pool("b", 443), from_pool("c", 80)].concat(),
        expect![[r#"
            virtualServers:
            - name: shop/a
              addresses: [10.1.1.1]
              ports: [80]
              realServers: []
            - name: shop/b
              addresses: [10.1.1.1]
              ports: [443]
              realServers: []
            - name: shop/c
              addresses: [10.1.1.2]
              ports: [80]
              realServers: []
        "#]],
    );
}

#[test]
fn an_address_pool_is_written_as_a_name_and_prefixes() {
    use service_catalog::settings::AddressPool;
    let pool: AddressPool = "web=10.1.1.0/24, fd00:1::/64".parse().unwrap();
    assert_eq!((pool.name.as_str(), pool.prefixes.len()), ("web", 2));
    for text in [
        "",
        "10.1.1.0/24",
        "=10.1.1.0/24",
        "web=",
        "web=10.1.1.0",
        "web=x",
    ] {
        assert!(text.parse::<AddressPool>().is_err(), "{text:?}");
    }
}

#[test]
fn an_address_outside_of_the_allowed_prefixes_is_refused_with_a_suggestion() {
    let mut confined = with_pools(&["p=10.1.2.0/24"]);
    confined
        .service_ranges
        .insert("10.1.1.0/24".parse().unwrap());
    confined.reserved.insert("10.1.1.1".parse().unwrap());
    confined.is_confined = true;
    let named = |name: &str, address: &str| {
        service(name, &format!("portlb.io/address: {address}"), PORT_80)
    };
    let external = service(
        "d",
        "",
        "  loadBalancerIP: 10.9.9.9\n  ports: [{port: 80}]\n",
    );
    let manifests = [
        named("a", "10.1.1.1"),
        named("b", "10.1.1.2"),
        named("c", "10.1.2.2"),
        external.clone(),
    ]
    .concat();
    check(
        confined.clone(),
        &manifests,
        expect![[r#"
            serviceRanges:
            - 10.1.1.0/24
            virtualServers:
            - name: shop/b
              addresses: [10.1.1.2]
              ports: [80]
              realServers: []
            - name: shop/c
              addresses: [10.1.2.2]
              ports: [80]
              realServers: []
            # shop/a: Warning BadAnnotation: annotation portlb.io/address: 10.1.1.1 is the address of the API server, which pod-watcher itself needs; write another address
            # shop/d: Warning BadSpecification: spec.loadBalancerIP: 10.9.9.9 lies outside of --service-ranges, --address-pool and --allowed-prefixes; write an address within 10.1.1.0/24, 10.1.2.0/24
        "#]],
    );
    // With `is_confined` and without any allowed prefix, every address is refused.
    check(
        CatalogSettings {
            is_confined: true,
            ..settings()
        },
        &external,
        expect![[r#"
            virtualServers: []
            # shop/d: Warning BadSpecification: spec.loadBalancerIP: 10.9.9.9 is not served, since no address is allowed; start pod-watcher with --service-ranges, --address-pool or --allowed-prefixes
        "#]],
    );
    check(
        CatalogSettings {
            is_confined: true,
            allowed_prefixes: vec!["10.9.9.0/24".parse().unwrap()],
            ..settings()
        },
        &external,
        expect![[r#"
            virtualServers:
            - name: shop/d
              addresses: [10.9.9.9]
              ports: [80]
              realServers: []
        "#]],
    );
    confined.is_confined = false;
    check(
        confined,
        &external,
        expect![[r#"
            serviceRanges:
            - 10.1.1.0/24
            virtualServers:
            - name: shop/d
              addresses: [10.9.9.9]
              ports: [80]
              realServers: []
        "#]],
    );
}
