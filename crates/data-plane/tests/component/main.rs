//! Tests of a complete data plane with a fake forwarder.
//!
//! The data plane runs inside the test process. Its gRPC connections and health checks are real.
#![cfg(test)]

mod draining;
mod fake_kernel;
mod lagging;
mod large;
mod pages;

use std::time::Duration;

use daemon_api::dataplane::v1::{
    MissingStep, WatchServiceAddressesRequest, watch_service_addresses_response::Event,
};
use daemon_api::discovery::v1 as discovery_v1;
use data_plane_testbed::{
    FakeDiscovery, ID, LIMIT, ONE, RANGE, TWO, TestDataPlane, TestKernel, TestKernelState, desired,
    events, real_server, run, virtual_server,
};
use tokio::time::timeout;
use virtual_server::{DesiredChange, RealServer, Scheduler};

use fake_kernel::MemoryKernel;

#[test]
fn a_virtual_server_comes_up_in_the_order_structure_target_local_prefix() {
    run(|| async {
        let _one = real_server(ONE).await;
        let kernel = MemoryKernel::default();
        let world = TestDataPlane::serving(&kernel, &[virtual_server(ID, &[ONE])]).await;
        let writes = kernel.take_writes();
        assert_eq!(
            writes,
            [
                "structure 10.1.1.0/24",
                "set 10.244.0.1:8080 of tcp/10.1.1.10:8080 to 0",
                "add local 10.1.1.0/24",
                "set 10.244.0.1:8080 of tcp/10.1.1.10:8080 to 1",
            ]
        );
        assert!(world.readiness.is_ready(), "{}", world.readiness.report());
        world.stop().await;
        assert_eq!(
            kernel.take_writes(),
            [""; 0],
            "the daemon writes nothing when it stops"
        );
    });
}

#[test]
fn a_virtual_server_that_the_forwarder_refuses_is_reported_and_retried() {
    run(|| async {
        let _one = real_server(ONE).await;
        let kernel = MemoryKernel::default();
        kernel.state().refused = Some(ID.parse().unwrap());
        let mut world = TestDataPlane::start(&kernel).await;
        world.publish(&[virtual_server(ID, &[ONE])]);
        let address = world.wait_for(|address| address.prefix == RANGE).await;
        assert_eq!(address.missing_step(), MissingStep::Programmed);
        assert_eq!(address.detail, "tcp/10.1.1.10:8080: refused by a test");
        assert!(world.readiness.report().contains("missing programmed"));
        kernel.state().refused = None;
        world.wait_until_serving(RANGE).await;
    });
}

#[test]
fn a_service_address_without_a_healthy_real_server_stops_serving_and_reports_the_reason() {
    run(|| async {
        let one = real_server(ONE).await;
        let kernel = MemoryKernel::default();
        let mut world = TestDataPlane::serving(&kernel, &[virtual_server(ID, &[ONE])]).await;
        drop(one);
        let address = world.wait_for(|address| !address.serving).await;
        assert_eq!(address.missing_step(), MissingStep::Healthy);
        let expected = "tcp/10.1.1.10:8080: 0 of 1 real servers are in service, the minimum is 1";
        assert!(address.detail.starts_with(expected), "{}", address.detail);
        assert!(address.detail.contains("refused"), "{}", address.detail);
    });
}

#[test]
fn an_address_does_not_serve_before_the_first_health_check() {
    run(|| async {
        let _one = real_server(ONE).await;
        let kernel = MemoryKernel::default();
        let mut world = TestDataPlane::start(&kernel).await;
        let mut server = virtual_server(ID, &[ONE]);
        server.health_check.as_mut().unwrap().initial_jitter = Duration::from_secs(3600);
        world.publish(std::slice::from_ref(&server));
        let address = world.wait_for(|address| address.prefix == RANGE).await;
        assert_eq!(address.missing_step(), MissingStep::Checked);
        assert_eq!(
            kernel.state().weight(ID, ONE),
            Some(0),
            "the real server is programmed with weight 0"
        );
        server.health_check = None;
        world.publish(&[server]);
        world.wait_until_serving(RANGE).await;
    });
}

