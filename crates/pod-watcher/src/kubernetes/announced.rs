//! What is announced: by this pod, as its announcer says, and by all pods, as their reports say.
//!
//! Each pod keeps a Lease with what it announces in an annotation. A report that is not renewed
//! runs out, and so does one whose pod is gone. Time is that of the local clock: a report lives for
//! its duration from when its last change was seen.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    net::IpAddr,
    time::{Duration, Instant},
};

use daemon_api::{
    MESSAGE_LIMIT,
    announcer::v1::{
        AnnouncementState, WatchAnnouncementsRequest, announcer_client::AnnouncerClient,
        watch_announcements_response::Event,
    },
};
use daemon_runtime::{Backoff, Shutdown, Target};
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference},
    jiff::Timestamp,
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use virtual_server::IpNet;

use super::{
    client::{self, Asked},
    grant::Resource,
    lease_duration,
    writes::{ApiServer, Problems},
};

/// What a pod announces, with commas between the prefixes.
const ANNOUNCED_ANNOTATION: &str = "portlb.io/announced";

/// Tells the reports of one load balancer from those of others: the name of its Lease.
pub(crate) const REPORT_LABEL: &str = "portlb.io/lease";

/// Who owns the fields of a report.
const FIELD_MANAGER: &str = "portlb-report";

/// A report that has not been renewed for this long does not count.
pub(crate) const REPORT_DURATION: Duration = Duration::from_secs(15);

/// From one renewal to the next.
const RENEW_PERIOD: Duration = Duration::from_secs(5);

/// Changes within this time are one report.
const SETTLE: Duration = Duration::from_millis(200);

/// How long an announcer may be away before what it announced does not count: it may only be
/// restarting, with its routes kept by graceful restart.
const ANNOUNCER_GRACE: Duration = Duration::from_secs(5);

/// First pause before the announcer is asked again.
const FIRST_RETRY: Duration = Duration::from_millis(20);

/// Longest report; an object's annotations together may have 256 KiB.
const LONGEST_REPORT: usize = 250_000;

/// Longest wait for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest wait until the report is taken back.
pub(crate) const END_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the first report waits for the announcer; shorter than the rest of the life of a
/// report that this pod wrote before its restart.
const FIRST_GRACE: Duration = Duration::from_secs(8);

/// Prefixes that one pod announces.
pub(crate) type Announced = BTreeSet<IpNet>;

/// Follows the announcer of this pod.
#[derive(Debug)]
pub(crate) struct Announcements {
    pub(crate) announcer: Target,
    /// `None` until the announcer has said all.
    pub(crate) announced: watch::Sender<Option<Announced>>,
}

impl Announcements {
    /// For as long as the process lives.
    pub(crate) async fn run(self, shutdown: Shutdown) -> Result<(), Infallible> {
        tokio::select! {
            () = self.follow() => {}
            () = shutdown.stopping() => {}
        }
        Ok(())
    }

    async fn follow(&self) {
        let mut backoff = Backoff::within_grace(FIRST_RETRY, ANNOUNCER_GRACE);
        let mut is_told = false;
        loop {
            let ended = self.watch(&mut backoff, &mut is_told).await;
            let grace = tokio::time::Instant::now() + ANNOUNCER_GRACE;
            if !is_told {
                is_told = true;
                let error =
                    ended.map_or_else(|| "its stream has ended".to_owned(), |e| e.to_string());
                tracing::warn!(
                    announcer = %self.announcer,
                    error,
                    "the announcer cannot be heard; what it announces will not count"
                );
            }
            // Attempts go on while the grace lasts.
            let again = async {
                loop {
                    backoff.wait().await;
                    if self.is_there().await {
                        return;
                    }
                }
            };
            let mut again = std::pin::pin!(again);
            if tokio::time::timeout_at(grace, &mut again).await.is_err() {
                self.announced.send_if_modified(|announced| {
                    let announced = announced.as_mut().filter(|all| !all.is_empty());
                    announced.map(BTreeSet::clear).is_some()
                });
                again.await;
            }
        }
    }

    async fn is_there(&self) -> bool {
        let mut client =
            AnnouncerClient::new(self.announcer.channel()).max_decoding_message_size(MESSAGE_LIMIT);
        let request = WatchAnnouncementsRequest {};
        client.watch_announcements(request).await.is_ok()
    }

