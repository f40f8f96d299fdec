//! All metrics of this daemon.

use std::collections::BTreeMap;

use bgp_packet::IpNet;
use bgp_speaker::{PeerStatus, SpeakerCounters, SpeakerHandle};
use bgp_status::SessionsRefused;
use daemon_runtime::{Counter, Family, Gauge, Labels, Metrics};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::counter::ConstCounter,
};

use crate::{
    announcements::State,
    announcer::{Announcement, is_established},
};

/// What the announcer counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct AnnouncerMetrics {
    announcements: Family<Labels, Gauge>,
    flapping: Gauge,
    announced: Counter,
    withdrawn: Counter,
    data_plane_lost: Counter,
    node_route_lost: Counter,
    sessions: Family<Labels, Gauge>,
}

/// The speaker's own counters, read when the metrics are.
#[derive(Debug)]
struct SpeakerCollector(SpeakerHandle);

const STATES: [(State, &str); 8] = [
    (State::NotServing, "not_serving"),
    (State::Refused, "refused"),
    (State::WaitingForNodeRoute, "waiting_for_node_route"),
    (State::WaitingForSession, "waiting_for_session"),
    (State::Announced, "announced"),
    (State::LeastPreferred, "least_preferred"),
    (State::Draining, "draining"),
    (State::Drained, "drained"),
];

impl AnnouncerMetrics {
    pub(crate) fn register(metrics: &Metrics, speaker: &SpeakerHandle) -> Self {
        let this = Self::default();
        metrics.register(
            "announcements",
            "Service addresses by what has become of them",
            this.announcements.clone(),
        );
        metrics.register(
            "announcements_flapping",
            "Service addresses that are least preferred because the data plane stops serving them again and again",
            this.flapping.clone(),
        );
        metrics.register(
            "announcements_made",
            "Announcements to the BGP sessions, those with changed attributes included",
            this.announced.clone(),
        );
        metrics.register(
            "announcements_withdrawn",
            "Withdrawals",
            this.withdrawn.clone(),
        );
        metrics.register(
            "data_plane_lost",
            "Ends of the stream of the data plane, and failed attempts to open it",
            this.data_plane_lost.clone(),
        );
        metrics.register(
            "node_route_lost",
            "Ends of a hold on a node route, and failed attempts to get one",
            this.node_route_lost.clone(),
        );
        metrics.register(
            "bgp_session_established",
            "1 while the session with the peer is established, else 0",
            this.sessions.clone(),
        );
        metrics.register_collector(Box::new(SpeakerCollector(speaker.clone())));
        metrics.register_collector(Box::new(SessionsRefused::of(speaker.clone())));
        this
    }

    pub(crate) fn announced(&self) {
        self.announced.inc();
    }

    pub(crate) fn withdrawn(&self) {
        self.withdrawn.inc();
    }

    pub(crate) fn data_plane_lost(&self) {
        self.data_plane_lost.inc();
    }

    pub(crate) fn node_route_lost(&self) {
        self.node_route_lost.inc();
    }

    pub(crate) fn show(
        &self,
        announcements: &BTreeMap<IpNet, Announcement>,
        flapping: usize,
        sessions: &[PeerStatus],
    ) {
        self.flapping
            .set(i64::try_from(flapping).unwrap_or(i64::MAX));
        for (state, label) in STATES {
            let count = announcements
                .values()
                .filter(|it| it.state == state)
                .count();
            self.announcements
                .get_or_create(&vec![("state", label.to_owned())])
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        for peer in sessions {
            self.sessions
                .get_or_create(&vec![("peer", peer.name.clone())])
                .set(is_established(peer).into());
        }
    }
}

impl Collector for SpeakerCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let SpeakerCounters {
            dials,
            dials_failed,
            sessions_established,
            sessions_lost,
            updates_received,
            updates_sent,
            updates_malformed,
            ..
        } = self.0.counters();
        let counters = [
            ("bgp_dials", "Attempts to connect to a peer", dials),
            (
                "bgp_dials_failed",
                "Attempts to connect that failed",
                dials_failed,
            ),
            (
                "bgp_sessions_established",
                "Sessions that came up",
                sessions_established,
            ),
            (
                "bgp_sessions_lost",
                "Established sessions that ended",
                sessions_lost,
            ),
            (
                "bgp_updates_received",
                "UPDATE messages from peers",
                updates_received,
            ),
            ("bgp_updates_sent", "UPDATE messages to peers", updates_sent),
            (
                "bgp_updates_malformed",
                "UPDATE messages with a malformed attribute",
                updates_malformed,
            ),
        ];
        for (name, help, counter) in counters {
            let counter = ConstCounter::new(counter.get());
            let metric = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
            counter.encode(metric)?;
        }
        Ok(())
    }
}
