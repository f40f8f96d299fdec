//! Tables of all annotations: one for Services, and one for pods and EndpointSlices.
//!
//! The parser, its error messages and `docs/reference/annotations.md` use these tables.

use std::{fmt, net::IpAddr, num::NonZeroU16, str::FromStr, time::Duration};

use virtual_server::{
    BadValue, Field, HealthCheckField, Options, PersistenceOptions, Ports, Protocol,
    RealServerState, Suggestion, Weight,
};

use super::{
    finding::{Finding, Reason, Subject},
    model::{Annotations, PREFIX},
    settings::PodPorts,
};

/// Annotation with the meaning of `spec.loadBalancerClass`, for Services whose type cannot have
/// this field.
pub(crate) const LOAD_BALANCER_CLASS: &str = "load-balancer-class";

/// Services with equal values of this annotation can share an address.
pub(crate) const SHARE_ADDRESS: &str = "share-address";

/// Annotation that names other namespaces whose Services can share the address of the annotated
/// Service.
pub(crate) const SHARE_ADDRESS_NAMESPACES: &str = "share-address-namespaces";

/// Largest number of namespaces in one [`SHARE_ADDRESS_NAMESPACES`]. The number is limited because
/// each claim to an address stores the names.
pub(crate) const MOST_SHARE_NAMESPACES: usize = 100;

/// An annotation in a table. `W` is the type of the parsed annotations of one object.
pub(crate) struct Annotation<W: 'static> {
    /// The name without the prefix `portlb.io/`.
    pub(crate) name: &'static str,
    /// The field of a virtual server that only this annotation sets. An error about this field
    /// names the annotation.
    pub(crate) field: Option<Field>,
    /// The column `Meaning` of docs/reference/annotations.md.
    meaning: &'static str,
    /// The column `Default` of docs/reference/annotations.md.
    default: &'static str,
    /// The column `Allowed` of docs/reference/annotations.md.
    allowed: &'static str,
    /// Parses the value and stores it in `W`.
    read: fn(&str, &mut W) -> Result<(), BadValue>,
}

/// The parsed annotations of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServiceAnnotations {
    /// Service addresses, at most one of each address family.
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) pool: Option<Box<str>>,
    /// Services with equal keys can share an address.
    pub(crate) share_key: Option<Box<str>>,
    /// Other namespaces whose Services can share the address of the Service.
    pub(crate) share_namespaces: Box<[Box<str>]>,
    /// Ports that replace the ports of the Service. Empty if the annotation is missing.
    pub(crate) ports: Vec<(Protocol, Ports)>,
    /// Settings of the virtual servers, except the settings of persistence.
    pub(crate) options: Options,
    /// Time after the client's last connection until the kernel forgets the client.
    pub(crate) persistence_timeout: Option<Duration>,
    /// Clients whose IPv4 addresses have a common prefix of this length count as one client.
    pub(crate) ipv4_prefix_length: Option<u8>,
    /// Clients whose IPv6 addresses have a common prefix of this length count as one client.
    pub(crate) ipv6_prefix_length: Option<u8>,
}

/// The parsed annotations of a pod or an EndpointSlice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RealServerAnnotations {
    pub(crate) weight: Option<Weight>,
    pub(crate) state: Option<RealServerState>,
}

impl ServiceAnnotations {
    /// Returns the persistence settings. `affinity` is the timeout from the fields of the Service.
    /// Without any timeout there is no persistence, and prefix lengths have no effect.
    pub(crate) fn persistence(&self, affinity: Option<Duration>) -> Option<PersistenceOptions> {
        let timeout = self.persistence_timeout.or(affinity)?;
        Some(PersistenceOptions {
            timeout,
            ipv4_prefix_length: self.ipv4_prefix_length,
            ipv6_prefix_length: self.ipv6_prefix_length,
        })
    }
}

