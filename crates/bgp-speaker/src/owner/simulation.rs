//! Simulation of the owner, driven by a byte script.
//!
//! The simulation has no sockets and a virtual clock. Each step of a script is one octet that
//! chooses an event, followed by the parameters of the event. Peers connect, send well-formed
//! messages or arbitrary octets in pieces, read updates and disconnect. Time passes, and the
//! configuration and the speaker's own paths change. The simulation checks the invariants of the
//! owner after each step.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use bgp_packet::{
    AddPathMode, Announced, AsPath, AsPathSegment, Asn, Capability, ClusterId, CodecOptions,
    Decoder, Family, Message, Nlri, Open, PathAttributes, PathId, RouterId, Update, encode,
};
use bgp_rib::{
    ExportPolicy, ImportPolicy, MaximumPathsAction, PathSource, PrefixFilter, PrefixRule,
};
use bgp_session::{Cease, ConnectionId};
use bytes::{BufMut, BytesMut};
use ipnet::{IpNet, Ipv4Net};
use tokio::{
    runtime::{Builder, Runtime},
    sync::{mpsc, oneshot},
};

use super::SpeakerOwner;
use crate::{
    config::{Configuration, GroupConfig, PeerConfig, SessionConfig, SpeakerConfig},
    connections::{ConnectionAddresses, ConnectionTasks},
    counters::SpeakerCounters,
    messages::{ConnectionEnd, ConnectionEvent, ConnectionOrder, SpeakerCommand},
    path_list::{PathQuery, PathTable},
};

const LOCAL_ASN: Asn = Asn(64512);
const OTHER_ASN: Asn = Asn(65001);
const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 9);

/// Addresses of two clients of a group, of a configured peer in this AS that the speaker does not
/// dial, of a configured peer in another AS that the speaker dials, and of a speaker that is not
/// configured.
const REMOTES: [[u8; 4]; 5] = [
    [10, 0, 0, 1],
    [10, 0, 0, 2],
    [10, 0, 1, 1],
    [10, 0, 2, 1],
    [10, 0, 3, 1],
];
const ACTIVE: usize = 3;

const MAX_PEERS: usize = 4;
const MAX_PATHS: u32 = 3;
/// Largest number of simultaneous connections of a script.
const MAX_CONNECTIONS: usize = 8;

/// Runs a script.
///
/// # Panics
/// An invariant does not hold.
pub fn run(script: &[u8]) {
    let mut simulation = OwnerSimulation::new();
    let runtime = simulation.runtime.clone();
    let _context = runtime.enter();
    let mut script = Script(script);
    simulation.configure(0);
    while let Some(step) = script.octet() {
        simulation.step(step, &mut script);
        simulation.finish_turn();
        simulation.check();
    }
    simulation.close_all_connections();
}

struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn octet(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> usize {
        self.octet().unwrap_or_default().into()
    }

    fn octets(&mut self) -> &'a [u8] {
        let length = self.number().min(self.0.len());
        let (octets, rest) = self.0.split_at(length);
        self.0 = rest;
        octets
    }
}

struct OwnerSimulation {
    /// Runtime for the tasks of dials, which are spawned but never run.
    runtime: Arc<Runtime>,
    owner: SpeakerOwner,
    now: Instant,
    connections: Vec<SimulatedConnection>,
}

/// A simulated connection, in the place of a connection task and its peer.
struct SimulatedConnection {
    id: ConnectionId,
    remote: usize,
    orders: mpsc::Receiver<ConnectionOrder>,
    decoder: Decoder,
    encoder: CodecOptions,
    input: BytesMut,
    waits_for_options: bool,
    has_ended: bool,
    /// Number of UPDATE messages of the last batch, until the script reports the batch as written.
    unwritten: Option<u64>,
    is_polled: bool,
}

