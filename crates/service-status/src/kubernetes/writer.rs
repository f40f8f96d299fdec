//! Writer of the status of Services, and of Events.
//!
//! ```text
//!  catalog ──► views ──────┐
//!                          ├──► due objects ──► one request at a time ──► API server
//!  reports of all pods ────┘
//! ```
//!
//! Only the leader writes. No other task waits for the writer: if a view changes several times
//! before its status is written, the writer skips the intermediate views.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use daemon_runtime::wait_until;
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{ObjectReference, Service},
        events::v1::Event as KubernetesEvent,
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use kubernetes_client::{
    client::{self, ApiServerOrigin},
    grant::{ApiRequest, Resource},
    metrics::RequestMetrics,
    watch::{ListWatch, WatchEvent},
};
use serde_json::json;
use service_catalog::model::ObjectKey;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{
    api_server::{ApiServer, FailureLog, silent_for},
    reporter::report_name,
    warn_about_duration,
};
use crate::{
    Views,
    events::ServiceEvent,
    leadership::{FailureScope, Leadership, Occurrence, ReportEvent, WriteJob},
    reports::{ANNOUNCED_ANNOTATION, REPORT_LABEL, ReportLease},
    status::{self, IpMode, Write},
};

/// Name of this program in Events.
const CONTROLLER: &str = "portlb.io/pod-watcher";

/// Shortest time between two equal patches of one field manager for one Service. The writer repeats
/// a patch if another program reverts it.
const REWRITE_INTERVAL: Duration = Duration::from_secs(30);

/// Longest wait for an answer of the API server.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest time for the last status writes of an ending pod. The time begins with the removal of
/// the pod's report.
pub(crate) const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Largest number of Services that the writer checks without yielding to other events, as long as
/// no checked Service needs a write.
const MAX_EVALUATED: usize = 256;

/// The task that writes the status of Services, and Events.
#[derive(Debug)]
pub(crate) struct StatusWriter {
    pub(crate) server: ApiServer,
    pub(crate) request_metrics: RequestMetrics,
    pub(crate) origin: ApiServerOrigin,
    pub(crate) views: Views,
    /// The time at which this pod stops leading unless it renews the Lease. `None` if it does not
    /// lead.
    pub(crate) leads: watch::Receiver<Option<Instant>>,
    /// Time at which the last successful write of this pod's own report was sent. `None` before the
    /// first write and after the removal of the report.
    pub(crate) reported: watch::Receiver<Option<Instant>>,
    pub(crate) lease_name: String,
    pub(crate) namespace: String,
    pub(crate) pod_name: String,
    pub(crate) watch_timeout: Duration,
}

impl StatusWriter {
    /// Writes while this pod leads. After `report_removed` is cancelled, returns when the status of
    /// all Services is written without this pod's announcements, when another pod can write the
    /// status, or after `SHUTDOWN_TIMEOUT`.
    pub(crate) async fn run(mut self, report_removed: CancellationToken) {
        let too_late = async {
            report_removed.cancelled().await;
            tokio::time::sleep(SHUTDOWN_TIMEOUT).await;
        };
        tokio::select! {
            () = self.run_elected(&report_removed) => {}
            () = too_late => tracing::info!(
                "the time for shutdown is over; skipping the remaining status writes"
            ),
        }
    }

    async fn run_elected(&mut self, report_removed: &CancellationToken) {
        loop {
            let mut leads = self.leads.clone();
            tokio::select! {
                Ok(_) = leads.wait_for(|leads| is_leading(*leads, Instant::now())) => {}
                () = self.wait_until_another_pod_continues(report_removed) => return,
            }
            let is_done = tokio::select! {
                is_done = self.lead(report_removed) => is_done,
                _ = leads.wait_for(Option::is_none) => false,
            };
            self.server.metrics.announcers.set(0);
            if is_done {
                return;
            }
        }
    }

