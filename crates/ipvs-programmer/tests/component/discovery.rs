//! A stand-in for pod-watcher: a Discovery that says what a test tells it.

use std::{net::SocketAddr, pin::Pin};

use daemon_api::discovery::v1::{
    ListRequest, ListResponse, Synced, WatchRequest, WatchResponse,
    discovery_server::{Discovery, DiscoveryServer},
    watch_response::Event,
};
use futures::{Stream, StreamExt, stream};
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};
use virtual_server::{DesiredChange, DesiredSet};

/// Serves until it is dropped.
#[derive(Debug)]
pub(crate) struct StandIn {
    pub(crate) address: SocketAddr,
    desired: watch::Sender<Option<Vec<Event>>>,
    _stop: oneshot::Sender<()>,
}

#[derive(Clone)]
struct Service(watch::Receiver<Option<Vec<Event>>>);

impl StandIn {
    /// Listens, but says nothing yet.
    pub(crate) async fn silent(address: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let desired = watch::Sender::new(None);
        let service = DiscoveryServer::new(Service(desired.subscribe()));
        let (stop, stopped) = oneshot::channel::<()>();
        let incoming = TcpListenerStream::new(listener);
        let server = Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming_shutdown(incoming, async move {
            let _ = stopped.await;
        }));
        Self {
            address,
            desired,
            _stop: stop,
        }
    }

    /// Says this set to whoever watches, as a new stream would.
    pub(crate) fn say(&self, set: &DesiredSet) {
        let changes = DesiredSet::default().changes_to(set);
        self.say_events(changes.iter().map(Event::from).collect());
    }

    /// Says these events as a whole set.
    pub(crate) fn say_events(&self, events: Vec<Event>) {
        self.desired.send_replace(Some(events));
    }
}

/// An event of a whole virtual server.
pub(crate) fn event(change: &DesiredChange) -> Event {
    change.into()
}

#[tonic::async_trait]
impl Discovery for Service {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

    /// Each set ends the stream of the set before, so that the client comes for it anew.
    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let mut desired = self.0.clone();
        let events = desired
            .wait_for(Option::is_some)
            .await
            .unwrap()
            .clone()
            .unwrap();
        let events = events.into_iter().chain([Event::Synced(Synced {})]);
        let said = stream::iter(events.collect::<Vec<_>>()).map(|event| {
            Ok(WatchResponse {
                revision: 1,
                event: Some(event),
            })
        });
        let until_next = stream::once(async move {
            let _ = desired.changed().await;
            Err(Status::unavailable("there is a newer set"))
        });
        Ok(Response::new(Box::pin(said.chain(until_next))))
    }

    async fn list(&self, _: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }
}
