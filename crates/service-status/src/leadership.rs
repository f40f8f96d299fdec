//! What is written next while this pod leads. Pure: time and jitter are parameters.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Bound,
    sync::Arc,
    time::{Duration, Instant},
};

use daemon_runtime::{Backoff, Event as Published};
use service_catalog::{catalog::ServiceView, finding::Reason, model::ObjectKey};

use crate::{
    events::Event,
    fingerprint::Fingerprint,
    lease_duration::Believed,
    reports::{REPORT_DURATION, ReportLease, Reports, Tally},
    status::{self, IpMode},
};

/// Least time from one write to the next.
pub(crate) const PACE: Duration = Duration::from_millis(20);

/// First and longest wait after a failure.
const FIRST_DELAY: Duration = Duration::from_millis(500);
const LONGEST_DELAY: Duration = Duration::from_secs(30);

/// Events that wait to be written; beyond that the oldest are dropped.
const EVENTS: usize = 1_000;

/// Findings of one Service that are remembered, so that one that comes back is counted.
const MOST_REPORTED: usize = 16;

/// Longest wait for the next one after an object that could not be written.
const LONGEST_AFTER_OBJECT: Duration = Duration::from_secs(1);

/// What this pod writes while it leads.
pub(crate) struct Leadership {
    pub(crate) services: BTreeMap<ObjectKey, TrackedService>,
    /// Services that are ours no longer, with what stands in their status.
    pub(crate) left: BTreeMap<ObjectKey, Arc<ServiceView>>,
    /// Those whose allocation is to be written.
    urgent: BTreeSet<ObjectKey>,
    due: BTreeSet<ObjectKey>,
    /// Not before then.
    pub(crate) later: BTreeMap<ObjectKey, Instant>,
    /// Those whose last write has failed.
    failing: BTreeMap<ObjectKey, Backoff>,
    /// The others follow it.
    last: Option<ObjectKey>,
    events: VecDeque<Occurrence>,
    is_events_turn: bool,
    status_lane: Lane,
    event_lane: Lane,
    next_write: Option<Instant>,
    reports: Reports,
    pub(crate) tally: Tally,
    pub(crate) ip_mode: IpMode,
    /// Name of the report that this pod writes: if it is not seen, nothing is.
    own_report: String,
    has_views: bool,
    has_reports: bool,
    is_counted: bool,
    is_watch_broken: bool,
    is_blind: bool,
    is_ending: bool,
}

/// What the watch of reports says.
#[derive(Clone, Debug)]
pub(crate) enum ReportEvent {
    /// A list of all begins.
    Began,
    /// A report is new or has been renewed.
    Put(ReportLease),
    /// The report of this name is gone.
    Deleted(String),
    /// The list has ended: what it did not name is gone.
    Listed,
    /// Reports cannot be seen, for this reason.
    Trouble(String),
    /// They can be seen again.
    Recovered,
}

/// A Service of ours.
pub(crate) struct TrackedService {
    pub(crate) view: Arc<ServiceView>,
    /// By what they are about.
    reported: BTreeMap<(Reason, String), ReportedFinding>,
    /// What was written last by each owner of fields.
    pub(crate) written: BTreeMap<&'static str, (Fingerprint, Instant)>,
}

/// What has been reported of a finding.
#[derive(Default)]
struct ReportedFinding {
    is_present: bool,
    /// How often it has begun.
    count: u32,
}

/// An Event, and how often it has happened.
pub(crate) struct Occurrence {
    pub(crate) event: Event,
    pub(crate) count: u32,
}

/// What is to be written.
pub(crate) enum Job {
    Status(ObjectKey),
    Event(Occurrence),
}

/// What a failure concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureScope {
    /// The Lease is not held any more.
    Leadership,
    /// All requests, for now.
    Server,
    /// One object, for now.
    Passing,
    /// One object: the same request will not succeed.
    Refused,
}

/// When the next request of one kind may be sent.
struct Lane {
    from: Option<Instant>,
    server: Backoff,
    object: Backoff,
}

