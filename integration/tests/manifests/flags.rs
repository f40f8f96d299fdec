//! Tests of the flags, variables and linger times in the manifests with the real programs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
    sync::Mutex,
};

use crate::rendered::{Container, RenderedManifests, everything, list, text};

/// Returns the output of `--help` of a program. Only the first call for a program runs it.
fn help(program: &str) -> String {
    static ANSWERS: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());
    let mut answers = ANSWERS.lock().unwrap();
    let answer = answers.entry(program.to_owned()).or_insert_with(|| {
        let output = lab::daemons::command(program)
            .unwrap()
            .arg("--help")
            .output()
            .unwrap();
        assert!(output.status.success(), "{program} --help");
        String::from_utf8(output.stdout).unwrap()
    });
    answer.clone()
}

/// Returns every flag and every variable in the output of `--help`.
fn flags_and_variables(help: &str) -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    for line in help.lines() {
        let flags = line
            .split([' ', ',', '='])
            .filter(|word| word.starts_with("--"));
        known.extend(flags.map(str::to_owned));
        // `--help` wraps long lines, but never within a name.
        let variables = line.split("[env: ").skip(1);
        known.extend(
            variables
                .filter_map(|rest| rest.split(['=', ']']).next())
                .map(str::to_owned),
        );
    }
    known
}

#[test]
fn every_flag_and_variable_of_the_manifests_exists_in_its_program() {
    for rendered in everything() {
        for pod in rendered.pods() {
            for container in pod.containers() {
                let known = flags_and_variables(&help(container.program));
                assert!(known.len() > 3, "{}: {known:?}", container.program);
                for argument in list(&container.value["args"]) {
                    let flag = text(argument).split('=').next().unwrap();
                    assert!(
                        known.contains(flag),
                        "{}: the program has no flag {flag}",
                        container.name
                    );
                }
                let own = list(&container.value["env"])
                    .iter()
                    .map(|variable| text(&variable["name"]));
                let from_maps = rendered.variables_from(container.value);
                let variables = own.chain(from_maps.into_iter().map(|(name, _)| name));
                for name in variables.filter(|name| name.starts_with("PORTLB_")) {
                    assert!(
                        known.contains(name),
                        "{}: the program has no variable {name}",
                        container.name
                    );
                }
            }
        }
    }
}

/// Values of the downward API: the addresses of a pod and of its node.
struct DownwardAddresses {
    pod_ip: &'static str,
    pod_ips: &'static str,
    host_ip: &'static str,
    host_ips: &'static str,
}

/// Addresses of a pod and its node in an IPv4 cluster, in an IPv4-first and in an IPv6-first
/// dual-stack cluster.
///
/// The addresses belong to the address plan of `overlays/flat-l2`.
const CLUSTERS: [DownwardAddresses; 3] = [
    DownwardAddresses {
        pod_ip: "10.244.1.7",
        pod_ips: "10.244.1.7",
        host_ip: "10.200.0.11",
        host_ips: "10.200.0.11",
    },
    DownwardAddresses {
        pod_ip: "10.244.1.7",
        pod_ips: "10.244.1.7,fd00:244:1::7",
        host_ip: "10.200.0.11",
        host_ips: "10.200.0.11,fd00:200::11",
    },
    DownwardAddresses {
        pod_ip: "fd00:244:1::7",
        pod_ips: "fd00:244:1::7,10.244.1.7",
        host_ip: "fd00:200::11",
        host_ips: "fd00:200::11,10.200.0.11",
    },
];

fn downward_value(field: &str, addresses: &DownwardAddresses) -> &'static str {
    match field {
        "metadata.name" => "load-balancer-0",
        "metadata.namespace" => "web",
        "metadata.uid" => "b7a1a7f0-9d35-4a4e-a1a5-7a2c4f5d0001",
        "status.podIP" => addresses.pod_ip,
        "status.podIPs" => addresses.pod_ips,
        "status.hostIP" => addresses.host_ip,
        "status.hostIPs" => addresses.host_ips,
        other => panic!("add a value for the downward API field {other} to the test"),
    }
}

/// Returns the command that the kubelet would start for a container. Writes the YAML files of all
/// ConfigMaps into `folder`, which takes the place of `/etc/portlb` in the command.
fn command(
    rendered: &RenderedManifests,
    container: &Container<'_>,
    folder: &std::path::Path,
    addresses: &DownwardAddresses,
) -> Command {
    let mut command = lab::daemons::command(container.program).unwrap();
    command
        .env_clear()
        .envs(rendered.variables_from(container.value));
    let mut expansions = Vec::new();
    for variable in list(&container.value["env"]) {
        let name = text(&variable["name"]);
        let field = text(&variable["valueFrom"]["fieldRef"]["fieldPath"]);
        let value = downward_value(field, addresses);
        command.env(name, value);
        expansions.push((format!("$({name})"), value));
    }
    for argument in list(&container.value["args"]) {
        let mut argument = text(argument).to_owned();
        for (name, value) in &expansions {
            argument = argument.replace(name, value);
        }
        command.arg(argument.replace("/etc/portlb", folder.to_str().unwrap()));
    }
    for map in rendered.of_kind("ConfigMap") {
        for (name, content) in map["data"].as_object().unwrap() {
            if name.ends_with(".yaml") {
                fs::write(folder.join(name), text(content)).unwrap();
            }
        }
    }
    command
}

