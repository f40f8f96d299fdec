//! What may go wrong between pod-watcher and the API server: the last desired set stays, nothing is
//! withdrawn, and the truth is reached afterwards.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lab::kubernetes::FaultProxy;

use crate::cluster::{ALL_RULES, Cluster, Namespace};
use crate::watcher::{SOON, Told, Watcher};

/// A watch of 5 s counts as lost after 15 s; then the proxy hangs once more.
const STALE: Duration = Duration::from_secs(60);

const WEB: &str = "tcp/10.1.1.10:80 -> 10.0.0.1";

/// A watcher behind a proxy that serves one Service.
struct Served<'a> {
    namespace: Namespace<'a>,
    proxy: FaultProxy,
    watcher: Watcher,
    told: Told,
}

impl<'a> Served<'a> {
    fn start(cluster: &'a Cluster, name: &'static str) -> Self {
        let namespace = cluster.namespace(name);
        namespace.service("web", "portlb.io/address: 10.1.1.10");
        namespace.endpoints("web", &["10.0.0.1"]);
        let proxy = FaultProxy::start(cluster.control.address()).unwrap();
        let kubeconfig = namespace.kubeconfig(proxy.address());
        let watcher = Watcher::start(&namespace, &kubeconfig, &[]);
        let told = watcher.watch();
        told.wait_for(&[WEB], SOON);
        Self {
            namespace,
            proxy,
            watcher,
            told,
        }
    }

    /// Another Service comes, and the endpoints of the first change.
    fn change(&self) {
        self.namespace
            .service("new", "portlb.io/address: 10.1.1.20");
        self.namespace.endpoints("new", &["10.0.0.9"]);
        self.namespace.endpoints("web", &["10.0.0.2"]);
    }

    fn wait_for_the_change(&self, within: Duration) {
        let expected = [
            "tcp/10.1.1.10:80 -> 10.0.0.2",
            "tcp/10.1.1.20:80 -> 10.0.0.9",
        ];
        self.told.wait_for(&expected, within);
        assert_eq!(self.told.removals(), 0);
        self.watcher.wait_for_readyz(
            &[
                "200 OK",
                "ready source: 2 virtual servers, 0 service ranges\n",
            ],
            SOON,
        );
    }

    fn is_kept(&self, because: &[&str], within: Duration) {
        let words = [&["200 OK", "1 virtual servers", "kept"], because].concat();
        self.watcher.wait_for_readyz(&words, within);
        assert_eq!(self.told.state().unwrap(), [WEB]);
        assert_eq!(self.told.removals(), 0);
    }
}

#[test]
fn nothing_is_withdrawn_while_the_api_server_is_away_and_the_truth_is_reached_afterwards() {
    let served = Served::start(Cluster::shared(), "away");
    served.proxy.refuse().unwrap();
    served.is_kept(&["cannot reach the API server", "refused"], SOON);
    assert!(served.watcher.metric("portlb_source_in_use") < 0.5);
    served.change();
    served.proxy.pass().unwrap();
    served.wait_for_the_change(SOON);
    // Each trouble once, however often it was tried.
    let lines = served.watcher.process.lines();
    let errors = lines.iter().filter(|line| line.contains("ERROR"));
    assert_eq!(errors.count(), 1, "{lines:#?}");
}

#[test]
fn an_object_that_was_deleted_while_the_watch_was_down_is_found() {
    let served = Served::start(Cluster::shared(), "deleted");
    served.proxy.refuse().unwrap();
    served.is_kept(&[], SOON);
    served.namespace.kubectl(&["delete", "service", "web"]);
    served.proxy.pass().unwrap();
    served.told.wait_for(&[], SOON);
    assert_eq!(served.told.removals(), 1);
}

#[test]
fn a_cut_connection_is_resumed_without_a_word() {
    let served = Served::start(Cluster::shared(), "cut");
    let lists = |resource: &str| {
        let name = format!("portlb_kubernetes_lists_total{{resource=\"{resource}\"}}");
        served.watcher.metric(&name)
    };
    assert_eq!((lists("services"), lists("endpointslices")), (1.0, 1.0));
    served.proxy.cut().unwrap();
    served.change();
    served.wait_for_the_change(SOON);
    // It went on from where it was.
    assert_eq!((lists("services"), lists("endpointslices")), (1.0, 1.0));
}

