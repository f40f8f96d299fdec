//! Reports of all lb pods about their announcements.
//!
//! Each pod stores its announcements in an annotation of a Lease, which is the pod's report. A
//! report is valid for the duration in its Lease, counted from the local time at which this pod saw
//! the last renewal. The time is a parameter, so this module is pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use virtual_server::IpNet;

use crate::lease_duration::{self, BoundedDuration};

/// Annotation with the prefixes that a pod announces, separated by commas.
pub(crate) const ANNOUNCED_ANNOTATION: &str = "portlb.io/announced";

/// Label that marks a Lease as a report. The value of the label is the name of the election Lease,
/// so that pod-watchers with another election Lease ignore the report.
pub(crate) const REPORT_LABEL: &str = "portlb.io/lease";

/// The duration that a pod writes into its report. A report that has not been renewed for this long
/// expires.
pub(crate) const REPORT_DURATION: Duration = Duration::from_secs(15);

/// Longest annotation of a report, in bytes. All annotations of an object together can have 256
/// KiB.
const LONGEST_REPORT: usize = 250_000;

/// The prefixes that one pod announces.
pub(crate) type AnnouncedPrefixes = BTreeSet<IpNet>;

/// Returns the value of the annotation, and the number of prefixes that do not fit into the
/// annotation.
pub(crate) fn annotation(announced: &AnnouncedPrefixes) -> (String, usize) {
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

/// The content of a Lease that is a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReportLease {
    pub(crate) name: String,
    /// The value of the annotation [`ANNOUNCED_ANNOTATION`].
    pub(crate) announced: String,
    pub(crate) renewed: Option<Timestamp>,
    pub(crate) duration_seconds: Option<i32>,
}

/// The last received report of each pod.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    by_name: BTreeMap<String, ReceivedReport>,
    listed_names: Option<BTreeSet<String>>,
}

#[derive(Debug)]
struct ReceivedReport {
    prefixes: AnnouncedPrefixes,
    renewed: Option<Timestamp>,
    seen_at: Instant,
    duration: Duration,
    /// The duration in the Lease, in seconds. `None` if it is within the limits.
    written_duration: Option<i32>,
    /// True if the report was valid at the last count of announcements.
    counted: bool,
}

/// The number of valid reports, and for each prefix the number of pods that announce it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AnnouncementCounts {
    pub(crate) pods: usize,
    by_prefix: BTreeMap<IpNet, usize>,
}

impl Reports {
    /// Begins a list of all reports.
    pub(crate) fn begin_list(&mut self) {
        self.listed_names = Some(BTreeSet::new());
    }

    /// Stores a report that is new or renewed. Returns the duration of the report if the duration
    /// is invalid and the previous report with this name had another one, so that the caller logs
    /// it.
    pub(crate) fn put(&mut self, lease: ReportLease, now: Instant) -> Option<BoundedDuration> {
        let ReportLease {
            name,
            announced,
            renewed,
            duration_seconds,
        } = lease;
        if let Some(listed_names) = &mut self.listed_names {
            listed_names.insert(name.clone());
        }
        let previous = self.by_name.get(&name);
        if previous.is_some_and(|report| report.renewed == renewed) {
            return None;
        }
        let bounded = lease_duration::bounded(duration_seconds);
        let is_logged = previous.is_some_and(|report| report.written_duration == bounded.written);
        let report = ReceivedReport {
            prefixes: announced
                .split(',')
                .filter_map(|prefix| prefix.parse().ok())
                .collect(),
            renewed,
            seen_at: now,
            duration: bounded.duration,
            written_duration: bounded.written,
            counted: previous.is_some_and(|report| report.counted),
        };
        self.by_name.insert(name, report);
        (bounded.written.is_some() && !is_logged).then_some(bounded)
    }

    /// Removes a report that was deleted, or that must not count because its pod ends.
    pub(crate) fn forget(&mut self, name: &str) {
        self.by_name.remove(name);
    }

    /// Ends the list of all reports, and removes each report that the list did not contain.
    pub(crate) fn end_list(&mut self) {
        if let Some(listed_names) = self.listed_names.take() {
            self.by_name.retain(|name, _| listed_names.contains(name));
        }
    }

    /// Counts the announcements of all reports that are valid at `now`.
    pub(crate) fn announcements(&mut self, now: Instant) -> AnnouncementCounts {
        let mut announcements = AnnouncementCounts::default();
        for report in self.by_name.values_mut() {
            report.counted = report.is_valid(now);
            if !report.counted {
                continue;
            }
            announcements.pods += 1;
            for prefix in &report.prefixes {
                *announcements.by_prefix.entry(*prefix).or_default() += 1;
            }
        }
        announcements
    }