const KUBECONFIG: &str = "\
apiVersion: v1
kind: Config
clusters: [{name: lab, cluster: {server: 'https://127.0.0.1:1'}}]
users: [{name: lab, user: {token: none}}]
contexts: [{name: lab, context: {cluster: lab, user: lab, namespace: web}}]
current-context: lab
";

#[test]
fn every_daemon_accepts_its_configuration_in_ipv4_and_dual_stack_clusters() {
    const DAEMONS: &[&str] = &[
        "pod-watcher",
        "ipvs-programmer",
        "bgp-announcer",
        "node-router",
        "route-reflector",
    ];
    let mut checked = BTreeSet::new();
    for rendered in everything() {
        // An overlay sets values such as addresses, so a component on its base is not complete. The
        // only exception is pod-watcher with the component file-source.
        if rendered.name.starts_with("components/") && !rendered.name.ends_with("file-source") {
            continue;
        }
        for pod in rendered.pods() {
            for container in pod.containers() {
                let is_complete =
                    !rendered.name.starts_with("components/") || container.program == "pod-watcher";
                if !DAEMONS.contains(&container.program) || container.is_init || !is_complete {
                    continue;
                }
                let folder = tempfile::tempdir().unwrap();
                // In this test a kubeconfig replaces the ServiceAccount token that the daemon uses
                // in a cluster.
                let kubeconfig = folder.path().join("kubeconfig");
                fs::write(&kubeconfig, KUBECONFIG).unwrap();
                for addresses in &CLUSTERS {
                    let output = command(rendered, &container, folder.path(), addresses)
                        .env("PORTLB_KUBECONFIG", &kubeconfig)
                        .arg("--check-config")
                        .output()
                        .unwrap();
                    assert!(output.status.success(), "{}: {output:?}", container.name);
                }
                checked.insert(container.program.to_owned());
            }
        }
    }
    assert_eq!(checked.len(), DAEMONS.len(), "{checked:?}");
}

/// Parses a duration in whole seconds, such as `15s`.
fn seconds(time: &str) -> u64 {
    time.strip_suffix('s').unwrap().parse().unwrap()
}

fn default_of(program: &str, flag: &str) -> u64 {
    let help = help(program);
    let from = help.split(&format!("--{flag} ")).nth(1).unwrap();
    let value = from.split("[default: ").nth(1).unwrap();
    seconds(value.split(']').next().unwrap())
}

/// Longest time that a daemon needs to end after its linger, in seconds.
const MARGIN: u64 = 10;

#[test]
fn each_daemon_lingers_longer_than_the_daemon_that_it_serves_and_ends_in_the_grace_period() {
    let drain =
        default_of("bgp-announcer", "withdraw-delay") + default_of("bgp-announcer", "linger");
    // node-router gets SIGTERM at the start of its termination, and a load balancer gets SIGTERM
    // after its preStop sleep. Both terminations can start at the same time, so the linger of
    // node-router must be longer than the longest sleep and the drain together.
    let mut longest_sleep = 0;
    let mut routers = Vec::new();
    for rendered in everything() {
        for pod in rendered.pods() {
            let grace = pod.spec["terminationGracePeriodSeconds"].as_u64().unwrap();
            let lingers: BTreeMap<_, _> = pod
                .containers()
                .into_iter()
                .filter(|container| !container.is_init)
                .map(|container| (container.program, linger(&container)))
                .collect();
            if let Some(router) = lingers.get("node-router") {
                routers.push((router.unwrap(), grace));
            }
            let Some(announcer) = lingers.get("bgp-announcer") else {
                continue;
            };
            assert_eq!(
                *announcer, None,
                "the test expects that the manifests set no linger for bgp-announcer"
            );
            let programmer = lingers["ipvs-programmer"].unwrap();
            let watcher = lingers["pod-watcher"].unwrap();
            let sleeps: BTreeSet<_> = pod
                .containers()
                .iter()
                .filter(|container| !container.is_init)
                .map(|container| {
                    container.value["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64()
                })
                .collect();
            let [Some(sleep)] = *Vec::from_iter(sleeps) else {
                panic!("the containers of a pod must have the same preStop sleep");
            };
            assert!(
                drain < programmer && programmer < watcher && sleep + watcher + MARGIN <= grace,
                "seconds must satisfy: drain {drain} < linger of ipvs-programmer {programmer} < linger \
                 of pod-watcher {watcher}; preStop {sleep} + {watcher} + {MARGIN} <= grace period {grace}"
            );
            longest_sleep = longest_sleep.max(sleep);
        }
    }
    assert!(longest_sleep > 0 && !routers.is_empty());
    for (router, grace) in routers {
        assert!(
            longest_sleep + drain < router && router + MARGIN <= grace,
            "seconds must satisfy: preStop {longest_sleep} + drain {drain} < linger of node-router \
             {router}; {router} + {MARGIN} <= grace period {grace}"
        );
    }
}

/// Returns the value of `--linger` of a container in seconds.
fn linger(container: &Container<'_>) -> Option<u64> {
    let arguments = list(&container.value["args"]).iter().map(text);
    let mut lingers = arguments.filter_map(|argument| argument.strip_prefix("--linger="));
    lingers.next().map(seconds)
}
