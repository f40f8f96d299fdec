//! Translates between the contracts and our own types: the Announcer contract here, what this
//! daemon asks of others in the modules.

pub mod data_plane;
pub mod node_route;

use std::pin::Pin;

use bgp_packet::IpNet;
use bgp_session::SessionState;
use bgp_speaker::PeerStatus;
use daemon_api::{
    announcer::v1::{
        self as wire,
        announcer_server::{Announcer, AnnouncerServer},
        watch_announcements_response, watch_sessions_response,
    },
    bgp::v1 as bgp,
};
use daemon_runtime::{Event, Shutdown, WatchEnded};
use futures::{Stream, StreamExt, TryStreamExt};
use tonic::{Request, Response, Status};

use crate::{
    announcer::{Announcement, AnnouncerHandle},
    plan::State,
};

type WireStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Serves what the announcer publishes.
#[derive(Clone, Debug)]
pub struct AnnouncerService {
    announcer: AnnouncerHandle,
    shutdown: Shutdown,
}

impl AnnouncerService {
    /// As a service for the server.
    pub fn server(announcer: AnnouncerHandle, shutdown: Shutdown) -> AnnouncerServer<Self> {
        AnnouncerServer::new(Self {
            announcer,
            shutdown,
        })
    }

    fn until_stopping<T: Send + 'static>(
        &self,
        stream: impl Stream<Item = Result<T, WatchEnded>> + Send + 'static,
    ) -> WireStream<T> {
        let shutdown = self.shutdown.clone();
        let stopping = async move { shutdown.stopping().await };
        Box::pin(stream.map_err(Status::from).take_until(stopping))
    }
}

#[tonic::async_trait]
impl Announcer for AnnouncerService {
    async fn list_announcements(
        &self,
        _: Request<wire::ListAnnouncementsRequest>,
    ) -> Result<Response<wire::ListAnnouncementsResponse>, Status> {
        let snapshot = self.announcer.announcements.snapshot();
        let announcements = snapshot.objects.into_iter();
        Ok(Response::new(wire::ListAnnouncementsResponse {
            revision: snapshot.revision,
            announcements: announcements
                .map(|(prefix, announcement)| to_wire(prefix, announcement))
                .collect(),
            draining: *self.announcer.draining.borrow(),
        }))
    }

    type WatchAnnouncementsStream = WireStream<wire::WatchAnnouncementsResponse>;

    async fn watch_announcements(
        &self,
        _: Request<wire::WatchAnnouncementsRequest>,
    ) -> Result<Response<Self::WatchAnnouncementsStream>, Status> {
        use watch_announcements_response::Event as Wire;
        let events = self.announcer.announcements.subscribe()?.into_stream();
        let events = events.map_ok(|(revision, event)| wire::WatchAnnouncementsResponse {
            revision,
            event: Some(match event {
                Event::Changed(prefix, announcement) => {
                    Wire::Announcement(to_wire(prefix, announcement))
                }
                Event::Removed(prefix) => Wire::RemovedAnnouncement(prefix.to_string()),
                Event::Synced => Wire::Synced(wire::Synced {}),
            }),
        });
        Ok(Response::new(self.until_stopping(events)))
    }

    async fn list_sessions(
        &self,
        _: Request<wire::ListSessionsRequest>,
    ) -> Result<Response<wire::ListSessionsResponse>, Status> {
        let peers = self.announcer.speaker.peers().await;
        let peers = peers.map_err(|error| Status::unavailable(error.to_string()))?;
        let asn = self.announcer.local_asn;
        Ok(Response::new(wire::ListSessionsResponse {
            revision: self.announcer.sessions.snapshot().revision,
            sessions: peers.iter().map(|peer| session(peer, asn)).collect(),
        }))
    }

    type WatchSessionsStream = WireStream<wire::WatchSessionsResponse>;

    async fn watch_sessions(
        &self,
        _: Request<wire::WatchSessionsRequest>,
    ) -> Result<Response<Self::WatchSessionsStream>, Status> {
        use watch_sessions_response::Event as Wire;
        let asn = self.announcer.local_asn;
        let events = self.announcer.sessions.subscribe()?.into_stream();
        let events = events.map_ok(move |(revision, event)| wire::WatchSessionsResponse {
            revision,
            event: Some(match event {
                Event::Changed(_, peer) => Wire::Session(session(&peer, asn)),
                Event::Removed(name) => Wire::RemovedSession(name),
                Event::Synced => Wire::Synced(wire::Synced {}),
            }),
        });
        Ok(Response::new(self.until_stopping(events)))
    }

