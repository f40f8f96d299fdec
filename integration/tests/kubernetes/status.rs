//! Tests of status, conditions and Events that the leading pod-watcher writes.

use std::path::Path;
use std::time::Duration;

use lab::Signal;

use crate::announcer::FakeAnnouncer;
use crate::cluster::{ALL_RULES, TestControlPlane, TestNamespace};
use crate::watcher::{PodWatcherProcess, SOON};

const INGRESS: &str = "{.status.loadBalancer.ingress}";
const ANNOUNCED: &str = "{.status.conditions[?(@.type=='portlb.io/Announced')].reason}";

const MESSAGE: &str = "{.status.conditions[?(@.type=='portlb.io/Announced')].message}";
const HOLDER: &str = "{.spec.holderIdentity}";
const RENEWED: &str = "{.spec.renewTime}";
const ADDRESS: &str = "10.1.1.10";

/// Linger time that is longer than any test, so that no pod-watcher ends because its linger time is
/// over.
const LINGER: &str = "--linger=10m";

/// Limit for the time from the release of the Lease to the next leader.
///
/// A pod acquires a released Lease within 3 s, and an expired Lease only 15 s after its last
/// renewal. So a next leader within the limit shows that the Lease was released.
const HANDOVER: Duration = Duration::from_secs(10);

/// Limit for the time from the kill of a leader to the next leader. The Lease expires 15 s after
/// its last renewal.
const FAILOVER: Duration = Duration::from_secs(60);

fn start(
    namespace: &TestNamespace<'_>,
    name: &str,
    kubeconfig: &Path,
    announcer: &FakeAnnouncer,
    more: &[&str],
) -> PodWatcherProcess {
    let announcer = format!("--announcer=http://{}", announcer.address);
    let pod = format!("--pod-name={name}");
    // No pod has this UID. The API server does not check that the owner of an object exists.
    let uid = format!("--pod-uid=uid-of-{name}");
    let flags = [&[&*announcer, &*pod, &*uid], more].concat();
    PodWatcherProcess::start_as(namespace, name, kubeconfig, &flags)
}

/// Creates the Service `web`, starts the first pod-watcher of the namespace, and waits until the
/// Service has the condition `Announced`.
fn start_and_wait_until_announced(
    namespace: &TestNamespace<'_>,
    name: &str,
    announcer: &FakeAnnouncer,
    more: &[&str],
) -> PodWatcherProcess {
    namespace.apply_service("web", &format!("portlb.io/address: {ADDRESS}"));
    namespace.apply_endpoints("web", &["10.0.0.1"]);
    let kubeconfig = namespace.kubeconfig(namespace.cluster.control.address());
    let watcher = start(namespace, name, &kubeconfig, announcer, more);
    namespace.wait_for_value("service/web", ANNOUNCED, "Announced", SOON);
    watcher
}

impl TestNamespace<'_> {
    /// Checks that the status of the Service `web` has no address, that the Lease `portlb` has no
    /// holder, and that no report exists.
    fn assert_status_is_cleared(&self) {
        assert_eq!(self.jsonpath("service/web", INGRESS), "");
        assert_eq!(self.jsonpath("service/web", ANNOUNCED), "NotAnnounced");
        assert_eq!(self.jsonpath("lease/portlb", HOLDER), "");
        assert_eq!(self.reports(), "");
    }

    /// Returns the names of the Leases that are reports.
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

    /// Returns a line `reason: note` for each Event, sorted.
    fn events(&self) -> Vec<String> {
        let path = "{range .items[*]}{.reason}: {.note}{\"\\n\"}{end}";
        let events = self.jsonpath("events.events.k8s.io", path);
        let mut events: Vec<String> = events.lines().map(str::to_owned).collect();
        events.sort();
        events
    }
}