/// The annotations of a Service.
pub(crate) const SERVICE_ANNOTATIONS: &[Annotation<ServiceAnnotations>] = &[
    Annotation {
        name: LOAD_BALANCER_CLASS,
        field: None,
        meaning: "makes portlb serve a Service that cannot have `spec.loadBalancerClass` because \
                  its type is not `LoadBalancer` (such as a headless Service)",
        default: "`spec.loadBalancerClass`",
        allowed: "the class that pod-watcher serves: `portlb.io/portlb` by default",
        // Nothing is stored, because `is_ours` reads this annotation directly from the Service.
        read: |_, _| Ok(()),
    },
    Annotation {
        name: "address",
        field: None,
        meaning: "service addresses: clients connect to them, and they are announced",
        default: "the first of these that is set: `spec.loadBalancerIP`, `spec.externalIPs`, an \
                  address pool",
        allowed: "one IPv4 address, one IPv6 address, or both with a comma between them; only \
                  unicast addresses that are routed",
        read: |text, parsed| {
            for address in text.split(',').map(str::trim) {
                let address: IpAddr = address.parse().map_err(|_| {
                    bad_value(
                        text,
                        "is not an IP address",
                        "write one address (10.1.1.10), or one of each family (10.1.1.10, fd00::10)",
                    )
                })?;
                let is_second = |given: &IpAddr| given.is_ipv4() == address.is_ipv4();
                if parsed.addresses.iter().any(is_second) {
                    return Err(bad_value(
                        text,
                        "names two addresses of one family",
                        "write at most one IPv4 and one IPv6 address",
                    ));
                }
                parsed.addresses.push(address);
            }
            Ok(())
        },
    },
    Annotation {
        name: "address-pool",
        field: None,
        meaning: "the pool that gives the address if the Service names no address",
        default: "the first pool of pod-watcher that has a free address",
        allowed: "the name of an `--address-pool`",
        read: |text, parsed| {
            parsed.pool = Some(word(text)?);
            Ok(())
        },
    },
    Annotation {
        name: SHARE_ADDRESS,
        field: None,
        meaning: "Services of one namespace with equal values of this annotation can share an \
                  address if no two of them use the same port of the same protocol; an address \
                  pool then gives them the same address",
        default: "an address belongs to one Service",
        allowed: "any word",
        read: |text, parsed| {
            parsed.share_key = Some(word(text)?);
            Ok(())
        },
    },
    Annotation {
        name: SHARE_ADDRESS_NAMESPACES,
        field: None,
        meaning: "other namespaces whose Services with an equal value of \
                  `portlb.io/share-address` can share the address; those Services must also name \
                  the namespace of this Service",
        default: "an address is shared within one namespace only",
        allowed: "names of namespaces with commas between them, at most 100",
        read: |text, parsed| {
            let namespaces = namespaces(text);
            if namespaces.is_empty() || namespaces.len() > MOST_SHARE_NAMESPACES {
                return Err(bad_value(
                    text,
                    "is not a list of 1 to 100 namespaces",
                    "write names with commas between them (shop,bank), or remove the annotation",
                ));
            }
            parsed.share_namespaces = namespaces;
            Ok(())
        },
    },
    Annotation {
        name: "ports",
        field: Some(Field::Ports),
        meaning: "ports that replace `spec.ports`, for ranges of ports, which `spec.ports` cannot \
                  express; each connection keeps its port, and `targetPort` has no effect",
        default: "`spec.ports`",
        allowed: "a list such as `80, 8000-8999/UDP, all/SCTP`, with at most 1000 items; an item \
                  without a protocol is TCP",
        read: |text, parsed| {
            for item in text.split(',').map(str::trim) {
                let ports: PodPorts = item.parse()?;
                parsed.ports.push((ports.protocol, ports.ports));
            }
            Ok(())
        },
    },
    Annotation {
        name: "scheduler",
        field: Some(Field::Scheduler),
        meaning: "scheduler, which shares new connections among the pods",
        default: "`mh`",
        allowed: "`rr`, `wrr`, `lc`, `wlc`, `sh`, `mh`, `sed`, `nq`",
        read: |text, parsed| word_of(text, &mut parsed.options.scheduler),
    },
    Annotation {
        name: "scheduler-flags",
        field: Some(Field::SchedulerFlags),
        meaning: "flags of `mh` and `sh`: `fallback` sends a flow that hashes to a quiesced real \
                  server to another real server, `port` makes the client's port part of the hash",
        default: "`mh`: `fallback,port`; `sh`: `fallback`",
        allowed: "`fallback`, `port`, `fallback,port`, `none`; for `mh`, `port` only with \
                  `fallback`",
        read: |text, parsed| word_of(text, &mut parsed.options.scheduler_flags),
    },
    Annotation {
        name: "forwarding-method",
        field: Some(Field::ForwardingMethod),
        meaning: "how packets reach the pods; `Tunnel` and `DirectRouting` cannot change the \
                  port, so `targetPort` must be equal to the `port` of the Service",
        default: "`Tunnel`",
        allowed: "`Masquerade`, `DirectRouting`, `Tunnel`",
        read: |text, parsed| word_of(text, &mut parsed.options.forwarding_method),
    },
    Annotation {
        name: "tunnel-kind",
        field: Some(Field::TunnelKind),
        meaning: "encapsulation of `Tunnel`",
        default: "`ipip`",
        allowed: "`ipip`",
        read: |text, parsed| word_of(text, &mut parsed.options.tunnel_kind),
    },
    Annotation {
        name: "persistence-timeout",
        field: Some(Field::PersistenceTimeout),
        meaning: "new connections of one client go to the same pod, until this time after the \
                  client's last connection",
        default: "the timeout of `sessionAffinity: ClientIP`, otherwise no persistence",
        allowed: "whole seconds, `1s` to `31d`",
        read: |text, parsed| period(text, &mut parsed.persistence_timeout),
    },
    Annotation {
        name: "persistence-ipv4-prefix-length",
        field: None,
        meaning: "clients whose IPv4 addresses have a common prefix of this length count as one \
                  client",
        default: "`32`: each address",
        allowed: "1 to 32",
        read: |text, parsed| number(text, "1 to 32", &mut parsed.ipv4_prefix_length),
    },
    Annotation {
        name: "persistence-ipv6-prefix-length",
        field: None,
        meaning: "clients whose IPv6 addresses have a common prefix of this length count as one \
                  client",
        default: "`128`: each address",
        allowed: "1 to 128",
        read: |text, parsed| number(text, "1 to 128", &mut parsed.ipv6_prefix_length),
    },
    Annotation {
        name: "health-check",
        field: Some(Field::HealthCheck(HealthCheckField::Kind)),
        meaning: "health check of the pods, in addition to their readiness",
        default: "TCP: `tcpConnect`; UDP and SCTP: `none` unless `health-check-port` is given",
        allowed: "`tcpConnect`, `none`",
        read: |text, parsed| word_of(text, &mut parsed.options.health_check.kind),
    },
    Annotation {
        name: "health-check-port",
        field: Some(Field::HealthCheck(HealthCheckField::Port)),
        meaning: "port to which the check connects",
        default: "the port of the pod",
        allowed: "1 to 65535; required if a range of ports is checked",
        read: |text, parsed| {
            let port = text.parse::<NonZeroU16>();
            let port = port.map_err(|_| bad_value(text, "is not a port", "write 1 to 65535"))?;
            parsed.options.health_check.port = Some(port);
            Ok(())
        },
    },
    Annotation {
        name: "health-check-interval",
        field: Some(Field::HealthCheck(HealthCheckField::Interval)),
        meaning: "time from the start of one check to the start of the next",
        default: "`2s`",
        allowed: "`10ms` to `1h`",
        read: |text, parsed| period(text, &mut parsed.options.health_check.interval),
    },
    Annotation {
        name: "health-check-timeout",
        field: Some(Field::HealthCheck(HealthCheckField::Timeout)),
        meaning: "a check has failed if it has no answer after this time",
        default: "`1s`, or `health-check-interval` if it is shorter",
        allowed: "`1ms` to `health-check-interval`",
        read: |text, parsed| period(text, &mut parsed.options.health_check.timeout),
    },
    Annotation {
        name: "health-check-rise",
        field: Some(Field::HealthCheck(HealthCheckField::Rise)),
        meaning: "successful checks in a row that make a failed pod healthy",
        default: "`2`",
        allowed: "1 to 100",
        read: |text, parsed| number(text, "1 to 100", &mut parsed.options.health_check.rise),
    },
    Annotation {
        name: "health-check-fall",
        field: Some(Field::HealthCheck(HealthCheckField::Fall)),
        meaning: "failed checks in a row that make a healthy pod failed",
        default: "`3`",
        allowed: "1 to 100",
        read: |text, parsed| number(text, "1 to 100", &mut parsed.options.health_check.fall),
    },
    Annotation {
        name: "health-check-initial-jitter",
        field: Some(Field::HealthCheck(HealthCheckField::InitialJitter)),
        meaning: "the first check starts at a random moment within this time",
        default: "`100ms`",
        allowed: "`0ms` to `1h`",
        read: |text, parsed| period(text, &mut parsed.options.health_check.initial_jitter),
    },
    Annotation {
        name: "on-failure",
        field: Some(Field::OnFailure),
        meaning: "a pod that fails its health check gets weight 0 (`quiesce`: established \
                  connections stay) or leaves the kernel's table (`remove`)",
        default: "`quiesce`",
        allowed: "`quiesce`, `remove`",
        read: |text, parsed| word_of(text, &mut parsed.options.on_failure),
    },
    Annotation {
        name: "minimum-healthy",
        field: Some(Field::MinimumHealthy),
        meaning: "number of healthy pods that a virtual server needs to be serving",
        default: "`1`",
        allowed: "1 or more",
        read: |text, parsed| number(text, "1 or more", &mut parsed.options.minimum_healthy),
    },
    Annotation {
        name: "drain-timeout",
        field: Some(Field::DrainTimeout),
        meaning: "time for which a pod keeps its connections after no EndpointSlice lists it any \
                  longer; the pod leaves the kernel's table earlier when its last connection has \
                  ended or its health check fails",
        default: "`60s`",
        allowed: "`0s` (connections end immediately) to `24h`; no effect for UDP, and for `sh` and \
                  `mh` without `fallback`",
        read: |text, parsed| period(text, &mut parsed.options.drain_timeout),
    },
];

