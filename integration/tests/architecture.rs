//! Guards the layers of `docs/explanation/architecture.md`: a wrong edge in a Cargo.toml fails here.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{collections::BTreeMap, fs, path::Path};

use cargo_metadata::{CargoOpt, DependencyKind, Metadata, MetadataCommand};

/// Which of our crates each crate may import.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("config-text", &[]),
    ("virtual-server", &["config-text"]),
    ("service-catalog", &["config-text", "virtual-server"]),
    ("bgp-packet", &[]),
    ("bgp-session", &["bgp-packet"]),
    ("bgp-rib", &["bgp-packet"]),
    ("netlink-packet-ipvs", &[]),
    ("netlink-socket", &[]),
    ("nftables-table", &["netlink-socket"]),
    ("routing-rule", &[]),
    ("daemon-api", &["virtual-server", "bgp-packet"]),
    ("bounded-io", &[]),
    ("daemon-runtime", &["bounded-io", "config-text"]),
    (
        "bgp-speaker",
        &["bgp-packet", "bgp-session", "bgp-rib", "bounded-io"],
    ),
    ("kubernetes-client", &["daemon-runtime"]),
    (
        "service-status",
        &[
            "virtual-server",
            "service-catalog",
            "kubernetes-client",
            "daemon-api",
            "daemon-runtime",
        ],
    ),
    (
        "bgp-status",
        &["bgp-packet", "bgp-session", "bgp-speaker", "daemon-api"],
    ),
    (
        "pod-watcher",
        &[
            "config-text",
            "virtual-server",
            "service-catalog",
            "service-status",
            "kubernetes-client",
            "daemon-api",
            "daemon-runtime",
        ],
    ),
    (
        "data-plane",
        &["virtual-server", "daemon-api", "daemon-runtime"],
    ),
    (
        "data-plane-testbed",
        &[
            "virtual-server",
            "daemon-api",
            "daemon-runtime",
            "data-plane",
        ],
    ),
    (
        "ipvs-programmer",
        &[
            "virtual-server",
            "daemon-runtime",
            "data-plane",
            "netlink-packet-ipvs",
            "netlink-socket",
            "nftables-table",
        ],
    ),
    (
        "bgp-announcer",
        &[
            "bgp-packet",
            "bgp-session",
            "bgp-rib",
            "bgp-speaker",
            "bounded-io",
            "bgp-status",
            "daemon-api",
            "daemon-runtime",
        ],
    ),
    (
        "node-router",
        &[
            "bounded-io",
            "daemon-api",
            "daemon-runtime",
            "nftables-table",
            "routing-rule",
        ],
    ),
    (
        "route-reflector",
        &[
            "bgp-packet",
            "bgp-session",
            "bgp-rib",
            "bgp-speaker",
            "bgp-status",
            "daemon-api",
            "daemon-runtime",
        ],
    ),
    ("tunnel-init", &["virtual-server", "routing-rule"]),
    ("example-web", &["daemon-runtime"]),
    ("test-runner", &[]),
];

/// Crates that decide and never act, with all that they may build on.
const PURE: &[&str] = &[
    "config-text",
    "virtual-server",
    "service-catalog",
    "bgp-packet",
    "bgp-session",
    "bgp-rib",
    "netlink-packet-ipvs",
];
const PURE_MAY_USE: &[&str] = &[
    "bgp-packet",
    "bytes",
    "config-text",
    "ipnet",
    "netlink-packet-core",
    "netlink-packet-generic",
    "rustc-hash",
    "serde",
    "strsim",
    "thiserror",
    "virtual-server",
    "zettabgp",
];

/// Words that only acting code has a use for.
const IMPURE_WORDS: &[&str] = &[
    "Instant::now",
    "SystemTime",
    "std::fs",
    "std::process",
    "std::thread",
    "std::env",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "tracing::",
    "println!",
    "rand::",
];

/// Words of kernel parts, each of which is one backend of data-plane.
const KERNEL_PARTS: &[&str] = &["ipvs", "netlink", "nftables", "sysctl", "bpf"];

/// Third-party crates that only some of ours may name.
const RESERVED: &[(&str, &[&str])] = &[
    ("zettabgp", &["bgp-packet"]),
    (
        "kube",
        &["kubernetes-client", "service-status", "lab", "integration"],
    ),
    ("netlink-packet-ipvs", &["ipvs-programmer"]),
    ("netlink-bindings", &["nftables-table"]),
];

fn metadata() -> Metadata {
    // Crates of other platforms were never downloaded.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    MetadataCommand::new()
        .manifest_path(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml"))
        .features(CargoOpt::AllFeatures)
        .other_options([
            "--locked".to_owned(),
            "--offline".to_owned(),
            format!("--filter-platform={platform}"),
        ])
        .exec()
        .unwrap()
}

/// Each crate of the workspace with what it needs outside of tests.
fn dependencies() -> BTreeMap<String, Vec<String>> {
    metadata()
        .workspace_packages()
        .iter()
        .map(|package| {
            let needs = package
                .dependencies
                .iter()
                .filter(|dependency| dependency.kind == DependencyKind::Normal)
                .map(|dependency| dependency.name.clone())
                .collect();
            (package.name.to_string(), needs)
        })
        .collect()
}

fn sources(krate: &str) -> Vec<(String, String)> {
    fn collect(folder: &Path, found: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push((
                    path.display().to_string(),
                    fs::read_to_string(&path).unwrap(),
                ));
            }
        }
    }
    let mut found = Vec::new();
    collect(
        &Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../crates")
            .join(krate)
            .join("src"),
        &mut found,
    );
    assert!(!found.is_empty(), "{krate} has no sources");
    found
}

