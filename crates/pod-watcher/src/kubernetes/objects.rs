//! Conversion of the API server's objects to the types of the catalog.

use std::{net::IpAddr, num::NonZeroU16};

use k8s_openapi::{
    api::{core::v1 as core, discovery::v1 as discovery},
    apimachinery::pkg::{
        apis::meta::v1::{self as meta, ObjectMeta},
        util::intstr::IntOrString,
    },
};
use virtual_server::{AddressFamily, Protocol};

use service_catalog::model::{
    ADDRESS_CONDITION, ANNOUNCED_CONDITION, Annotations, Condition, Endpoint, EndpointPort,
    EndpointReadiness, EndpointSlice, Ingress, NotUsed, ObjectKey, PREFIX, Pod,
    SOURCE_RANGES_ANNOTATION, Service, ServicePort, ServiceType, WEIGHT_LEVELS_CONDITION,
    WrittenStatus,
};

/// Label of an EndpointSlice with the name of its Service.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// Label of a Service that kube-proxy ignores, because another proxy serves it.
const SERVICE_PROXY_LABEL: &str = "service.kubernetes.io/service-proxy-name";

fn key(meta: &mut ObjectMeta) -> ObjectKey {
    let namespace = meta.namespace.take().unwrap_or_default();
    ObjectKey::new(&namespace, &meta.name.take().unwrap_or_default())
}

pub(crate) fn service(service: core::Service) -> Service {
    let mut meta = service.metadata;
    let spec = service.spec.unwrap_or_default();
    Service {
        key: key(&mut meta),
        uid: meta.uid.as_deref().unwrap_or_default().into(),
        generation: meta.generation.unwrap_or_default(),
        created_seconds: meta.creation_timestamp.as_ref().map(seconds),
        is_being_deleted: meta.deletion_timestamp.is_some(),
        has_other_proxy: meta
            .labels
            .as_ref()
            .is_some_and(|labels| labels.contains_key(SERVICE_PROXY_LABEL)),
        annotated_source_ranges: meta
            .annotations
            .as_mut()
            .and_then(|annotations| annotations.remove(SOURCE_RANGES_ANNOTATION))
            .map(Into::into),
        annotations: annotations(&mut meta),
        service_type: match spec.type_.as_deref() {
            Some("LoadBalancer") => ServiceType::LoadBalancer,
            Some("NodePort") => ServiceType::NodePort,
            Some("ExternalName") => ServiceType::ExternalName,
            Some(_) | None => ServiceType::ClusterIp,
        },
        load_balancer_class: spec.load_balancer_class.map(Into::into),
        load_balancer_ip: spec
            .load_balancer_ip
            .filter(|address| !address.is_empty())
            .map(Into::into),
        external_ips: spec
            .external_ips
            .unwrap_or_default()
            .into_iter()
            .map(Into::into)
            .collect(),
        source_ranges: spec
            .load_balancer_source_ranges
            .unwrap_or_default()
            .into_iter()
            .map(Into::into)
            .collect(),
        ip_families: spec
            .ip_families
            .unwrap_or_default()
            .iter()
            .filter_map(|family| match family.as_str() {
                "IPv4" => Some(AddressFamily::V4),
                "IPv6" => Some(AddressFamily::V6),
                _ => None,
            })
            .collect(),
        requires_dual_stack: spec.ip_family_policy.as_deref() == Some("RequireDualStack"),
        has_selector: spec.selector.is_some_and(|selector| !selector.is_empty()),
        publishes_not_ready: spec.publish_not_ready_addresses.unwrap_or_default(),
        client_affinity_seconds: (spec.session_affinity.as_deref() == Some("ClientIP")).then(
            || {
                spec.session_affinity_config
                    .and_then(|config| config.client_ip?.timeout_seconds)
                    .map_or(DEFAULT_AFFINITY_SECONDS, i64::from)
            },
        ),
        traffic_distribution: spec.traffic_distribution.map(Into::into),
        is_traffic_policy_local: spec.external_traffic_policy.as_deref() == Some("Local"),
        ports: spec
            .ports
            .unwrap_or_default()
            .into_iter()
            .map(service_port)
            .collect(),
        written: written_status(service.status.unwrap_or_default()),
    }
}

/// Default of the API server for `sessionAffinityConfig.clientIP.timeoutSeconds`.
const DEFAULT_AFFINITY_SECONDS: i64 = 10_800;

fn service_port(port: core::ServicePort) -> ServicePort {
    let number = |number: i32| u16::try_from(number).unwrap_or_default();
    ServicePort {
        name: port.name.unwrap_or_default().into(),
        protocol: protocol(port.protocol.as_deref()),
        port: number(port.port),
        target_port: match port.target_port {
            // The default of the API server for an unset `targetPort` is the port of the Service.
            None | Some(IntOrString::Int(0)) => Some(number(port.port)),
            Some(IntOrString::Int(target)) => Some(number(target)),
            Some(IntOrString::String(text)) => text.parse().ok(),
        },
    }
}

