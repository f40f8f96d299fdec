//! Tests that run the program as a process.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

fn pod_watcher(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pod-watcher"))
        .args(arguments)
        .env_clear()
        .output()
        .unwrap()
}

/// Runs `--check-config` on a file. Returns the exit code and the text of standard error.
fn check_config(file: &Path) -> (Option<i32>, String) {
    let output = pod_watcher(&["--check-config", "--file", file.to_str().unwrap()]);
    let message = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), message)
}

#[test]
fn every_file_of_docs_examples_is_valid() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/examples");
    let mut checked = 0;
    for entry in fs::read_dir(examples).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap() == "route-reflector.yaml" {
            continue;
        }
        let (code, message) = check_config(&path);
        assert_eq!(code, Some(0), "{message}");
        checked += 1;
    }
    assert!(checked >= 14, "only {checked} examples");
}

#[test]
fn an_invalid_file_ends_the_program_with_exit_code_2_and_an_error_with_the_line() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bad.yaml");
    fs::write(
        &file,
        "apiVersion: portlb.io/v1\nkind: VirtualServers\nvirtualServer: []\n",
    )
    .unwrap();
    let (code, message) = check_config(&file);
    assert_eq!(code, Some(2));
    let expected = format!(
        "pod-watcher: {}:3:1: unknown field `virtualServer`; did you mean `virtualServers`? \
         allowed here: apiVersion, kind, serviceRanges, virtualServers\n",
        file.display()
    );
    assert_eq!(message, expected);
}

#[test]
fn a_virtual_server_that_can_never_serve_is_accepted_with_a_warning_with_the_line() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("doubtful.yaml");
    fs::write(
        &file,
        "apiVersion: portlb.io/v1\nkind: VirtualServers\nvirtualServers:\n- name: web\n  \
         addresses: [10.1.1.10]\n  ports: [80]\n  realServers: [{address: 10.0.2.3}]\n  \
         minimumHealthy: 2\n",
    )
    .unwrap();
    let (code, message) = check_config(&file);
    assert_eq!(code, Some(0), "{message}");
    let warning = format!(
        "{}:8:19: tcp/10.1.1.10:80: minimumHealthy: 2",
        file.display()
    );
    assert!(message.contains("WARN"), "{message}");
    assert!(message.contains(&warning), "{message}");
}

#[test]
fn a_missing_file_ends_the_program_with_exit_code_2_before_a_socket_is_opened() {
    // The address cannot be bound: an attempt to bind it would give exit code 1.
    let output = pod_watcher(&[
        "--file",
        "/nonexistent/file.yaml",
        "--grpc-listen",
        "192.0.2.1:1",
    ]);
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        message,
        "pod-watcher: cannot read /nonexistent/file.yaml: No such file or directory (os error \
         2); --file must name a readable file, see docs/reference/file-format.md\n"
    );
}

#[track_caller]
fn check_unusable(arguments: &[&str], words: &[&str]) {
    let output = pod_watcher(arguments);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{message}");
    for word in words {
        assert!(message.contains(word), "{word:?} is not in: {message}");
    }
}

#[test]
fn without_a_cluster_the_error_suggests_the_flags_kubeconfig_and_file() {
    check_unusable(&[], &["--kubeconfig", "--file", "ServiceAccount"]);
    check_unusable(
        &["--kubeconfig", "/nonexistent/kubeconfig"],
        &["--kubeconfig /nonexistent/kubeconfig", "No such file"],
    );
}

/// Runs `validate` with an upper limit of memory in MiB.
fn validate_within(mebibytes: usize, arguments: &[&str]) -> Output {
    let limited = format!(
        "ulimit -v {} && exec \"$0\" validate \"$@\"",
        mebibytes << 10
    );
    Command::new("sh")
        .args(["-c", &limited, env!("CARGO_BIN_EXE_pod-watcher")])
        .args(arguments)
        .env_remove("PORTLB_ADDRESS_POOL")
        .output()
        .unwrap()
}

