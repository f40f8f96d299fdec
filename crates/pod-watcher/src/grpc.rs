//! The Discovery contract: translates, and asks the index.

use std::pin::Pin;

use daemon_api::discovery::v1::{
    self as wire,
    discovery_server::{Discovery, DiscoveryServer},
    watch_response,
};
use daemon_runtime::{Event, Shutdown};
use futures::{Stream, StreamExt};
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};
use tonic::{Request, Response, Status};
use virtual_server::DesiredChange;

use crate::{
    index::{IndexReader, Key, Object},
    metrics::WatchMetrics,
};

/// Serves what the index publishes.
#[derive(Clone, Debug)]
pub struct DiscoveryService {
    index: IndexReader,
    metrics: WatchMetrics,
    watchers: TaskTracker,
    shutdown: Shutdown,
}

impl DiscoveryService {
    /// As a service for the server; `watchers` tells when nobody watches.
    pub fn server(
        index: IndexReader,
        metrics: WatchMetrics,
        watchers: TaskTracker,
        shutdown: Shutdown,
    ) -> DiscoveryServer<Self> {
        DiscoveryServer::new(Self {
            index,
            metrics,
            watchers,
            shutdown,
        })
    }
}

#[tonic::async_trait]
impl Discovery for DiscoveryService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<wire::WatchResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<wire::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        tracing::info!(watcher = ?request.remote_addr(), "a watch has begun");
        let open = OpenWatch::begin(&self.metrics, &self.watchers);
        let shutdown = self.shutdown.clone();
        let events = self
            .index
            .objects
            .subscribe()
            .into_stream()
            .map(move |(revision, event)| {
                let _ = &open;
                Ok(wire::WatchResponse {
                    revision,
                    event: Some(watch_event(event)),
                })
            })
            .take_until(async move { shutdown.stopping().await });
        Ok(Response::new(Box::pin(events)))
    }

    async fn list(
        &self,
        _: Request<wire::ListRequest>,
    ) -> Result<Response<wire::ListResponse>, Status> {
        let snapshot = self.index.objects.snapshot();
        let mut response = wire::ListResponse {
            revision: snapshot.revision,
            synced: snapshot.synced,
            ..wire::ListResponse::default()
        };
        for (_, object) in snapshot.objects {
            match object {
                Object::ServiceRange(range) => response.service_ranges.push(range.into()),
                Object::VirtualServer(server) => response.virtual_servers.push((&server).into()),
            }
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

fn watch_event(event: Event<Key, Object>) -> watch_response::Event {
    let change = match event {
        Event::Synced => return watch_response::Event::Synced(wire::Synced {}),
        Event::Changed(_, Object::ServiceRange(range)) => DesiredChange::PutServiceRange(range),
        Event::Changed(_, Object::VirtualServer(server)) => DesiredChange::PutVirtualServer(server),
        Event::Removed(Key::ServiceRange(range)) => DesiredChange::RemoveServiceRange(range),
        Event::Removed(Key::VirtualServer(id)) => DesiredChange::RemoveVirtualServer(id),
    };
    (&change).into()
}

/// Counts a stream for as long as it lives.
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
