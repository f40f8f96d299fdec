//! Report of this pod's announcements, stored in a Lease.

use std::time::{Duration, Instant};

use daemon_runtime::Backoff;
use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference},
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use kubernetes_client::grant::{ApiRequest, Resource};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::api_server::{ApiServer, FailureLog, silent_for};
use crate::reports::{
    self, ANNOUNCED_ANNOTATION, AnnouncedPrefixes, REPORT_DURATION, REPORT_LABEL,
};

/// Field manager of a report, for server-side apply.
const FIELD_MANAGER: &str = "portlb-report";

/// Longest time from the end of one successful write of the report to the start of the next write.
const RENEW_PERIOD: Duration = Duration::from_secs(5);

/// After a change of the announcements, the reporter waits for this time and then writes all
/// changes together.
const DEBOUNCE: Duration = Duration::from_millis(200);

/// Longest wait for an answer of the API server.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest time for removing the report when the data plane has ended.
pub(crate) const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest time for which the first report waits until the announcer has sent all prefixes. The
/// report of a pod that restarts is valid for at least another 10 s, because it lasts 15 s and is
/// renewed every 5 s. So the new report replaces the old one in time.
const FIRST_GRACE: Duration = Duration::from_secs(8);

/// The task that writes this pod's report.
#[derive(Debug)]
pub(crate) struct Reporter {
    pub(crate) server: ApiServer,
    pub(crate) lease_name: String,
    pub(crate) pod_name: String,
    pub(crate) pod_uid: Option<String>,
    pub(crate) namespace: String,
    pub(crate) announced: watch::Receiver<Option<AnnouncedPrefixes>>,
    /// Time at which the last successful write of the report was sent. `None` before the first
    /// write and after the removal of the report.
    pub(crate) reported: watch::Sender<Option<Instant>>,
    pub(crate) written: WrittenReport,
}

/// The state of the last written report.
#[derive(Debug, Default)]
pub(crate) struct WrittenReport {
    /// The annotation of the last written report. `None` if the next write must write the whole
    /// report, and not only its renewal time.
    text: Option<String>,
    is_size_logged: bool,
}

impl Reporter {
    /// Renews the report until `data_plane_ended` is cancelled. Then removes the report.
    pub(crate) async fn run(mut self, data_plane_ended: CancellationToken) {
        tokio::select! {
            () = self.renew() => {}
            () = data_plane_ended.cancelled() => {}
        }
        self.reported.send_replace(None);
        match tokio::time::timeout(SHUTDOWN_TIMEOUT, self.remove_report()).await {
            Ok(Ok(())) => {}
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => {}
            Ok(Err(_)) | Err(_) => {
                tracing::info!(
                    "cannot remove the report of this pod; the report expires after its duration"
                );
            }
        }
    }

    /// Removes the label, so that the Lease is no longer a report. Kubernetes deletes the Lease
    /// together with the pod that owns it (docs/decisions/0035). If the pod's uid is unknown, the
    /// Lease has no owner, and this function deletes it.
    async fn remove_report(&mut self) -> kube::Result<()> {
        let api: Api<Lease> = Api::namespaced(self.server.client().await?, &self.namespace);
        let name = self.name();
        api.patch(&name, &PatchParams::default(), &Patch::Merge(no_report()))
            .await?;
        if self.pod_uid.is_none() {
            api.delete(&name, &DeleteParams::default()).await?;
        }
        Ok(())
    }

    /// Writes the report and then renews it. Never returns.
    async fn renew(&mut self) {
        let mut failures = FailureLog::new("report");
        let mut backoff = Backoff::within_grace(Duration::from_millis(500), REPORT_DURATION);
        // Until the announcer has sent all prefixes, the reporter does not know whether this pod
        // announces any address.
        let first = self.announced.wait_for(Option::is_some);
        let _ = tokio::time::timeout(FIRST_GRACE, first).await;
        loop {
            let written = self.write(&mut failures).await;
            let delay = if written {
                backoff.reset();
                RENEW_PERIOD
            } else {
                backoff.next_delay()
            };
            tokio::select! {
                Ok(()) = self.announced.changed(), if written => {
                    tokio::time::sleep(DEBOUNCE).await;
                }
                () = tokio::time::sleep(delay) => {}
            }
        }
    }

    fn name(&self) -> String {
        report_name(&self.lease_name, &self.pod_name)
    }

