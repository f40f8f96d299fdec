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

/// Returns a kernel that has routing rules and a default route of each IP version.
fn kernel() -> ActualGuard {
    ActualGuard {
        versions: BTreeSet::from([IpVersion::V4, IpVersion::V6]),
        default_uplinks: BTreeSet::from([
            (IpVersion::V4, "eth0".to_owned()),
            (IpVersion::V6, "eth1".to_owned()),
        ]),
        ..ActualGuard::default()
    }
}

/// Applies a change in the same way as the kernel. Panics if the kernel would refuse the change.
fn apply(change: &GuardChange, guard: &mut ActualGuard) {
    match change {
        GuardChange::Route(plan::RouteChange::Add { prefix, next_hops }) => {
            guard.own.push(OwnRoute {
                prefix: *prefix,
                metric: METRIC,
                next_hops: Some(next_hops.clone()),
            })
        }
        GuardChange::Route(plan::RouteChange::Replace { prefix, next_hops }) => {
            let route = guard.own.iter_mut().find(|route| route.prefix == *prefix);
            route.unwrap().next_hops = Some(next_hops.clone());
        }
        GuardChange::Route(plan::RouteChange::Remove { prefix, .. }) => {
            guard.own.retain(|route| route.prefix != *prefix);
        }
        GuardChange::AddFallback(prefix, fallback) => {
            assert_eq!(guard.fallbacks.insert(*prefix, *fallback), None);
        }
        GuardChange::RemoveFallback(prefix, fallback) => {
            assert_eq!(guard.fallbacks.remove(prefix), Some(*fallback));
        }
        GuardChange::AddRule(rule) => assert!(guard.rules.insert(rule.clone())),
        GuardChange::RemoveRule(rule) => assert!(guard.rules.remove(rule)),
    }
}

/// Checks the changes to the desired guard and applies them. Then checks that no further change is
/// necessary.
#[track_caller]
fn check(
    uplinks: &Uplinks,
    allowed: &[&str],
    held: &[(&str, &str)],
    foreign: &[ForeignRoute],
    guard: &mut ActualGuard,
    expected: &[&str],
) {
    let allowed: Vec<IpNet> = allowed.iter().map(|text| prefix(text)).collect();
    let held = held.iter();
    let held = held.map(|(text, gateway)| (prefix(text), next_hops(gateway)));
    let held: Desired = held.collect();
    let changes = DesiredGuard::new(uplinks, &allowed, &held, foreign, guard).changes(guard);
    let texts: Vec<String> = changes.iter().map(ToString::to_string).collect();
    assert_eq!(texts, expected);
    for change in &changes {
        apply(change, guard);
    }
    let desired = DesiredGuard::new(uplinks, &allowed, &held, foreign, guard);
    assert_eq!(desired.changes(guard), []);
}

const ALLOWED: &[&str] = &["10.1.1.0/24", "fd00:1::/64"];

#[test]
fn guard_rules_are_added_after_the_guards_routes_and_removed_before_the_guards_routes() {
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
    // The pod releases the prefix and holds a single address of the prefix.
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
    let desired = Uplinks::OfDefaultRoutes;
    let expected = [
        "add the route to 10.1.1.0/24 via 10.2.0.5 in table 112",
        "add the route blackhole 10.1.1.0/24 in table 112",
        "add the rule iif eth0 to 10.1.1.0/24 lookup 112",
    ];
    check(&desired, allowed, &routes, &[], &mut guard, &expected);
    guard.default_uplinks = BTreeSet::from([(IpVersion::V4, "bond0".to_owned())]);
    let expected = [
        "remove the rule iif eth0 to 10.1.1.0/24 lookup 112",
        "add the rule iif bond0 to 10.1.1.0/24 lookup 112",
    ];
    check(&desired, allowed, &routes, &[], &mut guard, &expected);
}

#[test]
fn an_ip_version_without_an_uplink_or_without_routing_rules_has_no_guard() {
    let mut guard = kernel();
    guard.default_uplinks.clear();
    let allowed: Vec<IpNet> = ALLOWED.iter().map(|text| prefix(text)).collect();
    let desired = |guard: &ActualGuard, uplinks: &Uplinks| {
        DesiredGuard::new(uplinks, &allowed, &Desired::new(), &[], guard)
    };
    let both = [IpVersion::V4, IpVersion::V6];
    let by_default = desired(&guard, &Uplinks::OfDefaultRoutes);
    assert_eq!(by_default.unguarded().collect::<Vec<_>>(), both);
    assert_eq!(by_default.changes(&guard), []);

    guard.versions.remove(&IpVersion::V6);
    let named = Uplinks::Named(BTreeSet::from(["eth7".to_owned(), "eth8".to_owned()]));
    let desired = desired(&guard, &named);
    assert_eq!(desired.unguarded().collect::<Vec<_>>(), [IpVersion::V6]);
    let rules = desired.changes(&guard);
    let rules = rules
        .iter()
        .filter(|change| matches!(change, GuardChange::AddRule(_)));
    assert_eq!(rules.count(), 2);
}

#[test]
fn a_foreign_route_in_an_allowed_prefix_stays_in_force() {
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
    // The foreign route covers the whole allowed prefix.
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
fn an_interface_that_leads_to_pods_is_guarded_only_if_the_flag_uplink_names_it() {
    let mut guard = kernel();
    let allowed: Vec<IpNet> = ALLOWED.iter().map(|text| prefix(text)).collect();
    guard.pod_uplinks.insert("eth0".to_owned());
    let desired = |uplinks: &Uplinks, guard: &ActualGuard| {
        DesiredGuard::new(uplinks, &allowed, &Desired::new(), &[], guard)
    };
    let by_default = desired(&Uplinks::OfDefaultRoutes, &guard);
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
    let named = desired(&Uplinks::Named(eth0), &guard);
    assert_eq!(named.left_out, BTreeMap::new());
    assert_eq!(named.unguarded().count(), 0);
}