    async fn drain(
        &self,
        _: Request<wire::DrainRequest>,
    ) -> Result<Response<wire::DrainResponse>, Status> {
        let withdrawn = self.announcer.drain().await;
        let withdrawn = withdrawn.map_err(|error| Status::aborted(error.to_string()))?;
        Ok(Response::new(wire::DrainResponse {
            withdrawn: withdrawn.iter().map(ToString::to_string).collect(),
        }))
    }

    async fn undrain(
        &self,
        _: Request<wire::UndrainRequest>,
    ) -> Result<Response<wire::UndrainResponse>, Status> {
        let undrained = self.announcer.undrain().await;
        undrained.map_err(|_| {
            Status::failed_precondition("the process is about to end, which is not reverted")
        })?;
        Ok(Response::new(wire::UndrainResponse {}))
    }
}

fn to_wire(prefix: IpNet, announcement: Announcement) -> wire::Announcement {
    let state = match announcement.state {
        State::NotServing => wire::AnnouncementState::NotServing,
        State::Refused => wire::AnnouncementState::Refused,
        State::WaitingForNodeRoute => wire::AnnouncementState::WaitingForNodeRoute,
        State::WaitingForSession => wire::AnnouncementState::WaitingForSession,
        State::Announced => wire::AnnouncementState::Announced,
        State::LeastPreferred => wire::AnnouncementState::LeastPreferred,
        State::Draining => wire::AnnouncementState::Draining,
        State::Drained => wire::AnnouncementState::Drained,
    };
    let next_hop = announcement.next_hop.map(|next_hop| {
        if next_hop.is_unspecified() {
            "self".to_owned()
        } else {
            next_hop.to_string()
        }
    });
    wire::Announcement {
        prefix: prefix.to_string(),
        state: state.into(),
        detail: announcement.detail,
        next_hop: next_hop.unwrap_or_default(),
        announced_to: announcement.announced_to,
    }
}

fn session(peer: &PeerStatus, local_asn: bgp_packet::Asn) -> bgp::Session {
    let status = &peer.session;
    let negotiated = status.negotiated.as_ref();
    let state = match status.state {
        SessionState::Idle => bgp::SessionState::Idle,
        SessionState::Connect => bgp::SessionState::Connect,
        SessionState::Active => bgp::SessionState::Active,
        SessionState::OpenSent => bgp::SessionState::OpenSent,
        SessionState::OpenConfirm => bgp::SessionState::OpenConfirm,
        SessionState::Established => bgp::SessionState::Established,
    };
    let families = negotiated
        .map(|it| it.families.as_slice())
        .unwrap_or_default();
    let seconds = |time: Option<std::time::Duration>| {
        u32::try_from(time.unwrap_or_default().as_secs()).unwrap_or(u32::MAX)
    };
    let milliseconds =
        |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let last_error = status.last_error.as_ref();
    let asn = negotiated.map(|it| it.peer_asn).or(peer.configured_asn);
    bgp::Session {
        peer: peer.name.clone(),
        peer_address: peer.address.ip().to_string(),
        peer_asn: asn.map_or(0, |asn| asn.0),
        peer_router_id: negotiated
            .map(|it| it.peer_router_id.to_string())
            .unwrap_or_default(),
        group: peer.group.clone().unwrap_or_default(),
        state: state.into(),
        local_address: peer
            .local_address
            .map(|address| address.ip().to_string())
            .unwrap_or_default(),
        local_asn: local_asn.0,
        hold_time_seconds: seconds(negotiated.and_then(|it| it.hold_time)),
        keepalive_interval_seconds: seconds(negotiated.and_then(|it| it.keepalive_interval())),
        hold_timer_remaining_milliseconds: peer.hold_timer_remaining.map_or(0, milliseconds),
        milliseconds_in_state: milliseconds(peer.in_state),
        established_count: status.counters.established,
        families: families.iter().map(family).collect(),
        last_error: last_error
            .map(|(_, error)| error.to_string())
            .unwrap_or_default(),
        messages_received: status.counters.messages_received,
        messages_sent: status.counters.messages_sent,
        updates_received: status.counters.updates_received,
        updates_sent: status.counters.updates_sent,
        paths_received: peer.counts.paths_received as u64,
        paths_sent: peer.counts.paths_sent as u64,
    }
}

fn family(family: &bgp_session::NegotiatedFamily) -> bgp::NegotiatedFamily {
    let add_path = match (family.add_path_send, family.add_path_receive) {
        (false, false) => bgp::AddPath::Unspecified,
        (true, false) => bgp::AddPath::Send,
        (false, true) => bgp::AddPath::Receive,
        (true, true) => bgp::AddPath::Both,
    };
    bgp::NegotiatedFamily {
        family: bgp::Family::from(family.family).into(),
        add_path: add_path.into(),
    }
}
