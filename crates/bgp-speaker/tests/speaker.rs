//! Speakers against each other, and against peers of a few lines, over loopback. One file, since all
//! of it uses the same few peers.

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
use bgp_session::{Cease, FamilySettings, SessionError, SessionState};
use bgp_speaker::{
    Change, Configuration, GroupConfig, Md5Key, PathStatus, PeerConfig, PeerStatus, SessionConfig,
    Speaker, SpeakerConfig, SpeakerHandle, Table,
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

/// A loopback address that no other test uses.
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
    /// Its router id is its address, thus later ones have higher ids.
    fn start() -> Self {
        Self::start_in(ASN)
    }

    fn start_in(local_asn: Asn) -> Self {
        let address = fresh_address();
        Self::start_at(address.into(), address, local_asn)
    }

    fn start_at(listen: IpAddr, router_id: Ipv4Addr, local_asn: Asn) -> Self {
        let speaker = Speaker::bind(SpeakerConfig {
            local_asn,
            router_id: RouterId(router_id),
            cluster_id: ClusterId(router_id),
            listen: vec![SocketAddr::new(listen, 0)],
        })
        .expect("loopback is there");
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
        result.expect("the speaker runs").expect("it is valid");
    }

    /// How this speaker is reached by `other`.
    fn peer_of(&self, other: &TestSpeaker) -> PeerConfig {
        PeerConfig {
            local_address: Some(other.ip()),
            ..PeerConfig::new(self.address, session())
        }
    }

    async fn peers(&self) -> Vec<PeerStatus> {
        self.handle.peers().await.expect("the speaker runs")
    }

    async fn wait_for_peers(&self, what: &str, is_fine: impl Fn(&[PeerStatus]) -> bool) {
        let mut changes = self.handle.changes(false).await.expect("the speaker runs");
        let waiting = async {
            while !is_fine(&self.peers().await) {
                changes.next().await.expect("the speaker runs");
            }
        };
        if timeout(DEADLINE, waiting).await.is_err() {
            panic!("{what}: {:#?}", self.peers().await);
        }
    }

    async fn wait_established(&self, count: usize) {
        self.wait_for_peers("established", |peers| {
            let established = peers.iter().filter(|peer| is_established(peer));
            established.count() == count
        })
        .await;
    }

    async fn paths(&self) -> Vec<PathStatus> {
        let paths = self.handle.paths(Table::All, None).await;
        paths.expect("the speaker runs")
    }

    async fn wait_for_paths(&self, what: &str, is_fine: impl Fn(&[PathStatus]) -> bool) {
        let mut changes = self.handle.changes(true).await.expect("the speaker runs");
        let waiting = async {
            while !is_fine(&self.paths().await) {
                changes.next().await.expect("the speaker runs");
            }
        };
        if timeout(DEADLINE, waiting).await.is_err() {
            panic!("{what}: {:#?}", self.paths().await);
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
        result.expect("the speaker runs").expect("families match")
    }

    async fn flushed(&self, revision: u64) {
        let flushed = timeout(DEADLINE, self.handle.flushed(revision)).await;
        flushed
            .expect("is written in time")
            .expect("the speaker runs");
    }
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

fn is_established(peer: &PeerStatus) -> bool {
    peer.session.state == SessionState::Established
}

/// Everything in, everything out.
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

/// A listener with a group, and a speaker that dials it.
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

/// A peer of a few lines.
struct RawPeer {
    stream: TcpStream,
    decoder: Decoder,
    buffer: BytesMut,
}

impl RawPeer {
    async fn connect(from: Ipv4Addr, to: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((from, 0).into()).expect("loopback is there");
        let stream = socket.connect(to).await.expect("it listens");
        Self {
            stream,
            decoder: Decoder::new(),
            buffer: BytesMut::new(),
        }
    }

    async fn send(&mut self, message: Message) {
        let mut bytes = BytesMut::new();
        encode(&message, &options(), &mut bytes);
        self.stream.write_all(&bytes).await.expect("is open");
    }

    /// `None` at the end of the connection.
    async fn receive(&mut self) -> Option<Message> {
        let receiving = async {
            loop {
                let message = self.decoder.decode(&mut self.buffer);
                if let Some(message) = message.expect("is well formed") {
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
            .expect("a message in time")
    }

    async fn establish(&mut self, hold_time_seconds: u16) {
        self.establish_with(hold_time_seconds, &[]).await;
    }

    async fn establish_with(&mut self, hold_time_seconds: u16, more: &[Capability]) {
        let IpAddr::V4(router_id) = self.stream.local_addr().expect("is open").ip() else {
            panic!("IPv4");
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

/// A listener with a group that contains one peer of a few lines.
async fn speaker_and_raw_peer() -> (TestSpeaker, RawPeer) {
    let speaker = TestSpeaker::start();
    let address = fresh_address();
    let group = group_at(address);
    speaker.configure(vec![], vec![group]).await;
    let peer = RawPeer::connect(address, speaker.address).await;
    (speaker, peer)
}

#[tokio::test]
async fn paths_come_and_go_with_their_origin() {
    let (reflector, client) = pair().await;
    client.originate("10.1.1.10/32").await;
    reflector
        .wait_for_paths(
            "one path",
            |paths| matches!(paths, [path] if path.prefix == net("10.1.1.10/32") && path.is_best),
        )
        .await;
    let paths = reflector.paths().await;
    assert_eq!(paths[0].peer, Some(client.ip().to_string()));
    client
        .handle
        .withdraw(net("10.1.1.10/32"))
        .await
        .expect("runs");
    reflector.wait_for_paths("no path", <[_]>::is_empty).await;
}

#[tokio::test]
async fn a_dead_peers_paths_are_withdrawn_at_once() {
    let (reflector, client) = pair().await;
    client.originate("10.1.1.10/32").await;
    reflector
        .wait_for_paths("one path", |paths| paths.len() == 1)
        .await;
    client.task.abort();
    reflector.wait_for_paths("no path", <[_]>::is_empty).await;
    // A dynamic peer is gone without a trace.
    assert_eq!(reflector.peers().await, []);
}

#[tokio::test]
async fn a_router_gets_the_paths_of_all_clients_by_add_path() {
    let reflector = TestSpeaker::start();
    let clients = [(); 3].map(|()| TestSpeaker::start());
    let router = TestSpeaker::start();
    let add_path = |mode| {
        vec![FamilySettings {
            family: Family::Ipv4Unicast,
            add_path: Some(mode),
        }]
    };
    let mut to_router = PeerConfig::new(router.address, session());
    to_router.active = false;
    to_router.session.families = add_path(AddPathMode::Send);
    let group = group_of(&clients.each_ref());
    reflector.configure(vec![to_router], vec![group]).await;
    let mut to_reflector = active(reflector.peer_of(&router));
    to_reflector.session.families = add_path(AddPathMode::Receive);
    router.configure(vec![to_reflector], vec![]).await;
    for client in &clients {
        let peer = active(reflector.peer_of(client));
        client.configure(vec![peer], vec![]).await;
        client.originate("10.1.1.0/24").await;
    }
    router
        .wait_for_paths("three paths", |paths| paths.len() == 3)
        .await;
    let [first, ..] = &clients;
    first.task.abort();
    router
        .wait_for_paths("two paths", |paths| paths.len() == 2)
        .await;
}

#[tokio::test]
async fn changed_attributes_replace_the_announcement() {
    let (reflector, client) = pair().await;
    client.originate("10.1.1.10/32").await;
    let drained = PathAttributes {
        local_pref: Some(0),
        communities: vec![Community::GRACEFUL_SHUTDOWN],
        ..PathAttributes::originate(Ipv4Addr::new(192, 0, 2, 1).into())
    };
    let revision = client.originate_with("10.1.1.10/32", drained.clone()).await;
    client.flushed(revision).await;
    reflector
        .wait_for_paths("drained", |paths| {
            matches!(paths, [path] if path.attributes.communities == drained.communities
                && path.attributes.local_pref == Some(0))
        })
        .await;
}

#[tokio::test]
async fn an_unspecified_next_hop_is_this_sides_address() {
    let (reflector, client) = pair().await;
    let attributes = PathAttributes::originate(Ipv4Addr::UNSPECIFIED.into());
    let revision = client.originate_with("10.1.1.10/32", attributes).await;
    client.flushed(revision).await;
    // Not read from the reflector, which refuses the loopback addresses of these tests.
    let name = client.peers().await[0].name.clone();
    let sent = client.handle.paths(Table::AdjRibOut(name), None).await;
    let sent = sent.expect("the speaker runs");
    assert!(
        matches!(&sent[..], [path] if path.attributes.next_hop == client.ip()),
        "{sent:#?}"
    );
    client.originate("10.1.1.11/32").await;
    reflector
        .wait_for_paths("the path after it", |paths| paths.len() == 1)
        .await;
    assert_eq!(reflector.handle.counters().paths_rejected.get(), 1);
}

#[tokio::test]
async fn an_external_peer_gets_our_as_and_no_local_pref() {
    let (router, client) = (TestSpeaker::start_in(Asn(64600)), TestSpeaker::start());
    let to_client = PeerConfig {
        active: false,
        ..PeerConfig::new(client.address, session())
    };
    router.configure(vec![to_client], vec![]).await;
    let mut to_router = active(router.peer_of(&client));
    to_router.session.peer_asn = Some(Asn(64600));
    client.configure(vec![to_router], vec![]).await;
    let attributes = PathAttributes {
        local_pref: Some(250),
        ..PathAttributes::originate(Ipv4Addr::new(192, 0, 2, 1).into())
    };
    client.originate_with("10.1.1.10/32", attributes).await;
    router
        .wait_for_paths("one path", |paths| paths.len() == 1)
        .await;
    let attributes = router.paths().await[0].attributes.clone();
    assert_eq!(attributes.as_path.to_string(), ASN.to_string());
    // The router's own default.
    assert_eq!(attributes.local_pref, Some(DEFAULT_LOCAL_PREF));
    assert_eq!(attributes.next_hop.to_string(), "192.0.2.1");
}

#[tokio::test]
async fn without_a_session_there_is_nothing_to_flush() {
    let speaker = TestSpeaker::start();
    let revision = speaker.originate("10.1.1.10/32").await;
    speaker.flushed(revision).await;
}

#[tokio::test]
async fn speakers_that_dial_each_other_end_with_one_session() {
    for _ in 0..5 {
        let (one, other) = (TestSpeaker::start(), TestSpeaker::start());
        one.configure(vec![other.peer_of(&one)], vec![]).await;
        other.configure(vec![one.peer_of(&other)], vec![]).await;
        one.wait_established(1).await;
        other.wait_established(1).await;
        one.originate("10.1.1.10/32").await;
        other
            .wait_for_paths("one path", |paths| paths.len() == 1)
            .await;
    }
}

#[tokio::test]
async fn reconfiguration_leaves_unchanged_sessions_alone() {
    let reflector = TestSpeaker::start();
    let (stays, changes, goes) = (
        TestSpeaker::start(),
        TestSpeaker::start(),
        TestSpeaker::start(),
    );
    let passive = |peer: &TestSpeaker| PeerConfig {
        active: false,
        ..PeerConfig::new(peer.address, session())
    };
    let peers = vec![passive(&stays), passive(&changes), passive(&goes)];
    reflector.configure(peers, vec![]).await;
    for client in [&stays, &changes, &goes] {
        let peer = active(reflector.peer_of(client));
        client.configure(vec![peer], vec![]).await;
    }
    reflector.wait_established(3).await;

    let mut changed = passive(&changes);
    changed.session.hold_time_seconds = 6;
    reflector
        .configure(vec![passive(&stays), changed], vec![])
        .await;
    let last_error = |peers: &[PeerStatus]| {
        let error = peers
            .first()
            .and_then(|peer| peer.session.last_error.clone());
        error
            .map(|(_, error)| error.to_string())
            .unwrap_or_default()
    };
    goes.wait_for_peers("is told", |peers| {
        last_error(peers).contains("De-configured")
    })
    .await;
    changes
        .wait_for_peers("is told", |peers| {
            last_error(peers).contains("Other Configuration Change")
        })
        .await;
    changes
        .wait_for_peers("comes back", |peers| {
            let negotiated = peers[0].session.negotiated.as_ref();
            negotiated.is_some_and(|it| it.hold_time == Some(Duration::from_secs(6)))
        })
        .await;
    let stays = stays.peers().await;
    assert_eq!(stays[0].session.counters.established, 1);
    assert!(is_established(&stays[0]));
}

/// A group that accepts these prefixes from one peer of a few lines.
fn group_that_accepts(address: Ipv4Addr, prefixes: &[&str]) -> GroupConfig {
    let mut group = group_at(address);
    let rules = prefixes.iter().map(|prefix| PrefixRule::exact(net(prefix)));
    group.session.import.prefixes = PrefixFilter::Only(rules.collect());
    group
}

#[tokio::test]
async fn a_changed_import_policy_asks_a_peer_that_can_answer_for_its_routes() {
    for capabilities in [&[Capability::RouteRefresh][..], &[]] {
        let speaker = TestSpeaker::start();
        let address = fresh_address();
        let group = group_that_accepts(address, &["10.1.1.0/24"]);
        speaker.configure(vec![], vec![group]).await;
        let mut peer = RawPeer::connect(address, speaker.address).await;
        peer.establish_with(0, capabilities).await;
        peer.announce("10.1.2.0/24").await;
        peer.announce("10.1.1.0/24").await;
        speaker
            .wait_for_paths("what is allowed", |paths| paths.len() == 1)
            .await;

        let group = group_that_accepts(address, &["10.1.1.0/24", "10.1.2.0/24"]);
        speaker.configure(vec![], vec![group]).await;
        if !capabilities.is_empty() {
            let refresh = loop {
                match peer.receive().await.expect("the session stays") {
                    Message::RouteRefresh(refresh) => break refresh,
                    Message::Update(_) | Message::Keepalive => {}
                    other @ (Message::Open(_) | Message::Notification(_)) => panic!("{other:?}"),
                }
            };
            assert_eq!(refresh.family, Some(Family::Ipv4Unicast));
        }
        // Either peer may announce again what was rejected.
        peer.announce("10.1.2.0/24").await;
        speaker
            .wait_for_paths("both", |paths| paths.len() == 2)
            .await;
        let group = group_that_accepts(address, &["10.1.2.0/24"]);
        speaker.configure(vec![], vec![group]).await;
        speaker
            .wait_for_paths(
                "what is still allowed",
                |paths| matches!(paths, [path] if path.prefix == net("10.1.2.0/24")),
            )
            .await;
        let peers = speaker.peers().await;
        assert_eq!(peers[0].session.counters.established, 1);
        assert_eq!(speaker.handle.counters().sessions_lost.get(), 0);
    }
}

#[tokio::test]
async fn an_invalid_configuration_changes_nothing() {
    let (reflector, client) = pair().await;
    let twice = reflector.peer_of(&client);
    let configuration = Configuration {
        peers: vec![twice.clone(), twice],
        groups: vec![],
    };
    let result = client.handle.configure(configuration).await.expect("runs");
    assert!(result.is_err());
    assert!(is_established(&client.peers().await[0]));
}

#[tokio::test]
async fn shutdown_tells_each_peer_why_and_waits_for_it() {
    let (reflector, client) = pair().await;
    let mut changes = client.handle.changes(false).await.expect("runs");
    let cease = Cease::AdministrativeShutdown {
        text: "maintenance at noon".into(),
    };
    let shutdown = reflector.handle.shutdown(cease, DEADLINE);
    timeout(DEADLINE / 2, shutdown)
        .await
        .expect("ends before its deadline")
        .expect("it ran");
    reflector.task.await.expect("ends");
    let waiting = async {
        loop {
            for change in changes.next().await.expect("runs") {
                if let Change::Peer(peer) = change
                    && let Some((_, error)) = &peer.session.last_error
                    && error.to_string().contains("maintenance at noon")
                {
                    return;
                }
            }
        }
    };
    timeout(DEADLINE, waiting)
        .await
        .expect("the client was told");
}

#[tokio::test]
async fn a_lost_listener_is_dialled_until_it_is_back() {
    let (reflector, client) = pair().await;
    client.originate("10.1.1.10/32").await;
    let address = reflector.address;
    reflector.task.abort();
    let _ = reflector.task.await;
    client.wait_established(0).await;
    let speaker = Speaker::bind(SpeakerConfig {
        local_asn: ASN,
        router_id: RouterId(Ipv4Addr::new(10, 0, 0, 1)),
        cluster_id: ClusterId(Ipv4Addr::new(10, 0, 0, 1)),
        listen: vec![address],
    })
    .expect("the address is free");
    let reflector = TestSpeaker {
        handle: speaker.handle(),
        address,
        task: tokio::spawn(async move { speaker.run().await.expect("no task panics") }),
    };
    reflector
        .configure(vec![], vec![group_of(&[&client])])
        .await;
    reflector
        .wait_for_paths("is announced again", |paths| paths.len() == 1)
        .await;
}

#[tokio::test]
async fn a_stranger_is_refused_and_leaves_no_trace() {
    let (speaker, _) = speaker_and_raw_peer().await;
    let mut stranger = RawPeer::connect(fresh_address(), speaker.address).await;
    assert_eq!(stranger.receive().await, None);
    let counters = speaker.handle.counters();
    assert_eq!(counters.strangers_refused.get(), 1);
    let addresses: Vec<_> = speaker.peers().await.iter().map(PeerStatus::ip).collect();
    assert!(!addresses.contains(&stranger.stream.local_addr().unwrap().ip()));
}

#[tokio::test]
async fn a_full_group_takes_no_more_peers() {
    let speaker = TestSpeaker::start();
    let addresses = [fresh_address(), fresh_address()];
    let group = GroupConfig {
        prefixes: addresses.map(|it| IpNet::from(IpAddr::V4(it))).to_vec(),
        maximum_peers: 1,
        ..group_of(&[])
    };
    speaker.configure(vec![], vec![group]).await;
    let mut first = RawPeer::connect(addresses[0], speaker.address).await;
    first.establish(9).await;
    let mut second = RawPeer::connect(addresses[1], speaker.address).await;
    assert_eq!(second.receive().await, None);
    drop(first);
    speaker.wait_for_peers("has room", <[_]>::is_empty).await;
    let mut second = RawPeer::connect(addresses[1], speaker.address).await;
    second.establish(9).await;
}

#[tokio::test]
async fn connections_that_are_reset_at_once_leave_no_peer() {
    let (speaker, peer) = speaker_and_raw_peer().await;
    let address = peer.stream.local_addr().expect("is open").ip();
    drop(peer);
    for _ in 0..50 {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((address, 0).into()).expect("loopback is there");
        let stream = socket.connect(speaker.address).await.expect("it listens");
        let socket = socket2::SockRef::from(&stream);
        socket.set_linger(Some(Duration::ZERO)).expect("is open");
    }
    speaker.wait_for_peers("are gone", <[_]>::is_empty).await;
}

/// As two load balancers of one node, where the cluster's network masquerades them.
#[tokio::test]
async fn speakers_behind_one_address_have_a_session_each() {
    let (speaker, mut first) = speaker_and_raw_peer().await;
    let IpAddr::V4(address) = first.stream.local_addr().expect("is open").ip() else {
        panic!("IPv4");
    };
    first.establish_as(Ipv4Addr::new(10, 244, 1, 7), 0).await;
    let mut second = RawPeer::connect(address, speaker.address).await;
    second.establish_as(Ipv4Addr::new(10, 244, 1, 8), 0).await;
    for peer in [&mut first, &mut second] {
        peer.announce("10.1.1.10/32").await;
    }
    speaker
        .wait_for_paths("two paths", |paths| paths.len() == 2)
        .await;
    let names = |peers: &[PeerStatus]| -> Vec<String> {
        peers.iter().map(|peer| peer.name.clone()).collect()
    };
    let numbered = format!("{address}#2");
    let peers = speaker.peers().await;
    assert_eq!(names(&peers), [address.to_string(), numbered.clone()]);

    // The same configuration again leaves both alone.
    let group = GroupConfig {
        prefixes: vec![IpNet::from(IpAddr::V4(address))],
        ..group_of(&[])
    };
    speaker.configure(vec![], vec![group]).await;
    assert_eq!(speaker.handle.counters().sessions_lost.get(), 0);

    drop(first);
    speaker
        .wait_for_paths(
            "the other's path",
            |paths| matches!(paths, [path] if path.peer.as_deref() == Some(&numbered)),
        )
        .await;
}

#[tokio::test]
async fn a_new_identifier_is_refused_and_counted_while_its_address_has_its_maximum_of_peers() {
    let speaker = TestSpeaker::start();
    let (address, other) = (fresh_address(), fresh_address());
    let group = GroupConfig {
        prefixes: [address, other]
            .map(|it| IpNet::from(IpAddr::V4(it)))
            .to_vec(),
        maximum_peers_per_address: 2,
        ..group_of(&[])
    };
    speaker.configure(vec![], vec![group]).await;
    let mut peers = Vec::new();
    for router_id in [7, 8] {
        let mut peer = RawPeer::connect(address, speaker.address).await;
        let router_id = Ipv4Addr::new(10, 244, 1, router_id);
        peer.establish_as(router_id, 0).await;
        peers.push(peer);
    }
    for refused in 1..3 {
        let mut third = RawPeer::connect(address, speaker.address).await;
        assert_eq!(third.receive().await, None);
        let counters = speaker.handle.counters();
        assert_eq!(counters.connections_over_address_maximum.get(), refused);
    }
    // The limit of one address does not affect another address of the group.
    let mut elsewhere = RawPeer::connect(other, speaker.address).await;
    elsewhere.establish(0).await;
    speaker.wait_established(3).await;
    let counters = speaker.handle.counters();
    assert_eq!(counters.sessions_lost.get(), 0);
    assert_eq!(counters.strangers_refused.get(), 0);

    drop(peers.pop());
    speaker.wait_established(2).await;
    let mut third = RawPeer::connect(address, speaker.address).await;
    third.establish_as(Ipv4Addr::new(10, 244, 1, 9), 0).await;
    speaker.wait_established(3).await;
}

#[tokio::test]
async fn a_second_connection_with_an_established_identifier_is_refused_and_counted() {
    let (speaker, mut first) = speaker_and_raw_peer().await;
    first.establish(0).await;
    let IpAddr::V4(address) = first.stream.local_addr().expect("is open").ip() else {
        panic!("IPv4");
    };
    let mut second = RawPeer::connect(address, speaker.address).await;
    assert!(matches!(second.receive().await, Some(Message::Open(_))));
    second.send_open(address, 0, &[]).await;
    let Some(Message::Notification(notification)) = second.receive().await else {
        panic!("it is let in");
    };
    let collision = NotificationError::CONNECTION_COLLISION_RESOLUTION;
    assert_eq!(notification.error, collision);
    assert_eq!(second.receive().await, None);
    let peers = speaker.peers().await;
    assert!(matches!(&peers[..], [peer] if is_established(peer)));
    let counters = speaker.handle.counters();
    assert_eq!(counters.duplicates_refused.get(), 1);
    assert_eq!(counters.sessions_lost.get(), 0);
}

#[tokio::test]
async fn connections_of_one_address_wait_for_their_open_next_to_each_other() {
    let (speaker, first) = speaker_and_raw_peer().await;
    let IpAddr::V4(address) = first.stream.local_addr().expect("is open").ip() else {
        panic!("IPv4");
    };
    let mut waiting = vec![first];
    for _ in 0..2 {
        waiting.push(RawPeer::connect(address, speaker.address).await);
    }
    speaker
        .wait_for_peers("a peer each", |peers| peers.len() == 3)
        .await;
    for (peer, id) in waiting.iter_mut().zip(1..) {
        peer.establish_as(Ipv4Addr::new(10, 244, 1, id), 9).await;
    }
    speaker.wait_established(3).await;
    assert_eq!(speaker.handle.counters().sessions_lost.get(), 0);
}

#[tokio::test]
async fn connections_that_send_no_open_are_bounded_and_keep_no_speaker_out() {
    let speaker = TestSpeaker::start();
    let address = fresh_address();
    let group = GroupConfig {
        maximum_peers_per_address: 3,
        ..group_at(address)
    };
    speaker.configure(vec![], vec![group]).await;
    let mut established = RawPeer::connect(address, speaker.address).await;
    let id = Ipv4Addr::new(10, 244, 1, 7);
    established.establish_as(id, 9).await;
    let mut waiting = Vec::new();
    for _ in 0..10 {
        let mut peer = RawPeer::connect(address, speaker.address).await;
        assert!(matches!(peer.receive().await, Some(Message::Open(_))));
        assert!(speaker.peers().await.len() <= 3);
        waiting.push(peer);
    }
    // The oldest one has given way.
    let Some(Message::Notification(notification)) = waiting[0].receive().await else {
        panic!("it waits on");
    };
    assert_eq!(notification.error, NotificationError::CONNECTION_REJECTED);
    let mut other = RawPeer::connect(address, speaker.address).await;
    let id = Ipv4Addr::new(10, 244, 1, 8);
    other.establish_as(id, 9).await;
    speaker.wait_established(2).await;
    assert_eq!(speaker.handle.counters().sessions_lost.get(), 0);
}

#[tokio::test]
async fn a_peer_with_too_many_paths_is_kept_out_until_its_maximum_is_raised() {
    let speaker = TestSpeaker::start();
    let address = fresh_address();
    let mut group = GroupConfig {
        prefixes: vec![IpNet::from(IpAddr::V4(address))],
        ..group_of(&[])
    };
    group.session.import.maximum_paths = Some(2);
    group.session.import.at_maximum = MaximumPathsAction::Restart;
    speaker.configure(vec![], vec![group.clone()]).await;
    let mut peer = RawPeer::connect(address, speaker.address).await;
    peer.establish(9).await;
    for prefix in ["10.1.0.1/32", "10.1.0.2/32", "10.1.0.3/32"] {
        peer.announce(prefix).await;
    }
    let notification = loop {
        match peer.receive().await.expect("it is told why") {
            Message::Notification(notification) => break notification,
            Message::Open(_)
            | Message::Update(_)
            | Message::Keepalive
            | Message::RouteRefresh(_) => {}
        }
    };
    assert_eq!(
        notification.error,
        NotificationError::MAXIMUM_PREFIXES_REACHED
    );
    speaker.wait_for_paths("are gone", <[_]>::is_empty).await;
    let is_let_in = async || {
        let mut again = RawPeer::connect(address, speaker.address).await;
        match again.receive().await {
            Some(Message::Open(_)) => true,
            Some(Message::Notification(notification)) => {
                assert_eq!(notification.error, NotificationError::CONNECTION_REJECTED);
                false
            }
            other => panic!("{other:?}"),
        }
    };
    assert!(!is_let_in().await);
    // A change that leaves the maximum as it is does not end the pause.
    group.session.export = ExportPolicy::default();
    speaker.configure(vec![], vec![group.clone()]).await;
    assert!(!is_let_in().await);
    group.session.import.maximum_paths = Some(3);
    speaker.configure(vec![], vec![group]).await;
    assert!(is_let_in().await);
}

#[tokio::test]
async fn paths_beyond_the_maximum_are_refused_and_asked_for_again_when_there_is_room() {
    let (reflector, client) = (TestSpeaker::start(), TestSpeaker::start());
    let mut group = group_of(&[&client]);
    group.session.import.maximum_paths = Some(2);
    reflector.configure(vec![], vec![group]).await;
    client
        .configure(vec![active(reflector.peer_of(&client))], vec![])
        .await;
    let prefixes = |paths: &[PathStatus]| {
        let prefixes = paths.iter().map(|path| path.prefix.to_string());
        prefixes.collect::<Vec<_>>()
    };
    for prefix in ["10.1.0.1/32", "10.1.0.2/32"] {
        client.originate(prefix).await;
    }
    reflector
        .wait_for_paths("both", |paths| paths.len() == 2)
        .await;
    let revision = client.originate("10.1.0.3/32").await;
    client.flushed(revision).await;
    // What is held can change at the limit. The change comes after the refused path.
    let attributes = PathAttributes {
        multi_exit_disc: Some(7),
        ..PathAttributes::originate(Ipv4Addr::new(192, 0, 2, 1).into())
    };
    client.originate_with("10.1.0.2/32", attributes).await;
    reflector
        .wait_for_paths("the change", |paths| {
            paths.len() == 2 && paths[1].attributes.multi_exit_disc == Some(7)
        })
        .await;
    assert_eq!(reflector.handle.counters().paths_over_maximum.get(), 1);

    let withdrawn = client.handle.withdraw(net("10.1.0.1/32")).await;
    withdrawn.expect("the speaker runs");
    reflector
        .wait_for_paths("the refused path", |paths| {
            prefixes(paths) == ["10.1.0.2/32", "10.1.0.3/32"]
        })
        .await;
    let peers = reflector.peers().await;
    assert_eq!(peers[0].session.counters.established, 1);
}

#[tokio::test]
async fn a_silent_peer_is_given_up_after_the_hold_time() {
    let (speaker, mut peer) = speaker_and_raw_peer().await;
    peer.establish(3).await;
    peer.announce("10.1.1.10/32").await;
    speaker
        .wait_for_paths("one path", |paths| paths.len() == 1)
        .await;
    let begin = std::time::Instant::now();
    speaker.wait_for_paths("no path", <[_]>::is_empty).await;
    let passed = begin.elapsed();
    assert!(
        passed > Duration::from_millis(2000) && passed < Duration::from_millis(8000),
        "{passed:?}"
    );
}

/// The thread that runs the speaker stands still for longer than the hold time, as after SIGSTOP.
#[tokio::test]
async fn a_sleep_of_this_process_ends_no_session_of_a_live_peer() {
    let (speaker, mut peer) = speaker_and_raw_peer().await;
    peer.establish(3).await;
    speaker.wait_established(1).await;
    let socket = socket2::SockRef::from(&peer.stream);
    let mut socket = std::net::TcpStream::from(socket.try_clone().expect("is open"));
    let mut keepalive = BytesMut::new();
    encode(&Message::Keepalive, &options(), &mut keepalive);
    for _ in 0..4 {
        std::thread::sleep(Duration::from_secs(1));
        std::io::Write::write_all(&mut socket, &keepalive).expect("the kernel takes it");
    }
    // This command wakes the owner before the runtime polls a socket.
    assert!(is_established(&speaker.peers().await[0]));
    peer.announce("10.1.1.10/32").await;
    speaker
        .wait_for_paths("one path", |paths| paths.len() == 1)
        .await;
    assert_eq!(speaker.handle.counters().sessions_lost.get(), 0);
}

#[tokio::test]
async fn a_peer_that_is_silent_during_a_sleep_of_this_process_is_given_up_after_it() {
    let (speaker, mut peer) = speaker_and_raw_peer().await;
    peer.establish(3).await;
    speaker.wait_established(1).await;
    std::thread::sleep(Duration::from_secs(4));
    let begin = std::time::Instant::now();
    speaker.wait_for_peers("is gone", <[_]>::is_empty).await;
    let passed = begin.elapsed();
    assert!(passed < Duration::from_secs(2), "{passed:?}");
}

#[tokio::test]
async fn garbage_is_answered_with_a_notification() {
    let (_speaker, mut peer) = speaker_and_raw_peer().await;
    assert!(matches!(peer.receive().await, Some(Message::Open(_))));
    peer.stream
        .write_all(b"GET / HTTP/1.1\r\nHost: bgp.example\r\n\r\n")
        .await
        .expect("is open");
    let Some(Message::Notification(notification)) = peer.receive().await else {
        panic!("no NOTIFICATION");
    };
    assert_eq!(
        notification.error,
        NotificationError::CONNECTION_NOT_SYNCHRONIZED
    );
    assert_eq!(peer.receive().await, None);
}

/// One client sends changes of a few prefixes for as long as the test lasts. The path of another
/// client is handled after a few turns of the owner, each with a bounded share of the flood.
#[tokio::test]
async fn a_client_that_floods_does_not_delay_the_path_of_another_client() {
    // The shares of a few turns, which are 128 UPDATEs each.
    const MOST_BEFORE_THE_OTHER: u64 = 512;
    let speaker = TestSpeaker::start();
    let addresses = [fresh_address(), fresh_address()];
    let group = GroupConfig {
        prefixes: addresses.map(|it| IpNet::from(IpAddr::V4(it))).to_vec(),
        ..group_of(&[])
    };
    speaker.configure(vec![], vec![group]).await;
    let mut flooding = RawPeer::connect(addresses[0], speaker.address).await;
    let mut other = RawPeer::connect(addresses[1], speaker.address).await;
    flooding.establish(0).await;
    other.establish(0).await;
    let socket = socket2::SockRef::from(&flooding.stream);
    let mut socket = std::net::TcpStream::from(socket.try_clone().expect("is open"));
    socket.set_nonblocking(false).expect("is open");
    std::thread::spawn(move || {
        let mut changes = BytesMut::new();
        for number in 0..1000 {
            let update = announcement(&format!("10.1.0.{}/32", number % 100), Some(number));
            encode(&Message::Update(update), &options(), &mut changes);
        }
        // Ends with the connection.
        while std::io::Write::write_all(&mut socket, &changes).is_ok() {}
    });
    let counters = speaker.handle.counters();
    let mut changes = speaker.handle.changes(true).await.expect("runs");
    while counters.updates_received.get() < 5_000 {
        tokio::task::yield_now().await;
    }
    let before = counters.updates_received.get();
    other.announce("10.1.1.10/32").await;
    let waiting = async {
        loop {
            let arrived = changes.next().await.expect("runs").into_iter().any(
                |change| matches!(change, Change::Path(path) if path.prefix == net("10.1.1.10/32")),
            );
            if arrived {
                return;
            }
        }
    };
    timeout(DEADLINE, waiting).await.expect("arrives in time");
    let flood = counters.updates_received.get() - before;
    assert!(flood <= MOST_BEFORE_THE_OTHER, "{flood} UPDATEs came first");
}

/// While a peer does not read, its changes coalesce: what it gets in the end is bounded by the
/// number of prefixes, not of changes, and is the final state.
#[tokio::test]
async fn a_peer_that_does_not_read_costs_no_queue() {
    const PREFIXES: u32 = 2000;
    const ROUNDS: u32 = 40;
    let (speaker, mut peer) = speaker_and_raw_peer().await;
    peer.establish(0).await;
    speaker.wait_established(1).await;
    let prefix = |index: u32| IpNet::from(IpAddr::V4(Ipv4Addr::from(0x0a01_0000 + index)));
    let mut revision = 0;
    for round in 0..ROUNDS {
        for index in 0..PREFIXES {
            // Attributes of their own let every prefix fill a message.
            let attributes = PathAttributes {
                multi_exit_disc: Some(round * PREFIXES + index),
                local_pref: Some(100),
                communities: (0..200).map(Community).collect(),
                ..PathAttributes::originate(Ipv4Addr::new(192, 0, 2, 1).into())
            };
            let result = speaker.handle.originate(prefix(index), attributes).await;
            revision = result.expect("runs").expect("families match");
        }
    }
    let mut last = std::collections::HashMap::new();
    let mut updates = 0;
    while last.len() < PREFIXES as usize || last.values().any(|med| *med < (ROUNDS - 1) * PREFIXES)
    {
        if let Some(Message::Update(update)) = peer.receive().await {
            updates += 1;
            for announced in update.announced {
                for nlri in announced.nlri {
                    last.insert(nlri.prefix, announced.attributes.multi_exit_disc.unwrap());
                }
            }
        }
    }
    assert!(updates < PREFIXES * ROUNDS / 2, "{updates} updates");
    for index in 0..PREFIXES {
        assert_eq!(last[&prefix(index)], (ROUNDS - 1) * PREFIXES + index);
    }
    speaker.flushed(revision).await;
}

#[tokio::test]
async fn an_observer_of_nothing_is_synced_at_once() {
    let speaker = TestSpeaker::start();
    let mut changes = speaker.handle.changes(true).await.expect("runs");
    let first = timeout(DEADLINE, changes.next()).await.expect("in time");
    assert_eq!(first, Ok(vec![Change::Synced]));
}

#[tokio::test]
async fn an_observer_that_gives_up_a_call_loses_nothing() {
    let speaker = TestSpeaker::start();
    let mut changes = speaker.handle.changes(true).await.expect("runs");
    assert_eq!(changes.next().await, Ok(vec![Change::Synced]));
    for index in 0..20 {
        // Given up once the call waits, and at times after its answer has come.
        let _ = timeout(Duration::from_micros(index * 50), changes.next()).await;
        speaker.originate(&format!("10.1.1.{index}/32")).await;
    }
    speaker.originate("10.1.2.1/32").await;
    let last = net("10.1.2.1/32");
    let waiting = async {
        loop {
            let changes = changes.next().await.expect("runs");
            if changes
                .iter()
                .any(|change| matches!(change, Change::Path(path) if path.prefix == last))
            {
                return;
            }
        }
    };
    timeout(DEADLINE, waiting)
        .await
        .expect("the last change in time");
}

#[tokio::test]
async fn an_observer_learns_of_everything_then_synced_then_changes() {
    let (reflector, client) = pair().await;
    client.originate("10.1.1.10/32").await;
    reflector
        .wait_for_paths("one path", |paths| paths.len() == 1)
        .await;
    let mut changes = reflector.handle.changes(true).await.expect("runs");
    let first = changes.next().await.expect("runs");
    assert!(
        matches!(
            &first[..],
            [Change::Peer(_), Change::Path(_), Change::Synced]
        ),
        "{first:#?}"
    );
    client.task.abort();
    let mut seen = Vec::new();
    let waiting = async {
        while seen.len() < 2 {
            seen.extend(changes.next().await.expect("runs"));
        }
    };
    timeout(DEADLINE, waiting).await.expect("changes in time");
    let name = client.ip().to_string();
    assert!(
        seen.contains(&Change::PeerRemoved(name.clone())),
        "{seen:#?}"
    );
    let is_removed = seen.iter().any(
        |change| matches!(change, Change::PathRemoved(path) if path.peer.as_ref() == Some(&name)),
    );
    assert!(is_removed, "{seen:#?}");
}

fn key(text: &str) -> Md5Key {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("key");
    std::fs::write(&file, text).expect("is written");
    Md5Key::read(&file).expect("is a key")
}

/// Has the client dial with this key, and soon again.
async fn dial_with(client: &TestSpeaker, reflector: &TestSpeaker, key: Option<&Md5Key>) {
    let mut peer = active(reflector.peer_of(client));
    peer.session.md5_key = key.cloned();
    peer.session.connect_timeout = Duration::from_millis(300);
    client.configure(vec![peer], vec![]).await;
}

async fn accept_with(reflector: &TestSpeaker, clients: &[&TestSpeaker], key: Option<&Md5Key>) {
    let mut group = group_of(clients);
    group.session.md5_key = key.cloned();
    reflector.configure(vec![], vec![group]).await;
}

/// Nobody answers a SYN that is not signed as it shall be.
async fn wait_until_nobody_answers(client: &TestSpeaker) {
    client
        .wait_for_peers("no answer", |peers| {
            let error = peers[0].session.last_error.as_ref();
            matches!(error, Some((_, SessionError::DialTimeout(_))))
        })
        .await;
}

#[tokio::test]
async fn a_session_comes_up_with_equal_keys_only() {
    let (one, other) = (key("one"), key("other"));
    let reflector = TestSpeaker::start();
    let clients = [(); 3].map(|()| TestSpeaker::start());
    accept_with(&reflector, &clients.each_ref(), Some(&one)).await;
    let [equal, different, without] = &clients;
    dial_with(different, &reflector, Some(&other)).await;
    dial_with(without, &reflector, None).await;
    wait_until_nobody_answers(different).await;
    wait_until_nobody_answers(without).await;
    dial_with(equal, &reflector, Some(&one)).await;
    equal.wait_established(1).await;
    reflector.wait_established(1).await;
    let counters = reflector.handle.counters();
    assert_eq!(counters.connections_accepted.get(), 1);

    let reflector = TestSpeaker::start();
    accept_with(&reflector, &[different, without], None).await;
    dial_with(different, &reflector, Some(&other)).await;
    wait_until_nobody_answers(different).await;
    dial_with(without, &reflector, None).await;
    without.wait_established(1).await;
}

#[tokio::test]
async fn a_session_over_ipv6_comes_up_with_equal_keys_only() {
    let (one, other) = (key("one"), key("other"));
    let at_home = |()| TestSpeaker::start_at(Ipv6Addr::LOCALHOST.into(), fresh_address(), ASN);
    let [reflector, client] = [(); 2].map(at_home);
    accept_with(&reflector, &[&client], Some(&one)).await;
    dial_with(&client, &reflector, Some(&other)).await;
    wait_until_nobody_answers(&client).await;
    dial_with(&client, &reflector, Some(&one)).await;
    client.wait_established(1).await;
}

#[tokio::test]
async fn a_peer_with_an_address_of_its_own_has_a_key_of_its_own() {
    let (one, other) = (key("one"), key("other"));
    let reflector = TestSpeaker::start();
    let (client, router) = (TestSpeaker::start(), TestSpeaker::start());
    let mut group = group_of(&[&client, &router]);
    group.session.md5_key = Some(one.clone());
    let mut to_router = PeerConfig {
        active: false,
        ..PeerConfig::new(router.address, session())
    };
    to_router.session.md5_key = Some(other.clone());
    reflector.configure(vec![to_router], vec![group]).await;
    dial_with(&client, &reflector, Some(&one)).await;
    dial_with(&router, &reflector, Some(&one)).await;
    wait_until_nobody_answers(&router).await;
    dial_with(&router, &reflector, Some(&other)).await;
    reflector.wait_established(2).await;
}

#[tokio::test]
async fn a_key_can_change_and_go_while_the_speaker_runs() {
    let (one, other) = (key("one"), key("other"));
    let (reflector, client) = (TestSpeaker::start(), TestSpeaker::start());
    accept_with(&reflector, &[&client], Some(&one)).await;
    dial_with(&client, &reflector, Some(&one)).await;
    client.wait_established(1).await;

    accept_with(&reflector, &[&client], Some(&other)).await;
    client
        .wait_for_peers("the session ends", |peers| !is_established(&peers[0]))
        .await;
    wait_until_nobody_answers(&client).await;
    dial_with(&client, &reflector, Some(&other)).await;
    client.wait_established(1).await;

    accept_with(&reflector, &[&client], None).await;
    dial_with(&client, &reflector, None).await;
    client.wait_established(1).await;
    reflector.wait_established(1).await;
}
