//! The metric of sessions that do not come up.

use std::fmt;

use bgp_session::FailureReason;
use bgp_speaker::SpeakerHandle;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter},
};

/// Collects `bgp_sessions_refused_total`, with a sample for each [`FailureReason`].
#[derive(Debug)]
pub struct SessionsRefused(SpeakerHandle);

impl SessionsRefused {
    /// Reads the counters of this speaker whenever the metrics are read.
    pub fn of(speaker: SpeakerHandle) -> Self {
        Self(speaker)
    }
}

impl Collector for SessionsRefused {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut samples = encoder.encode_descriptor(
            "bgp_sessions_refused",
            "Connections and attempts to connect that did not become a session, by reason",
            None,
            MetricType::Counter,
        )?;
        let counters = &self.0.counters().sessions_refused;
        for reason in FailureReason::ALL {
            let counter = ConstCounter::new(counters.get(*reason));
            counter.encode(samples.encode_family(&[("reason", reason.label())])?)?;
        }
        Ok(())
    }
}