#[test]
fn validate_checks_a_list_of_1000_services_within_256_mib() {
    let mut items = Vec::new();
    for number in 0..1_000 {
        items.push(format!(
            "- {{apiVersion: v1, kind: Service, metadata: {{name: web-{number}, namespace: shop}}, \
             spec: {{type: LoadBalancer, loadBalancerClass: portlb.io/portlb, selector: {{app: \
             web-{number}}}, ports: [{{name: http, port: 80}}]}}}}\n\
             - {{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: \
             web-{number}-a, namespace: shop, labels: {{kubernetes.io/service-name: \
             web-{number}}}}}, addressType: IPv4, ports: [{{name: http, port: 80}}], endpoints: \
             [{{addresses: [10.2.{}.{}]}}]}}\n",
            number / 250,
            number % 250 + 1
        ));
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("list.yaml");
    let text = format!("apiVersion: v1\nkind: List\nitems:\n{}", items.concat());
    fs::write(&file, text).unwrap();
    let output = validate_within(256, &[file.to_str().unwrap()]);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{message}");
    assert!(
        message.ends_with("all 1000 Services can be served\n"),
        "{message}"
    );
}

#[test]
fn validate_writes_json_and_fails_on_remarks_with_strict() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(
        directory.path().join("web.yaml"),
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  type: LoadBalancer\n  \
         loadBalancerClass: portlb.io/portlb\n  externalTrafficPolicy: Local\n  \
         ports: [{port: 80}]\n",
    )
    .unwrap();
    let folder = directory.path().to_str().unwrap();
    let lenient = pod_watcher(&["validate", "-o", "json", folder]);
    assert_eq!(lenient.status.code(), Some(0));
    let report: serde_json::Value = serde_json::from_slice(&lenient.stdout).unwrap();
    assert_eq!(report["valid"], true);
    assert_eq!(report["messages"][0]["reason"], "TrafficPolicyIgnored");
    assert_eq!(report["messages"][0]["line"], 7);
    let strict = pod_watcher(&["validate", "--strict", "-o", "json", folder]);
    assert_eq!(strict.status.code(), Some(2));
    let report: serde_json::Value = serde_json::from_slice(&strict.stdout).unwrap();
    assert_eq!(report["valid"], false);
}

#[test]
fn flags_that_contradict_each_other_or_have_invalid_values_are_refused() {
    check_unusable(&["--source", "file"], &["--source file needs --file PATH"]);
    check_unusable(
        &["--source", "kubernetes", "--file", "/x"],
        &["--file is not read with --source kubernetes"],
    );
    check_unusable(
        &["--all-namespaces", "--namespaces", "web"],
        &["--all-namespaces", "cannot be used with", "--namespaces"],
    );
    check_unusable(
        &["--pod-selector", "app=web"],
        &["--pod-addresses", "--pod-ports"],
    );
    check_unusable(
        &["--watch-timeout", "1s"],
        &["--watch-timeout", "from 5s to 10m"],
    );
    check_unusable(&["--address-pool", "web"], &["--address-pool"]);
    check_unusable(
        &["--announcer", "localhost:50053"],
        &["--announcer", "http://"],
    );
}

#[test]
fn check_config_with_a_kubeconfig_does_not_connect_to_the_cluster() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("kubeconfig");
    // No server answers at the address: 192.0.2.0/24 is for documentation (RFC 5737).
    fs::write(
        &file,
        "{apiVersion: v1, kind: Config, current-context: x,
          clusters: [{name: x, cluster: {server: 'https://192.0.2.1:6443'}}],
          contexts: [{name: x, context: {cluster: x, user: x, namespace: web}}],
          users: [{name: x, user: {token: t}}]}",
    )
    .unwrap();
    let file = file.to_str().unwrap();
    let output = pod_watcher(&["--check-config", "--kubeconfig", file]);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{message}");
    check_unusable(
        &[
            "--check-config",
            "--kubeconfig",
            file,
            "--lease-name",
            "Not/a name",
        ],
        &["--lease-name", "lowercase letters"],
    );
}

#[test]
fn the_example_file_in_the_help_is_valid() {
    let help = String::from_utf8(pod_watcher(&["--help"]).stdout).unwrap();
    let example: Vec<&str> = help
        .lines()
        .skip_while(|line| !line.contains("apiVersion: portlb.io"))
        .take_while(|line| line.is_empty() || line.starts_with("  "))
        .collect();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("help.yaml");
    fs::write(&file, example.join("\n")).unwrap();
    let (code, message) = check_config(&file);
    assert_eq!(code, Some(0), "{message}");
}

#[test]
fn docs_file_format_lists_every_field_of_a_file() {
    let reference =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/file-format.md");
    let reference = fs::read_to_string(reference).unwrap();
    let head = "apiVersion: portlb.io/v1\nkind: VirtualServers\nvirtualServers:\n";
    let entry = "- name: web\n  addresses: [10.1.1.10]\n  ports: [80]\n";
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("unknown.yaml");
    let mut fields = 0;
    for document in [
        "unknown: 1\n".to_owned(),
        format!("{head}- unknown: 1\n"),
        format!("{head}{entry}  realServers: [{{unknown: 1}}]\n"),
        format!("{head}{entry}  realServers: []\n  healthCheck: {{unknown: 1}}\n"),
        format!("{head}{entry}  realServers: []\n  persistence: {{unknown: 1}}\n"),
    ] {
        fs::write(&file, document).unwrap();
        let (_, message) = check_config(&file);
        let (_, known) = message.trim().split_once("allowed here: ").unwrap();
        for field in known.split(", ") {
            assert!(reference.contains(&format!("`{field}`")), "{field}");
            fields += 1;
        }
    }
    assert!(fields > 25, "only {fields} fields");
}
