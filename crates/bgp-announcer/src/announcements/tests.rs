mod drain;
mod flapping;
mod properties;
mod silence;

use std::{collections::BTreeSet, fmt::Write};

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn config() -> AnnouncementsConfig {
    AnnouncementsConfig {
        allowed_prefixes: vec![net("10.1.1.0/24")],
        ipv4: Some(InboundRoute {
            next_hop: [192, 0, 2, 11].into(),
            gateway: Some([10, 244, 1, 7].into()),
        }),
        ipv6: None,
        local_pref: 100,
        multi_exit_disc: None,
        communities: Vec::new(),
        data_plane_timeout: Duration::from_secs(5),
        node_route_timeout: Duration::from_secs(2),
        withdraw_delay: Duration::from_secs(10),
        linger: Duration::from_secs(5),
    }
}

/// Sends inputs to the state machine and records inputs and outputs as text.
struct AnnouncementTranscript {
    announcements: Announcements,
    start: Instant,
    now: Instant,
    text: String,
}

impl AnnouncementTranscript {
    fn new(config: AnnouncementsConfig) -> Self {
        let mut this = Self::without_session(config);
        this.announcements
            .handle(AnnouncementInput::SessionsEstablished(true), this.now);
        this
    }

    fn without_session(config: AnnouncementsConfig) -> Self {
        let start = Instant::now();
        Self {
            announcements: Announcements::new(config, start),
            start,
            now: start,
            text: String::new(),
        }
    }

    /// Returns a transcript without text. Its state machine announces 10.1.1.1/32.
    fn announced(config: AnnouncementsConfig) -> Self {
        Self::new(config).announce()
    }

    fn announce(mut self) -> Self {
        self.feed_all([
            AnnouncementInput::DataPlaneOpened,
            serving("10.1.1.1/32"),
            AnnouncementInput::Synced,
            AnnouncementInput::NodeRouteHeld(net("10.1.1.1/32")),
        ]);
        assert!(
            self.announcements
                .entries
                .values()
                .all(|it| it.announced == Some(AnnouncementForm::Normal))
        );
        self.text.clear();
        self
    }

    fn feed(&mut self, input: AnnouncementInput) -> Vec<AnnouncementOutput> {
        let seconds = (self.now - self.start).as_secs_f64();
        writeln!(self.text, "{seconds}: {}", show_input(&input)).unwrap();
        let outputs = self.announcements.handle(input, self.now);
        for output in &outputs {
            writeln!(self.text, "    {}", show_output(output)).unwrap();
        }
        outputs
    }

    fn feed_all(&mut self, inputs: impl IntoIterator<Item = AnnouncementInput>) {
        for input in inputs {
            self.feed(input);
        }
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    /// Advances the time to the next deadline and sends `DeadlineReached`, `deadlines` times.
    fn wait(&mut self, deadlines: usize) {
        for _ in 0..deadlines {
            self.now = self
                .announcements
                .next_deadline()
                .expect("a deadline exists");
            self.feed(AnnouncementInput::DeadlineReached);
        }
    }

    /// Advances the time by `seconds`, with a heartbeat of the data plane after each second.
    fn wait_alive(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.pass(1);
            let heartbeat = self
                .announcements
                .handle(AnnouncementInput::Heartbeat, self.now);
            if !heartbeat.is_empty() {
                let seconds = (self.now - self.start).as_secs_f64();
                writeln!(self.text, "{seconds}: time passes").unwrap();
                for output in &heartbeat {
                    writeln!(self.text, "    {}", show_output(output)).unwrap();
                }
            }
        }
    }

    fn check(&self, expected: &Expect) {
        expected.assert_eq(&self.text);
    }

    fn state(&self) -> String {
        let announcements = self.announcements.list();
        announcements
            .map(|(prefix, it)| format!("{prefix} {:?}: {}\n", it.state, it.detail))
            .collect()
    }
}

fn serving(prefix: &str) -> AnnouncementInput {
    AnnouncementInput::ServiceAddress {
        prefix: net(prefix),
        serving: true,
        detail: String::new(),
    }
}

fn not_serving(prefix: &str) -> AnnouncementInput {
    AnnouncementInput::ServiceAddress {
        prefix: net(prefix),
        serving: false,
        detail: "no healthy real server".into(),
    }
}

fn route_lost(is_unknown: bool) -> AnnouncementInput {
    AnnouncementInput::NodeRouteLost {
        prefix: net("10.1.1.1/32"),
        problem: "connection refused".into(),
        is_unknown,
    }
}

fn show_input(input: &AnnouncementInput) -> String {
    match input {
        AnnouncementInput::ServiceAddress {
            prefix,
            serving: true,
            ..
        } => format!("serving {prefix}"),
        AnnouncementInput::ServiceAddress { prefix, .. } => format!("not serving {prefix}"),
        AnnouncementInput::ServiceAddressRemoved(prefix) => format!("removed {prefix}"),
        AnnouncementInput::NodeRouteHeld(prefix) => format!("route held {prefix}"),
        AnnouncementInput::NodeRouteLost {
            prefix,
            is_unknown: true,
            ..
        } => format!("node-router lost, route unknown {prefix}"),
        AnnouncementInput::NodeRouteLost { prefix, .. } => format!("route lost {prefix}"),
        other @ (AnnouncementInput::DataPlaneOpened
        | AnnouncementInput::Synced
        | AnnouncementInput::Heartbeat
        | AnnouncementInput::DataPlaneLost(_)
        | AnnouncementInput::SessionsEstablished(_)
        | AnnouncementInput::Drain
        | AnnouncementInput::Undrain
        | AnnouncementInput::Stop
        | AnnouncementInput::DeadlineReached) => format!("{other:?}"),
    }
}