    /// Until the stream ends.
    async fn watch(&self, backoff: &mut Backoff, is_told: &mut bool) -> Option<tonic::Status> {
        let mut client =
            AnnouncerClient::new(self.announcer.channel()).max_decoding_message_size(MESSAGE_LIMIT);
        let mut stream = match client
            .watch_announcements(WatchAnnouncementsRequest {})
            .await
        {
            Ok(response) => response.into_inner(),
            Err(status) => return Some(status),
        };
        let mut announced = Announced::new();
        let mut is_synced = false;
        loop {
            let event = match stream.message().await {
                Ok(Some(message)) => message.event,
                Ok(None) => return None,
                Err(status) => return Some(status),
            };
            match event {
                Some(Event::Announcement(announcement)) => {
                    let Ok(prefix) = announcement.prefix.parse::<IpNet>() else {
                        continue;
                    };
                    if is_announced(announcement.state(), &announcement.announced_to) {
                        announced.insert(prefix);
                    } else {
                        announced.remove(&prefix);
                    }
                }
                Some(Event::RemovedAnnouncement(prefix)) => {
                    if let Ok(prefix) = prefix.parse::<IpNet>() {
                        announced.remove(&prefix);
                    }
                }
                Some(Event::Synced(_)) => {
                    if !is_synced {
                        tracing::info!(announcer = %self.announcer, "the announcer is heard");
                    }
                    is_synced = true;
                    *is_told = false;
                    backoff.reset();
                }
                None => {}
            }
            if is_synced {
                self.announced.send_if_modified(|before| {
                    let changed = before.as_ref() != Some(&announced);
                    if changed {
                        *before = Some(announced.clone());
                    }
                    changed
                });
            }
        }
    }
}

/// Whether a peer holds the announcement. One that drains or is least preferred still leads here.
fn is_announced(state: AnnouncementState, announced_to: &[String]) -> bool {
    match state {
        AnnouncementState::Announced
        | AnnouncementState::LeastPreferred
        | AnnouncementState::Draining => !announced_to.is_empty(),
        AnnouncementState::Unspecified
        | AnnouncementState::NotServing
        | AnnouncementState::Refused
        | AnnouncementState::WaitingForNodeRoute
        | AnnouncementState::WaitingForSession
        | AnnouncementState::Drained => false,
    }
}

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
    pub(crate) standing: Standing,
}

/// What is known of the report that stands.
#[derive(Debug, Default)]
pub(crate) struct Standing {
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
        let stands = self.standing.text.take().is_some_and(|its| its == text);
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
                    self.standing.text = Some(text);
                }
                self.reported.send_replace(Some(asked));
                problems.solved();
                return true;
            }
            Ok(Err(error)) => error,
            Err(_) => {
                problems.note(&self.server.metrics, "silent", || {
                    format!(
                        "the API server has not answered for {} s",
                        ANSWER_TIMEOUT.as_secs()
                    )
                });
                return false;
            }
        };
        self.server.failed(&error).await;
        let asked = Asked {
            verb: "patch",
            resource: &Resource::of::<Lease>(Some(self.namespace.clone())),
            subresource: None,
            verbs: &["get", "list", "watch", "create", "update", "patch"],
        };
        let url = self.server.url();
        problems.note(&self.server.metrics, &client::label(&error), || {
            client::in_words(&error, &url, &asked)
        });
        false
    }

    fn text(&mut self, announced: &Announced) -> String {
        let (text, left_out) = written(announced);
        if left_out > 0 && !self.standing.is_size_told {
            tracing::warn!(
                prefixes = announced.len(),
                left_out,
                "more is announced than a report can hold; the status of the others is not written"
            );
        }
        self.standing.is_size_told = left_out > 0;
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

/// The annotation, and how many prefixes it cannot hold.
fn written(announced: &Announced) -> (String, usize) {
    let mut text = String::new();
    for (count, prefix) in announced.iter().enumerate() {
        let prefix = prefix.to_string();
        if text.len() + prefix.len() >= LONGEST_REPORT {
            return (text, announced.len() - count);
        }
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(&prefix);
    }
    (text, 0)
}

/// What all pods report. Pure: the time is given.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    by_name: BTreeMap<String, Report>,
    listed: Option<BTreeSet<String>>,
}

#[derive(Debug)]
struct Report {
    prefixes: Announced,
    renewed: Option<MicroTime>,
    seen: Instant,
    duration: Duration,
    /// What it says, in seconds, where that is not believed.
    written_duration: Option<i32>,
    /// It counted when it was counted last.
    counted: bool,
}

/// What is announced, and by how many pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) pods: usize,
    by_prefix: BTreeMap<IpNet, usize>,
}

