//! What this daemon needs of a cluster's objects, in a form that takes little memory.
//!
//! Conversion loses what is not used and judges nothing: a text that shall become an address or a
//! number is kept as text where a user wrote it, so that a finding can quote it.

use std::{fmt, net::IpAddr, num::NonZeroU16, sync::Arc};

use virtual_server::Protocol;

/// What the names of our annotations and conditions begin with.
pub const PREFIX: &str = "portlb.io/";

/// Annotation of Kubernetes that says what `spec.loadBalancerSourceRanges` says. The field counts
/// where both are given.
pub const SOURCE_RANGES_ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

/// Condition of a Service that records the addresses that it has: it keeps them from all others.
pub const ADDRESS_CONDITION: &str = "portlb.io/Address";

/// What the reason of [`ADDRESS_CONDITION`] begins with: the addresses follow.
const ALLOCATED: &str = "Allocated:";

/// What the reason of [`WEIGHT_LEVELS_CONDITION`] begins with: the number of levels follows.
const ROUNDED: &str = "Rounded:";

/// Condition of a Service that says whether its addresses are announced.
pub const ANNOUNCED_CONDITION: &str = "portlb.io/Announced";

/// Condition of a Service that records to how many levels its weights are rounded.
pub const WEIGHT_LEVELS_CONDITION: &str = "portlb.io/WeightLevels";

/// Namespace and name. Cheap to clone; shown as `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// `namespace/name`: a namespace holds no `/`.
    text: Arc<str>,
}

/// Kind of an object that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `v1` Service.
    Service,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
    /// `v1` Pod.
    Pod,
}

/// What one list and watch covers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope {
    /// The kind.
    pub kind: Kind,
    /// The namespace; `None`: all of them.
    pub namespace: Option<Box<str>>,
}

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Tells it from another one that had the same name.
    pub uid: Arc<str>,
    /// Counts the changes of its specification.
    pub generation: i64,
    /// When it was created, in seconds since 1970; `None` in a manifest that no cluster has seen.
    pub created_seconds: Option<i64>,
    /// Its deletion has begun.
    pub is_being_deleted: bool,
    /// Our annotations alone, without [`PREFIX`], by name.
    pub annotations: Annotations,
    /// `spec.type`.
    pub service_type: ServiceType,
    /// `spec.loadBalancerClass`.
    pub load_balancer_class: Option<Box<str>>,
    /// `spec.loadBalancerIP`.
    pub load_balancer_ip: Option<Box<str>>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<Box<str>>,
    /// `spec.loadBalancerSourceRanges`.
    pub source_ranges: Vec<Box<str>>,
    /// The annotation `service.beta.kubernetes.io/load-balancer-source-ranges`.
    pub annotated_source_ranges: Option<Box<str>>,
    /// `spec.ipFamilies`; empty where no API server has filled it in.
    pub ip_families: Vec<Family>,
    /// `spec.ipFamilyPolicy` is `RequireDualStack`.
    pub requires_dual_stack: bool,
    /// `spec.selector` selects pods.
    pub has_selector: bool,
    /// `spec.publishNotReadyAddresses`.
    pub publishes_not_ready: bool,
    /// `spec.sessionAffinity: ClientIP` and its timeout in seconds.
    pub client_affinity_seconds: Option<i64>,
    /// `spec.externalTrafficPolicy` is `Local`.
    pub is_traffic_policy_local: bool,
    /// `spec.trafficDistribution`.
    pub traffic_distribution: Option<Box<str>>,
    /// kube-proxy leaves it alone, by its label `service.kubernetes.io/service-proxy-name`.
    pub has_other_proxy: bool,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// What stands in its status of ours.
    pub written: WrittenStatus,
}

/// Annotations of ours, by name without [`PREFIX`], in the order of their names.
pub type Annotations = Box<[(Box<str>, Box<str>)]>;

/// `spec.type` of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceType {
    /// Only within the cluster; headless Services too.
    ClusterIp,
    /// A port of every node.
    NodePort,
    /// The type that has a class.
    LoadBalancer,
    /// An alias in DNS, without endpoints.
    ExternalName,
}

/// Family of IP addresses. IPv4 comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; empty where a Service has one port only.
    pub name: Box<str>,
    /// Transport protocol.
    pub protocol: Protocol,
    /// What clients connect to.
    pub port: u16,
    /// Where the pods listen, if `spec.ports[].targetPort` is a number; `None`: it is a name.
    pub target_port: Option<u16>,
}

/// What stands of ours in the status of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WrittenStatus {
    /// `.status.loadBalancer.ingress`, those that are addresses.
    pub ingress: Vec<Ingress>,
    /// Condition `portlb.io/Address`.
    pub address: Option<Condition>,
    /// Condition `portlb.io/Announced`.
    pub announced: Option<Condition>,
    /// Condition `portlb.io/WeightLevels`.
    pub weight_levels: Option<Condition>,
}

/// An entry of `.status.loadBalancer.ingress`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ingress {
    /// The address.
    pub address: IpAddr,
    /// `Proxy`, `VIP`, or nothing.
    pub ip_mode: Option<Box<str>>,
    /// Its ports.
    pub ports: Vec<(Protocol, u16)>,
}

