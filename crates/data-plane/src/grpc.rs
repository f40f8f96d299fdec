//! gRPC server of the contract DataPlaneService.

mod convert;

use std::{collections::BTreeMap, pin::Pin, time::Duration};

use daemon_api::{
    MESSAGE_LIMIT, PageBuilder, PageRequest,
    dataplane::v1::{
        self as wire,
        data_plane_service_server::{DataPlaneService, DataPlaneServiceServer},
        watch_service_addresses_response, watch_virtual_servers_response,
    },
    period, total_size,
};
use daemon_runtime::{PublishedEvent, Shutdown, Subscription, WatchEnded, wait_until};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use ipnet::IpNet;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tonic::{Response, Status};

use crate::{
    forwarder::ConnectionCounters,
    owner::{OwnerRequest, Published},
    status::ServiceAddressStatus,
};

const SHORTEST_HEARTBEAT: Duration = Duration::from_millis(100);
/// Longest heartbeat interval. A longer requested interval counts as this interval, so that adding
/// it to the clock cannot overflow.
const LONGEST_HEARTBEAT: Duration = Duration::from_secs(3600);

/// The gRPC service, which reads the published state of the owner.
#[derive(Clone, Debug)]
pub(crate) struct DataPlaneGrpc<C> {
    published: Published,
    requests: mpsc::Sender<OwnerRequest>,
    counters: C,
    shutdown: Shutdown,
}

type ResponseStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl<C: ConnectionCounters> DataPlaneGrpc<C> {
    /// Returns the service for the gRPC server.
    pub(crate) fn server(
        published: Published,
        requests: mpsc::Sender<OwnerRequest>,
        counters: C,
        shutdown: Shutdown,
    ) -> DataPlaneServiceServer<Self> {
        DataPlaneServiceServer::new(Self {
            published,
            requests,
            counters,
            shutdown,
        })
        .max_encoding_message_size(MESSAGE_LIMIT)
    }

    fn until_stopped<T>(
        &self,
        events: impl Stream<Item = Result<T, Status>> + Send + 'static,
    ) -> Response<ResponseStream<T>> {
        let stopping = self.shutdown.stopping();
        Response::new(Box::pin(events.take_until(stopping)))
    }
}

#[tonic::async_trait]
impl<C: ConnectionCounters> DataPlaneService for DataPlaneGrpc<C> {
    type WatchServiceAddressesStream = ResponseStream<wire::WatchServiceAddressesResponse>;
    type WatchVirtualServersStream = ResponseStream<wire::WatchVirtualServersResponse>;

    async fn watch_service_addresses(
        &self,
        request: tonic::Request<wire::WatchServiceAddressesRequest>,
    ) -> Result<Response<Self::WatchServiceAddressesStream>, Status> {
        let interval = request.into_inner().heartbeat_interval;
        let interval = period("heartbeat_interval", interval)?;
        let heartbeat =
            (!interval.is_zero()).then(|| interval.clamp(SHORTEST_HEARTBEAT, LONGEST_HEARTBEAT));
        let watch = ServiceAddressWatch {
            subscription: self.published.service_addresses.subscribe()?,
            alive: self.published.alive.clone(),
            heartbeat,
            last_sent: Instant::now(),
            revision: 0,
        };
        let events = stream::unfold(watch, |mut watch| async move {
            let response = watch.next().await?;
            Some((response.map_err(Status::from), watch))
        });
        Ok(self.until_stopped(events))
    }

    async fn list_service_addresses(
        &self,
        request: tonic::Request<wire::ListServiceAddressesRequest>,
    ) -> Result<Response<wire::ListServiceAddressesResponse>, Status> {
        let request = request.get_ref();
        let request = PageRequest::new(
            "ListServiceAddresses".into(),
            request.page_size,
            &request.page_token,
        )?;
        let addresses = &self.published.service_addresses;
        let snapshot = addresses.snapshot_after(request.after.as_ref(), request.limit());
        let page = request.page(snapshot.objects.into_iter().map(|(prefix, status)| {
            let address = convert::service_address(prefix, &status);
            (prefix, address)
        }));
        Ok(Response::new(wire::ListServiceAddressesResponse {
            revision: snapshot.revision,
            service_addresses: page.items,
            next_page_token: page.next_page_token,
            total_size: total_size(snapshot.total),
        }))
    }

