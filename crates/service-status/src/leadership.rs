//! Order and time of the leader's writes.
//!
//! Time and jitter are parameters, so this module is pure.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Bound,
    sync::Arc,
    time::{Duration, Instant},
};

use daemon_runtime::{Backoff, PublishedEvent};
use service_catalog::{catalog::ServiceView, finding::Reason, model::ObjectKey};

use crate::{
    events::ServiceEvent,
    lease_duration::BoundedDuration,
    reports::{AnnouncementCounts, REPORT_DURATION, ReportLease, Reports},
    stable_hash::StableHash,
    status::{self, IpMode},
};

/// Shortest time from the end of one write to the start of the next write.
pub(crate) const PACE: Duration = Duration::from_millis(20);

/// Delay after the first failed write of a Service, and after the first failure of the API server.
/// Each delay is varied at random by up to 20 %.
const FIRST_DELAY: Duration = Duration::from_millis(500);
/// Longest delay of one Service, or of all writes while the API server fails, before the random
/// variation. The delay doubles with each failure in a row up to this limit.
const LONGEST_DELAY: Duration = Duration::from_secs(30);

/// Largest number of Events in the queue. If the queue is longer, the oldest Events are dropped.
const MAX_QUEUED_EVENTS: usize = 1_000;

/// If the leader remembers more than this number of findings of a Service, it forgets the findings
/// that the Service no longer has. A finding that appears again continues its count only if it was
/// remembered.
const MAX_REPORTED_FINDINGS: usize = 16;

/// Longest delay of all writes of one kind (status or Events) after failed writes of single objects
/// in a row.
const LONGEST_OBJECT_DELAY: Duration = Duration::from_secs(1);

/// The state of the leader: what it has to write, and when.
pub(crate) struct Leadership {
    pub(crate) services: BTreeMap<ObjectKey, TrackedService>,
    /// Services that portlb no longer serves and whose status must be cleared. The last view of
    /// each Service has the parts to clear.
    pub(crate) released: BTreeMap<ObjectKey, Arc<ServiceView>>,
    /// Services whose status does not record an allocated address yet. Their status is written
    /// before the status of other Services.
    urgent: BTreeSet<ObjectKey>,
    due: BTreeSet<ObjectKey>,
    /// Earliest time of the next status write, for Services that wait: after a failed write, or
    /// until an unchanged patch can be repeated.
    pub(crate) not_before: BTreeMap<ObjectKey, Instant>,
    /// Services whose last status write failed, with their delay.
    failing: BTreeMap<ObjectKey, Backoff>,
    /// The Service of the last write that was not urgent. The due Service that follows it in the
    /// order of keys is written next, so that every Service gets its turn.
    last_key: Option<ObjectKey>,
    events: VecDeque<Occurrence>,
    is_events_turn: bool,
    status_pacing: RequestPacing,
    event_pacing: RequestPacing,
    next_write: Option<Instant>,
    reports: Reports,
    pub(crate) announcements: AnnouncementCounts,
    pub(crate) ip_mode: IpMode,
    /// Name of this pod's own report. If the watch has not delivered this report although this pod
    /// has written it, the watch counts as broken.
    own_report: String,
    has_views: bool,
    has_reports: bool,
    has_counts: bool,
    is_watch_broken: bool,
    is_counting_suspended: bool,
    is_ending: bool,
}

/// An event of the watch of reports.
#[derive(Clone, Debug)]
pub(crate) enum ReportEvent {
    /// A list of all reports begins.
    ListStarted,
    /// A report is new or has been renewed.
    Put(ReportLease),
    /// The report with this name was deleted.
    Deleted(String),
    /// The list has ended: a report that the list did not contain does not exist.
    Listed,
    /// The watch has failed with this error.
    Failed(String),
    /// The watch works again after a failure.
    Recovered,
}

/// A Service that portlb serves, with the state of its status and Events.
pub(crate) struct TrackedService {
    pub(crate) view: Arc<ServiceView>,
    /// Findings for which this leader has created an Event, by reason and identity.
    reported: BTreeMap<(Reason, String), ReportedFinding>,
    /// The last patch that each field manager wrote: the hash of the patch and the time of the
    /// write.
    pub(crate) written: BTreeMap<&'static str, (StableHash, Instant)>,
}

/// The state of a finding for which this leader has created an Event.
#[derive(Default)]
struct ReportedFinding {
    is_present: bool,
    /// Number of times that the finding has appeared: the first time, and each time after an
    /// absence.
    count: u32,
}

