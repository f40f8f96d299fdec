//! What becomes of the connections of a real server that is listed no more.

use std::time::Duration;

use daemon_api::{discovery::v1::watch_response::Event, virtualserver::v1::RealServerState};
use ipvs_programmer::Connections;
use virtual_server::{
    DesiredChange, DesiredSet, FailureAction, VirtualServer, VirtualServerId, Weight,
};

use crate::{
    ID, ONE, RANGE, TWO,
    discovery::{StandIn, event},
    fake_kernel::{FakeKernel, State},
    key, weight,
    world::{RealServerSocket, World, desired, real_server, run, virtual_server},
};

/// Two real servers in service; the first has a connection.
struct Serving {
    kernel: FakeKernel,
    stand_in: StandIn,
    world: World,
    one: Option<RealServerSocket>,
    _two: RealServerSocket,
    settings: VirtualServer,
}

impl Serving {
    async fn start(change: impl FnOnce(&mut VirtualServer)) -> Self {
        let (one, _two) = (real_server(ONE).await, real_server(TWO).await);
        let kernel = FakeKernel::default();
        let stand_in = StandIn::silent("127.0.0.1:0").await;
        let mut settings = virtual_server(ID, &[ONE, TWO]);
        change(&mut settings);
        stand_in.say(&desired(std::slice::from_ref(&settings)));
        let mut world = World::start(&kernel, stand_in.address).await;
        world.wait_until_serving(RANGE).await;
        world
            .wait_for_kernel(|state| weight(state, ID, ONE) == Some(1))
            .await;
        world
            .wait_for_kernel(|state| weight(state, ID, TWO) == Some(1))
            .await;
        let serving = Self {
            kernel,
            stand_in,
            world,
            one: Some(one),
            _two,
            settings,
        };
        serving.set_connections(1);
        serving
    }

    /// The first is listed no more, and drains.
    async fn draining(change: impl FnOnce(&mut VirtualServer)) -> Self {
        let serving = Self::start(change).await;
        serving.list(&[TWO]);
        serving.wait_for_weight(Some(0)).await;
        serving
    }

    fn set_connections(&self, active: u32) {
        let connections = Connections {
            active,
            inactive: 1,
        };
        let mut state = self.kernel.state();
        state.connections.insert(ONE.parse().unwrap(), connections);
    }

    /// The desired set lists these of the real servers.
    fn list(&self, real_servers: &[&str]) {
        self.stand_in.say(&desired(&[self.listing(real_servers)]));
    }

    fn listing(&self, real_servers: &[&str]) -> VirtualServer {
        VirtualServer {
            real_servers: virtual_server(ID, real_servers).real_servers,
            ..self.settings.clone()
        }
    }

    async fn wait_for_weight(&self, wanted: Option<u32>) {
        self.world
            .wait_for_kernel(|state| weight(state, ID, ONE) == wanted)
            .await;
    }

    fn check_outcome(&self, outcome: &str) {
        let counted = format!("portlb_drained_real_servers_total{{outcome=\"{outcome}\"}} 1");
        let metrics = self.world.metrics.encode();
        assert!(metrics.contains(&counted), "{metrics}");
    }
}

#[test]
fn a_real_server_that_is_listed_no_more_stays_until_its_last_connection_has_ended() {
    run(|| async {
        let mut serving = Serving::draining(|_| {}).await;
        let listed = serving.world.virtual_servers().await;
        let states: Vec<_> = (listed[0].desired.as_ref().unwrap().real_servers.iter())
            .map(|real_server| (real_server.address.as_str(), real_server.state()))
            .collect();
        assert_eq!(
            states,
            [
                ("10.244.0.1", RealServerState::Draining),
                ("10.244.0.2", RealServerState::Ready)
            ]
        );

        // Another set, as after a reconnection, begins nothing anew and ends nothing.
        let mut heavier = serving.listing(&[TWO]);
        heavier.real_servers[0].weight = Weight(2);
        serving.stand_in.say(&desired(&[heavier]));
        serving
            .world
            .wait_for_kernel(|state| weight(state, ID, TWO) == Some(2))
            .await;
        assert_eq!(weight(&serving.kernel.state(), ID, ONE), Some(0));
        serving.kernel.take_writes();
        serving.set_connections(0);
        serving.wait_for_weight(None).await;
        let writes = serving.kernel.take_writes();
        assert!(
            matches!(&writes[..], [one] if one.starts_with("RemoveRealServer")),
            "{writes:?}"
        );
        let listed = serving.world.virtual_servers().await;
        assert_eq!(listed[0].real_servers.len(), 1);
        serving.check_outcome("idle");
    });
}