    async fn watch_virtual_servers(
        &self,
        _: tonic::Request<wire::WatchVirtualServersRequest>,
    ) -> Result<Response<Self::WatchVirtualServersStream>, Status> {
        use watch_virtual_servers_response::Event as Wire;
        let events = self.published.virtual_servers.subscribe()?.into_stream();
        let events = events.map_err(Status::from).map_ok(|(revision, event)| {
            let event =
                match event {
                    PublishedEvent::Changed(_, status) => Wire::VirtualServer(
                        convert::virtual_server(&status, &BTreeMap::new(), |_| None),
                    ),
                    PublishedEvent::Removed(id) => Wire::RemovedVirtualServer((&id).into()),
                    PublishedEvent::Synced => Wire::Synced(wire::Synced {}),
                };
            wire::WatchVirtualServersResponse {
                revision,
                event: Some(event),
            }
        });
        Ok(self.until_stopped(events))
    }

    async fn list_virtual_servers(
        &self,
        request: tonic::Request<wire::ListVirtualServersRequest>,
    ) -> Result<Response<wire::ListVirtualServersResponse>, Status> {
        let request = request.get_ref();
        let request = PageRequest::new(
            "ListVirtualServers".into(),
            request.page_size,
            &request.page_token,
        )?;
        let (answer, durations) = oneshot::channel();
        let stopping = || Status::unavailable("the daemon is stopping");
        let asked = self
            .requests
            .send(OwnerRequest::HealthCheckDurations(answer))
            .await;
        asked.map_err(|_| stopping())?;
        let durations = durations.await.map_err(|_| stopping())?;
        let virtual_servers = &self.published.virtual_servers;
        let snapshot = virtual_servers.snapshot_after(request.after.as_ref(), request.limit());
        let mut page = PageBuilder::new(request);
        for (id, status) in snapshot.objects {
            let connections = self.counters.read(id, status.firewall_mark).await;
            let duration = |key| durations.get(&key).copied();
            if !page.push(id, convert::virtual_server(&status, &connections, duration)) {
                break;
            }
        }
        let page = page.finish();
        Ok(Response::new(wire::ListVirtualServersResponse {
            revision: snapshot.revision,
            virtual_servers: page.items,
            next_page_token: page.next_page_token,
            total_size: total_size(snapshot.total),
        }))
    }
}

/// The state of one watch of service addresses.
struct ServiceAddressWatch {
    subscription: Subscription<IpNet, ServiceAddressStatus>,
    alive: watch::Receiver<u64>,
    heartbeat: Option<Duration>,
    last_sent: Instant,
    revision: u64,
}

impl ServiceAddressWatch {
    /// Waits for the next message of the watch. Returns an error or `None` at the end of the watch;
    /// do not call it after that.
    async fn next(&mut self) -> Option<Result<wire::WatchServiceAddressesResponse, WatchEnded>> {
        use watch_service_addresses_response::Event as Wire;
        let due = self.heartbeat.map(|heartbeat| self.last_sent + heartbeat);
        let alive = &mut self.alive;
        // A heartbeat is sent only after the owner has given a sign of life at or after the time at
        // which the heartbeat was due.
        let heartbeat = async {
            wait_until(due).await;
            alive.mark_unchanged();
            alive.changed().await
        };
        let event = tokio::select! {
            event = self.subscription.next() => {
                let (revision, event) = match event? {
                    Ok(event) => event,
                    Err(ended) => return Some(Err(ended)),
                };
                self.revision = revision;
                match event {
                    PublishedEvent::Changed(prefix, status) => {
                        Wire::ServiceAddress(convert::service_address(prefix, &status))
                    }
                    PublishedEvent::Removed(prefix) => Wire::RemovedServiceAddress(prefix.to_string()),
                    PublishedEvent::Synced => Wire::Synced(wire::Synced {}),
                }
            }
            alive = heartbeat => {
                alive.ok()?;
                Wire::Heartbeat(wire::Heartbeat {})
            }
        };
        self.last_sent = Instant::now();
        Some(Ok(wire::WatchServiceAddressesResponse {
            revision: self.revision,
            event: Some(event),
        }))
    }
}
