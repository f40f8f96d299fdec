//! Tests of two sessions over a simulated network with random delays. The network keeps the order
//! of messages within each connection and direction.

use std::{
    collections::{BTreeMap, VecDeque},
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use bgp_packet::{Asn, Message, RouterId};
use bgp_session::{
    ConnectionId, Session, SessionInput, SessionOutput, SessionSettings, SessionState,
};
use proptest::prelude::*;

/// Index of a session: 0 or 1.
type SideIndex = usize;

/// An event that the network has not yet delivered to a side.
enum Transit {
    Accepted,
    Connected,
    Message(Message),
    /// The answer to a poll. The network delivers it after all earlier events of the connection to
    /// the side.
    Polled,
    Lost,
}

struct NetworkSimulation {
    sessions: [Session; 2],
    now: Instant,
    /// Undelivered events of each connection and receiver, oldest first.
    transit: BTreeMap<(ConnectionId, SideIndex), VecDeque<Transit>>,
    /// The sides of each connection that have not closed the connection.
    open: BTreeMap<ConnectionId, Vec<SideIndex>>,
    /// The connection that each side dials. `None`: the side has no pending dial.
    dialling: [Option<ConnectionId>; 2],
    next_connection: u64,
}

impl NetworkSimulation {
    fn new(active: [bool; 2], ids: [u8; 2], seeds: [u64; 2]) -> Self {
        let now = Instant::now();
        let session = |side: SideIndex| {
            let router_id = RouterId(Ipv4Addr::new(10, 0, 0, ids[side]));
            let settings = SessionSettings {
                active: active[side],
                ..SessionSettings::new(Asn(64512), router_id, Some(Asn(64512)))
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

    fn feed(&mut self, side: SideIndex, input: SessionInput) {
        for output in self.sessions[side].handle(input, self.now) {
            match output {
                SessionOutput::Dial => {
                    self.next_connection += 1;
                    let id = ConnectionId(self.next_connection);
                    self.dialling[side] = Some(id);
                    self.put(id, 1 - side, Transit::Accepted);
                    self.put(id, side, Transit::Connected);
                    self.open.insert(id, vec![0, 1]);
                }
                SessionOutput::CancelDial => {
                    let id = self.dialling[side].take().expect("the side dials");
                    self.close(id, side);
                }
                SessionOutput::Send(id, message) => {
                    self.put(id, 1 - side, Transit::Message(message))
                }
                SessionOutput::Poll(id) => self.put(id, side, Transit::Polled),
                SessionOutput::Close(id) => self.close(id, side),
                SessionOutput::SetCodecOptions { .. }
                | SessionOutput::Established(..)
                | SessionOutput::Updated(..)
                | SessionOutput::RefreshRequested(..)
                | SessionOutput::Failed(_)
                | SessionOutput::Down(..) => {}
            }
        }
    }

    fn put(&mut self, id: ConnectionId, to: SideIndex, transit: Transit) {
        self.transit.entry((id, to)).or_default().push_back(transit);
    }

    fn close(&mut self, id: ConnectionId, side: SideIndex) {
        let open = self.open.entry(id).or_default();
        open.retain(|open_side| *open_side != side);
        self.transit.remove(&(id, side));
        self.put(id, 1 - side, Transit::Lost);
    }

    /// Delivers the oldest event of the queue that `choice` selects. Returns false if all queues
    /// are empty.
    fn deliver(&mut self, choice: usize) -> bool {
        let keys: Vec<_> = self.transit.keys().copied().collect();
        let Some(&(id, side)) = keys.get(choice % keys.len().max(1)) else {
            return false;
        };
        let queue = self.transit.get_mut(&(id, side)).expect("the key exists");
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
            Some(Transit::Accepted) => self.feed(side, SessionInput::Accepted(id)),
            Some(Transit::Connected) => {
                self.dialling[side] = None;
                self.feed(side, SessionInput::Connected(id));
            }
            Some(Transit::Message(message)) => {
                self.feed(side, SessionInput::MessageReceived(id, message));
            }
            Some(Transit::Polled) => self.feed(side, SessionInput::Polled(id)),
            Some(Transit::Lost) => {
                if self.dialling[side] == Some(id) {
                    self.dialling[side] = None;
                    self.feed(side, SessionInput::DialFailed("reset".into()));
                } else {
                    self.feed(side, SessionInput::ConnectionLost(id, "closed".into()));
                }
            }
        }
        true
    }

    /// Advances the time to the next deadline of either side.
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
                self.feed(side, SessionInput::DeadlineReached);
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
    fn two_speakers_establish_one_session_with_any_network_delays(
        active in prop::sample::select(vec![[true, true], [true, false], [false, true]]),
        ids in prop::sample::select(vec![[1, 2], [2, 1]]),
        seeds: [u64; 2],
        choices in prop::collection::vec(any::<usize>(), 1..60),
        late_start in 0_usize..10,
    ) {
        let mut simulation = NetworkSimulation::new(active, ids, seeds);
        let begin = simulation.now;
        simulation.feed(0, SessionInput::Start);
        let mut has_started = false;
        // `choices` selects the queue of each of the first deliveries. Each delivery after them
        // takes the first queue.
        for (step, choice) in choices.iter().copied().chain(std::iter::repeat_n(0, 3000)).enumerate() {
            if step >= late_start && !std::mem::replace(&mut has_started, true) {
                simulation.feed(1, SessionInput::Start);
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
        // Both sessions stay established for 200 s, more than two hold times.
        let end = simulation.now + Duration::from_secs(200);
        while simulation.now < end {
            if !simulation.deliver(0) {
                simulation.pass_time();
            }
            prop_assert!(simulation.sessions.iter().all(|it| it.state() == SessionState::Established));
        }
    }
}
