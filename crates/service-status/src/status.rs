//! Patches for the status of a Service.
//!
//! The time is a parameter, so this module is pure.

use std::net::IpAddr;

use jiff::Timestamp;
use serde_json::{Value, json};
use service_catalog::{
    catalog::ServiceView,
    finding::EventSeverity,
    model::{
        ADDRESS_CONDITION, ANNOUNCED_CONDITION, Condition, Ingress, ObjectKey,
        WEIGHT_LEVELS_CONDITION, address_message, address_reason, weight_levels_reason,
    },
};
use virtual_server::Protocol;

use crate::{reports::AnnouncementCounts, stable_hash::StableHash};

/// Field manager of the condition that records the addresses of a Service.
pub(crate) const ADDRESS_MANAGER: &str = "portlb-address";

/// Field manager of the condition that records the number of weight levels.
pub(crate) const WEIGHT_LEVELS_MANAGER: &str = "portlb-weight-levels";

/// Field manager of the ingress and of the condition about announcements.
pub(crate) const STATUS_MANAGER: &str = "portlb-status";

/// With this `ipMode` in an ingress, kube-proxy does not intercept traffic to the address.
const IP_MODE: &str = "Proxy";

/// A patch for the part of a status that one field manager owns.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Write {
    pub(crate) manager: &'static str,
    /// The document for server-side apply.
    pub(crate) document: Value,
    /// The hash of the patched status without the transition times of conditions.
    pub(crate) stable_hash: StableHash,
    /// The change that must be reported as an Event. `None` if there is nothing to report.
    pub(crate) change: Option<StatusChange>,
}

/// Whether the API server stores the field `ipMode` of an ingress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IpMode {
    Kept,
    /// The API server drops the field, because it is older than Kubernetes 1.29.
    Dropped,
}

/// A change of the status that is reported as an Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StatusChange {
    pub(crate) severity: EventSeverity,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    /// Time of the change, in seconds since 1970. It distinguishes the Events of repeated changes.
    pub(crate) at_second: i64,
}

/// Returns the patches that update the status, or nothing if the status is up to date. A Service
/// that was never valid gets no patch: load balancers that know an earlier, valid state of this
/// Service can still serve it.
pub(crate) fn writes(
    key: &ObjectKey,
    view: &ServiceView,
    announcements: &AnnouncementCounts,
    ip_mode: IpMode,
    now: Timestamp,
) -> Vec<Write> {
    if !view.is_understood {
        return Vec::new();
    }
    let address = address(key, view, now);
    let weight_levels = weight_levels(key, view, now);
    let announced = announced(key, view, announcements, ip_mode, now);
    let writes = [address, weight_levels, announced];
    writes.into_iter().flatten().collect()
}

/// Reports whether the condition that records the allocated addresses must be written or removed.
pub(crate) fn is_allocation_due(key: &ObjectKey, view: &ServiceView) -> bool {
    address(key, view, Timestamp::default()).is_some()
}

/// Returns the patches that clear the status of a Service that portlb no longer serves.
pub(crate) fn clear_status(key: &ObjectKey, view: &ServiceView) -> Vec<Write> {
    let written = &view.written;
    let mut writes = Vec::new();
    if written.address.is_some() {
        writes.push(write(ADDRESS_MANAGER, key, view, json!({})));
    }
    if written.weight_levels.is_some() {
        writes.push(write(WEIGHT_LEVELS_MANAGER, key, view, json!({})));
    }
    if written.announced.is_some() || !written.ingress.is_empty() {
        writes.push(write(STATUS_MANAGER, key, view, json!({})));
    }
    writes
}

fn address(key: &ObjectKey, view: &ServiceView, now: Timestamp) -> Option<Write> {
    let written = view.written.address.as_ref();
    if view.allocation.is_empty() {
        return written.map(|_| write(ADDRESS_MANAGER, key, view, json!({})));
    }
    let reason = address_reason(&view.allocation);
    let desired = ("True", reason.as_str(), address_message(&view.allocation));
    let condition = condition(ADDRESS_CONDITION, &desired, written, view, now)?;
    let status = json!({ "conditions": [condition] });
    Some(write(ADDRESS_MANAGER, key, view, status))
}

fn weight_levels(key: &ObjectKey, view: &ServiceView, now: Timestamp) -> Option<Write> {
    let written = view.written.weight_levels.as_ref();
    let Some(levels) = view.weight_levels else {
        return written.map(|_| write(WEIGHT_LEVELS_MANAGER, key, view, json!({})));
    };
    let reason = weight_levels_reason(levels);
    let message = format!("weights are rounded to {levels} levels");
    let desired = ("True", reason.as_str(), message);
    let condition = condition(WEIGHT_LEVELS_CONDITION, &desired, written, view, now)?;
    let status = json!({ "conditions": [condition] });
    Some(write(WEIGHT_LEVELS_MANAGER, key, view, status))
}