/// An Event of a Service, and the number of times that its cause has appeared.
pub(crate) struct Occurrence {
    pub(crate) event: ServiceEvent,
    pub(crate) count: u32,
}

/// The next object that the leader writes.
pub(crate) enum WriteJob {
    Status(ObjectKey),
    Event(Occurrence),
}

/// The requests that a failure affects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureScope {
    /// This pod no longer holds the Lease, so all requests stop.
    Leadership,
    /// All requests fail for some time.
    Server,
    /// Requests for one object fail for some time.
    Transient,
    /// One request fails, because the API server refuses it: an equal request would probably fail
    /// as well.
    Refused,
}

/// The state of the pauses between requests of one kind: status writes or Events.
struct RequestPacing {
    from: Option<Instant>,
    server: Backoff,
    object: Backoff,
}

impl RequestPacing {
    fn new() -> Self {
        Self {
            from: None,
            server: Backoff::new(FIRST_DELAY, LONGEST_DELAY),
            object: Backoff::new(PACE, LONGEST_OBJECT_DELAY),
        }
    }

    fn is_open(&self, now: Instant) -> bool {
        self.from.is_none_or(|from| from <= now)
    }

    fn succeeded(&mut self) {
        self.server.reset();
        self.object.reset();
        self.from = None;
    }

    fn failed(&mut self, scope: FailureScope, now: Instant, jitter: f64) {
        let delay = match scope {
            FailureScope::Server => self.server.delay_with(jitter),
            FailureScope::Leadership | FailureScope::Transient | FailureScope::Refused => {
                self.server.reset();
                self.object.delay_with(jitter)
            }
        };
        self.from = Some(now + delay);
    }
}

impl Leadership {
    pub(crate) fn new(own_report: String) -> Self {
        Self {
            services: BTreeMap::new(),
            released: BTreeMap::new(),
            urgent: BTreeSet::new(),
            due: BTreeSet::new(),
            not_before: BTreeMap::new(),
            failing: BTreeMap::new(),
            last_key: None,
            events: VecDeque::new(),
            is_events_turn: false,
            status_pacing: RequestPacing::new(),
            event_pacing: RequestPacing::new(),
            next_write: None,
            reports: Reports::default(),
            announcements: AnnouncementCounts::default(),
            ip_mode: IpMode::Kept,
            own_report,
            has_views: false,
            has_reports: false,
            has_counts: false,
            is_watch_broken: false,
            is_counting_suspended: false,
            is_ending: false,
        }
    }

    pub(crate) fn on_view(
        &mut self,
        event: PublishedEvent<ObjectKey, Arc<ServiceView>>,
        now: Instant,
    ) {
        match event {
            PublishedEvent::Changed(key, view) => {
                self.released.remove(&key);
                let is_urgent = status::is_allocation_due(&key, &view);
                match self.services.get_mut(&key) {
                    Some(service) if service.view.uid == view.uid => service.view = view,
                    Some(_) | None => {
                        self.failing.remove(&key);
                        let service = TrackedService {
                            view,
                            reported: BTreeMap::new(),
                            written: BTreeMap::new(),
                        };
                        self.services.insert(key.clone(), service);
                    }
                }
                self.make_due(key, is_urgent, now);
            }
            PublishedEvent::Removed(key) => {
                if let Some(service) = self.services.remove(&key) {
                    self.released.insert(key.clone(), service.view);
                    self.failing.remove(&key);
                    self.make_due(key, false, now);
                }
            }
            PublishedEvent::Synced => self.has_views = true,
        }
    }

    /// Schedules a status write of a Service. A Service whose last write failed is not written
    /// before its delay is over.
    fn make_due(&mut self, key: ObjectKey, is_urgent: bool, now: Instant) {
        let waits = self.not_before.get(&key).is_some_and(|time| *time > now);
        if waits && self.failing.contains_key(&key) {
            return;
        }
        if is_urgent {
            self.urgent.insert(key);
        } else {
            self.due.insert(key);
        }
    }

