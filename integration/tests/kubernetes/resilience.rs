//! Tests of faults between pod-watcher and the API server.
//!
//! During a fault pod-watcher keeps its last desired set and removes nothing. After the fault
//! pod-watcher sends the current state of the API server.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lab::kubernetes::FaultProxy;

use crate::cluster::{ALL_RULES, TestControlPlane, TestNamespace};
use crate::watcher::{DesiredStream, PodWatcherProcess, SOON};

/// Limit for the detection of a stalled watch.
///
/// The API server should end a watch after 5 s, and pod-watcher closes a connection on which no
/// octet has arrived for 15 s. The request that follows the lost watch hangs in the proxy, too.
const STALE: Duration = Duration::from_secs(60);

const WEB: &str = "tcp/10.1.1.10:80 -> 10.0.0.1";

/// A namespace with one Service, and a pod-watcher that reads the Service through a fault proxy.
struct ServedService<'a> {
    namespace: TestNamespace<'a>,
    proxy: FaultProxy,
    watcher: PodWatcherProcess,
    stream: DesiredStream,
}

impl<'a> ServedService<'a> {
    fn start(cluster: &'a TestControlPlane, name: &'static str) -> Self {
        let namespace = cluster.namespace(name);
        namespace.apply_service("web", "portlb.io/address: 10.1.1.10");
        namespace.apply_endpoints("web", &["10.0.0.1"]);
        let proxy = FaultProxy::start(cluster.control.address()).unwrap();
        let kubeconfig = namespace.kubeconfig(proxy.address());
        let watcher = PodWatcherProcess::start(&namespace, &kubeconfig, &[]);
        let stream = watcher.watch();
        stream.wait_for(&[WEB], SOON);
        Self {
            namespace,
            proxy,
            watcher,
            stream,
        }
    }

    /// Creates the Service `new`, and changes the endpoints of the Service `web`.
    fn change(&self) {
        self.namespace
            .apply_service("new", "portlb.io/address: 10.1.1.20");
        self.namespace.apply_endpoints("new", &["10.0.0.9"]);
        self.namespace.apply_endpoints("web", &["10.0.0.2"]);
    }

    fn wait_for_change(&self, within: Duration) {
        let expected = [
            "tcp/10.1.1.10:80 -> 10.0.0.2",
            "tcp/10.1.1.20:80 -> 10.0.0.9",
        ];
        self.stream.wait_for(&expected, within);
        assert_eq!(self.stream.removals(), 0);
        self.watcher.wait_for_readyz(
            &[
                "200 OK",
                "ready source: 2 virtual servers, 0 service ranges\n",
            ],
            SOON,
        );
    }

    /// Waits until `/readyz` contains the texts of `cause` and says that the desired set is kept.
    /// Then checks that the desired set has not changed.
    fn assert_desired_set_is_kept(&self, cause: &[&str], within: Duration) {
        let words = [&["200 OK", "1 virtual servers", "kept"], cause].concat();
        self.watcher.wait_for_readyz(&words, within);
        assert_eq!(self.stream.state().unwrap(), [WEB]);
        assert_eq!(self.stream.removals(), 0);
    }
}

#[test]
fn without_an_api_server_the_desired_set_stays_and_missed_changes_are_applied_on_return() {
    let served = ServedService::start(TestControlPlane::shared(), "away");
    served.proxy.refuse().unwrap();
    served.assert_desired_set_is_kept(&["cannot reach the API server", "refused"], SOON);
    assert!(served.watcher.metric("portlb_source_in_use") < 0.5);
    served.change();
    served.proxy.pass().unwrap();
    served.wait_for_change(SOON);
    // pod-watcher logs one error for the fault, although it retries several times.
    let lines = served.watcher.process.lines();
    let errors = lines.iter().filter(|line| line.contains("ERROR"));
    assert_eq!(errors.count(), 1, "{lines:#?}");
}

