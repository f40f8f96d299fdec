//! Running data plane with its network namespace and real servers.

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

use crate::{FakeDiscovery, RANGE, TestKernel, TestKernelState};

/// Time limit of each wait in a test.
pub const LIMIT: Duration = Duration::from_secs(10);

/// Runs a test in a separate network namespace, in which the addresses of the real servers are
/// local.
pub fn run<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET)
            .expect("a network namespace can be created (run the test as root)");
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

/// A running daemon with its fake Discovery and fake kernel.
pub struct TestDataPlane<K> {
    /// The fake kernel that the daemon programs.
    pub kernel: K,
    /// A client of the daemon's contract DataPlaneService.
    pub client: DataPlaneServiceClient<Channel>,
    pub readiness: Readiness,
    pub metrics: Metrics,
    /// The fake Discovery that the daemon watches. `None`: it was stopped.
    discovery: Option<FakeDiscovery>,
    shutdown: Shutdown,
    daemon: JoinHandle<()>,
}

impl<K: TestKernel> TestDataPlane<K> {
    /// Starts the daemon on this kernel, with a Discovery that sends no desired set until the test
    /// calls [`publish`](Self::publish).
    pub async fn start(kernel: &K) -> Self {
        Self::start_with(kernel, FakeDiscovery::start("127.0.0.1:0").await).await
    }

    /// Starts the daemon with these virtual servers, and waits until their service range is
    /// serving.
    pub async fn serving(kernel: &K, virtual_servers: &[VirtualServer]) -> Self {
        let mut world = Self::start(kernel).await;
        world.publish(virtual_servers);
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

    /// Starts the daemon with this linger time.
    pub async fn start_lingering(kernel: &K, linger: Duration) -> Self {
        let discovery = FakeDiscovery::start("127.0.0.1:0").await;
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

    pub fn discovery(&self) -> &FakeDiscovery {
        self.discovery.as_ref().unwrap()
    }

    /// Publishes a desired set with these virtual servers and the service range 10.1.1.0/24.
    pub fn publish(&self, virtual_servers: &[VirtualServer]) {
        self.discovery().publish(&desired(virtual_servers));
    }

    /// Stops the Discovery and returns its address.
    pub fn stop_discovery(&mut self) -> SocketAddr {
        self.discovery.take().unwrap().address
    }

    /// Starts a new Discovery at this address. It sends no desired set until the test calls
    /// [`publish`](Self::publish).
    pub async fn restart_discovery(&mut self, address: SocketAddr) {
        self.discovery = Some(FakeDiscovery::start(&address.to_string()).await);
    }

    /// Requests the daemon to stop, as a termination signal does. Does not wait.
    pub fn request_stop(&self) {
        self.shutdown.request();
    }

    /// Stops the daemon and waits for its end. Returns the Discovery for another daemon.
    pub async fn stop(self) -> Option<FakeDiscovery> {
        self.request_stop();
        timeout(LIMIT, self.daemon).await.unwrap().unwrap();
        self.discovery
    }

    /// Stops the daemon, clears the log of writes, and starts another daemon with the Discovery of
    /// the stopped daemon.
    pub async fn restart(self) -> Self {
        let kernel = self.kernel.clone();
        let discovery = self.stop().await.unwrap();
        kernel.take_writes();
        Self::start_with(&kernel, discovery).await
    }

    /// Waits until the watch of service addresses sends an address that satisfies `predicate`.
    pub async fn wait_for(
        &mut self,
        predicate: impl Fn(&ServiceAddress) -> bool,
    ) -> ServiceAddress {
        let request = WatchServiceAddressesRequest::default();
        let mut stream = self
            .client
            .watch_service_addresses(request)
            .await
            .unwrap()
            .into_inner();
        let mut last = None;
        let matching = timeout(LIMIT, async {
            loop {
                let response = stream.message().await.unwrap().expect("the stream is open");
                if let Some(Event::ServiceAddress(address)) = response.event {
                    if predicate(&address) {
                        return address;
                    }
                    last = Some(address);
                }
            }
        })
        .await;
        matching.unwrap_or_else(|_| {
            panic!("no matching service address in time; the last received address is {last:?}")
        })
    }

    /// Waits until the service address is serving.
    pub async fn wait_until_serving(&mut self, prefix: &str) -> ServiceAddress {
        self.wait_for(|address| address.prefix == prefix && address.serving)
            .await
    }

    /// Lists the current status of all virtual servers.
    pub async fn virtual_servers(&mut self) -> Vec<VirtualServerStatus> {
        let response = self
            .client
            .list_virtual_servers(ListVirtualServersRequest::default())
            .await;
        response.unwrap().into_inner().virtual_servers
    }

    /// Lists the current status of all service addresses.
    pub async fn service_addresses(&mut self) -> Vec<ServiceAddress> {
        let response = self
            .client
            .list_service_addresses(ListServiceAddressesRequest::default())
            .await;
        response.unwrap().into_inner().service_addresses
    }

    /// Polls the fake kernel until its state satisfies `predicate`. For states that the daemon does
    /// not publish.
    pub async fn wait_for_kernel(&self, predicate: impl Fn(&K::State) -> bool) {
        let reached = timeout(LIMIT, async {
            while !predicate(&self.kernel.state()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        if reached.await.is_err() {
            panic!(
                "the fake kernel did not reach the expected state in time; its state is {:#?}",
                self.kernel.state()
            );
        }
    }

    /// Waits until a real server has this weight in the table of the kernel. `None`: it is not in
    /// the table.
    pub async fn wait_for_weight(&self, id: &str, real_server: &str, expected: Option<u32>) {
        self.wait_for_kernel(|state| state.weight(id, real_server) == expected)
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

/// Starts a real server that accepts connections on this address.
pub async fn real_server(address: &str) -> RealServerSocket {
    let listener = TcpListener::bind(address).await.unwrap();
    let task = tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    RealServerSocket(task.abort_handle())
}

/// Returns a virtual server with these real servers and a health check every 100 ms.
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

/// Returns a desired set with these virtual servers and the service range 10.1.1.0/24.
pub fn desired(virtual_servers: &[VirtualServer]) -> DesiredSet {
    let range = ServiceRange {
        prefix: RANGE.parse().unwrap(),
    };
    DesiredSet {
        virtual_servers: virtual_servers
            .iter()
            .map(|server| (server.id, server.clone()))
            .collect(),
        service_ranges: [range].into(),
    }
}
