//! All metrics of the reflector but those of its configuration.

use std::{collections::BTreeMap, time::Duration};

use bgp_speaker::{ChangesEnded, PeerStatus, SpeakerGone, SpeakerHandle};
use bgp_status::SpeakerMetrics;
use daemon_runtime::{Family, Gauge, Labels, Metrics, Shutdown};

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
        metrics.register_collector(Box::new(SpeakerMetrics::of(speaker.clone())));
        Self {
            sessions: metrics.create("reflector_sessions", "Sessions, up or not"),
            established: metrics.create("reflector_sessions_established", "Established sessions"),
            paths_received: metrics.create(
                "reflector_paths_received",
                "Paths in the Adj-RIBs-In, after import policy",
            ),
            paths_sent: metrics.create("reflector_paths_sent", "Paths in the Adj-RIBs-Out"),
            pending: metrics.create(
                "reflector_paths_pending",
                "Changes that peers have not taken off the reflector yet",
            ),
            step,
        }
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
        sizes.established += i64::from(peer.is_established());
        sizes.paths_received += count(peer.counts.paths_received);
        sizes.paths_sent += count(peer.counts.paths_sent);
        sizes.pending += count(peer.counts.pending);
    }
    groups
}
