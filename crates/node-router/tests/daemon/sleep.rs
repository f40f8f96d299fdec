//! Tests of a daemon whose process did not run for a while.

use std::time::Duration;

use crate::support::{DEADLINE, FakeKernelNode, KernelState, own_route};

/// Simulates that this process did not run for the duration: its timers expire before its sockets
/// are read.
async fn sleep_of_this_process(duration: Duration) {
    tokio::time::pause();
    tokio::time::advance(duration).await;
    tokio::time::resume();
    // The yields let every task see the new time before it receives any message.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_adopted_route_stays_if_the_process_did_not_run_for_the_adoption_timeout() {
    let mut state = KernelState::default();
    let left = own_route("10.1.1.0/24", &["10.244.3.7"]);
    state.routes.own.push(left.clone());
    let node = FakeKernelNode::start_from(state, |config| {
        config.adopt_timeout = Duration::from_secs(10);
    })
    .await;
    sleep_of_this_process(Duration::from_secs(30)).await;
    let _stream = node.granted_hold("10.1.1.0/24", "10.244.3.7").await;
    assert_eq!(node.kernel.changes(), [""; 0]);
    assert_eq!(node.kernel.own(), [left]);
    node.stop().await;
}

#[tokio::test]
async fn a_released_route_stays_if_the_process_did_not_run_for_the_release_delay() {
    let node = FakeKernelNode::start_from(KernelState::default(), |config| {
        config.release_delay = Duration::from_secs(10);
    })
    .await;
    let stream = node.granted_hold("10.1.1.0/24", "10.244.3.7").await;
    let changes = node.kernel.changes();
    drop(stream);
    let released = async { while node.routes().await[0].next_hops[0].holders > 0 {} };
    tokio::time::timeout(DEADLINE, released).await.unwrap();
    sleep_of_this_process(Duration::from_secs(30)).await;
    let _stream = node.granted_hold("10.1.1.0/24", "10.244.3.7").await;
    assert_eq!(node.kernel.changes(), changes);
    node.stop().await;
}