#[test]
fn a_watch_that_has_gone_stale_is_noticed_and_begun_anew() {
    let served = Served::start(Cluster::shared(), "stale");
    served.proxy.hang().unwrap();
    served.change();
    served.is_kept(&["cannot reach the API server"], STALE);
    served.proxy.pass().unwrap();
    served.wait_for_the_change(SOON);
}

#[test]
fn an_idle_watch_stays_without_a_new_list() {
    let served = Served::start(Cluster::shared(), "idle");
    // A watch lasts for 5 s, so that each is begun three times.
    let heard = "portlb_kubernetes_last_event_timestamp_seconds{resource=\"services\"}";
    let mut last = served.watcher.metric(heard);
    for _ in 0..3 {
        last = lab::wait_for("the next watch", SOON, || {
            let now = served.watcher.metric(heard);
            if now > last { Ok(now) } else { Err(now) }
        })
        .unwrap();
    }
    served.change();
    served.wait_for_the_change(SOON);
    let lists = "portlb_kubernetes_lists_total{resource=\"services\"}";
    assert_eq!(served.watcher.metric(lists), 1.0);
}

#[test]
fn history_that_the_api_server_has_lost_is_answered_by_a_new_list() {
    let mut cluster = Cluster::start();
    let (proxy, watcher, told);
    {
        let served = Served::start(&cluster, "gone");
        served.proxy.refuse().unwrap();
        served.is_kept(&[], SOON);
        served.change();
        served
            .namespace
            .service("short", "portlb.io/address: 10.1.1.30");
        served.namespace.kubectl(&["delete", "service", "short"]);
        Served {
            proxy,
            watcher,
            told,
            ..
        } = served;
    }
    // Its watch cache begins at the present, and etcd forgets the past.
    cluster.control.restart().unwrap();
    proxy.pass().unwrap();
    let expected = [
        "tcp/10.1.1.10:80 -> 10.0.0.2",
        "tcp/10.1.1.20:80 -> 10.0.0.9",
    ];
    told.wait_for(&expected, SOON);
    assert_eq!(told.removals(), 0);
    watcher.wait_for_readyz(&["200 OK", "2 virtual servers, 0 service ranges\n"], SOON);
    let lists = "portlb_kubernetes_lists_total{resource=\"services\"}";
    assert!(watcher.metric(lists) >= 2.0, "{}", watcher.get("/metrics"));
}

#[test]
fn a_slow_api_server_is_waited_for_and_synced_is_said_after_all_lists() {
    let namespace = Cluster::shared().namespace("slow");
    namespace.service("web", "portlb.io/address: 10.1.1.10");
    let addresses: Vec<String> = (1..=90).map(|n| format!("10.0.0.{n}")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    namespace.endpoints("web", &addresses);
    let proxy = FaultProxy::start(namespace.cluster.control.address()).unwrap();
    let kubeconfig = namespace.kubeconfig(proxy.address());
    proxy.slow(5_000).unwrap();
    let watcher = Watcher::start(&namespace, &kubeconfig, &[]);
    let told = watcher.watch();
    let all = format!("tcp/10.1.1.10:80 -> {}", addresses.join(", "));
    told.wait_for(&[&all], STALE);
    // Whole from the beginning: one virtual server and the mark.
    assert_eq!(told.events(), 2);
}

#[test]
fn a_throttling_api_server_is_obeyed_and_shown() {
    let served = Served::start(Cluster::shared(), "throttled");
    let control = &served.namespace.cluster.control;
    // One request of this user at a time, and no queue.
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
    // That one is the answer to a client that reads it slowly.
    let text = "x".repeat(900_000);
    let file = served.namespace.cluster.directory.path().join("large");
    std::fs::write(&file, text).unwrap();
    let from_file = format!("--from-file={}", file.display());
    // More than all sockets on the way hold.
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
            // What was granted takes a moment to be so.
            while !has_ended.load(Ordering::Relaxed) && began.elapsed() < 3 * STALE {
                let _ = control.kubectl(&ask);
            }
        });
        served.is_kept(&["too busy (429"], 2 * STALE);
        served.change();
        has_ended.store(true, Ordering::Relaxed);
        reader.refuse().unwrap();
    });
    served.wait_for_the_change(2 * STALE);
    control
        .kubectl(&["delete", "flowschema,prioritylevelconfiguration", "narrow"])
        .unwrap();
    let failures = "portlb_kubernetes_request_failures_total{resource=\"services\",reason=\"429\"}";
    let failed = served.watcher.metric(failures);
    assert!(failed < 50.0, "{failed}: the wait that it asks for is kept");
}