    /// Reports whether the report with this name is valid at `now`.
    pub(crate) fn is_valid(&self, name: &str, now: Instant) -> bool {
        self.by_name
            .get(name)
            .is_some_and(|report| report.is_valid(now))
    }

    /// Restarts the duration of each report that was valid at the last count of announcements. The
    /// caller does this after a broken watch, because the watch delivered no renewals.
    pub(crate) fn restart_expiry(&mut self, now: Instant) {
        for report in self.by_name.values_mut().filter(|report| report.counted) {
            report.seen_at = now;
        }
    }

    /// Returns the earliest time at which a report expires that is valid at `now`.
    pub(crate) fn next_expiry(&self, now: Instant) -> Option<Instant> {
        self.by_name
            .values()
            .map(|report| report.seen_at + report.duration)
            .filter(|end| *end > now)
            .min()
    }
}

impl ReceivedReport {
    fn is_valid(&self, now: Instant) -> bool {
        now < self.seen_at + self.duration
    }
}

impl AnnouncementCounts {
    /// Returns the number of pods that announce the address. If several announced prefixes contain
    /// the address, the prefix with the most pods counts.
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
        reports.announcements(now).count(address.parse().unwrap())
    }

    #[test]
    fn an_address_counts_as_announced_by_its_host_route_or_a_prefix() {
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
    fn a_report_expires_unless_it_is_renewed() {
        let now = Instant::now();
        let mut reports = Reports::default();
        reports.put(report("a", 1, "10.1.1.10/32"), now);
        let later = now + Duration::from_secs(10);
        // The list after a broken watch contains this report although the pod has not renewed it.
        reports.put(report("a", 1, "10.1.1.10/32"), later);
        let end = now + Duration::from_secs(15);
        assert_eq!(reports.next_expiry(later), Some(end));
        assert_eq!(count(&mut reports, end, "10.1.1.10"), 0);
        reports.put(report("a", 2, "10.1.1.10/32"), later);
        assert_eq!(count(&mut reports, end, "10.1.1.10"), 1);
    }

    #[test]
    fn a_report_with_a_too_long_duration_expires_after_the_longest_accepted_duration() {
        let now = Instant::now();
        let mut reports = Reports::default();
        let mut endless = report("a", 1, "10.1.1.10/32");
        endless.duration_seconds = Some(i32::MAX);
        let bounded = reports.put(endless, now);
        assert_eq!(bounded.unwrap().written, Some(i32::MAX));
        let end = now + Duration::from_secs(60);
        assert_eq!(reports.next_expiry(now), Some(end));
        assert_eq!(count(&mut reports, end, "10.1.1.10"), 0);
    }

    #[test]
    fn a_report_that_is_missing_in_a_later_list_is_removed() {
        let now = Instant::now();
        let mut reports = Reports::default();
        reports.put(report("a", 1, "10.1.1.10/32"), now);
        reports.put(report("b", 1, "10.1.1.10/32"), now);
        reports.begin_list();
        reports.put(report("b", 1, "10.1.1.10/32"), now);
        assert_eq!(count(&mut reports, now, "10.1.1.10"), 2);
        reports.end_list();
        assert_eq!(count(&mut reports, now, "10.1.1.10"), 1);
        reports.forget("b");
        assert_eq!(count(&mut reports, now, "10.1.1.10"), 0);
    }

    #[test]
    fn reports_that_were_valid_before_a_broken_watch_get_a_new_duration() {
        let now = Instant::now();
        let mut reports = Reports::default();
        reports.put(report("dead", 1, "10.1.1.10/32"), now);
        let end = now + REPORT_DURATION;
        assert_eq!(count(&mut reports, end, "10.1.1.10"), 0);
        reports.put(report("a", 1, "10.1.1.10/32"), end);
        assert_eq!(count(&mut reports, end, "10.1.1.10"), 1);
        let sight = end + REPORT_DURATION * 2;
        assert!(!reports.is_valid("a", sight));
        reports.restart_expiry(sight);
        assert!(reports.is_valid("a", sight));
        assert_eq!(count(&mut reports, sight, "10.1.1.10"), 1);
        assert_eq!(count(&mut reports, sight + REPORT_DURATION, "10.1.1.10"), 0);
    }
}
