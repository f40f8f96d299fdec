//! Kubernetes objects, reduced to the fields that the catalog reads.
//!
//! The types need little memory. The conversion from Kubernetes objects does not validate the
//! addresses and annotations that a user wrote in a Service: they are stored as text, so that a
//! finding can quote them.

use std::{fmt, net::IpAddr, num::NonZeroU16, sync::Arc};

use virtual_server::{AddressFamily, Protocol};

/// Prefix of the names of portlb's annotations and conditions.
pub const PREFIX: &str = "portlb.io/";

/// Annotation of Kubernetes with the meaning of `spec.loadBalancerSourceRanges`. The annotation is
/// ignored if the field is set.
pub const SOURCE_RANGES_ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

/// Condition that records the addresses of a Service, so that the Service keeps them.
pub const ADDRESS_CONDITION: &str = "portlb.io/Address";

/// Start of the reason of [`ADDRESS_CONDITION`]. The addresses follow.
const ALLOCATED: &str = "Allocated:";

/// Start of the reason of [`WEIGHT_LEVELS_CONDITION`]. The number of levels follows.
const ROUNDED: &str = "Rounded:";

/// Condition that shows whether the addresses of a Service are announced.
pub const ANNOUNCED_CONDITION: &str = "portlb.io/Announced";

/// Condition that records the number of levels to which the weights of a Service are rounded.
pub const WEIGHT_LEVELS_CONDITION: &str = "portlb.io/WeightLevels";

/// The namespace and the name of an object, shown as `namespace/name`. Cloning an `ObjectKey` is
/// cheap.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// `namespace/name`. A namespace contains no `/`.
    text: Arc<str>,
}

/// The kind of an object that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    Service,
    EndpointSlice,
    Pod,
}

/// The objects that one list and watch covers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatchScope {
    pub kind: ObjectKind,
    /// `None` means all namespaces.
    pub namespace: Option<Box<str>>,
}

/// A Service, reduced to the fields that the catalog reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub key: ObjectKey,
    /// Distinguishes the Service from an earlier Service with the same name.
    pub uid: Arc<str>,
    /// The field `metadata.generation`, which the API server increases with each change of the
    /// specification.
    pub generation: i64,
    /// Creation time, in seconds since 1970. `None` for a Service from a manifest.
    pub created_seconds: Option<i64>,
    /// True if the deletion of the Service has begun.
    pub is_being_deleted: bool,
    pub annotations: Annotations,
    pub service_type: ServiceType,
    pub load_balancer_class: Option<Box<str>>,
    pub load_balancer_ip: Option<Box<str>>,
    pub external_ips: Vec<Box<str>>,
    pub source_ranges: Vec<Box<str>>,
    /// The value of the annotation [`SOURCE_RANGES_ANNOTATION`].
    pub annotated_source_ranges: Option<Box<str>>,
    /// `spec.ipFamilies`. Empty if the Service comes from a manifest that does not set the field.
    pub ip_families: Vec<AddressFamily>,
    /// True if `spec.ipFamilyPolicy` is `RequireDualStack`.
    pub requires_dual_stack: bool,
    pub has_selector: bool,
    pub publishes_not_ready: bool,
    /// The timeout of `spec.sessionAffinity: ClientIP`. `None` without this affinity.
    pub client_affinity_seconds: Option<i64>,
    /// True if `spec.externalTrafficPolicy` is `Local`.
    pub is_traffic_policy_local: bool,
    pub traffic_distribution: Option<Box<str>>,
    /// True if the label `service.kubernetes.io/service-proxy-name` makes kube-proxy ignore the
    /// Service.
    pub has_other_proxy: bool,
    pub ports: Vec<ServicePort>,
    /// The parts of the status that portlb has written.
    pub written: WrittenStatus,
}

/// Names and values of portlb's annotations, sorted by name. The names have no [`PREFIX`].
pub type Annotations = Box<[(Box<str>, Box<str>)]>;

