//! What all load-balancer pods report to announce. Pure: the time is given.
//!
//! Each pod keeps a Lease with what it announces in an annotation. A report that is not renewed
//! runs out, and so does one whose pod is gone. Time is that of the local clock: a report lives for
//! its duration from when its last change was seen.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use virtual_server::IpNet;

use crate::lease_duration::{self, Believed};

/// What a pod announces, with commas between the prefixes.
pub(crate) const ANNOUNCED_ANNOTATION: &str = "portlb.io/announced";

/// Tells the reports of one load balancer from those of others: the name of its Lease.
pub(crate) const REPORT_LABEL: &str = "portlb.io/lease";

/// A report that has not been renewed for this long does not count.
pub(crate) const REPORT_DURATION: Duration = Duration::from_secs(15);

/// Longest report; an object's annotations together may have 256 KiB.
const LONGEST_REPORT: usize = 250_000;

/// Prefixes that one pod announces.
pub(crate) type Announced = BTreeSet<IpNet>;

/// Returns the annotation, and how many prefixes it cannot hold.
pub(crate) fn annotation(announced: &Announced) -> (String, usize) {
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

/// A report as a Lease has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReportLease {
    /// Name of the Lease.
    pub(crate) name: String,
    /// Content of [`ANNOUNCED_ANNOTATION`].
    pub(crate) announced: String,
    pub(crate) renewed: Option<Timestamp>,
    pub(crate) duration_seconds: Option<i32>,
}

/// What all pods report.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    by_name: BTreeMap<String, Report>,
    listed: Option<BTreeSet<String>>,
}

#[derive(Debug)]
struct Report {
    prefixes: Announced,
    renewed: Option<Timestamp>,
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

    /// Takes over a report that is new or renewed. Returns a duration out of bounds that is to be
    /// logged: each once.
    pub(crate) fn put(&mut self, lease: ReportLease, now: Instant) -> Option<Believed> {
        let ReportLease {
            name,
            announced,
            renewed,
            duration_seconds,
        } = lease;
        if let Some(listed) = &mut self.listed {
            listed.insert(name.clone());
        }
        let known = self.by_name.get(&name);
        if known.is_some_and(|report| report.renewed == renewed) {
            return None;
        }
        let believed = lease_duration::believed(duration_seconds);
        let is_logged = known.is_some_and(|report| report.written_duration == believed.written);
        let report = Report {
            prefixes: announced
                .split(',')
                .filter_map(|prefix| prefix.parse().ok())
                .collect(),
            renewed,
            seen: now,
            duration: believed.duration,
            written_duration: believed.written,
            counted: known.is_some_and(|report| report.counted),
        };
        self.by_name.insert(name, report);
        (believed.written.is_some() && !is_logged).then_some(believed)
    }

    /// Drops a report: it is gone, or does not count whether or not it is seen to go.
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

    fn report(name: &str, renewed_second: i64, prefixes: &str) -> ReportLease {
        ReportLease {
            name: name.to_owned(),
            announced: prefixes.to_owned(),
            renewed: Timestamp::from_second(renewed_second).ok(),
            duration_seconds: Some(15),
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
        endless.duration_seconds = Some(i32::MAX);
        let believed = reports.put(endless, now);
        assert_eq!(believed.unwrap().written, Some(i32::MAX));
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
        reports.forget("b");
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
}
