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
        ipv4: Some(Via {
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

/// Drives the announcements and writes down what they do.
struct Transcript {
    announcements: Announcements,
    start: Instant,
    now: Instant,
    text: String,
}

impl Transcript {
    fn new(config: AnnouncementsConfig) -> Self {
        let mut this = Self::without_session(config);
        this.announcements
            .handle(Input::SessionsEstablished(true), this.now);
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

    /// One address is announced.
    fn announced(config: AnnouncementsConfig) -> Self {
        Self::new(config).announce()
    }

    fn announce(mut self) -> Self {
        self.feed_all([
            Input::DataPlaneOpened,
            serving("10.1.1.1/32"),
            Input::Synced,
            Input::NodeRouteHeld(net("10.1.1.1/32")),
        ]);
        assert!(
            self.announcements
                .entries
                .values()
                .all(|it| it.announced == Some(Form::Normal))
        );
        self.text.clear();
        self
    }

    fn feed(&mut self, input: Input) -> Vec<Output> {
        let seconds = (self.now - self.start).as_secs_f64();
        writeln!(self.text, "{seconds}: {}", show_input(&input)).unwrap();
        let outputs = self.announcements.handle(input, self.now);
        for output in &outputs {
            writeln!(self.text, "    {}", show_output(output)).unwrap();
        }
        outputs
    }

    fn feed_all(&mut self, inputs: impl IntoIterator<Item = Input>) {
        for input in inputs {
            self.feed(input);
        }
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    /// Lets time pass from deadline to deadline, for so many of them.
    fn wait(&mut self, deadlines: usize) {
        for _ in 0..deadlines {
            self.now = self.announcements.next_deadline().expect("a deadline");
            self.feed(Input::DeadlineReached);
        }
    }

    /// The data plane stays alive meanwhile.
    fn wait_alive(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.pass(1);
            let heartbeat = self.announcements.handle(Input::Heartbeat, self.now);
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

fn serving(prefix: &str) -> Input {
    Input::ServiceAddress {
        prefix: net(prefix),
        serving: true,
        detail: String::new(),
    }
}

fn not_serving(prefix: &str) -> Input {
    Input::ServiceAddress {
        prefix: net(prefix),
        serving: false,
        detail: "no healthy real server".into(),
    }
}

fn route_lost(is_unknown: bool) -> Input {
    Input::NodeRouteLost {
        prefix: net("10.1.1.1/32"),
        problem: "connection refused".into(),
        is_unknown,
    }
}

fn show_input(input: &Input) -> String {
    match input {
        Input::ServiceAddress {
            prefix,
            serving: true,
            ..
        } => format!("serving {prefix}"),
        Input::ServiceAddress { prefix, .. } => format!("not serving {prefix}"),
        Input::ServiceAddressRemoved(prefix) => format!("removed {prefix}"),
        Input::NodeRouteHeld(prefix) => format!("route held {prefix}"),
        Input::NodeRouteLost {
            prefix,
            is_unknown: true,
            ..
        } => format!("node-router lost, route unknown {prefix}"),
        Input::NodeRouteLost { prefix, .. } => format!("route lost {prefix}"),
        other @ (Input::DataPlaneOpened
        | Input::Synced
        | Input::Heartbeat
        | Input::DataPlaneLost(_)
        | Input::SessionsEstablished(_)
        | Input::Drain
        | Input::Undrain
        | Input::Stop
        | Input::DeadlineReached) => format!("{other:?}"),
    }
}

fn show_output(output: &Output) -> String {
    match output {
        Output::Hold { prefix, gateway } => format!("hold {prefix} via {gateway}"),
        Output::Release(prefix) => format!("release {prefix}"),
        Output::Announce(prefix, attributes) => {
            let communities = attributes.communities.iter().map(ToString::to_string);
            let communities = communities.collect::<Vec<_>>().join(" ");
            let local_pref = attributes.local_pref.unwrap();
            let text = format!("announce {prefix} local_pref {local_pref} {communities}");
            text.trim_end().to_owned()
        }
        Output::Withdraw(prefix) => format!("withdraw {prefix}"),
        Output::Drained => "drained".into(),
        Output::Stopped => "stopped".into(),
    }
}

#[test]
fn an_address_is_announced_once_its_route_is_held() {
    let mut transcript = Transcript::new(config());
    transcript.feed_all([
        Input::DataPlaneOpened,
        not_serving("10.1.1.1/32"),
        Input::Synced,
    ]);
    expect![[r#"
        10.1.1.1/32 NotServing: no healthy real server
    "#]]
    .assert_eq(&transcript.state());
    transcript.feed(serving("10.1.1.1/32"));
    expect![[r#"
        10.1.1.1/32 WaitingForNodeRoute: the node route has not been acknowledged
    "#]]
    .assert_eq(&transcript.state());
    transcript.feed(Input::NodeRouteHeld(net("10.1.1.1/32")));
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
fn without_a_gateway_no_route_is_waited_for() {
    let mut config = config();
    config.ipv4.as_mut().unwrap().gateway = None;
    let mut transcript = Transcript::new(config);
    transcript.feed_all([Input::DataPlaneOpened, serving("10.1.1.1/32")]);
    transcript.check(&expect![[r#"
        0: DataPlaneOpened
        0: serving 10.1.1.1/32
            announce 10.1.1.1/32 local_pref 100
    "#]]);
}

#[test]
fn a_route_outlives_its_announcement_by_the_linger() {
    let mut transcript = Transcript::announced(config());
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
fn an_address_that_is_served_again_within_the_linger_needs_no_new_route() {
    let mut transcript = Transcript::announced(config());
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
fn a_route_that_was_never_used_is_released_at_once() {
    let mut transcript = Transcript::new(config());
    transcript.feed_all([
        Input::DataPlaneOpened,
        serving("10.1.1.1/32"),
        Input::ServiceAddressRemoved(net("10.1.1.1/32")),
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
fn what_policy_does_not_allow_is_refused_and_never_touches_the_node() {
    let mut transcript = Transcript::new(config());
    transcript.feed_all([
        Input::DataPlaneOpened,
        serving("10.9.9.9/32"),
        // An allowed range does not allow what contains it.
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
