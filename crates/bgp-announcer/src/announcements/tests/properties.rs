//! Invariants that hold for every sequence of inputs.

use super::*;

fn any_input() -> impl Strategy<Value = Input> {
    let prefix = || {
        let prefixes = ["10.1.1.1/32", "10.1.1.2/32", "10.9.9.9/32"];
        prop::sample::select(prefixes.map(net).to_vec())
    };
    prop_oneof![
        2 => Just(Input::DataPlaneOpened),
        6 => (prefix(), any::<bool>()).prop_map(|(prefix, serving)| Input::ServiceAddress {
            prefix,
            serving,
            detail: String::new(),
        }),
        2 => prefix().prop_map(Input::ServiceAddressRemoved),
        2 => Just(Input::Synced),
        2 => Just(Input::Heartbeat),
        1 => Just(Input::DataPlaneLost("lost".into())),
        6 => prefix().prop_map(Input::NodeRouteHeld),
        3 => (prefix(), any::<bool>()).prop_map(|(prefix, is_unknown)| Input::NodeRouteLost {
            prefix,
            problem: "lost".into(),
            is_unknown,
        }),
        1 => any::<bool>().prop_map(Input::SessionsEstablished),
        1 => Just(Input::Drain),
        1 => Just(Input::Undrain),
        2 => Just(Input::DeadlineReached),
    ]
}

/// What the world has been told to do.
#[derive(Default)]
struct World {
    held: BTreeSet<IpNet>,
    acknowledged: BTreeSet<IpNet>,
    announced: BTreeSet<IpNet>,
    /// What the data plane serves as far as it has said, and the stream in which it said so.
    served: BTreeMap<IpNet, u64>,
    stream: u64,
    /// What was announced since the data plane said that it is served.
    confirmed: BTreeSet<IpNet>,
}

impl World {
    fn input(&mut self, input: &Input) {
        match input {
            Input::DataPlaneOpened => self.stream += 1,
            Input::ServiceAddress {
                prefix,
                serving: true,
                ..
            } => {
                self.served.insert(*prefix, self.stream);
            }
            Input::ServiceAddress { prefix, .. } | Input::ServiceAddressRemoved(prefix) => {
                self.served.remove(prefix);
            }
            Input::Synced => self.served.retain(|_, stream| *stream == self.stream),
            Input::NodeRouteHeld(prefix) => {
                if self.held.contains(prefix) {
                    self.acknowledged.insert(*prefix);
                }
            }
            Input::NodeRouteLost {
                prefix,
                is_unknown: false,
                ..
            } => {
                self.acknowledged.remove(prefix);
            }
            Input::NodeRouteLost { .. }
            | Input::Heartbeat
            | Input::DataPlaneLost(_)
            | Input::SessionsEstablished(_)
            | Input::Drain
            | Input::Undrain
            | Input::Stop
            | Input::DeadlineReached => {}
        }
        self.confirmed
            .retain(|prefix| self.served.contains_key(prefix));
    }

    /// Silence withdraws nothing: only a word of the data plane or the node-router does.
    fn check_silence(&self) {
        for prefix in self.confirmed.intersection(&self.acknowledged) {
            assert!(
                self.announced.contains(prefix),
                "{prefix} is withdrawn by silence"
            );
        }
    }

    fn note(&mut self, outputs: &[Output]) {
        for output in outputs {
            match output {
                Output::Hold { prefix, .. } => assert!(self.held.insert(*prefix)),
                Output::Release(prefix) => {
                    assert!(self.held.remove(prefix));
                    assert!(
                        !self.announced.contains(prefix),
                        "released before withdrawn"
                    );
                    self.acknowledged.remove(prefix);
                }
                Output::Announce(prefix, _) => {
                    assert!(net("10.1.1.0/24").contains(prefix), "not allowed");
                    assert!(self.acknowledged.contains(prefix), "no route");
                    self.announced.insert(*prefix);
                    self.confirmed.insert(*prefix);
                }
                Output::Withdraw(prefix) => assert!(self.announced.remove(prefix)),
                Output::Drained | Output::Stopped => {}
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn nothing_is_announced_without_permission_and_route_and_nothing_withdrawn_by_silence(
        inputs in prop::collection::vec((any_input(), 0_u64..4), 0..80),
    ) {
        let mut now = Instant::now();
        let mut announcements = Announcements::new(config(), now);
        let mut world = World::default();
        let mut step = |announcements: &mut Announcements, input: Input, now| {
            world.input(&input);
            world.note(&announcements.handle(input, now));
            if !announcements.is_draining() {
                world.check_silence();
            }
        };
        for (input, seconds) in inputs {
            now += Duration::from_secs(seconds);
            if let Some(deadline) = announcements.next_deadline() && deadline <= now {
                step(&mut announcements, Input::DeadlineReached, now);
            }
            step(&mut announcements, input, now);
            step(&mut announcements, Input::DeadlineReached, now);
            prop_assert!(announcements.next_deadline().is_none_or(|deadline| deadline > now));
        }
        // Left alone, it comes to an end with nothing announced and nothing held.
        step(&mut announcements, Input::Stop, now);
        for _ in 0..20 {
            let Some(deadline) = announcements.next_deadline() else { break };
            step(&mut announcements, Input::DeadlineReached, deadline);
        }
        prop_assert_eq!(announcements.next_deadline(), None);
        prop_assert!(world.announced.is_empty() && world.held.is_empty());
    }
}
