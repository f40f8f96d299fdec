//! Tests that documents agree with code and manifests.
//!
//! The documents must explain every metric, readiness step and Event. Manifests that documents name
//! must exist, and the examples for upstream routers must work.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

fn document(name: &str) -> String {
    fs::read_to_string(lab::repository().join(name)).unwrap()
}

fn sources(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Returns the text of each source file of a crate, without the tests in the file.
fn code_of(krate: &str) -> Vec<String> {
    let mut files = Vec::new();
    sources(
        &lab::repository().join("crates").join(krate).join("src"),
        &mut files,
    );
    let texts = files.iter().map(|file| fs::read_to_string(file).unwrap());
    texts
        .map(|text| text.split("mod tests {").next().unwrap().to_owned())
        .collect()
}

/// Crates that have metrics or readiness steps.
const CRATES_WITH_METRICS: &[&str] = &[
    "data-plane",
    "pod-watcher",
    "kubernetes-client",
    "service-status",
    "ipvs-programmer",
    "bgp-announcer",
    "node-router",
    "route-reflector",
];

/// Returns the names of metrics in source code.
///
/// In the code the name of a metric is a string literal of lowercase letters and underscores. A
/// comma and the help text of the metric, a string literal with a space, follow the name.
fn metrics(code: &str) -> BTreeSet<String> {
    let pieces: Vec<&str> = code.split('"').collect();
    let literals = (1..pieces.len().saturating_sub(2)).step_by(2);
    let names = literals.filter(|at| {
        let (name, between, help) = (pieces[*at], pieces[at + 1], pieces[at + 2]);
        let is_name = |letter: char| letter.is_ascii_lowercase() || letter == '_';
        let is_word = !name.is_empty() && name.chars().all(is_name);
        is_word && between.trim() == "," && help.contains(' ')
    });
    names.map(|at| pieces[at].to_owned()).collect()
}

#[test]
fn every_metric_is_explained_in_the_reference_of_metrics() {
    let guide = document("docs/reference/metrics.md");
    let mut count = 0;
    for daemon in CRATES_WITH_METRICS {
        for code in code_of(daemon) {
            if !code.contains("metrics.register") && !code.contains("encode_descriptor") {
                continue;
            }
            for name in metrics(&code) {
                // route-reflector's collector adds the prefix `reflector_` to short names.
                let is_long = *daemon != "route-reflector" || name.starts_with("reflector_");
                let name = if is_long {
                    name
                } else {
                    format!("reflector_{name}")
                };
                let is_explained = guide.contains(&format!("`portlb_{name}`"))
                    || guide.contains(&format!("`portlb_{name}_total`"));
                assert!(
                    is_explained,
                    "docs/reference/metrics.md does not explain portlb_{name} of {daemon}"
                );
                count += 1;
            }
        }
    }
    assert!(count > 40, "only {count} metrics were found in the code");
}

#[test]
fn every_step_of_readiness_is_explained_in_the_operators_guide() {
    let guide = document("docs/how-to/operations.md");
    let mut count = 0;
    for daemon in CRATES_WITH_METRICS {
        for code in code_of(daemon) {
            for after in code.split(".step(").skip(1) {
                let Some(after) = after.trim_start().strip_prefix('"') else {
                    continue;
                };
                let step = after.split('"').next().unwrap();
                assert!(
                    guide.contains(&format!("`{step}`")),
                    "docs/how-to/operations.md does not explain the step {step:?} of {daemon}"
                );
                count += 1;
            }
        }
    }
    assert!(count >= 15, "only {count} steps were found in the code");
}

#[test]
fn every_event_is_explained_in_the_reference_of_events() {
    let guide = document("docs/reference/events.md");
    let code = document("crates/service-catalog/src/finding.rs");
    let reasons = code.split("=> \"").skip(1);
    let reasons: BTreeSet<&str> = reasons
        .map(|rest| rest.split('"').next().unwrap())
        .collect();
    assert!(reasons.len() > 5, "{reasons:?}");
    for reason in reasons.difference(&BTreeSet::from(["Normal", "Warning"])) {
        assert!(
            guide.contains(&format!("`{reason}`")),
            "docs/reference/events.md does not explain the Event {reason}"
        );
    }
}

#[test]
fn every_manifest_that_a_document_names_exists() {
    let mut count = 0;
    for name in [
        "README.md",
        "docs/how-to/install.md",
        "docs/how-to/hold-tokens.md",
        "docs/how-to/operations.md",
        "docs/how-to/tcp-md5.md",
        "docs/how-to/upgrade.md",
        "docs/how-to/upstream-router.md",
        "docs/explanation/security.md",
    ] {
        let text = document(name);
        let words = text.split([' ', '\n', '`', '(', ')', ',', ';', '"', '\'']);
        for word in words {
            let word = word.trim_end_matches(['.', ':', '/']);
            if !word.starts_with("manifests/") || word.contains(['<', '*']) {
                continue;
            }
            assert!(
                lab::repository().join(word).exists(),
                "{name}: {word} does not exist"
            );
            count += 1;
        }
    }
    assert!(count > 8, "only {count} paths were found in the documents");
}

/// Returns the block of code with a number in a section of a document. The first block of a section
/// has the number 0.
fn block<'a>(document: &'a str, section: &str, number: usize) -> &'a str {
    let section = document.split(&format!("## {section}")).nth(1).unwrap();
    section.split("```").nth(2 * number + 1).unwrap()
}

