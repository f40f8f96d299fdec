//! All metrics of this daemon.

use std::collections::BTreeMap;

use bgp_packet::IpNet;
use bgp_speaker::{PeerStatus, SpeakerHandle};
use bgp_status::SpeakerMetrics;
use daemon_runtime::{Counter, Family, Gauge, Labels, Metrics};

use crate::{announcements::State, announcer::Announcement};

/// What the announcer counts.
#[derive(Clone, Debug)]
pub(crate) struct AnnouncerMetrics {
    announcements: Family<Labels, Gauge>,
    flapping: Gauge,
    pub(crate) announced: Counter,
    pub(crate) withdrawn: Counter,
    pub(crate) data_plane_lost: Counter,
    pub(crate) node_route_lost: Counter,
    sessions: Family<Labels, Gauge>,
}

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
        metrics.register_collector(Box::new(SpeakerMetrics::of(speaker.clone())));
        Self {
            announcements: metrics.create(
                "announcements",
                "Service addresses by what has become of them",
            ),
            flapping: metrics.create(
                "announcements_flapping",
                "Service addresses that are least preferred because the data plane stops serving them again and again",
            ),
            announced: metrics.create(
                "announcements_made",
                "Announcements to the BGP sessions, those with changed attributes included",
            ),
            withdrawn: metrics.create("announcements_withdrawn", "Withdrawals"),
            data_plane_lost: metrics.create(
                "data_plane_lost",
                "Ends of the stream of the data plane, and failed attempts to open it",
            ),
            node_route_lost: metrics.create(
                "node_route_lost",
                "Ends of a hold on a node route, and failed attempts to get one",
            ),
            sessions: metrics.create(
                "bgp_session_established",
                "1 while the session with the peer is established, else 0",
            ),
        }
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
                .set(peer.is_established().into());
        }
    }
}