    /// Waits until `report_removed` is cancelled, and returns if another pod has a report, because
    /// that pod can write the remaining statuses, or if the reports cannot be listed. Never returns
    /// if no other pod has a report, because then this pod must become the leader. Each ending pod
    /// removes its own report before it looks for other reports, so that the last of several ending
    /// pods finds none.
    async fn wait_until_another_pod_continues(&mut self, report_removed: &CancellationToken) {
        report_removed.cancelled().await;
        let own = report_name(&self.lease_name, &self.pod_name);
        let request = async {
            let client = self.server.client().await?;
            let api: Api<Lease> = Api::namespaced(client, &self.namespace);
            let label = format!("{REPORT_LABEL}={}", self.lease_name);
            api.list_metadata(&ListParams::default().labels(&label))
                .await
        };
        if let Ok(Ok(reports)) = answer(request).await
            && reports
                .iter()
                .all(|report| report.metadata.name.as_ref() == Some(&own))
        {
            std::future::pending::<()>().await;
        }
    }

    /// Writes the status as the leader. Returns true if this pod ends and its remaining writes are
    /// finished or left to another pod.
    async fn lead(&mut self, report_removed: &CancellationToken) -> bool {
        let (sender, mut events) = mpsc::channel(256);
        let follow = ListWatch {
            origin: self.origin.clone(),
            resource: Resource::of::<Lease>(Some(self.namespace.clone())),
            label_selector: Some(format!("{REPORT_LABEL}={}", self.lease_name)),
            page_size: 100,
            watch_timeout: self.watch_timeout,
            metrics: self.request_metrics.clone(),
        };
        tokio::select! {
            () = follow.run::<Lease, _>(sender, report_event) => false,
            is_done = self.write(&mut events, report_removed) => is_done,
        }
    }

    /// Writes as the leader. Returns false if the Lease or the watch of views is lost, and true if
    /// this pod ends and its remaining writes are finished or left to another pod.
    async fn write(
        &mut self,
        events: &mut mpsc::Receiver<ReportEvent>,
        report_removed: &CancellationToken,
    ) -> bool {
        let mut leadership = Leadership::new(report_name(&self.lease_name, &self.pod_name));
        let views = match self.views.subscribe() {
            Ok(views) => views,
            Err(error) => {
                tracing::error!(%error, "cannot watch the views of Services; retrying");
                return false;
            }
        };
        let mut views = std::pin::pin!(views.into_stream());
        let mut failures = FailureLogs {
            status: FailureLog::new("service-status"),
            events: FailureLog::new("event"),
            reports: FailureLog::new("reports"),
        };
        while !leadership.is_done() {
            let now = Instant::now();
            let next_count = leadership
                .next_count(*self.reported.borrow(), now)
                .map(Into::into);
            let due = leadership.next_due(now).map(Into::into);
            tokio::select! {
                Some(next) = views.next() => match next {
                    Ok((_, event)) => leadership.on_view(event, Instant::now()),
                    Err(error) => {
                        tracing::warn!(
                            %error,
                            "lost the watch of the views of Services; reading all views again"
                        );
                        return false;
                    }
                },
                Some(first) = events.recv() => {
                    self.on_report(&mut leadership, first, &mut failures.reports);
                    self.recount(&mut leadership, events, &mut failures.reports);
                }
                () = wait_until(next_count) => {
                    self.recount(&mut leadership, events, &mut failures.reports);
                }
                () = wait_until(due) => {
                    if !self.write_next(&mut leadership, &mut failures).await {
                        return false;
                    }
                }
                () = report_removed.cancelled(), if !leadership.is_ending() => {
                    leadership.end();
                    self.recount(&mut leadership, events, &mut failures.reports);
                }
            }
        }
        true
    }

    fn on_report(
        &self,
        leadership: &mut Leadership,
        event: ReportEvent,
        failures: &mut FailureLog,
    ) {
        if let ReportEvent::Failed(text) = &event {
            failures.log_failure(&self.server.metrics, "watch", || text.clone());
        } else if matches!(event, ReportEvent::Recovered) {
            failures.log_recovery();
        }
        if let Some((lease, bounded)) = leadership.on_report(event, Instant::now()) {
            warn_about_duration(&lease, bounded);
        }
    }

    /// Applies the report events that have already arrived, and then counts the announcements of
    /// all reports.
    fn recount(
        &self,
        leadership: &mut Leadership,
        events: &mut mpsc::Receiver<ReportEvent>,
        failures: &mut FailureLog,
    ) {
        while let Ok(event) = events.try_recv() {
            self.on_report(leadership, event, failures);
        }
        leadership.recount(*self.reported.borrow(), Instant::now());
        let pods = i64::try_from(leadership.announcements.pods).unwrap_or(i64::MAX);
        self.server.metrics.announcers.set(pods);
    }