    /// Writes or renews the report. Reports whether the API server accepted the request.
    async fn write(&mut self, failures: &mut FailureLog) -> bool {
        let announced = self.announced.borrow_and_update().clone();
        let text = self.text(&announced.unwrap_or_default());
        let is_unchanged = self
            .written
            .text
            .take()
            .is_some_and(|annotation| annotation == text);
        let name = self.name();
        let namespace = self.namespace.clone();
        let report = (!is_unchanged).then(|| self.report(&text));
        let asked = Instant::now();
        let request = async {
            let api: Api<Lease> = Api::namespaced(self.server.client().await?, &namespace);
            let parameters = PatchParams::apply(FIELD_MANAGER);
            match &report {
                Some(report) => {
                    let patch = Patch::Apply(report);
                    api.patch(&name, &parameters.force(), &patch).await
                }
                None => {
                    let renewed = MicroTime(Timestamp::now());
                    let patch = Patch::Merge(json!({ "spec": { "renewTime": renewed } }));
                    api.patch(&name, &parameters, &patch).await
                }
            }
        };
        let error = match tokio::time::timeout(ANSWER_TIMEOUT, request).await {
            Ok(Ok(lease)) => {
                self.server.metrics.wrote("report");
                if is_report(&lease, &self.lease_name, &text) {
                    self.written.text = Some(text);
                }
                self.reported.send_replace(Some(asked));
                failures.log_recovery();
                return true;
            }
            Ok(Err(error)) => error,
            Err(_) => {
                failures.log_failure(&self.server.metrics, "silent", || {
                    silent_for(ANSWER_TIMEOUT)
                });
                return false;
            }
        };
        let asked = ApiRequest {
            verb: "patch",
            resource: &Resource::of::<Lease>(Some(self.namespace.clone())),
            subresource: None,
            verbs: &["get", "list", "watch", "create", "update", "patch"],
        };
        self.server.refused(&error, &asked, failures).await;
        false
    }

    fn text(&mut self, announced: &AnnouncedPrefixes) -> String {
        let (text, left_out) = reports::annotation(announced);
        if left_out > 0 && !self.written.is_size_logged {
            tracing::warn!(
                prefixes = announced.len(),
                left_out,
                "the report of this pod is full; the status of Services does not count this pod \
                 for the omitted prefixes"
            );
        }
        self.written.is_size_logged = left_out > 0;
        text
    }

    fn report(&self, text: &str) -> Lease {
        let owner = self.pod_uid.as_ref().map(|uid| OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            name: self.pod_name.clone(),
            uid: uid.clone(),
            ..OwnerReference::default()
        });
        Lease {
            metadata: ObjectMeta {
                name: Some(self.name()),
                namespace: Some(self.namespace.clone()),
                labels: Some([(REPORT_LABEL.to_owned(), self.lease_name.clone())].into()),
                annotations: Some([(ANNOUNCED_ANNOTATION.to_owned(), text.to_owned())].into()),
                owner_references: owner.map(|owner| vec![owner]),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.pod_name.clone()),
                lease_duration_seconds: i32::try_from(REPORT_DURATION.as_secs()).ok(),
                renew_time: Some(MicroTime(Timestamp::now())),
                ..LeaseSpec::default()
            }),
        }
    }
}

/// Returns the name of the Lease that contains a pod's report.
pub(crate) fn report_name(lease_name: &str, pod_name: &str) -> String {
    format!("{lease_name}-{pod_name}")
}

fn no_report() -> serde_json::Value {
    json!({
        "metadata": {
            "labels": { REPORT_LABEL: null },
            "annotations": { ANNOUNCED_ANNOTATION: null },
        },
        "spec": { "holderIdentity": "" },
    })
}

/// Reports whether the Lease is a report for the election Lease `lease_name`, with the annotation
/// `text`. Then the next renewal writes only the time.
fn is_report(lease: &Lease, lease_name: &str, text: &str) -> bool {
    let metadata = &lease.metadata;
    let label = metadata.labels.as_ref().and_then(|l| l.get(REPORT_LABEL));
    let annotation = metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(ANNOUNCED_ANNOTATION));
    label.is_some_and(|label| label == lease_name)
        && annotation.is_some_and(|annotation| annotation == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_counts_as_the_report_only_with_the_expected_label_and_annotation() {
        let announced = (ANNOUNCED_ANNOTATION.to_owned(), "10.1.1.10/32".to_owned());
        let mut lease = Lease::default();
        lease.metadata.annotations = Some([announced].into());
        assert!(!is_report(&lease, "portlb", "10.1.1.10/32"));
        lease.metadata.labels = Some([(REPORT_LABEL.to_owned(), "portlb".to_owned())].into());
        assert!(is_report(&lease, "portlb", "10.1.1.10/32"));
        assert!(!is_report(&lease, "portlb", ""));
        assert!(!is_report(&lease, "other", "10.1.1.10/32"));
    }
}
