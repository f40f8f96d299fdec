//! A whole data plane in a network namespace of its own, with the fake kernel of the tests that include
//! this file, a stand-in Discovery and real servers that are real sockets.

use std::{net::SocketAddr, num::NonZeroU16, process::Command, time::Duration};

use daemon_api::dataplane::v1::{
    ListServiceAddressesRequest, ListVirtualServersRequest, ServiceAddress, VirtualServerStatus,
    WatchServiceAddressesRequest, data_plane_client::DataPlaneClient,
    watch_service_addresses_response::Event,
};
use daemon_runtime::{Daemon, ListenAddress, Metrics, Readiness, Shutdown};
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
    RealServerState, Scheduler, ServiceRange, TunnelKind, VirtualServer, Weight,
};

use crate::fake_kernel::FakeKernel;

/// Longest wait for anything.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);

/// Runs a test in a network namespace of its own, in which the pods' addresses are local.
pub(crate) fn run<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
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

/// A running daemon.
pub(crate) struct World {
    pub(crate) kernel: FakeKernel,
    pub(crate) client: DataPlaneClient<Channel>,
    pub(crate) readiness: Readiness,
    pub(crate) metrics: Metrics,
    shutdown: Shutdown,
    daemon: JoinHandle<()>,
}

impl World {
    /// Starts the daemon on this kernel.
    pub(crate) async fn start(kernel: &FakeKernel, discovery: SocketAddr) -> Self {
        Self::start_lingering(kernel, discovery, Duration::ZERO).await
    }

    /// As [`World::start`], with time to linger at the end.
    pub(crate) async fn start_lingering(
        kernel: &FakeKernel,
        discovery: SocketAddr,
        linger: Duration,
    ) -> Self {
        let mut daemon = Daemon::new("data-plane");
        let config = Config {
            discovery: format!("http://{discovery}").parse().unwrap(),
            audit_interval: Duration::from_millis(200),
            linger,
            grpc_listen: "127.0.0.1:0".parse().unwrap(),
        };
        let address = kernel.start(config, &mut daemon).await;
        let ListenAddress::Tcp(address) = address else {
            panic!("{address}")
        };
        let client = DataPlaneClient::connect(format!("http://{address}"))
            .await
            .unwrap();
        let shutdown = daemon.shutdown().clone();
        let readiness = daemon.readiness().clone();
        let metrics = daemon.metrics().clone();
        let daemon = tokio::spawn(async {
            daemon
                .run_until_drained(std::future::pending())
                .await
                .unwrap();
        });
        Self {
            kernel: kernel.clone(),
            client,
            readiness,
            metrics,
            shutdown,
            daemon,
        }
    }

    /// Asks the daemon to end, as a signal does.
    pub(crate) fn request_stop(&self) {
        self.shutdown.request();
    }

    /// Ends the daemon as a signal does.
    pub(crate) async fn stop(self) {
        self.request_stop();
        timeout(LIMIT, self.daemon).await.unwrap().unwrap();
    }

    /// Waits until the watch of service addresses shows one that satisfies the test.
    pub(crate) async fn wait_for(
        &mut self,
        wanted: impl Fn(&ServiceAddress) -> bool,
    ) -> ServiceAddress {
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
    pub(crate) async fn wait_until_serving(&mut self, prefix: &str) -> ServiceAddress {
        self.wait_for(|address| address.prefix == prefix && address.serving)
            .await
    }

    /// The virtual servers at this moment.
    pub(crate) async fn virtual_servers(&mut self) -> Vec<VirtualServerStatus> {
        let response = self
            .client
            .list_virtual_servers(ListVirtualServersRequest::default())
            .await;
        response.unwrap().into_inner().virtual_servers
    }

    /// The service addresses at this moment.
    pub(crate) async fn service_addresses(&mut self) -> Vec<ServiceAddress> {
        let response = self
            .client
            .list_service_addresses(ListServiceAddressesRequest::default())
            .await;
        response.unwrap().into_inner().service_addresses
    }

    /// Polls the kernel until it is as wanted; used where nothing is published.
    pub(crate) async fn wait_for_kernel(
        &self,
        wanted: impl Fn(&crate::fake_kernel::State) -> bool,
    ) {
        let seen = timeout(LIMIT, async {
            while !wanted(&self.kernel.state()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        if seen.await.is_err() {
            panic!("the kernel never got there: {:#?}", self.kernel.state());
        }
    }
}

/// A real server that answers health checks until it is dropped.
pub(crate) struct RealServerSocket(AbortHandle);

impl Drop for RealServerSocket {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Starts a real server.
pub(crate) async fn real_server(address: &str) -> RealServerSocket {
    let listener = TcpListener::bind(address).await.unwrap();
    let task = tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    RealServerSocket(task.abort_handle())
}

/// A virtual server over these real servers, checked every 100 ms.
pub(crate) fn virtual_server(id: &str, real_servers: &[&str]) -> VirtualServer {
    let parts = real_servers
        .iter()
        .map(|text| text.parse::<SocketAddr>().unwrap());
    VirtualServer {
        id: id.parse().unwrap(),
        name: "web".into(),
        scheduler: Scheduler::Mh {
            fallback: true,
            port: true,
        },
        forwarding_method: ForwardingMethod::Tunnel(TunnelKind::Ipip),
        persistence: None,
        real_servers: parts
            .map(|address| RealServer {
                address: address.ip(),
                port: NonZeroU16::new(address.port()),
                weight: Weight(1),
                state: RealServerState::Ready,
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
pub(crate) fn desired(virtual_servers: &[VirtualServer]) -> DesiredSet {
    let range = ServiceRange {
        prefix: "10.1.1.0/24".parse().unwrap(),
    };
    DesiredSet {
        virtual_servers: virtual_servers
            .iter()
            .map(|vs| (vs.id, vs.clone()))
            .collect(),
        service_ranges: [range].into(),
    }
}