fn written_status(status: core::ServiceStatus) -> WrittenStatus {
    let mut written = WrittenStatus::default();
    let ingress = status.load_balancer.and_then(|status| status.ingress);
    for entry in ingress.unwrap_or_default() {
        let Some(address) = entry.ip.and_then(|ip| ip.parse().ok()) else {
            continue;
        };
        let ports = entry.ports.unwrap_or_default();
        written.ingress.push(Ingress {
            address,
            ip_mode: entry.ip_mode.map(Into::into),
            ports: ports
                .iter()
                .map(|port| {
                    let number = u16::try_from(port.port).unwrap_or_default();
                    (protocol(Some(&port.protocol)), number)
                })
                .collect(),
        });
    }
    for condition in status.conditions.unwrap_or_default() {
        let place = match condition.type_.as_str() {
            ADDRESS_CONDITION => &mut written.address,
            ANNOUNCED_CONDITION => &mut written.announced,
            WEIGHT_LEVELS_CONDITION => &mut written.weight_levels,
            _ => continue,
        };
        *place = Some(Condition {
            last_transition_seconds: seconds(&condition.last_transition_time),
            status: condition.status.into(),
            reason: condition.reason.into(),
            message: condition.message.into(),
        });
    }
    written
}

pub(crate) fn endpoint_slice(slice: discovery::EndpointSlice) -> EndpointSlice {
    let mut meta = slice.metadata;
    let key = key(&mut meta);
    let service = meta
        .labels
        .as_ref()
        .and_then(|labels| labels.get(SERVICE_NAME_LABEL))
        .filter(|name| !name.is_empty())
        .map(|name| ObjectKey::new(key.namespace(), name));
    let mut not_used = NotUsed::default();
    let mut endpoints: Vec<Endpoint> = Vec::with_capacity(slice.endpoints.len());
    for endpoint in slice.endpoints {
        // An endpoint is served at its first address: the API defines all addresses of an endpoint
        // as interchangeable.
        let mut addresses = endpoint.addresses.iter();
        match addresses.next().map(|text| (text, text.parse())) {
            Some((_, Ok(address))) => endpoints.push(Endpoint {
                address,
                readiness: readiness(&endpoint.conditions.unwrap_or_default()),
            }),
            Some((text, Err(_))) => not_used.names.add(text),
            None => not_used.names.add("\"\""),
        }
        addresses.for_each(|text| not_used.further_addresses.add(text));
    }
    endpoints.sort_unstable_by(|one, other| {
        let address = one.address.cmp(&other.address);
        address.then(other.readiness.cmp(&one.readiness))
    });
    endpoints.dedup_by_key(|endpoint| endpoint.address);
    EndpointSlice {
        key,
        service,
        annotations: annotations(&mut meta),
        ports: slice
            .ports
            .unwrap_or_default()
            .into_iter()
            .map(slice_port)
            .collect(),
        endpoints: endpoints.into(),
        not_used,
    }
}

fn slice_port(port: discovery::EndpointPort) -> EndpointPort {
    let number = port.port.and_then(|port| u16::try_from(port).ok());
    EndpointPort {
        name: port.name.unwrap_or_default().into(),
        protocol: protocol(port.protocol.as_deref()),
        port: number.and_then(NonZeroU16::new),
    }
}

pub(crate) fn endpoints_port(port: core::EndpointPort) -> EndpointPort {
    EndpointPort {
        name: port.name.unwrap_or_default().into(),
        protocol: protocol(port.protocol.as_deref()),
        port: u16::try_from(port.port).ok().and_then(NonZeroU16::new),
    }
}

/// Returns the readiness of an endpoint. An endpoint without the condition `ready` is ready, as the
/// API defines. An endpoint that is not ready gets no new connections, whether it is terminating or
/// not; it keeps its connections while the slice lists it (docs/decisions/0014).
fn readiness(conditions: &discovery::EndpointConditions) -> EndpointReadiness {
    if conditions.ready.unwrap_or(true) {
        EndpointReadiness::Ready
    } else {
        EndpointReadiness::NotReady
    }
}

pub(crate) fn pod(pod: core::Pod) -> Pod {
    let mut meta = pod.metadata;
    let status = pod.status.unwrap_or_default();
    let has_ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let is_ready = status
        .conditions
        .unwrap_or_default()
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let readiness = if is_ready && !has_ended && meta.deletion_timestamp.is_none() {
        EndpointReadiness::Ready
    } else {
        EndpointReadiness::NotReady
    };
    let addresses = if has_ended {
        Vec::new()
    } else {
        let listed = status.pod_ips.unwrap_or_default();
        let listed = listed.into_iter().map(|listed| listed.ip);
        let mut addresses: Vec<IpAddr> = listed
            .chain(status.pod_ip)
            .filter_map(|address| address.parse().ok())
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    };
    Pod {
        key: key(&mut meta),
        annotations: annotations(&mut meta),
        addresses,
        readiness,
    }
}

fn annotations(meta: &mut ObjectMeta) -> Annotations {
    let annotations = meta.annotations.take().unwrap_or_default();
    annotations
        .into_iter()
        .filter_map(|(name, value)| Some((name.strip_prefix(PREFIX)?.into(), value.into())))
        .collect()
}

/// Returns the protocol of a port. The API server accepts only TCP, UDP and SCTP; TCP is its
/// default.
fn protocol(name: Option<&str>) -> Protocol {
    match name {
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        Some(_) | None => Protocol::Tcp,
    }
}

fn seconds(time: &meta::Time) -> i64 {
    time.0.as_second()
}
