//! Two sessions with a network between them that delays what it likes, but keeps the order of each
//! connection.

use std::{
    collections::{BTreeMap, VecDeque},
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use bgp_packet::{Asn, Message, RouterId};
use bgp_session::{ConnectionId, Input, Output, Session, SessionState, Settings};
use proptest::prelude::*;

/// Which of the two.
type Side = usize;

/// What is on its way to a side.
enum Transit {
    Accepted,
    Connected,
    Message(Message),
    /// What was sent before it has arrived.
    Polled,
    Lost,
}

struct Simulation {
    sessions: [Session; 2],
    now: Instant,
    /// Of each connection and receiver, in order.
    transit: BTreeMap<(ConnectionId, Side), VecDeque<Transit>>,
    /// The sides that have not closed a connection.
    open: BTreeMap<ConnectionId, Vec<Side>>,
    /// The dial of each side that has not been answered.
    dialling: [Option<ConnectionId>; 2],
    next_connection: u64,
}

impl Simulation {
    fn new(active: [bool; 2], ids: [u8; 2], seeds: [u64; 2]) -> Self {
        let now = Instant::now();
        let session = |side: Side| {
            let router_id = RouterId(Ipv4Addr::new(10, 0, 0, ids[side]));
            let settings = Settings {
                active: active[side],
                ..Settings::new(Asn(64512), router_id, Some(Asn(64512)))
            };
            Session::new(settings, seeds[side], now)
        };
        Self {
            sessions: [session(0), session(1)],
            now,
            transit: BTreeMap::new(),
            open: BTreeMap::new(),
            dialling: [None, None],
            next_connection: 0,
        }
    }

    fn feed(&mut self, side: Side, input: Input) {
        for output in self.sessions[side].handle(input, self.now) {
            match output {
                Output::Dial => {
                    self.next_connection += 1;
                    let id = ConnectionId(self.next_connection);
                    self.dialling[side] = Some(id);
                    self.put(id, 1 - side, Transit::Accepted);
                    self.put(id, side, Transit::Connected);
                    self.open.insert(id, vec![0, 1]);
                }
                Output::AbandonDial => {
                    let id = self.dialling[side].take().expect("it dials");
                    self.close(id, side);
                }
                Output::Send(id, message) => self.put(id, 1 - side, Transit::Message(message)),
                Output::Poll(id) => self.put(id, side, Transit::Polled),
                Output::Close(id) => self.close(id, side),
                Output::SetCodecOptions { .. }
                | Output::Established(..)
                | Output::Updated(..)
                | Output::RefreshRequested(..)
                | Output::Failed(_)
                | Output::Down(..) => {}
            }
        }
    }

    fn put(&mut self, id: ConnectionId, to: Side, transit: Transit) {
        self.transit.entry((id, to)).or_default().push_back(transit);
    }

    fn close(&mut self, id: ConnectionId, side: Side) {
        let open = self.open.entry(id).or_default();
        open.retain(|it| *it != side);
        self.transit.remove(&(id, side));
        self.put(id, 1 - side, Transit::Lost);
    }

    /// Delivers the next piece of one of the queues; `false` if nothing is on its way.
    fn deliver(&mut self, choice: usize) -> bool {
        let keys: Vec<_> = self.transit.keys().copied().collect();
        let Some(&(id, side)) = keys.get(choice % keys.len().max(1)) else {
            return false;
        };
        let queue = self.transit.get_mut(&(id, side)).expect("a key of it");
        let transit = queue.pop_front();
        if queue.is_empty() {
            self.transit.remove(&(id, side));
        }
        let is_open = self.open.get(&id).is_some_and(|open| open.contains(&side));
        if !is_open {
            return true;
        }
        match transit {
            None => {}
            Some(Transit::Accepted) => self.feed(side, Input::Accepted(id)),
            Some(Transit::Connected) => {
                self.dialling[side] = None;
                self.feed(side, Input::Connected(id));
            }
            Some(Transit::Message(message)) => {
                self.feed(side, Input::MessageReceived(id, message));
            }
            Some(Transit::Polled) => self.feed(side, Input::Polled(id)),
            Some(Transit::Lost) => {
                if self.dialling[side] == Some(id) {
                    self.dialling[side] = None;
                    self.feed(side, Input::DialFailed("reset".into()));
                } else {
                    self.feed(side, Input::ConnectionLost(id, "closed".into()));
                }
            }
        }
        true
    }

    /// Lets time pass to the next deadline of either side.
    fn pass_time(&mut self) {
        let deadlines = self.sessions.iter().filter_map(Session::next_deadline);
        let Some(deadline) = deadlines.min() else {
            return;
        };
        self.now = self.now.max(deadline);
        for side in [0, 1] {
            if self.sessions[side]
                .next_deadline()
                .is_some_and(|deadline| deadline <= self.now)
            {
                self.feed(side, Input::DeadlineReached);
            }
        }
    }

    fn are_established(&self) -> bool {
        let [one, other] = &self.sessions;
        one.established().is_some() && one.established() == other.established()
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(1024)
    })]
    #[test]
    fn two_speakers_end_with_one_session_whatever_the_network_delays(
        active in prop::sample::select(vec![[true, true], [true, false], [false, true]]),
        ids in prop::sample::select(vec![[1, 2], [2, 1]]),
        seeds: [u64; 2],
        choices in prop::collection::vec(any::<usize>(), 1..60),
        late_start in 0_usize..10,
    ) {
        let mut simulation = Simulation::new(active, ids, seeds);
        let begin = simulation.now;
        simulation.feed(0, Input::Start);
        let mut has_started = false;
        // The first deliveries come in any order, the rest as they come.
        for (step, choice) in choices.iter().copied().chain(std::iter::repeat_n(0, 3000)).enumerate() {
            if step >= late_start && !std::mem::replace(&mut has_started, true) {
                simulation.feed(1, Input::Start);
            }
            if !simulation.deliver(choice) {
                if simulation.are_established() {
                    break;
                }
                simulation.pass_time();
            }
        }
        prop_assert!(simulation.are_established(), "{:#?}", simulation.sessions);
        prop_assert!(simulation.now - begin < Duration::from_secs(10), "{:?}", simulation.now - begin);
        // It stays: keepalives flow, and nobody dials again.
        let end = simulation.now + Duration::from_secs(200);
        while simulation.now < end {
            if !simulation.deliver(0) {
                simulation.pass_time();
            }
            prop_assert!(simulation.sessions.iter().all(|it| it.state() == SessionState::Established));
        }
    }
}
