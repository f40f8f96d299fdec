//! Test environment of the daemon.
//!
//! The environment consists of a fake data plane, a fake node-router and a BGP speaker.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use bgp_announcer::{args::Args, config::Config};
use bgp_packet::{Asn, ClusterId, RouterId};
use bgp_rib::ImportPolicy;
use bgp_session::Cease;
use bgp_speaker::{
    BgpSpeaker, Configuration, PathQuery, PathStatus, PathTable, PeerConfig, SessionConfig,
    SpeakerChanges, SpeakerConfig, SpeakerHandle,
};
use clap::{CommandFactory, FromArgMatches};
use daemon_api::announcer::v1::{
    Announcement, AnnouncementState, ListAnnouncementsRequest, ListAnnouncementsResponse,
    ListSessionsRequest, announcer_service_client::AnnouncerServiceClient,
};
use daemon_runtime::{
    Daemon, DaemonError, GrpcTarget, ListenAddress, Metrics, Readiness, Shutdown,
};
use tokio::{
    net::{TcpListener, TcpSocket},
    runtime::Runtime,
    task::JoinHandle,
    time::timeout,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    body::Body,
    codegen::{Service, http},
    server::NamedService,
    transport::{Channel, Server},
};

use crate::{data_plane::FakeDataPlane, node_router::FakeNodeRouter};

/// Longest wait for an event before a test fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

const ASN: Asn = Asn(64512);

/// A gRPC server that can be killed like a process: immediately, with all of its connections.
pub(crate) struct KillableServer(Option<Runtime>);

impl KillableServer {
    pub(crate) async fn serve<S>(address: SocketAddr, service: S) -> Self
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime can be built");
        let starting = runtime.spawn(async move {
            let listener = TcpListener::bind(address)
                .await
                .expect("the port is reserved for this server");
            tokio::spawn(async move {
                let incoming = TcpListenerStream::new(listener);
                let server = Server::builder().add_service(service);
                server
                    .serve_with_incoming(incoming)
                    .await
                    .expect("the server runs");
            });
        });
        starting.await.expect("the task does not panic");
        Self(Some(runtime))
    }

    pub(crate) fn kill(self) {
        drop(self);
    }
}

impl Drop for KillableServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // Waits for the end of the runtime, so that the port is free afterwards. A separate
            // thread waits, because an async task must not block.
            let ends = std::thread::spawn(move || runtime.shutdown_timeout(DEADLINE));
            ends.join().expect("the task does not panic");
        }
    }
}

/// A loopback port that no other process gets while this value exists, so that parallel runs of
/// these tests do not conflict. Connections are refused unless a [`KillableServer`] listens on the
/// port.
pub(crate) struct ReservedPort {
    pub(crate) address: SocketAddr,
    /// This socket is bound, so that the kernel gives the port to no other process. It never
    /// listens, so that a [`KillableServer`] can listen.
    _holder: TcpSocket,
}

impl ReservedPort {
    pub(crate) fn new() -> Self {
        let holder = TcpSocket::new_v4().expect("a socket can be opened");
        holder.set_reuseaddr(true).expect("SO_REUSEADDR can be set");
        let any = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
        holder.bind(any).expect("the loopback interface is up");
        Self {
            address: holder.local_addr().expect("the socket is bound"),
            _holder: holder,
        }
    }
}

/// Returns a loopback address that no other test of this process uses.
fn fresh_address() -> Ipv4Addr {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    Ipv4Addr::new(127, 78, high, low)
}

pub(crate) struct Environment {
    pub(crate) data_plane: FakeDataPlane,
    pub(crate) node_router: FakeNodeRouter,
    pub(crate) client: AnnouncerServiceClient<Channel>,
    pub(crate) shutdown: Shutdown,
    pub(crate) readiness: Readiness,
    pub(crate) metrics: Metrics,
    daemon: Option<JoinHandle<Result<(), DaemonError>>>,
    reflector: SpeakerHandle,
    reflector_changes: SpeakerChanges,
    _reflector: JoinHandle<()>,
}

impl Environment {
    pub(crate) async fn start(flags: &[&str]) -> Self {
        let mut environment = Self::start_without_data_plane(flags).await;
        environment.data_plane.start().await;
        environment
    }

