//! gRPC server of the Discovery contract.

use std::{collections::HashMap, pin::Pin};

use daemon_api::{
    MESSAGE_LIMIT, PageRequest,
    discovery::v1::{
        self as wire,
        discovery_service_server::{DiscoveryService, DiscoveryServiceServer},
        watch_response,
    },
    real_server_part, virtual_server_head,
};
use daemon_runtime::{PublishedEvent, Shutdown};
use futures::{Stream, StreamExt, stream};
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};
use tonic::{Request, Response, Status};
use virtual_server::VirtualServerId;

use crate::{
    index::{DesiredKey, DesiredObject, IndexReader},
    metrics::WatchMetrics,
    roster::PublishedVirtualServer,
};

/// The server of the Discovery contract: it serves the objects that the index publishes.
#[derive(Clone, Debug)]
pub struct DiscoveryGrpc {
    index: IndexReader,
    metrics: WatchMetrics,
    watchers: TaskTracker,
    shutdown: Shutdown,
}

impl DiscoveryGrpc {
    /// Returns the gRPC service. `watchers` counts the open Watch streams.
    pub fn server(
        index: IndexReader,
        metrics: WatchMetrics,
        watchers: TaskTracker,
        shutdown: Shutdown,
    ) -> DiscoveryServiceServer<Self> {
        DiscoveryServiceServer::new(Self {
            index,
            metrics,
            watchers,
            shutdown,
        })
        .max_encoding_message_size(MESSAGE_LIMIT)
    }
}

#[tonic::async_trait]
impl DiscoveryService for DiscoveryGrpc {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<wire::WatchResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<wire::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        tracing::info!(watcher = ?request.remote_addr(), "a client has started a watch");
        let open = OpenWatch::begin(&self.metrics, &self.watchers);
        let shutdown = self.shutdown.clone();
        let mut sent = SentChanges::default();
        let events = self.index.objects.subscribe()?.into_stream();
        let events = events
            .flat_map(move |next| {
                let _open = &open;
                stream::iter(match next {
                    Ok((revision, event)) => sent.responses(revision, event),
                    Err(ended) => vec![Err(ended.into())],
                })
            })
            .take_until(async move { shutdown.stopping().await });
        Ok(Response::new(Box::pin(events)))
    }

    async fn list(
        &self,
        request: Request<wire::ListRequest>,
    ) -> Result<Response<wire::ListResponse>, Status> {
        let request = request.get_ref();
        let request: PageRequest<DesiredKey> =
            PageRequest::new("List".to_owned(), request.page_size, &request.page_token)?;
        let objects = &self.index.objects;
        let snapshot = objects.snapshot_after(request.after.as_ref(), request.limit());
        let page = request.page(snapshot.objects.into_iter().map(|(key, object)| {
            let mut item = wire::ListResponse::default();
            match object {
                DesiredObject::ServiceRange(range) => item.service_ranges.push(range.into()),
                DesiredObject::VirtualServer(published) => {
                    item.virtual_servers.push((&published.whole()).into())
                }
            }
            (key, item)
        }));
        let mut response = wire::ListResponse {
            revision: snapshot.revision,
            synced: snapshot.synced,
            next_page_token: page.next_page_token,
            ..wire::ListResponse::default()
        };
        for item in page.items {
            response.service_ranges.extend(item.service_ranges);
            response.virtual_servers.extend(item.virtual_servers);
        }
        let source = self.index.source.borrow();
        response.source = Some(wire::Source {
            kind: source.description.kind.to_owned(),
            location: source.description.location.clone(),
            last_error: source
                .last_error
                .as_ref()
                .map_or_else(String::new, ToString::to_string),
        });
        drop(source);
        Ok(Response::new(response))
    }
}

/// For each virtual server, the number of its newest change that was sent to one watcher.
#[derive(Debug, Default)]
struct SentChanges {
    sent: HashMap<VirtualServerId, u64>,
}

impl SentChanges {
    /// Returns the messages for an event. For a changed virtual server: the head if it has changed,
    /// and the changed parts. A change counts if it is newer than the last messages to this watcher
    /// about this virtual server.
    fn responses(
        &mut self,
        revision: u64,
        event: PublishedEvent<DesiredKey, DesiredObject>,
    ) -> Vec<Result<wire::WatchResponse, Status>> {
        let events = match event {
            PublishedEvent::Synced => vec![watch_response::Event::Synced(wire::Synced {})],
            PublishedEvent::Changed(_, DesiredObject::ServiceRange(range)) => {
                vec![watch_response::Event::ServiceRange(range.into())]
            }
            PublishedEvent::Changed(_, DesiredObject::VirtualServer(server)) => {
                self.changed(&server)
            }
            PublishedEvent::Removed(DesiredKey::ServiceRange(range)) => {
                vec![watch_response::Event::RemovedServiceRange(range.into())]
            }
            PublishedEvent::Removed(DesiredKey::VirtualServer(id)) => {
                self.sent.remove(&id);
                vec![watch_response::Event::RemovedVirtualServer((&id).into())]
            }
        };
        let count = events.len();
        let response = |(event, number)| {
            Ok(wire::WatchResponse {
                revision,
                event: Some(event),
                complete: number == count,
            })
        };
        events.into_iter().zip(1..).map(response).collect()
    }

    fn changed(&mut self, published: &PublishedVirtualServer) -> Vec<watch_response::Event> {
        let PublishedVirtualServer { head, parts } = published;
        let id = head.server.id;
        let newest = parts.iter().map(|part| part.changed).max();
        let newest = newest.unwrap_or(0).max(head.changed);
        // 0 is below the number of every change, because the first change has the number 1.
        let sent = self.sent.insert(id, newest).unwrap_or(0);
        let head =
            (head.changed > sent).then(|| virtual_server_head(&head.server, head.part_count));
        let parts = parts.iter().enumerate();
        let parts = parts.filter(|(_, part)| part.changed > sent);
        let parts = parts.map(|(number, part)| real_server_part(&id, number, &part.real_servers));
        head.into_iter().chain(parts).collect()
    }
}

/// An open Watch stream. The metric of open watches counts the stream until this value is dropped.
struct OpenWatch {
    metrics: WatchMetrics,
    _watcher: TaskTrackerToken,
}

impl OpenWatch {
    fn begin(metrics: &WatchMetrics, watchers: &TaskTracker) -> Self {
        metrics.watchers.inc();
        Self {
            metrics: metrics.clone(),
            _watcher: watchers.token(),
        }
    }
}

impl Drop for OpenWatch {
    fn drop(&mut self) {
        self.metrics.watchers.dec();
    }
}