    /// Applies an event of the watch of reports. Returns the name of a Lease with an invalid
    /// duration, and this duration, if the duration must be logged.
    pub(crate) fn on_report(
        &mut self,
        event: ReportEvent,
        now: Instant,
    ) -> Option<(String, BoundedDuration)> {
        match event {
            ReportEvent::ListStarted => self.reports.begin_list(),
            // The watch can deliver events after `Failed`, for example after an object that
            // pod-watcher cannot decode.
            ReportEvent::Put(lease) => {
                self.is_watch_broken = false;
                let name = lease.name.clone();
                let bounded = self.reports.put(lease, now);
                return bounded.map(|bounded| (name, bounded));
            }
            ReportEvent::Deleted(name) => {
                self.reports.forget(&name);
                self.is_watch_broken = false;
            }
            ReportEvent::Listed => {
                self.reports.end_list();
                self.has_reports = true;
                self.is_watch_broken = false;
            }
            ReportEvent::Failed(_) => self.is_watch_broken = true,
            ReportEvent::Recovered => self.is_watch_broken = false,
        }
        None
    }

    /// Records that this pod ends. From this moment the pod's own report does not count, even if
    /// the removal of the report fails.
    pub(crate) fn end(&mut self) {
        self.is_ending = true;
        self.has_counts = false;
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.is_ending
    }

    /// Reports whether this pod ends and can stop writing, because nothing is left to write or
    /// because another pod with a valid report can write the remaining statuses.
    pub(crate) fn is_done(&self) -> bool {
        let is_written = || {
            let is_due = !(self.urgent.is_empty() && self.due.is_empty());
            !(is_due || self.is_any_failing()) && self.events.is_empty()
        };
        self.is_ending
            && self.has_counts
            && (self.announcements.pods > 0 || (self.has_views && is_written()))
    }

    /// Counts the announcements of all valid reports. While the watch is broken, the counts do not
    /// change, because a report that the watch has not delivered can be valid. `written` is the
    /// time at which this pod last wrote its own report.
    pub(crate) fn recount(&mut self, written: Option<Instant>, now: Instant) {
        if !self.has_reports {
            return;
        }
        if self.is_ending {
            self.reports.forget(&self.own_report);
        }
        let should_be_seen =
            !self.is_ending && written.is_some_and(|at| now < at + REPORT_DURATION);
        let is_seen = self.reports.is_valid(&self.own_report, now);
        if self.is_watch_broken || (should_be_seen && !is_seen) {
            self.is_counting_suspended = true;
            return;
        }
        if std::mem::take(&mut self.is_counting_suspended) {
            self.reports.restart_expiry(now);
        }
        self.has_counts = true;
        let before = std::mem::replace(&mut self.announcements, self.reports.announcements(now));
        if before == self.announcements {
            return;
        }
        let changed = |service: &TrackedService| {
            let mut addresses = service.view.addresses.iter();
            addresses.any(|address| before.count(*address) != self.announcements.count(*address))
        };
        let changed: Vec<ObjectKey> = self
            .services
            .iter()
            .filter(|(_, service)| changed(service))
            .map(|(key, _)| key.clone())
            .collect();
        for key in changed {
            self.make_due(key, false, now);
        }
    }

    /// Returns when the announcements must be counted even if the watch delivers no event.
    pub(crate) fn next_count(&self, written: Option<Instant>, now: Instant) -> Option<Instant> {
        if self.is_counting_suspended && !self.is_watch_broken {
            return Some(written.map_or(now, |at| at + REPORT_DURATION));
        }
        self.reports.next_expiry(now)
    }

    /// Returns when the next write is due. Nothing is due until all views have been read and the
    /// announcements have been counted once.
    pub(crate) fn next_due(&self, now: Instant) -> Option<Instant> {
        if !(self.has_views && self.has_counts) {
            return None;
        }
        let status = if self.urgent.is_empty() && self.due.is_empty() {
            self.not_before.values().min().copied()
        } else {
            Some(now)
        };
        let status = status.map(|due| self.status_pacing.from.map_or(due, |from| from.max(due)));
        let event = (!self.events.is_empty()).then(|| self.event_pacing.from.unwrap_or(now));
        let due = status.into_iter().chain(event).min()?;
        Some(self.next_write.map_or(due, |next| next.max(due)))
    }

    /// Returns the next object to write. Services with a new allocation come first. Other status
    /// writes and Events alternate. While this pod ends, Events come after all status writes.
    pub(crate) fn take(&mut self, now: Instant) -> Option<WriteJob> {
        let may_status = self.status_pacing.is_open(now);
        let may_event = self.event_pacing.is_open(now);
        if may_status && let Some(key) = self.urgent.first().cloned() {
            return Some(self.taken(key));
        }
        if may_event
            && self.is_events_turn
            && !self.is_ending
            && let Some(event) = self.events.pop_front()
        {
            return Some(WriteJob::Event(event));
        }
        if may_status && let Some(key) = self.next_key(now) {
            self.last_key = Some(key.clone());
            return Some(self.taken(key));
        }
        if may_event {
            return self.events.pop_front().map(WriteJob::Event);
        }
        None
    }

