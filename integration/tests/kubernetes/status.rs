//! What the elected pod writes: status, conditions, Events, addresses of pools.

use std::path::Path;
use std::time::Duration;

use lab::Signal;

use crate::announcer::StandInAnnouncer;
use crate::cluster::{ALL_RULES, Cluster, Namespace};
use crate::watcher::{SOON, Watcher};

const INGRESS: &str = "{.status.loadBalancer.ingress}";
const ANNOUNCED: &str = "{.status.conditions[?(@.type=='portlb.io/Announced')].reason}";

/// The Lease runs out after 15 s.
const FAILOVER: Duration = Duration::from_secs(60);

fn start(
    namespace: &Namespace<'_>,
    name: &str,
    kubeconfig: &Path,
    announcer: &StandInAnnouncer,
    more: &[&str],
) -> Watcher {
    let announcer = format!("--announcer=http://{}", announcer.address);
    let pod = format!("--pod-name={name}");
    let flags = [&[&*announcer, &*pod], more].concat();
    Watcher::start_as(namespace, name, kubeconfig, &flags)
}

impl Namespace<'_> {
    fn wait_for_value(&self, object: &str, path: &str, expected: &str, within: Duration) {
        lab::wait_for(path, within, || {
            let value = self.jsonpath(object, path);
            if value == expected {
                Ok(())
            } else {
                Err(value)
            }
        })
        .unwrap();
    }

    /// `reason: note` of each Event, each once.
    fn events(&self) -> Vec<String> {
        let path = "{range .items[*]}{.reason}: {.note}{\"\\n\"}{end}";
        let events = self.jsonpath("events.events.k8s.io", path);
        events.lines().map(str::to_owned).collect()
    }
}

#[test]
fn an_announced_address_gets_into_the_status_and_out_of_it() {
    let namespace = Cluster::shared().namespace("announced");
    namespace.service("web", "portlb.io/address: 10.1.1.10");
    namespace.endpoints("web", &["10.0.0.1"]);
    let kubeconfig = namespace.kubeconfig(namespace.cluster.control.address());
    let announcer = StandInAnnouncer::start(&[]);
    let watcher = start(&namespace, "lb-1", &kubeconfig, &announcer, &[]);
    namespace.wait_for_value("service/web", ANNOUNCED, "NotAnnounced", SOON);
    assert_eq!(namespace.jsonpath("service/web", INGRESS), "");

    announcer.announce(&["10.1.1.0/24"]);
    namespace.wait_for_value("service/web", ANNOUNCED, "Announced", SOON);
    let ingress = r#"[{"ip":"10.1.1.10","ipMode":"Proxy","ports":[{"port":80,"protocol":"TCP"}]}]"#;
    assert_eq!(namespace.jsonpath("service/web", INGRESS), ingress);

    announcer.announce(&[]);
    namespace.wait_for_value("service/web", ANNOUNCED, "NotAnnounced", SOON);
    assert_eq!(namespace.jsonpath("service/web", INGRESS), "");
    lab::wait_for("Events", SOON, || {
        let mut events = namespace.events();
        events.sort();
        let expected = [
            "Announced: 10.1.1.10 by 1 load balancer",
            "Withdrawn: 10.1.1.10 by no load balancer",
        ];
        lab::ensure_that(events == expected, format!("{events:?}"))
    })
    .unwrap();
    // A Service that is ours no longer has nothing of ours.
    announcer.announce(&["10.1.1.0/24"]);
    namespace.wait_for_value("service/web", ANNOUNCED, "Announced", SOON);
    namespace.kubectl(&[
        "patch",
        "service",
        "web",
        "--type=json",
        "-p",
        r#"[{"op": "replace", "path": "/spec/type", "value": "ClusterIP"},
            {"op": "remove", "path": "/spec/loadBalancerClass"},
            {"op": "remove", "path": "/spec/allocateLoadBalancerNodePorts"}]"#,
    ]);
    namespace.wait_for_value("service/web", "{.status.conditions}", "", SOON);
    drop(watcher);
}

#[test]
fn two_pods_agree_on_who_writes_and_the_other_takes_over() {
    let namespace = Cluster::shared().namespace("election");
    namespace.service("web", "portlb.io/address: 10.1.1.10");
    namespace.endpoints("web", &["10.0.0.1"]);
    let kubeconfig = namespace.kubeconfig(namespace.cluster.control.address());
    let announcer = StandInAnnouncer::start(&["10.1.1.10/32"]);
    let first = start(&namespace, "lb-1", &kubeconfig, &announcer, &[]);
    let holder = "{.spec.holderIdentity}";
    lab::wait_for("the first leads", SOON, || {
        let held = first.metric("portlb_lease_held");
        lab::ensure_that(held > 0.5, held)
    })
    .unwrap();
    let second = start(&namespace, "lb-2", &kubeconfig, &announcer, &[]);
    let message = "{.status.conditions[?(@.type=='portlb.io/Announced')].message}";
    namespace.wait_for_value(
        "service/web",
        message,
        "10.1.1.10 by 2 load balancers",
        SOON,
    );
    assert!(second.metric("portlb_lease_held") < 0.5);
    assert_eq!(namespace.jsonpath("lease/portlb", holder), "lb-1");

    // Killed: its report and its Lease run out.
    first.process.kill().unwrap();
    namespace.wait_for_value(
        "service/web",
        message,
        "10.1.1.10 by 1 load balancer",
        FAILOVER,
    );
    assert_eq!(namespace.jsonpath("lease/portlb", holder), "lb-2");
    assert!(second.metric("portlb_lease_held") > 0.5);
    let events = namespace.events();
    assert_eq!(
        events,
        ["Announced: 10.1.1.10 by 1 load balancer"],
        "not repeated"
    );

    // Terminated: it gives both up.
    let third = start(&namespace, "lb-3", &kubeconfig, &announcer, &[]);
    namespace.wait_for_value(
        "service/web",
        message,
        "10.1.1.10 by 2 load balancers",
        SOON,
    );
    let began = std::time::Instant::now();
    second.process.signal(Signal::SIGTERM).unwrap();
    assert!(second.process.wait(SOON).unwrap().success());
    namespace.wait_for_value("lease/portlb", holder, "lb-3", SOON);
    assert!(
        began.elapsed() < Duration::from_secs(12),
        "{:?}",
        began.elapsed()
    );
    namespace.wait_for_value("service/web", message, "10.1.1.10 by 1 load balancer", SOON);
    let reports = namespace.kubectl(&["get", "leases", "-o", "name"]);
    assert!(!reports.contains("portlb-lb-2"), "{reports}");
    drop(third);
}