#[test]
fn a_service_that_is_deleted_while_the_api_server_is_unreachable_is_removed_on_return() {
    let served = ServedService::start(TestControlPlane::shared(), "deleted");
    served.proxy.refuse().unwrap();
    served.assert_desired_set_is_kept(&[], SOON);
    served.namespace.kubectl(&["delete", "service", "web"]);
    served.proxy.pass().unwrap();
    served.stream.wait_for(&[], SOON);
    assert_eq!(served.stream.removals(), 1);
}

#[test]
fn a_watch_whose_connection_is_cut_resumes_without_a_new_list() {
    let served = ServedService::start(TestControlPlane::shared(), "cut");
    let lists = |resource: &str| {
        let name = format!("portlb_kubernetes_lists_total{{resource=\"{resource}\"}}");
        served.watcher.metric(&name)
    };
    assert_eq!((lists("services"), lists("endpointslices")), (1.0, 1.0));
    served.proxy.cut().unwrap();
    served.change();
    served.wait_for_change(SOON);
    // The watch has resumed at its last resource version, so there was no second list.
    assert_eq!((lists("services"), lists("endpointslices")), (1.0, 1.0));
}

#[test]
fn a_watch_that_stalls_is_detected_and_started_again() {
    let served = ServedService::start(TestControlPlane::shared(), "stale");
    served.proxy.hang().unwrap();
    served.change();
    served.assert_desired_set_is_kept(&["cannot reach the API server"], STALE);
    served.proxy.pass().unwrap();
    served.wait_for_change(SOON);
}

#[test]
fn an_idle_watch_is_renewed_without_a_new_list() {
    let served = ServedService::start(TestControlPlane::shared(), "idle");
    // The API server ends each watch after 5 s, and pod-watcher then updates the timestamp. So
    // three changes of the timestamp show that three watches have ended.
    let last_event = "portlb_kubernetes_last_event_timestamp_seconds{resource=\"services\"}";
    let mut previous = served.watcher.metric(last_event);
    for _ in 0..3 {
        previous = lab::wait_for("the end of a watch", SOON, || {
            let now = served.watcher.metric(last_event);
            if now > previous { Ok(now) } else { Err(now) }
        })
        .unwrap();
    }
    served.change();
    served.wait_for_change(SOON);
    let lists = "portlb_kubernetes_lists_total{resource=\"services\"}";
    assert_eq!(served.watcher.metric(lists), 1.0);
}

#[test]
fn a_watch_whose_history_the_api_server_has_lost_is_followed_by_a_new_list() {
    let mut cluster = TestControlPlane::start();
    let (proxy, watcher, stream);
    {
        let served = ServedService::start(&cluster, "gone");
        served.proxy.refuse().unwrap();
        served.assert_desired_set_is_kept(&[], SOON);
        served.change();
        served
            .namespace
            .apply_service("short", "portlb.io/address: 10.1.1.30");
        served.namespace.kubectl(&["delete", "service", "short"]);
        ServedService {
            proxy,
            watcher,
            stream,
            ..
        } = served;
    }
    // The restart empties the watch cache. etcd has compacted the old revisions, so the API server
    // cannot continue the old watch.
    cluster.control.restart().unwrap();
    proxy.pass().unwrap();
    let expected = [
        "tcp/10.1.1.10:80 -> 10.0.0.2",
        "tcp/10.1.1.20:80 -> 10.0.0.9",
    ];
    stream.wait_for(&expected, SOON);
    assert_eq!(stream.removals(), 0);
    watcher.wait_for_readyz(&["200 OK", "2 virtual servers, 0 service ranges\n"], SOON);
    let lists = "portlb_kubernetes_lists_total{resource=\"services\"}";
    assert!(watcher.metric(lists) >= 2.0, "{}", watcher.get("/metrics"));
}

