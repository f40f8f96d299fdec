//! Rules of the API server for the values of fields.
//!
//! The rules cover enumerations, numbers and formats of the fields that pod-watcher uses.

use std::net::IpAddr;

use super::{
    ManifestProblem, ManifestProblemKind,
    node::{PathPart, YamlNode, YamlValue, joined},
};

/// Largest length of a DNS label (RFC 1123). Names of namespaces and Services are DNS labels.
const LONGEST_LABEL: usize = 63;

/// Largest length of a port name (RFC 6335) in `targetPort`.
const LONGEST_PORT_NAME: usize = 15;

/// Largest timeout of `sessionAffinity: ClientIP` in seconds.
const LONGEST_AFFINITY_SECONDS: i64 = 86_400;

const MOST_ENDPOINTS: usize = 1_000;
const MOST_PORTS: usize = 100;
const MOST_ADDRESSES: usize = 100;

const PROTOCOLS: &[&str] = &["TCP", "UDP", "SCTP"];

/// A field of an object with its path.
struct CheckedField<'a> {
    node: &'a YamlNode,
    path: String,
}

/// Adds the problems of the metadata of an object.
pub(super) fn of_metadata(object: &YamlNode, problems: &mut Vec<ManifestProblem>) {
    let Some(metadata) = field(object, "", "metadata") else {
        problems.push(ManifestProblem {
            kind: ManifestProblemKind::NotAllowed,
            path: "metadata.name".to_owned(),
            position: object.position,
            message: "is missing; write this field".to_owned(),
        });
        return;
    };
    if metadata.node.get("name").is_none() {
        problems.push(ManifestProblem {
            kind: ManifestProblemKind::NotAllowed,
            path: "metadata.name".to_owned(),
            position: metadata.node.position,
            message: "is missing; write this field".to_owned(),
        });
    }
    metadata.text("namespace", problems, |text| label(text, LONGEST_LABEL));
}

/// Adds the problems of a Service.
pub(super) fn of_service(object: &YamlNode, problems: &mut Vec<ManifestProblem>) {
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
    // The class is not checked if the type is unknown: this problem of the type is reported above.
    let service_type = spec.node.get("type").and_then(YamlNode::text);
    let without_class = ["ClusterIP", "NodePort", "ExternalName"];
    let has_no_class = without_class.contains(&service_type.unwrap_or("ClusterIP"));
    let class = spec.field("loadBalancerClass");
    if let Some(class) = class.filter(|class| has_no_class && class.node.text().is_some()) {
        let message = "is allowed only with spec.type: LoadBalancer; write this type, or replace \
                       the field by the annotation portlb.io/load-balancer-class";
        class.refuse(message, problems);
    }
    let affinity = spec.field("sessionAffinityConfig");
    let affinity = affinity.and_then(|affinity| affinity.field("clientIP"));
    if let Some(timeout) = affinity.and_then(|client| client.field("timeoutSeconds")) {
        timeout.is_within(
            1,
            LONGEST_AFFINITY_SECONDS,
            "a timeout in seconds",
            problems,
        );
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
            let message = "has no name; write a name, because the Service has several ports";
            port.refuse(message, problems);
        }
        match port.field("targetPort") {
            Some(target) if matches!(target.node.value, YamlValue::Integer(_)) => {
                target.is_within(0, u16::MAX.into(), "a port", problems);
            }
            Some(_) | None => port.text("targetPort", problems, port_name),
        }
    }
    refuse_equal_names(&ports, problems);
}

/// Adds the problems of an EndpointSlice.
pub(super) fn of_slice(object: &YamlNode, problems: &mut Vec<ManifestProblem>) {
    let slice = CheckedField {
        node: object,
        path: String::new(),
    };
    match object.get("addressType") {
        Some(_) => slice.one_of("addressType", &["IPv4", "IPv6", "FQDN"], problems),
        None => problems.push(ManifestProblem {
            kind: ManifestProblemKind::NotAllowed,
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
    refuse_equal_names(&ports, problems);
    slice.has_at_most("ports", MOST_PORTS, problems);
    slice.has_at_most("endpoints", MOST_ENDPOINTS, problems);
    let family = object.get("addressType").and_then(YamlNode::text);
    for endpoint in slice.items("endpoints") {
        let addresses = endpoint.items("addresses");
        if addresses.is_empty() {
            endpoint.refuse("has no addresses; write at least one address", problems);
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
                // The problem of an unknown or missing addressType is reported above.
                (Some(_) | None, _) => true,
            };
            if !is_of_family {
                let family = family.unwrap_or_default();
                let message = format!(
                    "{text:?} is not an address of the addressType {family}; write an {family} \
                     address, or move it to an EndpointSlice with the matching addressType"
                );
                address.refuse(message, problems);
            }
        }
    }
}

/// Adds the problems of an object of kind Endpoints (`v1`).
pub(super) fn of_endpoints(object: &YamlNode, problems: &mut Vec<ManifestProblem>) {
    let whole = CheckedField {
        node: object,
        path: String::new(),
    };
    for subset in whole.items("subsets") {
        let ports = subset.items("ports");
        for port in &ports {
            port.is_port("port", 1, problems);
            port.one_of("protocol", PROTOCOLS, problems);
        }
        refuse_equal_names(&ports, problems);
        for addresses in ["addresses", "notReadyAddresses"] {
            for address in subset.items(addresses) {
                address.text("ip", problems, |text| {
                    let is_address = text.parse::<IpAddr>().is_ok();
                    let refuse = || format!("{text:?} is not an IP address; write an IP address");
                    (!is_address).then(refuse)
                });
            }
        }
    }
}

/// Adds a problem for each port whose name, which can be an empty text, is the name of an earlier
/// port. Ignores ports without the field `name`.
fn refuse_equal_names(ports: &[CheckedField<'_>], problems: &mut Vec<ManifestProblem>) {
    let mut names: Vec<&str> = Vec::new();
    let several = ports.len() > 1;
    for port in ports {
        let name = port.node.get("name").and_then(YamlNode::text);
        let Some(name) = name.filter(|_| several) else {
            continue;
        };
        if names.contains(&name) {
            port.refuse(
                format!("has the name {name:?} of another port; write a different name"),
                problems,
            );
        }
        names.push(name);
    }
}

/// Checks the name of a port. An empty name is allowed here: the caller checks whether the port
/// needs a name.
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
            "{text:?} is not a valid name; write at most {longest} lowercase letters, digits and \
             `-`, with a letter or digit first and last"
        )
    })
}

