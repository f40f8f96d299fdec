//! Metrics of bgp-announcer.

use std::collections::BTreeMap;

use bgp_packet::IpNet;
use bgp_speaker::{PeerStatus, SpeakerHandle};
use bgp_status::SpeakerMetrics;
use daemon_runtime::{Counter, Family, Gauge, Labels, Metrics};

use crate::{announcements::AddressState, announcer::AnnouncementStatus};

/// The metrics that the announcer task updates.
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

const STATES: [(AddressState, &str); 8] = [
    (AddressState::NotServing, "not_serving"),
    (AddressState::Refused, "refused"),
    (AddressState::WaitingForNodeRoute, "waiting_for_node_route"),
    (AddressState::WaitingForSession, "waiting_for_session"),
    (AddressState::Announced, "announced"),
    (AddressState::LeastPreferred, "least_preferred"),
    (AddressState::Draining, "draining"),
    (AddressState::Drained, "drained"),
];

impl AnnouncerMetrics {
    pub(crate) fn register(metrics: &Metrics, speaker: &SpeakerHandle) -> Self {
        metrics.register_collector(Box::new(SpeakerMetrics::of(speaker.clone())));
        Self {
            announcements: metrics.create(
                "announcements",
                "Service addresses by the state of their announcement",
            ),
            flapping: metrics.create(
                "announcements_flapping",
                "Service addresses that are announced as least preferred because they flap: the data plane stopped serving them more than 3 times within 30 s",
            ),
            announced: metrics.create(
                "announcements_made",
                "Announcements of service addresses to the BGP sessions, including announcements with changed attributes",
            ),
            withdrawn: metrics.create("announcements_withdrawn",
                            "Withdrawals of service addresses from the BGP sessions",),
            data_plane_lost: metrics.create(
                "data_plane_lost",
                "Streams of the data plane that ended, and failed attempts to open a stream",
            ),
            node_route_lost: metrics.create(
                "node_route_lost",
                "Holds of node routes that ended, and failed attempts to hold a node route",
            ),
            sessions: metrics.create(
                "bgp_session_established",
                "1 if the BGP session with the peer is established, 0 if not",
            ),
        }
    }

    pub(crate) fn update(
        &self,
        announcements: &BTreeMap<IpNet, AnnouncementStatus>,
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
