//! What the elected pod writes: status, conditions, Events, addresses of pools.

use std::path::Path;
use std::time::Duration;

use lab::Signal;

use crate::announcer::StandInAnnouncer;
use crate::cluster::{ALL_RULES, Cluster, Namespace};
use crate::watcher::{SOON, Watcher};

const INGRESS: &str = "{.status.loadBalancer.ingress}";
const ANNOUNCED: &str = "{.status.conditions[?(@.type=='portlb.io/Announced')].reason}";

const MESSAGE: &str = "{.status.conditions[?(@.type=='portlb.io/Announced')].message}";
const HOLDER: &str = "{.spec.holderIdentity}";
const RENEWED: &str = "{.spec.renewTime}";
const ADDRESS: &str = "10.1.1.10";

/// Much longer than a test waits.
const LINGER: &str = "--linger=10m";

/// A Lease that is free is taken within 3 s, one that has not been given up after 15 s.
const HANDED_OVER: Duration = Duration::from_secs(10);

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
    // The API server does not ask whether there is such a pod.
    let uid = format!("--pod-uid=uid-of-{name}");
    let flags = [&[&*announcer, &*pod, &*uid], more].concat();
    Watcher::start_as(namespace, name, kubeconfig, &flags)
}

/// A pod, the first in its namespace, whose address is in the status of the Service `web`.
fn announced_by(
    namespace: &Namespace<'_>,
    name: &str,
    announcer: &StandInAnnouncer,
    more: &[&str],
) -> Watcher {
    namespace.service("web", &format!("portlb.io/address: {ADDRESS}"));
    namespace.endpoints("web", &["10.0.0.1"]);
    let kubeconfig = namespace.kubeconfig(namespace.cluster.control.address());
    let watcher = start(namespace, name, &kubeconfig, announcer, more);
    namespace.wait_for_value("service/web", ANNOUNCED, "Announced", SOON);
    watcher
}

impl Namespace<'_> {
    /// The last pod has ended and left nothing.
    fn is_announced_by_none(&self) {
        assert_eq!(self.jsonpath("service/web", INGRESS), "");
        assert_eq!(self.jsonpath("service/web", ANNOUNCED), "NotAnnounced");
        assert_eq!(self.jsonpath("lease/portlb", HOLDER), "");
        assert_eq!(self.reports(), "");
    }

    /// The Leases that are reports.
    fn reports(&self) -> String {
        self.kubectl(&[
            "get",
            "leases",
            "-l",
            "portlb.io/lease=portlb",
            "-o",
            "name",
        ])
    }

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

    /// `reason: note` of each Event, each once, in the order of the alphabet.
    fn events(&self) -> Vec<String> {
        let path = "{range .items[*]}{.reason}: {.note}{\"\\n\"}{end}";
        let events = self.jsonpath("events.events.k8s.io", path);
        let mut events: Vec<String> = events.lines().map(str::to_owned).collect();
        events.sort();
        events
    }
}

#[test]
fn an_older_service_does_not_take_an_address_over_that_another_one_holds() {
    let namespace = Cluster::shared().namespace("taken");
    namespace.service("old", "portlb.io/address: 10.1.1.11");
    namespace.endpoints("old", &["10.0.0.9"]);
    // Times of creation have whole seconds.
    let created = "{.metadata.creationTimestamp}";
    let of_old = namespace.jsonpath("service/old", created);
    lab::wait_for("a younger Service", SOON, || {
        namespace.kubectl(&["delete", "service", "web", "--ignore-not-found"]);
        namespace.service("web", &format!("portlb.io/address: {ADDRESS}"));
        let of_web = namespace.jsonpath("service/web", created);
        lab::ensure_that(of_web > of_old, of_web)
    })
    .unwrap();
    namespace.endpoints("web", &["10.0.0.1"]);
    let kubeconfig = namespace.kubeconfig(namespace.cluster.control.address());
    let announcer = StandInAnnouncer::start(&[]);
    let watcher = start(&namespace, "lb-1", &kubeconfig, &announcer, &[]);
    let held = "{.status.conditions[?(@.type=='portlb.io/Address')].message}";
    namespace.wait_for_value("service/web", held, ADDRESS, SOON);
    namespace.wait_for_value("service/old", held, "10.1.1.11", SOON);

    let served = ["tcp/10.1.1.10:80 -> 10.0.0.1"];
    namespace.service("old", &format!("portlb.io/address: {ADDRESS}"));
    namespace.wait_for_value("service/old", held, "", SOON);
    watcher.watch().wait_for(&served, SOON);
    drop(watcher);
    // Nor does the time when no pod-watcher runs.
    let watcher = start(&namespace, "lb-2", &kubeconfig, &announcer, &[]);
    watcher.watch().wait_for(&served, SOON);
    assert_eq!(namespace.jsonpath("service/web", held), ADDRESS);
}

