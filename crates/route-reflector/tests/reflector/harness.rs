//! Test harness: a reflector in the test process, and BGP speakers.

use std::{
    collections::BTreeMap,
    future::pending,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use bgp_packet::{AddPathMode, Asn, ClusterId, IpNet, PathAttributes, PathId, RouterId};
use bgp_rib::{ExportPolicy, ImportPolicy};
use bgp_session::SessionState;
use bgp_speaker::{
    BgpSpeaker, Configuration, GroupConfig, PathStatus, PeerConfig, PeerStatus, SessionConfig,
    SpeakerChange, SpeakerChanges, SpeakerConfig, SpeakerHandle,
};
use daemon_api::{
    bgp::v1 as bgp,
    reflector::v1::{
        ListPathsRequest, Table, route_reflector_service_client::RouteReflectorServiceClient,
    },
};
use daemon_runtime::{Daemon, DaemonError, ListenAddress, Readiness, Shutdown};
use route_reflector::config::{self, Overrides, Settings};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};
use tonic::transport::Channel;

const ASN: Asn = Asn(64512);
const DEADLINE: Duration = Duration::from_secs(20);

/// Waits for `future`. Panics with the description `what` if the future takes longer than the
/// deadline.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("not within {DEADLINE:?}: {what}"),
    }
}

pub(crate) const HEAD: &str = "\
apiVersion: portlb.io/v1
kind: RouteReflector
asn: 64512
routerId: 192.0.2.10
listen: [\"127.0.0.1:0\"]
";

pub(crate) const CLIENTS: &str = "\
- name: clients
  dynamicPrefixes: [127.0.1.0/24]
  role: client
  importPrefixes:
  - {prefix: 10.1.0.0/16, maximumLength: 32}
  allowedNextHops: [192.0.2.0/24]
  maximumPaths: 3
";

pub(crate) const ROUTERS: &str = "\
- name: routers
  dynamicPrefixes: [127.0.2.0/24]
  role: non-client
  exportPrefixes: all
";

/// Returns the usual configuration file, with dynamic clients and dynamic routers.
pub(crate) fn usual_file() -> String {
    format!("{HEAD}peerGroups:\n{CLIENTS}{ROUTERS}")
}

pub(crate) struct RunningReflector {
    pub(crate) bgp: SocketAddr,
    pub(crate) client: RouteReflectorServiceClient<Channel>,
    /// URL of the gRPC server.
    pub(crate) grpc: String,
    pub(crate) http: ListenAddress,
    pub(crate) readiness: Readiness,
    pub(crate) shutdown: Shutdown,
    pub(crate) daemon: JoinHandle<Result<(), DaemonError>>,
    directory: TempDir,
}

impl RunningReflector {
    pub(crate) async fn start(text: &str) -> Self {
        Self::start_with(text, Duration::from_secs(3600)).await
    }

    /// Starts the reflector with `router_timeout` as the value of `--router-timeout`.
    pub(crate) async fn start_with(text: &str, router_timeout: Duration) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("route-reflector.yaml");
        std::fs::write(&file, text).unwrap();
        let loopback: ListenAddress = "127.0.0.1:0".parse().unwrap();
        let settings = Settings {
            config: config::load(&file, &Overrides::default()).unwrap(),
            file,
            overrides: Overrides::default(),
            grpc_listen: loopback.clone(),
            router_timeout,
            shutdown_text: "stopped by a test".to_owned(),
            shutdown_deadline: Duration::from_secs(5),
        };
        let mut daemon = Daemon::new("route-reflector");
        let addresses = route_reflector::start(settings, &mut daemon).await.unwrap();
        let http = daemon.serve_http(&loopback).await.unwrap();
        let grpc = format!("http://{}", addresses.grpc);
        let client = RouteReflectorServiceClient::connect(grpc.clone())
            .await
            .unwrap();
        let (readiness, shutdown) = (daemon.readiness().clone(), daemon.shutdown().clone());
        let daemon = tokio::spawn(daemon.run_until_drained(pending()));
        let bgp = addresses.bgp[0];
        Self {
            bgp,
            client,
            grpc,
            http,
            readiness,
            shutdown,
            daemon,
            directory,
        }
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.directory.path().join("route-reflector.yaml")
    }

    /// Replaces the file with a rename, like an editor.
    pub(crate) fn replace_file(&self, text: &str) {
        let new = self.directory.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.file()).unwrap();
    }

    /// Waits until the metrics contain `line`. Returns the text of all metrics.
    pub(crate) async fn until_metric(&self, line: &str) -> String {
        let wait = async {
            loop {
                let text = self.http_get("/metrics").await;
                if text.contains(line) {
                    return text;
                }
            }
        };
        soon(line, wait).await
    }

    pub(crate) async fn http_get(&self, path: &str) -> String {
        let stream = TcpStream::connect(self.http.to_string()).await;
        let mut stream = stream.unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        let read = soon("an HTTP answer", stream.read_to_string(&mut text)).await;
        read.unwrap();
        text
    }

    pub(crate) async fn list_paths(
        &mut self,
        table: Table,
        peer: &str,
    ) -> Result<Vec<bgp::Path>, tonic::Status> {
        let request = ListPathsRequest {
            table: table.into(),
            peer: peer.to_owned(),
            ..ListPathsRequest::default()
        };
        let listed = self.client.list_paths(request).await?;
        Ok(listed.into_inner().paths)
    }

    pub(crate) fn replace_file_by_link(&self, target: &Path) {
        let new = self.directory.path().join("new");
        std::os::unix::fs::symlink(target, &new).unwrap();
        std::fs::rename(new, self.file()).unwrap();
    }
}