/// The field `spec.type` of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceType {
    /// The Service is reachable only within the cluster, or is headless.
    ClusterIp,
    /// The Service is reachable on a port of every node.
    NodePort,
    /// The only type of Service that can have the field `spec.loadBalancerClass`.
    LoadBalancer,
    /// The Service is an alias in DNS, without endpoints.
    ExternalName,
}

/// An entry of `spec.ports` of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Empty if the port has no name, which is allowed for a single port.
    pub name: Box<str>,
    pub protocol: Protocol,
    /// The port that clients connect to.
    pub port: u16,
    /// The port on which the pods listen. `None` if `spec.ports[].targetPort` is a name.
    pub target_port: Option<u16>,
}

/// The parts of a Service's status that portlb writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WrittenStatus {
    /// The entries of `.status.loadBalancer.ingress` that have an IP address.
    pub ingress: Vec<Ingress>,
    pub address: Option<Condition>,
    pub announced: Option<Condition>,
    pub weight_levels: Option<Condition>,
}

/// An entry of `.status.loadBalancer.ingress`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ingress {
    pub address: IpAddr,
    /// The field `ipMode`: `Proxy`, `VIP` or missing.
    pub ip_mode: Option<Box<str>>,
    pub ports: Vec<(Protocol, u16)>,
}

/// A condition in the status of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// `True`, `False` or `Unknown`.
    pub status: Box<str>,
    /// A word for programs, such as `Announced`.
    pub reason: Box<str>,
    /// A text for users.
    pub message: Box<str>,
    /// Time of the last change of `status`, in seconds since 1970.
    pub last_transition_seconds: i64,
}

/// An EndpointSlice: a part of the endpoints of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    pub key: ObjectKey,
    /// The Service that the endpoints belong to. `None` if the EndpointSlice lacks the label with
    /// the name of the Service.
    pub service: Option<ObjectKey>,
    pub annotations: Annotations,
    /// The ports of all endpoints in this slice.
    pub ports: Box<[EndpointPort]>,
    /// The endpoints, sorted by address, without duplicates. Empty if the slice lists names.
    pub endpoints: Box<[Endpoint]>,
    pub not_used: NotUsed,
}

/// The entries of an EndpointSlice that cannot be used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NotUsed {
    /// The second and further addresses of endpoints.
    pub further_addresses: CountWithExample,
    /// Names that an endpoint has instead of a first address.
    pub names: CountWithExample,
}

/// A number of texts, and the first of them as an example.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CountWithExample {
    pub count: usize,
    /// Empty if the count is 0.
    pub example: Box<str>,
}

/// A port of the endpoints in an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPort {
    /// The name of the Service's port.
    pub name: Box<str>,
    pub protocol: Protocol,
    /// The port on which the endpoints listen. `None` means every port.
    pub port: Option<NonZeroU16>,
}

/// One endpoint of a Service: the first address of the endpoint, and its readiness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub address: IpAddr,
    pub readiness: EndpointReadiness,
}

/// The readiness of an endpoint or a pod, from its conditions. If an EndpointSlice lists an address
/// twice, `Ready` has precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndpointReadiness {
    /// Terminating or not ready. The endpoint gets no new connections unless the Service sets
    /// `publishNotReadyAddresses`.
    NotReady,
    /// The endpoint gets new connections.
    Ready,
}

/// A pod, reduced to the fields that the catalog reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub key: ObjectKey,
    pub annotations: Annotations,
    /// Empty if the pod has not started yet or has ended.
    pub addresses: Vec<IpAddr>,
    pub readiness: EndpointReadiness,
}

