//! Tests of draining real servers.

use data_plane::ConnectionCounts;
use data_plane_testbed::{
    ID, ONE, RANGE, TWO, TestDataPlane, TestKernel, TestKernelState, run, virtual_server,
};
use virtual_server::{VirtualServer, VirtualServerId, Weight};

use crate::fake_kernel::{self, FakeIpvsKernel};

type DrainFixture = data_plane_testbed::DrainFixture<FakeIpvsKernel>;

#[test]
fn a_new_table_places_a_draining_real_server_by_its_configured_weight_like_an_existing_table() {
    run(|| async {
        let set_weight_5_and_draining = |server: &mut VirtualServer| {
            server.real_servers[0].weight = Weight(5);
            server.real_servers[0].state = virtual_server::RealServerState::Draining;
        };
        // An existing table: the real server was in service before it drains.
        let serving = DrainFixture::start(|_| {}).await;
        let mut draining = serving.settings.clone();
        set_weight_5_and_draining(&mut draining);
        let change = |weight: u32| {
            let real_server = format!("{ONE}, RealServerEntry {{ weight: {weight},");
            move |write: &String| write.contains(&real_server)
        };
        serving.kernel.take_writes();
        serving.world.publish(std::slice::from_ref(&draining));
        serving.wait_for_weight(Some(0)).await;
        let writes = serving.kernel.take_writes();
        assert!(change(5)(&writes[0]), "{writes:#?}");
        assert!(change(0)(&writes[1]), "{writes:#?}");
        // A changed configured weight of the draining real server is not written, because the real
        // server possibly no longer listens.
        draining.real_servers[0].weight = Weight(3);
        draining.real_servers[1].weight = Weight(2);
        serving.world.publish(std::slice::from_ref(&draining));
        serving.world.wait_for_weight(ID, TWO, Some(2)).await;
        let writes = serving.kernel.take_writes();
        assert_eq!(writes.len(), 1, "{writes:#?}");
        let discovery = serving.world.stop().await.unwrap();
        // A new table: the real server already drains when the table is written.
        let kernel = FakeIpvsKernel::default();
        let mut world = TestDataPlane::start_with(&kernel, discovery).await;
        world.wait_until_serving(RANGE).await;
        let writes = kernel.take_writes();
        let added = writes.iter().position(change(3)).unwrap();
        assert!(writes[added].starts_with("AddRealServer"), "{writes:#?}");
        assert!(change(0)(&writes[added + 1]), "{writes:#?}");
        let scheduled = writes
            .iter()
            .position(|write| write.starts_with("SetVirtualServer"));
        assert!(scheduled > Some(added), "{writes:#?}");
        assert_eq!(kernel.state().weight(ID, ONE), Some(0));
    });
}

#[test]
fn a_real_server_of_a_port_range_continues_to_drain_after_a_restart() {
    run(|| async {
        let range: VirtualServerId = "tcp/10.1.1.10:8000-8999".parse().unwrap();
        let of_range = |real_servers: &[&str]| VirtualServer {
            id: range,
            health_check: None,
            ..virtual_server("tcp/10.1.1.10:8000-8999", real_servers)
        };
        let (one, two) = ("10.244.0.1:0", "10.244.0.2:0");
        let kernel = FakeIpvsKernel::default();
        let connections = ConnectionCounts {
            active: 1,
            inactive: 0,
        };
        let address = one.parse().unwrap();
        kernel.state().connections.insert(address, connections);
        let weight = |state: &fake_kernel::FakeKernelState| {
            let entries = state.table.entries.values();
            let mut existing = entries.filter_map(|entry| entry.real_servers.get(&address));
            existing.next().map(|real_server| real_server.weight)
        };
        let world = TestDataPlane::serving(&kernel, &[of_range(&[one, two])]).await;
        world.publish(&[of_range(&[two])]);
        world
            .wait_for_kernel(|state| weight(state) == Some(0))
            .await;
        let mut world = world.restart().await;
        world.wait_until_serving(RANGE).await;
        assert_eq!(kernel.take_writes(), [""; 0]);
        kernel.state().connections.clear();
        world.wait_for_kernel(|state| weight(state).is_none()).await;
    });
}