#[test]
fn a_token_that_is_not_accepted_is_named_and_a_rotated_one_is_taken() {
    let served = Served::start(Cluster::shared(), "token");
    let file = served
        .namespace
        .cluster
        .directory
        .path()
        .join("control-plane/token.token");
    assert!(file.exists(), "{}", file.display());
    // The ServiceAccount is another one now: the token has expired, so to say.
    served
        .namespace
        .kubectl(&["delete", "serviceaccount", "portlb"]);
    served
        .namespace
        .kubectl(&["create", "serviceaccount", "portlb"]);
    served.is_kept(&["does not accept the credentials (401"], STALE);
    served.change();
    std::fs::write(&file, served.namespace.token()).unwrap();
    served.wait_for_the_change(SOON);
}

#[test]
fn a_rotated_authority_is_taken() {
    let mut cluster = Cluster::start();
    let (proxy, watcher, told);
    {
        let served = Served::start(&cluster, "authority");
        served.change();
        served.wait_for_the_change(SOON);
        Served {
            proxy,
            watcher,
            told,
            ..
        } = served;
    }
    cluster.control.restart_with_new_authority().unwrap();
    // The file that the kubeconfig names holds the new one by then.
    watcher.wait_for_readyz(&["200 OK", "2 virtual servers, 0 service ranges\n"], STALE);
    let namespace = Namespace {
        cluster: &cluster,
        name: "authority",
    };
    namespace.kubectl(&["delete", "service", "new"]);
    told.wait_for(&["tcp/10.1.1.10:80 -> 10.0.0.2"], STALE);
    drop(proxy);
}

#[test]
fn a_forbidden_verb_is_named_with_the_rule_that_grants_it() {
    let namespace = Cluster::shared().namespace("forbidden");
    namespace.service("web", "portlb.io/address: 10.1.1.10");
    namespace.endpoints("web", &["10.0.0.1"]);
    namespace.grant("[{apiGroups: [\"\"], resources: [services], verbs: [list, watch]}]");
    let kubeconfig = namespace.kubeconfig(namespace.cluster.control.address());
    let watcher = Watcher::start(&namespace, &kubeconfig, &[]);
    let told = watcher.watch();
    let readyz = watcher.wait_for_readyz(
        &[
            "503",
            "missing source",
            "forbids to list endpointslices in namespace forbidden",
            "system:serviceaccount:forbidden:portlb",
            "{apiGroups: [\"discovery.k8s.io\"], resources: [\"endpointslices\"], verbs: [\"list\", \"watch\"]}",
        ],
        SOON,
    );
    // Half of the truth is none.
    assert_eq!(told.events(), 0, "{readyz}");
    let failures =
        "portlb_kubernetes_request_failures_total{resource=\"endpointslices\",reason=\"403\"}";
    lab::wait_for("more attempts", SOON, || {
        let failed = watcher.metric(failures);
        lab::ensure_that(failed >= 3.0, failed)
    })
    .unwrap();
    let lines = watcher.process.lines();
    let said = lines.iter().filter(|line| line.contains("forbids"));
    assert_eq!(said.count(), 1, "{lines:#?}");
    // What the message says is enough.
    namespace.grant(
        "[{apiGroups: [\"\"], resources: [services], verbs: [list, watch]},
          {apiGroups: [\"discovery.k8s.io\"], resources: [\"endpointslices\"], verbs: [\"list\", \"watch\"]}]",
    );
    told.wait_for(&[WEB], SOON);
    watcher.wait_for_readyz(&["200 OK", "1 virtual servers, 0 service ranges\n"], SOON);
}