/// A BGP speaker that has a session with the reflector.
pub(crate) struct TestPeer {
    pub(crate) handle: SpeakerHandle,
    pub(crate) listens_on: Option<SocketAddr>,
    task: JoinHandle<()>,
    changes: SpeakerChanges,
    pub(crate) peers: BTreeMap<String, PeerStatus>,
    pub(crate) paths: BTreeMap<(IpNet, Option<PathId>), PathStatus>,
    /// Number of paths that the reflector has withdrawn.
    pub(crate) withdrawn: usize,
}

impl TestPeer {
    /// Starts a speaker that connects to the reflector from `address`, which is also its router id.
    pub(crate) async fn connecting(address: [u8; 4], reflector: SocketAddr) -> Self {
        Self::connecting_with(address, reflector, session()).await
    }

    pub(crate) async fn connecting_without_hold_time(
        address: [u8; 4],
        reflector: SocketAddr,
    ) -> Self {
        let session = SessionConfig {
            hold_time_seconds: 0,
            ..session()
        };
        Self::connecting_with(address, reflector, session).await
    }

    async fn connecting_with(
        address: [u8; 4],
        reflector: SocketAddr,
        session: SessionConfig,
    ) -> Self {
        let peer = PeerConfig {
            name: "reflector".to_owned(),
            local_address: Some(IpAddr::from(address)),
            passive: false,
            ..PeerConfig::new(reflector, session)
        };
        let peers = Configuration {
            peers: vec![peer],
            groups: Vec::new(),
        };
        Self::start(address, Vec::new(), peers).await
    }

    /// Starts a speaker that accepts a connection of the reflector on `address`.
    pub(crate) async fn listening(address: [u8; 4]) -> Self {
        let group = GroupConfig {
            name: "reflectors".to_owned(),
            prefixes: vec!["127.0.0.0/8".parse().unwrap()],
            maximum_peers: 1,
            maximum_peers_per_address: 1,
            session: session(),
        };
        let peers = Configuration {
            peers: Vec::new(),
            groups: vec![group],
        };
        Self::start(address, vec![(address, 0).into()], peers).await
    }

