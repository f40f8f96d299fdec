//! Pods without a Service, in the form of a Service.

use std::net::IpAddr;

use super::super::{
    model::{
        Endpoint, EndpointSlice, Ingress, NotUsed, ObjectKey, Pod, Service, ServiceType,
        WrittenStatus,
    },
    service_spec::{self, ParsedService},
    settings::PodService,
};

/// Returns the key of the Service for pods. Its empty namespace distinguishes it from each Service
/// of a cluster.
pub(super) fn key() -> ObjectKey {
    ObjectKey::new("", "pods")
}

/// Returns the Service for pods. No other Service can take its addresses, because it counts as
/// older than all other Services and its status records its addresses.
pub(super) fn service(pods: &PodService) -> (Service, ParsedService) {
    let spec = service_spec::parse_pods(pods);
    let addresses: &[IpAddr] = if spec.is_ok() { &pods.addresses } else { &[] };
    let ingress = |address: &IpAddr| Ingress {
        address: *address,
        ip_mode: None,
        ports: Vec::new(),
    };
    let service = Service {
        key: key(),
        uid: "".into(),
        generation: 0,
        created_seconds: Some(i64::MIN),
        is_being_deleted: false,
        annotations: Box::default(),
        service_type: ServiceType::ClusterIp,
        load_balancer_class: None,
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
        ports: Vec::new(),
        written: WrittenStatus {
            ingress: addresses.iter().map(ingress).collect(),
            ..WrittenStatus::default()
        },
    };
    let parsed = ParsedService {
        spec,
        restrictions: Vec::new(),
        remarks: Vec::new(),
    };
    (service, parsed)
}

/// Returns the EndpointSlice for one pod, with the key of the pod.
pub(super) fn slice(pod: &Pod) -> EndpointSlice {
    let endpoint = |address: &IpAddr| Endpoint {
        address: *address,
        readiness: pod.readiness,
    };
    let mut endpoints: Box<[Endpoint]> = pod.addresses.iter().map(endpoint).collect();
    endpoints.sort_unstable_by_key(|endpoint| endpoint.address);
    EndpointSlice {
        key: pod.key.clone(),
        service: Some(key()),
        annotations: pod.annotations.clone(),
        ports: Box::default(),
        endpoints,
        not_used: NotUsed::default(),
    }
}
