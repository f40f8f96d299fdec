//! A virtual server in service, whose first real server can be made to drain.

use data_plane::Connections;
use virtual_server::VirtualServer;

use crate::{
    ID, Kernel, ONE, RANGE, RealServerSocket, State, TWO, World, real_server, virtual_server,
};

/// Two real servers in service; the first has a connection.
pub struct Serving<K> {
    /// The kernel that the daemon programs.
    pub kernel: K,
    /// The daemon under test.
    pub world: World<K>,
    /// The first real server, until a test ends it.
    pub one: Option<RealServerSocket>,
    _two: RealServerSocket,
    /// The virtual server as first desired.
    pub settings: VirtualServer,
}

impl<K: Kernel> Serving<K> {
    /// Starts with a changed virtual server.
    pub async fn start(change: impl FnOnce(&mut VirtualServer)) -> Self {
        let (one, _two) = (real_server(ONE).await, real_server(TWO).await);
        let kernel = K::default();
        let mut settings = virtual_server(ID, &[ONE, TWO]);
        change(&mut settings);
        let mut world = World::start(&kernel).await;
        world.say(std::slice::from_ref(&settings));
        world.wait_until_serving(RANGE).await;
        world.wait_for_weight(ID, ONE, Some(1)).await;
        world.wait_for_weight(ID, TWO, Some(1)).await;
        let serving = Self {
            kernel,
            world,
            one: Some(one),
            _two,
            settings,
        };
        serving.set_connections(1);
        serving
    }

    /// Starts, and waits until the first real server, which is not listed any longer, drains.
    pub async fn draining(change: impl FnOnce(&mut VirtualServer)) -> Self {
        let serving = Self::start(change).await;
        serving.list(&[TWO]);
        serving.wait_for_weight(Some(0)).await;
        serving
    }

    /// Sets the active connections of the first real server.
    pub fn set_connections(&self, active: u32) {
        let connections = Connections {
            active,
            inactive: 1,
        };
        let mut state = self.kernel.state();
        state
            .connections()
            .insert(ONE.parse().unwrap(), connections);
    }

    /// Lists these of the real servers in the desired set.
    pub fn list(&self, real_servers: &[&str]) {
        self.world.say(&[self.listing(real_servers)]);
    }

    /// Returns the virtual server with these real servers.
    pub fn listing(&self, real_servers: &[&str]) -> VirtualServer {
        VirtualServer {
            real_servers: virtual_server(ID, real_servers).real_servers,
            ..self.settings.clone()
        }
    }

    /// Waits for the weight of the first real server.
    pub async fn wait_for_weight(&self, wanted: Option<u32>) {
        self.world.wait_for_weight(ID, ONE, wanted).await;
    }

    /// Fails unless one drain has ended in this way.
    pub fn assert_outcome(&self, outcome: &str) {
        let counted = format!("portlb_drained_real_servers_total{{outcome=\"{outcome}\"}} 1");
        let metrics = self.world.metrics.encode();
        assert!(metrics.contains(&counted), "{metrics}");
    }
}