fn port_name(text: &str) -> Option<String> {
    let is_name = label(text, LONGEST_PORT_NAME).is_none()
        && text.chars().any(|c| c.is_ascii_lowercase())
        && !text.contains("--");
    // The API server treats an empty `targetPort` as unset.
    (!is_name && !text.is_empty()).then(|| {
        format!(
            "{text:?} is neither a port number nor a port name; write 1 to 65535 without quotes, or \
             at most {LONGEST_PORT_NAME} lowercase letters, digits and `-`, one of them a letter"
        )
    })
}

fn field<'a>(node: &'a YamlNode, path: &str, name: &str) -> Option<CheckedField<'a>> {
    let node = node.get(name)?;
    let path = joined(path, PathPart::Field(name));
    (node.value != YamlValue::Null).then_some(CheckedField { node, path })
}

impl<'a> CheckedField<'a> {
    fn field(&self, name: &str) -> Option<CheckedField<'a>> {
        field(self.node, &self.path, name)
    }

    fn items(&self, name: &str) -> Vec<CheckedField<'a>> {
        let Some(list) = self.field(name) else {
            return Vec::new();
        };
        let items = list.node.items().iter().enumerate();
        let item = |(index, node)| CheckedField {
            node,
            path: joined(&list.path, PathPart::Index(index)),
        };
        items.map(item).collect()
    }

    fn refuse(&self, message: impl Into<String>, problems: &mut Vec<ManifestProblem>) {
        problems.push(ManifestProblem {
            kind: ManifestProblemKind::NotAllowed,
            path: self.path.clone(),
            position: self.node.position,
            message: message.into(),
        });
    }

    /// Checks the text of the field `name`. Ignores a field that is not a text: [`super::typed`]
    /// reports a field of the wrong type.
    fn text(
        &self,
        name: &str,
        problems: &mut Vec<ManifestProblem>,
        check: impl FnOnce(&str) -> Option<String>,
    ) {
        let Some(field) = self.field(name) else {
            return;
        };
        if let Some(message) = field.node.text().and_then(check) {
            field.refuse(message, problems);
        }
    }

    fn one_of(&self, name: &str, allowed: &[&str], problems: &mut Vec<ManifestProblem>) {
        if let Some(field) = self.field(name) {
            field.is_one_of(allowed, problems);
        }
    }

    fn is_one_of(&self, allowed: &[&str], problems: &mut Vec<ManifestProblem>) {
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
            "{text:?} is not an allowed value; {hint}allowed are {}",
            allowed.join(", ")
        );
        self.refuse(message, problems);
    }

    fn is_port(&self, name: &str, least: i64, problems: &mut Vec<ManifestProblem>) {
        match self.field(name) {
            Some(port) => port.is_within(least, u16::MAX.into(), "a port", problems),
            None if name == "port" && self.path.starts_with("spec.") => {
                self.refuse("has no port; write 1 to 65535", problems);
            }
            None => {}
        }
    }

    fn is_within(&self, least: i64, most: i64, what: &str, problems: &mut Vec<ManifestProblem>) {
        if let YamlValue::Integer(number) = self.node.value
            && !(least..=most).contains(&number)
        {
            let least = least.max(1);
            let message = format!("{number} is not {what}; write {least} to {most}");
            self.refuse(message, problems);
        }
    }

    fn has_at_most(&self, name: &str, most: usize, problems: &mut Vec<ManifestProblem>) {
        let Some(list) = self.field(name) else {
            return;
        };
        let count = list.node.items().len();
        if count > most {
            let message =
                format!("{count} items are more than the API allows; write at most {most}");
            list.refuse(message, problems);
        }
    }
}