#[test]
fn a_service_outside_of_the_allowed_prefixes_is_not_served_in_one_namespace() {
    let namespace = Cluster::shared().namespace("confined");
    // The address of another tenant's pod.
    namespace.service("bad", "portlb.io/address: 10.244.1.7");
    namespace.endpoints("bad", &["10.0.0.1"]);
    namespace.service("good", "portlb.io/address: 10.1.1.10");
    namespace.endpoints("good", &["10.0.0.2", "10.244.1.7"]);
    let kubeconfig = namespace.kubeconfig(namespace.cluster.control.address());
    let watcher = Watcher::start(&namespace, &kubeconfig, &[]);
    let served = ["tcp/10.1.1.10:80 -> 10.0.0.2, 10.244.1.7"];
    watcher.watch().wait_for(&served, SOON);
    assert!(watcher.metric("portlb_kubernetes_bad_services") > 0.5);
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
        let events = namespace.events();
        let expected = [
            "Announced: 10.1.1.10 by 1 load balancer",
            "NotAnnounced: 10.1.1.10 by no load balancer yet",
            "Withdrawn: 10.1.1.10 by no load balancer",
        ];
        let are_expected = events.len() == expected.len()
            && events
                .iter()
                .zip(expected)
                .all(|(event, expected)| event.starts_with(expected));
        lab::ensure_that(are_expected, format!("{events:?}"))
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
    lab::wait_for("the first leads", SOON, || {
        let held = first.metric("portlb_lease_held");
        lab::ensure_that(held > 0.5, held)
    })
    .unwrap();
    let second = start(&namespace, "lb-2", &kubeconfig, &announcer, &[]);
    namespace.wait_for_value(
        "service/web",
        MESSAGE,
        "10.1.1.10 by 2 load balancers",
        SOON,
    );
    assert!(second.metric("portlb_lease_held") < 0.5);
    assert_eq!(namespace.jsonpath("lease/portlb", HOLDER), "lb-1");

    // Killed: its report and its Lease run out.
    first.process.kill().unwrap();
    namespace.wait_for_value(
        "service/web",
        MESSAGE,
        "10.1.1.10 by 1 load balancer",
        FAILOVER,
    );
    assert_eq!(namespace.jsonpath("lease/portlb", HOLDER), "lb-2");
    assert!(second.metric("portlb_lease_held") > 0.5);
    let events = namespace.events();
    let announced = events.iter().filter(|event| event.starts_with("Announced"));
    assert_eq!(announced.count(), 1, "not repeated: {events:?}");
    let withdrawn = |event: &String| event.starts_with("Withdrawn");
    assert!(!events.iter().any(withdrawn), "{events:?}");

    // Terminated: it gives both up.
    let third = start(&namespace, "lb-3", &kubeconfig, &announcer, &[]);
    namespace.wait_for_value(
        "service/web",
        MESSAGE,
        "10.1.1.10 by 2 load balancers",
        SOON,
    );
    let began = std::time::Instant::now();
    second.process.signal(Signal::SIGTERM).unwrap();
    assert!(second.process.wait(SOON).unwrap().success());
    namespace.wait_for_value("lease/portlb", HOLDER, "lb-3", SOON);
    assert!(
        began.elapsed() < Duration::from_secs(12),
        "{:?}",
        began.elapsed()
    );
    namespace.wait_for_value("service/web", MESSAGE, "10.1.1.10 by 1 load balancer", SOON);
    let reports = namespace.reports();
    assert!(!reports.contains("portlb-lb-2"), "{reports}");
    drop(third);
}