fn show_output(output: &AnnouncementOutput) -> String {
    match output {
        AnnouncementOutput::Hold { prefix, gateway } => format!("hold {prefix} via {gateway}"),
        AnnouncementOutput::Release(prefix) => format!("release {prefix}"),
        AnnouncementOutput::Announce(prefix, attributes) => {
            let communities = attributes.communities.iter().map(ToString::to_string);
            let communities = communities.collect::<Vec<_>>().join(" ");
            let local_pref = attributes.local_pref.unwrap();
            let text = format!("announce {prefix} local_pref {local_pref} {communities}");
            text.trim_end().to_owned()
        }
        AnnouncementOutput::Withdraw(prefix) => format!("withdraw {prefix}"),
        AnnouncementOutput::Drained => "drained".into(),
        AnnouncementOutput::Stopped => "stopped".into(),
    }
}

#[test]
fn an_address_is_announced_after_its_node_route_is_held() {
    let mut transcript = AnnouncementTranscript::new(config());
    transcript.feed_all([
        AnnouncementInput::DataPlaneOpened,
        not_serving("10.1.1.1/32"),
        AnnouncementInput::Synced,
    ]);
    expect![[r#"
        10.1.1.1/32 NotServing: no healthy real server
    "#]]
    .assert_eq(&transcript.state());
    transcript.feed(serving("10.1.1.1/32"));
    expect![[r#"
        10.1.1.1/32 WaitingForNodeRoute: node-router has not confirmed the node route
    "#]]
    .assert_eq(&transcript.state());
    transcript.feed(AnnouncementInput::NodeRouteHeld(net("10.1.1.1/32")));
    expect![[r#"
        10.1.1.1/32 Announced: 
    "#]]
    .assert_eq(&transcript.state());
    transcript.check(&expect![[r#"
        0: DataPlaneOpened
        0: not serving 10.1.1.1/32
        0: Synced
        0: serving 10.1.1.1/32
            hold 10.1.1.1/32 via 10.244.1.7
        0: route held 10.1.1.1/32
            announce 10.1.1.1/32 local_pref 100
    "#]]);
}

#[test]
fn without_a_gateway_an_address_is_announced_without_a_node_route() {
    let mut config = config();
    config.ipv4.as_mut().unwrap().gateway = None;
    let mut transcript = AnnouncementTranscript::new(config);
    transcript.feed_all([AnnouncementInput::DataPlaneOpened, serving("10.1.1.1/32")]);
    transcript.check(&expect![[r#"
        0: DataPlaneOpened
        0: serving 10.1.1.1/32
            announce 10.1.1.1/32 local_pref 100
    "#]]);
}

#[test]
fn a_node_route_is_released_after_the_withdrawal_and_the_linger() {
    let mut transcript = AnnouncementTranscript::announced(config());
    transcript.feed(not_serving("10.1.1.1/32"));
    transcript.wait_alive(6);
    transcript.check(&expect![[r#"
        0: not serving 10.1.1.1/32
            withdraw 10.1.1.1/32
        5: time passes
            release 10.1.1.1/32
    "#]]);
}

#[test]
fn an_address_that_is_served_again_within_the_linger_keeps_its_node_route() {
    let mut transcript = AnnouncementTranscript::announced(config());
    transcript.feed(not_serving("10.1.1.1/32"));
    transcript.wait_alive(3);
    transcript.feed(serving("10.1.1.1/32"));
    transcript.wait_alive(6);
    transcript.check(&expect![[r#"
        0: not serving 10.1.1.1/32
            withdraw 10.1.1.1/32
        3: serving 10.1.1.1/32
            announce 10.1.1.1/32 local_pref 100
    "#]]);
}

#[test]
fn the_node_route_of_an_address_that_was_never_announced_is_released_without_linger() {
    let mut transcript = AnnouncementTranscript::new(config());
    transcript.feed_all([
        AnnouncementInput::DataPlaneOpened,
        serving("10.1.1.1/32"),
        AnnouncementInput::ServiceAddressRemoved(net("10.1.1.1/32")),
    ]);
    transcript.check(&expect![[r#"
        0: DataPlaneOpened
        0: serving 10.1.1.1/32
            hold 10.1.1.1/32 via 10.244.1.7
        0: removed 10.1.1.1/32
            release 10.1.1.1/32
    "#]]);
    assert_eq!(transcript.state(), "");
}

#[test]
fn a_prefix_outside_of_the_allowed_prefixes_is_refused_and_gets_no_node_route() {
    let mut transcript = AnnouncementTranscript::new(config());
    transcript.feed_all([
        AnnouncementInput::DataPlaneOpened,
        serving("10.9.9.9/32"),
        // 10.1.0.0/16 contains the allowed prefix, but does not lie within it.
        serving("10.1.0.0/16"),
        serving("fd00::1/128"),
    ]);
    transcript.check(&expect![[r#"
        0: DataPlaneOpened
        0: serving 10.9.9.9/32
        0: serving 10.1.0.0/16
        0: serving fd00::1/128
    "#]]);
    expect![[r#"
        10.1.0.0/16 Refused: outside of --allowed-prefixes
        10.9.9.9/32 Refused: outside of --allowed-prefixes
        fd00::1/128 Refused: outside of --allowed-prefixes
    "#]]
    .assert_eq(&transcript.state());
}