#[test]
fn an_address_of_a_pool_is_kept_in_the_status_over_restarts() {
    let namespace = Cluster::shared().namespace("pool");
    let pool = ["--address-pool=web=10.1.1.8/29"];
    namespace.service("second", "");
    namespace.endpoints("second", &["10.0.0.2"]);
    let kubeconfig = namespace.kubeconfig(namespace.cluster.control.address());
    let announcer = StandInAnnouncer::start(&[]);
    let watcher = start(&namespace, "lb-1", &kubeconfig, &announcer, &pool);
    let path = "{.status.conditions[?(@.type=='portlb.io/Address')].message}";
    lab::wait_for("an address", SOON, || {
        let address = namespace.jsonpath("service/second", path);
        lab::ensure_that(address.starts_with("10.1.1."), address)
    })
    .unwrap();
    let address = namespace.jsonpath("service/second", path);
    let told = watcher.watch();
    let served = format!("tcp/{address}:80 -> 10.0.0.2");
    told.wait_for(&[&served], SOON);
    drop(watcher);

    // An older one may not take it.
    namespace.service("first", "");
    namespace.endpoints("first", &["10.0.0.1"]);
    let watcher = start(&namespace, "lb-2", &kubeconfig, &announcer, &pool);
    let told = watcher.watch();
    lab::wait_for("both", FAILOVER, || {
        let state = told.state().unwrap_or_default();
        let holds = state.len() == 2 && state.contains(&served);
        lab::ensure_that(holds, format!("{state:?}"))
    })
    .unwrap();
    assert_eq!(namespace.jsonpath("service/second", path), address);
}

#[test]
fn a_finding_is_one_event_and_counts_when_it_comes_back() {
    let namespace = Cluster::shared().namespace("findings");
    let bad = "portlb.io/address: 10.1.1.10, portlb.io/scheduler: fastest";
    namespace.service("web", bad);
    namespace.endpoints("web", &["10.0.0.1"]);
    let kubeconfig = namespace.kubeconfig(namespace.cluster.control.address());
    let announcer = StandInAnnouncer::start(&[]);
    let watcher = start(&namespace, "lb-1", &kubeconfig, &announcer, &[]);
    lab::wait_for("the Event", SOON, || {
        let events = namespace.events();
        let holds = events.len() == 1
            && ["BadAnnotation", "portlb.io/scheduler", "fastest"]
                .iter()
                .all(|word| events[0].contains(word));
        lab::ensure_that(holds, format!("{events:?}"))
    })
    .unwrap();
    // Another one of the same, told by the next pod: no second Event.
    drop(watcher);
    let watcher = start(&namespace, "lb-2", &kubeconfig, &announcer, &[]);
    lab::wait_for("the next one leads", FAILOVER, || {
        let held = watcher.metric("portlb_lease_held");
        lab::ensure_that(held > 0.5, held)
    })
    .unwrap();
    namespace.service("web", "portlb.io/address: 10.1.1.10");
    namespace.wait_for_value("service/web", ANNOUNCED, "NotAnnounced", SOON);
    namespace.service("web", bad);
    let count = "{.items[0].series.count}";
    namespace.wait_for_value("events.events.k8s.io", count, "2", SOON);
    assert_eq!(namespace.events().len(), 1);
}

#[test]
fn a_forbidden_write_is_told_once_and_disturbs_nothing() {
    let namespace = Cluster::shared().namespace("unwritten");
    let rules: Vec<&str> = ALL_RULES
        .lines()
        .filter(|line| !line.contains("services/status"))
        .collect();
    namespace.grant(&rules.join("\n"));
    namespace.service("web", "portlb.io/address: 10.1.1.10");
    namespace.endpoints("web", &["10.0.0.1"]);
    let kubeconfig = namespace.kubeconfig(namespace.cluster.control.address());
    let announcer = StandInAnnouncer::start(&["10.1.1.10/32"]);
    let watcher = start(&namespace, "lb-1", &kubeconfig, &announcer, &[]);
    let told = watcher.watch();
    let failures =
        "portlb_kubernetes_write_failures_total{object=\"service-status\",reason=\"403\"}";
    lab::wait_for("attempts", FAILOVER, || {
        let failed = watcher.metric(failures);
        lab::ensure_that(failed >= 3.0, failed)
    })
    .unwrap();
    namespace.endpoints("web", &["10.0.0.2"]);
    told.wait_for(&["tcp/10.1.1.10:80 -> 10.0.0.2"], SOON);
    let lines = watcher.process.lines();
    let said = lines
        .iter()
        .filter(|line| line.contains("forbids to patch services/status"));
    assert_eq!(said.count(), 1, "{lines:#?}");
    namespace.grant(ALL_RULES);
    namespace.wait_for_value("service/web", ANNOUNCED, "Announced", FAILOVER);
}
