//! Events about findings and about changes of the status. Pure: the writer adds the time.

use service_catalog::{
    catalog::ServiceView,
    finding::{Finding, Severity},
    model::ObjectKey,
};

use crate::{fingerprint::Fingerprint, status::StatusChange};

/// An Event, without its time and its reporter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) name: String,
    /// The Service that it is about.
    pub(crate) service: ObjectKey,
    pub(crate) uid: String,
    pub(crate) severity: Severity,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Event {
    /// Returns the Event about a finding. Its name is the same for the same finding, so that the
    /// next leader does not repeat it.
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
    format!("{}.{}", key.name(), Fingerprint::of(content))
}

#[cfg(test)]
mod tests;