/// The annotations of a pod and of an EndpointSlice.
pub(crate) const REAL_SERVER_ANNOTATIONS: &[Annotation<RealServerAnnotations>] = &[
    Annotation {
        name: "weight",
        field: None,
        meaning: "share of new connections, in proportion to the other pods. `mh` and `sh` use \
                  whole numbers from 1 to 16 with up to 30 pods, to 8 with up to 100, to 4 with \
                  up to 250, and 1 above. Weights whose ratios need larger numbers are rounded \
                  in proportion to the heaviest one (Event `WeightsRounded`)",
        default: "`1`",
        allowed: "0 (no new connections, established connections stay) to 65535; with `mh` and \
                  `sh` write `portlb.io/state: draining` instead of weight 0, because a load \
                  balancer that starts after the change does not know the weight before it",
        read: |text, parsed| {
            let mut weight = None;
            number(text, "0 to 65535", &mut weight)?;
            parsed.weight = weight.map(Weight);
            Ok(())
        },
    },
    Annotation {
        name: "state",
        field: None,
        meaning: "`draining`: no new connections, established connections stay",
        default: "the conditions of the endpoint",
        allowed: "`ready` (the conditions of the endpoint decide), `draining`",
        read: |text, parsed| word_of(text, &mut parsed.state),
    },
];