impl OwnerSimulation {
    fn new() -> Self {
        let config = SpeakerConfig {
            local_asn: LOCAL_ASN,
            router_id: RouterId(LOCAL),
            cluster_id: ClusterId(LOCAL),
            listen: Vec::new(),
        };
        let counters = Arc::new(SpeakerCounters::default());
        // The script creates all events, so the receiver is not needed.
        let (events, _) = mpsc::channel(1);
        let connections = ConnectionTasks::new(events, counters.clone());
        let runtime = Builder::new_current_thread().build();
        Self {
            runtime: Arc::new(runtime.expect("a runtime without I/O and timers can be built")),
            owner: SpeakerOwner::new(config, connections, counters, 0),
            now: Instant::now(),
            connections: Vec::new(),
        }
    }

    fn step(&mut self, step: u8, script: &mut Script<'_>) {
        match step % 14 {
            0 => self.connect(script.number()),
            1 => self.dial_ends(script.number()),
            2 => {
                let connection = script.number();
                self.send(connection, script.octets());
            }
            3 => {
                let (connection, kind) = (script.number(), script.octet().unwrap_or_default());
                let body = script.octets();
                let mut message = BytesMut::new();
                message.put_bytes(0xff, 16);
                message.put_u16(19 + u16::try_from(body.len()).expect("less than 256"));
                message.put_u8(kind);
                message.put_slice(body);
                self.send(connection, &message);
            }
            4 => {
                let (connection, bits) = (script.number(), script.number());
                self.send_message(connection, |remote| open(remote, bits));
            }
            5 => {
                let connection = script.number();
                self.send_message(connection, |_| Message::Keepalive);
            }
            6 => {
                let (connection, bits) = (script.number(), script.octet().unwrap_or_default());
                self.send_message(connection, |remote| update(remote, bits));
            }
            7 => {
                let connection = script.number();
                if let Some(index) = self.connection_index(connection) {
                    let lost = ConnectionEnd::Lost("closed by the peer".to_owned());
                    self.received(index, Vec::new(), Some(lost));
                }
            }
            8 => self.written(script.number()),
            9 => {
                let connection = script.number();
                if let Some(index) = self.connection_index(connection) {
                    let connection = self.connections[index].id;
                    self.event(ConnectionEvent::SendHoldTimerExpired { connection });
                }
            }
            10 => self.sleep(Duration::from_secs(script.number() as u64)),
            11 => self.configure(script.number()),
            12 => self.own_path(script.number()),
            _ => self.operate(script.number()),
        }
    }

    /// Returns the index of an open connection, chosen by a number of the script. `None`: no
    /// connection is open.
    fn connection_index(&self, number: usize) -> Option<usize> {
        (!self.connections.is_empty()).then(|| number % self.connections.len())
    }

    fn event(&mut self, event: ConnectionEvent) {
        self.owner.event(event, self.now);
    }

    fn connect(&mut self, number: usize) {
        let remote = number % REMOTES.len();
        if self.connections.len() == MAX_CONNECTIONS {
            return;
        }
        let port = 1024 + u16::try_from(number).expect("an octet");
        let address = SocketAddr::new(REMOTES[remote].into(), port);
        if let Some(peer) = self.owner.admit(address, self.now) {
            let connection = self.link(peer, remote, address);
            self.owner.sessions.accepted(peer, Ok(connection), self.now);
        }
    }

    fn dial_ends(&mut self, result: usize) {
        let peers = &self.owner.sessions.peers;
        let Some(peer) = peers.find(|peer| peer.dial.is_some()) else {
            return;
        };
        let dial = peers.get(peer).and_then(|peer| peer.dial.as_ref());
        let attempt = dial
            .expect("the peer was selected because it dials")
            .attempt;
        assert!(self.owner.sessions.take_dial(peer, attempt));
        let result = if result.is_multiple_of(2) && self.connections.len() < MAX_CONNECTIONS {
            let address = SocketAddr::new(REMOTES[ACTIVE].into(), 179);
            Ok(self.link(peer, ACTIVE, address))
        } else {
            Err(std::io::ErrorKind::ConnectionRefused.into())
        };
        self.owner.sessions.dialled(peer, Ok(result), self.now);
    }

