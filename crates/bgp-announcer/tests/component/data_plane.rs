//! Fake data plane that serves DataPlaneService.

use std::{pin::Pin, sync::Arc};

use daemon_api::dataplane::v1::{
    ListServiceAddressesRequest, ListServiceAddressesResponse, ListVirtualServersRequest,
    ListVirtualServersResponse, ServiceAddress, WatchServiceAddressesRequest,
    WatchServiceAddressesResponse, WatchVirtualServersRequest, WatchVirtualServersResponse,
    data_plane_service_server::{DataPlaneService, DataPlaneServiceServer},
    watch_service_addresses_response::Event as Wire,
};
use daemon_runtime::{PublishedEvent, Publisher};
use futures::{Stream, StreamExt, stream};
use tokio::sync::watch;
use tokio_stream::wrappers::IntervalStream;
use tonic::{Request, Response, Status};

use crate::environment::{DEADLINE, KillableServer, ReservedPort};

pub(crate) struct FakeDataPlane {
    pub(crate) port: ReservedPort,
    state: Arc<FakeDataPlaneState>,
    process: Option<KillableServer>,
}

struct FakeDataPlaneState {
    addresses: Publisher<String, ServiceAddress>,
    is_mute: watch::Sender<bool>,
    watches: watch::Sender<usize>,
    aborts: watch::Sender<()>,
}

impl FakeDataPlane {
    /// Reserves a port for the fake without starting its server.
    pub(crate) fn new() -> Self {
        let addresses = Publisher::new();
        addresses.synced();
        Self {
            port: ReservedPort::new(),
            state: Arc::new(FakeDataPlaneState {
                addresses,
                is_mute: watch::Sender::new(false),
                watches: watch::Sender::new(0),
                aborts: watch::Sender::new(()),
            }),
            process: None,
        }
    }

    pub(crate) async fn start(&mut self) {
        let service = DataPlaneServiceServer::new(DataPlaneServer(self.state.clone()));
        self.process = Some(KillableServer::serve(self.port.address, service).await);
    }

    pub(crate) fn kill(&mut self) {
        self.process.take().expect("the server runs").kill();
    }

    pub(crate) fn serve(&self, prefix: &str) {
        self.set(prefix, true, "");
    }

    pub(crate) fn stop_serving(&self, prefix: &str, detail: &str) {
        self.set(prefix, false, detail);
    }

    fn set(&self, prefix: &str, serving: bool, detail: &str) {
        let address = ServiceAddress {
            prefix: prefix.to_owned(),
            serving,
            detail: detail.to_owned(),
            ..ServiceAddress::default()
        };
        self.state.addresses.set(prefix.to_owned(), address);
    }

    pub(crate) fn remove(&self, prefix: &str) {
        self.state.addresses.remove(&prefix.to_owned());
    }

    /// While muted, streams stay open and send no message.
    pub(crate) fn mute(&self, is_mute: bool) {
        self.state.is_mute.send_replace(is_mute);
    }

    /// Ends every stream with the status ABORTED, as a data plane ends streams of slow watchers.
    pub(crate) fn abort_watches(&self) {
        self.state.aborts.send_replace(());
    }

    pub(crate) fn watches(&self) -> usize {
        *self.state.watches.borrow()
    }

    pub(crate) async fn wait_for_watches(&self, count: usize) {
        let mut watches = self.state.watches.subscribe();
        let waiting = watches.wait_for(|watches| *watches >= count);
        let watches = tokio::time::timeout(DEADLINE, waiting).await;
        watches
            .expect("the watches open in time")
            .expect("the fake exists");
    }
}

struct DataPlaneServer(Arc<FakeDataPlaneState>);

type WireStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl DataPlaneService for DataPlaneServer {
    type WatchServiceAddressesStream = WireStream<WatchServiceAddressesResponse>;

    async fn watch_service_addresses(
        &self,
        request: Request<WatchServiceAddressesRequest>,
    ) -> Result<Response<Self::WatchServiceAddressesStream>, Status> {
        let interval = request.into_inner().heartbeat_interval;
        let interval = interval.expect("the announcer requests heartbeats");
        let interval =
            tokio::time::interval(interval.try_into().expect("the interval is positive"));
        let heartbeats = IntervalStream::new(interval);
        let heartbeats = heartbeats.map(|_| (0, Wire::Heartbeat(Default::default())));
        let events = self
            .0
            .addresses
            .reader()
            .subscribe()
            .expect("the limit of watchers is not reached")
            .into_stream();
        let events = events.map(|next| {
            let (revision, event) = next.expect("the announcer reads fast enough");
            let event = match event {
                PublishedEvent::Changed(_, address) => Wire::ServiceAddress(address),
                PublishedEvent::Removed(prefix) => Wire::RemovedServiceAddress(prefix),
                PublishedEvent::Synced => Wire::Synced(Default::default()),
            };
            (revision, event)
        });
        let is_mute = self.0.is_mute.subscribe();
        let events = stream::select(events, heartbeats).then(move |(revision, event)| {
            let mut is_mute = is_mute.clone();
            async move {
                // A muted stream delays its events and loses none.
                let _ = is_mute.wait_for(|is_mute| !is_mute).await;
                let event = Some(event);
                Ok(WatchServiceAddressesResponse { revision, event })
            }
        });
        let mut aborts = self.0.aborts.subscribe();
        let abort = stream::once(async move {
            let _ = aborts.changed().await;
            Err(Status::aborted("the watcher did not read"))
        });
        self.0.watches.send_modify(|watches| *watches += 1);
        Ok(Response::new(Box::pin(stream::select(events, abort))))
    }

    async fn list_service_addresses(
        &self,
        _: Request<ListServiceAddressesRequest>,
    ) -> Result<Response<ListServiceAddressesResponse>, Status> {
        Err(Status::unimplemented(
            "the announcer does not call this method",
        ))
    }

    type WatchVirtualServersStream = WireStream<WatchVirtualServersResponse>;

    async fn watch_virtual_servers(
        &self,
        _: Request<WatchVirtualServersRequest>,
    ) -> Result<Response<Self::WatchVirtualServersStream>, Status> {
        Err(Status::unimplemented(
            "the announcer does not call this method",
        ))
    }

    async fn list_virtual_servers(
        &self,
        _: Request<ListVirtualServersRequest>,
    ) -> Result<Response<ListVirtualServersResponse>, Status> {
        Err(Status::unimplemented(
            "the announcer does not call this method",
        ))
    }
}
