//! Metrics of the reflector's sessions and tables.

use std::{collections::BTreeMap, time::Duration};

use bgp_speaker::{ChangesEnded, PeerStatus, SpeakerEnded, SpeakerHandle};
use bgp_status::SpeakerMetrics;
use daemon_runtime::{Family, Gauge, Labels, Metrics, Shutdown};

use crate::readiness::SessionsStep;

/// Longest time between two updates of the metrics. The sizes of the tables can change without a
/// change of a session, so an update only after changes of sessions is not enough.
const INTERVAL: Duration = Duration::from_secs(5);

/// The sums of the sessions and tables of one peer group.
#[derive(Debug, Default, PartialEq, Eq)]
struct GroupSizes {
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
        metrics.register_collector(Box::new(SpeakerMetrics::of(speaker.clone())));
        Self {
            sessions: metrics.create(
                "reflector_sessions",
                "Peers by peer group, with and without an established session",
            ),
            established: metrics.create(
                "reflector_sessions_established",
                "Established sessions by peer group",
            ),
            paths_received: metrics.create(
                "reflector_paths_received",
                "Accepted paths in the Adj-RIBs-In of the peers, by peer group",
            ),
            paths_sent: metrics.create(
                "reflector_paths_sent",
                "Paths in the Adj-RIBs-Out of the peers, by peer group",
            ),
            pending: metrics.create(
                "reflector_paths_pending",
                "Changed paths that are not sent to the peers yet, by peer group",
            ),
            step,
        }
    }

    /// Updates the gauges and the readiness step until a shutdown is requested.
    pub(crate) async fn run(
        self,
        speaker: SpeakerHandle,
        shutdown: Shutdown,
    ) -> Result<(), SpeakerEnded> {
        let follow = async {
            let mut changes = speaker.changes(false).await?;
            loop {
                let peers = speaker.peers().await?;
                self.update(&peers);
                self.step.update(&peers);
                let pause = self
                    .step
                    .time_to_router_deadline()
                    .unwrap_or(INTERVAL)
                    .min(INTERVAL);
                // The loop updates all metrics after a change, or after the pause.
                if let Ok(changed) = tokio::time::timeout(pause, changes.next()).await {
                    match changed {
                        Ok(_) => {}
                        Err(ChangesEnded::SpeakerEnded(stopped)) => return Err(stopped),
                        // The next pass of the loop reads all peers again, so the missed changes
                        // are not needed.
                        Err(ChangesEnded::Lagging) => changes = speaker.changes(false).await?,
                    }
                }
            }
        };
        tokio::select! {
            ended = follow => match ended {
                Err(SpeakerEnded) if shutdown.is_requested() => Ok(()),
                ended => ended,
            },
            () = shutdown.drain_requested() => Ok(()),
        }
    }

    fn update(&self, peers: &[PeerStatus]) {
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

fn sizes(peers: &[PeerStatus]) -> BTreeMap<&str, GroupSizes> {
    let mut groups: BTreeMap<&str, GroupSizes> = BTreeMap::new();
    let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    for peer in peers {
        let sizes = groups
            .entry(peer.group.as_deref().unwrap_or(""))
            .or_default();
        sizes.sessions += 1;
        sizes.established += i64::from(peer.is_established());
        sizes.paths_received += count(peer.counts.paths_received);
        sizes.paths_sent += count(peer.counts.paths_sent);
        sizes.pending += count(peer.counts.pending);
    }
    groups
}
