//! Tests of the limits of routes, holds and streams.

use std::time::Duration;

use daemon_api::noderoute::v1::WatchRoutesRequest;
use futures::FutureExt;
use tonic::Code;

use crate::support::{DEADLINE, FakeKernelNode, KernelState, hold, own_route};

#[tokio::test]
async fn routes_within_the_release_delay_count_towards_max_routes() {
    const LIMIT: usize = 8;
    let node = FakeKernelNode::start_from(KernelState::default(), |config| {
        config.max_routes = LIMIT;
        config.release_delay = Duration::from_secs(3600);
    })
    .await;
    for n in 0..LIMIT {
        drop(
            node.granted_hold(&format!("10.1.{n}.0/24"), "10.244.3.7")
                .await,
        );
    }
    let status = node.hold("10.1.100.0/24", "10.244.3.7").await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("recently released"), "{status:?}");
    assert_eq!(node.kernel.own().len(), LIMIT);
    // At the limit, a pod can still hold a prefix that has a route.
    let _again = node.granted_hold("10.1.0.0/24", "10.244.3.7").await;
    node.stop().await;
}

#[tokio::test]
async fn max_routes_limits_adopted_routes_and_adopted_routes_count_towards_max_routes() {
    let mut state = KernelState::default();
    for n in 0..3 {
        let prefix = format!("10.1.{n}.0/24");
        state.routes.own.push(own_route(&prefix, &["10.244.3.7"]));
    }
    let kept = state.routes.own[..2].to_vec();
    let node = FakeKernelNode::start_from(state, |config| config.max_routes = 2).await;
    assert_eq!(node.kernel.own(), kept);
    let status = node.hold("10.1.2.0/24", "10.244.3.7").await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let _held = node.granted_hold("10.1.1.0/24", "10.244.3.7").await;
    node.stop().await;
}

#[tokio::test]
async fn the_number_of_holds_is_limited_to_four_times_max_routes() {
    let node =
        FakeKernelNode::start_from(KernelState::default(), |config| config.max_routes = 2).await;
    let mut client = node.client();
    let mut streams = Vec::new();
    for _ in 0..8 {
        let stream = hold(&mut client, "10.1.1.0/24", "10.244.3.7").await;
        streams.push(stream.unwrap());
    }
    let status = node.hold("10.1.1.0/24", "10.244.3.7").await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("limit of 8 holds"), "{status:?}");
    streams.pop();
    // The daemon notices the end of the stream only when it processes a later message of the
    // client's connection, so the test repeats the request until the hold is granted.
    let granted = async {
        while node.hold("10.1.1.0/24", "10.244.3.7").await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, granted).await.unwrap();
    node.stop().await;
}

#[tokio::test]
async fn the_number_of_next_hops_of_a_route_is_limited_to_64() {
    let node = FakeKernelNode::start().await;
    let mut client = node.client();
    let mut streams = Vec::new();
    for n in 0..64 {
        let gateway = format!("10.244.3.{n}");
        let stream = hold(&mut client, "10.1.1.0/24", &gateway).await;
        streams.push(stream.unwrap());
    }
    let status = node.hold("10.1.1.0/24", "10.244.3.64").await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("64 next hops"), "{status:?}");
    let _other_prefix = node.granted_hold("10.1.2.0/24", "10.244.3.64").await;
    node.stop().await;
}

#[tokio::test]
async fn the_number_of_streams_of_a_connection_is_limited() {
    // The limit for one connection is 65 streams: 64 and the value of `max_routes`.
    let node =
        FakeKernelNode::start_from(KernelState::default(), |config| config.max_routes = 1).await;
    let mut client = node.client();
    let mut streams = Vec::new();
    for _ in 0..65 {
        let watch = client.watch_routes(WatchRoutesRequest {}).await;
        streams.push(watch.unwrap());
    }
    let mut one_more = std::pin::pin!(client.watch_routes(WatchRoutesRequest {}));
    assert!((&mut one_more).now_or_never().is_none());
    // The daemon serves other connections although one connection is at the limit of streams.
    let _held = node.granted_hold("10.1.1.0/24", "10.244.3.7").await;
    assert!((&mut one_more).now_or_never().is_none(), "the 66th stream");
    streams.pop();
    let opened = tokio::time::timeout(DEADLINE, one_more).await;
    opened.unwrap().unwrap();
    node.stop().await;
}
