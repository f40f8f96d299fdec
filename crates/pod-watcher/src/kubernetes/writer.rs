//! Writes the status of Services, and Events, while this pod leads.
//!
//! ```text
//!  catalog ──► views ──────┐
//!                          ├──► what is due ──► one request at a time ──► API server
//!  reports of all pods ────┘
//! ```
//!
//! Nothing waits for this task: views that change faster than they are written are skipped.

mod term;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::StreamExt;
use k8s_openapi::{
    api::{coordination::v1::Lease, core::v1::Service, events::v1::Event},
    jiff::Timestamp,
};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::term::{Extent, Job, Occurrence, Term};
use super::{
    announced::{REPORT_LABEL, report_name},
    client::{self, Asked, Origin},
    grant::Resource,
    source::Views,
    status::{self, IpMode, Write},
    watch::{Follow, News},
    writes::{ApiServer, Problems},
};
use service_catalog::model::ObjectKey;

/// Least time from one write to the next.
const PACE: Duration = Duration::from_millis(20);

/// Least time until the same is written again, if something else does not let it stand.
const SAME_AGAIN: Duration = Duration::from_secs(30);

/// Longest wait for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest time to write what follows from the end of this pod.
pub(crate) const END_TIMEOUT: Duration = Duration::from_secs(5);

/// Services that are looked at in one go, if there is nothing to write about them.
const MOST_LOOKS: usize = 256;

/// First and longest wait after a failure.
const FIRST_DELAY: Duration = Duration::from_millis(500);
const LONGEST_DELAY: Duration = Duration::from_secs(30);

