//! Watches whose watcher does not read: those of the data plane, and the one that it opens itself.

use std::{collections::BTreeSet, net::Ipv4Addr, pin::Pin, sync::atomic::Ordering, time::Duration};

use daemon_api::{
    dataplane::v1::{
        WatchServiceAddressesRequest, WatchServiceAddressesResponse, WatchVirtualServersRequest,
        WatchVirtualServersResponse, data_plane_client::DataPlaneClient,
        watch_service_addresses_response::Event as AddressEvent,
        watch_virtual_servers_response::Event,
    },
    discovery::v1::{
        ListRequest, ListResponse, Synced, WatchRequest, WatchResponse,
        discovery_server::{Discovery, DiscoveryServer},
        watch_response::Event as Desired,
    },
};
use daemon_runtime::{Daemon, KEPT_REMOVALS};
use data_plane::Config;
use futures::{Stream, StreamExt, stream};
use std::sync::{Arc, atomic::AtomicUsize};
use tokio::{net::TcpListener, time::timeout};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Code, Request, Response, Status, Streaming,
    transport::{Channel, Endpoint, Server},
};
use virtual_server::{DesiredSet, VirtualServer};

use crate::{
    ID, ONE,
    discovery::StandIn,
    fake_kernel::FakeKernel,
    world::{LIMIT, World, desired, run, virtual_server},
};

/// Virtual servers at a time.
const SET: u8 = 200;

/// Sets, each of which replaces the one before: more removals than are kept.
const SETS: u8 = (2 * KEPT_REMOVALS / SET as usize) as u8;

fn unchecked(id: &str) -> VirtualServer {
    let mut server = virtual_server(id, &[ONE]);
    server.health_check = None;
    server
}

fn set(number: u8) -> DesiredSet {
    let servers: Vec<_> = (0..SET)
        .map(|host| unchecked(&format!("tcp/{}:8080", Ipv4Addr::new(10, 1, number, host))))
        .collect();
    let mut set = desired(&servers);
    // Each virtual server has a service address of its own.
    set.service_ranges.clear();
    set
}

/// A client of watches whose buffers take a few events.
async fn client(address: &str) -> DataPlaneClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let endpoint = endpoint.initial_stream_window_size(1_024);
    DataPlaneClient::new(endpoint.connect().await.unwrap())
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

/// Reads what is left of a watch, and returns the number of events and the status of the end.
async fn until_ended<T>(watch: &mut Streaming<T>) -> (usize, Status) {
    let mut read = 0;
    loop {
        match timeout(LIMIT, watch.message())
            .await
            .expect("an event or the end")
        {
            Ok(Some(_)) => read += 1,
            Ok(None) => panic!("the watch ended without a status after {read} events"),
            Err(status) => return (read, status),
        }
    }
}

/// Reads a new watch of service addresses up to its `synced`.
async fn listed_addresses(address: &str) -> BTreeSet<String> {
    let mut watch = watch_addresses(address).await;
    let mut prefixes = BTreeSet::new();
    loop {
        let message = timeout(LIMIT, watch.message())
            .await
            .expect("an event comes");
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
        .expect("an event comes")?
        .expect("the watch is open");
    Ok(response.event.unwrap())
}

/// Reads until the addresses that were read are those of this set.
async fn read_until(
    watch: &mut Streaming<WatchVirtualServersResponse>,
    read: &mut BTreeSet<String>,
    wanted: &DesiredSet,
) {
    let ids = wanted.virtual_servers.keys();
    let wanted: BTreeSet<_> = ids.map(|id| id.address.to_string()).collect();
    while *read != wanted {
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
fn a_watcher_that_does_not_read_is_aborted_and_the_others_get_every_change() {
    run(|| async {
        let stand_in = StandIn::silent("127.0.0.1:0").await;
        stand_in.say(&set(0));
        let mut daemon = Daemon::new("data-plane");
        let config = Config {
            discovery: format!("http://{}", stand_in.address).parse().unwrap(),
            audit_interval: Duration::from_secs(60),
            linger: Duration::ZERO,
            grpc_listen: "127.0.0.1:0".parse().unwrap(),
        };
        let kernel = FakeKernel::default();
        let address = kernel.start(config, &mut daemon).await.to_string();
        let shutdown = daemon.shutdown().clone();
        let running = tokio::spawn(daemon.run_until_drained(std::future::pending()));

        let mut silent = watch(&address).await;
        let mut silent_of_addresses = watch_addresses(&address).await;
        let mut reading = watch(&address).await;
        let mut read = BTreeSet::new();
        for number in 0..=SETS {
            stand_in.say(&set(number));
            read_until(&mut reading, &mut read, &set(number)).await;
        }

        let ended = [
            until_ended(&mut silent).await,
            until_ended(&mut silent_of_addresses).await,
        ];
        for (kept, status) in ended {
            assert_eq!(status.code(), Code::Aborted, "{status}");
            assert!(kept < KEPT_REMOVALS, "{kept} events waited for the watcher");
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

/// A Discovery that aborts the first watch, as one that lags, and has another virtual server by
/// the second.
#[derive(Clone, Default)]
struct Aborts(Arc<AtomicUsize>);

const FIRST: &str = "tcp/10.1.1.20:8080";

fn aborts(watch: usize) -> Vec<Result<WatchResponse, Status>> {
    let server = unchecked(if watch == 0 { FIRST } else { ID });
    let changes = DesiredSet::default().changes_to(&desired(&[server]));
    let events = changes.iter().map(Desired::from);
    let mut said: Vec<_> = events
        .chain([Desired::Synced(Synced {})])
        .map(|event| {
            Ok(WatchResponse {
                revision: 1,
                event: Some(event),
            })
        })
        .collect();
    if watch == 0 {
        said.push(Err(Status::aborted("the watcher did not read")));
    }
    said
}

#[tonic::async_trait]
impl Discovery for Aborts {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let watch = self.0.fetch_add(1, Ordering::SeqCst);
        let said = stream::iter(aborts(watch)).chain(stream::pending());
        Ok(Response::new(Box::pin(said)))
    }

    async fn list(&self, _: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }
}

#[test]
fn an_aborted_watch_of_the_discovery_is_opened_again_and_its_set_replaces_the_old_one() {
    run(|| async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let discovery = Aborts::default();
        let server = Server::builder().add_service(DiscoveryServer::new(discovery.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let kernel = FakeKernel::default();
        let world = World::start(&kernel, address).await;
        world
            .wait_for_kernel(|state| {
                let is_there = |id: &str| state.table.contains_key(&id.parse().unwrap());
                is_there(ID) && !is_there(FIRST)
            })
            .await;
        assert_eq!(discovery.0.load(Ordering::SeqCst), 2);
        world.stop().await;
    });
}