#[test]
fn a_fresh_table_places_a_draining_real_server_by_its_weight_as_an_old_one_does() {
    run(|| async {
        let heavy = |server: &mut VirtualServer| {
            server.real_servers[0].weight = Weight(5);
            server.real_servers[0].state = virtual_server::RealServerState::Draining;
        };
        // Old: it was in service before.
        let serving = Serving::start(|_| {}).await;
        let mut draining = serving.settings.clone();
        heavy(&mut draining);
        let change = |weight: u32| {
            let real_server = format!("{ONE}, RealServerEntry {{ weight: {weight},");
            move |write: &String| write.contains(&real_server)
        };
        serving.kernel.take_writes();
        serving
            .stand_in
            .say(&desired(std::slice::from_ref(&draining)));
        serving.wait_for_weight(Some(0)).await;
        let writes = serving.kernel.take_writes();
        assert!(change(5)(&writes[0]), "{writes:#?}");
        assert!(change(0)(&writes[1]), "{writes:#?}");
        // Its configured weight changes meanwhile: it gets none, since it may not listen any longer.
        draining.real_servers[0].weight = Weight(3);
        draining.real_servers[1].weight = Weight(2);
        serving
            .stand_in
            .say(&desired(std::slice::from_ref(&draining)));
        serving
            .world
            .wait_for_kernel(|state| weight(state, ID, TWO) == Some(2))
            .await;
        let writes = serving.kernel.take_writes();
        assert_eq!(writes.len(), 1, "{writes:#?}");
        serving.world.stop().await;
        // Fresh: it drains already.
        let kernel = FakeKernel::default();
        let mut world = World::start(&kernel, serving.stand_in.address).await;
        world.wait_until_serving(RANGE).await;
        let writes = kernel.take_writes();
        let added = writes.iter().position(change(3)).unwrap();
        assert!(writes[added].starts_with("AddRealServer"), "{writes:#?}");
        assert!(change(0)(&writes[added + 1]), "{writes:#?}");
        let scheduled = writes
            .iter()
            .position(|write| write.starts_with("SetVirtualServer"));
        assert!(scheduled > Some(added), "{writes:#?}");
        assert_eq!(weight(&kernel.state(), ID, ONE), Some(0));
    });
}

#[test]
fn a_connection_that_does_not_end_is_cut_at_the_drain_timeout() {
    run(|| async {
        let timeout = Duration::from_millis(100);
        let serving = Serving::draining(|server| server.drain_timeout = timeout).await;
        serving.wait_for_weight(None).await;
        serving.check_outcome("deadline");
    });
}

#[test]
fn a_real_server_that_drains_and_fails_its_check_is_out_whatever_failure_means_to_others() {
    run(|| async {
        let mut serving =
            Serving::draining(|server| server.on_failure = FailureAction::Quiesce).await;
        serving.one.take();
        serving.wait_for_weight(None).await;
        serving.check_outcome("failed");
    });
}

#[test]
fn a_real_server_that_is_listed_again_is_back_at_once() {
    run(|| async {
        let mut serving = Serving::draining(|_| {}).await;
        serving.list(&[ONE, TWO]);
        serving.wait_for_weight(Some(1)).await;
        let listed = serving.world.virtual_servers().await;
        let real_servers = &listed[0].desired.as_ref().unwrap().real_servers;
        assert_eq!(real_servers[0].state(), RealServerState::Ready);
        serving.check_outcome("listed");
    });
}

