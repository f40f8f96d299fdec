//! What the API server checks of objects beside the types of their fields: enumerations, numbers
//! and formats of the fields that matter here.

use std::net::IpAddr;

use super::{
    Problem, ProblemKind,
    node::{Node, Part, Value, joined},
};

/// Longest DNS label (RFC 1123), which names of namespaces and Services are.
const LONGEST_LABEL: usize = 63;

/// Longest name of a port (RFC 6335) that `targetPort` may have.
const LONGEST_PORT_NAME: usize = 15;

/// Longest time that `sessionAffinity: ClientIP` may have, in seconds.
const LONGEST_AFFINITY: i64 = 86_400;

const MOST_ENDPOINTS: usize = 1_000;
const MOST_PORTS: usize = 100;
const MOST_ADDRESSES: usize = 100;

const PROTOCOLS: &[&str] = &["TCP", "UDP", "SCTP"];

/// A field of an object and its path.
struct Field<'a> {
    node: &'a Node,
    path: String,
}

/// Adds what is wrong with the metadata of any object.
pub(super) fn of_metadata(object: &Node, problems: &mut Vec<Problem>) {
    let Some(metadata) = field(object, "", "metadata") else {
        problems.push(Problem {
            kind: ProblemKind::NotAllowed,
            path: "metadata.name".to_owned(),
            position: object.position,
            message: "is missing; write it".to_owned(),
        });
        return;
    };
    if metadata.node.get("name").is_none() {
        problems.push(Problem {
            kind: ProblemKind::NotAllowed,
            path: "metadata.name".to_owned(),
            position: metadata.node.position,
            message: "is missing; write it".to_owned(),
        });
    }
    metadata.text("namespace", problems, |text| label(text, LONGEST_LABEL));
}

/// Adds what is wrong with a Service.
pub(super) fn of_service(object: &Node, problems: &mut Vec<Problem>) {
    if let Some(metadata) = field(object, "", "metadata") {
        metadata.text("name", problems, |text| label(text, LONGEST_LABEL));
    }
    let Some(spec) = field(object, "", "spec") else {
        return;
    };
    for (name, allowed) in [
        (
            "type",
            &["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"][..],
        ),
        ("sessionAffinity", &["None", "ClientIP"]),
        ("externalTrafficPolicy", &["Cluster", "Local"]),
        ("internalTrafficPolicy", &["Cluster", "Local"]),
        (
            "ipFamilyPolicy",
            &["SingleStack", "PreferDualStack", "RequireDualStack"],
        ),
        (
            "trafficDistribution",
            &["PreferClose", "PreferSameZone", "PreferSameNode"],
        ),
    ] {
        spec.one_of(name, allowed, problems);
    }
    for family in spec.items("ipFamilies") {
        family.is_one_of(&["IPv4", "IPv6"], problems);
    }
    // A type that is not known is refused by itself.
    let service_type = spec.node.get("type").and_then(Node::text);
    let without_class = ["ClusterIP", "NodePort", "ExternalName"];
    let has_no_class = without_class.contains(&service_type.unwrap_or("ClusterIP"));
    let class = spec.field("loadBalancerClass");
    if let Some(class) = class.filter(|class| has_no_class && class.node.text().is_some()) {
        let message = "is for spec.type: LoadBalancer only; write that type, or the annotation \
                       portlb.io/load-balancer-class instead";
        class.refuse(message, problems);
    }
    let affinity = spec.field("sessionAffinityConfig");
    let affinity = affinity.and_then(|affinity| affinity.field("clientIP"));
    if let Some(timeout) = affinity.and_then(|client| client.field("timeoutSeconds")) {
        timeout.is_within(1, LONGEST_AFFINITY, "a timeout in seconds", problems);
    }
    let ports = spec.items("ports");
    let several = ports.len() > 1;
    for port in &ports {
        port.is_port("port", 1, problems);
        port.is_port("nodePort", 0, problems);
        port.one_of("protocol", PROTOCOLS, problems);
        port.text("name", problems, port_label);
        if several
            && port
                .node
                .get("name")
                .is_none_or(|name| name.text() == Some(""))
        {
            let message = "has no name; write one, since the Service has several ports";
            port.refuse(message, problems);
        }
        match port.field("targetPort") {
            Some(target) if matches!(target.node.value, Value::Integer(_)) => {
                target.is_within(0, u16::MAX.into(), "a port", problems);
            }
            Some(_) | None => port.text("targetPort", problems, port_name),
        }
    }
    doubled(&ports, problems);
}

