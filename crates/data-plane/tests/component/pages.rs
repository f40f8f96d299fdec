//! Tests of paged lists and of refused requests.

use std::collections::BTreeSet;

use daemon_api::dataplane::v1::{
    ListServiceAddressesRequest, ListVirtualServersRequest, WatchServiceAddressesRequest,
    WatchVirtualServersRequest, watch_virtual_servers_response::Event,
};
use data_plane_testbed::{FakeDiscovery, LIMIT, ONE, TestDataPlane, desired, run, virtual_server};
use tokio::time::timeout;
use tonic::Code;

use crate::fake_kernel::MemoryKernel;

const IDS: [&str; 3] = [
    "tcp/10.1.1.1:8080",
    "tcp/10.1.1.2:8080",
    "tcp/10.1.1.10:8080",
];

/// Starts a data plane with three virtual servers outside of service ranges.
async fn world() -> TestDataPlane<MemoryKernel> {
    let discovery = FakeDiscovery::start("127.0.0.1:0").await;
    let mut set = desired(&IDS.map(|id| virtual_server(id, &[ONE])));
    set.service_ranges.clear();
    discovery.publish(&set);
    let mut world = TestDataPlane::start_with(&MemoryKernel::default(), discovery).await;
    let watch = world
        .client
        .watch_virtual_servers(WatchVirtualServersRequest {});
    let mut watch = watch.await.unwrap().into_inner();
    let mut seen = BTreeSet::new();
    while seen.len() < IDS.len() {
        let response = timeout(LIMIT, watch.message()).await.unwrap();
        if let Some(Event::VirtualServer(status)) = response.unwrap().unwrap().event {
            seen.insert(status.desired.unwrap().address);
        }
    }
    for prefix in ["10.1.1.1/32", "10.1.1.2/32", "10.1.1.10/32"] {
        world.wait_for(|address| address.prefix == prefix).await;
    }
    world
}

#[test]
fn virtual_servers_are_listed_in_pages() {
    run(|| async {
        let mut world = world().await;
        let mut request = ListVirtualServersRequest {
            page_size: 2,
            ..Default::default()
        };
        let mut addresses = Vec::new();
        for expected in [2, 1] {
            let page = world.client.list_virtual_servers(request.clone()).await;
            let page = page.unwrap().into_inner();
            assert_eq!((page.virtual_servers.len(), page.total_size), (expected, 3));
            let servers = page.virtual_servers.into_iter();
            addresses.extend(servers.map(|server| server.desired.unwrap().address));
            request.page_token = page.next_page_token;
        }
        assert_eq!(addresses, ["10.1.1.1", "10.1.1.2", "10.1.1.10"]);
        assert_eq!(request.page_token, "");
        world.stop().await;
    });
}

#[test]
fn service_addresses_are_listed_in_pages() {
    run(|| async {
        let mut world = world().await;
        let mut request = ListServiceAddressesRequest {
            page_size: 2,
            ..Default::default()
        };
        let mut prefixes = Vec::new();
        for expected in [2, 1] {
            let page = world.client.list_service_addresses(request.clone()).await;
            let page = page.unwrap().into_inner();
            assert_eq!(
                (page.service_addresses.len(), page.total_size),
                (expected, 3)
            );
            prefixes.extend(
                page.service_addresses
                    .into_iter()
                    .map(|address| address.prefix),
            );
            request.page_token = page.next_page_token;
        }
        assert_eq!(prefixes, ["10.1.1.1/32", "10.1.1.2/32", "10.1.1.10/32"]);
        assert_eq!(request.page_token, "");
        world.stop().await;
    });
}

#[test]
fn a_heartbeat_interval_of_any_length_keeps_the_watch_open() {
    run(|| async {
        let mut world = world().await;
        let request = WatchServiceAddressesRequest {
            heartbeat_interval: Some(daemon_api::Duration {
                seconds: i64::MAX,
                nanos: 0,
            }),
        };
        let watch = world.client.watch_service_addresses(request).await;
        let mut watch = watch.unwrap().into_inner();
        let first = timeout(LIMIT, watch.message()).await.unwrap();
        assert!(first.unwrap().is_some());
        world.stop().await;
    });
}

#[test]
fn an_invalid_request_is_refused_with_the_name_of_the_field() {
    run(|| async {
        let mut world = world().await;
        let list = ListVirtualServersRequest {
            page_token: "tcp/10.1.1.1:8080".to_owned(),
            ..Default::default()
        };
        let watch = WatchServiceAddressesRequest {
            heartbeat_interval: Some(daemon_api::Duration {
                seconds: -1,
                nanos: 0,
            }),
        };
        let refused = [
            (
                "`page_token`",
                world.client.list_virtual_servers(list).await.err(),
            ),
            (
                "`heartbeat_interval`",
                world.client.watch_service_addresses(watch).await.err(),
            ),
        ];
        for (field, error) in refused {
            let error = error.unwrap();
            assert_eq!(error.code(), Code::InvalidArgument);
            assert!(error.message().contains(field), "{error}");
        }
        world.stop().await;
    });
}
