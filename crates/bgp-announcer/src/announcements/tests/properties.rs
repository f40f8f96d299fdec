//! Property test of the announcements with random inputs.

use super::*;

fn any_input() -> impl Strategy<Value = AnnouncementInput> {
    let prefix = || {
        let prefixes = ["10.1.1.1/32", "10.1.1.2/32", "10.9.9.9/32"];
        prop::sample::select(prefixes.map(net).to_vec())
    };
    prop_oneof![
        2 => Just(AnnouncementInput::DataPlaneOpened),
        6 => (prefix(), any::<bool>()).prop_map(|(prefix, serving)| AnnouncementInput::ServiceAddress {
            prefix,
            serving,
            detail: String::new(),
        }),
        2 => prefix().prop_map(AnnouncementInput::ServiceAddressRemoved),
        2 => Just(AnnouncementInput::Synced),
        2 => Just(AnnouncementInput::Heartbeat),
        1 => Just(AnnouncementInput::DataPlaneLost("lost".into())),
        6 => prefix().prop_map(AnnouncementInput::NodeRouteHeld),
        3 => (prefix(), any::<bool>()).prop_map(|(prefix, is_unknown)| AnnouncementInput::NodeRouteLost {
            prefix,
            problem: "lost".into(),
            is_unknown,
        }),
        1 => any::<bool>().prop_map(AnnouncementInput::SessionsEstablished),
        1 => Just(AnnouncementInput::Drain),
        1 => Just(AnnouncementInput::Undrain),
        2 => Just(AnnouncementInput::DeadlineReached),
    ]
}

/// The state of node routes, announcements and served addresses that follows from the inputs and
/// outputs so far.
#[derive(Default)]
struct AnnouncementModel {
    held: BTreeSet<IpNet>,
    acknowledged: BTreeSet<IpNet>,
    announced: BTreeSet<IpNet>,
    /// Addresses that the data plane has reported as served, with the number of the reporting
    /// stream.
    served: BTreeMap<IpNet, u64>,
    stream: u64,
    /// Served addresses that were announced since the data plane reported them as served.
    confirmed: BTreeSet<IpNet>,
}

impl AnnouncementModel {
    fn apply_input(&mut self, apply_input: &AnnouncementInput) {
        match apply_input {
            AnnouncementInput::DataPlaneOpened => self.stream += 1,
            AnnouncementInput::ServiceAddress {
                prefix,
                serving: true,
                ..
            } => {
                self.served.insert(*prefix, self.stream);
            }
            AnnouncementInput::ServiceAddress { prefix, .. }
            | AnnouncementInput::ServiceAddressRemoved(prefix) => {
                self.served.remove(prefix);
            }
            AnnouncementInput::Synced => self.served.retain(|_, stream| *stream == self.stream),
            AnnouncementInput::NodeRouteHeld(prefix) => {
                if self.held.contains(prefix) {
                    self.acknowledged.insert(*prefix);
                }
            }
            AnnouncementInput::NodeRouteLost {
                prefix,
                is_unknown: false,
                ..
            } => {
                self.acknowledged.remove(prefix);
            }
            AnnouncementInput::NodeRouteLost { .. }
            | AnnouncementInput::Heartbeat
            | AnnouncementInput::DataPlaneLost(_)
            | AnnouncementInput::SessionsEstablished(_)
            | AnnouncementInput::Drain
            | AnnouncementInput::Undrain
            | AnnouncementInput::Stop
            | AnnouncementInput::DeadlineReached => {}
        }
        self.confirmed
            .retain(|prefix| self.served.contains_key(prefix));
    }

    /// Checks that each served address with a node route that was announced is still announced.
    /// Only a report of the data plane or of node-router can withdraw an address, silence cannot.
    fn check_silence(&self) {
        for prefix in self.confirmed.intersection(&self.acknowledged) {
            assert!(
                self.announced.contains(prefix),
                "{prefix} was withdrawn because of silence"
            );
        }
    }

    fn record_outputs(&mut self, outputs: &[AnnouncementOutput]) {
        for output in outputs {
            match output {
                AnnouncementOutput::Hold { prefix, .. } => assert!(self.held.insert(*prefix)),
                AnnouncementOutput::Release(prefix) => {
                    assert!(self.held.remove(prefix));
                    assert!(
                        !self.announced.contains(prefix),
                        "the node route was released before the withdrawal"
                    );
                    self.acknowledged.remove(prefix);
                }
                AnnouncementOutput::Announce(prefix, _) => {
                    assert!(
                        net("10.1.1.0/24").contains(prefix),
                        "{prefix} is not allowed"
                    );
                    assert!(
                        self.acknowledged.contains(prefix),
                        "{prefix} has no node route"
                    );
                    self.announced.insert(*prefix);
                    self.confirmed.insert(*prefix);
                }
                AnnouncementOutput::Withdraw(prefix) => assert!(self.announced.remove(prefix)),
                AnnouncementOutput::Drained | AnnouncementOutput::Stopped => {}
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn only_allowed_addresses_with_a_node_route_are_announced_and_silence_withdraws_no_address(
        inputs in prop::collection::vec((any_input(), 0_u64..4), 0..80),
    ) {
        let mut now = Instant::now();
        let mut announcements = Announcements::new(config(), now);
        let mut model = AnnouncementModel::default();
        let mut step = |announcements: &mut Announcements, apply_input: AnnouncementInput, now| {
            model.apply_input(&apply_input);
            model.record_outputs(&announcements.handle(apply_input, now));
            if !announcements.is_draining() {
                model.check_silence();
            }
        };
        for (apply_input, seconds) in inputs {
            now += Duration::from_secs(seconds);
            if let Some(deadline) = announcements.next_deadline() && deadline <= now {
                step(&mut announcements, AnnouncementInput::DeadlineReached, now);
            }
            step(&mut announcements, apply_input, now);
            step(&mut announcements, AnnouncementInput::DeadlineReached, now);
            prop_assert!(announcements.next_deadline().is_none_or(|deadline| deadline > now));
        }
        // After a stop and all deadlines, no address is announced and no node route is held.
        step(&mut announcements, AnnouncementInput::Stop, now);
        for _ in 0..20 {
            let Some(deadline) = announcements.next_deadline() else { break };
            step(&mut announcements, AnnouncementInput::DeadlineReached, deadline);
        }
        prop_assert_eq!(announcements.next_deadline(), None);
        prop_assert!(model.announced.is_empty() && model.held.is_empty());
    }
}