    fn link(&mut self, peer: bgp_rib::PeerId, remote: usize, address: SocketAddr) -> ConnectionId {
        let addresses = ConnectionAddresses {
            local: SocketAddr::new(LOCAL.into(), 179),
            remote: address,
        };
        let (id, orders) = self.owner.sessions.connections.link(peer, addresses);
        self.connections.push(SimulatedConnection {
            id,
            remote,
            orders,
            decoder: Decoder::new(),
            encoder: CodecOptions::default(),
            input: BytesMut::new(),
            waits_for_options: false,
            has_ended: false,
            unwritten: None,
            is_polled: false,
        });
        id
    }

    fn send_message(&mut self, connection: usize, message: impl Fn(usize) -> Message) {
        let Some(index) = self.connection_index(connection) else {
            return;
        };
        let connection = &self.connections[index];
        let mut octets = BytesMut::new();
        encode(
            &message(connection.remote),
            &connection.encoder,
            &mut octets,
        );
        self.send(index, &octets);
    }

    fn send(&mut self, connection: usize, octets: &[u8]) {
        if let Some(index) = self.connection_index(connection) {
            self.connections[index].input.extend_from_slice(octets);
            self.decode(index);
        }
    }

    fn decode(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        let (mut messages, mut end) = (Vec::new(), None);
        while !connection.waits_for_options && end.is_none() && !connection.has_ended {
            match connection.decoder.decode(&mut connection.input) {
                Ok(Some(message)) => {
                    connection.waits_for_options = matches!(message, Message::Open(_));
                    messages.push(message);
                }
                Ok(None) => break,
                Err(error) => end = Some(ConnectionEnd::Malformed(error)),
            }
        }
        if !messages.is_empty() || end.is_some() {
            self.received(index, messages, end);
        }
    }

    fn received(&mut self, index: usize, messages: Vec<Message>, end: Option<ConnectionEnd>) {
        let connection = &mut self.connections[index];
        connection.has_ended |= end.is_some();
        let received = ConnectionEvent::Received {
            connection: connection.id,
            work: messages.len(),
            messages,
            end,
            turn: None,
        };
        self.event(received);
    }

    fn written(&mut self, connection: usize) {
        if let Some(index) = self.connection_index(connection)
            && let Some(updates) = self.connections[index].unwritten.take()
        {
            let connection = self.connections[index].id;
            self.event(ConnectionEvent::Written {
                connection,
                updates,
            });
        }
    }

    fn sleep(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(deadline) = self.owner.next_deadline()
            && deadline <= end
        {
            // The clock advances by at least 1 ms, the resolution of the timers of tokio.
            self.now = deadline.max(self.now + Duration::from_millis(1));
            self.finish_turn();
        }
        self.now = self.now.max(end);
    }

    fn configure(&mut self, bits: usize) {
        let is_set = |bit: usize| bits >> bit & 1 == 1;
        let mut import = ImportPolicy::accept_all();
        import.maximum_paths = Some(if is_set(0) { 1 } else { MAX_PATHS });
        if is_set(1) {
            import.at_maximum = MaximumPathsAction::Restart;
        }
        let mut clients = SessionConfig {
            is_client: true,
            import: import.clone(),
            export: ExportPolicy::send_all(),
            ..SessionConfig::new(Some(LOCAL_ASN))
        };
        if is_set(2) {
            clients.import.prefixes = PrefixFilter::Only(vec![PrefixRule::exact(prefix(1))]);
        }
        let inner = SessionConfig {
            is_client: is_set(3),
            import,
            export: ExportPolicy::send_all(),
            hold_time_seconds: if is_set(4) { 0 } else { 9 },
            ..SessionConfig::new(Some(LOCAL_ASN))
        };
        let outer = SessionConfig {
            peer_asn: Some(OTHER_ASN),
            is_client: false,
            hold_time_seconds: 9,
            ..inner.clone()
        };
        let mut peers = Vec::new();
        if !is_set(5) {
            peers.push(PeerConfig {
                active: false,
                ..PeerConfig::new(SocketAddr::new(REMOTES[2].into(), 179), inner)
            });
        }
        if !is_set(6) {
            peers.push(PeerConfig::new(
                SocketAddr::new(REMOTES[ACTIVE].into(), 179),
                outer,
            ));
        }
        let group = GroupConfig {
            name: "clients".to_owned(),
            prefixes: vec!["10.0.0.0/24".parse().expect("the prefix is valid")],
            maximum_peers: MAX_PEERS,
            maximum_peers_per_address: 2,
            session: clients,
        };
        let groups = if is_set(7) { Vec::new() } else { vec![group] };
        let configured = self
            .owner
            .configure(Configuration { peers, groups }, self.now);
        configured.expect("every configuration of a script is valid");
    }

