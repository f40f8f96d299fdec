//! Tests of the deadlines of all daemons: a shorter deadline must fit into the longer deadlines
//! around it.
//!
//! The tests read the table of `docs/reference/deadlines.md` and compare each row with the code and
//! with `manifests/`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, fs, time::Duration};

use clap::CommandFactory;
use daemon_runtime::parse_duration;

const DOCUMENT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../docs/reference/deadlines.md"
);
const MANIFESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/base/");

/// Returns the default value of a flag of the program whose command line is `A`.
fn default_of<A: CommandFactory>(flag: &str) -> Duration {
    let command = A::command();
    let mut flags = command.get_arguments();
    let flag = flags
        .find(|argument| argument.get_long() == Some(flag))
        .unwrap();
    let default = flag.get_default_values()[0].to_str().unwrap().to_owned();
    parse_duration(&default).unwrap()
}

/// Returns `terminationGracePeriodSeconds` of the pods of a manifest.
fn termination_grace_period(manifest: &str) -> Duration {
    let text = fs::read_to_string(format!("{MANIFESTS}{manifest}")).unwrap();
    let (_, rest) = text.split_once("terminationGracePeriodSeconds: ").unwrap();
    let seconds = rest.lines().next().unwrap().trim().parse().unwrap();
    Duration::from_secs(seconds)
}

/// Returns the value that a manifest sets for the flag `flag`.
fn flag_in_manifest(manifest: &str, flag: &str) -> Duration {
    let text = fs::read_to_string(format!("{MANIFESTS}{manifest}")).unwrap();
    let (_, rest) = text.split_once(&format!("- --{flag}=")).unwrap();
    parse_duration(rest.lines().next().unwrap().trim()).unwrap()
}

/// Returns each deadline of the code and of the manifests, by its name in
/// `docs/reference/deadlines.md`.
fn deadlines() -> BTreeMap<&'static str, Duration> {
    let announcer = default_of::<bgp_announcer::args::Args>;
    let router = default_of::<node_router::Args>;
    [
        ("answer to IPVS", ipvs_programmer::NETLINK_TIMEOUT),
        ("answer to nftables", nftables_table::NETLINK_TIMEOUT),
        ("answer to a route", node_router::NETLINK_TIMEOUT),
        ("answer with all routes", node_router::ROUTES_TIMEOUT),
        ("proof of a hold", node_router::PROOF_TIMEOUT),
        ("connection to a daemon", daemon_runtime::CONNECT_TIMEOUT),
        ("`--node-route-timeout`", announcer("node-route-timeout")),
        ("`--data-plane-timeout`", announcer("data-plane-timeout")),
        ("`--hold-time`", announcer("hold-time")),
        ("`--withdraw-delay`", announcer("withdraw-delay")),
        ("`--linger` of bgp-announcer", announcer("linger")),
        ("`--adopt-timeout`", router("adopt-timeout")),
        (
            "grace period of a load balancer",
            termination_grace_period("load-balancer/deployment.yaml"),
        ),
        (
            "grace period of node-router",
            termination_grace_period("node-router/daemonset.yaml"),
        ),
    ]
    .into()
}

/// A row of the document's table: the name of a deadline, its value, and longer deadlines.
///
/// Each longer deadline has a factor: the value times this factor must not exceed the longer
/// deadline.
type DocumentedDeadline = (String, Duration, Vec<(u32, String)>);

fn documented() -> Vec<DocumentedDeadline> {
    let text = fs::read_to_string(DOCUMENT).unwrap();
    let (_, section) = text.split_once("## Deadlines").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| "));
    rows.skip(1)
        .map(|row| {
            let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
            let value = parse_duration(&cells[1].replace(' ', "")).unwrap();
            let longer = cells[2].split(", ").filter(|part| *part != "-");
            let longer = longer.map(|part| {
                let (times, name) = part.split_once(" × ").unwrap_or(("1", part));
                (times.parse().unwrap(), name.to_owned())
            });
            (cells[0].to_owned(), value, longer.collect())
        })
        .collect()
}

#[test]
fn each_deadline_is_documented_with_its_value_and_fits_into_the_longer_deadlines() {
    let deadlines = deadlines();
    let documented = documented();
    let names: Vec<&str> = documented.iter().map(|(name, ..)| name.as_str()).collect();
    for name in deadlines.keys() {
        assert!(names.contains(name), "{name} is not in {DOCUMENT}");
    }
    assert_eq!(names.len(), deadlines.len(), "{names:?}");
    for (name, value, longer) in &documented {
        assert_eq!(deadlines[name.as_str()], *value, "{name}");
        for (times, other) in longer {
            let other_value = deadlines[other.as_str()];
            assert!(
                *value * *times <= other_value,
                "{name} ({value:?}) times {times} is longer than {other} ({other_value:?})"
            );
        }
    }
}

#[test]
fn the_drains_of_announcer_and_node_router_fit_into_the_grace_periods_of_their_pods() {
    let deadlines = deadlines();
    let announcer = deadlines["`--withdraw-delay`"] + deadlines["`--linger` of bgp-announcer"];
    assert!(announcer * 2 <= deadlines["grace period of a load balancer"]);
    let router = flag_in_manifest("node-router/daemonset.yaml", "linger");
    assert!(router < deadlines["grace period of node-router"]);
}
