//! Whatever happens in whatever order, the kernel ends up with what is held.

use std::collections::BTreeMap;

use proptest::{collection, prelude::*};

use crate::support::{KernelState, Node, foreign_route, next_hops, own_route, prefix};

#[derive(Clone, Debug)]
enum Happening {
    Hold(u8, u8),
    /// Of the oldest, the next, and so on.
    Release(usize),
    /// Somebody deletes the route.
    Lose(u8),
    /// Somebody changes its next hops.
    Bend(u8, u8),
    /// The kernel refuses changes for a while.
    Refuse,
    Relent,
}

fn service(n: u8) -> String {
    format!("10.1.{n}.0/24")
}

fn pod(n: u8) -> String {
    format!("10.244.3.{n}")
}

fn any_happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (0..3_u8, 1..4_u8).prop_map(|(s, p)| Happening::Hold(s, p)),
        3 => (0..4_usize).prop_map(Happening::Release),
        1 => (0..3_u8).prop_map(Happening::Lose),
        1 => (0..3_u8, 4..6_u8).prop_map(|(s, p)| Happening::Bend(s, p)),
        1 => Just(Happening::Refuse),
        1 => Just(Happening::Relent),
    ]
}

async fn check(happenings: Vec<Happening>) {
    let mut state = KernelState::default();
    let foreign = foreign_route("10.1.0.0/24", 700);
    state.routes.foreign.push(foreign.clone());
    let node = Node::start_from(state, |_| {}).await;
    let mut held = Vec::new();
    for happening in happenings {
        match happening {
            Happening::Hold(s, p) => {
                // Refused while the kernel refuses.
                if let Ok(stream) = node.hold(&service(s), &pod(p)).await {
                    held.push((s, p, stream));
                }
            }
            Happening::Release(index) => {
                if index < held.len() {
                    held.remove(index);
                }
            }
            Happening::Lose(s) => node.kernel.change(|state| {
                state
                    .routes
                    .own
                    .retain(|route| route.prefix != prefix(&service(s)));
            }),
            Happening::Bend(s, p) => node.kernel.change(|state| {
                for route in &mut state.routes.own {
                    if route.prefix == prefix(&service(s)) {
                        route.next_hops = Some(next_hops(&[&pod(p)]));
                    }
                }
            }),
            Happening::Refuse => node.kernel.change(|state| state.refuses_changes = Some(12)),
            Happening::Relent => node.kernel.change(|state| state.refuses_changes = None),
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
    fn the_kernel_ends_up_with_what_is_held(
        happenings in collection::vec(any_happening(), 0..24),
    ) {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(check(happenings));
    }
}
