//! Tests of speakers over loopback, with other speakers or with raw TCP peers.

mod connections;
mod limits;
mod md5;
mod observers;
mod reconfiguration;
mod routes;
mod shared_address;
mod silence;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use bgp_packet::{
    AddPathMode, Announced, Asn, Capability, ClusterId, CodecOptions, Community, Decoder, Family,
    Message, Nlri, NotificationError, Open, PathAttributes, RouterId, Update, encode,
};
use bgp_rib::{
    DEFAULT_LOCAL_PREF, ExportPolicy, ImportPolicy, MaximumPathsAction, PrefixFilter, PrefixRule,
};
use bgp_session::{Cease, OfferedFamily, SessionError, SessionState};
use bgp_speaker::{
    BgpSpeaker, Configuration, GroupConfig, InvalidConfiguration, Md5Key, PathQuery, PathStatus,
    PathTable, PeerConfig, PeerStatus, SessionConfig, SpeakerChange, SpeakerConfig, SpeakerHandle,
};
use bytes::BytesMut;
use ipnet::IpNet;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinHandle,
    time::timeout,
};

const ASN: Asn = Asn(64512);
const DEADLINE: Duration = Duration::from_secs(10);

/// Returns a loopback address that no other test uses.
fn fresh_address() -> Ipv4Addr {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    Ipv4Addr::new(127, 77, high, low)
}

struct TestSpeaker {
    handle: SpeakerHandle,
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl TestSpeaker {
    /// Starts a speaker whose router id is its address. A speaker that starts later has a higher
    /// router id.
    fn start() -> Self {
        Self::start_in(ASN)
    }

    fn start_in(local_asn: Asn) -> Self {
        let address = fresh_address();
        Self::start_at(address.into(), address, local_asn)
    }

    fn start_at(listen: IpAddr, router_id: Ipv4Addr, local_asn: Asn) -> Self {
        let speaker = BgpSpeaker::bind(SpeakerConfig {
            local_asn,
            router_id: RouterId(router_id),
            cluster_id: ClusterId(router_id),
            listen: vec![SocketAddr::new(listen, 0)],
        })
        .expect("the loopback address is available");
        let handle = speaker.handle();
        let address = speaker.local_addresses()[0];
        let task = tokio::spawn(async move { speaker.run().await.expect("no task panics") });
        Self {
            handle,
            address,
            task,
        }
    }

    fn ip(&self) -> IpAddr {
        self.address.ip()
    }

    async fn configure(&self, peers: Vec<PeerConfig>, groups: Vec<GroupConfig>) {
        let configuration = Configuration { peers, groups };
        let result = self.handle.configure(configuration).await;
        result
            .expect("the speaker runs")
            .expect("the configuration is valid");
    }

    /// Returns the configuration with which `other` connects to this speaker.
    fn peer_of(&self, other: &TestSpeaker) -> PeerConfig {
        PeerConfig {
            local_address: Some(other.ip()),
            ..PeerConfig::new(self.address, session())
        }
    }

    async fn peers(&self) -> Vec<PeerStatus> {
        self.handle.peers().await.expect("the speaker runs")
    }

    async fn wait_for_peers(&self, description: &str, predicate: impl Fn(&[PeerStatus]) -> bool) {
        let mut changes = self.handle.changes(false).await.expect("the speaker runs");
        let waiting = async {
            while !predicate(&self.peers().await) {
                changes.next().await.expect("the speaker runs");
            }
        };
        if timeout(DEADLINE, waiting).await.is_err() {
            panic!(
                "not reached in time: {description}: {:#?}",
                self.peers().await
            );
        }
    }

    async fn wait_established(&self, count: usize) {
        self.wait_for_peers("the established sessions", |peers| {
            let established = peers.iter().filter(|peer| is_established(peer));
            established.count() == count
        })
        .await;
    }

    async fn paths(&self) -> Vec<PathStatus> {
        let paths = self.handle.paths(PathQuery::all(PathTable::All)).await;
        paths.expect("the speaker runs")
    }

    async fn wait_for_paths(&self, description: &str, predicate: impl Fn(&[PathStatus]) -> bool) {
        let mut changes = self.handle.changes(true).await.expect("the speaker runs");
        let waiting = async {
            while !predicate(&self.paths().await) {
                changes.next().await.expect("the speaker runs");
            }
        };
        if timeout(DEADLINE, waiting).await.is_err() {
            panic!(
                "not reached in time: {description}: {:#?}",
                self.paths().await
            );
        }
    }

    async fn originate(&self, prefix: &str) -> u64 {
        let attributes = PathAttributes {
            local_pref: Some(100),
            ..PathAttributes::originate(Ipv4Addr::new(192, 0, 2, 1).into())
        };
        self.originate_with(prefix, attributes).await
    }

    async fn originate_with(&self, prefix: &str, attributes: PathAttributes) -> u64 {
        let result = self.handle.originate(net(prefix), attributes).await;
        result
            .expect("the speaker runs")
            .expect("the next hop is of the family of the prefix")
    }

    async fn flushed(&self, revision: u64) {
        let flushed = timeout(DEADLINE, self.handle.flushed(revision)).await;
        flushed
            .expect("the changes are written in time")
            .expect("the speaker runs");
    }
}

fn net(text: &str) -> IpNet {
    text.parse().expect("the prefix is valid")
}

fn is_established(peer: &PeerStatus) -> bool {
    peer.session.state == SessionState::Established
}

/// Returns session settings that accept and send all paths, with short timers.
fn session() -> SessionConfig {
    SessionConfig {
        import: ImportPolicy::accept_all(),
        export: ExportPolicy::send_all(),
        hold_time_seconds: 9,
        connect_retry_minimum: Duration::from_millis(50),
        connect_retry_maximum: Duration::from_millis(500),
        ..SessionConfig::new(Some(ASN))
    }
}

fn group_of(members: &[&TestSpeaker]) -> GroupConfig {
    GroupConfig {
        name: "clients".into(),
        prefixes: members
            .iter()
            .map(|member| IpNet::from(member.ip()))
            .collect(),
        maximum_peers: 100,
        maximum_peers_per_address: 100,
        session: SessionConfig {
            is_client: true,
            ..session()
        },
    }
}

fn active(peer: PeerConfig) -> PeerConfig {
    PeerConfig {
        passive: false,
        ..peer
    }
}

/// Starts a reflector with a group, and a client in this group. Returns the reflector and the
/// client after they have established their session.
async fn pair() -> (TestSpeaker, TestSpeaker) {
    let (reflector, client) = (TestSpeaker::start(), TestSpeaker::start());
    reflector
        .configure(vec![], vec![group_of(&[&client])])
        .await;
    client
        .configure(vec![active(reflector.peer_of(&client))], vec![])
        .await;
    client.wait_established(1).await;
    reflector.wait_established(1).await;
    (reflector, client)
}

/// A minimal BGP peer on a plain TCP socket, without session state.
struct RawPeer {
    stream: TcpStream,
    decoder: Decoder,
    buffer: BytesMut,
}

impl RawPeer {
    async fn connect(from: Ipv4Addr, to: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket can be created");
        Self::connect_by(socket, from, to).await
    }