    /// Sends one Event, or the requests for the status of one Service. Reports whether this pod
    /// still holds the Lease.
    async fn write_next(
        &mut self,
        leadership: &mut Leadership,
        failures: &mut FailureLogs,
    ) -> bool {
        for _ in 0..MAX_EVALUATED {
            let Some(job) = leadership.take(Instant::now()) else {
                return true;
            };
            match job {
                WriteJob::Status(key) => match self.write_status(leadership, &key).await {
                    Ok(false) => leadership.wrote_status(&key, false, Instant::now()),
                    Ok(true) => {
                        leadership.wrote_status(&key, true, Instant::now());
                        if !leadership.is_any_failing() {
                            failures.status.log_recovery();
                        }
                        return true;
                    }
                    Err(failure) if failure.scope == FailureScope::Leadership => return false,
                    Err(failure) => {
                        let metrics = &self.server.metrics;
                        failures
                            .status
                            .log_failure(metrics, &failure.label, || failure.text);
                        leadership.failed_status(key, failure.scope, Instant::now(), jitter());
                        return true;
                    }
                },
                WriteJob::Event(occurrence) => {
                    match self.write_event(&occurrence).await {
                        Ok(()) => {
                            failures.events.log_recovery();
                            leadership.wrote_event(Instant::now());
                        }
                        Err(failure) if failure.scope == FailureScope::Leadership => return false,
                        Err(failure) => {
                            let metrics = &self.server.metrics;
                            failures
                                .events
                                .log_failure(metrics, &failure.label, || failure.text);
                            leadership.failed_event(
                                occurrence,
                                failure.scope,
                                Instant::now(),
                                jitter(),
                            );
                        }
                    }
                    return true;
                }
            }
        }
        true
    }

    /// Writes those parts of a Service's status that differ from the desired status. Reports
    /// whether a request was sent.
    async fn write_status(
        &mut self,
        leadership: &mut Leadership,
        key: &ObjectKey,
    ) -> Result<bool, WriteFailure> {
        if let Some(view) = leadership.released.get(key) {
            let writes = status::clear_status(key, view);
            let is_sent = !writes.is_empty();
            for write in writes {
                self.write_part(key, &write).await?;
            }
            return Ok(is_sent);
        }
        let Some(known) = leadership.services.get_mut(key) else {
            return Ok(false);
        };
        let now = Instant::now();
        let view = Arc::clone(&known.view);
        let events = known.new_findings(key);
        leadership.queue_events(events);
        let mut is_sent = false;
        for write in status::writes(
            key,
            &view,
            &leadership.announcements,
            leadership.ip_mode,
            Timestamp::now(),
        ) {
            let known = leadership.services.get(key);
            if let Some((stable_hash, at)) = known.and_then(|its| its.written.get(write.manager))
                && *stable_hash == write.stable_hash
                && now < *at + REWRITE_INTERVAL
            {
                let again = *at + REWRITE_INTERVAL;
                leadership.not_before.insert(key.clone(), again);
                continue;
            }
            is_sent = true;
            let answer = self.write_part(key, &write).await?;
            let ip_mode = answer.as_ref().and_then(ip_mode_of);
            if ip_mode == Some(IpMode::Dropped) && leadership.ip_mode == IpMode::Kept {
                tracing::warn!(
                    "the API server drops ipMode (supported since Kubernetes 1.29); \
                     kube-proxy intercepts traffic of the cluster's own pods to service addresses"
                );
                leadership.ip_mode = IpMode::Dropped;
            }
            if let Some(known) = leadership.services.get_mut(key) {
                let written = (write.stable_hash, now);
                known.written.insert(write.manager, written);
            }
            if let Some(change) = &write.change {
                let event = ServiceEvent::of_change(key, &view, change);
                leadership.queue_events([Occurrence { event, count: 1 }]);
            }
        }
        Ok(is_sent)
    }

