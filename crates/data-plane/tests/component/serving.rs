//! A virtual server in service, whose first real server can be made to drain.

use data_plane::Connections;
use virtual_server::VirtualServer;

use crate::{
    ID, ONE, RANGE, TWO,
    discovery::StandIn,
    fake_kernel::FakeKernel,
    weight,
    world::{RealServerSocket, World, desired, real_server, virtual_server},
};

/// Two real servers in service; the first has a connection.
pub(crate) struct Serving {
    pub(crate) kernel: FakeKernel,
    pub(crate) stand_in: StandIn,
    pub(crate) world: World,
    pub(crate) one: Option<RealServerSocket>,
    _two: RealServerSocket,
    pub(crate) settings: VirtualServer,
}

impl Serving {
    pub(crate) async fn start(change: impl FnOnce(&mut VirtualServer)) -> Self {
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

    /// The first is not listed any longer, and drains.
    pub(crate) async fn draining(change: impl FnOnce(&mut VirtualServer)) -> Self {
        let serving = Self::start(change).await;
        serving.list(&[TWO]);
        serving.wait_for_weight(Some(0)).await;
        serving
    }

    pub(crate) fn set_connections(&self, active: u32) {
        let connections = Connections {
            active,
            inactive: 1,
        };
        let mut state = self.kernel.state();
        state.connections.insert(ONE.parse().unwrap(), connections);
    }

    /// The desired set lists these of the real servers.
    pub(crate) fn list(&self, real_servers: &[&str]) {
        self.stand_in.say(&desired(&[self.listing(real_servers)]));
    }

    pub(crate) fn listing(&self, real_servers: &[&str]) -> VirtualServer {
        VirtualServer {
            real_servers: virtual_server(ID, real_servers).real_servers,
            ..self.settings.clone()
        }
    }

    pub(crate) async fn wait_for_weight(&self, wanted: Option<u32>) {
        self.world
            .wait_for_kernel(|state| weight(state, ID, ONE) == wanted)
            .await;
    }

    pub(crate) fn assert_outcome(&self, outcome: &str) {
        let counted = format!("portlb_drained_real_servers_total{{outcome=\"{outcome}\"}} 1");
        let metrics = self.world.metrics.encode();
        assert!(metrics.contains(&counted), "{metrics}");
    }
}
