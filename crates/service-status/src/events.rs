//! Events about findings and about changes of the status.
//!
//! The Events in this module have no time: the writer adds it.

use service_catalog::{
    catalog::ServiceView,
    finding::{EventSeverity, Finding},
    model::ObjectKey,
};

use crate::{stable_hash::StableHash, status::StatusChange};

/// An Event of a Service, without its time and without the name of the reporting pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceEvent {
    pub(crate) name: String,
    pub(crate) service: ObjectKey,
    pub(crate) uid: String,
    pub(crate) severity: EventSeverity,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl ServiceEvent {
    /// Returns the Event about a finding. All pods use the same name for the Event of one finding,
    /// so that a new leader does not write the Event a second time.
    pub(crate) fn of_finding(key: &ObjectKey, view: &ServiceView, finding: &Finding) -> Self {
        let reason = finding.reason.as_str();
        Self {
            name: name(key, [&*view.uid, reason, finding.identity()]),
            service: key.clone(),
            uid: view.uid.to_string(),
            severity: finding.reason.severity(),
            reason,
            message: finding.message.clone(),
        }
    }

    /// Returns the Event about a change of the status.
    pub(crate) fn of_change(key: &ObjectKey, view: &ServiceView, change: &StatusChange) -> Self {
        let second = change.at_second.to_string();
        Self {
            name: name(key, [&*view.uid, change.reason, &second]),
            service: key.clone(),
            uid: view.uid.to_string(),
            severity: change.severity,
            reason: change.reason,
            message: change.message.clone(),
        }
    }
}

fn name(key: &ObjectKey, content: [&str; 3]) -> String {
    format!("{}.{}", key.name(), StableHash::of(content))
}

#[cfg(test)]
mod tests;
