//! What becomes of the connections of a real server that is listed no more.

use std::time::Duration;

use daemon_api::virtualserver::v1::RealServerState;
use ipvs_programmer::Connections;
use virtual_server::{FailureAction, VirtualServer};

use crate::{
    ID, ONE, RANGE, TWO,
    discovery::StandIn,
    fake_kernel::FakeKernel,
    weight,
    world::{RealServerSocket, World, desired, real_server, run, virtual_server},
};

/// Two real servers in service; the first has a connection.
struct Serving {
    kernel: FakeKernel,
    stand_in: StandIn,
    world: World,
    one: RealServerSocket,
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
            one,
            _two,
            settings,
        };
        serving.set_connections(1);
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
        let server = VirtualServer {
            real_servers: virtual_server(ID, real_servers).real_servers,
            ..self.settings.clone()
        };
        self.stand_in.say(&desired(&[server]));
    }

    async fn wait_for_weight(&self, wanted: Option<u32>) {
        self.world
            .wait_for_kernel(|state| weight(state, ID, ONE) == wanted)
            .await;
    }
}

#[test]
fn a_real_server_that_is_listed_no_more_stays_until_its_last_connection_has_ended() {
    run(|| async {
        let mut serving = Serving::start(|_| {}).await;
        serving.list(&[TWO]);
        serving.wait_for_weight(Some(0)).await;
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

        // The same set again, as after a reconnection, changes nothing.
        serving.kernel.take_writes();
        serving.list(&[TWO]);
        serving.set_connections(0);
        serving.wait_for_weight(None).await;
        let writes = serving.kernel.take_writes();
        assert!(
            matches!(&writes[..], [one] if one.starts_with("RemoveRealServer")),
            "{writes:?}"
        );
        let listed = serving.world.virtual_servers().await;
        assert_eq!(listed[0].real_servers.len(), 1);
    });
}

#[test]
fn a_connection_that_does_not_end_is_cut_at_the_drain_timeout() {
    run(|| async {
        let timeout = Duration::from_millis(100);
        let serving = Serving::start(|server| server.drain_timeout = timeout).await;
        serving.list(&[TWO]);
        serving.wait_for_weight(Some(0)).await;
        serving.wait_for_weight(None).await;
    });
}

#[test]
fn a_real_server_that_drains_and_fails_its_check_is_out_whatever_failure_means_to_others() {
    run(|| async {
        let serving = Serving::start(|server| server.on_failure = FailureAction::Quiesce).await;
        serving.list(&[TWO]);
        serving.wait_for_weight(Some(0)).await;
        let Serving { one, world, .. } = serving;
        drop(one);
        world
            .wait_for_kernel(|state| weight(state, ID, ONE).is_none())
            .await;
    });
}

#[test]
fn a_real_server_that_is_listed_again_is_back_at_once() {
    run(|| async {
        let mut serving = Serving::start(|_| {}).await;
        serving.list(&[TWO]);
        serving.wait_for_weight(Some(0)).await;
        serving.list(&[ONE, TWO]);
        serving.wait_for_weight(Some(1)).await;
        let listed = serving.world.virtual_servers().await;
        let real_servers = &listed[0].desired.as_ref().unwrap().real_servers;
        assert_eq!(real_servers[0].state(), RealServerState::Ready);
    });
}

#[test]
fn a_restarted_daemon_takes_up_the_drain_that_it_finds() {
    run(|| async {
        let serving = Serving::start(|_| {}).await;
        serving.list(&[TWO]);
        serving.wait_for_weight(Some(0)).await;
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