#[test]
fn synced_is_sent_only_after_all_lists_of_a_slow_api_server() {
    let namespace = TestControlPlane::shared().namespace("slow");
    namespace.apply_service("web", "portlb.io/address: 10.1.1.10");
    let addresses: Vec<String> = (1..=90).map(|n| format!("10.0.0.{n}")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    namespace.apply_endpoints("web", &addresses);
    let proxy = FaultProxy::start(namespace.cluster.control.address()).unwrap();
    let kubeconfig = namespace.kubeconfig(proxy.address());
    proxy.slow(5_000).unwrap();
    let watcher = PodWatcherProcess::start(&namespace, &kubeconfig, &[]);
    let stream = watcher.watch();
    let all = format!("tcp/10.1.1.10:80 -> {}", addresses.join(", "));
    stream.wait_for(&[&all], STALE);
    // The stream has sent two events: the virtual server with all real servers, and `synced`.
    assert_eq!(stream.event_count(), 2);
}

#[test]
fn pod_watcher_reports_answers_429_of_the_api_server_and_waits_between_requests() {
    let served = ServedService::start(TestControlPlane::shared(), "throttled");
    let control = &served.namespace.cluster.control;
    // The API server serves one request of the ServiceAccount `portlb` at a time, and rejects
    // further requests.
    let limits = "apiVersion: flowcontrol.apiserver.k8s.io/v1
kind: PriorityLevelConfiguration
metadata: {name: narrow}
spec:
  type: Limited
  limited:
    nominalConcurrencyShares: 0
    borrowingLimitPercent: 0
    limitResponse: {type: Reject}
---
apiVersion: flowcontrol.apiserver.k8s.io/v1
kind: FlowSchema
metadata: {name: narrow}
spec:
  priorityLevelConfiguration: {name: narrow}
  matchingPrecedence: 3
  rules:
  - subjects: [{kind: User, user: {name: 'system:serviceaccount:throttled:portlb'}}]
    resourceRules: [{apiGroups: ['*'], resources: ['*'], verbs: ['*'], namespaces: ['*']}]
";
    control
        .kubectl_with_input(&["apply", "-f", "-"], limits)
        .unwrap();
    // A second client of the ServiceAccount reads a large list slowly, and so occupies the only
    // request that the API server serves.
    let text = "x".repeat(900_000);
    let file = served.namespace.cluster.directory.path().join("large");
    std::fs::write(&file, text).unwrap();
    let from_file = format!("--from-file={}", file.display());
    // The list must be larger than all socket buffers between the API server and the client, or the
    // API server would finish the request before the client has read the list.
    for number in 1..=30 {
        let name = format!("large-{number}");
        served
            .namespace
            .kubectl(&["create", "configmap", &name, &from_file]);
    }
    served.namespace.grant(&format!(
        "{ALL_RULES}\n- {{apiGroups: [\"\"], resources: [configmaps], verbs: [list]}}"
    ));
    let reader = FaultProxy::start(control.address()).unwrap();
    reader.slow(50_000).unwrap();
    let kubeconfig = control
        .kubeconfig_for("reader", reader.address(), &served.namespace.token())
        .unwrap();
    let kubeconfig = kubeconfig.display().to_string();
    let has_ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let path = "/api/v1/namespaces/throttled/configmaps";
            let ask = [
                "--kubeconfig",
                &kubeconfig,
                "--disable-compression",
                "get",
                "--raw",
                path,
            ];
            let began = Instant::now();
            // The new rules of the Role take effect after a moment, so the first requests can fail.
            while !has_ended.load(Ordering::Relaxed) && began.elapsed() < 3 * STALE {
                let _ = control.kubectl(&ask);
            }
        });
        served.assert_desired_set_is_kept(&["too busy (429"], 2 * STALE);
        served.change();
        has_ended.store(true, Ordering::Relaxed);
        reader.refuse().unwrap();
    });
    served.wait_for_change(2 * STALE);
    control
        .kubectl(&["delete", "flowschema,prioritylevelconfiguration", "narrow"])
        .unwrap();
    let failures = "portlb_kubernetes_request_failures_total{resource=\"services\",reason=\"429\"}";
    let failed = served.watcher.metric(failures);
    assert!(
        failed < 50.0,
        "pod-watcher does not wait between requests: {failed} requests failed"
    );
}