impl Reports {
    /// A list of all begins.
    pub(crate) fn restarted(&mut self) {
        self.listed = Some(BTreeSet::new());
    }

    /// A report is new or has been renewed.
    pub(crate) fn put(&mut self, lease: Lease, now: Instant) {
        let Some(name) = lease.metadata.name else {
            return;
        };
        if let Some(listed) = &mut self.listed {
            listed.insert(name.clone());
        }
        let spec = lease.spec.unwrap_or_default();
        let known = self.by_name.get(&name);
        if known.is_some_and(|report| report.renewed == spec.renew_time) {
            return;
        }
        let annotations = lease.metadata.annotations.unwrap_or_default();
        let text = annotations
            .get(ANNOUNCED_ANNOTATION)
            .map_or("", String::as_str);
        let believed = lease_duration::believed(spec.lease_duration_seconds);
        let is_told = known.is_some_and(|report| report.written_duration == believed.written);
        if let (Some(written), false) = (believed.written, is_told) {
            lease_duration::warn(&name, believed, written);
        }
        let report = Report {
            prefixes: text
                .split(',')
                .filter_map(|prefix| prefix.parse().ok())
                .collect(),
            renewed: spec.renew_time,
            seen: now,
            duration: believed.duration,
            written_duration: believed.written,
            counted: known.is_some_and(|report| report.counted),
        };
        self.by_name.insert(name, report);
    }

    /// A report is gone.
    pub(crate) fn deleted(&mut self, lease: &Lease) {
        if let Some(name) = &lease.metadata.name {
            self.forget(name);
        }
    }

    /// A report does not count, whether or not it is seen to go.
    pub(crate) fn forget(&mut self, name: &str) {
        self.by_name.remove(name);
    }

    /// The list has ended: what it did not tell is gone.
    pub(crate) fn listed(&mut self) {
        if let Some(listed) = self.listed.take() {
            self.by_name.retain(|name, _| listed.contains(name));
        }
    }

    /// What counts at `now`.
    pub(crate) fn tally(&mut self, now: Instant) -> Tally {
        let mut tally = Tally::default();
        for report in self.by_name.values_mut() {
            report.counted = report.lives(now);
            if !report.counted {
                continue;
            }
            tally.pods += 1;
            for prefix in &report.prefixes {
                *tally.by_prefix.entry(*prefix).or_default() += 1;
            }
        }
        tally
    }

    /// Whether the report of this name counts at `now`.
    pub(crate) fn lives(&self, name: &str, now: Instant) -> bool {
        self.by_name
            .get(name)
            .is_some_and(|report| report.lives(now))
    }

    /// For some time no renewal could be seen: what counted before may live, and has a whole
    /// duration from `now` to show it.
    pub(crate) fn seen_again(&mut self, now: Instant) {
        for report in self.by_name.values_mut().filter(|report| report.counted) {
            report.seen = now;
        }
    }

    /// When the next of those that count at `now` runs out.
    pub(crate) fn next_end(&self, now: Instant) -> Option<Instant> {
        self.by_name
            .values()
            .map(|report| report.seen + report.duration)
            .filter(|end| *end > now)
            .min()
    }
}

impl Report {
    fn lives(&self, now: Instant) -> bool {
        now < self.seen + self.duration
    }
}

impl Tally {
    /// How many pods announce the address, by itself or within a range.
    pub(crate) fn count(&self, address: IpAddr) -> usize {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        (0..=bits)
            .filter_map(|length| IpNet::new(address, length).ok())
            .filter_map(|prefix| self.by_prefix.get(&prefix.trunc()))
            .copied()
            .max()
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(name: &str, renewed_second: i64, prefixes: &str) -> Lease {
        Lease {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                annotations: Some([(ANNOUNCED_ANNOTATION.to_owned(), prefixes.to_owned())].into()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                lease_duration_seconds: Some(15),
                renew_time: Timestamp::from_second(renewed_second).ok().map(MicroTime),
                ..LeaseSpec::default()
            }),
        }
    }

    fn count(reports: &mut Reports, now: Instant, address: &str) -> usize {
        reports.tally(now).count(address.parse().unwrap())
    }

