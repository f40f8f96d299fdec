//! Writes the status of Services, and Events, while this pod leads.
//!
//! ```text
//!  catalog ──► views ──────┐
//!                          ├──► what is due ──► one request at a time ──► API server
//!  reports of all pods ────┘
//! ```
//!
//! Nothing waits for this task: views that change faster than they are written are skipped.

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
    client::{self, Origin},
    grant::{Asked, Resource},
    metrics::RequestMetrics,
    watch::{Follow, WatchEvent},
};
use serde_json::json;
use service_catalog::model::ObjectKey;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{
    api_server::{ApiServer, Problems, silent_for},
    reporter::report_name,
    warn_of_duration,
};
use crate::{
    Views,
    events::Event,
    leadership::{FailureScope, Job, Leadership, Occurrence, ReportEvent},
    reports::{ANNOUNCED_ANNOTATION, REPORT_LABEL, ReportLease},
    status::{self, IpMode, Write},
};

/// Name of this program in Events.
const CONTROLLER: &str = "portlb.io/pod-watcher";

/// Least time until the same is written again, if something else does not let it stand.
const SAME_AGAIN: Duration = Duration::from_secs(30);

/// Longest wait for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest time to write what follows from the end of this pod.
pub(crate) const END_TIMEOUT: Duration = Duration::from_secs(5);

/// Services that are looked at in one go, if there is nothing to write about them.
const MOST_EVALUATED: usize = 256;

/// The task that writes.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) server: ApiServer,
    pub(crate) request_metrics: RequestMetrics,
    pub(crate) origin: Origin,
    pub(crate) views: Views,
    /// Until when this pod leads, if it does.
    pub(crate) leads: watch::Receiver<Option<Instant>>,
    /// When this pod's own report was written last, unless it is taken back.
    pub(crate) reported: watch::Receiver<Option<Instant>>,
    pub(crate) lease_name: String,
    pub(crate) namespace: String,
    pub(crate) pod_name: String,
    pub(crate) watch_timeout: Duration,
}

impl Writer {
    /// Until this pod's report is taken back, and what follows from that is written or left to
    /// another pod.
    pub(crate) async fn run(mut self, taken_back: CancellationToken) {
        let too_late = async {
            taken_back.cancelled().await;
            tokio::time::sleep(END_TIMEOUT).await;
        };
        tokio::select! {
            () = self.run_elected(&taken_back) => {}
            () = too_late => tracing::info!("the rest of the status is not written"),
        }
    }

    async fn run_elected(&mut self, taken_back: &CancellationToken) {
        loop {
            let mut leads = self.leads.clone();
            tokio::select! {
                Ok(_) = leads.wait_for(|leads| is_held(*leads, Instant::now())) => {}
                () = self.left_to_another(taken_back) => return,
            }
            let is_done = tokio::select! {
                is_done = self.lead(taken_back) => is_done,
                _ = leads.wait_for(Option::is_none) => false,
            };
            self.server.metrics.announcers.set(0);
            if is_done {
                return;
            }
        }
    }

