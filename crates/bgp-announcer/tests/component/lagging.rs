//! Watches whose watcher does not read: of the announcer, and of the announcer itself.

use std::{
    collections::BTreeSet,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use daemon_api::{
    announcer::v1::{
        AnnouncementState, WatchAnnouncementsRequest, WatchAnnouncementsResponse,
        announcer_client::AnnouncerClient, watch_announcements_response::Event,
    },
    dataplane::v1::{
        ListServiceAddressesRequest, ListServiceAddressesResponse, ListVirtualServersRequest,
        ListVirtualServersResponse, ServiceAddress, Synced, WatchServiceAddressesRequest,
        WatchServiceAddressesResponse, WatchVirtualServersRequest, WatchVirtualServersResponse,
        data_plane_server::{DataPlane, DataPlaneServer},
        watch_service_addresses_response::Event as Served,
    },
};
use daemon_runtime::KEPT_REMOVALS;
use futures::{Stream, StreamExt, stream};
use tokio::time::timeout;
use tonic::{Code, Request, Response, Status, Streaming, transport::Endpoint};

use crate::{
    SERVICE,
    world::{DEADLINE, Process, World},
};

/// Service addresses at a time.
const SET: usize = 200;

/// Sets, each of which comes and goes: more removals than are kept.
const SETS: usize = 2 * KEPT_REMOVALS / SET;

/// A watch whose buffers take a few events.
async fn watch(world: &World) -> Streaming<WatchAnnouncementsResponse> {
    let endpoint = Endpoint::from_shared(world.grpc.clone()).unwrap();
    let endpoint = endpoint.initial_stream_window_size(1_024);
    let mut client = AnnouncerClient::new(endpoint.connect().await.unwrap());
    let stream = client.watch_announcements(WatchAnnouncementsRequest {});
    stream.await.unwrap().into_inner()
}

async fn next(watch: &mut Streaming<WatchAnnouncementsResponse>) -> Result<Event, Status> {
    let message = timeout(DEADLINE, watch.message()).await;
    let response = message
        .expect("an event comes")?
        .expect("the watch is open");
    Ok(response.event.unwrap())
}

/// Reads until the prefixes that were read are these.
async fn read_until(
    watch: &mut Streaming<WatchAnnouncementsResponse>,
    read: &mut BTreeSet<String>,
    wanted: &BTreeSet<String>,
) {
    while read != wanted {
        match next(watch).await.unwrap() {
            Event::Announcement(announcement) => {
                read.insert(announcement.prefix);
            }
            Event::RemovedAnnouncement(prefix) => {
                read.remove(&prefix);
            }
            Event::Synced(_) => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_does_not_read_is_aborted_and_the_others_get_every_change() {
    let world = World::start(&["--allowed-prefixes=10.1.0.0/16"]).await;
    let mut silent = watch(&world).await;
    let mut reading = watch(&world).await;
    let mut read = BTreeSet::new();
    for set in 0..SETS {
        let prefix = |host| format!("10.1.{set}.{host}/32");
        let prefixes: BTreeSet<_> = (0..SET).map(prefix).collect();
        for prefix in &prefixes {
            world.data_plane.stop_serving(prefix, "");
        }
        read_until(&mut reading, &mut read, &prefixes).await;
        for prefix in &prefixes {
            world.data_plane.remove(prefix);
        }
        read_until(&mut reading, &mut read, &BTreeSet::new()).await;
    }

    let mut kept = 0;
    let ended = loop {
        match next(&mut silent).await {
            Ok(_) => kept += 1,
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::Aborted, "{ended}");
    assert!(kept < KEPT_REMOVALS, "{kept} events waited for the watcher");

    world.data_plane.stop_serving(SERVICE, "");
    read_until(&mut reading, &mut read, &[SERVICE.to_owned()].into()).await;
    let mut again = watch(&world).await;
    let first = next(&mut again).await.unwrap();
    assert!(
        matches!(&first, Event::Announcement(it) if it.prefix == SERVICE),
        "{first:?}"
    );
    let second = next(&mut again).await.unwrap();
    assert!(matches!(second, Event::Synced(_)), "{second:?}");
}

/// A data plane that aborts the first watch, as one that lags, and has another service address by
/// the second.
struct Aborts(Arc<AtomicUsize>);

const FIRST: &str = "10.1.1.20/32";

fn aborts(watch: usize) -> Vec<Result<WatchServiceAddressesResponse, Status>> {
    let prefix = if watch == 0 { FIRST } else { SERVICE };
    let address = ServiceAddress {
        prefix: prefix.to_owned(),
        serving: true,
        ..ServiceAddress::default()
    };
    let events = [Served::ServiceAddress(address), Served::Synced(Synced {})];
    let mut said: Vec<_> = events
        .into_iter()
        .map(|event| {
            Ok(WatchServiceAddressesResponse {
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
impl DataPlane for Aborts {
    type WatchServiceAddressesStream =
        Pin<Box<dyn Stream<Item = Result<WatchServiceAddressesResponse, Status>> + Send>>;
    type WatchVirtualServersStream = stream::Pending<Result<WatchVirtualServersResponse, Status>>;

    async fn watch_service_addresses(
        &self,
        _: Request<WatchServiceAddressesRequest>,
    ) -> Result<Response<Self::WatchServiceAddressesStream>, Status> {
        let watch = self.0.fetch_add(1, Ordering::SeqCst);
        let said = stream::iter(aborts(watch)).chain(stream::pending());
        Ok(Response::new(Box::pin(said)))
    }

    async fn list_service_addresses(
        &self,
        _: Request<ListServiceAddressesRequest>,
    ) -> Result<Response<ListServiceAddressesResponse>, Status> {
        Err(Status::unimplemented("not needed here"))
    }

    async fn watch_virtual_servers(
        &self,
        _: Request<WatchVirtualServersRequest>,
    ) -> Result<Response<Self::WatchVirtualServersStream>, Status> {
        Err(Status::unimplemented("not needed here"))
    }

    async fn list_virtual_servers(
        &self,
        _: Request<ListVirtualServersRequest>,
    ) -> Result<Response<ListVirtualServersResponse>, Status> {
        Err(Status::unimplemented("not needed here"))
    }
}

#[tokio::test]
async fn an_aborted_watch_of_the_data_plane_is_opened_again_and_its_set_replaces_the_old_one() {
    let mut world = World::start_without_data_plane(&["--data-plane-timeout=60s"]).await;
    let watches = Arc::new(AtomicUsize::new(0));
    let service = DataPlaneServer::new(Aborts(watches.clone()));
    let _data_plane = Process::serve(world.data_plane.port.address, service).await;
    world
        .wait_for_state(SERVICE, AnnouncementState::Announced)
        .await;
    world
        .wait_for_paths(|paths| paths.len() == 1 && paths[0].prefix.to_string() == SERVICE)
        .await;
    assert_eq!(watches.load(Ordering::SeqCst), 2);
}