fn announced(
    key: &ObjectKey,
    view: &ServiceView,
    announcements: &AnnouncementCounts,
    ip_mode: IpMode,
    now: Timestamp,
) -> Option<Write> {
    let counts: Vec<(IpAddr, usize)> = view
        .addresses
        .iter()
        .map(|address| (*address, announcements.count(*address)))
        .collect();
    let desired = describe_announcements(&counts);
    let ingress: Vec<IpAddr> = counts
        .iter()
        .filter(|(_, count)| *count > 0 && view.is_load_balancer)
        .map(|(address, _)| *address)
        .collect();
    let written = view.written.announced.as_ref();
    let new_condition = condition(ANNOUNCED_CONDITION, &desired, written, view, now);
    let is_written = is_ingress_written(&view.written.ingress, &ingress, &view.ports, ip_mode);
    if new_condition.is_none() && is_written {
        return None;
    }
    let condition = new_condition
        .or_else(|| {
            // The condition is part of the patch although it is unchanged: server-side apply
            // removes each field of the manager that the patch does not contain.
            let same = written.map(|written| written.last_transition_seconds)?;
            Some(condition_value(ANNOUNCED_CONDITION, &desired, same, view))
        })
        .unwrap_or(Value::Null);
    let mut status = json!({ "conditions": [condition] });
    if !ingress.is_empty() {
        let ports: Vec<Value> = view
            .ports
            .iter()
            .map(|(protocol, port)| json!({ "port": port, "protocol": protocol_name(*protocol) }))
            .collect();
        let entries: Vec<Value> = ingress
            .iter()
            .map(|ip| {
                let mut entry = json!({ "ip": ip.to_string(), "ipMode": IP_MODE });
                if !ports.is_empty() {
                    entry["ports"] = Value::from(ports.clone());
                }
                entry
            })
            .collect();
        status["loadBalancer"] = json!({ "ingress": entries });
    }
    let mut write = write(STATUS_MANAGER, key, view, status);
    write.change = change(written, &desired, now);
    Some(write)
}

/// Returns status, reason and message of the condition `portlb.io/Announced`.
fn describe_announcements(counts: &[(IpAddr, usize)]) -> (&'static str, &'static str, String) {
    let some = counts.iter().filter(|(_, count)| *count > 0).count();
    let words: Vec<String> = counts
        .iter()
        .map(|(address, count)| match count {
            0 => format!("{address} is announced by no load balancer"),
            1 => format!("{address} is announced by 1 load balancer"),
            count => format!("{address} is announced by {count} load balancers"),
        })
        .collect();
    let words = words.join(", ");
    if counts.is_empty() {
        (
            "False",
            "NoAddress",
            "the Service has no address".to_owned(),
        )
    } else if some == counts.len() {
        ("True", "Announced", words)
    } else if some > 0 {
        ("False", "PartlyAnnounced", words)
    } else {
        ("False", "NotAnnounced", words)
    }
}

/// Returns the change to report as an Event if the Service's announcement state becomes announced,
/// partly announced, no longer announced or not yet announced. A changed number of load balancers
/// alone is not reported.
fn change(
    written: Option<&Condition>,
    desired: &(&str, &str, String),
    now: Timestamp,
) -> Option<StatusChange> {
    let (_, reason, message) = desired;
    let before = written.map(|condition| &*condition.reason);
    if before == Some(reason) {
        return None;
    }
    let (severity, reason) = match *reason {
        "Announced" => (EventSeverity::Normal, "Announced"),
        "PartlyAnnounced" => (EventSeverity::Warning, "Degraded"),
        _ if matches!(before, Some("Announced" | "PartlyAnnounced")) => {
            (EventSeverity::Warning, "Withdrawn")
        }
        // `kubectl describe` shows Events of a Service, but not its conditions. So a Service that
        // is not announced yet gets an Event in addition to the condition.
        "NotAnnounced" => (EventSeverity::Normal, "NotAnnounced"),
        _ => return None,
    };
    let suggestion = match reason {
        "NotAnnounced" => {
            " yet; if this does not change, /readyz of the bgp-announcer in the lb pods names the \
             missing step"
        }
        _ => "",
    };
    Some(StatusChange {
        severity,
        reason,
        message: format!("{message}{suggestion}"),
        at_second: now.as_second(),
    })
}

fn is_ingress_written(
    written: &[Ingress],
    desired: &[IpAddr],
    ports: &[(Protocol, u16)],
    ip_mode: IpMode,
) -> bool {
    let is_mode = |mode: Option<&str>| match mode {
        Some(mode) => mode == IP_MODE,
        None => ip_mode == IpMode::Dropped,
    };
    written.len() == desired.len()
        && written.iter().zip(desired).all(|(written, desired)| {
            written.address == *desired
                && is_mode(written.ip_mode.as_deref())
                && written.ports == ports
        })
}

/// Returns the condition to write, or `None` if the status already has it.
fn condition(
    kind: &str,
    desired: &(&str, &str, String),
    written: Option<&Condition>,
    view: &ServiceView,
    now: Timestamp,
) -> Option<Value> {
    let (status, reason, message) = desired;
    let same = |written: &Condition| {
        *written.status == **status && *written.reason == **reason && *written.message == **message
    };
    if written.is_some_and(same) {
        return None;
    }
    let since = match written {
        Some(written) if *written.status == **status => written.last_transition_seconds,
        Some(_) | None => now.as_second(),
    };
    Some(condition_value(kind, desired, since, view))
}

fn condition_value(
    kind: &str,
    (status, reason, message): &(&str, &str, String),
    since: i64,
    view: &ServiceView,
) -> Value {
    let since = Timestamp::from_second(since).unwrap_or_default();
    json!({
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": view.generation,
        "lastTransitionTime": since.to_string(),
    })
}

fn write(manager: &'static str, key: &ObjectKey, view: &ServiceView, status: Value) -> Write {
    let mut timeless = status.clone();
    for condition in timeless["conditions"].as_array_mut().into_iter().flatten() {
        condition["lastTransitionTime"] = Value::Null;
    }
    Write {
        manager,
        document: json!({
            "apiVersion": "v1",
            "kind": "Service",
            // The uid makes the API server reject the patch if a new Service has the name of a
            // deleted one.
            "metadata": { "name": key.name(), "namespace": key.namespace(), "uid": &*view.uid },
            "status": status,
        }),
        stable_hash: StableHash::of([timeless.to_string().as_str()]),
        change: None,
    }
}

fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
    }
}

#[cfg(test)]
mod tests;
