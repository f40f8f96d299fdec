//! A running data plane, and the network namespace and the real servers around it.

use std::{net::SocketAddr, num::NonZeroU16, process::Command, time::Duration};

use daemon_api::dataplane::v1::{
    ListServiceAddressesRequest, ListVirtualServersRequest, ServiceAddress, VirtualServerStatus,
    WatchServiceAddressesRequest, data_plane_service_client::DataPlaneServiceClient,
    watch_service_addresses_response::Event,
};
use daemon_runtime::{Daemon, Metrics, Readiness, Shutdown};
use data_plane::Config;
use nix::sched::{CloneFlags, unshare};
use tokio::{
    net::TcpListener,
    task::{AbortHandle, JoinHandle},
    time::timeout,
};
use tonic::transport::Channel;
use virtual_server::{
    DesiredSet, FailureAction, ForwardingMethod, HealthCheck, HealthCheckKind, RealServer,
    RealServerHistory, RealServerState, Scheduler, SchedulerFlags, ServiceRange, TunnelKind,
    VirtualServer, Weight,
};

use crate::{FakeDiscovery, Kernel, RANGE, State};

/// Longest wait for anything.
pub const LIMIT: Duration = Duration::from_secs(10);

/// Runs a test in a network namespace of its own, in which the pods' addresses are local.
pub fn run<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace: run as root");
        for arguments in ["link set lo up", "addr add 10.244.0.0/24 dev lo"] {
            let status = Command::new("ip")
                .args(arguments.split(' '))
                .status()
                .unwrap();
            assert!(status.success(), "ip {arguments}");
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test());
    })
    .join()
    .unwrap();
}

/// A running daemon under test.
pub struct World<K> {
    /// The kernel that it programs.
    pub kernel: K,
    /// A client of its DataPlane.
    pub client: DataPlaneServiceClient<Channel>,
    /// The readiness of the daemon.
    pub readiness: Readiness,
    /// The metrics of the daemon.
    pub metrics: Metrics,
    /// The Discovery that it watches.
    discovery: Option<FakeDiscovery>,
    shutdown: Shutdown,
    daemon: JoinHandle<()>,
}

impl<K: Kernel> World<K> {
    /// Starts the daemon on this kernel, with a Discovery that says nothing yet.
    pub async fn start(kernel: &K) -> Self {
        Self::start_with(kernel, FakeDiscovery::silent("127.0.0.1:0").await).await
    }

    /// Starts the daemon, and waits until it serves these virtual servers.
    pub async fn serving(kernel: &K, virtual_servers: &[VirtualServer]) -> Self {
        let mut world = Self::start(kernel).await;
        world.say(virtual_servers);
        world.wait_until_serving(RANGE).await;
        world
    }

    /// Starts the daemon with this Discovery.
    pub async fn start_with(kernel: &K, discovery: FakeDiscovery) -> Self {
        let world = Self::launch(kernel, discovery.address, Duration::ZERO).await;
        Self {
            discovery: Some(discovery),
            ..world
        }
    }

    /// Starts the daemon with time to linger at the end.
    pub async fn start_lingering(kernel: &K, linger: Duration) -> Self {
        let discovery = FakeDiscovery::silent("127.0.0.1:0").await;
        let world = Self::launch(kernel, discovery.address, linger).await;
        Self {
            discovery: Some(discovery),
            ..world
        }
    }

    async fn launch(kernel: &K, discovery: SocketAddr, linger: Duration) -> Self {
        let mut daemon = Daemon::new("data-plane");
        let config = Config {
            discovery: format!("http://{discovery}").parse().unwrap(),
            audit_interval: Duration::from_millis(200),
            linger,
            grpc_listen: "127.0.0.1:0".parse().unwrap(),
        };
        let address = kernel.start(config, &mut daemon).await;
        let client = DataPlaneServiceClient::connect(format!("http://{address}"));
        let client = client.await.unwrap();
        let shutdown = daemon.shutdown().clone();
        let readiness = daemon.readiness().clone();
        let metrics = daemon.metrics().clone();
        let daemon = tokio::spawn(async {
            let running = daemon.run_until_drained(std::future::pending());
            running.await.unwrap();
        });
        Self {
            kernel: kernel.clone(),
            client,
            readiness,
            metrics,
            discovery: None,
            shutdown,
            daemon,
        }
    }

    /// Returns the Discovery that the daemon watches.
    pub fn discovery(&self) -> &FakeDiscovery {
        self.discovery.as_ref().unwrap()
    }

    /// Desires these virtual servers, with the service range 10.1.1.0/24.
    pub fn say(&self, virtual_servers: &[VirtualServer]) {
        self.discovery().say(&desired(virtual_servers));
    }

    /// Ends the Discovery; returns its address.
    pub fn lose_discovery(&mut self) -> SocketAddr {
        self.discovery.take().unwrap().address
    }

    /// Starts a silent Discovery at the address of the lost one.
    pub async fn find_discovery(&mut self, address: SocketAddr) {
        self.discovery = Some(FakeDiscovery::silent(&address.to_string()).await);
    }

