//! Metrics of a BGP speaker.

use std::fmt;

use bgp_session::FailureReason;
use bgp_speaker::SpeakerHandle;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter},
};

/// A collector that reads the counters of a speaker whenever the metrics are scraped.
#[derive(Debug)]
pub struct SpeakerMetrics(SpeakerHandle);

impl SpeakerMetrics {
    /// Returns a collector for the counters of this speaker.
    pub fn of(speaker: SpeakerHandle) -> Self {
        Self(speaker)
    }
}

impl Collector for SpeakerMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let counters = self.0.counters();
        for (name, help, counter) in [
            (
                "bgp_connections_accepted",
                "Accepted connections that belong to a peer",
                &counters.connections_accepted,
            ),
            (
                "bgp_connections_without_peer",
                "Connections refused because no peer and no group has their address, the key of their address could not be set, or the group has its maximum number of peers",
                &counters.connections_without_peer,
            ),
            (
                "bgp_duplicates_refused",
                "Connections refused because their peer has an established session",
                &counters.duplicates_refused,
            ),
            (
                "bgp_connections_over_address_maximum",
                "Connections refused because their address has reached its maximum number of peers",
                &counters.connections_over_address_maximum,
            ),
            (
                "bgp_accept_failures",
                "Failed attempts to accept a BGP connection, for example without free file descriptors",
                &counters.accept_failures,
            ),
            (
                "bgp_dials",
                "Attempts of this speaker to connect to a peer",
                &counters.dials,
            ),
            (
                "bgp_dials_failed",
                "Failed attempts of this speaker to connect to a peer",
                &counters.dials_failed,
            ),
            (
                "bgp_sessions_established",
                "Sessions that were established",
                &counters.sessions_established,
            ),
            (
                "bgp_sessions_lost",
                "Established sessions that ended",
                &counters.sessions_lost,
            ),
            (
                "bgp_updates_received",
                "UPDATE messages received from peers",
                &counters.updates_received,
            ),
            (
                "bgp_updates_sent",
                "UPDATE messages sent to peers",
                &counters.updates_sent,
            ),
            (
                "bgp_updates_malformed",
                "UPDATE messages with a malformed attribute after which the session stayed established",
                &counters.updates_malformed,
            ),
            (
                "bgp_paths_rejected",
                "Announced paths that import policy or loop detection rejected",
                &counters.paths_rejected,
            ),
            (
                "bgp_paths_over_maximum",
                "Announced paths that were refused because the peer had reached its maximum of paths",
                &counters.paths_over_maximum,
            ),
            (
                "bgp_attributes_discarded",
                "Path attributes of unknown types that import policy discarded",
                &counters.attributes_discarded,
            ),
            (
                "bgp_attributes_clamped",
                "Announcements whose path attributes import policy changed",
                &counters.attributes_clamped,
            ),
            (
                "bgp_paths_unsendable",
                "Paths that were withdrawn because their attributes do not fit into one UPDATE message",
                &counters.paths_unsendable,
            ),
        ] {
            let counter = ConstCounter::new(counter.get());
            let metric = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
            counter.encode(metric)?;
        }
        let mut refused = encoder.encode_descriptor(
            "bgp_sessions_refused",
            "Failed dials, and connections that were refused or ended before their session was established, by reason",
            None,
            MetricType::Counter,
        )?;
        for reason in FailureReason::ALL {
            let counter = ConstCounter::new(counters.sessions_refused.get(*reason));
            counter.encode(refused.encode_family(&[("reason", reason.label())])?)?;
        }
        Ok(())
    }
}