#[test]
fn the_last_pod_takes_its_addresses_out_of_the_status_when_its_data_plane_has_ended() {
    let namespace = Cluster::shared().namespace("last");
    let announcer = StandInAnnouncer::start(&["10.1.1.10/32"]);
    let watcher = announced_by(&namespace, "lb-1", &announcer, &[LINGER]);
    let data_plane = watcher.watch();
    data_plane.wait_for(&["tcp/10.1.1.10:80 -> 10.0.0.1"], SOON);

    // The report is renewed every 5 s, and all stays as it is.
    watcher.process.signal(Signal::SIGTERM).unwrap();
    watcher.process.wait_for_line("draining", SOON).unwrap();
    for _ in 0..2 {
        let renewed = namespace.jsonpath("lease/portlb-lb-1", RENEWED);
        lab::wait_for("the report is renewed", SOON, || {
            let again = namespace.jsonpath("lease/portlb-lb-1", RENEWED);
            lab::ensure_that(again != renewed, again)
        })
        .unwrap();
    }
    assert!(namespace.jsonpath("service/web", INGRESS).contains(ADDRESS));
    assert_eq!(namespace.jsonpath("lease/portlb", HOLDER), "lb-1");
    assert!(watcher.process.is_running());

    drop(data_plane);
    assert!(watcher.process.wait(SOON).unwrap().success());
    namespace.is_announced_by_none();
    assert_eq!(
        namespace.events(),
        [
            "Announced: 10.1.1.10 by 1 load balancer",
            "Withdrawn: 10.1.1.10 by no load balancer",
        ]
    );
}

#[test]
fn a_pod_that_drains_still_writes_what_its_announcer_withdraws() {
    let namespace = Cluster::shared().namespace("drains");
    let announcer = StandInAnnouncer::start(&["10.1.1.10/32"]);
    let watcher = announced_by(&namespace, "lb-1", &announcer, &[LINGER]);
    let data_plane = watcher.watch();
    data_plane.wait_for(&["tcp/10.1.1.10:80 -> 10.0.0.1"], SOON);
    watcher.process.signal(Signal::SIGTERM).unwrap();
    watcher.process.wait_for_line("draining", SOON).unwrap();
    announcer.announce(&[]);
    namespace.wait_for_value("service/web", ANNOUNCED, "NotAnnounced", SOON);
    assert!(watcher.process.is_running());
    drop(data_plane);
    assert!(watcher.process.wait(SOON).unwrap().success());
    namespace.is_announced_by_none();
}

