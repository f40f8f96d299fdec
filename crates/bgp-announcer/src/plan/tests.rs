use std::{collections::BTreeSet, fmt::Write};

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn config() -> PlanConfig {
    PlanConfig {
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
        drain_timeout: Duration::from_secs(10),
        linger: Duration::from_secs(5),
    }
}

/// Drives a plan and writes down what it does.
struct Transcript {
    plan: Plan,
    start: Instant,
    now: Instant,
    text: String,
}

impl Transcript {
    fn new(config: PlanConfig) -> Self {
        let mut this = Self::without_session(config);
        this.plan.handle(Input::SessionsEstablished(true), this.now);
        this
    }

    fn without_session(config: PlanConfig) -> Self {
        let start = Instant::now();
        Self {
            plan: Plan::new(config, start),
            start,
            now: start,
            text: String::new(),
        }
    }

    /// One address is announced.
    fn announced(config: PlanConfig) -> Self {
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
            self.plan
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
        let outputs = self.plan.handle(input, self.now);
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
            self.now = self.plan.next_deadline().expect("a deadline");
            self.feed(Input::DeadlineReached);
        }
    }

    /// The data plane stays alive meanwhile.
    fn wait_alive(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.pass(1);
            let heartbeat = self.plan.handle(Input::Heartbeat, self.now);
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
        let announcements = self.plan.announcements();
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

#[test]
fn a_data_plane_that_is_back_in_time_changes_nothing() {
    let mut transcript = Transcript::announced(config());
    transcript.feed(Input::DataPlaneLost("connection refused".into()));
    transcript.pass(4);
    transcript.feed_all([
        Input::DataPlaneOpened,
        serving("10.1.1.1/32"),
        Input::Synced,
    ]);
    transcript.wait_alive(10);
    transcript.check(&expect![[r#"
        0: DataPlaneLost("connection refused")
        4: DataPlaneOpened
        4: serving 10.1.1.1/32
        4: Synced
    "#]]);
}

#[test]
fn a_silent_data_plane_makes_the_address_least_preferred_until_it_confirms_the_address() {
    let mut transcript = Transcript::announced(config());
    transcript.wait(1);
    expect![[r#"
        10.1.1.1/32 LeastPreferred: least preferred: data plane: silent for 5000 ms
    "#]]
    .assert_eq(&transcript.state());
    transcript.pass(1);
    transcript.feed(Input::DataPlaneLost("silent for 5000 ms".into()));
    transcript.pass(1);
    transcript.feed(Input::DataPlaneOpened);
    transcript.feed(Input::Heartbeat);
    transcript.feed(serving("10.1.1.1/32"));
    transcript.check(&expect![[r#"
        5: DeadlineReached
            announce 10.1.1.1/32 local_pref 0 GRACEFUL_SHUTDOWN
        6: DataPlaneLost("silent for 5000 ms")
        7: DataPlaneOpened
        7: Heartbeat
        7: serving 10.1.1.1/32
            announce 10.1.1.1/32 local_pref 100
    "#]]);
}

#[test]
fn a_heartbeat_after_a_silence_confirms_what_its_stream_told() {
    let mut transcript = Transcript::announced(config());
    transcript.wait(1);
    transcript.pass(60);
    transcript.feed(Input::Heartbeat);
    transcript.check(&expect![[r#"
        5: DeadlineReached
            announce 10.1.1.1/32 local_pref 0 GRACEFUL_SHUTDOWN
        65: Heartbeat
            announce 10.1.1.1/32 local_pref 100
    "#]]);
}

#[test]
fn an_address_that_was_never_confirmed_is_not_announced_after_a_silence() {
    let mut transcript = Transcript::new(config());
    transcript.feed_all([Input::DataPlaneOpened, serving("10.1.1.1/32")]);
    transcript.pass(6);
    transcript.feed(Input::DeadlineReached);
    transcript.feed(Input::NodeRouteHeld(net("10.1.1.1/32")));
    expect![[r#"
        10.1.1.1/32 NotServing: data plane: silent for 5000 ms
    "#]]
    .assert_eq(&transcript.state());
    transcript.feed(Input::Heartbeat);
    transcript.check(&expect![[r#"
        0: DataPlaneOpened
        0: serving 10.1.1.1/32
            hold 10.1.1.1/32 via 10.244.1.7
        6: DeadlineReached
        6: route held 10.1.1.1/32
        6: Heartbeat
            announce 10.1.1.1/32 local_pref 100
    "#]]);
}

#[test]
fn a_least_preferred_address_is_withdrawn_when_it_is_known_not_to_be_served() {
    for known in [
        not_serving("10.1.1.1/32"),
        Input::ServiceAddressRemoved(net("10.1.1.1/32")),
        route_lost(false),
        Input::Synced,
    ] {
        let mut transcript = Transcript::announced(config());
        transcript.feed(Input::DataPlaneLost("connection refused".into()));
        transcript.wait(1);
        transcript.feed(Input::DataPlaneOpened);
        assert_eq!(
            transcript.feed(known.clone()),
            [Output::Withdraw(net("10.1.1.1/32"))],
            "{known:?}"
        );
    }
}

#[test]
fn a_drain_of_a_least_preferred_address_withdraws_it_and_undrain_announces_it_again() {
    let mut transcript = Transcript::announced(config());
    transcript.wait(1);
    transcript.feed(Input::Drain);
    expect![[r#"
        10.1.1.1/32 Draining: announced with GRACEFUL_SHUTDOWN and LOCAL_PREF 0
    "#]]
    .assert_eq(&transcript.state());
    transcript.wait(1);
    transcript.feed(Input::Undrain);
    transcript.check(&expect![[r#"
        5: DeadlineReached
            announce 10.1.1.1/32 local_pref 0 GRACEFUL_SHUTDOWN
        5: Drain
        15: DeadlineReached
            withdraw 10.1.1.1/32
        15: Undrain
            announce 10.1.1.1/32 local_pref 0 GRACEFUL_SHUTDOWN
    "#]]);
}

#[test]
fn heartbeats_of_a_new_stream_do_not_prove_what_an_old_one_told() {
    let mut transcript = Transcript::announced(config());
    transcript.feed_all([Input::DataPlaneLost("ended".into()), Input::DataPlaneOpened]);
    transcript.wait_alive(6);
    transcript.check(&expect![[r#"
        0: DataPlaneLost("ended")
        0: DataPlaneOpened
        5: time passes
            announce 10.1.1.1/32 local_pref 0 GRACEFUL_SHUTDOWN
    "#]]);
    expect![[r#"
        10.1.1.1/32 LeastPreferred: least preferred: the data plane has not told of it since it came back
    "#]]
    .assert_eq(&transcript.state());
}

#[test]
fn what_a_new_stream_does_not_tell_is_gone_once_it_is_synced() {
    let mut transcript = Transcript::announced(config());
    transcript.feed_all([
        Input::DataPlaneLost("ended".into()),
        Input::DataPlaneOpened,
        Input::Synced,
    ]);
    transcript.check(&expect![[r#"
        0: DataPlaneLost("ended")
        0: DataPlaneOpened
        0: Synced
            withdraw 10.1.1.1/32
    "#]]);
}

#[test]
fn a_node_router_that_is_back_in_time_changes_nothing() {
    let mut transcript = Transcript::announced(config());
    transcript.feed(route_lost(true));
    expect![[r#"
        10.1.1.1/32 Announced: node route: connection refused
    "#]]
    .assert_eq(&transcript.state());
    transcript.wait_alive(1);
    transcript.feed_all([route_lost(true), Input::NodeRouteHeld(net("10.1.1.1/32"))]);
    transcript.wait_alive(5);
    transcript.check(&expect![[r#"
        0: node-router lost, route unknown 10.1.1.1/32
        1: node-router lost, route unknown 10.1.1.1/32
        1: route held 10.1.1.1/32
    "#]]);
}

#[test]
fn a_node_router_that_stays_away_makes_the_address_least_preferred_until_it_holds_the_route() {
    let mut transcript = Transcript::announced(config());
    transcript.feed(route_lost(true));
    transcript.wait_alive(1);
    // A failed attempt does not prolong the grace period.
    transcript.feed(route_lost(true));
    transcript.wait_alive(3600);
    expect![[r#"
        10.1.1.1/32 LeastPreferred: least preferred: node route: connection refused
    "#]]
    .assert_eq(&transcript.state());
    transcript.feed(Input::NodeRouteHeld(net("10.1.1.1/32")));
    transcript.check(&expect![[r#"
        0: node-router lost, route unknown 10.1.1.1/32
        1: node-router lost, route unknown 10.1.1.1/32
        2: time passes
            announce 10.1.1.1/32 local_pref 0 GRACEFUL_SHUTDOWN
        3601: route held 10.1.1.1/32
            announce 10.1.1.1/32 local_pref 100
    "#]]);
}

#[test]
fn without_a_grace_period_a_lost_node_router_makes_the_address_least_preferred_at_once() {
    let mut transcript = Transcript::announced(PlanConfig {
        node_route_timeout: Duration::ZERO,
        ..config()
    });
    transcript.feed(route_lost(true));
    transcript.check(&expect![[r#"
        0: node-router lost, route unknown 10.1.1.1/32
            announce 10.1.1.1/32 local_pref 0 GRACEFUL_SHUTDOWN
    "#]]);
}

#[test]
fn a_node_router_that_refuses_the_route_after_its_return_costs_the_announcement() {
    for seconds in [1, 10] {
        let mut transcript = Transcript::announced(config());
        transcript.feed(route_lost(true));
        transcript.wait_alive(seconds);
        assert_eq!(
            transcript.feed(route_lost(false)),
            [Output::Withdraw(net("10.1.1.1/32"))]
        );
        // From here on the node is known not to route the address.
        assert_eq!(transcript.feed(route_lost(true)), []);
        expect![[r#"
            10.1.1.1/32 WaitingForNodeRoute: node route: connection refused
        "#]]
        .assert_eq(&transcript.state());
    }
}

#[test]
fn a_route_that_is_known_to_be_gone_costs_the_announcement_at_once() {
    let mut transcript = Transcript::announced(config());
    transcript.feed(route_lost(false));
    transcript.check(&expect![[r#"
        0: route lost 10.1.1.1/32
            withdraw 10.1.1.1/32
    "#]]);
}

#[test]
fn a_stop_moves_traffic_away_then_withdraws_then_lingers() {
    let mut transcript = Transcript::announced(config());
    transcript.feed(serving("10.1.1.2/32"));
    transcript.feed(Input::Stop);
    expect![[r#"
        10.1.1.1/32 Draining: announced with GRACEFUL_SHUTDOWN and LOCAL_PREF 0
        10.1.1.2/32 Drained: withheld by a drain
    "#]]
    .assert_eq(&transcript.state());
    // What is served from here on is not announced any more.
    transcript.feed(serving("10.1.1.3/32"));
    transcript.wait_alive(16);
    transcript.check(&expect![[r#"
        0: serving 10.1.1.2/32
            hold 10.1.1.2/32 via 10.244.1.7
        0: Stop
            announce 10.1.1.1/32 local_pref 0 GRACEFUL_SHUTDOWN
            release 10.1.1.2/32
        0: serving 10.1.1.3/32
        10: time passes
            withdraw 10.1.1.1/32
        15: time passes
            release 10.1.1.1/32
            drained
            stopped
        16: time passes
            stopped
    "#]]);
}

#[test]
fn a_service_that_fails_during_a_drain_is_withdrawn_at_once() {
    let mut transcript = Transcript::announced(config());
    transcript.feed(Input::Drain);
    transcript.wait_alive(1);
    transcript.feed(not_serving("10.1.1.1/32"));
    transcript.check(&expect![[r#"
        0: Drain
            announce 10.1.1.1/32 local_pref 0 GRACEFUL_SHUTDOWN
        1: not serving 10.1.1.1/32
            withdraw 10.1.1.1/32
    "#]]);
}

#[test]
fn a_route_lingers_also_when_its_address_was_withdrawn_during_the_drain() {
    let mut transcript = Transcript::announced(config());
    transcript.feed(Input::Stop);
    transcript.wait_alive(8);
    transcript.feed(not_serving("10.1.1.1/32"));
    transcript.wait_alive(5);
    transcript.check(&expect![[r#"
        0: Stop
            announce 10.1.1.1/32 local_pref 0 GRACEFUL_SHUTDOWN
        8: not serving 10.1.1.1/32
            withdraw 10.1.1.1/32
        13: time passes
            release 10.1.1.1/32
            drained
            stopped
    "#]]);
}

#[test]
fn a_data_plane_that_ends_during_a_drain_changes_nothing() {
    let mut transcript = Transcript::announced(config());
    transcript.feed(Input::Stop);
    // As when all containers of a pod end at once.
    transcript.feed(Input::DataPlaneLost("the stream has ended".into()));
    transcript.wait(3);
    transcript.check(&expect![[r#"
        0: Stop
            announce 10.1.1.1/32 local_pref 0 GRACEFUL_SHUTDOWN
        0: DataPlaneLost("the stream has ended")
        5: DeadlineReached
        10: DeadlineReached
            withdraw 10.1.1.1/32
        15: DeadlineReached
            release 10.1.1.1/32
            drained
            stopped
    "#]]);
}

#[test]
fn undrain_reverts_a_drain_at_each_stage() {
    for seconds in [1, 11, 20] {
        let mut transcript = Transcript::announced(config());
        transcript.feed(Input::Drain);
        transcript.wait_alive(seconds);
        transcript.feed(Input::Undrain);
        transcript.feed(Input::NodeRouteHeld(net("10.1.1.1/32")));
        assert!(!transcript.plan.is_draining());
        assert_eq!(transcript.state(), "10.1.1.1/32 Announced: \n", "{seconds}");
    }
}

#[test]
fn a_stop_cannot_be_undrained_and_a_drained_process_stops_at_once() {
    let mut transcript = Transcript::announced(config());
    transcript.feed(Input::Drain);
    transcript.wait_alive(16);
    transcript.text.clear();
    transcript.feed_all([Input::Stop, Input::Undrain]);
    transcript.check(&expect![[r#"
        16: Stop
            stopped
        16: Undrain
            stopped
    "#]]);
}

#[test]
fn timeouts_of_zero_withdraw_and_stop_at_once() {
    let mut transcript = Transcript::announced(PlanConfig {
        drain_timeout: Duration::ZERO,
        linger: Duration::ZERO,
        ..config()
    });
    transcript.feed(Input::Stop);
    transcript.check(&expect![[r#"
        0: Stop
            withdraw 10.1.1.1/32
            release 10.1.1.1/32
            drained
            stopped
    "#]]);
}

#[test]
fn a_stop_without_a_session_waits_for_nothing() {
    let mut transcript = Transcript::without_session(config()).announce();
    transcript.feed(Input::Stop);
    transcript.check(&expect![[r#"
        0: Stop
            withdraw 10.1.1.1/32
            drained
            stopped
    "#]]);
}

#[test]
fn a_stop_after_the_last_session_lingers_for_what_is_left_of_the_linger() {
    let mut transcript = Transcript::announced(config());
    transcript.feed(Input::SessionsEstablished(false));
    transcript.pass(2);
    transcript.feed(Input::Stop);
    transcript.wait(1);
    transcript.check(&expect![[r#"
        0: SessionsEstablished(false)
        2: Stop
            withdraw 10.1.1.1/32
        5: DeadlineReached
            drained
            stopped
    "#]]);
}

#[test]
fn a_drain_whose_last_session_ends_does_not_wait_for_its_timeout() {
    let mut transcript = Transcript::announced(config());
    transcript.feed(Input::Drain);
    transcript.pass(1);
    transcript.feed(Input::SessionsEstablished(false));
    // A further change of the sessions does not prolong the linger.
    transcript.pass(1);
    transcript.feed(Input::SessionsEstablished(false));
    transcript.wait_alive(5);
    transcript.check(&expect![[r#"
        0: Drain
            announce 10.1.1.1/32 local_pref 0 GRACEFUL_SHUTDOWN
        1: SessionsEstablished(false)
            withdraw 10.1.1.1/32
        2: SessionsEstablished(false)
        6: time passes
            release 10.1.1.1/32
            drained
    "#]]);
}

/// The data plane says `changes` times that it serves the address or not, beginning with not.
fn flap(transcript: &mut Transcript, changes: u32, interval: Duration) -> usize {
    let mut updates = 0;
    for change in 0..changes {
        let now = transcript.now + interval;
        if let Some(deadline) = transcript.plan.next_deadline()
            && deadline <= now
        {
            updates += transcript.plan.handle(Input::DeadlineReached, now).len();
        }
        transcript.now = now;
        let input = match change % 2 {
            0 => not_serving("10.1.1.1/32"),
            _ => serving("10.1.1.1/32"),
        };
        updates += transcript.plan.handle(input, now).len();
    }
    updates
}

#[test]
fn an_address_that_flaps_costs_few_updates_and_is_announced_as_usual_when_it_is_calm() {
    let mut transcript = Transcript::announced(config());
    let updates = flap(&mut transcript, 600, Duration::from_millis(13_000 / 600));
    assert!(updates <= 16, "{updates} updates");
    expect![[r#"
        10.1.1.1/32 LeastPreferred: least preferred: flaps: the data plane stopped serving it more than 3 times within 30 s
    "#]]
    .assert_eq(&transcript.state());
    assert_eq!(transcript.plan.flapping(), 1);
    transcript.wait_alive(30);
    expect![[r#"
        10.1.1.1/32 Announced: 
    "#]]
    .assert_eq(&transcript.state());
    assert_eq!(transcript.plan.flapping(), 0);
}

#[test]
fn the_fourth_loss_of_an_address_within_half_a_minute_is_not_withdrawn_until_the_hold_is_over() {
    let mut transcript = Transcript::announced(config());
    assert_eq!(flap(&mut transcript, 6, Duration::from_millis(1)), 6);
    transcript.start = transcript.now;
    transcript.feed(not_serving("10.1.1.1/32"));
    transcript.wait(1);
    transcript.check(&expect![[r#"
        0: not serving 10.1.1.1/32
            announce 10.1.1.1/32 local_pref 0 GRACEFUL_SHUTDOWN
        1: DeadlineReached
            withdraw 10.1.1.1/32
    "#]]);
}

#[test]
fn an_address_that_flaps_is_withdrawn_at_once_when_it_is_removed_or_its_route_is_gone() {
    for gone in [
        Input::ServiceAddressRemoved(net("10.1.1.1/32")),
        route_lost(false),
    ] {
        let mut transcript = Transcript::announced(config());
        flap(&mut transcript, 7, Duration::from_millis(1));
        assert_eq!(transcript.plan.flapping(), 1);
        let outputs = transcript.feed(gone);
        assert!(
            outputs.contains(&Output::Withdraw(net("10.1.1.1/32"))),
            "{outputs:?}"
        );
    }
}

#[test]
fn rare_losses_are_withdrawn_each() {
    let mut transcript = Transcript::announced(PlanConfig {
        data_plane_timeout: Duration::from_secs(3600),
        linger: Duration::from_secs(3600),
        ..config()
    });
    assert_eq!(flap(&mut transcript, 40, Duration::from_secs(6)), 40);
}

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
        let mut plan = Plan::new(config(), now);
        let mut world = World::default();
        let mut step = |plan: &mut Plan, input: Input, now| {
            world.input(&input);
            world.note(&plan.handle(input, now));
            if !plan.is_draining() {
                world.check_silence();
            }
        };
        for (input, seconds) in inputs {
            now += Duration::from_secs(seconds);
            if let Some(deadline) = plan.next_deadline() && deadline <= now {
                step(&mut plan, Input::DeadlineReached, now);
            }
            step(&mut plan, input, now);
            step(&mut plan, Input::DeadlineReached, now);
            prop_assert!(plan.next_deadline().is_none_or(|deadline| deadline > now));
        }
        // Left alone, it comes to an end with nothing announced and nothing held.
        step(&mut plan, Input::Stop, now);
        for _ in 0..20 {
            let Some(deadline) = plan.next_deadline() else { break };
            step(&mut plan, Input::DeadlineReached, deadline);
        }
        prop_assert_eq!(plan.next_deadline(), None);
        prop_assert!(world.announced.is_empty() && world.held.is_empty());
    }
}