    fn taken(&mut self, key: ObjectKey) -> WriteJob {
        self.urgent.remove(&key);
        self.due.remove(&key);
        self.not_before.remove(&key);
        WriteJob::Status(key)
    }

    /// Returns the due Service that follows the last written one in the order of keys, so that
    /// every Service gets its turn.
    fn next_key(&mut self, now: Instant) -> Option<ObjectKey> {
        let ready = self.not_before.iter().filter(|(_, time)| **time <= now);
        let ready: Vec<ObjectKey> = ready.map(|(key, _)| key.clone()).collect();
        for key in ready {
            self.not_before.remove(&key);
            self.due.insert(key);
        }
        let after = self.last_key.as_ref().and_then(|last_key| {
            let range = (Bound::Excluded(last_key), Bound::Unbounded);
            self.due.range::<ObjectKey, _>(range).next()
        });
        after.or_else(|| self.due.first()).cloned()
    }

    /// Records that the status of the Service was written (`is_sent` is true), or that no write was
    /// necessary.
    pub(crate) fn wrote_status(&mut self, key: &ObjectKey, is_sent: bool, now: Instant) {
        self.released.remove(key);
        self.failing.remove(key);
        if is_sent {
            self.status_pacing.succeeded();
            self.is_events_turn = true;
            self.next_write = Some(now + PACE);
        }
    }

    /// Records a failed status write. The delay of this Service grows with each failure, and other
    /// Services are written meanwhile. If the API server refuses to clear a status, portlb leaves
    /// the status as it is.
    pub(crate) fn failed_status(
        &mut self,
        key: ObjectKey,
        scope: FailureScope,
        now: Instant,
        jitter: f64,
    ) {
        self.status_pacing.failed(scope, now, jitter);
        self.is_events_turn = true;
        self.next_write = Some(now + PACE);
        if scope == FailureScope::Refused && self.released.remove(&key).is_some() {
            self.failing.remove(&key);
            return;
        }
        let backoff = self
            .failing
            .entry(key.clone())
            .or_insert_with(|| Backoff::new(FIRST_DELAY, LONGEST_DELAY));
        self.not_before
            .insert(key, now + backoff.delay_with(jitter));
    }

    pub(crate) fn is_any_failing(&self) -> bool {
        !self.failing.is_empty()
    }

    pub(crate) fn wrote_event(&mut self, now: Instant) {
        self.event_pacing.succeeded();
        self.is_events_turn = false;
        self.next_write = Some(now + PACE);
    }

    pub(crate) fn failed_event(
        &mut self,
        event: Occurrence,
        scope: FailureScope,
        now: Instant,
        jitter: f64,
    ) {
        self.event_pacing.failed(scope, now, jitter);
        self.is_events_turn = false;
        self.next_write = Some(now + PACE);
        match scope {
            FailureScope::Leadership | FailureScope::Server => self.events.push_front(event),
            FailureScope::Transient => self.events.push_back(event),
            FailureScope::Refused => {}
        }
    }

    pub(crate) fn queue_events(&mut self, events: impl IntoIterator<Item = Occurrence>) {
        self.events.extend(events);
        while self.events.len() > MAX_QUEUED_EVENTS {
            self.events.pop_front();
        }
    }
}

impl TrackedService {
    /// Returns Events for the findings that are new, or that have appeared again after an absence.
    pub(crate) fn new_findings(&mut self, key: &ObjectKey) -> Vec<Occurrence> {
        let mut events = Vec::new();
        let mut present = BTreeSet::new();
        for finding in &self.view.findings {
            let cause = (finding.reason, finding.identity().to_owned());
            present.insert(cause.clone());
            let reported = self.reported.entry(cause).or_default();
            if !reported.is_present {
                reported.is_present = true;
                reported.count += 1;
                let event = ServiceEvent::of_finding(key, &self.view, finding);
                events.push(Occurrence {
                    event,
                    count: reported.count,
                });
            }
        }
        let forgets = self.reported.len() > MAX_REPORTED_FINDINGS;
        self.reported.retain(|cause, reported| {
            reported.is_present = present.contains(cause);
            reported.is_present || !forgets
        });
        events
    }
}

#[cfg(test)]
mod tests;