    /// Starts the daemon with the usual flags, which `flags` replace by name. `{reflector}` in a
    /// flag is replaced with the reflector as a value of `--peer`. If `--asn` is not 64512, the
    /// reflector is a router of another AS.
    pub(crate) async fn start_without_data_plane(flags: &[&str]) -> Self {
        let data_plane = FakeDataPlane::new();
        let node_router = FakeNodeRouter::start_new().await;
        let announcer_address = IpAddr::from(fresh_address());
        let asn = flags.iter().find_map(|flag| flag.strip_prefix("--asn="));
        let asn = asn.map_or(ASN, |asn| asn.parse().expect("--asn is an AS number"));
        let (reflector, reflector_address, reflector_task) =
            reflector(announcer_address, asn).await;

        let peer = format!("{reflector_address},name=reflector,source={announcer_address}");
        let flags: Vec<_> = flags
            .iter()
            .map(|flag| flag.replace("{reflector}", &peer))
            .collect();
        let usual_flags = [
            "--grpc-listen=127.0.0.1:0".to_owned(),
            "--http-listen=127.0.0.1:0".to_owned(),
            format!("--asn={ASN}"),
            format!("--peer={peer}"),
            "--gateway=10.244.1.7".to_owned(),
            "--next-hop=192.0.2.11".to_owned(),
            "--allowed-prefixes=10.1.1.0/24".to_owned(),
            format!("--data-plane=http://{}", data_plane.port.address),
            format!("--node-router=http://{}", node_router.port.address),
        ];
        let name = |flag: &str| flag.split('=').next().unwrap_or_default().to_owned();
        let usual_flags = usual_flags
            .iter()
            .map(String::as_str)
            .filter(|usual_flags| !flags.iter().any(|flag| name(flag) == name(usual_flags)));
        let line = ["bgp-announcer"]
            .into_iter()
            .chain(usual_flags)
            .chain(flags.iter().map(String::as_str));
        let matches = Args::command().get_matches_from(line);
        let args = Args::from_arg_matches(&matches).expect("the flags are valid");
        let config = Config::resolve(&args).expect("the flags are valid");

        let mut daemon = Daemon::new("bgp-announcer");
        let shutdown = daemon.shutdown().clone();
        let readiness = daemon.readiness().clone();
        let metrics = daemon.metrics().clone();
        let address = bgp_announcer::start(config, &mut daemon)
            .await
            .expect("the daemon starts");
        let ListenAddress::Tcp(address) = address else {
            panic!("expected a TCP address, not {address}");
        };
        let target: GrpcTarget = format!("http://{address}")
            .parse()
            .expect("the target is valid");
        let daemon = tokio::spawn(daemon.run_until_drained(std::future::pending()));
        Self {
            data_plane,
            node_router,
            client: AnnouncerServiceClient::new(target.channel()),
            shutdown,
            readiness,
            metrics,
            daemon: Some(daemon),
            reflector_changes: reflector.changes(true).await.expect("the speaker runs"),
            reflector,
            _reflector: reflector_task,
        }
    }

    /// Returns the paths that the reflector has accepted from the announcer.
    pub(crate) async fn paths(&self) -> Vec<PathStatus> {
        self.reflector
            .paths(PathQuery::all(PathTable::All))
            .await
            .expect("the speaker runs")
    }

    pub(crate) async fn wait_for_paths(&mut self, is_fine: impl Fn(&[PathStatus]) -> bool) {
        let waiting = async {
            while !is_fine(
                &self
                    .reflector
                    .paths(PathQuery::all(PathTable::All))
                    .await
                    .expect("the speaker runs"),
            ) {
                self.reflector_changes
                    .next()
                    .await
                    .expect("the speaker runs");
            }
        };
        if timeout(DEADLINE, waiting).await.is_err() {
            panic!(
                "paths: {:#?}\n{:#?}",
                self.paths().await,
                self.announcements().await
            );
        }
    }

    /// Waits until the reflector has rejected a path of the announcer.
    pub(crate) async fn wait_for_rejected_path(&self) {
        let waiting = async {
            while self.reflector.counters().paths_rejected.get() == 0 {
                tokio::task::yield_now().await;
            }
        };
        let waited = timeout(DEADLINE, waiting).await;
        waited.expect("the reflector rejects a path in time");
    }

    /// Ends the reflector and its session with the announcer.
    pub(crate) async fn end_reflector(&self) {
        let cease = Cease::AdministrativeShutdown {
            text: String::new(),
        };
        let ended = self.reflector.shutdown(cease, DEADLINE).await;
        ended.expect("the speaker runs");
    }