/// The task that writes.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) server: ApiServer,
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
            () = self.terms(&taken_back) => {}
            () = too_late => tracing::info!("the rest of the status is not written"),
        }
    }

    async fn terms(&mut self, taken_back: &CancellationToken) {
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
        let (told, mut news) = mpsc::channel(256);
        let follow = Follow {
            origin: self.origin.clone(),
            resource: Resource::of::<Lease>(Some(self.namespace.clone())),
            label_selector: Some(format!("{REPORT_LABEL}={}", self.lease_name)),
            page_size: 100,
            watch_timeout: self.watch_timeout,
            metrics: self.server.metrics.clone(),
        };
        tokio::select! {
            () = follow.run::<Lease, _>(told, |news| news) => false,
            is_done = self.write(&mut news, taken_back) => is_done,
        }
    }

    /// Until the Lease is not held any more, or nothing more is to be written at the end.
    async fn write(
        &mut self,
        news: &mut mpsc::Receiver<News<Lease>>,
        taken_back: &CancellationToken,
    ) -> bool {
        let mut term = Term::new(report_name(&self.lease_name, &self.pod_name));
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
        while !term.is_done() {
            let now = Instant::now();
            let next_count = term.next_count(*self.reported.borrow(), now);
            let due = term.next_due(now);
            tokio::select! {
                Some(next) = views.next() => match next {
                    Ok((_, event)) => term.viewed(event, Instant::now()),
                    Err(error) => {
                        tracing::warn!(%error, "Services were not followed; all are looked at again");
                        return false;
                    }
                },
                Some(first) = news.recv() => {
                    self.hear(&mut term, first, &mut problems.reports);
                    self.count(&mut term, news, &mut problems.reports);
                }
                () = until(next_count) => self.count(&mut term, news, &mut problems.reports),
                () = until(due) => {
                    if !self.write_next(&mut term, &mut problems).await {
                        return false;
                    }
                }
                () = taken_back.cancelled(), if !term.is_ending() => {
                    term.end();
                    self.count(&mut term, news, &mut problems.reports);
                }
            }
        }
        true
    }

    fn hear(&self, term: &mut Term, news: News<Lease>, problems: &mut Problems) {
        if let News::Trouble(text) = &news {
            problems.note(&self.server.metrics, "watch", || text.clone());
        } else if matches!(news, News::Recovered) {
            problems.solved();
        }
        term.reported(news, Instant::now());
    }

    /// What has been told already counts.
    fn count(
        &self,
        term: &mut Term,
        news: &mut mpsc::Receiver<News<Lease>>,
        problems: &mut Problems,
    ) {
        while let Ok(news) = news.try_recv() {
            self.hear(term, news, problems);
        }
        term.count(*self.reported.borrow(), Instant::now());
        let pods = i64::try_from(term.tally.pods).unwrap_or(i64::MAX);
        self.server.metrics.announcers.set(pods);
    }

    /// One request, or a few for one Service. Whether the Lease is held.
    async fn write_next(&mut self, term: &mut Term, problems: &mut WriteProblems) -> bool {
        for _ in 0..MOST_LOOKS {
            let Some(job) = term.take(Instant::now()) else {
                return true;
            };
            match job {
                Job::Status(key) => match self.write_status(term, &key).await {
                    Ok(false) => term.wrote_status(&key, false, Instant::now()),
                    Ok(true) => {
                        term.wrote_status(&key, true, Instant::now());
                        if !term.is_any_failing() {
                            problems.status.solved();
                        }
                        return true;
                    }
                    Err(failure) if failure.extent == Extent::Term => return false,
                    Err(failure) => {
                        let metrics = &self.server.metrics;
                        problems
                            .status
                            .note(metrics, &failure.label, || failure.text);
                        term.failed_status(key, failure.extent, Instant::now());
                        return true;
                    }
                },
                Job::Event(occurrence) => {
                    match self.write_event(&occurrence).await {
                        Ok(()) => {
                            problems.events.solved();
                            term.wrote_event(Instant::now());
                        }
                        Err(failure) if failure.extent == Extent::Term => return false,
                        Err(failure) => {
                            let metrics = &self.server.metrics;
                            problems
                                .events
                                .note(metrics, &failure.label, || failure.text);
                            term.failed_event(occurrence, failure.extent, Instant::now());
                        }
                    }
                    return true;
                }
            }
        }
        true
    }

    /// Whether a request was sent.
    async fn write_status(&mut self, term: &mut Term, key: &ObjectKey) -> Result<bool, Failure> {
        if let Some(view) = term.left.get(key) {
            let writes = status::farewell(key, view);
            let is_sent = !writes.is_empty();
            for write in writes {
                self.write_part(key, &write).await?;
            }
            return Ok(is_sent);
        }
        let Some(known) = term.services.get_mut(key) else {
            return Ok(false);
        };
        let now = Instant::now();
        let view = Arc::clone(&known.view);
        let events = known.begun(key, &self.pod_name);
        term.tell(events);
        let mut is_sent = false;
        for write in status::writes(key, &view, &term.tally, term.ip_mode, Timestamp::now()) {
            let known = term.services.get(key);
            if let Some((fingerprint, at)) = known.and_then(|its| its.written.get(write.manager))
                && *fingerprint == write.fingerprint
                && now < *at + SAME_AGAIN
            {
                let again = *at + SAME_AGAIN;
                term.later.insert(key.clone(), again);
                continue;
            }
            is_sent = true;
            let answer = self.write_part(key, &write).await?;
            let ip_mode = answer.as_ref().and_then(status::ip_mode_of);
            if ip_mode == Some(IpMode::Dropped) && term.ip_mode == IpMode::Kept {
                tracing::warn!(
                    "the API server does not keep ipMode, which it knows from Kubernetes 1.29 on: \
                     kube-proxy takes traffic of the cluster's own pods to service addresses itself"
                );
                term.ip_mode = IpMode::Dropped;
            }
            if let Some(known) = term.services.get_mut(key) {
                let written = (write.fingerprint, now);
                known.written.insert(write.manager, written);
            }
            if let Some(news) = &write.news {
                let event = status::news_event(key, &view, news, &self.pod_name);
                term.tell([Occurrence {
                    event: Box::new(event),
                    count: 1,
                }]);
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
        self.judge(result, "service-status", &asked, &[404, 409])
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
            extent: Extent::Term,
        })
    }

    async fn write_event(&mut self, occurrence: &Occurrence) -> Result<(), Failure> {
        self.check_lease()?;
        let event = &occurrence.event;
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let name = event.metadata.name.clone().unwrap_or_default();
        let resource = Resource::of::<Event>(Some(namespace.clone()));
        let asked = Asked {
            verb: "create",
            resource: &resource,
            subresource: None,
            verbs: &["create", "patch"],
        };
        let request = async {
            let api: Api<Event> = Api::namespaced(self.server.client().await?, &namespace);
            let created = api.create(&PostParams::default(), event).await;
            match created {
                // It is there: of who led before, or it has happened before.
                Err(kube::Error::Api(status)) if status.code == 409 && occurrence.count > 1 => {
                    let series = json!({ "series": {
                        "count": occurrence.count,
                        "lastObservedTime": event.event_time,
                    }});
                    let parameters = PatchParams::default();
                    api.patch(&name, &parameters, &Patch::Merge(&series))
                        .await?;
                    Ok(())
                }
                created => created.map(|_| ()),
            }
        };
        let result = answer(request).await;
        self.judge(result, "event", &asked, &[404, 409])
            .await
            .map(|_| ())
    }

    /// `None`: it was one of the refusals that are fine.
    async fn judge<T>(
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
                    extent: Extent::Server,
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
            extent: match code {
                None | Some(401 | 429) => Extent::Server,
                Some(500..) => Extent::Passing,
                Some(_) => Extent::Refused,
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
    extent: Extent,
}

fn is_held(leads_until: Option<Instant>, now: Instant) -> bool {
    leads_until.is_some_and(|until| now < until)
}

async fn answer<T>(
    request: impl Future<Output = kube::Result<T>>,
) -> Result<kube::Result<T>, String> {
    tokio::time::timeout(ANSWER_TIMEOUT, request)
        .await
        .map_err(|_| {
            let seconds = ANSWER_TIMEOUT.as_secs();
            format!("the API server has not answered for {seconds} s")
        })
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}