    /// At the end of a pod that does not lead, unless no other one is left: then it is to lead.
    /// Each takes its report back first, so that the last of those that end together sees none.
    async fn left_to_another(&mut self, taken_back: &CancellationToken) {
        taken_back.cancelled().await;
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

    /// Whether what follows from the end of this pod is written, or left to another one.
    async fn lead(&mut self, taken_back: &CancellationToken) -> bool {
        let (sender, mut events) = mpsc::channel(256);
        let follow = Follow {
            origin: self.origin.clone(),
            resource: Resource::of::<Lease>(Some(self.namespace.clone())),
            label_selector: Some(format!("{REPORT_LABEL}={}", self.lease_name)),
            page_size: 100,
            watch_timeout: self.watch_timeout,
            metrics: self.request_metrics.clone(),
        };
        tokio::select! {
            () = follow.run::<Lease, _>(sender, report_event) => false,
            is_done = self.write(&mut events, taken_back) => is_done,
        }
    }

    /// Until the Lease is not held any more, or nothing more is to be written at the end.
    async fn write(
        &mut self,
        events: &mut mpsc::Receiver<ReportEvent>,
        taken_back: &CancellationToken,
    ) -> bool {
        let mut leadership = Leadership::new(report_name(&self.lease_name, &self.pod_name));
        let views = match self.views.subscribe() {
            Ok(views) => views,
            Err(error) => {
                tracing::error!(%error, "cannot follow the Services");
                return false;
            }
        };
        let mut views = std::pin::pin!(views.into_stream());
        let mut problems = WriteProblems {
            status: Problems::new("service-status"),
            events: Problems::new("event"),
            reports: Problems::new("reports"),
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
                        tracing::warn!(%error, "Services were not followed; all are looked at again");
                        return false;
                    }
                },
                Some(first) = events.recv() => {
                    self.on_report(&mut leadership, first, &mut problems.reports);
                    self.count(&mut leadership, events, &mut problems.reports);
                }
                () = wait_until(next_count) => self.count(&mut leadership, events, &mut problems.reports),
                () = wait_until(due) => {
                    if !self.write_next(&mut leadership, &mut problems).await {
                        return false;
                    }
                }
                () = taken_back.cancelled(), if !leadership.is_ending() => {
                    leadership.end();
                    self.count(&mut leadership, events, &mut problems.reports);
                }
            }
        }
        true
    }

    fn on_report(&self, leadership: &mut Leadership, event: ReportEvent, problems: &mut Problems) {
        if let ReportEvent::Trouble(text) = &event {
            problems.note(&self.server.metrics, "watch", || text.clone());
        } else if matches!(event, ReportEvent::Recovered) {
            problems.solved();
        }
        if let Some((lease, believed)) = leadership.on_report(event, Instant::now()) {
            warn_of_duration(&lease, believed);
        }
    }

    /// What has been told already counts.
    fn count(
        &self,
        leadership: &mut Leadership,
        events: &mut mpsc::Receiver<ReportEvent>,
        problems: &mut Problems,
    ) {
        while let Ok(event) = events.try_recv() {
            self.on_report(leadership, event, problems);
        }
        leadership.count(*self.reported.borrow(), Instant::now());
        let pods = i64::try_from(leadership.tally.pods).unwrap_or(i64::MAX);
        self.server.metrics.announcers.set(pods);
    }

    /// One request, or a few for one Service. Whether the Lease is held.
    async fn write_next(
        &mut self,
        leadership: &mut Leadership,
        problems: &mut WriteProblems,
    ) -> bool {
        for _ in 0..MOST_EVALUATED {
            let Some(job) = leadership.take(Instant::now()) else {
                return true;
            };
            match job {
                Job::Status(key) => match self.write_status(leadership, &key).await {
                    Ok(false) => leadership.wrote_status(&key, false, Instant::now()),
                    Ok(true) => {
                        leadership.wrote_status(&key, true, Instant::now());
                        if !leadership.is_any_failing() {
                            problems.status.solved();
                        }
                        return true;
                    }
                    Err(failure) if failure.scope == FailureScope::Leadership => return false,
                    Err(failure) => {
                        let metrics = &self.server.metrics;
                        problems
                            .status
                            .note(metrics, &failure.label, || failure.text);
                        leadership.failed_status(key, failure.scope, Instant::now(), jitter());
                        return true;
                    }
                },
                Job::Event(occurrence) => {
                    match self.write_event(&occurrence).await {
                        Ok(()) => {
                            problems.events.solved();
                            leadership.wrote_event(Instant::now());
                        }
                        Err(failure) if failure.scope == FailureScope::Leadership => return false,
                        Err(failure) => {
                            let metrics = &self.server.metrics;
                            problems
                                .events
                                .note(metrics, &failure.label, || failure.text);
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

    /// Whether a request was sent.
    async fn write_status(
        &mut self,
        leadership: &mut Leadership,
        key: &ObjectKey,
    ) -> Result<bool, Failure> {
        if let Some(view) = leadership.left.get(key) {
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
            &leadership.tally,
            leadership.ip_mode,
            Timestamp::now(),
        ) {
            let known = leadership.services.get(key);
            if let Some((fingerprint, at)) = known.and_then(|its| its.written.get(write.manager))
                && *fingerprint == write.fingerprint
                && now < *at + SAME_AGAIN
            {
                let again = *at + SAME_AGAIN;
                leadership.later.insert(key.clone(), again);
                continue;
            }
            is_sent = true;
            let answer = self.write_part(key, &write).await?;
            let ip_mode = answer.as_ref().and_then(ip_mode_of);
            if ip_mode == Some(IpMode::Dropped) && leadership.ip_mode == IpMode::Kept {
                tracing::warn!(
                    "the API server does not keep ipMode, which it knows from Kubernetes 1.29 on: \
                     kube-proxy takes traffic of the cluster's own pods to service addresses itself"
                );
                leadership.ip_mode = IpMode::Dropped;
            }
            if let Some(known) = leadership.services.get_mut(key) {
                let written = (write.fingerprint, now);
                known.written.insert(write.manager, written);
            }
            if let Some(change) = &write.change {
                let event = Event::of_change(key, &view, change);
                leadership.queue_events([Occurrence { event, count: 1 }]);
            }
        }
        Ok(is_sent)
    }

    /// What stands then; `None`: the Service is gone.
    async fn write_part(
        &mut self,
        key: &ObjectKey,
        write: &Write,
    ) -> Result<Option<Service>, Failure> {
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
        let asked = Asked {
            verb: "patch",
            resource: &resource,
            subresource: Some("status"),
            verbs: &["patch"],
        };
        // 404: it is gone. 409: another one has its name.
        self.classify(result, "service-status", &asked, &[404, 409])
            .await
    }

    /// A request that is sent after the end of the Lease might undo what the next holder wrote.
    fn check_lease(&self) -> Result<(), Failure> {
        if is_held(*self.leads.borrow(), Instant::now()) {
            return Ok(());
        }
        Err(Failure {
            label: "lease".to_owned(),
            text: "the Lease is not held any more".to_owned(),
            scope: FailureScope::Leadership,
        })
    }

    async fn write_event(&mut self, occurrence: &Occurrence) -> Result<(), Failure> {
        self.check_lease()?;
        let event = event_object(&occurrence.event, &self.pod_name);
        let name = &occurrence.event.name;
        let namespace = occurrence.event.service.namespace();
        let resource = Resource::of::<KubernetesEvent>(Some(namespace.to_owned()));
        let asked = Asked {
            verb: "create",
            resource: &resource,
            subresource: None,
            verbs: &["create", "patch"],
        };
        let request = async {
            let api: Api<KubernetesEvent> = Api::namespaced(self.server.client().await?, namespace);
            let created = api.create(&PostParams::default(), &event).await;
            match created {
                // The Event exists: written by a previous leader, or a repetition.
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

    /// `None`: it was one of the refusals that are fine.
    async fn classify<T>(
        &mut self,
        result: Result<kube::Result<T>, String>,
        object: &'static str,
        asked: &Asked<'_>,
        fine: &[u16],
    ) -> Result<Option<T>, Failure> {
        let error = match result {
            Ok(Ok(answer)) => {
                self.server.metrics.wrote(object);
                return Ok(Some(answer));
            }
            Ok(Err(kube::Error::Api(status))) if fine.contains(&status.code) => return Ok(None),
            Ok(Err(error)) => error,
            Err(text) => {
                return Err(Failure {
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
        Err(Failure {
            label: client::label(&error),
            text: client::in_words(&error, &self.server.url(), asked),
            scope: match code {
                None | Some(401 | 429) => FailureScope::Server,
                Some(500..) => FailureScope::Passing,
                Some(_) => FailureScope::Refused,
            },
        })
    }
}

/// What is wrong with what is written and heard.
struct WriteProblems {
    status: Problems,
    events: Problems,
    reports: Problems,
}

/// Why a write has failed.
struct Failure {
    label: String,
    text: String,
    scope: FailureScope,
}

/// What the API server's answer to a write shows; `None`: nothing, as there is no ingress.
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

/// Converts what the watch of reports says.
fn report_event(event: WatchEvent<Lease>) -> ReportEvent {
    match event {
        WatchEvent::Began => ReportEvent::Began,
        WatchEvent::Put(lease) => ReportEvent::Put(report_lease(lease)),
        WatchEvent::Deleted(lease) => ReportEvent::Deleted(lease.metadata.name.unwrap_or_default()),
        WatchEvent::Listed => ReportEvent::Listed,
        WatchEvent::Trouble(trouble) => ReportEvent::Trouble(trouble),
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

/// Returns the object of an Event that happens now.
fn event_object(event: &Event, instance: &str) -> KubernetesEvent {
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

/// Returns where in the spread of a delay the next one lies.
fn jitter() -> f64 {
    rand::random_range(0.0..=1.0)
}

fn is_held(leads_until: Option<Instant>, now: Instant) -> bool {
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
    fn the_answer_to_a_write_shows_whether_the_mode_is_kept() {
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
    fn a_lease_is_read_as_a_report() {
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
