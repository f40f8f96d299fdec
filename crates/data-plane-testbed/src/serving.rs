//! Fixture: a serving virtual server, for tests of drains.

use data_plane::ConnectionCounts;
use virtual_server::VirtualServer;

use crate::{
    ID, ONE, RANGE, RealServerSocket, TWO, TestDataPlane, TestKernel, TestKernelState, real_server,
    virtual_server,
};

/// A running data plane with a serving virtual server and two real servers. The first real server
/// has one active connection.
pub struct DrainFixture<K> {
    /// The fake kernel that the daemon programs.
    pub kernel: K,
    /// The daemon under test.
    pub world: TestDataPlane<K>,
    /// The first real server. `None` after a test has stopped it.
    pub one: Option<RealServerSocket>,
    _two: RealServerSocket,
    /// The virtual server with both real servers.
    pub settings: VirtualServer,
}

impl<K: TestKernel> DrainFixture<K> {
    /// Starts the data plane. `change` can modify the virtual server before the start.
    pub async fn start(change: impl FnOnce(&mut VirtualServer)) -> Self {
        let (one, _two) = (real_server(ONE).await, real_server(TWO).await);
        let kernel = K::default();
        let mut settings = virtual_server(ID, &[ONE, TWO]);
        change(&mut settings);
        let mut world = TestDataPlane::start(&kernel).await;
        world.publish(std::slice::from_ref(&settings));
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

    /// Starts the data plane, removes the first real server from the desired set, and waits until
    /// this real server drains.
    pub async fn draining(change: impl FnOnce(&mut VirtualServer)) -> Self {
        let serving = Self::start(change).await;
        serving.list(&[TWO]);
        serving.wait_for_weight(Some(0)).await;
        serving
    }

    /// Sets the number of active connections of the first real server.
    pub fn set_connections(&self, active: u32) {
        let connections = ConnectionCounts {
            active,
            inactive: 1,
        };
        let mut state = self.kernel.state();
        state
            .connections()
            .insert(ONE.parse().unwrap(), connections);
    }

    /// Publishes a desired set in which the virtual server has only these real servers.
    pub fn list(&self, real_servers: &[&str]) {
        self.world.publish(&[self.with_real_servers(real_servers)]);
    }

    /// Returns the virtual server with these real servers.
    pub fn with_real_servers(&self, real_servers: &[&str]) -> VirtualServer {
        VirtualServer {
            real_servers: virtual_server(ID, real_servers).real_servers,
            ..self.settings.clone()
        }
    }

    /// Waits until the first real server has this weight. `None`: it is not in the table.
    pub async fn wait_for_weight(&self, expected: Option<u32>) {
        self.world.wait_for_weight(ID, ONE, expected).await;
    }

    /// Asserts that the metrics count exactly one ended drain with this outcome.
    pub fn assert_outcome(&self, outcome: &str) {
        let counted = format!("portlb_drained_real_servers_total{{outcome=\"{outcome}\"}} 1");
        let metrics = self.world.metrics.encode();
        assert!(metrics.contains(&counted), "{metrics}");
    }
}