#[test]
fn a_new_virtual_server_does_not_stop_a_serving_address() {
    run(|| async {
        let _one = real_server(ONE).await;
        let kernel = MemoryKernel::default();
        let mut world = TestDataPlane::start(&kernel).await;
        let first = virtual_server(ID, &[ONE]);
        world.publish(std::slice::from_ref(&first));
        world.wait_until_serving(RANGE).await;
        let mut second = virtual_server("tcp/10.1.1.11:8080", &[TWO]);
        second.health_check.as_mut().unwrap().initial_jitter = Duration::from_secs(3600);
        world.publish(&[first, second]);
        let address = world.wait_for(|address| address.virtual_servers == 2).await;
        assert!(address.serving, "{address:?}");
    });
}

#[test]
fn the_last_desired_set_is_kept_until_discovery_is_reachable_again() {
    run(|| async {
        let _one = real_server(ONE).await;
        let kernel = MemoryKernel::default();
        let mut world = TestDataPlane::serving(&kernel, &[virtual_server(ID, &[ONE])]).await;
        let address = world.stop_discovery();
        timeout(LIMIT, async {
            while !world
                .readiness
                .report()
                .contains("the last desired set stays in force")
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .unwrap();
        assert!(world.service_addresses().await[0].serving);
        assert!(world.readiness.is_ready(), "{}", world.readiness.report());

        world.restart_discovery(address).await;
        world.publish(&[]);
        world.wait_for_kernel(|state| state.table.is_empty()).await;
    });
}

#[test]
fn an_address_that_moves_into_or_out_of_a_range_stays_local_throughout() {
    run(|| async {
        let _one = real_server(ONE).await;
        let in_range = desired(&[virtual_server(ID, &[ONE])]);
        let mut alone = in_range.clone();
        alone.service_ranges.clear();
        let kernel = MemoryKernel::default();
        let mut world = TestDataPlane::start(&kernel).await;
        world.discovery().publish(&alone);
        world.wait_until_serving("10.1.1.10/32").await;
        for (set, added, removed) in [
            (&in_range, RANGE, "10.1.1.10/32"),
            (&alone, "10.1.1.10/32", RANGE),
        ] {
            kernel.take_writes();
            world.discovery().publish(set);
            world.wait_until_serving(added).await;
            let local = [added.parse().unwrap()].into();
            world.wait_for_kernel(|state| state.local == local).await;
            let writes = kernel.take_writes();
            let at = |text: String| writes.iter().position(|write| *write == text);
            let added_at = at(format!("add local {added}"));
            let removed_at = at(format!("remove local {removed}"));
            assert!(added_at.is_some() && added_at < removed_at, "{writes:#?}");
        }
    });
}

#[test]
fn an_invalid_object_does_not_replace_its_last_valid_state() {
    run(|| async {
        let _one = real_server(ONE).await;
        let kernel = MemoryKernel::default();
        let mut world = TestDataPlane::start(&kernel).await;
        let server = virtual_server(ID, &[ONE]);
        world.publish(std::slice::from_ref(&server));
        world.wait_until_serving(RANGE).await;
        let range = desired(&[]).service_ranges.first().copied().unwrap();
        let mut broken = events(&DesiredChange::PutVirtualServer(server));
        if let discovery_v1::watch_response::Event::VirtualServerHead(head) = &mut broken[0] {
            head.virtual_server.as_mut().unwrap().minimum_healthy = 0;
        }
        let other = virtual_server("tcp/10.5.0.1:8080", &[ONE]);
        world.discovery().publish_changes(vec![
            events(&DesiredChange::PutServiceRange(range)),
            broken,
            events(&DesiredChange::PutVirtualServer(other)),
        ]);
        world.wait_until_serving("10.5.0.1/32").await;
        assert_eq!(kernel.state().weight(ID, ONE), Some(1));
        assert!(
            world
                .service_addresses()
                .await
                .iter()
                .all(|address| address.serving)
        );
    });
}

#[test]
fn a_virtual_server_with_too_many_real_servers_does_not_delay_other_virtual_servers() {
    run(|| async {
        let (_one, _two) = (real_server(ONE).await, real_server(TWO).await);
        let kernel = MemoryKernel::default();
        let mut world = TestDataPlane::start(&kernel).await;
        // One real server more than the maximum.
        let mut oversized = virtual_server("tcp/[fd00:1::1]:8080", &[]);
        oversized.scheduler = Scheduler::Rr;
        let first = u128::from_be_bytes([
            0xfd, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff, 0xff, 1, 1, 1, 1, 1, 1, 0, 0,
        ]);
        let template = virtual_server(ID, &[ONE]).real_servers.remove(0);
        oversized.real_servers = (0..=virtual_server::VirtualServer::MOST_REAL_SERVERS)
            .map(|index| RealServer {
                address: std::net::Ipv6Addr::from_bits(first + index as u128).into(),
                ..template.clone()
            })
            .collect();
        let oversized = events(&DesiredChange::PutVirtualServer(oversized));
        let range = desired(&[]).service_ranges.first().copied().unwrap();
        let range = events(&DesiredChange::PutServiceRange(range));
        for real_servers in [&[ONE][..], &[ONE, TWO]] {
            let other = virtual_server(ID, real_servers);
            world.discovery().publish_changes(vec![
                range.clone(),
                oversized.clone(),
                events(&DesiredChange::PutVirtualServer(other)),
            ]);
            let last = real_servers[real_servers.len() - 1];
            world.wait_for_weight(ID, last, Some(1)).await;
        }
        world.wait_until_serving(RANGE).await;
        let metrics = world.metrics.encode();
        assert!(
            metrics.contains("portlb_discovery_invalid_objects_total 2"),
            "{metrics}"
        );
    });
}

#[test]
fn a_stream_that_breaks_before_synced_is_reopened_after_growing_pauses() {
    run(|| async {
        let kernel = MemoryKernel::default();
        let discovery = FakeDiscovery::start("127.0.0.1:0").await;
        discovery.break_streams(true);
        discovery.publish(&desired(&[]));
        let mut opened = discovery.opened();
        let begin = std::time::Instant::now();
        let mut world = TestDataPlane::start_with(&kernel, discovery).await;
        let sixth = timeout(LIMIT, opened.wait_for(|count| *count >= 6)).await;
        drop(sixth.unwrap().unwrap());
        // The five pauses are 20, 40, 80, 160 and 320 ms, each shortened by at most a fifth.
        let elapsed = begin.elapsed();
        assert!(elapsed >= Duration::from_millis(490), "{elapsed:?}");
        let _one = real_server(ONE).await;
        world.discovery().break_streams(false);
        world.publish(&[virtual_server(ID, &[ONE])]);
        world.wait_until_serving(RANGE).await;
    });
}

#[test]
fn a_watch_without_changes_gets_heartbeats() {
    run(|| async {
        let kernel = MemoryKernel::default();
        let mut world = TestDataPlane::start(&kernel).await;
        let request = WatchServiceAddressesRequest {
            heartbeat_interval: Duration::from_millis(1).try_into().ok(),
        };
        let mut stream = world
            .client
            .watch_service_addresses(request)
            .await
            .unwrap()
            .into_inner();
        for _ in 0..3 {
            let response = timeout(LIMIT, stream.message())
                .await
                .unwrap()
                .unwrap()
                .unwrap();
            assert!(
                matches!(response.event, Some(Event::Heartbeat(_))),
                "{response:?}"
            );
        }
    });
}

#[test]
fn the_data_plane_lingers_after_the_stop_request_while_an_announcer_watches() {
    run(|| async {
        let one = real_server(ONE).await;
        let kernel = MemoryKernel::default();
        let mut world = TestDataPlane::start_lingering(&kernel, Duration::from_secs(3600)).await;
        world.publish(&[virtual_server(ID, &[ONE])]);
        world.wait_until_serving(RANGE).await;
        let request = WatchServiceAddressesRequest::default();
        let announcer = world.client.watch_service_addresses(request).await.unwrap();
        world.request_stop();
        drop(one);
        world.wait_for_weight(ID, ONE, Some(0)).await;
        drop(announcer);
        world.stop().await;
    });
}