impl Lane {
    fn new() -> Self {
        Self {
            from: None,
            server: Backoff::new(FIRST_DELAY, LONGEST_DELAY),
            object: Backoff::new(PACE, LONGEST_AFTER_OBJECT),
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
            FailureScope::Leadership | FailureScope::Passing | FailureScope::Refused => {
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
            left: BTreeMap::new(),
            urgent: BTreeSet::new(),
            due: BTreeSet::new(),
            later: BTreeMap::new(),
            failing: BTreeMap::new(),
            last: None,
            events: VecDeque::new(),
            is_events_turn: false,
            status_lane: Lane::new(),
            event_lane: Lane::new(),
            next_write: None,
            reports: Reports::default(),
            tally: Tally::default(),
            ip_mode: IpMode::Kept,
            own_report,
            has_views: false,
            has_reports: false,
            is_counted: false,
            is_watch_broken: false,
            is_blind: false,
            is_ending: false,
        }
    }

    pub(crate) fn on_view(&mut self, event: Published<ObjectKey, Arc<ServiceView>>, now: Instant) {
        match event {
            Published::Changed(key, view) => {
                self.left.remove(&key);
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
            Published::Removed(key) => {
                if let Some(service) = self.services.remove(&key) {
                    self.left.insert(key.clone(), service.view);
                    self.failing.remove(&key);
                    self.make_due(key, false, now);
                }
            }
            Published::Synced => self.has_views = true,
        }
    }

    /// One that has just failed keeps its wait.
    fn make_due(&mut self, key: ObjectKey, is_urgent: bool, now: Instant) {
        let waits = self.later.get(&key).is_some_and(|time| *time > now);
        if waits && self.failing.contains_key(&key) {
            return;
        }
        if is_urgent {
            self.urgent.insert(key);
        } else {
            self.due.insert(key);
        }
    }

    /// Takes over what the watch of reports says. Returns a duration out of bounds that is to be
    /// logged, with the name of its Lease.
    pub(crate) fn on_report(
        &mut self,
        event: ReportEvent,
        now: Instant,
    ) -> Option<(String, Believed)> {
        match event {
            ReportEvent::Began => self.reports.restarted(),
            // A stream may go on after an event that could not be read.
            ReportEvent::Put(lease) => {
                self.is_watch_broken = false;
                let name = lease.name.clone();
                let believed = self.reports.put(lease, now);
                return believed.map(|believed| (name, believed));
            }
            ReportEvent::Deleted(name) => {
                self.reports.forget(&name);
                self.is_watch_broken = false;
            }
            ReportEvent::Listed => {
                self.reports.listed();
                self.has_reports = true;
                self.is_watch_broken = false;
            }
            ReportEvent::Trouble(_) => self.is_watch_broken = true,
            ReportEvent::Recovered => self.is_watch_broken = false,
        }
        None
    }

    /// This pod has ended: its report does not count, whether or not it could be taken back.
    pub(crate) fn end(&mut self) {
        self.is_ending = true;
        self.is_counted = false;
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.is_ending
    }

    /// Whether nothing is left to be written at the end, or another pod lives that does it.
    pub(crate) fn is_done(&self) -> bool {
        let is_written = || {
            let is_due = !(self.urgent.is_empty() && self.due.is_empty());
            !(is_due || self.is_any_failing()) && self.events.is_empty()
        };
        self.is_ending
            && self.is_counted
            && (self.tally.pods > 0 || (self.has_views && is_written()))
    }

    /// Counts again what is announced, unless reports cannot be seen: what is not seen then is not
    /// gone. `written` is when this pod's own report was written last.
    pub(crate) fn count(&mut self, written: Option<Instant>, now: Instant) {
        if !self.has_reports {
            return;
        }
        if self.is_ending {
            self.reports.forget(&self.own_report);
        }
        let should_be_seen =
            !self.is_ending && written.is_some_and(|at| now < at + REPORT_DURATION);
        let is_seen = self.reports.lives(&self.own_report, now);
        if self.is_watch_broken || (should_be_seen && !is_seen) {
            self.is_blind = true;
            return;
        }
        if std::mem::take(&mut self.is_blind) {
            self.reports.seen_again(now);
        }
        self.is_counted = true;
        let before = std::mem::replace(&mut self.tally, self.reports.tally(now));
        if before == self.tally {
            return;
        }
        let changed = |service: &TrackedService| {
            let mut addresses = service.view.addresses.iter();
            addresses.any(|address| before.count(*address) != self.tally.count(*address))
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

    /// Returns when reports are to be counted again although no event comes.
    pub(crate) fn next_count(&self, written: Option<Instant>, now: Instant) -> Option<Instant> {
        if self.is_blind && !self.is_watch_broken {
            return Some(written.map_or(now, |at| at + REPORT_DURATION));
        }
        self.reports.next_end(now)
    }

    /// When there is something to write. Nothing is, before it is known what is announced.
    pub(crate) fn next_due(&self, now: Instant) -> Option<Instant> {
        if !(self.has_views && self.is_counted) {
            return None;
        }
        let status = if self.urgent.is_empty() && self.due.is_empty() {
            self.later.values().min().copied()
        } else {
            Some(now)
        };
        let status = status.map(|due| self.status_lane.from.map_or(due, |from| from.max(due)));
        let event = (!self.events.is_empty()).then(|| self.event_lane.from.unwrap_or(now));
        let due = status.into_iter().chain(event).min()?;
        Some(self.next_write.map_or(due, |next| next.max(due)))
    }

    /// Allocations first; status and Events by turns, at the end Events last.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Job> {
        let may_status = self.status_lane.is_open(now);
        let may_event = self.event_lane.is_open(now);
        if may_status && let Some(key) = self.urgent.first().cloned() {
            return Some(self.taken(key));
        }
        if may_event
            && self.is_events_turn
            && !self.is_ending
            && let Some(event) = self.events.pop_front()
        {
            return Some(Job::Event(event));
        }
        if may_status && let Some(key) = self.next_key(now) {
            self.last = Some(key.clone());
            return Some(self.taken(key));
        }
        if may_event {
            return self.events.pop_front().map(Job::Event);
        }
        None
    }

    fn taken(&mut self, key: ObjectKey) -> Job {
        self.urgent.remove(&key);
        self.due.remove(&key);
        self.later.remove(&key);
        Job::Status(key)
    }

    /// The next after the last one, so that none waits for ever.
    fn next_key(&mut self, now: Instant) -> Option<ObjectKey> {
        let ready = self.later.iter().filter(|(_, time)| **time <= now);
        let ready: Vec<ObjectKey> = ready.map(|(key, _)| key.clone()).collect();
        for key in ready {
            self.later.remove(&key);
            self.due.insert(key);
        }
        let after = self.last.as_ref().and_then(|last| {
            let range = (Bound::Excluded(last), Bound::Unbounded);
            self.due.range::<ObjectKey, _>(range).next()
        });
        after.or_else(|| self.due.first()).cloned()
    }

    /// The status has been written, or says what it shall already.
    pub(crate) fn wrote_status(&mut self, key: &ObjectKey, is_sent: bool, now: Instant) {
        self.left.remove(key);
        self.failing.remove(key);
        if is_sent {
            self.status_lane.succeeded();
            self.is_events_turn = true;
            self.next_write = Some(now + PACE);
        }
    }

    /// The others go on; this one waits longer each time. What is ours no longer, and cannot be
    /// written, is left as it is.
    pub(crate) fn failed_status(
        &mut self,
        key: ObjectKey,
        scope: FailureScope,
        now: Instant,
        jitter: f64,
    ) {
        self.status_lane.failed(scope, now, jitter);
        self.is_events_turn = true;
        self.next_write = Some(now + PACE);
        if scope == FailureScope::Refused && self.left.remove(&key).is_some() {
            self.failing.remove(&key);
            return;
        }
        let backoff = self
            .failing
            .entry(key.clone())
            .or_insert_with(|| Backoff::new(FIRST_DELAY, LONGEST_DELAY));
        self.later.insert(key, now + backoff.delay_with(jitter));
    }

    pub(crate) fn is_any_failing(&self) -> bool {
        !self.failing.is_empty()
    }

    pub(crate) fn wrote_event(&mut self, now: Instant) {
        self.event_lane.succeeded();
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
        self.event_lane.failed(scope, now, jitter);
        self.is_events_turn = false;
        self.next_write = Some(now + PACE);
        match scope {
            FailureScope::Leadership | FailureScope::Server => self.events.push_front(event),
            FailureScope::Passing => self.events.push_back(event),
            FailureScope::Refused => {}
        }
    }

    pub(crate) fn queue_events(&mut self, events: impl IntoIterator<Item = Occurrence>) {
        self.events.extend(events);
        while self.events.len() > EVENTS {
            self.events.pop_front();
        }
    }
}

impl TrackedService {
    /// Returns Events for findings that have none yet, or that have come back.
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
                let event = Event::of_finding(key, &self.view, finding);
                events.push(Occurrence {
                    event,
                    count: reported.count,
                });
            }
        }
        let forgets = self.reported.len() > MOST_REPORTED;
        self.reported.retain(|cause, reported| {
            reported.is_present = present.contains(cause);
            reported.is_present || !forgets
        });
        events
    }
}

#[cfg(test)]
mod tests;