/// Adds what is wrong with an `EndpointSlice`.
pub(super) fn of_slice(object: &Node, problems: &mut Vec<Problem>) {
    let slice = Field {
        node: object,
        path: String::new(),
    };
    match object.get("addressType") {
        Some(_) => slice.one_of("addressType", &["IPv4", "IPv6", "FQDN"], problems),
        None => problems.push(Problem {
            kind: ProblemKind::NotAllowed,
            path: "addressType".to_owned(),
            position: object.position,
            message: "is missing; write IPv4, IPv6 or FQDN".to_owned(),
        }),
    }
    let ports = slice.items("ports");
    for port in &ports {
        port.is_port("port", 1, problems);
        port.one_of("protocol", PROTOCOLS, problems);
        port.text("name", problems, port_label);
    }
    doubled(&ports, problems);
    slice.has_at_most("ports", MOST_PORTS, problems);
    slice.has_at_most("endpoints", MOST_ENDPOINTS, problems);
    let family = object.get("addressType").and_then(Node::text);
    for endpoint in slice.items("endpoints") {
        let addresses = endpoint.items("addresses");
        if addresses.is_empty() {
            endpoint.refuse("has no addresses; write at least one", problems);
        }
        endpoint.has_at_most("addresses", MOST_ADDRESSES, problems);
        for address in addresses {
            let Some(text) = address.node.text() else {
                continue;
            };
            let is_of_family = match (family, text.parse::<IpAddr>()) {
                (Some("IPv4"), Ok(address)) => address.is_ipv4(),
                (Some("IPv6"), Ok(address)) => address.is_ipv6(),
                (Some("IPv4" | "IPv6"), Err(_)) => false,
                // Another type is refused where it stands.
                (Some(_) | None, _) => true,
            };
            if !is_of_family {
                let family = family.unwrap_or_default();
                let message = format!(
                    "{text:?} is not an {family} address, which addressType says; write one, or \
                     put it in a slice of its own type"
                );
                address.refuse(message, problems);
            }
        }
    }
}

/// Adds what is wrong with `v1` Endpoints.
pub(super) fn of_endpoints(object: &Node, problems: &mut Vec<Problem>) {
    let whole = Field {
        node: object,
        path: String::new(),
    };
    for subset in whole.items("subsets") {
        let ports = subset.items("ports");
        for port in &ports {
            port.is_port("port", 1, problems);
            port.one_of("protocol", PROTOCOLS, problems);
        }
        doubled(&ports, problems);
        for addresses in ["addresses", "notReadyAddresses"] {
            for address in subset.items(addresses) {
                address.text("ip", problems, |text| {
                    let is_address = text.parse::<IpAddr>().is_ok();
                    (!is_address).then(|| format!("{text:?} is not an IP address; write one"))
                });
            }
        }
    }
}

