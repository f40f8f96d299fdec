//! A fake bgp-announcer that reports prefixes as announced.

use std::net::SocketAddr;
use std::pin::Pin;

use daemon_api::announcer::v1::announcer_service_server::{
    AnnouncerService, AnnouncerServiceServer,
};
use daemon_api::announcer::v1::watch_announcements_response::Event;
use daemon_api::announcer::v1::{
    Announcement, AnnouncementState, DrainRequest, DrainResponse, ListAnnouncementsRequest,
    ListAnnouncementsResponse, ListSessionsRequest, ListSessionsResponse, Synced, UndrainRequest,
    UndrainResponse, WatchAnnouncementsRequest, WatchAnnouncementsResponse, WatchSessionsRequest,
    WatchSessionsResponse,
};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status};

type EventStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A server of the announcer contract that reports each of its prefixes as announced to one peer.
pub(crate) struct FakeAnnouncer {
    prefixes: watch::Sender<Vec<String>>,
    pub(crate) address: SocketAddr,
    _runtime: Runtime,
}

struct FakeAnnouncerService(watch::Receiver<Vec<String>>);

impl FakeAnnouncer {
    pub(crate) fn start(prefixes: &[&str]) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (sender, receiver) = watch::channel(Vec::new());
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move {
            tonic::transport::Server::builder()
                .add_service(AnnouncerServiceServer::new(FakeAnnouncerService(receiver)))
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
        });
        let announcer = Self {
            prefixes: sender,
            address,
            _runtime: runtime,
        };
        announcer.announce(prefixes);
        announcer
    }

    pub(crate) fn announce(&self, prefixes: &[&str]) {
        let prefixes = prefixes.iter().map(|&prefix| prefix.to_owned()).collect();
        self.prefixes.send_replace(prefixes);
    }
}

#[tonic::async_trait]
impl AnnouncerService for FakeAnnouncerService {
    type WatchAnnouncementsStream = EventStream<WatchAnnouncementsResponse>;
    type WatchSessionsStream = EventStream<WatchSessionsResponse>;

    async fn watch_announcements(
        &self,
        _: Request<WatchAnnouncementsRequest>,
    ) -> Result<Response<Self::WatchAnnouncementsStream>, Status> {
        let mut prefixes = self.0.clone();
        let (sender, receiver) = mpsc::channel(64);
        tokio::spawn(async move {
            let mut sent: Vec<String> = Vec::new();
            loop {
                let current = prefixes.borrow_and_update().clone();
                let removed = sent.iter().filter(|prefix| !current.contains(prefix));
                let removed = removed.cloned().map(Event::RemovedAnnouncement);
                let announced = current.iter().cloned().map(announced);
                for event in removed.chain(announced).chain([Event::Synced(Synced {})]) {
                    let response = WatchAnnouncementsResponse {
                        revision: 1,
                        event: Some(event),
                    };
                    if sender.send(Ok(response)).await.is_err() {
                        return;
                    }
                }
                sent = current;
                if prefixes.changed().await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn list_announcements(
        &self,
        _: Request<ListAnnouncementsRequest>,
    ) -> Result<Response<ListAnnouncementsResponse>, Status> {
        Err(Status::unimplemented(
            "the fake announcer has only watches of announcements",
        ))
    }

    async fn list_sessions(
        &self,
        _: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        Err(Status::unimplemented("the fake announcer has no sessions"))
    }

    async fn watch_sessions(
        &self,
        _: Request<WatchSessionsRequest>,
    ) -> Result<Response<Self::WatchSessionsStream>, Status> {
        Err(Status::unimplemented("the fake announcer has no sessions"))
    }

    async fn drain(&self, _: Request<DrainRequest>) -> Result<Response<DrainResponse>, Status> {
        Err(Status::unimplemented("the fake announcer does not drain"))
    }

    async fn undrain(
        &self,
        _: Request<UndrainRequest>,
    ) -> Result<Response<UndrainResponse>, Status> {
        Err(Status::unimplemented("the fake announcer does not drain"))
    }
}

fn announced(prefix: String) -> Event {
    Event::Announcement(Announcement {
        prefix,
        state: AnnouncementState::Announced.into(),
        announced_to: vec!["router".to_owned()],
        ..Announcement::default()
    })
}