    /// Asks the daemon to end, as a signal does.
    pub fn request_stop(&self) {
        self.shutdown.request();
    }

    /// Ends the daemon as a signal does; returns the Discovery for another daemon.
    pub async fn stop(self) -> Option<FakeDiscovery> {
        self.request_stop();
        timeout(LIMIT, self.daemon).await.unwrap().unwrap();
        self.discovery
    }

    /// Ends the daemon, takes the writes so far, and starts another daemon with this Discovery.
    pub async fn restart(self) -> Self {
        let kernel = self.kernel.clone();
        let discovery = self.stop().await.unwrap();
        kernel.take_writes();
        Self::start_with(&kernel, discovery).await
    }

    /// Waits until the watch of service addresses shows one that satisfies the test.
    pub async fn wait_for(&mut self, wanted: impl Fn(&ServiceAddress) -> bool) -> ServiceAddress {
        let request = WatchServiceAddressesRequest::default();
        let mut stream = self
            .client
            .watch_service_addresses(request)
            .await
            .unwrap()
            .into_inner();
        let mut last = None;
        let found = timeout(LIMIT, async {
            loop {
                let response = stream.message().await.unwrap().expect("the stream lives");
                if let Some(Event::ServiceAddress(address)) = response.event {
                    if wanted(&address) {
                        return address;
                    }
                    last = Some(address);
                }
            }
        })
        .await;
        found.unwrap_or_else(|_| panic!("not seen; the last was {last:?}"))
    }

    /// Waits until the address is serving.
    pub async fn wait_until_serving(&mut self, prefix: &str) -> ServiceAddress {
        self.wait_for(|address| address.prefix == prefix && address.serving)
            .await
    }

    /// The virtual servers at this moment.
    pub async fn virtual_servers(&mut self) -> Vec<VirtualServerStatus> {
        let response = self
            .client
            .list_virtual_servers(ListVirtualServersRequest::default())
            .await;
        response.unwrap().into_inner().virtual_servers
    }

    /// The service addresses at this moment.
    pub async fn service_addresses(&mut self) -> Vec<ServiceAddress> {
        let response = self
            .client
            .list_service_addresses(ListServiceAddressesRequest::default())
            .await;
        response.unwrap().into_inner().service_addresses
    }

    /// Polls the kernel until it is as wanted; used where nothing is published.
    pub async fn wait_for_kernel(&self, wanted: impl Fn(&K::State) -> bool) {
        let seen = timeout(LIMIT, async {
            while !wanted(&self.kernel.state()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        if seen.await.is_err() {
            panic!("the kernel never got there: {:#?}", self.kernel.state());
        }
    }

    /// Waits for the weight of a real server in the kernel's table.
    pub async fn wait_for_weight(&self, id: &str, real_server: &str, wanted: Option<u32>) {
        self.wait_for_kernel(|state| state.weight(id, real_server) == wanted)
            .await;
    }
}

/// A real server that answers health checks until it is dropped.
#[derive(Debug)]
pub struct RealServerSocket(AbortHandle);

impl Drop for RealServerSocket {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Starts a real server.
pub async fn real_server(address: &str) -> RealServerSocket {
    let listener = TcpListener::bind(address).await.unwrap();
    let task = tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    RealServerSocket(task.abort_handle())
}

/// A virtual server over these real servers, checked every 100 ms.
pub fn virtual_server(id: &str, real_servers: &[&str]) -> VirtualServer {
    let parts = real_servers
        .iter()
        .map(|text| text.parse::<SocketAddr>().unwrap());
    VirtualServer {
        id: id.parse().unwrap(),
        name: "web".into(),
        scheduler: Scheduler::Mh(SchedulerFlags {
            fallback: true,
            port: true,
        }),
        forwarding_method: ForwardingMethod::Tunnel(TunnelKind::Ipip),
        persistence: None,
        real_servers: parts
            .map(|address| RealServer {
                address: address.ip(),
                port: NonZeroU16::new(address.port()),
                weight: Weight(1),
                state: RealServerState::Ready,
                history: RealServerHistory::default(),
            })
            .collect(),
        health_check: Some(HealthCheck {
            kind: HealthCheckKind::TcpConnect { port: None },
            interval: Duration::from_millis(100),
            timeout: Duration::from_millis(100),
            rise: 1,
            fall: 2,
            initial_jitter: Duration::ZERO,
        }),
        on_failure: FailureAction::Quiesce,
        minimum_healthy: 1,
        drain_timeout: VirtualServer::DEFAULT_DRAIN_TIMEOUT,
    }
}

/// A set of these virtual servers, with the service range 10.1.1.0/24.
pub fn desired(virtual_servers: &[VirtualServer]) -> DesiredSet {
    let range = ServiceRange {
        prefix: RANGE.parse().unwrap(),
    };
    DesiredSet {
        virtual_servers: virtual_servers
            .iter()
            .map(|vs| (vs.id, vs.clone()))
            .collect(),
        service_ranges: [range].into(),
    }
}