#[test]
fn the_ingress_stays_while_one_of_two_pods_ends() {
    let namespace = Cluster::shared().namespace("remaining");
    let announcer = StandInAnnouncer::start(&["10.1.1.10/32"]);
    let first = announced_by(&namespace, "lb-1", &announcer, &[LINGER]);
    let kubeconfig = namespace.kubeconfig(namespace.cluster.control.address());
    let second = start(&namespace, "lb-2", &kubeconfig, &announcer, &[LINGER]);
    let by_two = "10.1.1.10 by 2 load balancers";
    namespace.wait_for_value("service/web", MESSAGE, by_two, SOON);
    let data_plane = first.watch();
    data_plane.wait_for(&["tcp/10.1.1.10:80 -> 10.0.0.1"], SOON);
    first.process.signal(Signal::SIGTERM).unwrap();
    first.process.wait_for_line("draining", SOON).unwrap();
    drop(data_plane);
    let state = format!("{INGRESS} {MESSAGE}");
    lab::wait_for("the second writes", SOON, || {
        let state = namespace.jsonpath("service/web", &state);
        assert!(state.starts_with('['), "{state}");
        lab::ensure_that(state.ends_with("by 1 load balancer"), state)
    })
    .unwrap();
    assert!(first.process.wait(SOON).unwrap().success());
    let leads_by = first.process.ended_at().unwrap() + HANDED_OVER;
    namespace.wait_for_value("lease/portlb", HOLDER, "lb-2", SOON);
    assert!(std::time::Instant::now() < leads_by);
    // It never left.
    let events = namespace.events();
    let withdrawn = |event: &String| event.starts_with("Withdrawn");
    assert!(!events.iter().any(withdrawn), "{events:?}");
    drop(second);
}

#[test]
fn of_two_pods_that_end_together_the_last_one_clears_the_status() {
    let namespace = Cluster::shared().namespace("together");
    let announcer = StandInAnnouncer::start(&["10.1.1.10/32"]);
    let first = announced_by(&namespace, "lb-1", &announcer, &[]);
    let kubeconfig = namespace.kubeconfig(namespace.cluster.control.address());
    let second = start(&namespace, "lb-2", &kubeconfig, &announcer, &[]);
    let by_two = "10.1.1.10 by 2 load balancers";
    namespace.wait_for_value("service/web", MESSAGE, by_two, SOON);
    for pod in [&first, &second] {
        pod.process.signal(Signal::SIGTERM).unwrap();
    }
    for pod in [&first, &second] {
        assert!(pod.process.wait(SOON).unwrap().success());
    }
    namespace.is_announced_by_none();
}

#[test]
fn a_pod_watcher_that_ends_alone_leaves_what_is_announced() {
    let namespace = Cluster::shared().namespace("alone");
    let announcer = StandInAnnouncer::start(&["10.1.1.10/32"]);
    let watcher = announced_by(&namespace, "lb-1", &announcer, &[]);
    let data_plane = watcher.watch();
    data_plane.wait_for(&["tcp/10.1.1.10:80 -> 10.0.0.1"], SOON);
    watcher.process.signal(Signal::SIGTERM).unwrap();
    assert!(watcher.process.wait(SOON).unwrap().success());
    assert!(namespace.jsonpath("service/web", INGRESS).contains(ADDRESS));
    assert_eq!(namespace.jsonpath("lease/portlb-lb-1", HOLDER), "lb-1");
    assert_eq!(namespace.jsonpath("lease/portlb", HOLDER), "");
    drop(data_plane);
}

#[test]
fn a_second_signal_ends_a_pod_watcher_that_lingers() {
    let namespace = Cluster::shared().namespace("aborted");
    let announcer = StandInAnnouncer::start(&["10.1.1.10/32"]);
    let watcher = announced_by(&namespace, "lb-1", &announcer, &[LINGER]);
    let data_plane = watcher.watch();
    data_plane.wait_for(&["tcp/10.1.1.10:80 -> 10.0.0.1"], SOON);
    watcher.process.signal(Signal::SIGTERM).unwrap();
    watcher.process.wait_for_line("draining", SOON).unwrap();
    watcher.process.signal(Signal::SIGTERM).unwrap();
    assert!(!watcher.process.wait(SOON).unwrap().success());
    assert!(namespace.jsonpath("service/web", INGRESS).contains(ADDRESS));
    drop(data_plane);
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
    let count = "{.items[?(@.reason=='BadAnnotation')].series.count}";
    namespace.wait_for_value("events.events.k8s.io", count, "2", SOON);
    let events = namespace.events();
    let bad = events
        .iter()
        .filter(|event| event.starts_with("BadAnnotation"));
    assert_eq!(bad.count(), 1, "{events:?}");
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
