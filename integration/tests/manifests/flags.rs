//! Flags, variables and their values in the manifests are what the programs take.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
    sync::Mutex,
};

use crate::rendered::{Container, Rendered, everything, list, text};

/// What `--help` of each program says.
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

/// Every flag and every variable that `--help` shows.
fn known(help: &str) -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    for line in help.lines() {
        let flags = line
            .split([' ', ',', '='])
            .filter(|word| word.starts_with("--"));
        known.extend(flags.map(str::to_owned));
        // Long lines are wrapped, but never within a name.
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
fn every_flag_and_variable_exists_in_the_program() {
    for rendered in everything() {
        for pod in rendered.pods() {
            for container in pod.containers() {
                let known = known(&help(container.program));
                assert!(known.len() > 3, "{}: {known:?}", container.program);
                for argument in list(&container.value["args"]) {
                    let flag = text(argument).split('=').next().unwrap();
                    assert!(known.contains(flag), "{}: no flag {flag}", container.name);
                }
                let own = list(&container.value["env"])
                    .iter()
                    .map(|one| text(&one["name"]));
                let from_maps = rendered.variables_from(container.value);
                let variables = own.chain(from_maps.into_iter().map(|(name, _)| name));
                for name in variables.filter(|name| name.starts_with("PORTLB_")) {
                    assert!(
                        known.contains(name),
                        "{}: no variable {name}",
                        container.name
                    );
                }
            }
        }
    }
}

/// The addresses of a pod and of its node, as the downward API gives them.
struct Addresses {
    /// `status.podIP`
    pod: &'static str,
    /// `status.podIPs`
    pods: &'static str,
    /// `status.hostIP`
    host: &'static str,
    /// `status.hostIPs`
    hosts: &'static str,
}

/// Of the address plan of overlays/flat-l2.
const PLANS: [Addresses; 3] = [
    Addresses {
        pod: "10.244.1.7",
        pods: "10.244.1.7",
        host: "10.200.0.11",
        hosts: "10.200.0.11",
    },
    Addresses {
        pod: "10.244.1.7",
        pods: "10.244.1.7,fd00:244:1::7",
        host: "10.200.0.11",
        hosts: "10.200.0.11,fd00:200::11",
    },
    Addresses {
        pod: "fd00:244:1::7",
        pods: "fd00:244:1::7,10.244.1.7",
        host: "fd00:200::11",
        hosts: "fd00:200::11,10.200.0.11",
    },
];

fn downward(field: &str, addresses: &Addresses) -> &'static str {
    match field {
        "metadata.name" => "load-balancer-0",
        "metadata.namespace" => "web",
        "metadata.uid" => "b7a1a7f0-9d35-4a4e-a1a5-7a2c4f5d0001",
        "status.podIP" => addresses.pod,
        "status.podIPs" => addresses.pods,
        "status.hostIP" => addresses.host,
        "status.hostIPs" => addresses.hosts,
        other => panic!("what is {other}?"),
    }
}

/// The command as the kubelet would start it, with the files of its ConfigMaps in `folder`.
fn command(
    rendered: &Rendered,
    container: &Container<'_>,
    folder: &std::path::Path,
    addresses: &Addresses,
) -> Command {
    let mut command = lab::daemons::command(container.program).unwrap();
    command
        .env_clear()
        .envs(rendered.variables_from(container.value));
    let mut expansions = Vec::new();
    for variable in list(&container.value["env"]) {
        let name = text(&variable["name"]);
        let field = text(&variable["valueFrom"]["fieldRef"]["fieldPath"]);
        let value = downward(field, addresses);
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
fn every_daemon_accepts_its_configuration_whatever_family_the_cluster_has_first() {
    const WITH_CHECK: &[&str] = &[
        "pod-watcher",
        "ipvs-programmer",
        "bgp-announcer",
        "node-router",
        "route-reflector",
    ];
    let mut checked = BTreeSet::new();
    for rendered in everything() {
        // A base alone has not been told the values of any network.
        if rendered.name.starts_with("components/") && !rendered.name.ends_with("file-source") {
            continue;
        }
        for pod in rendered.pods() {
            for container in pod.containers() {
                let is_told =
                    !rendered.name.starts_with("components/") || container.program == "pod-watcher";
                if !WITH_CHECK.contains(&container.program) || container.is_init || !is_told {
                    continue;
                }
                let folder = tempfile::tempdir().unwrap();
                // In a cluster the kubelet gives it a token instead.
                let kubeconfig = folder.path().join("kubeconfig");
                fs::write(&kubeconfig, KUBECONFIG).unwrap();
                for addresses in &PLANS {
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
    assert_eq!(checked.len(), WITH_CHECK.len(), "{checked:?}");
}

/// A time as flags take it, in seconds.
fn seconds(time: &str) -> u64 {
    time.strip_suffix('s').unwrap().parse().unwrap()
}

fn default_of(program: &str, flag: &str) -> u64 {
    let help = help(program);
    let from = help.split(&format!("--{flag} ")).nth(1).unwrap();
    let value = from.split("[default: ").nth(1).unwrap();
    seconds(value.split(']').next().unwrap())
}

/// What the end of a daemon may take beyond its linger, in seconds.
const MARGIN: u64 = 10;

#[test]
fn a_pod_has_time_to_drain_and_each_daemon_outlives_the_one_that_it_serves() {
    let drain =
        default_of("bgp-announcer", "withdraw-delay") + default_of("bgp-announcer", "linger");
    // node-router gets its SIGTERM at once, load balancers theirs after they have slept.
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
            assert_eq!(*announcer, None, "the defaults are reckoned with here");
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
                panic!("the containers do not get SIGTERM at one time");
            };
            assert!(
                drain < programmer && programmer < watcher && sleep + watcher + MARGIN <= grace,
                "{drain} < {programmer} < {watcher}, {sleep} + {watcher} < {grace}"
            );
            longest_sleep = longest_sleep.max(sleep);
        }
    }
    assert!(longest_sleep > 0 && !routers.is_empty());
    for (router, grace) in routers {
        assert!(
            longest_sleep + drain < router && router + MARGIN <= grace,
            "{longest_sleep} + {drain} < {router} < {grace}"
        );
    }
}

/// In seconds, as the manifest says.
fn linger(container: &Container<'_>) -> Option<u64> {
    let arguments = list(&container.value["args"]).iter().map(text);
    let mut lingers = arguments.filter_map(|one| one.strip_prefix("--linger="));
    lingers.next().map(seconds)
}