    /// Returns the number of UPDATE messages that the announcer has sent.
    pub(crate) async fn updates_sent(&mut self) -> u64 {
        let sessions = self
            .client
            .list_sessions(ListSessionsRequest::default())
            .await;
        let sessions = sessions.expect("the call succeeds").into_inner().sessions;
        sessions.iter().map(|session| session.updates_sent).sum()
    }

    /// Waits for the error with which the announcer ended the session, and returns it.
    pub(crate) async fn wait_for_peer_error(&mut self) -> String {
        let peers = self.reflector.peers().await.expect("the speaker runs");
        if let Some((_, error)) = peers
            .first()
            .and_then(|peer| peer.session.last_error.clone())
        {
            return error.to_string();
        }
        let waiting = async {
            loop {
                for change in self
                    .reflector_changes
                    .next()
                    .await
                    .expect("the speaker runs")
                {
                    if let bgp_speaker::SpeakerChange::Peer(peer) = change
                        && let Some((_, error)) = &peer.session.last_error
                    {
                        return error.to_string();
                    }
                }
            }
        };
        timeout(DEADLINE, waiting)
            .await
            .expect("the session ends with an error in time")
    }

    pub(crate) async fn announcements(&mut self) -> ListAnnouncementsResponse {
        let list = self
            .client
            .list_announcements(ListAnnouncementsRequest::default())
            .await;
        list.expect("the call succeeds").into_inner()
    }

    async fn wait_for_announcement(
        &mut self,
        prefix: &str,
        is_fine: impl Fn(&Announcement) -> bool,
    ) -> Announcement {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let all = self.announcements().await.announcements;
            let matching = all.iter().find(|it| it.prefix == prefix && is_fine(it));
            if let Some(matching) = matching {
                return matching.clone();
            }
            assert!(Instant::now() < deadline, "{prefix}: {all:#?}");
            self.wait_before_poll().await;
        }
    }

    pub(crate) async fn wait_for_state(
        &mut self,
        prefix: &str,
        state: AnnouncementState,
    ) -> Announcement {
        self.wait_for_announcement(prefix, |it| it.state() == state)
            .await
    }

    pub(crate) async fn wait_for_announced_to(
        &mut self,
        prefix: &str,
        count: usize,
    ) -> Announcement {
        self.wait_for_announcement(prefix, |it| it.announced_to.len() == count)
            .await
    }

    pub(crate) async fn wait_for_readyz(&mut self, text: &str) {
        let deadline = Instant::now() + DEADLINE;
        while !self.readiness.report().contains(text) {
            assert!(
                Instant::now() < deadline,
                "{text}: {}",
                self.readiness.report()
            );
            self.wait_before_poll().await;
        }
    }

    /// Waits a moment before the next poll of a value that has no watch.
    pub(crate) async fn wait_before_poll(&self) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    /// Waits for the end of the daemon and returns its result.
    pub(crate) async fn ended(&mut self) -> Result<(), DaemonError> {
        let daemon = self.daemon.take().expect("this function is called once");
        let ended = timeout(DEADLINE, daemon).await;
        ended
            .expect("the daemon ends in time")
            .expect("the daemon does not panic")
    }
}

/// Starts a BGP speaker that accepts the paths of the announcer.
async fn reflector(client: IpAddr, client_asn: Asn) -> (SpeakerHandle, SocketAddr, JoinHandle<()>) {
    let address = fresh_address();
    let speaker = BgpSpeaker::bind(SpeakerConfig {
        local_asn: ASN,
        router_id: RouterId(address),
        cluster_id: ClusterId(address),
        listen: vec![SocketAddr::new(address.into(), 0)],
    })
    .expect("the loopback interface is up");
    let handle = speaker.handle();
    let address = speaker.local_addresses()[0];
    let task = tokio::spawn(async move {
        speaker
            .run()
            .await
            .expect("the speaker runs without an error")
    });
    let session = SessionConfig {
        is_client: client_asn == ASN,
        hold_time_seconds: 90,
        import: ImportPolicy::accept_all(),
        ..SessionConfig::new(Some(client_asn))
    };
    let peer = PeerConfig {
        active: false,
        ..PeerConfig::new(SocketAddr::new(client, 179), session)
    };
    let configuration = Configuration {
        peers: vec![peer],
        groups: Vec::new(),
    };
    let configured = handle
        .configure(configuration)
        .await
        .expect("the speaker runs");
    configured.expect("the configuration is valid");
    (handle, address, task)
}
