//! The metrics of a speaker.

use std::fmt;

use bgp_session::FailureReason;
use bgp_speaker::SpeakerHandle;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter},
};

/// Collects the counters of a speaker when the metrics are read.
#[derive(Debug)]
pub struct SpeakerMetrics(SpeakerHandle);

impl SpeakerMetrics {
    /// Reads the counters of this speaker.
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
                "Connections that a peer opened",
                &counters.connections_accepted,
            ),
            (
                "bgp_strangers_refused",
                "Connections that belonged to no peer and were closed at once",
                &counters.strangers_refused,
            ),
            (
                "bgp_duplicates_refused",
                "Connections refused because their peer has an established session",
                &counters.duplicates_refused,
            ),
            (
                "bgp_connections_over_address_maximum",
                "Connections refused because their address has its maximum of peers",
                &counters.connections_over_address_maximum,
            ),
            (
                "bgp_accept_failures",
                "Failed attempts to accept a BGP connection, such as without free file descriptors",
                &counters.accept_failures,
            ),
            (
                "bgp_dials",
                "Attempts to connect to a peer",
                &counters.dials,
            ),
            (
                "bgp_dials_failed",
                "Attempts to connect that failed",
                &counters.dials_failed,
            ),
            (
                "bgp_sessions_established",
                "Sessions that came up",
                &counters.sessions_established,
            ),
            (
                "bgp_sessions_lost",
                "Established sessions that ended",
                &counters.sessions_lost,
            ),
            (
                "bgp_updates_received",
                "UPDATE messages from peers",
                &counters.updates_received,
            ),
            (
                "bgp_updates_sent",
                "UPDATE messages to peers",
                &counters.updates_sent,
            ),
            (
                "bgp_updates_malformed",
                "UPDATE messages with a malformed attribute that did not end the session",
                &counters.updates_malformed,
            ),
            (
                "bgp_paths_rejected",
                "Announcements that policy or loop detection did not accept",
                &counters.paths_rejected,
            ),
            (
                "bgp_paths_over_maximum",
                "Announcements beyond a peer's maximum of paths that were refused",
                &counters.paths_over_maximum,
            ),
            (
                "bgp_attributes_discarded",
                "Attributes of unknown types that import policy took off paths",
                &counters.attributes_discarded,
            ),
            (
                "bgp_attributes_clamped",
                "Sets of path attributes of which import policy changed one",
                &counters.attributes_clamped,
            ),
            (
                "bgp_paths_unsendable",
                "Announcements whose attributes fit into no message",
                &counters.paths_unsendable,
            ),
        ] {
            let counter = ConstCounter::new(counter.get());
            let metric = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
            counter.encode(metric)?;
        }
        let mut refused = encoder.encode_descriptor(
            "bgp_sessions_refused",
            "Connections and attempts to connect that did not become a session, by reason",
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
