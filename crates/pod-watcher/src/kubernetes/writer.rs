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
    collections::{BTreeMap, BTreeSet, VecDeque},
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use daemon_runtime::{Backoff, Event as Published, Shutdown};
use futures::StreamExt;
use k8s_openapi::{
    api::{coordination::v1::Lease, core::v1::Service, events::v1::Event},
    jiff::Timestamp,
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::sync::{mpsc, watch};

use super::{
    announced::{REPORT_LABEL, Reports, Tally},
    catalog::ServiceView,
    client::{self, Asked, Origin},
    finding::Finding,
    grant::Resource,
    model::ObjectKey,
    source::Views,
    status::{self, Write},
    watch::{Follow, News},
    writes::{ApiServer, Problems},
};

/// Least time from one write to the next.
const PACE: Duration = Duration::from_millis(20);

/// Least time until the same is written again, if something else does not let it stand.
const SAME_AGAIN: Duration = Duration::from_secs(30);

/// Longest wait for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Events that wait to be written; beyond that the oldest are dropped.
const EVENTS: usize = 1_000;

/// Findings of one Service that are remembered, so that one that comes back is counted.
const MOST_TOLD: usize = 16;

/// First and longest wait after a failure.
const FIRST_DELAY: Duration = Duration::from_millis(500);
const LONGEST_DELAY: Duration = Duration::from_secs(30);

/// The task that writes.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) server: ApiServer,
    pub(crate) origin: Origin,
    pub(crate) views: Views,
    pub(crate) leads: watch::Receiver<bool>,
    pub(crate) lease_name: String,
    pub(crate) namespace: String,
    pub(crate) pod_name: String,
    pub(crate) watch_timeout: Duration,
}

/// What is known while this pod leads.
#[derive(Default)]
struct Term {
    services: BTreeMap<ObjectKey, Known>,
    /// Services that are ours no longer, with what stands in their status.
    left: BTreeMap<ObjectKey, Arc<ServiceView>>,
    due: BTreeSet<ObjectKey>,
    /// Not before then.
    later: BTreeMap<ObjectKey, Instant>,
    events: VecDeque<Occurrence>,
    reports: Reports,
    tally: Tally,
    has_views: bool,
    has_reports: bool,
}

struct Known {
    view: Arc<ServiceView>,
    told: BTreeMap<Finding, Told>,
    /// What was written last by each owner of fields.
    written: BTreeMap<&'static str, (u64, Instant)>,
}

/// What has been told of a finding.
#[derive(Default)]
struct Told {
    is_present: bool,
    /// How often it has begun.
    count: u32,
}

/// An Event, and how often it has happened.
struct Occurrence {
    event: Box<Event>,
    count: u32,
}

impl Writer {
    /// For as long as the process lives.
    pub(crate) async fn run(mut self, shutdown: Shutdown) -> Result<(), Infallible> {
        loop {
            let term = async {
                if self.leads.wait_for(|leads| *leads).await.is_err() {
                    std::future::pending::<()>().await;
                }
                let mut leads = self.leads.clone();
                tokio::select! {
                    () = self.lead() => {}
                    _ = leads.wait_for(|leads| !*leads) => {}
                }
            };
            tokio::select! {
                () = term => {}
                () = shutdown.drain_requested() => return Ok(()),
            }
            self.server.metrics.announcers.set(0);
        }
    }