    #[test]
    fn an_address_counts_by_itself_and_within_a_range() {
        let now = Instant::now();
        let mut reports = Reports::default();
        reports.put(report("a", 1, "10.1.1.10/32,2001:db8::/64"), now);
        reports.put(report("b", 1, "10.1.1.0/24"), now);
        assert_eq!(count(&mut reports, now, "10.1.1.10"), 1);
        assert_eq!(count(&mut reports, now, "10.1.1.11"), 1);
        assert_eq!(count(&mut reports, now, "10.1.2.1"), 0);
        assert_eq!(count(&mut reports, now, "2001:db8::9"), 1);
        reports.put(report("b", 2, "10.1.1.10/32"), now);
        assert_eq!(count(&mut reports, now, "10.1.1.10"), 2);
    }

    #[test]
    fn a_report_that_is_not_renewed_runs_out() {
        let now = Instant::now();
        let mut reports = Reports::default();
        reports.put(report("a", 1, "10.1.1.10/32"), now);
        let later = now + Duration::from_secs(10);
        // The same again, as a list after a broken watch tells it.
        reports.put(report("a", 1, "10.1.1.10/32"), later);
        let end = now + Duration::from_secs(15);
        assert_eq!(reports.next_end(later), Some(end));
        assert_eq!(count(&mut reports, end, "10.1.1.10"), 0);
        reports.put(report("a", 2, "10.1.1.10/32"), later);
        assert_eq!(count(&mut reports, end, "10.1.1.10"), 1);
    }

    #[test]
    fn a_report_with_an_endless_duration_runs_out_after_the_longest_one() {
        let now = Instant::now();
        let mut reports = Reports::default();
        let mut endless = report("a", 1, "10.1.1.10/32");
        endless.spec.as_mut().unwrap().lease_duration_seconds = Some(i32::MAX);
        reports.put(endless, now);
        let end = now + Duration::from_secs(60);
        assert_eq!(reports.next_end(now), Some(end));
        assert_eq!(count(&mut reports, end, "10.1.1.10"), 0);
    }

    #[test]
    fn what_a_list_does_not_tell_is_gone() {
        let now = Instant::now();
        let mut reports = Reports::default();
        reports.put(report("a", 1, "10.1.1.10/32"), now);
        reports.put(report("b", 1, "10.1.1.10/32"), now);
        reports.restarted();
        reports.put(report("b", 1, "10.1.1.10/32"), now);
        assert_eq!(count(&mut reports, now, "10.1.1.10"), 2);
        reports.listed();
        assert_eq!(count(&mut reports, now, "10.1.1.10"), 1);
        reports.deleted(&report("b", 1, ""));
        assert_eq!(count(&mut reports, now, "10.1.1.10"), 0);
    }

    #[test]
    fn what_counted_before_a_time_without_sight_has_time_to_show_that_it_lives() {
        let now = Instant::now();
        let mut reports = Reports::default();
        reports.put(report("dead", 1, "10.1.1.10/32"), now);
        let end = now + REPORT_DURATION;
        assert_eq!(count(&mut reports, end, "10.1.1.10"), 0);
        reports.put(report("a", 1, "10.1.1.10/32"), end);
        assert_eq!(count(&mut reports, end, "10.1.1.10"), 1);
        let sight = end + REPORT_DURATION * 2;
        assert!(!reports.lives("a", sight));
        reports.seen_again(sight);
        assert!(reports.lives("a", sight));
        assert_eq!(count(&mut reports, sight, "10.1.1.10"), 1);
        assert_eq!(count(&mut reports, sight + REPORT_DURATION, "10.1.1.10"), 0);
    }

    #[test]
    fn only_the_time_of_a_report_that_stands_as_it_shall_is_renewed() {
        let mut lease = report("a", 1, "10.1.1.10/32");
        assert!(!is_report(&lease, "portlb", "10.1.1.10/32"));
        lease.metadata.labels = Some([(REPORT_LABEL.to_owned(), "portlb".to_owned())].into());
        assert!(is_report(&lease, "portlb", "10.1.1.10/32"));
        assert!(!is_report(&lease, "portlb", ""));
        assert!(!is_report(&lease, "other", "10.1.1.10/32"));
    }

    #[test]
    fn an_address_without_a_peer_that_holds_it_is_not_announced() {
        let peers = ["router".to_owned()];
        assert!(is_announced(AnnouncementState::Announced, &peers));
        assert!(is_announced(AnnouncementState::Draining, &peers));
        assert!(is_announced(AnnouncementState::LeastPreferred, &peers));
        assert!(!is_announced(AnnouncementState::Announced, &[]));
        assert!(!is_announced(AnnouncementState::NotServing, &peers));
        assert!(!is_announced(AnnouncementState::WaitingForSession, &[]));
    }
}