#[test]
fn an_older_service_does_not_take_over_an_address_that_another_service_holds() {
    let namespace = TestControlPlane::shared().namespace("taken");
    namespace.apply_service("old", "portlb.io/address: 10.1.1.11");
    namespace.apply_endpoints("old", &["10.0.0.9"]);
    // Creation times have whole seconds, so `web` is created several times until it is younger than
    // `old`.
    let created = "{.metadata.creationTimestamp}";
    let created_old = namespace.jsonpath("service/old", created);
    lab::wait_for("a younger Service", SOON, || {
        namespace.kubectl(&["delete", "service", "web", "--ignore-not-found"]);
        namespace.apply_service("web", &format!("portlb.io/address: {ADDRESS}"));
        let created_web = namespace.jsonpath("service/web", created);
        lab::ensure_that(created_web > created_old, created_web)
    })
    .unwrap();
    namespace.apply_endpoints("web", &["10.0.0.1"]);
    let kubeconfig = namespace.kubeconfig(namespace.cluster.control.address());
    let announcer = FakeAnnouncer::start(&[]);
    let watcher = start(&namespace, "lb-1", &kubeconfig, &announcer, &[]);
    let address = "{.status.conditions[?(@.type=='portlb.io/Address')].message}";
    namespace.wait_for_value("service/web", address, ADDRESS, SOON);
    namespace.wait_for_value("service/old", address, "10.1.1.11", SOON);

    let served = ["tcp/10.1.1.10:80 -> 10.0.0.1"];
    namespace.apply_service("old", &format!("portlb.io/address: {ADDRESS}"));
    namespace.wait_for_value("service/old", address, "", SOON);
    watcher.watch().wait_for(&served, SOON);
    drop(watcher);
    // A restart of pod-watcher does not give the address to the older Service either.
    let watcher = start(&namespace, "lb-2", &kubeconfig, &announcer, &[]);
    watcher.watch().wait_for(&served, SOON);
    assert_eq!(namespace.jsonpath("service/web", address), ADDRESS);
}

#[test]
fn a_service_address_outside_of_the_allowed_prefixes_is_not_served() {
    let namespace = TestControlPlane::shared().namespace("confined");
    // 10.244.1.7 is the address of a pod, and must not become a service address.
    namespace.apply_service("bad", "portlb.io/address: 10.244.1.7");
    namespace.apply_endpoints("bad", &["10.0.0.1"]);
    namespace.apply_service("good", "portlb.io/address: 10.1.1.10");
    namespace.apply_endpoints("good", &["10.0.0.2", "10.244.1.7"]);
    let kubeconfig = namespace.kubeconfig(namespace.cluster.control.address());
    let watcher = PodWatcherProcess::start(&namespace, &kubeconfig, &[]);
    let served = ["tcp/10.1.1.10:80 -> 10.0.0.2, 10.244.1.7"];
    watcher.watch().wait_for(&served, SOON);
    assert!(watcher.metric("portlb_kubernetes_bad_services") > 0.5);
}

