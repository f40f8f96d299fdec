//! What is known while this pod leads, and what is written next. Pure: the time is given.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Bound,
    sync::Arc,
    time::{Duration, Instant},
};

use daemon_runtime::{Backoff, Event as Published};
use k8s_openapi::api::{coordination::v1::Lease, events::v1::Event};

use super::{FIRST_DELAY, LONGEST_DELAY, PACE};
use crate::kubernetes::{
    announced::{REPORT_DURATION, Reports, Tally},
    status::{self, IpMode},
    watch::News,
};
use service_catalog::{catalog::ServiceView, finding::Reason, model::ObjectKey};

/// Events that wait to be written; beyond that the oldest are dropped.
const EVENTS: usize = 1_000;

/// Findings of one Service that are remembered, so that one that comes back is counted.
const MOST_TOLD: usize = 16;

/// Longest wait for the next one after an object that could not be written.
const LONGEST_AFTER_OBJECT: Duration = Duration::from_secs(1);

/// What is known while this pod leads.
pub(super) struct Term {
    pub(super) services: BTreeMap<ObjectKey, Known>,
    /// Services that are ours no longer, with what stands in their status.
    pub(super) left: BTreeMap<ObjectKey, Arc<ServiceView>>,
    /// Those whose allocation is to be written.
    urgent: BTreeSet<ObjectKey>,
    due: BTreeSet<ObjectKey>,
    /// Not before then.
    pub(super) later: BTreeMap<ObjectKey, Instant>,
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
    pub(super) tally: Tally,
    pub(super) ip_mode: IpMode,
    /// Name of the report that this pod writes: if it is not seen, nothing is.
    own_report: String,
    has_views: bool,
    has_reports: bool,
    is_counted: bool,
    is_watch_broken: bool,
    is_blind: bool,
    is_ending: bool,
}

/// A Service of ours.
pub(super) struct Known {
    pub(super) view: Arc<ServiceView>,
    /// By what they are about.
    told: BTreeMap<(Reason, String), Told>,
    /// What was written last by each owner of fields.
    pub(super) written: BTreeMap<&'static str, (u64, Instant)>,
}

/// What has been told of a finding.
#[derive(Default)]
struct Told {
    is_present: bool,
    /// How often it has begun.
    count: u32,
}

/// An Event, and how often it has happened.
pub(super) struct Occurrence {
    pub(super) event: Box<Event>,
    pub(super) count: u32,
}

/// What is to be written.
pub(super) enum Job {
    Status(ObjectKey),
    Event(Occurrence),
}

/// What a failure is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// The Lease is not held any more.
    Term,
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

    fn ended(&mut self, failure: Option<Extent>, now: Instant) {
        self.from = match failure {
            None => {
                self.server.reset();
                self.object.reset();
                None
            }
            Some(Extent::Server) => Some(now + self.server.next_delay()),
            Some(Extent::Term | Extent::Passing | Extent::Refused) => {
                self.server.reset();
                Some(now + self.object.next_delay())
            }
        };
    }
}

