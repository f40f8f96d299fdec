//! Fake Discovery server that replaces pod-watcher in tests.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use daemon_api::{
    LARGEST_PART,
    discovery::v1::{
        ListRequest, ListResponse, Synced, WatchRequest, WatchResponse,
        discovery_service_server::{DiscoveryService, DiscoveryServiceServer},
        watch_response::Event,
    },
    real_server_part, virtual_server_head,
};
use futures::{Stream, StreamExt, stream};
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};
use virtual_server::{DesiredChange, DesiredSet};

/// A Discovery server for tests. It stops when it is dropped.
#[derive(Debug)]
pub struct FakeDiscovery {
    pub address: SocketAddr,
    desired: watch::Sender<Option<Vec<Vec<Event>>>>,
    /// Whether each stream ends with an error before `synced`.
    breaks: Arc<AtomicBool>,
    opened: watch::Sender<usize>,
    _stop: oneshot::Sender<()>,
}

#[derive(Clone)]
struct FakeDiscoveryService {
    desired: watch::Receiver<Option<Vec<Vec<Event>>>>,
    breaks: Arc<AtomicBool>,
    opened: watch::Sender<usize>,
}

impl FakeDiscovery {
    /// Starts a server that sends no desired set until the test calls [`publish`](Self::publish).
    pub async fn start(address: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let desired = watch::Sender::new(None);
        let breaks = Arc::new(AtomicBool::new(false));
        let opened = watch::Sender::new(0);
        let service = DiscoveryServiceServer::new(FakeDiscoveryService {
            desired: desired.subscribe(),
            breaks: Arc::clone(&breaks),
            opened: opened.clone(),
        });
        let (stop, stopped) = oneshot::channel::<()>();
        let incoming = TcpListenerStream::new(listener);
        let server = Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming_shutdown(incoming, async move {
            let _ = stopped.await;
        }));
        Self {
            address,
            desired,
            breaks,
            opened,
            _stop: stop,
        }
    }

    /// Ends the open streams with an error. Then each new stream sends `set` as its desired set.
    pub fn publish(&self, set: &DesiredSet) {
        let changes = DesiredSet::default().changes_to(set);
        self.publish_changes(changes.iter().map(events).collect());
    }

    /// Sets whether each new stream ends with an error before `synced`.
    pub fn break_streams(&self, are_broken: bool) {
        self.breaks.store(are_broken, Ordering::SeqCst);
    }

    /// Returns a receiver of the number of opened streams.
    pub fn opened(&self) -> watch::Receiver<usize> {
        self.opened.subscribe()
    }

    /// Ends the open streams with an error. Then each new stream sends the events of `changes` as
    /// its complete desired set.
    pub fn publish_changes(&self, changes: Vec<Vec<Event>>) {
        self.desired.send_replace(Some(changes));
    }
}

/// Returns the events in which a Discovery server sends `change`.
pub fn events(change: &DesiredChange) -> Vec<Event> {
    match change {
        DesiredChange::RemoveServiceRange(range) => {
            vec![Event::RemovedServiceRange((*range).into())]
        }
        DesiredChange::RemoveVirtualServer(id) => vec![Event::RemovedVirtualServer(id.into())],
        DesiredChange::PutServiceRange(range) => vec![Event::ServiceRange((*range).into())],
        DesiredChange::PutVirtualServer(server) => {
            let parts = server.real_servers.chunks(LARGEST_PART);
            let head = virtual_server_head(server, parts.len());
            let parts = parts.enumerate();
            let parts = parts.map(|(number, part)| real_server_part(&server.id, number, part));
            [head].into_iter().chain(parts).collect()
        }
    }
}

/// Returns the messages that contain the events of these changes.
fn messages(changes: Vec<Vec<Event>>) -> Vec<WatchResponse> {
    let mut messages = Vec::new();
    for events in changes {
        let last = events.len();
        messages.extend(
            events
                .into_iter()
                .zip(1..)
                .map(|(event, number)| WatchResponse {
                    revision: 1,
                    event: Some(event),
                    complete: number == last,
                }),
        );
    }
    messages
}

#[tonic::async_trait]
impl DiscoveryService for FakeDiscoveryService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

    /// A stream sends one desired set. It ends with an error when the next set is published, so
    /// that the client opens a new stream.
    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let mut desired = self.desired.clone();
        self.opened.send_modify(|count| *count += 1);
        let changes = desired
            .wait_for(Option::is_some)
            .await
            .unwrap()
            .clone()
            .unwrap();
        if self.breaks.load(Ordering::SeqCst) {
            let first = messages(changes).into_iter().next().map(Ok);
            let broken = stream::iter([Err(Status::internal("the stream broke (test)"))]);
            return Ok(Response::new(Box::pin(stream::iter(first).chain(broken))));
        }
        let synced = vec![Event::Synced(Synced {})];
        let sent = messages([changes, vec![synced]].concat());
        let sent = stream::iter(sent).map(Ok);
        let until_next = stream::once(async move {
            let _ = desired.changed().await;
            Err(Status::aborted("the watcher did not read"))
        });
        Ok(Response::new(Box::pin(sent.chain(until_next))))
    }

    async fn list(&self, _: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }
}