    async fn lead(&mut self) {
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
            () = follow.run::<Lease, _>(told, |news| news) => {}
            () = self.write(&mut news) => {}
        }
    }

    async fn write(&mut self, news: &mut mpsc::Receiver<News<Lease>>) {
        let mut term = Term::default();
        let mut views = std::pin::pin!(self.views.subscribe().into_stream());
        let mut problems = Problems::new("service-status");
        let mut report_problems = Problems::new("reports");
        let mut backoff = Backoff::new(FIRST_DELAY, LONGEST_DELAY);
        let mut next_write = Instant::now();
        loop {
            let next_report_end = term.reports.next_end(Instant::now());
            let due = term.next_due(Instant::now()).map(|due| due.max(next_write));
            tokio::select! {
                Some((_, event)) = views.next() => term.viewed(event),
                Some(news) = news.recv() => {
                    if let News::Trouble(text) = &news {
                        report_problems.note(&self.server.metrics, "watch", || text.clone());
                    } else if matches!(news, News::Recovered) {
                        report_problems.solved();
                    }
                    term.reported(news);
                    self.count(&mut term);
                }
                () = until(next_report_end) => self.count(&mut term),
                () = until(due) => {
                    let delay = match self.write_next(&mut term).await {
                        Ok(()) => {
                            problems.solved();
                            backoff.reset();
                            PACE
                        }
                        Err(failure) => {
                            problems.note(&self.server.metrics, &failure.label, || failure.text);
                            backoff.next_delay()
                        }
                    };
                    next_write = Instant::now() + delay;
                }
            }
        }
    }

    fn count(&self, term: &mut Term) {
        term.count();
        let pods = i64::try_from(term.tally.pods).unwrap_or(i64::MAX);
        self.server.metrics.announcers.set(pods);
    }

    /// One request, or a few for one Service.
    async fn write_next(&mut self, term: &mut Term) -> Result<(), Failure> {
        if let Some(occurrence) = term.events.pop_front() {
            let result = self.write_event(&occurrence).await;
            if result.as_ref().is_err_and(|failure| failure.is_passing) {
                term.events.push_front(occurrence);
            }
            return result;
        }
        let now = Instant::now();
        let Some(key) = term.take_due(now) else {
            return Ok(());
        };
        let result = match term.left.get(&key).cloned() {
            Some(view) => {
                let result = self.write_all(&key, status::farewell(&key, &view)).await;
                if result.is_ok() {
                    term.left.remove(&key);
                }
                result
            }
            None => self.write_service(term, &key, now).await,
        };
        if result.is_err() {
            term.due.insert(key);
        }
        result
    }

    async fn write_service(
        &mut self,
        term: &mut Term,
        key: &ObjectKey,
        now: Instant,
    ) -> Result<(), Failure> {
        let Some(known) = term.services.get_mut(key) else {
            return Ok(());
        };
        let view = Arc::clone(&known.view);
        let events = known.begun(key, &self.pod_name);
        term.events.extend(events);
        for write in status::writes(key, &view, &term.tally, Timestamp::now()) {
            if let Some((fingerprint, at)) = known.written.get(write.manager)
                && *fingerprint == write.fingerprint
                && now < *at + SAME_AGAIN
            {
                term.later.insert(key.clone(), *at + SAME_AGAIN);
                continue;
            }
            let (manager, fingerprint) = (write.manager, write.fingerprint);
            let news = write.news.clone();
            self.write_all(key, vec![write]).await?;
            known.written.insert(manager, (fingerprint, now));
            if let Some(news) = news {
                let event = status::news_event(key, &view, &news, &self.pod_name);
                term.events.push_back(Occurrence {
                    event: Box::new(event),
                    count: 1,
                });
            }
        }
        while term.events.len() > EVENTS {
            term.events.pop_front();
        }
        Ok(())
    }

    async fn write_all(&mut self, key: &ObjectKey, writes: Vec<Write>) -> Result<(), Failure> {
        for write in writes {
            let namespace = key.namespace();
            let request = async {
                let client = self.server.client().await?;
                let api: Api<Service> = Api::namespaced(client, namespace);
                let parameters = PatchParams::apply(write.manager).force();
                let patch = Patch::Apply(&write.document);
                api.patch_status(key.name(), &parameters, &patch).await?;
                Ok(())
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
                .await?;
        }
        Ok(())
    }

    async fn write_event(&mut self, occurrence: &Occurrence) -> Result<(), Failure> {
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
        self.judge(result, "event", &asked, &[404, 409]).await
    }

    async fn judge(
        &mut self,
        result: Result<kube::Result<()>, String>,
        object: &'static str,
        asked: &Asked<'_>,
        fine: &[u16],
    ) -> Result<(), Failure> {
        let error = match result {
            Ok(Ok(())) => {
                self.server.metrics.wrote(object);
                return Ok(());
            }
            Ok(Err(kube::Error::Api(status))) if fine.contains(&status.code) => return Ok(()),
            Ok(Err(error)) => error,
            Err(text) => {
                return Err(Failure {
                    label: "silent".to_owned(),
                    text,
                    is_passing: true,
                });
            }
        };
        self.server.failed(&error).await;
        let is_passing = if let kube::Error::Api(status) = &error {
            status.code == 401 || status.code == 429 || status.code >= 500
        } else {
            true
        };
        Err(Failure {
            label: client::label(&error),
            text: client::in_words(&error, &self.server.url(), asked),
            is_passing,
        })
    }
}