fn write_to_file(code: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), code).unwrap();
    file
}

/// Writes the first block of code of a section into a temporary file.
fn example(document: &str, section: &str) -> tempfile::NamedTempFile {
    write_to_file(block(document, section, 0))
}

/// Configuration of a BIRD that replaces both reflectors.
///
/// This BIRD announces two paths of a service address that the router must install, and two paths
/// that the router must refuse.
const REFLECTOR: &str = "\
router id 10.244.1.7;
protocol device {}
protocol static by_node_11 {
  ipv4;
  route 10.1.1.10/32 blackhole { bgp_next_hop = 10.200.0.11; };
  route 192.0.2.0/24 blackhole { bgp_next_hop = 10.200.0.11; };
}
protocol static by_node_12 {
  ipv4;
  route 10.1.1.10/32 blackhole { bgp_next_hop = 10.200.0.12; };
  route 10.1.1.66/32 blackhole { bgp_next_hop = 10.244.1.66; };
}
protocol bgp upstream {
  local 10.244.1.7 port 1790 as 64512;
  neighbor 10.200.0.1 as 64512;
  connect delay time 1;
  connect retry time 1;
  ipv4 { add paths tx; import none; export where source = RTS_STATIC; };
}
";

/// Script that runs the BIRD of the router and the BIRD that replaces the reflectors in the current
/// network namespace, and prints the routes of the router.
///
/// Before it prints, the script waits for at most about 20 s until all four paths have arrived at
/// the router and the next hop 10.200.0.12 is installed.
const ROUTER: &str = "\
set -e
ip link set lo up
ip address add 10.244.1.7/32 dev lo
ip link add nodes type veth peer name wire
ip address add 10.200.0.1/24 dev nodes
ip link set wire up
ip link set nodes up
bird -f -c router.conf -s router.ctl -P router.pid &
bird -f -c reflector.conf -s reflector.ctl -P reflector.pid &
for _ in $(seq 200); do
  if birdc -s router.ctl show protocols all | grep -q 'Import updates: *4 ' &&
    ip route show 10.1.1.10 | grep -q 'via 10.200.0.12'; then break; fi
  sleep 0.1
done
ip route show proto bird
";

#[test]
fn bird_with_the_example_for_upstream_routers_installs_only_a_next_hop_for_each_node() {
    let folder = tempfile::tempdir().unwrap();
    let text = document("docs/how-to/upstream-router.md");
    fs::copy(example(&text, "BIRD"), folder.path().join("router.conf")).unwrap();
    fs::write(folder.path().join("reflector.conf"), REFLECTOR).unwrap();
    // `unshare --net` fails without root.
    let output = Command::new("unshare")
        .args(["--net", "--pid", "--fork", "--kill-child"])
        .args(["sh", "-c", ROUTER])
        .current_dir(folder.path())
        .output()
        .unwrap();
    let routes = String::from_utf8(output.stdout.clone()).unwrap();
    let words: Vec<&str> = routes.split_whitespace().collect();
    let after = |word: &str| {
        let pairs = words.windows(2).filter(|pair| pair[0] == word);
        pairs.map(|pair| pair[1]).collect::<Vec<_>>()
    };
    assert_eq!(after("via"), ["10.200.0.11", "10.200.0.12"], "{output:?}");
    let prefixes = routes.lines().filter(|line| !line.starts_with(['\t', ' ']));
    let prefixes: Vec<_> = prefixes.filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(prefixes, ["10.1.1.10"], "{output:?}");
}

/// Checks that bgpd reads a configuration without printing a message.
#[track_caller]
fn check_frr(code: &str) {
    let file = write_to_file(code);
    let mut bgpd = Command::new("/usr/lib/frr/bgpd");
    bgpd.args([
        "--dryrun",
        "--skip_runas",
        "--user",
        "root",
        "--group",
        "root",
        "--config_file",
    ]);
    let output = bgpd.arg(file.path()).output().unwrap();
    assert!(
        output.stdout.is_empty() && output.stderr.is_empty(),
        "{output:?}"
    );
}

#[test]
fn frr_accepts_the_example_for_upstream_routers() {
    check_frr(block(&document("docs/how-to/upstream-router.md"), "FRR", 0));
}

#[test]
fn bird_and_frr_accept_the_examples_for_upstream_routers_with_the_ipv6_additions() {
    let text = document("docs/how-to/upstream-router.md");
    let bird = block(&text, "BIRD", 0).replace("direct { ipv4; }", "direct { ipv4; ipv6; }");
    let (kernel, channel) = block(&text, "IPv6", 0)
        .split_once("# in `protocol bgp reflectors`, next to `ipv4`:")
        .unwrap();
    let (session, _) = bird.trim_end().rsplit_once('}').unwrap();
    // The first line of the example is a comment that says where to insert the lines.
    let (_, kernel) = kernel.trim_start().split_once('\n').unwrap();
    let bird = write_to_file(&format!("{session}{channel}}}\n{kernel}"));
    let output = Command::new("bird")
        .arg("-p")
        .arg("-c")
        .arg(bird.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");

    const END: &str = " exit-address-family\n";
    let (family, lists) = block(&text, "IPv6", 1).split_once(END).unwrap();
    let (before, after) = block(&text, "FRR", 0).split_once(END).unwrap();
    let (_, family) = family.trim_start().split_once('\n').unwrap();
    check_frr(&format!("{before}{END}{family}{END}{after}{lists}"));
}
