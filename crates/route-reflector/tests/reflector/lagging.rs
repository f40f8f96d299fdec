//! Test of a watch whose client does not read.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use bgp_packet::{IpNet, PathAttributes};
use daemon_api::reflector::v1::{
    WatchPathsRequest, WatchPathsResponse,
    route_reflector_service_client::RouteReflectorServiceClient, watch_paths_response::Event,
};
use tonic::{Code, Streaming, transport::Endpoint};

use crate::harness::{HEAD, RunningReflector, TestPeer, soon};

/// More than 65,536, the largest number of changes that a speaker keeps for an observer.
const PATHS: u32 = 70_000;

/// Opens a watch with buffers for only a few events.
async fn watch(reflector: &RunningReflector) -> Streaming<WatchPathsResponse> {
    let endpoint = Endpoint::from_shared(reflector.grpc.clone()).unwrap();
    let endpoint = endpoint.initial_stream_window_size(16_384);
    let mut client = RouteReflectorServiceClient::new(endpoint.connect().await.unwrap());
    let stream = client.watch_paths(WatchPathsRequest {}).await;
    stream.unwrap().into_inner()
}

/// Reads events until `count` different paths have been received.
async fn read_until(watch: &mut Streaming<WatchPathsResponse>, count: u32) {
    let mut paths = BTreeSet::new();
    while paths.len() < count as usize {
        let response = soon("an event", watch.message()).await.unwrap().unwrap();
        if let Some(Event::Path(path)) = response.event {
            paths.insert(path.prefix);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_is_not_read_is_aborted_and_another_watch_gets_every_path() {
    let clients = "peerGroups:\n- name: clients\n  dynamicPrefixes: [127.0.1.0/24]\n  role: client\n  \
                   importPrefixes: [{prefix: 10.0.0.0/8, maximumLength: 32}]\n  \
                   allowedNextHops: [192.0.2.0/24]\n  maximumPaths: 100000\n";
    let reflector = RunningReflector::start(&format!("{HEAD}{clients}")).await;
    let client = TestPeer::connecting([127, 0, 1, 77], reflector.bgp).await;
    let mut silent = watch(&reflector).await;
    let mut reading = watch(&reflector).await;
    let reader = tokio::spawn(async move { read_until(&mut reading, PATHS).await });
    for number in 0..PATHS {
        let address = Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() + number);
        let prefix = IpNet::from(IpAddr::from(address));
        let attributes = PathAttributes::originate([192, 0, 2, 1].into());
        let originated = client.handle.originate(prefix, attributes).await;
        originated.unwrap().unwrap();
    }
    // The task of the reader fails if an event does not arrive within the deadline of `soon`.
    reader.await.unwrap();

    let mut read = 0;
    let ended = loop {
        match soon("an event or the end", silent.message()).await {
            Ok(_) => read += 1,
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::Aborted, "{ended}");
    assert!(read < PATHS / 2, "{read} events were kept for the watcher");

    let mut again = watch(&reflector).await;
    read_until(&mut again, PATHS).await;
    let last = soon("the end of the list", again.message()).await;
    let last = last.unwrap().unwrap().event;
    assert!(matches!(last, Some(Event::Synced(_))), "{last:?}");
}