/// Why a write has failed.
struct Failure {
    label: String,
    text: String,
    /// The same request may succeed later.
    is_passing: bool,
}

async fn answer(
    request: impl Future<Output = kube::Result<()>>,
) -> Result<kube::Result<()>, String> {
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

impl Term {
    fn viewed(&mut self, event: Published<ObjectKey, Arc<ServiceView>>) {
        match event {
            Published::Changed(key, view) => {
                self.left.remove(&key);
                self.due.insert(key.clone());
                match self.services.get_mut(&key) {
                    Some(known) if known.view.uid == view.uid => known.view = view,
                    Some(_) | None => {
                        let known = Known {
                            view,
                            told: BTreeMap::new(),
                            written: BTreeMap::new(),
                        };
                        self.services.insert(key, known);
                    }
                }
            }
            Published::Removed(key) => {
                if let Some(known) = self.services.remove(&key) {
                    self.left.insert(key.clone(), known.view);
                    self.due.insert(key);
                }
            }
            Published::Synced => self.has_views = true,
        }
    }

    fn reported(&mut self, news: News<Lease>) {
        match news {
            News::Began => self.reports.restarted(),
            News::Put(lease) => self.reports.put(lease, Instant::now()),
            News::Deleted(lease) => self.reports.deleted(&lease),
            News::Listed => {
                self.reports.listed();
                self.has_reports = true;
            }
            News::Trouble(_) | News::Recovered => {}
        }
    }

    /// Everything may be due when what is announced changes.
    fn count(&mut self) {
        let tally = self.reports.tally(Instant::now());
        if tally != self.tally {
            self.tally = tally;
            self.due.extend(self.services.keys().cloned());
        }
    }

    /// When there is something to write. Nothing is, before it is known what is announced.
    fn next_due(&self, now: Instant) -> Option<Instant> {
        if !(self.has_views && self.has_reports) {
            return None;
        }
        if !self.events.is_empty() || !self.due.is_empty() {
            return Some(now);
        }
        self.later.values().min().copied()
    }

    fn take_due(&mut self, now: Instant) -> Option<ObjectKey> {
        if let Some(key) = self.due.pop_first() {
            self.later.remove(&key);
            return Some(key);
        }
        let key = self
            .later
            .iter()
            .find(|(_, time)| **time <= now)
            .map(|(key, _)| key.clone())?;
        self.later.remove(&key);
        Some(key)
    }
}

impl Known {
    /// Findings that have not been told, or that have come back.
    fn begun(&mut self, key: &ObjectKey, instance: &str) -> Vec<Occurrence> {
        let mut events = Vec::new();
        for finding in &self.view.findings {
            let told = self.told.entry(finding.clone()).or_default();
            if !told.is_present {
                told.is_present = true;
                told.count += 1;
                let event = status::finding_event(key, &self.view, finding, instance);
                events.push(Occurrence {
                    event: Box::new(event),
                    count: told.count,
                });
            }
        }
        let findings = &self.view.findings;
        let forgets = self.told.len() > MOST_TOLD;
        self.told.retain(|finding, told| {
            told.is_present = findings.contains(finding);
            told.is_present || !forgets
        });
        events
    }
}
