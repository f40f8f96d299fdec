//! A watcher that does not read.

use std::collections::BTreeSet;

use daemon_api::noderoute::v1::{
    WatchRoutesRequest, WatchRoutesResponse, node_route_client::NodeRouteClient,
    watch_routes_response::Event,
};
use daemon_runtime::KEPT_REMOVALS;
use futures::future::join_all;
use tonic::{Code, Streaming, transport::Endpoint};

use crate::support::{Node, hold, next};

/// Holds at a time.
const BATCH: usize = 200;

/// Batches of prefixes, each held and released: more than are kept, and than the buffers of a
/// stream take.
const BATCHES: usize = 2 * KEPT_REMOVALS / BATCH;

/// A watch whose buffers take a few events.
async fn watch(node: &Node) -> Streaming<WatchRoutesResponse> {
    let endpoint = Endpoint::from_shared(format!("unix://{}", node.socket.display())).unwrap();
    let endpoint = endpoint.initial_stream_window_size(1_024);
    let mut client = NodeRouteClient::new(endpoint.connect().await.unwrap());
    let stream = client.watch_routes(WatchRoutesRequest {}).await;
    stream.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_does_not_read_is_aborted_and_the_others_get_every_change() {
    let node = Node::start().await;
    let mut silent = watch(&node).await;
    let mut reading = watch(&node).await;
    let reader = tokio::spawn(async move {
        let mut removed = BTreeSet::new();
        while removed.len() < BATCH * BATCHES {
            if let Some(Event::RemovedRoute(prefix)) = next(&mut reading).await.unwrap().event {
                removed.insert(prefix);
            }
        }
    });
    let client = node.client();
    for batch in 0..BATCHES {
        let holds = (0..BATCH).map(|number| {
            let mut client = client.clone();
            let prefix = format!("10.1.{batch}.{number}/32");
            async move { hold(&mut client, &prefix, "10.244.3.5").await.unwrap() }
        });
        drop(join_all(holds).await);
        node.kernel.wait_for_own(&[]).await;
    }
    // Each of its events has a deadline.
    reader.await.unwrap();

    let mut kept = 0;
    let ended = loop {
        match next(&mut silent).await {
            Ok(_) => kept += 1,
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::Aborted, "{ended}");
    assert!(kept < KEPT_REMOVALS, "{kept} events waited for the watcher");

    let _held = node.held("10.1.255.1/32", "10.244.3.5").await;
    let mut again = watch(&node).await;
    let first = next(&mut again).await.unwrap().event;
    assert!(
        matches!(&first, Some(Event::Route(route)) if route.prefix == "10.1.255.1/32"),
        "{first:?}"
    );
    let second = next(&mut again).await.unwrap().event;
    assert!(matches!(second, Some(Event::Synced(_))), "{second:?}");
    node.stop().await;
}