#[test]
fn a_restarted_daemon_takes_up_the_drain_that_it_finds() {
    run(|| async {
        let serving = Serving::draining(|_| {}).await;
        let Serving {
            kernel,
            stand_in,
            world,
            ..
        } = serving;
        world.stop().await;
        kernel.take_writes();

        let mut world = World::start(&kernel, stand_in.address).await;
        world.wait_until_serving(RANGE).await;
        assert_eq!(kernel.take_writes(), Vec::<String>::new());
        kernel.state().connections.clear();
        world
            .wait_for_kernel(|state| weight(state, ID, ONE).is_none())
            .await;
    });
}

#[test]
fn a_real_server_of_a_port_range_drains_and_goes_on_draining_after_a_restart() {
    run(|| async {
        let range: VirtualServerId = "tcp/10.1.1.10:8000-8999".parse().unwrap();
        let of_range = |real_servers: &[&str]| VirtualServer {
            id: range,
            health_check: None,
            ..virtual_server("tcp/10.1.1.10:8000-8999", real_servers)
        };
        let (one, two) = ("10.244.0.1:0", "10.244.0.2:0");
        let kernel = FakeKernel::default();
        let connections = Connections {
            active: 1,
            inactive: 0,
        };
        let address = one.parse().unwrap();
        kernel.state().connections.insert(address, connections);
        let weight = |state: &State| {
            let entries = state.table.entries.values();
            let mut found = entries.filter_map(|entry| entry.real_servers.get(&address));
            found.next().map(|real_server| real_server.weight)
        };
        let stand_in = StandIn::silent("127.0.0.1:0").await;
        stand_in.say(&desired(&[of_range(&[one, two])]));
        let mut world = World::start(&kernel, stand_in.address).await;
        world.wait_until_serving(RANGE).await;
        stand_in.say(&desired(&[of_range(&[two])]));
        world
            .wait_for_kernel(|state| weight(state) == Some(0))
            .await;
        world.stop().await;
        kernel.take_writes();

        let mut world = World::start(&kernel, stand_in.address).await;
        world.wait_until_serving(RANGE).await;
        assert_eq!(kernel.take_writes(), Vec::<String>::new());
        kernel.state().connections.clear();
        world.wait_for_kernel(|state| weight(state).is_none()).await;
    });
}

#[test]
fn an_object_that_cannot_be_leaves_a_drain_as_it_is() {
    run(|| async {
        let serving = Serving::draining(|_| {}).await;
        // One that cannot be, beside one that shows that the set has been taken over.
        let changes = DesiredSet::default().changes_to(&desired(&[serving.listing(&[TWO])]));
        let mut events: Vec<_> = changes.iter().map(event).collect();
        for event in &mut events {
            if let Event::VirtualServer(server) = event {
                server.minimum_healthy = 0;
            }
        }
        let other = VirtualServer {
            id: "tcp/10.1.1.10:81".parse().unwrap(),
            health_check: None,
            ..serving.listing(&[])
        };
        events.push(event(&DesiredChange::PutVirtualServer(other)));
        serving.stand_in.say_events(events);
        serving
            .world
            .wait_for_kernel(|state| state.table.entries.contains_key(&key("tcp/10.1.1.10:81")))
            .await;
        assert_eq!(weight(&serving.kernel.state(), ID, ONE), Some(0));
        serving.set_connections(0);
        serving.wait_for_weight(None).await;
    });
}

#[test]
fn without_time_to_drain_a_real_server_is_out_at_once() {
    run(|| async {
        let serving = Serving::start(|server| server.drain_timeout = Duration::ZERO).await;
        serving.kernel.take_writes();
        serving.list(&[TWO]);
        serving.wait_for_weight(None).await;
        let writes = serving.kernel.take_writes();
        assert!(
            matches!(&writes[..], [one] if one.starts_with("RemoveRealServer")),
            "{writes:?}"
        );
    });
}
