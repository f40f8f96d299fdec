//! Fake gRPC servers that replace a daemon of portlb.

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use daemon_api::dataplane::v1 as dataplane;
use daemon_api::dataplane::v1::data_plane_service_server::{
    DataPlaneService, DataPlaneServiceServer,
};
use daemon_api::dataplane::v1::watch_service_addresses_response::Event as AddressEvent;
use daemon_api::discovery::v1 as discovery;
use daemon_api::discovery::v1::discovery_service_server::{
    DiscoveryService, DiscoveryServiceServer,
};
use daemon_api::discovery::v1::watch_response::Event as DesiredEvent;
use daemon_api::virtualserver::v1::{
    FailureAction, ForwardingMethod, PortRange, Protocol, RealServer, RealServerState, Scheduler,
    SchedulerKind, TunnelKind, VirtualServer, VirtualServerId,
};
use ipnet::IpNet;
use tokio::sync::watch;
use tokio_stream::wrappers::{IntervalStream, WatchStream};
use tokio_stream::{Stream, StreamExt};
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use crate::Host;
use crate::reference::{SERVICE, SERVICE_RANGE};

type GrpcResult<T> = Result<Response<T>, Status>;
type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A gRPC server on a host's loopback address. Dropping the value stops the server.
#[derive(Debug)]
struct Server {
    ended: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(host: &Host, port: u16, routes: Routes) -> Result<Self> {
        let (ended, mut has_ended) = watch::channel(false);
        let thread = host.spawn_inside(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build();
            let runtime = runtime.expect("a runtime can be created");
            let address = SocketAddr::new([127, 0, 0, 1].into(), port);
            let server = tonic::transport::Server::builder().add_routes(routes);
            runtime.block_on(async {
                tokio::select! {
                    result = server.serve(address) => result.expect("the server runs until it is dropped"),
                    _ = has_ended.wait_for(|ended| *ended) => {}
                }
            });
        })?;
        Ok(Self {
            ended,
            thread: Some(thread),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.send_replace(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A fake pod-watcher. Its desired set has the IPv4 service range and one virtual server: port 80
/// of the IPv4 service address, with the real servers that the test sets.
#[derive(Debug)]
pub struct FakeDiscoveryServer {
    desired: watch::Sender<VirtualServer>,
    _server: Server,
}

impl FakeDiscoveryServer {
    /// Starts the server on the host's loopback address, with these real servers.
    pub fn start(host: &Host, real_servers: &[Ipv4Addr]) -> Result<Self> {
        let desired = watch::Sender::new(web(real_servers));
        let service = DiscoveryServiceServer::new(DesiredSet(desired.subscribe()));
        let _server = Server::start(host, 50051, Routes::new(service))?;
        Ok(Self { desired, _server })
    }

    /// Replaces the real servers of the virtual server by `real_servers`.
    pub fn set(&self, real_servers: &[Ipv4Addr]) {
        self.desired.send_replace(web(real_servers));
    }
}

struct DesiredSet(watch::Receiver<VirtualServer>);

#[tonic::async_trait]
impl DiscoveryService for DesiredSet {
    type WatchStream = Events<discovery::WatchResponse>;

    async fn watch(&self, _: Request<discovery::WatchRequest>) -> GrpcResult<Self::WatchStream> {
        let range = discovery::ServiceRange {
            prefix: SERVICE_RANGE.to_string(),
        };
        let mut later = self.0.clone();
        let now = later.borrow_and_update().clone();
        let first = [
            DesiredEvent::ServiceRange(range),
            DesiredEvent::VirtualServerHead(head(&now)),
            DesiredEvent::RealServerPart(part(now)),
            DesiredEvent::Synced(discovery::Synced {}),
        ];
        // A later change replaces only the real servers, so only the part is sent, and not the
        // head.
        let later = WatchStream::from_changes(later).map(part);
        let later = later.map(DesiredEvent::RealServerPart);
        let events = tokio_stream::iter(first).chain(later).map(|event| {
            Ok(discovery::WatchResponse {
                revision: 0,
                complete: !matches!(event, DesiredEvent::VirtualServerHead(_)),
                event: Some(event),
            })
        });
        Ok(Response::new(Box::pin(events)))
    }

    async fn list(
        &self,
        _: Request<discovery::ListRequest>,
    ) -> GrpcResult<discovery::ListResponse> {
        Err(Status::unimplemented("the fake server has no such call"))
    }
}

fn head(server: &VirtualServer) -> discovery::VirtualServerHead {
    discovery::VirtualServerHead {
        virtual_server: Some(VirtualServer {
            real_servers: Vec::new(),
            ..server.clone()
        }),
        part_count: 1,
    }
}

fn part(server: VirtualServer) -> discovery::RealServerPart {
    discovery::RealServerPart {
        virtual_server: Some(VirtualServerId {
            address: server.address,
            ports: server.ports,
            protocol: server.protocol,
        }),
        number: 0,
        real_servers: server.real_servers,
    }
}

fn web(real_servers: &[Ipv4Addr]) -> VirtualServer {
    VirtualServer {
        address: SERVICE.to_string(),
        ports: Some(PortRange {
            first: 80,
            last: 80,
        }),
        protocol: Protocol::Tcp.into(),
        name: "web".to_owned(),
        scheduler: Some(Scheduler {
            kind: SchedulerKind::Mh.into(),
            fallback: true,
            port: true,
        }),
        forwarding_method: ForwardingMethod::Tunnel.into(),
        tunnel_kind: TunnelKind::Ipip.into(),
        real_servers: real_servers.iter().map(real_server).collect(),
        on_failure: FailureAction::Quiesce.into(),
        minimum_healthy: 1,
        ..VirtualServer::default()
    }
}

fn real_server(address: &Ipv4Addr) -> RealServer {
    RealServer {
        address: address.to_string(),
        port: 0,
        weight: 1,
        state: RealServerState::Ready.into(),
        ..RealServer::default()
    }
}

/// A fake ipvs-programmer. It reports the IPv4 service range with the missing step that the test
/// sets.
#[derive(Debug)]
pub struct FakeDataPlaneServer {
    address: watch::Sender<dataplane::ServiceAddress>,
    /// The number of watches that clients have started.
    watches: Arc<AtomicUsize>,
    _server: Server,
}

/// Whether a fake data plane sends heartbeats to its watchers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heartbeats {
    /// The server sends heartbeats, at the interval that the watcher has requested.
    Sent,
    Missing,
}

impl FakeDataPlaneServer {
    /// Starts the server on the host's loopback address. The service range is not serving until the
    /// test calls [`set`](Self::set).
    pub fn start(host: &Host, heartbeats: Heartbeats) -> Result<Self> {
        Self::start_with(host, heartbeats, &[])
    }

    /// Starts the server like [`start`](Self::start). In addition the server always reports each
    /// prefix of `also` as serving.
    pub fn start_with(host: &Host, heartbeats: Heartbeats, also: &[IpNet]) -> Result<Self> {
        let address = watch::Sender::new(dataplane::ServiceAddress::default());
        let watches = Arc::new(AtomicUsize::new(0));
        let service = DataPlaneServiceServer::new(ServiceAddresses {
            address: address.subscribe(),
            also: also.iter().map(serving).collect(),
            heartbeats,
            watches: watches.clone(),
        });
        let _server = Server::start(host, 50052, Routes::new(service))?;
        let this = Self {
            address,
            watches,
            _server,
        };
        this.set(
            dataplane::MissingStep::DesiredSet,
            "the test has not set a state",
        );
        Ok(this)
    }

    /// Sets the missing step of the service range. With `MissingStep::None` the range is serving.
    pub fn set(&self, missing_step: dataplane::MissingStep, detail: &str) {
        self.address.send_replace(dataplane::ServiceAddress {
            prefix: SERVICE_RANGE.to_string(),
            serving: missing_step == dataplane::MissingStep::None,
            missing_step: missing_step.into(),
            detail: detail.to_owned(),
            ..dataplane::ServiceAddress::default()
        });
    }

    /// Returns the number of watches that clients have started.
    pub fn watches(&self) -> usize {
        self.watches.load(Ordering::Relaxed)
    }
}

fn serving(prefix: &IpNet) -> dataplane::ServiceAddress {
    dataplane::ServiceAddress {
        prefix: prefix.to_string(),
        serving: true,
        ..dataplane::ServiceAddress::default()
    }
}

/// The interval of heartbeats if the server must send no heartbeat: longer than any test.
const NEVER: Duration = Duration::from_secs(24 * 60 * 60);

struct ServiceAddresses {
    address: watch::Receiver<dataplane::ServiceAddress>,
    also: Vec<dataplane::ServiceAddress>,
    heartbeats: Heartbeats,
    watches: Arc<AtomicUsize>,
}

#[tonic::async_trait]
impl DataPlaneService for ServiceAddresses {
    type WatchServiceAddressesStream = Events<dataplane::WatchServiceAddressesResponse>;
    type WatchVirtualServersStream = Events<dataplane::WatchVirtualServersResponse>;

    async fn watch_service_addresses(
        &self,
        request: Request<dataplane::WatchServiceAddressesRequest>,
    ) -> GrpcResult<Self::WatchServiceAddressesStream> {
        self.watches.fetch_add(1, Ordering::Relaxed);
        let mut later = self.address.clone();
        let now = later.borrow_and_update().clone();
        let mut first = vec![AddressEvent::ServiceAddress(now)];
        let also = self.also.iter().cloned();
        first.extend(also.map(AddressEvent::ServiceAddress));
        first.push(AddressEvent::Synced(dataplane::Synced {}));
        let later = WatchStream::from_changes(later).map(AddressEvent::ServiceAddress);
        let interval = request.into_inner().heartbeat_interval;
        let interval = interval.and_then(|interval| interval.try_into().ok());
        let period = match self.heartbeats {
            Heartbeats::Sent => interval.unwrap_or(NEVER),
            Heartbeats::Missing => NEVER,
        };
        let ticks = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
        let heartbeats =
            IntervalStream::new(ticks).map(|_| AddressEvent::Heartbeat(dataplane::Heartbeat {}));
        let events = tokio_stream::iter(first)
            .chain(later.merge(heartbeats))
            .map(|event| {
                Ok(dataplane::WatchServiceAddressesResponse {
                    revision: 0,
                    event: Some(event),
                })
            });
        Ok(Response::new(Box::pin(events)))
    }

    async fn list_service_addresses(
        &self,
        _: Request<dataplane::ListServiceAddressesRequest>,
    ) -> GrpcResult<dataplane::ListServiceAddressesResponse> {
        Err(Status::unimplemented("the fake server has no such call"))
    }

    async fn watch_virtual_servers(
        &self,
        _: Request<dataplane::WatchVirtualServersRequest>,
    ) -> GrpcResult<Self::WatchVirtualServersStream> {
        Err(Status::unimplemented("the fake server has no such call"))
    }

    async fn list_virtual_servers(
        &self,
        _: Request<dataplane::ListVirtualServersRequest>,
    ) -> GrpcResult<dataplane::ListVirtualServersResponse> {
        Err(Status::unimplemented("the fake server has no such call"))
    }
}