    fn own_path(&mut self, bits: usize) {
        let prefix = prefix(bits / 2 % 4);
        let (reply, _) = oneshot::channel();
        let command = if bits.is_multiple_of(2) {
            let attributes = PathAttributes::originate(LOCAL.into());
            let (reply, _) = oneshot::channel();
            SpeakerCommand::Originate(prefix, Arc::new(attributes), reply)
        } else {
            SpeakerCommand::Withdraw(prefix, reply)
        };
        self.owner.command(command, self.now);
    }

    fn operate(&mut self, bits: usize) {
        let address = IpAddr::from(REMOTES[bits / 2 % REMOTES.len()]);
        let command = if bits.is_multiple_of(2) {
            let text = String::new();
            SpeakerCommand::Reset(address.to_string(), Cease::AdministrativeReset { text })
        } else {
            SpeakerCommand::RequestRefresh(address.to_string(), Family::Ipv4Unicast)
        };
        self.owner.command(command, self.now);
    }

    /// Ends the turn of the owner and executes the orders of the owner. Repeats both until the
    /// owner sends no further orders.
    fn finish_turn(&mut self) {
        loop {
            self.owner.finish_turn(self.now);
            let mut has_orders = false;
            for index in (0..self.connections.len()).rev() {
                loop {
                    match self.connections[index].orders.try_recv() {
                        Ok(order) => {
                            has_orders = true;
                            self.execute(index, order);
                        }
                        Err(mpsc::error::TryRecvError::Empty) => break,
                        Err(mpsc::error::TryRecvError::Disconnected) => {
                            self.connections.remove(index);
                            break;
                        }
                    }
                }
            }
            for index in 0..self.connections.len() {
                if std::mem::take(&mut self.connections[index].is_polled) {
                    has_orders = true;
                    let connection = self.connections[index].id;
                    self.event(ConnectionEvent::Polled { connection });
                }
            }
            if !has_orders {
                return;
            }
        }
    }

    fn execute(&mut self, index: usize, order: ConnectionOrder) {
        let connection = &mut self.connections[index];
        let mut output = BytesMut::new();
        match order {
            ConnectionOrder::Send(message) => {
                encode(&message, &connection.encoder, &mut output);
            }
            ConnectionOrder::SetCodecOptions { decoder, encoder } => {
                connection.decoder.set_options(decoder);
                connection.encoder = encoder;
                connection.waits_for_options = false;
                self.decode(index);
            }
            ConnectionOrder::SetSendHoldTime(_) => {}
            ConnectionOrder::Poll => connection.is_polled = true,
            ConnectionOrder::SendUpdates(updates) => {
                assert_eq!(
                    connection.unwritten, None,
                    "a batch was sent before the previous batch was written"
                );
                connection.unwritten = Some(updates.len() as u64);
                for update in updates {
                    encode(&Message::Update(update), &connection.encoder, &mut output);
                }
            }
        }
    }

