//! Translation between gRPC contracts and the types of this crate. This file serves
//! AnnouncerService. The submodules are clients of the data plane and of node-router.

pub mod data_plane;
pub mod node_route;

use std::pin::Pin;

use bgp_packet::IpNet;
use bgp_speaker::SpeakerEnded;
use bgp_status::SessionPage;
use daemon_api::{
    PageRequest,
    announcer::v1::{
        self as wire,
        announcer_service_server::{AnnouncerService, AnnouncerServiceServer},
        watch_announcements_response, watch_sessions_response,
    },
    total_size,
};
use daemon_runtime::{PublishedEvent, Shutdown, WatchEnded};
use futures::{Stream, StreamExt, TryStreamExt};
use tonic::{Request, Response, Status};

use crate::{
    announcements::AddressState,
    announcer::{AnnouncementStatus, AnnouncerHandle},
};

type WireStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The server of AnnouncerService.
#[derive(Clone, Debug)]
pub struct AnnouncerGrpc {
    announcer: AnnouncerHandle,
    shutdown: Shutdown,
}

impl AnnouncerGrpc {
    /// Returns the gRPC service that serves the state of `announcer` until `shutdown`.
    pub fn server(announcer: AnnouncerHandle, shutdown: Shutdown) -> AnnouncerServiceServer<Self> {
        AnnouncerServiceServer::new(Self {
            announcer,
            shutdown,
        })
    }

    fn until_stopping<T: Send + 'static>(
        &self,
        stream: impl Stream<Item = Result<T, WatchEnded>> + Send + 'static,
    ) -> WireStream<T> {
        let stream = stream.map_err(Status::from);
        Box::pin(stream.take_until(self.shutdown.stopping()))
    }
}

#[tonic::async_trait]
impl AnnouncerService for AnnouncerGrpc {
    async fn list_announcements(
        &self,
        request: Request<wire::ListAnnouncementsRequest>,
    ) -> Result<Response<wire::ListAnnouncementsResponse>, Status> {
        let request = request.get_ref();
        let request = PageRequest::new(
            "ListAnnouncements".into(),
            request.page_size,
            &request.page_token,
        )?;
        let announcements = &self.announcer.announcements;
        let snapshot = announcements.snapshot_after(request.after.as_ref(), request.limit());
        let announcements = snapshot.objects.into_iter();
        let page = request.page(
            announcements.map(|(prefix, announcement)| (prefix, to_wire(prefix, announcement))),
        );
        Ok(Response::new(wire::ListAnnouncementsResponse {
            revision: snapshot.revision,
            announcements: page.items,
            draining: *self.announcer.draining.borrow(),
            next_page_token: page.next_page_token,
            total_size: total_size(snapshot.total),
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
                PublishedEvent::Changed(prefix, announcement) => {
                    Wire::Announcement(to_wire(prefix, announcement))
                }
                PublishedEvent::Removed(prefix) => Wire::RemovedAnnouncement(prefix.to_string()),
                PublishedEvent::Synced => Wire::Synced(wire::Synced {}),
            }),
        });
        Ok(Response::new(self.until_stopping(events)))
    }

    async fn list_sessions(
        &self,
        request: Request<wire::ListSessionsRequest>,
    ) -> Result<Response<wire::ListSessionsResponse>, Status> {
        let request = request.get_ref();
        let request = PageRequest::new(
            "ListSessions".into(),
            request.page_size,
            &request.page_token,
        )?;
        let SessionPage {
            page,
            refused,
            total_size,
        } = bgp_status::session_page(&self.announcer.speaker, self.announcer.local_asn, request)
            .await
            .map_err(speaker_ended)?;
        Ok(Response::new(wire::ListSessionsResponse {
            revision: self.announcer.sessions.snapshot_after(None, 0).revision,
            sessions: page.items,
            refused_sessions: refused,
            next_page_token: page.next_page_token,
            total_size,
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
                PublishedEvent::Changed(_, peer) => Wire::Session(bgp_status::session(asn, &peer)),
                PublishedEvent::Removed(name) => Wire::RemovedSession(name),
                PublishedEvent::Synced => Wire::Synced(wire::Synced {}),
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
            Status::failed_precondition("cannot revert the drain: the process is shutting down")
        })?;
        Ok(Response::new(wire::UndrainResponse {}))
    }
}

fn speaker_ended(error: SpeakerEnded) -> Status {
    Status::unavailable(error.to_string())
}

fn to_wire(prefix: IpNet, announcement: AnnouncementStatus) -> wire::Announcement {
    let state = match announcement.state {
        AddressState::NotServing => wire::AnnouncementState::NotServing,
        AddressState::Refused => wire::AnnouncementState::Refused,
        AddressState::WaitingForNodeRoute => wire::AnnouncementState::WaitingForNodeRoute,
        AddressState::WaitingForSession => wire::AnnouncementState::WaitingForSession,
        AddressState::Announced => wire::AnnouncementState::Announced,
        AddressState::LeastPreferred => wire::AnnouncementState::LeastPreferred,
        AddressState::Draining => wire::AnnouncementState::Draining,
        AddressState::Drained => wire::AnnouncementState::Drained,
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
