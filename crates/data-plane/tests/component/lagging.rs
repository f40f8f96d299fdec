//! Tests of watches whose client does not read.

use std::{collections::BTreeSet, net::Ipv4Addr, time::Duration};

use daemon_api::dataplane::v1::{
    WatchServiceAddressesRequest, WatchServiceAddressesResponse, WatchVirtualServersRequest,
    WatchVirtualServersResponse, data_plane_service_client::DataPlaneServiceClient,
    watch_service_addresses_response::Event as AddressEvent, watch_virtual_servers_response::Event,
};
use daemon_runtime::{Daemon, KEPT_REMOVALS};
use data_plane::Config;
use data_plane_testbed::{FakeDiscovery, LIMIT, ONE, TestKernel, desired, run, virtual_server};
use tokio::time::timeout;
use tonic::{
    Code, Status, Streaming,
    transport::{Channel, Endpoint},
};
use virtual_server::{DesiredSet, VirtualServer};

use crate::fake_kernel::MemoryKernel;

/// Number of virtual servers in one desired set.
const SET_SIZE: u8 = 200;

/// Number of desired sets that replace each other. Together they cause more removals than the
/// daemon stores for a watcher.
const SETS: u8 = (2 * KEPT_REMOVALS / SET_SIZE as usize) as u8;

fn unchecked(id: &str) -> VirtualServer {
    let mut server = virtual_server(id, &[ONE]);
    server.health_check = None;
    server
}

fn set(number: u8) -> DesiredSet {
    let servers: Vec<_> = (0..SET_SIZE)
        .map(|host| unchecked(&format!("tcp/{}:8080", Ipv4Addr::new(10, 1, number, host))))
        .collect();
    let mut set = desired(&servers);
    // Without service ranges, each virtual server has its own service address.
    set.service_ranges.clear();
    set
}

/// Connects a client whose receive window holds only a few events.
async fn client(address: &str) -> DataPlaneServiceClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let endpoint = endpoint.initial_stream_window_size(1_024);
    DataPlaneServiceClient::new(endpoint.connect().await.unwrap())
}

async fn watch(address: &str) -> Streaming<WatchVirtualServersResponse> {
    let mut client = client(address).await;
    let stream = client.watch_virtual_servers(WatchVirtualServersRequest {});
    stream.await.unwrap().into_inner()
}

async fn watch_addresses(address: &str) -> Streaming<WatchServiceAddressesResponse> {
    let mut client = client(address).await;
    let stream = client.watch_service_addresses(WatchServiceAddressesRequest::default());
    stream.await.unwrap().into_inner()
}

/// Reads a watch to its end. Returns the number of events and the final status.
async fn until_ended<T>(watch: &mut Streaming<T>) -> (usize, Status) {
    let mut read = 0;
    loop {
        match timeout(LIMIT, watch.message())
            .await
            .expect("an event or the end of the watch arrives in time")
        {
            Ok(Some(_)) => read += 1,
            Ok(None) => panic!("the watch ended without a status after {read} events"),
            Err(status) => return (read, status),
        }
    }
}

/// Reads a new watch of service addresses until `synced`. Returns the prefixes.
async fn listed_addresses(address: &str) -> BTreeSet<String> {
    let mut watch = watch_addresses(address).await;
    let mut prefixes = BTreeSet::new();
    loop {
        let message = timeout(LIMIT, watch.message())
            .await
            .expect("an event arrives in time");
        match message.unwrap().expect("the watch is open").event.unwrap() {
            AddressEvent::ServiceAddress(address) => {
                prefixes.insert(address.prefix);
            }
            AddressEvent::RemovedServiceAddress(prefix) => {
                prefixes.remove(&prefix);
            }
            AddressEvent::Synced(_) => return prefixes,
            AddressEvent::Heartbeat(_) => {}
        }
    }
}

async fn next(watch: &mut Streaming<WatchVirtualServersResponse>) -> Result<Event, Status> {
    let message = timeout(LIMIT, watch.message()).await;
    let response = message
        .expect("an event arrives in time")?
        .expect("the watch is open");
    Ok(response.event.unwrap())
}

/// Reads events until the addresses in `read` are equal to the addresses of `expected`.
async fn read_until(
    watch: &mut Streaming<WatchVirtualServersResponse>,
    read: &mut BTreeSet<String>,
    expected: &DesiredSet,
) {
    let ids = expected.virtual_servers.keys();
    let expected: BTreeSet<_> = ids.map(|id| id.address.to_string()).collect();
    while *read != expected {
        match next(watch).await.unwrap() {
            Event::VirtualServer(status) => {
                read.insert(status.desired.unwrap().address);
            }
            Event::RemovedVirtualServer(id) => {
                read.remove(&id.address);
            }
            Event::Synced(_) => {}
        }
    }
}

#[test]
fn a_watch_without_reads_is_aborted_while_other_watches_get_every_change() {
    run(|| async {
        let discovery = FakeDiscovery::start("127.0.0.1:0").await;
        discovery.publish(&set(0));
        let mut daemon = Daemon::new("data-plane");
        let config = Config {
            discovery: format!("http://{}", discovery.address).parse().unwrap(),
            audit_interval: Duration::from_secs(60),
            linger: Duration::ZERO,
            grpc_listen: "127.0.0.1:0".parse().unwrap(),
        };
        let kernel = MemoryKernel::default();
        let address = kernel.start(config, &mut daemon).await.to_string();
        let shutdown = daemon.shutdown().clone();
        let running = tokio::spawn(daemon.run_until_drained(std::future::pending()));

        let mut silent = watch(&address).await;
        let mut silent_of_addresses = watch_addresses(&address).await;
        let mut reading = watch(&address).await;
        let mut read = BTreeSet::new();
        for number in 0..=SETS {
            discovery.publish(&set(number));
            read_until(&mut reading, &mut read, &set(number)).await;
        }

        let ended = [
            until_ended(&mut silent).await,
            until_ended(&mut silent_of_addresses).await,
        ];
        for (kept, status) in ended {
            assert_eq!(status.code(), Code::Aborted, "{status}");
            assert!(
                kept < KEPT_REMOVALS,
                "{kept} events were stored for the watcher"
            );
        }

        let mut again = watch(&address).await;
        let mut read = BTreeSet::new();
        read_until(&mut again, &mut read, &set(SETS)).await;
        let last = next(&mut again).await.unwrap();
        assert!(matches!(last, Event::Synced(_)), "{last:?}");
        let ids = set(SETS).virtual_servers.into_keys();
        let addresses: BTreeSet<_> = ids.map(|id| format!("{}/32", id.address)).collect();
        assert_eq!(listed_addresses(&address).await, addresses);
        drop((silent, silent_of_addresses, reading, again));
        shutdown.request();
        timeout(LIMIT, running).await.unwrap().unwrap().unwrap();
    });
}
