//! Tests with random sequences of events.

use std::collections::BTreeMap;

use proptest::{collection, prelude::*};

use crate::support::{FakeKernelNode, KernelState, foreign_route, next_hops, own_route, prefix};

#[derive(Clone, Debug)]
enum RouterEvent {
    Hold(u8, u8),
    /// Closes the stream at this index of the open streams, oldest first. Does nothing if the index
    /// is too high.
    Release(usize),
    /// Another program deletes the route.
    DeleteRoute(u8),
    /// Another program changes the next hops of the route.
    ChangeNextHops(u8, u8),
    /// The kernel refuses all changes until `AcceptChanges`.
    RefuseChanges,
    AcceptChanges,
}

fn service(n: u8) -> String {
    format!("10.1.{n}.0/24")
}

fn pod(n: u8) -> String {
    format!("10.244.3.{n}")
}

fn any_event() -> impl Strategy<Value = RouterEvent> {
    prop_oneof![
        4 => (0..3_u8, 1..4_u8).prop_map(|(s, p)| RouterEvent::Hold(s, p)),
        3 => (0..4_usize).prop_map(RouterEvent::Release),
        1 => (0..3_u8).prop_map(RouterEvent::DeleteRoute),
        1 => (0..3_u8, 4..6_u8).prop_map(|(s, p)| RouterEvent::ChangeNextHops(s, p)),
        1 => Just(RouterEvent::RefuseChanges),
        1 => Just(RouterEvent::AcceptChanges),
    ]
}

async fn check(events: Vec<RouterEvent>) {
    let mut state = KernelState::default();
    let foreign = foreign_route("10.1.0.0/24", 700);
    state.routes.foreign.push(foreign.clone());
    let node = FakeKernelNode::start_from(state, |_| {}).await;
    let mut held = Vec::new();
    for event in events {
        match event {
            RouterEvent::Hold(s, p) => {
                // The hold fails while the kernel refuses changes.
                if let Ok(stream) = node.hold(&service(s), &pod(p)).await {
                    held.push((s, p, stream));
                }
            }
            RouterEvent::Release(index) => {
                if index < held.len() {
                    held.remove(index);
                }
            }
            RouterEvent::DeleteRoute(s) => node.kernel.change(|state| {
                state
                    .routes
                    .own
                    .retain(|route| route.prefix != prefix(&service(s)));
            }),
            RouterEvent::ChangeNextHops(s, p) => node.kernel.change(|state| {
                for route in &mut state.routes.own {
                    if route.prefix == prefix(&service(s)) {
                        route.next_hops = Some(next_hops(&[&pod(p)]));
                    }
                }
            }),
            RouterEvent::RefuseChanges => {
                node.kernel.change(|state| state.refuses_changes = Some(12))
            }
            RouterEvent::AcceptChanges => node.kernel.change(|state| state.refuses_changes = None),
        }
    }
    node.kernel.change(|state| state.refuses_changes = None);
    let mut pods: BTreeMap<u8, Vec<String>> = BTreeMap::new();
    for (s, p, _) in &held {
        pods.entry(*s).or_default().push(pod(*p));
    }
    let expected: Vec<_> = pods
        .iter()
        .map(|(s, pods)| {
            let pods: Vec<&str> = pods.iter().map(String::as_str).collect();
            own_route(&service(*s), &pods)
        })
        .collect();
    node.kernel.wait_for_own(&expected).await;
    assert_eq!(node.kernel.foreign(), [foreign]);
    drop(held);
    node.kernel.wait_for_own(&[]).await;
    node.stop().await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_kernel_has_exactly_the_held_routes_after_any_sequence_of_events(
        events in collection::vec(any_event(), 0..24),
    ) {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(check(events));
    }
}