/// An error about an annotation that cannot be used, or about a setting of the operator that cannot
/// be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedSetting {
    pub subject: Subject,
    /// The problem and the correction, as one text.
    pub text: String,
}

impl fmt::Display for RefusedSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.text)
    }
}

impl RefusedSetting {
    pub(crate) fn into_finding(self) -> Finding {
        Finding::about(Reason::BadAnnotation, self.subject, self.text)
    }
}

/// Parses all annotations of an object.
///
/// # Errors
///
/// Returns one error for each annotation that cannot be used.
pub(crate) fn read<W: Default>(
    table: &[Annotation<W>],
    annotations: &Annotations,
) -> Result<W, Vec<RefusedSetting>> {
    let mut parsed = W::default();
    let mut errors = Vec::new();
    for (name, value) in annotations {
        match table.iter().find(|known| *known.name == **name) {
            Some(known) => {
                if let Err(reason) = (known.read)(value.trim(), &mut parsed) {
                    errors.push(refused_annotation(known.name, &reason));
                }
            }
            None => errors.push(unknown(name, table)),
        }
    }
    if errors.is_empty() {
        Ok(parsed)
    } else {
        Err(errors)
    }
}

/// Returns the errors about the annotations of a pod or an EndpointSlice.
#[must_use]
pub fn refusals_of_real_server(annotations: &Annotations) -> Vec<RefusedSetting> {
    read(REAL_SERVER_ANNOTATIONS, annotations)
        .err()
        .unwrap_or_default()
}

/// Returns the name of the annotation that sets a field of a virtual server.
pub(crate) fn annotation_for(field: Field) -> Option<&'static str> {
    SERVICE_ANNOTATIONS
        .iter()
        .find(|annotation| annotation.field == Some(field))
        .map(|annotation| annotation.name)
}

