use proptest::{collection, option, prelude::*};

use super::*;

fn prefix(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn hops(hops: &[(&str, u32)]) -> NextHops {
    hops.iter()
        .map(|(gateway, interface)| NextHop {
            gateway: gateway.parse().unwrap(),
            interface: *interface,
        })
        .collect()
}

fn own(text: &str, next_hops: &[(&str, u32)]) -> OwnRoute {
    OwnRoute {
        prefix: prefix(text),
        metric: METRIC,
        next_hops: Some(hops(next_hops)),
    }
}

fn foreign(text: &str, metric: u32) -> ForeignRoute {
    ForeignRoute {
        prefix: prefix(text),
        metric,
        is_local: false,
        protocol: "static".to_owned(),
    }
}

#[track_caller]
fn check(desired: &[(&str, &[(&str, u32)])], actual: &Actual, expected: &[&str]) {
    let desired = desired
        .iter()
        .map(|(text, next_hops)| (prefix(text), hops(next_hops)))
        .collect();
    let changes: Vec<String> = plan(&desired, actual)
        .changes
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(changes, expected);
}

#[test]
fn a_missing_route_is_added_and_a_correct_route_stays() {
    check(
        &[
            ("10.1.1.0/24", &[("10.2.0.5", 3)]),
            ("10.1.2.0/24", &[("10.2.0.5", 3)]),
        ],
        &Actual {
            own: vec![own("10.1.1.0/24", &[("10.2.0.5", 3)])],
            foreign: vec![],
        },
        &["add the route to 10.1.2.0/24 via 10.2.0.5"],
    );
}

#[test]
fn a_second_pod_becomes_a_next_hop_of_the_existing_route() {
    check(
        &[("10.1.1.0/24", &[("10.2.0.5", 3), ("10.2.0.6", 3)])],
        &Actual {
            own: vec![own("10.1.1.0/24", &[("10.2.0.5", 3)])],
            foreign: vec![],
        },
        &["replace the route to 10.1.1.0/24 via 10.2.0.5, 10.2.0.6"],
    );
}

#[test]
fn the_route_is_replaced_when_a_pod_moves_to_another_interface() {
    check(
        &[("fd00:1::/64", &[("fd00:2::5", 9)])],
        &Actual {
            own: vec![own("fd00:1::/64", &[("fd00:2::5", 3)])],
            foreign: vec![],
        },
        &["replace the route to fd00:1::/64 via fd00:2::5"],
    );
}

#[test]
fn a_route_without_a_holder_is_removed() {
    check(
        &[],
        &Actual {
            own: vec![own("10.1.1.0/24", &[("10.2.0.5", 3)])],
            foreign: vec![foreign("10.1.1.0/24", 0)],
        },
        &["remove the route to 10.1.1.0/24"],
    );
}

#[test]
fn an_own_route_with_another_metric_is_replaced_by_a_route_with_the_current_metric() {
    let mut strange = own("10.1.1.0/24", &[("10.2.0.5", 3)]);
    strange.metric = 7;
    check(
        &[("10.1.1.0/24", &[("10.2.0.5", 3)])],
        &Actual {
            own: vec![strange],
            foreign: vec![],
        },
        &[
            "remove the route to 10.1.1.0/24",
            "add the route to 10.1.1.0/24 via 10.2.0.5",
        ],
    );
}

#[test]
fn a_foreign_route_that_wins_is_a_conflict_and_stays_unchanged() {
    for metric in [0, METRIC] {
        let actual = Actual {
            own: vec![],
            foreign: vec![foreign("10.1.1.0/24", metric)],
        };
        let desired = Desired::from([(prefix("10.1.1.0/24"), hops(&[("10.2.0.5", 3)]))]);
        let plan = plan(&desired, &actual);
        assert_eq!(plan.changes, []);
        assert!(plan.conflicts.contains_key(&prefix("10.1.1.0/24")));
    }
}

#[test]
fn a_foreign_route_in_the_local_table_wins_with_any_metric() {
    let mut local = foreign("10.1.1.0/24", 4_000);
    local.is_local = true;
    assert!(local.wins());
}

#[test]
fn an_own_route_is_added_next_to_a_foreign_route_with_a_higher_metric() {
    check(
        &[("10.1.1.0/24", &[("10.2.0.5", 3)])],
        &Actual {
            own: vec![],
            foreign: vec![foreign("10.1.1.0/24", METRIC + 1)],
        },
        &["add the route to 10.1.1.0/24 via 10.2.0.5"],
    );
}

/// Applies a change in the same way as the kernel. Panics if the kernel would refuse the change.
fn apply(change: &RouteChange, actual: &mut Actual) {
    fn ours(prefix: &IpNet) -> impl Fn(&OwnRoute) -> bool {
        move |route| route.prefix == *prefix && route.metric == METRIC
    }
    match change {
        RouteChange::Add { prefix, next_hops } => {
            assert!(!actual.own.iter().any(|route| ours(prefix)(route)));
            assert!(
                !actual
                    .foreign
                    .iter()
                    .any(|route| route.prefix == *prefix && route.metric == METRIC)
            );
            actual.own.push(OwnRoute {
                prefix: *prefix,
                metric: METRIC,
                next_hops: Some(next_hops.clone()),
            });
        }
        RouteChange::Replace { prefix, next_hops } => {
            let route = actual.own.iter_mut().find(|route| ours(prefix)(route));
            route.unwrap().next_hops = Some(next_hops.clone());
        }
        RouteChange::Remove { prefix, metric } => {
            let at = actual
                .own
                .iter()
                .position(|route| route.prefix == *prefix && route.metric == *metric);
            actual.own.remove(at.unwrap());
        }
    }
}

fn any_prefix() -> impl Strategy<Value = IpNet> {
    (0..6_u8).prop_map(|n| prefix(&format!("10.1.{n}.0/24")))
}

fn any_hops() -> impl Strategy<Value = NextHops> {
    collection::btree_set((0..4_u8, 1..3_u32), 1..4).prop_map(|set| {
        set.into_iter()
            .map(|(n, interface)| NextHop {
                gateway: [10, 2, 0, n].into(),
                interface,
            })
            .collect()
    })
}

fn any_metric() -> impl Strategy<Value = u32> {
    prop_oneof![3 => Just(METRIC), 1 => Just(0), 1 => Just(METRIC + 1)]
}

fn any_actual() -> impl Strategy<Value = Actual> {
    let own = (any_prefix(), any_metric(), option::of(any_hops())).prop_map(
        |(prefix, metric, next_hops)| OwnRoute {
            prefix,
            metric,
            next_hops,
        },
    );
    let foreign =
        (any_prefix(), any_metric(), any::<bool>()).prop_map(|(prefix, metric, is_local)| {
            ForeignRoute {
                prefix,
                metric,
                is_local,
                protocol: "static".to_owned(),
            }
        });
    (collection::vec(own, 0..8), collection::vec(foreign, 0..3))
        .prop_map(|(own, foreign)| Actual { own, foreign })
}

proptest! {
    #[test]
    fn a_plan_leads_from_any_state_to_the_desired_routes_and_changes_no_foreign_route(
        desired in collection::btree_map(any_prefix(), any_hops(), 0..6),
        before in any_actual(),
    ) {
        let mut actual = before.clone();
        let made = plan(&desired, &actual);
        for change in &made.changes {
            apply(change, &mut actual);
        }
        prop_assert_eq!(&actual.foreign, &before.foreign);
        for (prefix, next_hops) in &desired {
            let conflict = made.conflicts.contains_key(prefix);
            prop_assert_eq!(is_installed(*prefix, next_hops, &actual), !conflict);
        }
        for route in &actual.own {
            prop_assert!(desired.contains_key(&route.prefix));
        }
        prop_assert_eq!(plan(&desired, &actual).changes, []);
    }
}
