//! Test of a gRPC client that watches and does not read.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, time::Duration};

use daemon_api::{
    DesiredSetAssembly, DesiredSetEvent,
    discovery::v1::{
        WatchRequest, WatchResponse, discovery_service_client::DiscoveryServiceClient,
    },
};
use daemon_runtime::{Daemon, KEPT_REMOVALS};
use pod_watcher::source::{DesiredSetSource, SourceDescription, SourceEvent};
use tokio::{sync::mpsc, time::timeout};
use tonic::{Code, Status, Streaming, transport::Endpoint};
use virtual_server::{DesiredChange, DesiredSet, ServiceRange};

const DEADLINE: Duration = Duration::from_secs(10);

/// Number of service ranges in each desired set.
const SET: u8 = 200;

/// Number of desired sets after the first one. Each set replaces all ranges of the previous set, so
/// that there are more removals than the daemon keeps for a slow watcher.
const SETS: u8 = (2 * KEPT_REMOVALS / SET as usize) as u8;

/// A source that returns the events that a test sends.
struct ChannelSource(mpsc::UnboundedReceiver<SourceEvent>);

impl DesiredSetSource for ChannelSource {
    fn description(&self) -> SourceDescription {
        SourceDescription {
            kind: "test",
            location: "here".to_owned(),
        }
    }

    async fn next(&mut self) -> SourceEvent {
        match self.0.recv().await {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }
}

fn set(number: u8) -> DesiredSet {
    let range = |host: u8| ServiceRange {
        prefix: format!("10.1.{number}.{host}/32").parse().unwrap(),
    };
    DesiredSet {
        virtual_servers: BTreeMap::new(),
        service_ranges: (0..SET).map(range).collect(),
    }
}

/// Opens a watch whose receive window has room for only a few events.
async fn watch(address: &str) -> Streaming<WatchResponse> {
    let endpoint = Endpoint::from_shared(address.to_owned()).unwrap();
    let endpoint = endpoint.initial_stream_window_size(1_024);
    let mut client = DiscoveryServiceClient::new(endpoint.connect().await.unwrap());
    client.watch(WatchRequest {}).await.unwrap().into_inner()
}

/// Returns the next change; `None` for the mark `synced`.
async fn next(watch: &mut Streaming<WatchResponse>) -> Result<Option<DesiredChange>, Status> {
    let message = timeout(DEADLINE, watch.message()).await;
    let response = message
        .expect("no event within the deadline")?
        .expect("the watch has ended");
    let mut events = DesiredSetAssembly::default().receive(response);
    match events.pop().unwrap() {
        DesiredSetEvent::Change(change) => Ok(Some(change)),
        DesiredSetEvent::Synced => Ok(None),
        DesiredSetEvent::Invalid { error, .. } => panic!("{error}"),
    }
}

/// Applies the changes of a watch to the set `read` until `read` is equal to `expected`.
async fn read_until(
    watch: &mut Streaming<WatchResponse>,
    read: &mut DesiredSet,
    expected: &DesiredSet,
) {
    while read != expected {
        match next(watch).await.unwrap() {
            Some(DesiredChange::PutServiceRange(range)) => {
                read.service_ranges.insert(range);
            }
            Some(DesiredChange::RemoveServiceRange(range)) => {
                read.service_ranges.remove(&range);
            }
            None => {}
            Some(
                other
                @ (DesiredChange::PutVirtualServer(_) | DesiredChange::RemoveVirtualServer(_)),
            ) => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_watch_of_a_client_that_does_not_read_is_aborted_and_other_watches_continue() {
    let mut daemon = Daemon::new("pod-watcher");
    let any_port = "127.0.0.1:0".parse().unwrap();
    let (source, events) = mpsc::unbounded_channel();
    let address = pod_watcher::start_with(
        ChannelSource(events),
        &any_port,
        Duration::ZERO,
        &mut daemon,
    )
    .await
    .unwrap();
    let address = format!("http://{address}");
    let shutdown = daemon.shutdown().clone();
    let running = tokio::spawn(daemon.run_until_drained(std::future::pending()));

    source.send(SourceEvent::Snapshot(set(0))).unwrap();
    let mut silent = watch(&address).await;
    let mut reading = watch(&address).await;
    let mut read = DesiredSet::default();
    for number in 1..=SETS {
        source.send(SourceEvent::Snapshot(set(number))).unwrap();
        read_until(&mut reading, &mut read, &set(number)).await;
    }

    let mut kept = 0;
    let ended = loop {
        match next(&mut silent).await {
            Ok(_) => kept += 1,
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::Aborted, "{ended}");
    assert!(
        kept < KEPT_REMOVALS,
        "the silent client got {kept} events before its watch was aborted"
    );

    let mut again = watch(&address).await;
    let mut read = DesiredSet::default();
    read_until(&mut again, &mut read, &set(SETS)).await;
    assert_eq!(next(&mut again).await.unwrap(), None);
    drop((silent, reading, again));
    shutdown.request();
    let ended = timeout(DEADLINE, running).await.unwrap();
    ended.unwrap().unwrap();
}