/// Names of ports that are given twice, the empty one included.
fn doubled(ports: &[Field<'_>], problems: &mut Vec<Problem>) {
    let mut names: Vec<&str> = Vec::new();
    let several = ports.len() > 1;
    for port in ports {
        let name = port.node.get("name").and_then(Node::text);
        let Some(name) = name.filter(|_| several) else {
            continue;
        };
        if names.contains(&name) {
            port.refuse(
                format!("has the name {name:?} of another port; give each its own"),
                problems,
            );
        }
        names.push(name);
    }
}

/// A port may do without a name, where it is the only one.
fn port_label(text: &str) -> Option<String> {
    label(text, LONGEST_LABEL).filter(|_| !text.is_empty())
}

fn label(text: &str, longest: usize) -> Option<String> {
    let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let is_label = !text.is_empty()
        && text.len() <= longest
        && text.chars().all(is_allowed)
        && !text.starts_with('-')
        && !text.ends_with('-');
    (!is_label).then(|| {
        format!(
            "{text:?} is not a name here; write at most {longest} lowercase letters, digits and \
             `-`, with a letter or digit first and last"
        )
    })
}

fn port_name(text: &str) -> Option<String> {
    let is_name = label(text, LONGEST_PORT_NAME).is_none()
        && text.chars().any(|c| c.is_ascii_lowercase())
        && !text.contains("--");
    // The API server takes an empty one for none.
    (!is_name && !text.is_empty()).then(|| {
        format!(
            "{text:?} is neither a port nor the name of one; write 1 to 65535 without quotes, or \
             at most {LONGEST_PORT_NAME} lowercase letters, digits and `-`, one of them a letter"
        )
    })
}

fn field<'a>(node: &'a Node, path: &str, name: &str) -> Option<Field<'a>> {
    let node = node.get(name)?;
    let path = joined(path, Part::Field(name));
    (node.value != Value::Null).then_some(Field { node, path })
}

impl<'a> Field<'a> {
    fn field(&self, name: &str) -> Option<Field<'a>> {
        field(self.node, &self.path, name)
    }

    fn items(&self, name: &str) -> Vec<Field<'a>> {
        let Some(list) = self.field(name) else {
            return Vec::new();
        };
        let items = list.node.items().iter().enumerate();
        let item = |(index, node)| Field {
            node,
            path: joined(&list.path, Part::Index(index)),
        };
        items.map(item).collect()
    }

    fn refuse(&self, message: impl Into<String>, problems: &mut Vec<Problem>) {
        problems.push(Problem {
            kind: ProblemKind::NotAllowed,
            path: self.path.clone(),
            position: self.node.position,
            message: message.into(),
        });
    }

    /// Checks a field that holds a text. A field of another type is an error of its type, which stands
    /// elsewhere.
    fn text(
        &self,
        name: &str,
        problems: &mut Vec<Problem>,
        check: impl FnOnce(&str) -> Option<String>,
    ) {
        let Some(field) = self.field(name) else {
            return;
        };
        if let Some(message) = field.node.text().and_then(check) {
            field.refuse(message, problems);
        }
    }

    fn one_of(&self, name: &str, allowed: &[&str], problems: &mut Vec<Problem>) {
        if let Some(field) = self.field(name) {
            field.is_one_of(allowed, problems);
        }
    }

    fn is_one_of(&self, allowed: &[&str], problems: &mut Vec<Problem>) {
        let Some(text) = self.node.text() else {
            return;
        };
        if allowed.contains(&text) {
            return;
        }
        let hint = match config_text::nearest(text, allowed) {
            Some(nearest) => format!("did you mean {nearest}? "),
            None => String::new(),
        };
        let message = format!(
            "{text:?} is not known; {hint}allowed are {}",
            allowed.join(", ")
        );
        self.refuse(message, problems);
    }

    fn is_port(&self, name: &str, least: i64, problems: &mut Vec<Problem>) {
        match self.field(name) {
            Some(port) => port.is_within(least, u16::MAX.into(), "a port", problems),
            None if name == "port" && self.path.starts_with("spec.") => {
                self.refuse("has no port; write 1 to 65535", problems);
            }
            None => {}
        }
    }

    fn is_within(&self, least: i64, most: i64, what: &str, problems: &mut Vec<Problem>) {
        if let Value::Integer(number) = self.node.value
            && !(least..=most).contains(&number)
        {
            let least = least.max(1);
            let message = format!("{number} is not {what}; write {least} to {most}");
            self.refuse(message, problems);
        }
    }

    fn has_at_most(&self, name: &str, most: usize, problems: &mut Vec<Problem>) {
        let Some(list) = self.field(name) else {
            return;
        };
        let count = list.node.items().len();
        if count > most {
            let message = format!("{count} are more than the API takes; write at most {most}");
            list.refuse(message, problems);
        }
    }
}