    fn check(&self) {
        let sessions = &self.owner.sessions;
        let (peers, rib) = (&sessions.peers, &sessions.rib);
        let is_established = |id| peers.get(id).is_some_and(|peer| peer.established.is_some());
        for path in rib.paths() {
            if let PathSource::Peer(id) = path.key.source {
                assert!(is_established(id), "path of a lost session: {path:?}");
            }
        }
        for (id, peer) in peers.iter() {
            let counts = rib.counts(id);
            assert!(counts.paths_received <= MAX_PATHS as usize, "{counts:?}");
            let Some(connection) = peer.established else {
                assert_eq!((counts.paths_received, counts.paths_sent), (0, 0));
                continue;
            };
            assert_eq!(sessions.connections.peer_of(connection), Some(id));
            let is_current = sessions.connections.takes_updates(connection);
            assert!(
                !is_current || !rib.has_pending(id),
                "updates are pending although the connection can take them"
            );
            for sent in rib.adj_rib_out(id).filter(|_| is_current) {
                let source = sent
                    .source
                    .expect("a withdrawn path is removed from the Adj-RIB-Out");
                self.check_sent(id, source);
            }
        }
        let count = peers.ids().len();
        assert!(count <= MAX_PEERS + 2, "{count} peers");
        let of_peers = peers.iter().map(|(_, peer)| peer.connections.len());
        assert_eq!(of_peers.sum::<usize>(), self.connections.len());
        for connection in &self.connections {
            assert!(sessions.connections.peer_of(connection.id).is_some());
        }
        let view = sessions.view();
        assert_eq!(
            view.paths(&PathQuery::all(PathTable::All)).len(),
            rib.paths().count()
        );
    }

    /// Checks a path in the Adj-RIB-Out of the peer `to`: the peer did not announce the path to
    /// this speaker, the session of the source of the path is established, and no path of a
    /// non-client was sent to another non-client.
    fn check_sent(&self, to: bgp_rib::PeerId, source: PathSource) {
        let PathSource::Peer(from) = source else {
            return;
        };
        assert_ne!(from, to, "a path is sent back to its source");
        let peers = &self.owner.sessions.peers;
        let is_non_client = |id| {
            let peer = peers.get(id).expect("the peer exists");
            assert!(
                peer.established.is_some(),
                "a path of a lost session was sent"
            );
            let config = &peer.config.session;
            config.peer_asn == Some(LOCAL_ASN) && !config.is_client
        };
        assert!(!(is_non_client(from) && is_non_client(to)));
    }

    /// Closes every connection. Then checks that only the speaker's own paths remain, and that a
    /// dynamic peer remains only during the pause after it exceeded its maximum of paths.
    fn close_all_connections(&mut self) {
        while !self.connections.is_empty() {
            let lost = ConnectionEnd::Lost("network lost".to_owned());
            let id = self.connections[0].id;
            self.received(0, Vec::new(), Some(lost));
            self.finish_turn();
            assert!(
                self.connections
                    .iter()
                    .all(|connection| connection.id != id)
            );
        }
        self.check();
        let rib = &self.owner.sessions.rib;
        assert!(rib.paths().all(|path| path.key.source == PathSource::Own));
        let peers = &self.owner.sessions.peers;
        let is_paused = |id| peers.get(id).is_some_and(|peer| peer.exceeded.is_some());
        for (id, peer) in peers.iter() {
            assert!(
                !peer.is_dynamic || is_paused(id),
                "a dynamic peer without a connection still exists"
            );
        }
    }
}

fn prefix(number: usize) -> IpNet {
    let number = u8::try_from(number % 4).expect("less than four");
    let address = Ipv4Addr::new(10, 1, number, 0);
    IpNet::V4(Ipv4Net::new(address, 24).expect("a valid length"))
}