    /// Writes one part of the status. Returns the Service from the API server's answer, or `None`
    /// if the Service no longer exists or another Service has its name.
    async fn write_part(
        &mut self,
        key: &ObjectKey,
        write: &Write,
    ) -> Result<Option<Service>, WriteFailure> {
        self.check_lease()?;
        let namespace = key.namespace();
        let request = async {
            let client = self.server.client().await?;
            let api: Api<Service> = Api::namespaced(client, namespace);
            let parameters = PatchParams::apply(write.manager).force();
            let patch = Patch::Apply(&write.document);
            api.patch_status(key.name(), &parameters, &patch).await
        };
        let result = answer(request).await;
        let resource = Resource::of::<Service>(Some(namespace.to_owned()));
        let asked = ApiRequest {
            verb: "patch",
            resource: &resource,
            subresource: Some("status"),
            verbs: &["patch"],
        };
        // 404: the Service no longer exists. 409: a new Service has the name of the Service.
        self.classify(result, "service-status", &asked, &[404, 409])
            .await
    }

    /// Fails if this pod does not hold the Lease. A request that is sent after this pod has lost
    /// the Lease could undo a write of the next leader.
    fn check_lease(&self) -> Result<(), WriteFailure> {
        if is_leading(*self.leads.borrow(), Instant::now()) {
            return Ok(());
        }
        Err(WriteFailure {
            label: "lease".to_owned(),
            text: "this pod no longer holds the Lease".to_owned(),
            scope: FailureScope::Leadership,
        })
    }

    async fn write_event(&mut self, occurrence: &Occurrence) -> Result<(), WriteFailure> {
        self.check_lease()?;
        let event = event_object(&occurrence.event, &self.pod_name);
        let name = &occurrence.event.name;
        let namespace = occurrence.event.service.namespace();
        let resource = Resource::of::<KubernetesEvent>(Some(namespace.to_owned()));
        let asked = ApiRequest {
            verb: "create",
            resource: &resource,
            subresource: None,
            verbs: &["create", "patch"],
        };
        let request = async {
            let api: Api<KubernetesEvent> = Api::namespaced(self.server.client().await?, namespace);
            let created = api.create(&PostParams::default(), &event).await;
            match created {
                // 409: the Event exists, because an earlier appearance of the finding created it.
                // Update its series.
                Err(kube::Error::Api(status)) if status.code == 409 && occurrence.count > 1 => {
                    let series = json!({ "series": {
                        "count": occurrence.count,
                        "lastObservedTime": event.event_time,
                    }});
                    let parameters = PatchParams::default();
                    api.patch(name, &parameters, &Patch::Merge(&series)).await?;
                    Ok(())
                }
                created => created.map(|_| ()),
            }
        };
        let result = answer(request).await;
        self.classify(result, "event", &asked, &[404, 409])
            .await
            .map(|_| ())
    }

    /// Converts the result of a request. Returns `None` if the API server refused the request with
    /// one of the codes in `tolerated`.
    async fn classify<T>(
        &mut self,
        result: Result<kube::Result<T>, String>,
        object: &'static str,
        asked: &ApiRequest<'_>,
        tolerated: &[u16],
    ) -> Result<Option<T>, WriteFailure> {
        let error = match result {
            Ok(Ok(answer)) => {
                self.server.metrics.wrote(object);
                return Ok(Some(answer));
            }
            Ok(Err(kube::Error::Api(status))) if tolerated.contains(&status.code) => {
                return Ok(None);
            }
            Ok(Err(error)) => error,
            Err(text) => {
                return Err(WriteFailure {
                    label: "silent".to_owned(),
                    text,
                    scope: FailureScope::Server,
                });
            }
        };
        self.server.failed(&error).await;
        let code = if let kube::Error::Api(status) = &error {
            Some(status.code)
        } else {
            None
        };
        Err(WriteFailure {
            label: client::label(&error),
            text: client::describe_error(&error, &self.server.url(), asked),
            scope: match code {
                None | Some(401 | 429) => FailureScope::Server,
                Some(500..) => FailureScope::Transient,
                Some(_) => FailureScope::Refused,
            },
        })
    }
}

/// The failure logs of the status writes, the Event writes and the watch of reports.
struct FailureLogs {
    status: FailureLog,
    events: FailureLog,
    reports: FailureLog,
}

/// The reason why a write failed.
struct WriteFailure {
    label: String,
    text: String,
    scope: FailureScope,
}

