//! Fuzz target: any text in annotations leaves the catalog with a valid desired set, without a
//! panic, a hang or excessive memory use.
//!
//! Each input line is `kind name=value`. The kind is `s` for an annotation of the Service, `e` for
//! its EndpointSlice, or `p` for its pod. Other lines are ignored.

#![no_main]

use libfuzzer_sys::fuzz_target;
use service_catalog::{
    catalog::{Catalog, CatalogInput},
    model::{
        Annotations, Endpoint, EndpointPort, EndpointReadiness, EndpointSlice, NotUsed, ObjectKey,
        Pod, Service, ServicePort, ServiceType, WrittenStatus,
    },
    settings::CatalogSettings,
};
use virtual_server::Protocol;

const CLASS: &str = "portlb.io/portlb";

fuzz_target!(|text: &str| {
    let settings = CatalogSettings {
        load_balancer_class: CLASS.to_owned(),
        pools: vec!["web=10.1.1.0/29,fd00::/125".parse().expect("a pool")],
        ..CatalogSettings::default()
    };
    let mut catalog = Catalog::new(settings);
    catalog.handle(CatalogInput::Pod(pod(annotations(text, "p "))));
    catalog.handle(CatalogInput::EndpointSlice(slice(annotations(text, "e "))));
    catalog.handle(CatalogInput::Service(service(annotations(text, "s "))));
    catalog.take_output();
    let desired = catalog.desired();
    assert_eq!(desired.validate(), Ok(()));
});

fn annotations(text: &str, kind: &str) -> Annotations {
    let lines = text.lines().filter_map(|line| line.strip_prefix(kind));
    let pairs = lines.filter_map(|line| line.split_once('='));
    pairs
        .map(|(name, value)| (name.into(), value.into()))
        .collect()
}

fn service(annotations: Annotations) -> Service {
    Service {
        key: ObjectKey::new("shop", "web"),
        uid: "uid".into(),
        generation: 1,
        created_seconds: Some(1),
        is_being_deleted: false,
        annotations,
        service_type: ServiceType::LoadBalancer,
        load_balancer_class: Some(CLASS.into()),
        load_balancer_ip: None,
        external_ips: Vec::new(),
        source_ranges: Vec::new(),
        annotated_source_ranges: None,
        ip_families: Vec::new(),
        requires_dual_stack: false,
        has_selector: true,
        publishes_not_ready: false,
        client_affinity_seconds: None,
        is_traffic_policy_local: false,
        traffic_distribution: None,
        has_other_proxy: false,
        ports: vec![ServicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 80,
            target_port: Some(80),
        }],
        written: WrittenStatus::default(),
    }
}

fn slice(annotations: Annotations) -> EndpointSlice {
    EndpointSlice {
        key: ObjectKey::new("shop", "web-1"),
        service: Some(ObjectKey::new("shop", "web")),
        annotations,
        ports: [EndpointPort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: std::num::NonZeroU16::new(80),
        }]
        .into(),
        endpoints: ["10.0.0.1", "10.0.0.2", "fd01::1"]
            .map(|address| Endpoint {
                address: address.parse().expect("an address"),
                readiness: EndpointReadiness::Ready,
            })
            .into(),
        not_used: NotUsed::default(),
    }
}

fn pod(annotations: Annotations) -> Pod {
    Pod {
        key: ObjectKey::new("shop", "web-x"),
        annotations,
        addresses: vec!["10.0.0.1".parse().expect("an address")],
        readiness: EndpointReadiness::Ready,
    }
}