fn open(remote: usize, bits: usize) -> Message {
    let asn = if remote == ACTIVE {
        OTHER_ASN
    } else {
        LOCAL_ASN
    };
    let mut router_id = REMOTES[remote];
    router_id[3] ^= u8::try_from(bits & 2).expect("two bits");
    let mut capabilities = vec![
        Capability::Multiprotocol(Family::Ipv4Unicast),
        Capability::FourOctetAsn(asn),
    ];
    if bits & 4 != 0 {
        let both = (Family::Ipv4Unicast, AddPathMode::Both);
        capabilities.push(Capability::AddPath(vec![both]));
    }
    if bits & 8 != 0 {
        capabilities.push(Capability::RouteRefresh);
    }
    if bits & 16 != 0 {
        capabilities.push(Capability::ExtendedMessage);
    }
    Message::Open(Open {
        asn,
        hold_time_seconds: if bits & 1 != 0 { 3 } else { 9 },
        router_id: RouterId(router_id.into()),
        capabilities,
    })
}

/// Returns an UPDATE message of the peer at `REMOTES[remote]` that announces or withdraws one
/// prefix, as the number `bits` of the script decides.
fn update(remote: usize, bits: u8) -> Message {
    let nlri = Nlri {
        prefix: prefix(usize::from(bits >> 1)),
        path_id: (bits & 8 != 0).then_some(PathId((bits >> 4 & 3).into())),
    };
    let mut update = Update::default();
    if bits & 1 == 0 {
        update.withdrawn.push(nlri);
        return Message::Update(update);
    }
    let mut attributes = PathAttributes::originate(REMOTES[remote].into());
    if remote == ACTIVE {
        attributes.as_path = AsPath {
            segments: vec![AsPathSegment::Sequence(vec![OTHER_ASN])],
        };
        attributes.local_pref = None;
    }
    attributes.multi_exit_disc = (bits & 64 != 0).then_some(bits.into());
    update.announced.push(Announced {
        attributes: Arc::new(attributes),
        nlri: vec![nlri],
    });
    Message::Update(update)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the next number of a pseudorandom sequence (xorshift).
    fn next(state: &mut u64) -> u8 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        state.to_be_bytes()[3]
    }

    #[test]
    fn random_scripts_keep_the_invariants_of_the_owner() {
        let mut state = 0x9e37_79b9_7f4a_7c15;
        for _ in 0..300 {
            let script: Vec<u8> = (0..300).map(|_| next(&mut state)).collect();
            run(&script);
        }
    }

    #[test]
    fn the_corpus_of_the_fuzz_target_keeps_the_invariants_of_the_owner() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/speaker");
        let mut count = 0;
        for file in std::fs::read_dir(folder).expect("the corpus folder exists") {
            run(&std::fs::read(file.expect("the file is listed").path())
                .expect("the script is readable"));
            count += 1;
        }
        assert!(count > 0);
    }

    /// Checks that the events of a script can establish sessions and transfer paths.
    #[test]
    fn a_script_announces_a_path_of_a_client_to_a_peer_and_withdraws_it() {
        let mut simulation = OwnerSimulation::new();
        let runtime = simulation.runtime.clone();
        let _context = runtime.enter();
        simulation.configure(0);
        for (connection, remote) in [(0, 0), (1, 2)] {
            for step in [[0, remote, 0], [4, connection, 0], [5, connection, 0]] {
                simulation.step(step[0], &mut Script(&step[1..]));
                simulation.finish_turn();
                simulation.check();
            }
        }
        let sent = |simulation: &OwnerSimulation| {
            let sessions = &simulation.owner.sessions;
            let id = sessions
                .peers
                .named("10.0.1.1")
                .expect("the peer is configured");
            sessions.rib.adj_rib_out(id).count()
        };
        // The peer receives the End-of-RIB marker, then the path, then the withdrawal.
        for (step, connection) in [(8, 1), (6, 0)] {
            simulation.step(step, &mut Script(&[connection, 1]));
            simulation.finish_turn();
            simulation.check();
        }
        assert_eq!(sent(&simulation), 1);
        for (step, connection) in [(8, 1), (7, 0)] {
            simulation.step(step, &mut Script(&[connection]));
            simulation.finish_turn();
            simulation.check();
        }
        assert_eq!(sent(&simulation), 0);
        simulation.close_all_connections();
    }
}