/// Reports from the API server's answer to a write whether the API server stores `ipMode`. Returns
/// `None` if the answer has no ingress.
fn ip_mode_of(answer: &Service) -> Option<IpMode> {
    let ingress = answer
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref())
        .and_then(|load_balancer| load_balancer.ingress.as_ref())
        .filter(|ingress| !ingress.is_empty())?;
    if ingress.iter().all(|entry| entry.ip_mode.is_none()) {
        Some(IpMode::Dropped)
    } else {
        Some(IpMode::Kept)
    }
}

/// Converts an event of the watch of Leases to an event of reports.
fn report_event(event: WatchEvent<Lease>) -> ReportEvent {
    match event {
        WatchEvent::ListStarted => ReportEvent::ListStarted,
        WatchEvent::Put(lease) => ReportEvent::Put(report_lease(lease)),
        WatchEvent::Deleted(lease) => ReportEvent::Deleted(lease.metadata.name.unwrap_or_default()),
        WatchEvent::Listed => ReportEvent::Listed,
        WatchEvent::Failed(trouble) => ReportEvent::Failed(trouble),
        WatchEvent::Recovered => ReportEvent::Recovered,
    }
}

fn report_lease(lease: Lease) -> ReportLease {
    let spec = lease.spec.unwrap_or_default();
    let annotations = lease.metadata.annotations.unwrap_or_default();
    ReportLease {
        name: lease.metadata.name.unwrap_or_default(),
        announced: annotations
            .get(ANNOUNCED_ANNOTATION)
            .cloned()
            .unwrap_or_default(),
        renewed: spec.renew_time.map(|time| time.0),
        duration_seconds: spec.lease_duration_seconds,
    }
}

/// Returns the Kubernetes object of an Event, with the current time.
fn event_object(event: &ServiceEvent, instance: &str) -> KubernetesEvent {
    let service = &event.service;
    KubernetesEvent {
        metadata: ObjectMeta {
            name: Some(event.name.clone()),
            namespace: Some(service.namespace().to_owned()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(Timestamp::now())),
        action: Some("Serve".to_owned()),
        reason: Some(event.reason.to_owned()),
        note: Some(event.message.clone()),
        type_: Some(event.severity.as_str().to_owned()),
        regarding: Some(ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Service".to_owned()),
            name: Some(service.name().to_owned()),
            namespace: Some(service.namespace().to_owned()),
            uid: Some(event.uid.clone()),
            ..ObjectReference::default()
        }),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(instance.to_owned()),
        ..KubernetesEvent::default()
    }
}

/// Returns a random number from 0 to 1 that selects a delay from a range.
fn jitter() -> f64 {
    rand::random_range(0.0..=1.0)
}

fn is_leading(leads_until: Option<Instant>, now: Instant) -> bool {
    leads_until.is_some_and(|until| now < until)
}

async fn answer<T>(
    request: impl Future<Output = kube::Result<T>>,
) -> Result<kube::Result<T>, String> {
    tokio::time::timeout(ANSWER_TIMEOUT, request)
        .await
        .map_err(|_| silent_for(ANSWER_TIMEOUT))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn the_answer_to_a_write_shows_whether_the_api_server_keeps_ip_mode() {
        let answer = |ingress: Value| {
            let status = json!({ "status": { "loadBalancer": { "ingress": ingress } } });
            ip_mode_of(&serde_json::from_value(status).unwrap())
        };
        assert_eq!(answer(json!([])), None);
        assert_eq!(
            answer(json!([{ "ip": "10.1.1.10" }])),
            Some(IpMode::Dropped)
        );
        let kept = json!([{ "ip": "10.1.1.10", "ipMode": "Proxy" }]);
        assert_eq!(answer(kept), Some(IpMode::Kept));
    }

    #[test]
    fn a_lease_is_converted_to_a_report() {
        let lease = serde_json::from_value(json!({
            "metadata": { "name": "a", "annotations": { "portlb.io/announced": "10.1.1.10/32" } },
            "spec": { "leaseDurationSeconds": 15, "renewTime": "2026-01-01T00:00:09.000000Z" },
        }));
        let report = report_lease(lease.unwrap());
        assert_eq!(
            report,
            ReportLease {
                name: "a".to_owned(),
                announced: "10.1.1.10/32".to_owned(),
                renewed: Some("2026-01-01T00:00:09Z".parse().unwrap()),
                duration_seconds: Some(15),
            }
        );
    }
}