impl Term {
    pub(super) fn new(own_report: String) -> Self {
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

    pub(super) fn viewed(&mut self, event: Published<ObjectKey, Arc<ServiceView>>, now: Instant) {
        match event {
            Published::Changed(key, view) => {
                self.left.remove(&key);
                let is_urgent = status::is_allocation_due(&key, &view);
                match self.services.get_mut(&key) {
                    Some(known) if known.view.uid == view.uid => known.view = view,
                    Some(_) | None => {
                        self.failing.remove(&key);
                        let known = Known {
                            view,
                            told: BTreeMap::new(),
                            written: BTreeMap::new(),
                        };
                        self.services.insert(key.clone(), known);
                    }
                }
                self.make_due(key, is_urgent, now);
            }
            Published::Removed(key) => {
                if let Some(known) = self.services.remove(&key) {
                    self.left.insert(key.clone(), known.view);
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

    pub(super) fn reported(&mut self, news: News<Lease>, now: Instant) {
        match news {
            News::Began => self.reports.restarted(),
            // A stream may go on after an event that could not be read.
            News::Put(lease) => {
                self.reports.put(lease, now);
                self.is_watch_broken = false;
            }
            News::Deleted(lease) => {
                self.reports.deleted(&lease);
                self.is_watch_broken = false;
            }
            News::Listed => {
                self.reports.listed();
                self.has_reports = true;
                self.is_watch_broken = false;
            }
            News::Trouble(_) => self.is_watch_broken = true,
            News::Recovered => self.is_watch_broken = false,
        }
    }

    /// This pod has ended: its report does not count, whether or not it could be taken back.
    pub(super) fn end(&mut self) {
        self.is_ending = true;
        self.is_counted = false;
    }

    pub(super) fn is_ending(&self) -> bool {
        self.is_ending
    }

    /// Whether nothing is left to be written at the end, or another pod lives that does it.
    pub(super) fn is_done(&self) -> bool {
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
    pub(super) fn count(&mut self, written: Option<Instant>, now: Instant) {
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
        let changed = |known: &Known| {
            let mut addresses = known.view.addresses.iter();
            addresses.any(|address| before.count(*address) != self.tally.count(*address))
        };
        let changed: Vec<ObjectKey> = self
            .services
            .iter()
            .filter(|(_, known)| changed(known))
            .map(|(key, _)| key.clone())
            .collect();
        for key in changed {
            self.make_due(key, false, now);
        }
    }

    /// When it is to be counted even if there are no news.
    pub(super) fn next_count(&self, written: Option<Instant>, now: Instant) -> Option<Instant> {
        if self.is_blind && !self.is_watch_broken {
            return Some(written.map_or(now, |at| at + REPORT_DURATION));
        }
        self.reports.next_end(now)
    }

    /// When there is something to write. Nothing is, before it is known what is announced.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
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
    pub(super) fn take(&mut self, now: Instant) -> Option<Job> {
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
    pub(super) fn wrote_status(&mut self, key: &ObjectKey, is_sent: bool, now: Instant) {
        self.left.remove(key);
        self.failing.remove(key);
        if is_sent {
            self.status_lane.ended(None, now);
            self.is_events_turn = true;
            self.next_write = Some(now + PACE);
        }
    }

    /// The others go on; this one waits longer each time. What is ours no longer, and cannot be
    /// written, is left as it is.
    pub(super) fn failed_status(&mut self, key: ObjectKey, extent: Extent, now: Instant) {
        self.status_lane.ended(Some(extent), now);
        self.is_events_turn = true;
        self.next_write = Some(now + PACE);
        if extent == Extent::Refused && self.left.remove(&key).is_some() {
            self.failing.remove(&key);
            return;
        }
        let backoff = self
            .failing
            .entry(key.clone())
            .or_insert_with(|| Backoff::new(FIRST_DELAY, LONGEST_DELAY));
        self.later.insert(key, now + backoff.next_delay());
    }

    pub(super) fn is_any_failing(&self) -> bool {
        !self.failing.is_empty()
    }

    pub(super) fn wrote_event(&mut self, now: Instant) {
        self.event_lane.ended(None, now);
        self.is_events_turn = false;
        self.next_write = Some(now + PACE);
    }

    pub(super) fn failed_event(&mut self, event: Occurrence, extent: Extent, now: Instant) {
        self.event_lane.ended(Some(extent), now);
        self.is_events_turn = false;
        self.next_write = Some(now + PACE);
        match extent {
            Extent::Term | Extent::Server => self.events.push_front(event),
            Extent::Passing => self.events.push_back(event),
            Extent::Refused => {}
        }
    }

    pub(super) fn tell(&mut self, events: impl IntoIterator<Item = Occurrence>) {
        self.events.extend(events);
        while self.events.len() > EVENTS {
            self.events.pop_front();
        }
    }
}

impl Known {
    /// Findings that have not been told, or that have come back.
    pub(super) fn begun(&mut self, key: &ObjectKey, instance: &str) -> Vec<Occurrence> {
        let mut events = Vec::new();
        let mut present = BTreeSet::new();
        for finding in &self.view.findings {
            let cause = status::cause(finding);
            present.insert(cause.clone());
            let told = self.told.entry(cause).or_default();
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
        let forgets = self.told.len() > MOST_TOLD;
        self.told.retain(|cause, told| {
            told.is_present = present.contains(cause);
            told.is_present || !forgets
        });
        events
    }
}

#[cfg(test)]
mod tests;