/// The part of a file before its tests, without comments.
fn production_code(text: &str) -> String {
    text.split("#[cfg(test)]")
        .next()
        .unwrap_or_default()
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

fn is_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/")
}

#[test]
fn every_crate_imports_only_what_its_layer_allows() {
    let dependencies = dependencies();
    let ours: Vec<&String> = dependencies.keys().collect();
    for (krate, needs) in &dependencies {
        if krate == "integration" || krate == "lab" {
            continue;
        }
        let (_, allowed) = MAY_IMPORT
            .iter()
            .find(|(name, _)| name == krate)
            .unwrap_or_else(|| panic!("{krate} has no place in the layers: add it to MAY_IMPORT"));
        for need in needs.iter().filter(|need| ours.contains(need)) {
            assert!(
                allowed.contains(&need.as_str()),
                "{krate} must not import {need}"
            );
        }
    }
}

#[test]
fn every_crate_of_the_map_exists() {
    let dependencies = dependencies();
    for (krate, _) in MAY_IMPORT {
        assert!(
            dependencies.contains_key(*krate),
            "{krate} is in the map but not in the workspace"
        );
    }
}

#[test]
fn pure_crates_build_on_nothing_that_does_io() {
    let dependencies = dependencies();
    for krate in PURE {
        for need in &dependencies[*krate] {
            assert!(
                PURE_MAY_USE.contains(&need.as_str()),
                "{krate} is pure and must not use {need}"
            );
        }
    }
}

#[test]
fn pure_crates_read_no_clock_no_file_and_no_socket() {
    for krate in PURE {
        for (path, text) in sources(krate) {
            if is_test_file(&path) {
                continue;
            }
            let code = production_code(&text);
            for word in IMPURE_WORDS {
                assert!(
                    !code.contains(word),
                    "{path} is pure and must not name {word}"
                );
            }
        }
    }
}

#[test]
fn reserved_crates_are_named_only_where_they_belong() {
    for (krate, needs) in dependencies() {
        for (reserved, allowed) in RESERVED {
            if needs.iter().any(|need| need == reserved) {
                assert!(
                    allowed.contains(&krate.as_str()),
                    "{krate} must not use {reserved}; only {allowed:?} may"
                );
            }
        }
    }
}

#[test]
fn netlink_packet_ipvs_is_named_in_one_file_of_the_programmer_and_its_kernel() {
    for (path, text) in sources("ipvs-programmer") {
        if is_test_file(&path) || path.contains("kernel") || path.contains("translate") {
            continue;
        }
        assert!(
            !production_code(&text).contains("netlink_packet_ipvs"),
            "{path} must leave the kernel's words to translate.rs and kernel.rs"
        );
    }
}

#[test]
fn data_plane_names_no_kernel_part() {
    for (path, text) in sources("data-plane") {
        let code = production_code(&text);
        for word in KERNEL_PARTS {
            assert!(
                !code.contains(word),
                "{path} must leave {word} to an implementation of Forwarder"
            );
        }
    }
}

/// Whether the line names the crate: `kube::`, but not `crate::kube::`.
fn names_crate(code: &str, name: &str) -> bool {
    let path = format!("{name}::");
    let mut places = code.match_indices(&path);
    places
        .any(|(at, _)| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':'))
}

#[test]
fn the_client_of_kubernetes_is_named_only_in_folders_of_that_name() {
    for krate in ["service-status", "pod-watcher"] {
        for (path, text) in sources(krate) {
            if is_test_file(&path) || path.contains("/src/kubernetes") {
                continue;
            }
            for word in ["kube", "k8s_openapi"] {
                assert!(
                    !names_crate(&production_code(&text), word),
                    "{path} must leave {word} to src/kubernetes"
                );
            }
        }
    }
}

/// Modules of service-status that decide.
const DECISIONS_ABOUT_STATUS: &[&str] = &[
    "election.rs",
    "events.rs",
    "fingerprint.rs",
    "leadership.rs",
    "lease_duration.rs",
    "reports.rs",
    "status.rs",
];

#[test]
fn decisions_about_status_get_time_and_jitter_as_parameters() {
    let sources = sources("service-status");
    for module in DECISIONS_ABOUT_STATUS {
        let (_, text) = sources
            .iter()
            .find(|(path, _)| path.ends_with(&format!("/src/{module}")))
            .unwrap_or_else(|| panic!("service-status has no {module}"));
        let code = production_code(text);
        let clocks = ["Timestamp::now", "tokio::", "next_delay(", "DefaultHasher"];
        for word in IMPURE_WORDS.iter().chain(&clocks) {
            assert!(!code.contains(word), "{module} must not name {word}");
        }
    }
}