impl ObjectKey {
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            text: format!("{namespace}/{name}").into(),
        }
    }

    /// Returns the namespace, or an empty text if the object has none.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.halves().0
    }

    #[must_use]
    pub fn name(&self) -> &str {
        self.halves().1
    }

    fn halves(&self) -> (&str, &str) {
        self.text.split_once('/').unwrap_or(("", &self.text))
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl CountWithExample {
    /// Counts a text. The first counted text becomes the example.
    pub fn add(&mut self, text: &str) {
        if self.count == 0 {
            self.example = text.into();
        }
        self.count += 1;
    }
}

impl WatchScope {
    /// Reports whether the list and watch covers the namespace of the object.
    #[must_use]
    pub fn covers(&self, key: &ObjectKey) -> bool {
        self.namespace
            .as_deref()
            .is_none_or(|namespace| namespace == key.namespace())
    }
}

impl WrittenStatus {
    /// Reports whether the status records that the Service has the address, in the condition
    /// [`ADDRESS_CONDITION`] or in the ingress.
    #[must_use]
    pub fn holds(&self, address: IpAddr) -> bool {
        let mut announced = self.ingress.iter().map(|ingress| ingress.address);
        announced.any(|announced| announced == address)
            || self.recorded_addresses().contains(&address)
    }

    /// Returns the addresses in the condition [`ADDRESS_CONDITION`]. Without a valid condition the
    /// list is empty.
    #[must_use]
    pub fn recorded_addresses(&self) -> Vec<IpAddr> {
        let recorded = self.address.as_ref();
        let recorded = recorded.filter(|condition| &*condition.status == "True");
        let record = recorded.and_then(|condition| condition.reason.strip_prefix(ALLOCATED));
        let texts = record.iter().flat_map(|record| record.split(','));
        texts
            .filter_map(|text| text.replace('_', ".").parse().ok())
            .collect()
    }
}

impl WrittenStatus {
    /// Returns the number of levels in the condition [`WEIGHT_LEVELS_CONDITION`], or `None` without
    /// a valid condition.
    #[must_use]
    pub fn recorded_weight_levels(&self) -> Option<u16> {
        let condition = self.weight_levels.as_ref()?;
        condition.reason.strip_prefix(ROUNDED)?.parse().ok()
    }
}

/// Returns the reason of [`ADDRESS_CONDITION`], which records the addresses:
/// `Allocated:10_1_1_9,2001:db8:0:0:0:0:0:9`. Kubernetes allows only letters, digits, `_`, `,` and
/// `:` in a reason, and no `:` at its end. So dots are replaced, and IPv6 addresses are not
/// shortened.
#[must_use]
pub fn address_reason(addresses: &[IpAddr]) -> String {
    let text = |address: &IpAddr| match address {
        IpAddr::V4(address) => address.to_string().replace('.', "_"),
        IpAddr::V6(address) => {
            let segments = address.segments().map(|segment| format!("{segment:x}"));
            segments.join(":")
        }
    };
    let texts: Vec<String> = addresses.iter().map(text).collect();
    format!("{ALLOCATED}{}", texts.join(","))
}

/// Returns the reason of [`WEIGHT_LEVELS_CONDITION`], which records the number of levels:
/// `Rounded:8`.
#[must_use]
pub fn weight_levels_reason(levels: u16) -> String {
    format!("{ROUNDED}{levels}")
}

/// Returns the message of [`ADDRESS_CONDITION`]. The message is only for users, because programs
/// read the reason.
#[must_use]
pub fn address_message(addresses: &[IpAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(status: &str, reason: &str, message: &str) -> Vec<IpAddr> {
        let condition = Condition {
            status: status.into(),
            reason: reason.into(),
            message: message.into(),
            last_transition_seconds: 0,
        };
        let written = WrittenStatus {
            address: Some(condition),
            ..WrittenStatus::default()
        };
        written.recorded_addresses()
    }

    #[test]
    fn the_reason_of_the_address_condition_is_valid_and_is_read_back() {
        let addresses: Vec<IpAddr> = ["10.1.1.9", "2001:db8::", "::"]
            .map(|address| address.parse().unwrap())
            .into();
        let reason = address_reason(&addresses);
        assert_eq!(
            reason,
            "Allocated:10_1_1_9,2001:db8:0:0:0:0:0:0,0:0:0:0:0:0:0:0"
        );
        assert_eq!(recorded("True", &reason, ""), addresses);
        assert_eq!(recorded("False", &reason, ""), [] as [IpAddr; 0]);
    }

    #[test]
    fn addresses_are_not_read_from_the_message_of_a_condition() {
        assert_eq!(recorded("True", "Allocated", "10.1.1.9"), [] as [IpAddr; 0]);
    }
}