    async fn start(address: [u8; 4], listen: Vec<SocketAddr>, peers: Configuration) -> Self {
        let speaker = BgpSpeaker::bind(SpeakerConfig {
            local_asn: ASN,
            router_id: RouterId(address.into()),
            cluster_id: ClusterId(address.into()),
            listen,
        })
        .unwrap();
        let listens_on = speaker.local_addresses().first().copied();
        let handle = speaker.handle();
        let task = tokio::spawn(async { speaker.run().await.unwrap() });
        let changes = handle.changes(true).await.unwrap();
        handle.configure(peers).await.unwrap().unwrap();
        Self {
            handle,
            listens_on,
            task,
            changes,
            peers: BTreeMap::new(),
            paths: BTreeMap::new(),
            withdrawn: 0,
        }
    }

    pub(crate) async fn announce(&self, prefix: &str, next_hop: [u8; 4]) {
        let attributes = PathAttributes::originate(next_hop.into());
        self.announce_with(prefix, attributes).await;
    }

    pub(crate) async fn announce_with(&self, prefix: &str, attributes: PathAttributes) {
        let revision = self
            .handle
            .originate(prefix.parse().unwrap(), attributes)
            .await;
        let revision = revision.unwrap().unwrap();
        soon(
            "the UPDATE message is written",
            self.handle.flushed(revision),
        )
        .await
        .unwrap();
    }

    /// Processes changes of sessions and paths until the condition holds.
    pub(crate) async fn until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let follow = async {
            while !condition(self) {
                for change in self.changes.next().await.unwrap() {
                    self.apply(change);
                }
            }
        };
        soon(what, follow).await;
    }

    fn apply(&mut self, change: SpeakerChange) {
        match change {
            SpeakerChange::Peer(peer) => {
                self.peers.insert(peer.name.clone(), *peer);
            }
            SpeakerChange::PeerRemoved(name) => {
                self.peers.remove(&name);
            }
            SpeakerChange::Path(path) => {
                self.paths.insert((path.prefix, path.path_id), path);
            }
            SpeakerChange::PathRemoved(path) => {
                self.withdrawn += 1;
                self.paths.remove(&(path.prefix, path.path_id));
            }
            SpeakerChange::Synced => {}
        }
    }

    pub(crate) async fn established(&mut self) {
        self.until("a session", |this| {
            this.peers
                .values()
                .any(|peer| peer.session.state == SessionState::Established)
        })
        .await;
    }

    /// Waits until a session has ended with an error that contains `text`.
    pub(crate) async fn until_error(&mut self, text: &str) {
        self.until(text, |this| {
            let errors = this.peers.values();
            let mut errors = errors.filter_map(|peer| peer.session.last_error.as_ref());
            errors.any(|(_, error)| error.to_string().contains(text))
        })
        .await;
    }

    /// Fails if the session was not established exactly once.
    pub(crate) async fn assert_session_kept(&self) {
        let sessions = self.handle.peers().await.unwrap();
        assert_eq!(sessions[0].session.counters.established, 1);
    }

    pub(crate) async fn until_next_hops(&mut self, prefix: &str, expected: &[[u8; 4]]) {
        let prefix: IpNet = prefix.parse().unwrap();
        let expected: Vec<IpAddr> = expected.iter().copied().map(IpAddr::from).collect();
        let what = format!("{prefix} via {expected:?}");
        self.until(&what, |this| {
            let paths = this.paths.values().filter(|path| path.prefix == prefix);
            let mut next_hops: Vec<_> = paths.map(|path| path.attributes.next_hop).collect();
            next_hops.sort_unstable();
            next_hops == expected
        })
        .await;
    }

    /// Ends the speaker without a Cease message, like SIGKILL.
    pub(crate) fn kill(self) {
        self.task.abort();
    }
}

fn session() -> SessionConfig {
    let mut session = SessionConfig {
        import: ImportPolicy::accept_all(),
        export: ExportPolicy::send_all(),
        ..SessionConfig::new(Some(ASN))
    };
    for family in &mut session.families {
        family.add_path = Some(AddPathMode::Receive);
    }
    session
}
