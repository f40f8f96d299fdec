use super::*;
use crate::plan::{METRIC, NextHop, NextHops};

fn prefix(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn next_hops(gateway: &str) -> NextHops {
    NextHops::from([NextHop {
        gateway: gateway.parse().unwrap(),
        interface: 3,
    }])
}

fn foreign(text: &str) -> ForeignRoute {
    ForeignRoute {
        prefix: prefix(text),
        metric: 0,
        is_local: false,
        protocol: "static".to_owned(),
    }
}

/// A kernel with rules, and a default route of each IP version.
fn kernel() -> Guard {
    Guard {
        versions: BTreeSet::from([IpVersion::V4, IpVersion::V6]),
        default_uplinks: BTreeSet::from([
            (IpVersion::V4, "eth0".to_owned()),
            (IpVersion::V6, "eth1".to_owned()),
        ]),
        ..Guard::default()
    }
}

/// What the kernel does with a change; panics where the kernel refuses.
fn apply(change: &Change, guard: &mut Guard) {
    match change {
        Change::Route(plan::Change::Add { prefix, next_hops }) => guard.own.push(OwnRoute {
            prefix: *prefix,
            metric: METRIC,
            next_hops: Some(next_hops.clone()),
        }),
        Change::Route(plan::Change::Replace { prefix, next_hops }) => {
            let route = guard.own.iter_mut().find(|route| route.prefix == *prefix);
            route.unwrap().next_hops = Some(next_hops.clone());
        }
        Change::Route(plan::Change::Remove { prefix, .. }) => {
            guard.own.retain(|route| route.prefix != *prefix);
        }
        Change::AddFallback(prefix, fallback) => {
            assert_eq!(guard.fallbacks.insert(*prefix, *fallback), None);
        }
        Change::RemoveFallback(prefix, fallback) => {
            assert_eq!(guard.fallbacks.remove(prefix), Some(*fallback));
        }
        Change::AddRule(rule) => assert!(guard.rules.insert(rule.clone())),
        Change::RemoveRule(rule) => assert!(guard.rules.remove(rule)),
    }
}

/// Makes the changes; a second plan must have none.
#[track_caller]
fn check(
    uplinks: &Uplinks,
    allowed: &[&str],
    held: &[(&str, &str)],
    foreign: &[ForeignRoute],
    guard: &mut Guard,
    expected: &[&str],
) {
    let allowed: Vec<IpNet> = allowed.iter().map(|text| prefix(text)).collect();
    let held = held.iter();
    let held = held.map(|(text, gateway)| (prefix(text), next_hops(gateway)));
    let held: Desired = held.collect();
    let changes = Wanted::new(uplinks, &allowed, &held, foreign, guard).changes(guard);
    let texts: Vec<String> = changes.iter().map(ToString::to_string).collect();
    assert_eq!(texts, expected);
    for change in &changes {
        apply(change, guard);
    }
    let wanted = Wanted::new(uplinks, &allowed, &held, foreign, guard);
    assert_eq!(wanted.changes(guard), []);
}

const ALLOWED: &[&str] = &["10.1.1.0/24", "fd00:1::/64"];

#[test]
fn rules_come_after_the_routes_that_they_look_up_and_go_before_them() {
    let mut guard = kernel();
    check(
        &Uplinks::OfDefaultRoutes,
        ALLOWED,
        &[("10.1.1.0/24", "10.2.0.5")],
        &[],
        &mut guard,
        &[
            "add the route to 10.1.1.0/24 via 10.2.0.5 in table 112",
            "add the route blackhole 10.1.1.0/24 in table 112",
            "add the route blackhole fd00:1::/64 in table 112",
            "add the rule iif eth0 to 10.1.1.0/24 lookup 112",
            "add the rule iif eth1 to fd00:1::/64 lookup 112",
        ],
    );
    // Another address of the same pod's range comes, and the first one goes.
    check(
        &Uplinks::OfDefaultRoutes,
        ALLOWED,
        &[("10.1.1.7/32", "10.2.0.5")],
        &[],
        &mut guard,
        &[
            "remove the route to 10.1.1.0/24 in table 112",
            "add the route to 10.1.1.7/32 via 10.2.0.5 in table 112",
        ],
    );
    check(
        &Uplinks::None,
        ALLOWED,
        &[("10.1.1.7/32", "10.2.0.5")],
        &[],
        &mut guard,
        &[
            "remove the rule iif eth0 to 10.1.1.0/24 lookup 112",
            "remove the rule iif eth1 to fd00:1::/64 lookup 112",
            "remove the route blackhole 10.1.1.0/24 in table 112",
            "remove the route blackhole fd00:1::/64 in table 112",
            "remove the route to 10.1.1.7/32 in table 112",
        ],
    );
}

#[test]
fn the_guard_follows_the_default_route_to_another_interface() {
    let mut guard = kernel();
    let routes = [("10.1.1.0/24", "10.2.0.5")];
    let allowed = &ALLOWED[..1];
    let wanted = Uplinks::OfDefaultRoutes;
    let expected = [
        "add the route to 10.1.1.0/24 via 10.2.0.5 in table 112",
        "add the route blackhole 10.1.1.0/24 in table 112",
        "add the rule iif eth0 to 10.1.1.0/24 lookup 112",
    ];
    check(&wanted, allowed, &routes, &[], &mut guard, &expected);
    guard.default_uplinks = BTreeSet::from([(IpVersion::V4, "bond0".to_owned())]);
    let expected = [
        "remove the rule iif eth0 to 10.1.1.0/24 lookup 112",
        "add the rule iif bond0 to 10.1.1.0/24 lookup 112",
    ];
    check(&wanted, allowed, &routes, &[], &mut guard, &expected);
}

#[test]
fn an_ip_version_without_an_uplink_or_without_rules_has_no_guard() {
    let mut guard = kernel();
    guard.default_uplinks.clear();
    let allowed: Vec<IpNet> = ALLOWED.iter().map(|text| prefix(text)).collect();
    let wanted = |guard: &Guard, uplinks: &Uplinks| {
        Wanted::new(uplinks, &allowed, &Desired::new(), &[], guard)
    };
    let both = [IpVersion::V4, IpVersion::V6];
    let by_default = wanted(&guard, &Uplinks::OfDefaultRoutes);
    assert_eq!(by_default.unguarded().collect::<Vec<_>>(), both);
    assert_eq!(by_default.changes(&guard), []);

    guard.versions.remove(&IpVersion::V6);
    let named = Uplinks::Named(BTreeSet::from(["eth7".to_owned(), "eth8".to_owned()]));
    let wanted = wanted(&guard, &named);
    assert_eq!(wanted.unguarded().collect::<Vec<_>>(), [IpVersion::V6]);
    let rules = wanted.changes(&guard);
    let rules = rules.iter().filter(|it| matches!(it, Change::AddRule(_)));
    assert_eq!(rules.count(), 2);
}

#[test]
fn a_route_of_another_program_goes_on_to_decide() {
    let mut local = foreign("10.1.1.9/32");
    local.is_local = true;
    check(
        &Uplinks::OfDefaultRoutes,
        &ALLOWED[..1],
        &[],
        &[foreign("10.1.1.128/25"), local],
        &mut kernel(),
        &[
            "add the route blackhole 10.1.1.0/24 in table 112",
            "add the route throw 10.1.1.128/25 in table 112",
            "add the rule iif eth0 to 10.1.1.0/24 lookup 112",
        ],
    );
    // The whole of an allowed prefix.
    check(
        &Uplinks::OfDefaultRoutes,
        &ALLOWED[..1],
        &[],
        &[foreign("10.1.1.0/24")],
        &mut kernel(),
        &[
            "add the route throw 10.1.1.0/24 in table 112",
            "add the rule iif eth0 to 10.1.1.0/24 lookup 112",
        ],
    );
}

#[test]
fn an_interface_that_leads_to_pods_is_left_out_unless_it_is_named() {
    let mut guard = kernel();
    let allowed: Vec<IpNet> = ALLOWED.iter().map(|text| prefix(text)).collect();
    guard.pod_uplinks.insert("eth0".to_owned());
    let wanted = |uplinks: &Uplinks, guard: &Guard| {
        Wanted::new(uplinks, &allowed, &Desired::new(), &[], guard)
    };
    let by_default = wanted(&Uplinks::OfDefaultRoutes, &guard);
    let eth0 = BTreeSet::from(["eth0".to_owned()]);
    assert_eq!(
        by_default.left_out,
        BTreeMap::from([(IpVersion::V4, eth0.clone())])
    );
    assert_eq!(by_default.unguarded().collect::<Vec<_>>(), [IpVersion::V4]);
    check(
        &Uplinks::OfDefaultRoutes,
        ALLOWED,
        &[],
        &[],
        &mut guard,
        &[
            "add the route blackhole fd00:1::/64 in table 112",
            "add the rule iif eth1 to fd00:1::/64 lookup 112",
        ],
    );
    let named = wanted(&Uplinks::Named(eth0), &guard);
    assert_eq!(named.left_out, BTreeMap::new());
    assert_eq!(named.unguarded().count(), 0);
}
