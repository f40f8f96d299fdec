//! All metrics of the reflector but those of its configuration.

use std::{collections::BTreeMap, fmt, time::Duration};

use bgp_session::SessionState;
use bgp_speaker::{ChangesEnded, PeerStatus, SpeakerGone, SpeakerHandle};
use bgp_status::SessionsRefused;
use daemon_runtime::{Family, Gauge, Labels, Metrics, Shutdown};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::counter::ConstCounter,
};

use crate::readiness::SessionsStep;

/// Sizes of tables change without a change of a session.
const INTERVAL: Duration = Duration::from_secs(5);

/// A group's share; static peers count with their group.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sizes {
    sessions: i64,
    established: i64,
    paths_received: i64,
    paths_sent: i64,
    pending: i64,
}

#[derive(Debug)]
pub(crate) struct SessionMetrics {
    sessions: Family<Labels, Gauge>,
    established: Family<Labels, Gauge>,
    paths_received: Family<Labels, Gauge>,
    paths_sent: Family<Labels, Gauge>,
    pending: Family<Labels, Gauge>,
    step: SessionsStep,
}

impl SessionMetrics {
    pub(crate) fn new(metrics: &Metrics, speaker: &SpeakerHandle, step: SessionsStep) -> Self {
        let this = Self {
            sessions: Family::default(),
            established: Family::default(),
            paths_received: Family::default(),
            paths_sent: Family::default(),
            pending: Family::default(),
            step,
        };
        for (name, help, gauge) in [
            ("reflector_sessions", "Sessions, up or not", &this.sessions),
            (
                "reflector_sessions_established",
                "Established sessions",
                &this.established,
            ),
            (
                "reflector_paths_received",
                "Paths in the Adj-RIBs-In, after import policy",
                &this.paths_received,
            ),
            (
                "reflector_paths_sent",
                "Paths in the Adj-RIBs-Out",
                &this.paths_sent,
            ),
            (
                "reflector_paths_pending",
                "Changes that peers have not taken off the reflector yet",
                &this.pending,
            ),
        ] {
            metrics.register(name, help, gauge.clone());
        }
        metrics.register_collector(Box::new(Counters(speaker.clone())));
        metrics.register_collector(Box::new(SessionsRefused::of(speaker.clone())));
        this
    }

    /// Keeps the gauges and the step up to date until a shutdown is requested.
    pub(crate) async fn run(
        self,
        speaker: SpeakerHandle,
        shutdown: Shutdown,
    ) -> Result<(), SpeakerGone> {
        let follow = async {
            let mut changes = speaker.changes(false).await?;
            loop {
                let peers = speaker.peers().await?;
                self.show(&peers);
                self.step.show(&peers);
                let pause = self.step.settles_in().unwrap_or(INTERVAL).min(INTERVAL);
                // Either way it is time to look.
                if let Ok(changed) = tokio::time::timeout(pause, changes.next()).await {
                    match changed {
                        Ok(_) => {}
                        Err(ChangesEnded::SpeakerGone(gone)) => return Err(gone),
                        // What was not read is shown at the next turn.
                        Err(ChangesEnded::Lagging) => changes = speaker.changes(false).await?,
                    }
                }
            }
        };
        tokio::select! {
            ended = follow => match ended {
                Err(SpeakerGone) if shutdown.is_requested() => Ok(()),
                ended => ended,
            },
            () = shutdown.drain_requested() => Ok(()),
        }
    }

    fn show(&self, peers: &[PeerStatus]) {
        let sizes = sizes(peers);
        for gauge in [
            &self.sessions,
            &self.established,
            &self.paths_received,
            &self.paths_sent,
            &self.pending,
        ] {
            gauge.clear();
        }
        for (group, sizes) in &sizes {
            let labels: Labels = vec![("group", (*group).to_owned())];
            self.sessions.get_or_create(&labels).set(sizes.sessions);
            self.established
                .get_or_create(&labels)
                .set(sizes.established);
            self.paths_received
                .get_or_create(&labels)
                .set(sizes.paths_received);
            self.paths_sent.get_or_create(&labels).set(sizes.paths_sent);
            self.pending.get_or_create(&labels).set(sizes.pending);
        }
    }
}

fn sizes(peers: &[PeerStatus]) -> BTreeMap<&str, Sizes> {
    let mut groups: BTreeMap<&str, Sizes> = BTreeMap::new();
    let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    for peer in peers {
        let sizes = groups
            .entry(peer.group.as_deref().unwrap_or(""))
            .or_default();
        sizes.sessions += 1;
        sizes.established += i64::from(peer.session.state == SessionState::Established);
        sizes.paths_received += count(peer.counts.paths_received);
        sizes.paths_sent += count(peer.counts.paths_sent);
        sizes.pending += count(peer.counts.pending);
    }
    groups
}

/// The speaker's own counters, read when the metrics are read.
#[derive(Debug)]
struct Counters(SpeakerHandle);

impl Collector for Counters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let counters = self.0.counters();
        for (name, help, counter) in [
            (
                "connections_accepted",
                "Connections that a peer opened",
                &counters.connections_accepted,
            ),
            (
                "strangers_refused",
                "Connections that belonged to no peer and were closed at once",
                &counters.strangers_refused,
            ),
            (
                "duplicates_refused",
                "Connections refused because their peer has an established session",
                &counters.duplicates_refused,
            ),
            (
                "connections_over_address_maximum",
                "Connections refused because their address has maximumPeersPerAddress peers",
                &counters.connections_over_address_maximum,
            ),
            (
                "accept_failures",
                "Failed attempts to accept a BGP connection, such as without free file descriptors",
                &counters.accept_failures,
            ),
            ("dials", "Attempts to connect", &counters.dials),
            (
                "dials_failed",
                "Attempts to connect that failed",
                &counters.dials_failed,
            ),
            (
                "sessions_came_up",
                "Sessions that came up",
                &counters.sessions_established,
            ),
            (
                "sessions_lost",
                "Established sessions that ended",
                &counters.sessions_lost,
            ),
            (
                "updates_received",
                "UPDATE messages of peers",
                &counters.updates_received,
            ),
            (
                "updates_sent",
                "UPDATE messages to peers",
                &counters.updates_sent,
            ),
            (
                "updates_malformed",
                "UPDATE messages with a malformed attribute that did not end the session",
                &counters.updates_malformed,
            ),
            (
                "paths_rejected",
                "Announcements that policy or loop detection did not accept",
                &counters.paths_rejected,
            ),
            (
                "paths_over_maximum",
                "Announcements beyond maximumPaths that were refused",
                &counters.paths_over_maximum,
            ),
            (
                "attributes_discarded",
                "Attributes of unknown types that unknownAttributes: discard took off paths",
                &counters.attributes_discarded,
            ),
            (
                "attributes_clamped",
                "Sets of path attributes of which localPref, med, communities or reflectionAttributes of a group changed one",
                &counters.attributes_clamped,
            ),
            (
                "paths_unsendable",
                "Announcements whose attributes fit into no message",
                &counters.paths_unsendable,
            ),
        ] {
            let counter = ConstCounter::new(counter.get());
            let name = format!("reflector_{name}");
            let metric = encoder.encode_descriptor(&name, help, None, counter.metric_type())?;
            counter.encode(metric)?;
        }
        Ok(())
    }
}