#[test]
fn a_rejected_token_is_reported_and_a_rotated_token_is_used() {
    let served = ServedService::start(TestControlPlane::shared(), "token");
    let file = served
        .namespace
        .cluster
        .directory
        .path()
        .join("control-plane/token.token");
    assert!(file.exists(), "{}", file.display());
    // A new ServiceAccount with the name of the deleted one makes the old token invalid, as if the
    // token had expired.
    served
        .namespace
        .kubectl(&["delete", "serviceaccount", "portlb"]);
    served
        .namespace
        .kubectl(&["create", "serviceaccount", "portlb"]);
    served.assert_desired_set_is_kept(&["does not accept the credentials (401"], STALE);
    served.change();
    std::fs::write(&file, served.namespace.token()).unwrap();
    served.wait_for_change(SOON);
}

#[test]
fn pod_watcher_accepts_a_rotated_certificate_authority() {
    let mut cluster = TestControlPlane::start();
    let (proxy, watcher, stream);
    {
        let served = ServedService::start(&cluster, "authority");
        served.change();
        served.wait_for_change(SOON);
        ServedService {
            proxy,
            watcher,
            stream,
            ..
        } = served;
    }
    cluster.control.restart_with_new_authority().unwrap();
    // pod-watcher reads the new certificate from the file that the kubeconfig names. The restart
    // has replaced the content of this file.
    watcher.wait_for_readyz(&["200 OK", "2 virtual servers, 0 service ranges\n"], STALE);
    let namespace = TestNamespace {
        cluster: &cluster,
        name: "authority",
    };
    namespace.kubectl(&["delete", "service", "new"]);
    stream.wait_for(&["tcp/10.1.1.10:80 -> 10.0.0.2"], STALE);
    drop(proxy);
}

#[test]
fn a_forbidden_verb_is_reported_with_the_rule_that_grants_it() {
    let namespace = TestControlPlane::shared().namespace("forbidden");
    namespace.apply_service("web", "portlb.io/address: 10.1.1.10");
    namespace.apply_endpoints("web", &["10.0.0.1"]);
    namespace.grant("[{apiGroups: [\"\"], resources: [services], verbs: [list, watch]}]");
    let kubeconfig = namespace.kubeconfig(namespace.cluster.control.address());
    let watcher = PodWatcherProcess::start(&namespace, &kubeconfig, &[]);
    let stream = watcher.watch();
    let readyz = watcher.wait_for_readyz(
        &[
            "503",
            "missing source",
            "forbids this daemon to list endpointslices in namespace forbidden",
            "system:serviceaccount:forbidden:portlb",
            "{apiGroups: [\"discovery.k8s.io\"], resources: [\"endpointslices\"], verbs: [\"list\", \"watch\"]}",
        ],
        SOON,
    );
    // pod-watcher sends no event, because it has no list of EndpointSlices.
    assert_eq!(stream.event_count(), 0, "{readyz}");
    let failures =
        "portlb_kubernetes_request_failures_total{resource=\"endpointslices\",reason=\"403\"}";
    lab::wait_for("three rejected requests of pod-watcher", SOON, || {
        let failed = watcher.metric(failures);
        lab::ensure_that(failed >= 3.0, failed)
    })
    .unwrap();
    let lines = watcher.process.lines();
    let reports = lines.iter().filter(|line| line.contains("forbids"));
    assert_eq!(reports.count(), 1, "{lines:#?}");
    // pod-watcher serves after the Role has the rule that the message recommends.
    namespace.grant(
        "[{apiGroups: [\"\"], resources: [services], verbs: [list, watch]},
          {apiGroups: [\"discovery.k8s.io\"], resources: [\"endpointslices\"], verbs: [\"list\", \"watch\"]}]",
    );
    stream.wait_for(&[WEB], SOON);
    watcher.wait_for_readyz(&["200 OK", "1 virtual servers, 0 service ranges\n"], SOON);
}
