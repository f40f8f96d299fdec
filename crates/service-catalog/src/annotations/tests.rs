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
    let errors = read(SERVICE_ANNOTATIONS, &annotations(&[(name, value)])).unwrap_err();
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(texts, [expected]);
}

#[test]
fn docs_reference_annotations_md_matches_the_tables_of_annotations() {
    expect_file!["../../../../docs/reference/annotations.md"].assert_eq(&reference());
}

#[test]
fn annotation_names_are_unique() {
    let of_services = SERVICE_ANNOTATIONS.iter().map(|annotation| annotation.name);
    let all = of_services.chain(
        REAL_SERVER_ANNOTATIONS
            .iter()
            .map(|annotation| annotation.name),
    );
    let names: BTreeSet<&str> = all.clone().collect();
    assert_eq!(names.len(), all.count());
}

#[test]
fn an_unknown_annotation_is_rejected_with_a_correction() {
    check(
        "schedular",
        "mh",
        "annotation portlb.io/schedular: is unknown on this object; did you mean \
         portlb.io/scheduler?",
    );
    check(
        "colour",
        "red",
        "annotation portlb.io/colour: is unknown on this object; remove it, or see \
         docs/reference/annotations.md for the known annotations",
    );
    check(
        "weight",
        "3",
        "annotation portlb.io/weight: is unknown on this object; it belongs on a Pod or an \
         EndpointSlice",
    );
}

#[test]
fn an_invalid_value_of_an_annotation_is_rejected_with_the_allowed_values() {
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
        "annotation portlb.io/minimum-healthy: \"+1\" is not an allowed number; write 1 or more",
    );
    check(
        "ports",
        "80, 9-7",
        "annotation portlb.io/ports: \"9-7\" has a last port that is not greater than its first \
         port; allowed are a port such as 80, a range such as 8000-8999, and all, each optionally \
         followed by /TCP (the default), /UDP or /SCTP",
    );
}

#[test]
fn all_invalid_annotations_of_a_service_are_reported() {
    let errors = read(
        SERVICE_ANNOTATIONS,
        &annotations(&[("scheduler", "x"), ("tunnel-kind", "y"), ("zzz", "z")]),
    );
    assert_eq!(errors.unwrap_err().len(), 3);
}

#[test]
fn whitespace_around_the_value_of_an_annotation_is_ignored() {
    let annotations = read(REAL_SERVER_ANNOTATIONS, &annotations(&[("weight", " 7\n")])).unwrap();
    assert_eq!(annotations.weight, Some(Weight(7)));
}
