//! Tests of drains of real servers that are no longer listed.

use std::time::Duration;

use daemon_api::{discovery::v1::watch_response::Event, virtualserver::v1::RealServerState};
use data_plane_testbed::{ID, ONE, RANGE, TWO, TestKernel, TestKernelState, desired, events, run};
use virtual_server::{DesiredChange, DesiredSet, FailureAction, VirtualServer, Weight};

use crate::fake_kernel::MemoryKernel;

type DrainFixture = data_plane_testbed::DrainFixture<MemoryKernel>;

#[test]
fn a_real_server_that_is_no_longer_listed_drains_until_its_last_connection_has_ended() {
    run(|| async {
        let mut serving = DrainFixture::draining(|_| {}).await;
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

        // A second desired set that also lacks the first real server, as after a reconnection,
        // neither ends the drain nor starts it again.
        let mut heavier = serving.with_real_servers(&[TWO]);
        heavier.real_servers[0].weight = Weight(2);
        serving.world.publish(&[heavier]);
        serving.world.wait_for_weight(ID, TWO, Some(2)).await;
        assert_eq!(serving.kernel.state().weight(ID, ONE), Some(0));
        serving.kernel.take_writes();
        serving.set_connections(0);
        serving.wait_for_weight(None).await;
        let writes = serving.kernel.take_writes();
        assert!(
            matches!(&writes[..], [one] if one.starts_with("remove ")),
            "{writes:?}"
        );
        let listed = serving.world.virtual_servers().await;
        assert_eq!(listed[0].real_servers.len(), 1);
        serving.assert_outcome("idle");
    });
}

#[test]
fn a_drain_ends_at_the_drain_timeout_although_a_connection_remains() {
    run(|| async {
        let timeout = Duration::from_millis(100);
        let serving = DrainFixture::draining(|server| server.drain_timeout = timeout).await;
        serving.wait_for_weight(None).await;
        serving.assert_outcome("deadline");
    });
}

#[test]
fn a_draining_real_server_that_fails_its_health_check_is_removed_although_on_failure_is_quiesce() {
    run(|| async {
        let mut serving =
            DrainFixture::draining(|server| server.on_failure = FailureAction::Quiesce).await;
        serving.one.take();
        serving.wait_for_weight(None).await;
        serving.assert_outcome("failed");
    });
}

#[test]
fn a_draining_real_server_that_is_listed_again_gets_its_weight_back() {
    run(|| async {
        let mut serving = DrainFixture::draining(|_| {}).await;
        serving.list(&[ONE, TWO]);
        serving.wait_for_weight(Some(1)).await;
        let listed = serving.world.virtual_servers().await;
        let real_servers = &listed[0].desired.as_ref().unwrap().real_servers;
        assert_eq!(real_servers[0].state(), RealServerState::Ready);
        serving.assert_outcome("listed");
    });
}

#[test]
fn a_restarted_daemon_continues_a_drain() {
    run(|| async {
        let serving = DrainFixture::draining(|_| {}).await;
        let kernel = serving.kernel;
        let mut world = serving.world.restart().await;
        world.wait_until_serving(RANGE).await;
        assert_eq!(kernel.take_writes(), [""; 0]);
        kernel.state().connections.clear();
        world.wait_for_weight(ID, ONE, None).await;
    });
}

#[test]
fn an_invalid_object_neither_ends_nor_restarts_a_drain() {
    run(|| async {
        let serving = DrainFixture::draining(|_| {}).await;
        // The set has an invalid virtual server, and a new valid virtual server that shows when
        // the set has been applied.
        let changes =
            DesiredSet::default().changes_to(&desired(&[serving.with_real_servers(&[TWO])]));
        let mut changes: Vec<_> = changes.iter().map(events).collect();
        for event in changes.iter_mut().flatten() {
            if let Event::VirtualServerHead(head) = event {
                head.virtual_server.as_mut().unwrap().minimum_healthy = 0;
            }
        }
        let other = VirtualServer {
            id: "tcp/10.1.1.10:81".parse().unwrap(),
            health_check: None,
            ..serving.with_real_servers(&[])
        };
        changes.push(events(&DesiredChange::PutVirtualServer(other)));
        serving.world.discovery().publish_changes(changes);
        serving
            .world
            .wait_for_kernel(|state| {
                state
                    .table
                    .contains_key(&"tcp/10.1.1.10:81".parse().unwrap())
            })
            .await;
        assert_eq!(serving.kernel.state().weight(ID, ONE), Some(0));
        serving.set_connections(0);
        serving.wait_for_weight(None).await;
    });
}
