//! Tests of the crate dependencies, against the layers of `docs/explanation/architecture.md`.
//!
//! A test fails if a `Cargo.toml` has a dependency that the layers do not allow, or if the code of
//! a crate uses a name that its layer must not use.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{collections::BTreeMap, fs, path::Path};

use cargo_metadata::{CargoOpt, DependencyKind, Metadata, MetadataCommand};

/// Each crate except `lab` and `integration`, with the crates of the workspace that it may import.
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

/// Crates that only compute: they do no I/O and read no clock.
const PURE: &[&str] = &[
    "config-text",
    "virtual-server",
    "service-catalog",
    "bgp-packet",
    "bgp-session",
    "bgp-rib",
    "netlink-packet-ipvs",
];
/// The only crates, of the workspace and of other projects, that a crate of `PURE` may depend on.
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

/// Words that show I/O, a clock, a log or randomness. The code of a crate of `PURE` must not
/// contain them.
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

/// Names of kernel parts. The crate `data-plane` must not contain these names; crates that
/// implement `Forwarder` may.
const KERNEL_PARTS: &[&str] = &["ipvs", "netlink", "nftables", "sysctl", "bpf"];

/// Crates that only a few crates of the workspace may import, each with the crates that may import
/// it.
const RESTRICTED: &[(&str, &[&str])] = &[
    ("zettabgp", &["bgp-packet"]),
    (
        "kube",
        &["kubernetes-client", "service-status", "lab", "integration"],
    ),
    ("netlink-packet-ipvs", &["ipvs-programmer"]),
    ("netlink-bindings", &["nftables-table"]),
];

fn metadata() -> Metadata {
    // Without `--filter-platform` cargo also reads the crates that only other platforms need, and
    // fails, because those crates are not downloaded.
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

/// Returns the direct dependencies of each crate of the workspace, without dev and build
/// dependencies.
fn dependencies() -> BTreeMap<String, Vec<String>> {
    metadata()
        .workspace_packages()
        .iter()
        .map(|package| {
            let imports = package
                .dependencies
                .iter()
                .filter(|dependency| dependency.kind == DependencyKind::Normal)
                .map(|dependency| dependency.name.clone())
                .collect();
            (package.name.to_string(), imports)
        })
        .collect()
}

fn sources(krate: &str) -> Vec<(String, String)> {
    fn collect(folder: &Path, files: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push((
                    path.display().to_string(),
                    fs::read_to_string(&path).unwrap(),
                ));
            }
        }
    }
    let mut files = Vec::new();
    collect(
        &Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../crates")
            .join(krate)
            .join("src"),
        &mut files,
    );
    assert!(!files.is_empty(), "no source file of {krate} was found");
    files
}

/// Returns the part of a source file before `#[cfg(test)]`, without comment lines.
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
    let workspace: Vec<&String> = dependencies.keys().collect();
    for (krate, imports) in &dependencies {
        if krate == "integration" || krate == "lab" {
            continue;
        }
        let (_, allowed) = MAY_IMPORT
            .iter()
            .find(|(name, _)| name == krate)
            .unwrap_or_else(|| panic!("no layer has the crate {krate}: add {krate} to MAY_IMPORT"));
        for import in imports.iter().filter(|import| workspace.contains(import)) {
            assert!(
                allowed.contains(&import.as_str()),
                "{krate} must not import {import}"
            );
        }
    }
}

#[test]
fn every_crate_of_the_layers_exists_in_the_workspace() {
    let dependencies = dependencies();
    for (krate, _) in MAY_IMPORT {
        assert!(
            dependencies.contains_key(*krate),
            "{krate} is in MAY_IMPORT but not in the workspace"
        );
    }
}

#[test]
fn pure_crates_depend_on_no_crate_that_does_io() {
    let dependencies = dependencies();
    for krate in PURE {
        for import in &dependencies[*krate] {
            assert!(
                PURE_MAY_USE.contains(&import.as_str()),
                "{krate} is a pure crate and must not use {import}"
            );
        }
    }
}

#[test]
fn pure_crates_use_no_clock_no_file_and_no_socket() {
    for krate in PURE {
        for (path, text) in sources(krate) {
            if is_test_file(&path) {
                continue;
            }
            let code = production_code(&text);
            for word in IMPURE_WORDS {
                assert!(
                    !code.contains(word),
                    "{path} belongs to a pure crate and must not use {word}"
                );
            }
        }
    }
}

#[test]
fn restricted_crates_are_imported_only_by_their_allowed_users() {
    for (krate, imports) in dependencies() {
        for (restricted, allowed) in RESTRICTED {
            if imports.iter().any(|import| import == restricted) {
                assert!(
                    allowed.contains(&krate.as_str()),
                    "{krate} must not import {restricted}; only {allowed:?} may import it"
                );
            }
        }
    }
}

#[test]
fn ipvs_programmer_uses_netlink_packet_ipvs_only_in_translate_and_kernel() {
    for (path, text) in sources("ipvs-programmer") {
        if is_test_file(&path) || path.contains("kernel") || path.contains("translate") {
            continue;
        }
        assert!(
            !production_code(&text).contains("netlink_packet_ipvs"),
            "{path} must not use netlink_packet_ipvs; only translate.rs and kernel.rs may use it"
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
                "{path} must not contain {word}; only an implementation of Forwarder may contain it"
            );
        }
    }
}

/// Reports whether `code` has a path that begins with the crate `name`. For `kube`, `kube::Client`
/// is such a path, and `crate::kube::Client` is not.
fn names_crate(code: &str, name: &str) -> bool {
    let path = format!("{name}::");
    let mut matches = code.match_indices(&path);
    matches
        .any(|(at, _)| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':'))
}

#[test]
fn service_status_and_pod_watcher_use_kube_and_k8s_openapi_only_in_src_kubernetes() {
    for krate in ["service-status", "pod-watcher"] {
        for (path, text) in sources(krate) {
            if is_test_file(&path) || path.contains("/src/kubernetes") {
                continue;
            }
            for word in ["kube", "k8s_openapi"] {
                assert!(
                    !names_crate(&production_code(&text), word),
                    "{path} must not use {word}; only src/kubernetes may use it"
                );
            }
        }
    }
}

/// Modules of service-status that decide what to write, without a clock and without randomness.
const DECISIONS_ABOUT_STATUS: &[&str] = &[
    "election.rs",
    "events.rs",
    "leadership.rs",
    "lease_duration.rs",
    "reports.rs",
    "stable_hash.rs",
    "status.rs",
];

#[test]
fn decision_modules_of_service_status_use_no_clock_and_no_randomness() {
    let sources = sources("service-status");
    for module in DECISIONS_ABOUT_STATUS {
        let (_, text) = sources
            .iter()
            .find(|(path, _)| path.ends_with(&format!("/src/{module}")))
            .unwrap_or_else(|| panic!("service-status has no {module}"));
        let code = production_code(text);
        let clocks = ["Timestamp::now", "tokio::", "next_delay(", "DefaultHasher"];
        for word in IMPURE_WORDS.iter().chain(&clocks) {
            assert!(!code.contains(word), "{module} must not use {word}");
        }
    }
}