/// A condition in a status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// `True`, `False` or `Unknown`.
    pub status: Box<str>,
    /// One word.
    pub reason: Box<str>,
    /// A sentence, or addresses.
    pub message: Box<str>,
    /// When `status` changed, in seconds since 1970.
    pub last_transition_seconds: i64,
}

/// Part of a Service's endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Namespace and name.
    pub key: ObjectKey,
    /// The Service whose endpoints they are.
    pub service: Option<ObjectKey>,
    /// Our annotations.
    pub annotations: Annotations,
    /// The ports, the same for all endpoints.
    pub ports: Box<[EndpointPort]>,
    /// By address, each once; none where the slice holds names.
    pub endpoints: Box<[Endpoint]>,
    /// What it lists besides.
    pub not_used: NotUsed,
}

/// What a slice lists that is no endpoint, by how often.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NotUsed {
    /// Addresses of endpoints behind their first one.
    pub further_addresses: Tally,
    /// First addresses that are names.
    pub names: Tally,
}

/// How many there are, and one of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many.
    pub count: usize,
    /// The first; empty where there is none.
    pub example: Box<str>,
}

/// A port of the endpoints in a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPort {
    /// Name of the Service's port.
    pub name: Box<str>,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Where the endpoints listen; `None`: on every port.
    pub port: Option<NonZeroU16>,
}

/// One address behind a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address.
    pub address: IpAddr,
    /// What its conditions say.
    pub readiness: Readiness,
}

/// What the conditions of an endpoint, or of a pod, say. Ordered: of two that speak of the same
/// address the greater counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Readiness {
    /// Ends, or cannot serve, as far as the API server knows: no new connections, but by who
    /// publishes what is not ready.
    NotReady,
    /// Receives new connections.
    Ready,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Our annotations.
    pub annotations: Annotations,
    /// Its addresses; none where it has not begun or has ended.
    pub addresses: Vec<IpAddr>,
    /// What its conditions say.
    pub readiness: Readiness,
}

impl ObjectKey {
    /// Puts both together.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            text: format!("{namespace}/{name}").into(),
        }
    }

    /// The namespace; empty where an object has none.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.halves().0
    }

    /// The name.
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

impl Tally {
    /// Counts a text.
    pub fn add(&mut self, text: &str) {
        if self.count == 0 {
            self.example = text.into();
        }
        self.count += 1;
    }
}

impl Scope {
    /// Whether the object is one of those that the list and watch covers.
    #[must_use]
    pub fn covers(&self, key: &ObjectKey) -> bool {
        self.namespace
            .as_deref()
            .is_none_or(|namespace| namespace == key.namespace())
    }
}

impl WrittenStatus {
    /// Whether the status records that the Service has the address: in the condition
    /// `portlb.io/Address`, or because it was announced.
    #[must_use]
    pub fn holds(&self, address: IpAddr) -> bool {
        let mut announced = self.ingress.iter().map(|ingress| ingress.address);
        announced.any(|its| its == address) || self.kept_addresses().contains(&address)
    }

    /// Addresses in the condition `portlb.io/Address`.
    #[must_use]
    pub fn kept_addresses(&self) -> Vec<IpAddr> {
        let kept = self.address.as_ref();
        let kept = kept.filter(|condition| &*condition.status == "True");
        let record = kept.and_then(|condition| condition.reason.strip_prefix(ALLOCATED));
        let texts = record.iter().flat_map(|record| record.split(','));
        texts
            .filter_map(|text| text.replace('_', ".").parse().ok())
            .collect()
    }
}

impl WrittenStatus {
    /// The number in the condition `portlb.io/WeightLevels`.
    #[must_use]
    pub fn recorded_weight_levels(&self) -> Option<u16> {
        let condition = self.weight_levels.as_ref()?;
        condition.reason.strip_prefix(ROUNDED)?.parse().ok()
    }
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Returns the reason of [`ADDRESS_CONDITION`], which records the addresses:
/// `Allocated:10_1_1_9,2001:db8:0:0:0:0:0:9`. A reason has letters, digits, `_`, `,` and `:`, and
/// does not end in `:`.
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

/// Returns the reason of [`WEIGHT_LEVELS_CONDITION`], which records the levels: `Rounded:8`.
#[must_use]
pub fn weight_levels_reason(levels: u16) -> String {
    format!("{ROUNDED}{levels}")
}

/// Returns the message of [`ADDRESS_CONDITION`], for readers alone.
#[must_use]
pub fn address_message(addresses: &[IpAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(status: &str, reason: &str, message: &str) -> Vec<IpAddr> {
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
        written.kept_addresses()
    }

    #[test]
    fn the_record_of_addresses_is_a_reason_as_the_api_server_takes_it() {
        let addresses: Vec<IpAddr> = ["10.1.1.9", "2001:db8::", "::"]
            .map(|address| address.parse().unwrap())
            .into();
        let reason = address_reason(&addresses);
        assert_eq!(
            reason,
            "Allocated:10_1_1_9,2001:db8:0:0:0:0:0:0,0:0:0:0:0:0:0:0"
        );
        assert_eq!(kept("True", &reason, ""), addresses);
        assert_eq!(kept("False", &reason, ""), [] as [IpAddr; 0]);
    }

    #[test]
    fn a_message_records_no_address() {
        assert_eq!(kept("True", "Allocated", "10.1.1.9"), [] as [IpAddr; 0]);
    }
}
