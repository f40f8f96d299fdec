//! The Discovery contract: translates, and asks the index.

use std::pin::Pin;

use daemon_api::{
    MESSAGE_LIMIT,
    discovery::v1::{
        self as wire,
        discovery_server::{Discovery, DiscoveryServer},
        watch_response,
    },
    message_size,
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
        .max_encoding_message_size(MESSAGE_LIMIT)
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
            .subscribe()?
            .into_stream()
            .filter_map(move |next| {
                let response = match next {
                    Ok((revision, event)) => {
                        response(revision, event, MESSAGE_LIMIT, &open.metrics).map(Ok)
                    }
                    Err(ended) => Some(Err(ended.into())),
                };
                std::future::ready(response)
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

/// Returns the message about an event; `None` if no receiver would take it. The receiver keeps the
/// last state of that object, and hears of all others.
fn response(
    revision: u64,
    event: Event<Key, Object>,
    limit: usize,
    metrics: &WatchMetrics,
) -> Option<wire::WatchResponse> {
    let response = wire::WatchResponse {
        revision,
        event: Some(watch_event(event)),
    };
    let bytes = message_size(&response);
    if bytes <= limit {
        return Some(response);
    }
    metrics.oversized.inc();
    let name = match &response.event {
        Some(watch_response::Event::VirtualServer(server)) => server.name.as_str(),
        Some(
            watch_response::Event::RemovedVirtualServer(_)
            | watch_response::Event::ServiceRange(_)
            | watch_response::Event::RemovedServiceRange(_)
            | watch_response::Event::Synced(_),
        )
        | None => "",
    };
    tracing::error!(
        virtual_server = name,
        bytes,
        limit,
        "an object is too large for a message and is left out; the data plane keeps its last state"
    );
    None
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

#[cfg(test)]
mod tests {
    use virtual_server::ServiceRange;

    use super::*;

    #[test]
    fn an_object_above_the_limit_is_left_out_and_counted() {
        let metrics = WatchMetrics::default();
        let range: ServiceRange = "10.1.1.0/24".parse().unwrap();
        let event = || Event::Changed(Key::ServiceRange(range), Object::ServiceRange(range));
        let sent = response(1, event(), MESSAGE_LIMIT, &metrics).unwrap();
        let size = message_size(&sent);
        assert_eq!(metrics.oversized.get(), 0);
        assert_eq!(response(1, event(), size - 1, &metrics), None);
        assert_eq!(metrics.oversized.get(), 1);
        assert!(response(1, event(), size, &metrics).is_some());
    }
}