#[test]
fn the_status_of_a_service_has_the_address_while_the_address_is_announced() {
    let namespace = TestControlPlane::shared().namespace("announced");
    namespace.apply_service("web", "portlb.io/address: 10.1.1.10");
    namespace.apply_endpoints("web", &["10.0.0.1"]);
    let kubeconfig = namespace.kubeconfig(namespace.cluster.control.address());
    let announcer = FakeAnnouncer::start(&[]);
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
    lab::wait_for("one Event for each change", SOON, || {
        let events = namespace.events();
        let expected = [
            "Announced: 10.1.1.10 is announced by 1 load balancer",
            "NotAnnounced: 10.1.1.10 is announced by no load balancer yet",
            "Withdrawn: 10.1.1.10 is announced by no load balancer",
        ];
        let are_expected = events.len() == expected.len()
            && events
                .iter()
                .zip(expected)
                .all(|(event, expected)| event.starts_with(expected));
        lab::ensure_that(are_expected, format!("{events:?}"))
    })
    .unwrap();
    // pod-watcher clears the status of a Service that no longer has pod-watcher's load balancer
    // class.
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
fn one_of_two_pod_watchers_leads_and_the_second_takes_over_when_the_first_ends() {
    let namespace = TestControlPlane::shared().namespace("election");
    namespace.apply_service("web", "portlb.io/address: 10.1.1.10");
    namespace.apply_endpoints("web", &["10.0.0.1"]);
    let kubeconfig = namespace.kubeconfig(namespace.cluster.control.address());
    let announcer = FakeAnnouncer::start(&["10.1.1.10/32"]);
    let first = start(&namespace, "lb-1", &kubeconfig, &announcer, &[]);
    lab::wait_for("the first pod leads", SOON, || {
        let is_leader = first.metric("portlb_lease_held");
        lab::ensure_that(is_leader > 0.5, is_leader)
    })
    .unwrap();
    let second = start(&namespace, "lb-2", &kubeconfig, &announcer, &[]);
    namespace.wait_for_value(
        "service/web",
        MESSAGE,
        "10.1.1.10 is announced by 2 load balancers",
        SOON,
    );
    assert!(second.metric("portlb_lease_held") < 0.5);
    assert_eq!(namespace.jsonpath("lease/portlb", HOLDER), "lb-1");

    // The first pod-watcher is killed, so its report and its Lease expire.
    first.process.kill().unwrap();
    namespace.wait_for_value(
        "service/web",
        MESSAGE,
        "10.1.1.10 is announced by 1 load balancer",
        FAILOVER,
    );
    assert_eq!(namespace.jsonpath("lease/portlb", HOLDER), "lb-2");
    assert!(second.metric("portlb_lease_held") > 0.5);
    let events = namespace.events();
    let announced = events.iter().filter(|event| event.starts_with("Announced"));
    assert_eq!(announced.count(), 1, "an Event was repeated: {events:?}");
    let withdrawn = |event: &String| event.starts_with("Withdrawn");
    assert!(!events.iter().any(withdrawn), "{events:?}");

    // On SIGTERM the second pod deletes its report and releases the Lease.
    let third = start(&namespace, "lb-3", &kubeconfig, &announcer, &[]);
    namespace.wait_for_value(
        "service/web",
        MESSAGE,
        "10.1.1.10 is announced by 2 load balancers",
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
    namespace.wait_for_value(
        "service/web",
        MESSAGE,
        "10.1.1.10 is announced by 1 load balancer",
        SOON,
    );
    let reports = namespace.reports();
    assert!(!reports.contains("portlb-lb-2"), "{reports}");
    drop(third);
}

#[test]
fn the_last_pod_watcher_clears_the_status_after_its_data_plane_has_ended() {
    let namespace = TestControlPlane::shared().namespace("last");
    let announcer = FakeAnnouncer::start(&["10.1.1.10/32"]);
    let watcher = start_and_wait_until_announced(&namespace, "lb-1", &announcer, &[LINGER]);
    let data_plane = watcher.watch();
    data_plane.wait_for(&["tcp/10.1.1.10:80 -> 10.0.0.1"], SOON);

    // The lingering pod-watcher renews its report every 5 s and keeps the status.
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
    namespace.assert_status_is_cleared();
    assert_eq!(
        namespace.events(),
        [
            "Announced: 10.1.1.10 is announced by 1 load balancer",
            "Withdrawn: 10.1.1.10 is announced by no load balancer",
        ]
    );
}

#[test]
fn a_draining_pod_watcher_clears_the_status_of_a_withdrawn_address() {
    let namespace = TestControlPlane::shared().namespace("drains");
    let announcer = FakeAnnouncer::start(&["10.1.1.10/32"]);
    let watcher = start_and_wait_until_announced(&namespace, "lb-1", &announcer, &[LINGER]);
    let data_plane = watcher.watch();
    data_plane.wait_for(&["tcp/10.1.1.10:80 -> 10.0.0.1"], SOON);
    watcher.process.signal(Signal::SIGTERM).unwrap();
    watcher.process.wait_for_line("draining", SOON).unwrap();
    announcer.announce(&[]);
    namespace.wait_for_value("service/web", ANNOUNCED, "NotAnnounced", SOON);
    assert!(watcher.process.is_running());
    drop(data_plane);
    assert!(watcher.process.wait(SOON).unwrap().success());
    namespace.assert_status_is_cleared();
}

#[test]
fn the_status_keeps_the_address_when_one_of_two_pod_watchers_ends() {
    let namespace = TestControlPlane::shared().namespace("remaining");
    let announcer = FakeAnnouncer::start(&["10.1.1.10/32"]);
    let first = start_and_wait_until_announced(&namespace, "lb-1", &announcer, &[LINGER]);
    let kubeconfig = namespace.kubeconfig(namespace.cluster.control.address());
    let second = start(&namespace, "lb-2", &kubeconfig, &announcer, &[LINGER]);
    let by_two = "10.1.1.10 is announced by 2 load balancers";
    namespace.wait_for_value("service/web", MESSAGE, by_two, SOON);
    let data_plane = first.watch();
    data_plane.wait_for(&["tcp/10.1.1.10:80 -> 10.0.0.1"], SOON);
    first.process.signal(Signal::SIGTERM).unwrap();
    first.process.wait_for_line("draining", SOON).unwrap();
    drop(data_plane);
    let state = format!("{INGRESS} {MESSAGE}");
    lab::wait_for("the status has one load balancer", SOON, || {
        let state = namespace.jsonpath("service/web", &state);
        assert!(state.starts_with('['), "{state}");
        lab::ensure_that(state.ends_with("by 1 load balancer"), state)
    })
    .unwrap();
    assert!(first.process.wait(SOON).unwrap().success());
    let leads_by = first.process.ended_at().unwrap() + HANDOVER;
    namespace.wait_for_value("lease/portlb", HOLDER, "lb-2", SOON);
    assert!(std::time::Instant::now() < leads_by);
    // The status had the address all the time, so there is no Event `Withdrawn`.
    let events = namespace.events();
    let withdrawn = |event: &String| event.starts_with("Withdrawn");
    assert!(!events.iter().any(withdrawn), "{events:?}");
    drop(second);
}

#[test]
fn the_last_of_two_pod_watchers_that_end_together_clears_the_status() {
    let namespace = TestControlPlane::shared().namespace("together");
    let announcer = FakeAnnouncer::start(&["10.1.1.10/32"]);
    let first = start_and_wait_until_announced(&namespace, "lb-1", &announcer, &[]);
    let kubeconfig = namespace.kubeconfig(namespace.cluster.control.address());
    let second = start(&namespace, "lb-2", &kubeconfig, &announcer, &[]);
    let by_two = "10.1.1.10 is announced by 2 load balancers";
    namespace.wait_for_value("service/web", MESSAGE, by_two, SOON);
    for pod in [&first, &second] {
        pod.process.signal(Signal::SIGTERM).unwrap();
    }
    for pod in [&first, &second] {
        assert!(pod.process.wait(SOON).unwrap().success());
    }
    namespace.assert_status_is_cleared();
}

#[test]
fn a_pod_watcher_that_ends_before_its_data_plane_keeps_the_status() {
    let namespace = TestControlPlane::shared().namespace("alone");
    let announcer = FakeAnnouncer::start(&["10.1.1.10/32"]);
    let watcher = start_and_wait_until_announced(&namespace, "lb-1", &announcer, &[]);
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
fn a_second_signal_ends_a_lingering_pod_watcher_immediately() {
    let namespace = TestControlPlane::shared().namespace("aborted");
    let announcer = FakeAnnouncer::start(&["10.1.1.10/32"]);
    let watcher = start_and_wait_until_announced(&namespace, "lb-1", &announcer, &[LINGER]);
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
fn a_service_keeps_its_pool_address_after_a_restart_of_pod_watcher() {
    let namespace = TestControlPlane::shared().namespace("pool");
    let pool = ["--address-pool=web=10.1.1.8/29"];
    namespace.apply_service("second", "");
    namespace.apply_endpoints("second", &["10.0.0.2"]);
    let kubeconfig = namespace.kubeconfig(namespace.cluster.control.address());
    let announcer = FakeAnnouncer::start(&[]);
    let watcher = start(&namespace, "lb-1", &kubeconfig, &announcer, &pool);
    let path = "{.status.conditions[?(@.type=='portlb.io/Address')].message}";
    lab::wait_for("the Service has an address of the pool", SOON, || {
        let address = namespace.jsonpath("service/second", path);
        lab::ensure_that(address.starts_with("10.1.1."), address)
    })
    .unwrap();
    let address = namespace.jsonpath("service/second", path);
    let stream = watcher.watch();
    let served = format!("tcp/{address}:80 -> 10.0.0.2");
    stream.wait_for(&[&served], SOON);
    drop(watcher);

    // The new pod-watcher allocates all addresses a second time. A further Service, `first`, must
    // not get the address that the status of `second` records.
    namespace.apply_service("first", "");
    namespace.apply_endpoints("first", &["10.0.0.1"]);
    let watcher = start(&namespace, "lb-2", &kubeconfig, &announcer, &pool);
    let stream = watcher.watch();
    lab::wait_for("both Services are served", FAILOVER, || {
        let state = stream.state().unwrap_or_default();
        let holds = state.len() == 2 && state.contains(&served);
        lab::ensure_that(holds, format!("{state:?}"))
    })
    .unwrap();
    assert_eq!(namespace.jsonpath("service/second", path), address);
}

#[test]
fn a_finding_that_returns_is_counted_in_the_existing_event() {
    let namespace = TestControlPlane::shared().namespace("findings");
    let bad = "portlb.io/address: 10.1.1.10, portlb.io/scheduler: fastest";
    namespace.apply_service("web", bad);
    namespace.apply_endpoints("web", &["10.0.0.1"]);
    let kubeconfig = namespace.kubeconfig(namespace.cluster.control.address());
    let announcer = FakeAnnouncer::start(&[]);
    let watcher = start(&namespace, "lb-1", &kubeconfig, &announcer, &[]);
    lab::wait_for("the Event about the annotation", SOON, || {
        let events = namespace.events();
        let holds = events.len() == 1
            && ["BadAnnotation", "portlb.io/scheduler", "fastest"]
                .iter()
                .all(|word| events[0].contains(word));
        lab::ensure_that(holds, format!("{events:?}"))
    })
    .unwrap();
    // The next leader counts the returned finding in the existing Event, and writes no second
    // Event.
    drop(watcher);
    let watcher = start(&namespace, "lb-2", &kubeconfig, &announcer, &[]);
    lab::wait_for("the second pod leads", FAILOVER, || {
        let is_leader = watcher.metric("portlb_lease_held");
        lab::ensure_that(is_leader > 0.5, is_leader)
    })
    .unwrap();
    namespace.apply_service("web", "portlb.io/address: 10.1.1.10");
    namespace.wait_for_value("service/web", ANNOUNCED, "NotAnnounced", SOON);
    namespace.apply_service("web", bad);
    let count = "{.items[?(@.reason=='BadAnnotation')].series.count}";
    namespace.wait_for_value("events.events.k8s.io", count, "2", SOON);
    let events = namespace.events();
    let bad = events
        .iter()
        .filter(|event| event.starts_with("BadAnnotation"));
    assert_eq!(bad.count(), 1, "{events:?}");
}

#[test]
fn a_forbidden_status_write_is_logged_once_and_does_not_disturb_serving() {
    let namespace = TestControlPlane::shared().namespace("unwritten");
    let rules: Vec<&str> = ALL_RULES
        .lines()
        .filter(|line| !line.contains("services/status"))
        .collect();
    namespace.grant(&rules.join("\n"));
    namespace.apply_service("web", "portlb.io/address: 10.1.1.10");
    namespace.apply_endpoints("web", &["10.0.0.1"]);
    let kubeconfig = namespace.kubeconfig(namespace.cluster.control.address());
    let announcer = FakeAnnouncer::start(&["10.1.1.10/32"]);
    let watcher = start(&namespace, "lb-1", &kubeconfig, &announcer, &[]);
    let stream = watcher.watch();
    let failures =
        "portlb_kubernetes_write_failures_total{object=\"service-status\",reason=\"403\"}";
    lab::wait_for("three failed writes of the status", FAILOVER, || {
        let failed = watcher.metric(failures);
        lab::ensure_that(failed >= 3.0, failed)
    })
    .unwrap();
    namespace.apply_endpoints("web", &["10.0.0.2"]);
    stream.wait_for(&["tcp/10.1.1.10:80 -> 10.0.0.2"], SOON);
    let lines = watcher.process.lines();
    let reports = lines
        .iter()
        .filter(|line| line.contains("forbids this daemon to patch services/status"));
    assert_eq!(reports.count(), 1, "{lines:#?}");
    namespace.grant(ALL_RULES);
    namespace.wait_for_value("service/web", ANNOUNCED, "Announced", FAILOVER);
}
