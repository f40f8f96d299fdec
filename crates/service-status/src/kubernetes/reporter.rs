//! Writes what this pod announces into its report, a Lease.

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
use kubernetes_client::grant::{Asked, Resource};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::api_server::{ApiServer, Problems, silent_for};
use crate::reports::{self, ANNOUNCED_ANNOTATION, Announced, REPORT_DURATION, REPORT_LABEL};

/// Who owns the fields of a report.
const FIELD_MANAGER: &str = "portlb-report";

/// From one renewal to the next.
const RENEW_PERIOD: Duration = Duration::from_secs(5);

/// Changes within this time are one report.
const SETTLE: Duration = Duration::from_millis(200);

/// Longest wait for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest wait until the report is taken back.
pub(crate) const END_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the first report waits for the announcer; shorter than the rest of the life of a
/// report that this pod wrote before its restart.
const FIRST_GRACE: Duration = Duration::from_secs(8);

/// Writes this pod's report.
#[derive(Debug)]
pub(crate) struct Reporter {
    pub(crate) server: ApiServer,
    pub(crate) lease_name: String,
    pub(crate) pod_name: String,
    pub(crate) pod_uid: Option<String>,
    pub(crate) namespace: String,
    pub(crate) announced: watch::Receiver<Option<Announced>>,
    /// When the report was written last, unless it is taken back.
    pub(crate) reported: watch::Sender<Option<Instant>>,
    pub(crate) written: WrittenReport,
}

/// The report that this pod wrote last.
#[derive(Debug, Default)]
pub(crate) struct WrittenReport {
    /// The annotation of the report, where only its time need be renewed.
    text: Option<String>,
    is_size_told: bool,
}

impl Reporter {
    /// Until the data plane has ended; then takes the report back.
    pub(crate) async fn run(mut self, unwatched: CancellationToken) {
        tokio::select! {
            () = self.renew() => {}
            () = unwatched.cancelled() => {}
        }
        self.reported.send_replace(None);
        match tokio::time::timeout(END_TIMEOUT, self.take_back()).await {
            Ok(Ok(())) => {}
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => {}
            Ok(Err(_)) | Err(_) => {
                tracing::info!("the report of what this pod announces runs out by itself");
            }
        }
    }

    /// Takes the label off, so that the Lease is no report. It goes with its pod
    /// (docs/decisions/0035); one that no pod owns is deleted where that is allowed.
    async fn take_back(&mut self) -> kube::Result<()> {
        let api: Api<Lease> = Api::namespaced(self.server.client().await?, &self.namespace);
        let name = self.name();
        api.patch(&name, &PatchParams::default(), &Patch::Merge(no_report()))
            .await?;
        if self.pod_uid.is_none() {
            api.delete(&name, &DeleteParams::default()).await?;
        }
        Ok(())
    }

    /// Keeps the report as it shall be, for ever.
    async fn renew(&mut self) {
        let mut problems = Problems::new("report");
        let mut backoff = Backoff::within_grace(Duration::from_millis(500), REPORT_DURATION);
        // That nothing is announced is not known before the announcer has said so.
        let first = self.announced.wait_for(Option::is_some);
        let _ = tokio::time::timeout(FIRST_GRACE, first).await;
        loop {
            let written = self.write(&mut problems).await;
            let delay = if written {
                backoff.reset();
                RENEW_PERIOD
            } else {
                backoff.next_delay()
            };
            tokio::select! {
                Ok(()) = self.announced.changed(), if written => {
                    tokio::time::sleep(SETTLE).await;
                }
                () = tokio::time::sleep(delay) => {}
            }
        }
    }

    fn name(&self) -> String {
        report_name(&self.lease_name, &self.pod_name)
    }

    /// Whether it is written.
    async fn write(&mut self, problems: &mut Problems) -> bool {
        let announced = self.announced.borrow_and_update().clone();
        let text = self.text(&announced.unwrap_or_default());
        let stands = self.written.text.take().is_some_and(|its| its == text);
        let name = self.name();
        let namespace = self.namespace.clone();
        let report = (!stands).then(|| self.report(&text));
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
                problems.solved();
                return true;
            }
            Ok(Err(error)) => error,
            Err(_) => {
                problems.note(&self.server.metrics, "silent", || {
                    silent_for(ANSWER_TIMEOUT)
                });
                return false;
            }
        };
        let asked = Asked {
            verb: "patch",
            resource: &Resource::of::<Lease>(Some(self.namespace.clone())),
            subresource: None,
            verbs: &["get", "list", "watch", "create", "update", "patch"],
        };
        self.server.refused(&error, &asked, problems).await;
        false
    }

    fn text(&mut self, announced: &Announced) -> String {
        let (text, left_out) = reports::annotation(announced);
        if left_out > 0 && !self.written.is_size_told {
            tracing::warn!(
                prefixes = announced.len(),
                left_out,
                "more is announced than a report can hold; the status of the others is not written"
            );
        }
        self.written.is_size_told = left_out > 0;
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

/// The name of a pod's report.
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

/// Whether the Lease is the report that says `text`, so that its time alone may be renewed.
fn is_report(lease: &Lease, lease_name: &str, text: &str) -> bool {
    let metadata = &lease.metadata;
    let label = metadata.labels.as_ref().and_then(|l| l.get(REPORT_LABEL));
    let its = metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(ANNOUNCED_ANNOTATION));
    label.is_some_and(|label| label == lease_name) && its.is_some_and(|its| its == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_time_of_a_report_that_stands_as_it_shall_is_renewed() {
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
