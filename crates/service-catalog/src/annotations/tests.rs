use std::collections::BTreeSet;

use expect_test::expect_file;

use super::*;

fn annotations(pairs: &[(&str, &str)]) -> Annotations {
    pairs
        .iter()
        .map(|(name, value)| ((*name).into(), (*value).into()))
        .collect()
}

#[track_caller]
fn check(name: &str, value: &str, expected: &str) {
    let errors = read(OF_SERVICES, &annotations(&[(name, value)])).unwrap_err();
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(texts, [expected]);
}

#[test]
fn the_reference_is_made_from_the_table() {
    expect_file!["../../../../docs/reference/annotations.md"].assert_eq(&reference());
}

#[test]
fn names_are_known_once() {
    let of_services = OF_SERVICES.iter().map(|annotation| annotation.name);
    let all = of_services.chain(OF_REAL_SERVERS.iter().map(|annotation| annotation.name));
    let names: BTreeSet<&str> = all.clone().collect();
    assert_eq!(names.len(), all.count());
}

#[test]
fn a_name_that_is_not_known_is_refused_with_the_nearest_one() {
    check(
        "schedular",
        "mh",
        "annotation portlb.io/schedular: is not known here; did you mean portlb.io/scheduler?",
    );
    check(
        "colour",
        "red",
        "annotation portlb.io/colour: is not known here; docs/reference/annotations.md lists the known \
         ones; remove it",
    );
    check(
        "weight",
        "3",
        "annotation portlb.io/weight: is not known here; it belongs on a Pod or an EndpointSlice",
    );
}

#[test]
fn a_value_is_refused_with_what_is_allowed() {
    check(
        "scheduler",
        "maglev",
        "annotation portlb.io/scheduler: \"maglev\" is not a scheduler; allowed are rr, wrr, lc, \
         wlc, sh, mh, sed and nq",
    );
    check(
        "address",
        "10.1.1.10, 10.1.1.11",
        "annotation portlb.io/address: \"10.1.1.10, 10.1.1.11\" names two addresses of one \
         family; write at most one IPv4 and one IPv6 address",
    );
    check(
        "health-check-interval",
        "2",
        "annotation portlb.io/health-check-interval: \"2\" is not a time; expected a whole number \
         with its unit: 500ms, 10s, 2m, 1h or 7d",
    );
    check(
        "minimum-healthy",
        "+1",
        "annotation portlb.io/minimum-healthy: \"+1\" is not such a number; write 1 or more",
    );
    check(
        "ports",
        "80, 9-7",
        "annotation portlb.io/ports: \"9-7\" does not end above its first port; allowed are a \
         port such as 80, a range such as 8000-8999, and all, each with /TCP, /UDP or /SCTP \
         behind it where it is not TCP",
    );
}

#[test]
fn all_errors_are_told() {
    let errors = read(
        OF_SERVICES,
        &annotations(&[("scheduler", "x"), ("tunnel-kind", "y"), ("zzz", "z")]),
    );
    assert_eq!(errors.unwrap_err().len(), 3);
}

#[test]
fn space_around_a_value_means_nothing() {
    let annotations = read(OF_REAL_SERVERS, &annotations(&[("weight", " 7\n")])).unwrap();
    assert_eq!(annotations.weight, Some(Weight(7)));
}