    async fn connect_by(socket: TcpSocket, from: Ipv4Addr, to: SocketAddr) -> Self {
        socket
            .bind((from, 0).into())
            .expect("the loopback address is available");
        let stream = socket.connect(to).await.expect("the speaker listens");
        Self {
            stream,
            decoder: Decoder::new(),
            buffer: BytesMut::new(),
        }
    }

    async fn send(&mut self, message: Message) {
        let mut bytes = BytesMut::new();
        encode(&message, &options(), &mut bytes);
        self.stream
            .write_all(&bytes)
            .await
            .expect("the connection is open");
    }

    /// Returns the next message. `None`: the speaker has closed the connection.
    async fn receive(&mut self) -> Option<Message> {
        let receiving = async {
            loop {
                let message = self.decoder.decode(&mut self.buffer);
                if let Some(message) = message.expect("the speaker sends valid messages") {
                    if matches!(message, Message::Open(_)) {
                        self.decoder.set_options(options());
                    }
                    return Some(message);
                }
                let read = self.stream.read_buf(&mut self.buffer).await;
                if read.unwrap_or(0) == 0 {
                    return None;
                }
            }
        };
        timeout(DEADLINE, receiving)
            .await
            .expect("a message arrives in time")
    }

    async fn establish(&mut self, hold_time_seconds: u16) {
        self.establish_with(hold_time_seconds, &[]).await;
    }

    async fn establish_with(&mut self, hold_time_seconds: u16, more: &[Capability]) {
        let IpAddr::V4(router_id) = self
            .stream
            .local_addr()
            .expect("the connection is open")
            .ip()
        else {
            panic!("expected an IPv4 address");
        };
        self.send_open(router_id, hold_time_seconds, more).await;
        self.complete_open().await;
    }

    async fn establish_as(&mut self, router_id: Ipv4Addr, hold_time_seconds: u16) {
        self.send_open(router_id, hold_time_seconds, &[]).await;
        self.complete_open().await;
    }

    async fn send_open(
        &mut self,
        router_id: Ipv4Addr,
        hold_time_seconds: u16,
        more: &[Capability],
    ) {
        self.send(Message::Open(Open {
            asn: ASN,
            hold_time_seconds,
            router_id: RouterId(router_id),
            capabilities: [
                Capability::Multiprotocol(Family::Ipv4Unicast),
                Capability::FourOctetAsn(ASN),
            ]
            .iter()
            .chain(more)
            .cloned()
            .collect(),
        }))
        .await;
    }

    async fn complete_open(&mut self) {
        assert!(matches!(self.receive().await, Some(Message::Open(_))));
        self.send(Message::Keepalive).await;
        assert_eq!(self.receive().await, Some(Message::Keepalive));
    }

    async fn announce(&mut self, prefix: &str) {
        self.send(Message::Update(announcement(prefix, None))).await;
    }
}

fn announcement(prefix: &str, multi_exit_disc: Option<u32>) -> Update {
    Update {
        announced: vec![Announced {
            attributes: PathAttributes {
                local_pref: Some(100),
                multi_exit_disc,
                ..PathAttributes::originate(Ipv4Addr::new(192, 0, 2, 9).into())
            }
            .into(),
            nlri: vec![Nlri {
                prefix: net(prefix),
                path_id: None,
            }],
        }],
        ..Update::default()
    }
}

fn options() -> CodecOptions {
    CodecOptions {
        four_octet_asn: true,
        add_path: Vec::new(),
        extended_message: false,
        internal: true,
    }
}

fn group_at(address: Ipv4Addr) -> GroupConfig {
    GroupConfig {
        prefixes: vec![IpNet::from(IpAddr::V4(address))],
        ..group_of(&[])
    }
}

/// Starts a speaker with a group, and connects a raw peer in this group.
async fn speaker_and_raw_peer() -> (TestSpeaker, RawPeer) {
    let speaker = TestSpeaker::start();
    let address = fresh_address();
    let group = group_at(address);
    speaker.configure(vec![], vec![group]).await;
    let peer = RawPeer::connect(address, speaker.address).await;
    (speaker, peer)
}