/// Returns the error about the annotation `name`. Its correction is in terms of annotations, and
/// not of fields of the file format.
pub(crate) fn refused_annotation(name: &str, reason: &BadValue) -> RefusedSetting {
    let suggestion = match &reason.suggestion {
        Suggestion::Text(text) => text.to_string(),
        Suggestion::LeaveOut => "remove it".to_owned(),
        Suggestion::LeaveOutOrCheck => "remove it, or use a health check".to_owned(),
        Suggestion::TextOrNoCheck(text) => {
            format!("{text}, or use no health check (portlb.io/health-check: none)")
        }
    };
    RefusedSetting {
        subject: Subject::annotation(name),
        text: format!("{} {}; {suggestion}", reason.value, reason.problem),
    }
}

fn unknown<W>(name: &str, table: &[Annotation<W>]) -> RefusedSetting {
    let named = |annotation: &str| annotation == name;
    let of_services = SERVICE_ANNOTATIONS.iter().map(|annotation| annotation.name);
    let of_real_servers = REAL_SERVER_ANNOTATIONS
        .iter()
        .map(|annotation| annotation.name);
    let suggestion = if of_services.clone().any(named) {
        "it belongs on a Service".to_owned()
    } else if of_real_servers.clone().any(named) {
        "it belongs on a Pod or an EndpointSlice".to_owned()
    } else {
        let known: Vec<&str> = table.iter().map(|annotation| annotation.name).collect();
        match config_text::nearest(name, &known) {
            Some(nearest) => format!("did you mean {PREFIX}{nearest}?"),
            None => "remove it, or see docs/reference/annotations.md for the known annotations"
                .to_owned(),
        }
    };
    RefusedSetting {
        subject: Subject::annotation(&name.escape_debug().to_string()),
        text: format!("is unknown on this object; {suggestion}"),
    }
}

fn bad_value(text: &str, problem: &'static str, suggestion: impl Into<Suggestion>) -> BadValue {
    BadValue::new(format!("{text:?}"), problem, suggestion)
}

fn word_of<T: FromStr<Err = BadValue>>(text: &str, place: &mut Option<T>) -> Result<(), BadValue> {
    *place = Some(text.parse()?);
    Ok(())
}

fn number<T: FromStr>(text: &str, allowed: &str, place: &mut Option<T>) -> Result<(), BadValue> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|_| is_number);
    *place =
        Some(number.ok_or_else(|| {
            bad_value(text, "is not an allowed number", format!("write {allowed}"))
        })?);
    Ok(())
}

fn period(text: &str, place: &mut Option<Duration>) -> Result<(), BadValue> {
    let period = config_text::parse_duration(text);
    *place = Some(period.map_err(|expected| bad_value(text, "is not a time", expected))?);
    Ok(())
}

/// Parses names that are separated by commas. Empty names are ignored.
pub(crate) fn namespaces(text: &str) -> Box<[Box<str>]> {
    let names = text.split(',').map(str::trim);
    names
        .filter(|name| !name.is_empty())
        .map(Into::into)
        .collect()
}

fn word(text: &str) -> Result<Box<str>, BadValue> {
    if text.is_empty() {
        return Err(bad_value(
            text,
            "is empty",
            "write a word, or remove the annotation",
        ));
    }
    Ok(text.into())
}

#[must_use]
pub fn reference() -> String {
    let mut document = INTRODUCTION.to_owned();
    document.push_str("\n## On a Service\n\n");
    describe(&mut document, SERVICE_ANNOTATIONS);
    document.push_str(
        "\n## On a pod or an EndpointSlice\n\nAn annotation of a slice applies to all endpoints \
         of the slice. An annotation of a pod overrides\nthe annotation of the slice. \
         Annotations of pods count only if pod-watcher watches pods.\n\n",
    );
    describe(&mut document, REAL_SERVER_ANNOTATIONS);
    document
}

fn describe<W>(document: &mut String, table: &[Annotation<W>]) {
    document.push_str("| Annotation | Meaning | Default | Allowed |\n|---|---|---|---|\n");
    for annotation in table {
        let Annotation {
            name,
            meaning,
            default,
            allowed,
            ..
        } = annotation;
        document.push_str(&format!(
            "| `{PREFIX}{name}` | {meaning} | {default} | {allowed} |\n"
        ));
    }
}

const INTRODUCTION: &str = include_str!("annotations/introduction.md");

#[cfg(test)]
mod tests;
