//! Tests of the daemon on the kernel of this machine.
//!
//! Each test runs in its own network namespace. The tests fail without the capabilities
//! CAP_SYS_ADMIN and CAP_NET_ADMIN, which root has.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use daemon_runtime::Daemon;
use node_router::{Config, NetlinkKernel, NotOnLink, OpenedKernel, RouteKernel, uplink::Uplinks};
use tonic::{Code, Streaming};

use crate::{
    namespace::{in_namespace, ip, run},
    support::{DEADLINE, config, foreign_route, hold, next, prefix},
};

/// Returns the routes to a prefix in the output format of `ip`. All next hops of a route are in one
/// string.
fn routes(prefix: &str) -> Vec<String> {
    let family = if prefix.contains(':') { "-6" } else { "-4" };
    let text = ip(&format!("{family} route show {prefix}"));
    let mut routes: Vec<String> = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match routes.last_mut() {
            Some(route) if line.starts_with(char::is_whitespace) => {
                route.push_str(&format!(" / {}", words.join(" ")));
            }
            Some(_) | None => routes.push(words.join(" ")),
        }
    }
    routes
}

/// Polls `ip` until the condition holds, because `ip` provides no event for the change of a route.
async fn wait_for_routes(prefix: &str, is_so: impl Fn(&[String]) -> bool) {
    let seen = async {
        while !is_so(&routes(prefix)) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(
        tokio::time::timeout(DEADLINE, seen).await.is_ok(),
        "{prefix}: {:?}",
        routes(prefix)
    );
}

pub(crate) struct RealKernelNode {
    daemon: tokio::task::JoinHandle<Result<(), daemon_runtime::DaemonError>>,
    shutdown: daemon_runtime::Shutdown,
    target: daemon_runtime::GrpcTarget,
    pub(crate) metrics: daemon_runtime::Metrics,
    readiness: daemon_runtime::Readiness,
    _directory: tempfile::TempDir,
}

impl RealKernelNode {
    pub(crate) async fn start(adjust: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("node-router.sock");
        let mut config = config(socket.clone());
        adjust(&mut config);
        let mut daemon = Daemon::new("node-router");
        node_router::start(config, &mut daemon).await.unwrap();
        Self {
            shutdown: daemon.shutdown().clone(),
            metrics: daemon.metrics().clone(),
            readiness: daemon.readiness().clone(),
            daemon: tokio::spawn(daemon.run_until_drained(std::future::pending())),
            target: daemon_runtime::GrpcTarget::Unix(socket),
            _directory: directory,
        }
    }

    pub(crate) async fn hold(
        &self,
        prefix: &str,
        gateway: &str,
    ) -> Result<Streaming<daemon_api::noderoute::v1::HoldResponse>, tonic::Status> {
        let channel = self.target.channel();
        let mut client =
            daemon_api::noderoute::v1::node_route_service_client::NodeRouteServiceClient::new(
                channel,
            );
        let mut stream = hold(&mut client, prefix, gateway).await?;
        let first = next(&mut stream).await.unwrap();
        assert!(first.installed && first.interface == "pods0", "{first:?}");
        Ok(stream)
    }

    pub(crate) async fn stop(self) {
        self.shutdown.request();
        self.daemon.await.unwrap().unwrap();
    }
}

/// Checks the multipath route while the number of pods goes from one to three and back to none.
async fn check_multipath(prefix: &str, gateways: [&str; 3]) {
    let node = RealKernelNode::start(|_| {}).await;
    let mut streams = vec![node.hold(prefix, gateways[0]).await.unwrap()];
    let shown = routes(prefix);
    let one = format!(
        "{prefix} via {} dev pods0 proto 112 metric 112",
        gateways[0]
    );
    assert!(shown.len() == 1 && shown[0].starts_with(&one), "{shown:?}");
    for gateway in &gateways[1..] {
        streams.push(node.hold(prefix, gateway).await.unwrap());
    }
    let shows = |expected: &'static [bool]| {
        move |shown: &[String]| {
            shown.len() == 1
                && gateways
                    .iter()
                    .zip(expected)
                    .all(|(gateway, &via)| shown[0].contains(&format!("via {gateway} ")) == via)
        }
    };
    wait_for_routes(prefix, shows(&[true, true, true])).await;
    streams.remove(1);
    wait_for_routes(prefix, shows(&[true, false, true])).await;
    streams.remove(0);
    wait_for_routes(prefix, shows(&[false, false, true])).await;
    streams.push(node.hold(prefix, gateways[0]).await.unwrap());
    wait_for_routes(prefix, shows(&[true, false, true])).await;
    streams.clear();
    wait_for_routes(prefix, <[_]>::is_empty).await;
    node.stop().await;
}

#[test]
fn several_pods_share_one_ipv4_multipath_route() {
    in_namespace(|| check_multipath("10.1.1.0/24", ["10.244.3.7", "10.244.3.8", "10.244.3.9"]));
}

#[test]
fn several_pods_share_one_ipv6_multipath_route() {
    in_namespace(|| {
        check_multipath(
            "fd00:1::/64",
            ["fd00:244:3::7", "fd00:244:3::8", "fd00:244:3::9"],
        )
    });
}

#[test]
fn a_hold_is_refused_if_a_foreign_route_wins_and_the_foreign_route_stays_unchanged() {
    for (prefix, foreign, gateway) in [
        ("10.1.1.0/24", "via 192.0.2.9 dev uplink", "10.244.3.7"),
        (
            "10.1.1.0/24",
            "via 192.0.2.9 dev uplink metric 112",
            "10.244.3.7",
        ),
        (
            "fd00:1::/64",
            "via fd00:244:3::9 dev pods0 metric 112",
            "fd00:244:3::7",
        ),
    ] {
        in_namespace(async move || {
            let family = if prefix.contains(':') { "-6" } else { "-4" };
            ip(&format!(
                "{family} route add {prefix} {foreign} proto static"
            ));
            let before = routes(prefix);
            let node = RealKernelNode::start(|_| {}).await;
            let status = node.hold(prefix, gateway).await.unwrap_err();
            assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
            assert!(status.message().contains("proto static"), "{status:?}");
            assert_eq!(routes(prefix), before);
            node.stop().await;
            assert_eq!(routes(prefix), before);
        });
    }
}

#[test]
fn a_foreign_route_with_a_higher_metric_stays_next_to_the_held_route() {
    in_namespace(async || {
        ip("route add 10.1.1.0/24 via 192.0.2.9 metric 500 proto static");
        let before = routes("10.1.1.0/24");
        let node = RealKernelNode::start(|_| {}).await;
        let stream = node.hold("10.1.1.0/24", "10.244.3.7").await.unwrap();
        assert_eq!(routes("10.1.1.0/24").len(), 2);
        assert!(ip("route get 10.1.1.5").contains("via 10.244.3.7"));
        drop(stream);
        wait_for_routes("10.1.1.0/24", |shown| shown == before).await;
        node.stop().await;
    });
}

#[test]
fn a_gateway_that_is_not_on_a_link_of_the_node_is_refused() {
    in_namespace(async || {
        // The gateways below are allowed, but the node reaches them by a router, has an unreachable
        // route to them, or owns them.
        ip("route add 10.244.3.128/25 via 192.0.2.1");
        ip("route add unreachable 10.244.3.99/32");
        let node = RealKernelNode::start(|_| {}).await;
        for (gateway, part) in [
            ("10.244.3.200", "behind the router 192.0.2.1"),
            ("10.244.3.1", "address of the node itself"),
            ("10.244.3.99", "no route"),
        ] {
            let status = node.hold("10.1.1.0/24", gateway).await.unwrap_err();
            assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
            assert!(status.message().contains(part), "{status:?}");
        }
        assert_eq!(routes("10.1.1.0/24"), [""; 0]);
        node.stop().await;
    });
}

#[test]
fn a_pod_with_its_own_interface_and_a_host_route_can_be_a_gateway() {
    in_namespace(async || {
        ip("addr del 10.244.3.1/24 dev pods0");
        ip("route add 10.244.3.7/32 dev pods0 scope link");
        let node = RealKernelNode::start(|_| {}).await;
        let _stream = node.hold("10.1.1.0/24", "10.244.3.7").await.unwrap();
        assert_eq!(routes("10.1.1.0/24").len(), 1);
        node.stop().await;
    });
}

#[test]
fn a_route_that_another_program_deletes_is_restored() {
    in_namespace(async || {
        let node = RealKernelNode::start(|_| {}).await;
        let _v4 = node.hold("10.1.1.0/24", "10.244.3.7").await.unwrap();
        let _v6 = node.hold("fd00:1::/64", "fd00:244:3::7").await.unwrap();
        for (family, prefix) in [("-4", "10.1.1.0/24"), ("-6", "fd00:1::/64")] {
            ip(&format!("{family} route del {prefix}"));
            wait_for_routes(prefix, |shown| shown.len() == 1).await;
        }
        // `ip` shows the route a moment before the kernel acknowledges the change to the daemon.
        for counted in ["repairs_total 2\n", "kernel_changes_total{change=\"add\"}"] {
            let is_counted = || node.metrics.encode().contains(counted);
            wait_until(counted, is_counted).await;
        }
        node.stop().await;
    });
}

#[test]
fn a_route_whose_next_hops_another_program_replaces_is_restored() {
    in_namespace(async || {
        let node = RealKernelNode::start(|_| {}).await;
        let mut stream = node.hold("10.1.1.0/24", "10.244.3.7").await.unwrap();
        // A route of another program in the place of the held route is a foreign route. The daemon
        // reports the conflict to the holder, and does not change the foreign route.
        ip("route replace 10.1.1.0/24 via 192.0.2.9 metric 112 proto static");
        assert!(!next(&mut stream).await.unwrap().installed);
        ip("route del 10.1.1.0/24 metric 112");
        assert!(next(&mut stream).await.unwrap().installed);
        // A route with protocol 112 is a route of the daemon, so the daemon restores its next hops.
        ip("route replace 10.1.1.0/24 via 192.0.2.9 metric 112 proto 112");
        wait_for_routes("10.1.1.0/24", |shown| {
            shown.len() == 1 && shown[0].contains("via 10.244.3.7 ")
        })
        .await;
        node.stop().await;
    });
}

#[test]
fn the_holder_is_notified_when_the_link_of_the_gateway_goes_down_and_comes_up() {
    in_namespace(async || {
        let node = RealKernelNode::start(|_| {}).await;
        let mut stream = node.hold("10.1.1.0/24", "10.244.3.7").await.unwrap();
        ip("link set pods0 down");
        assert!(!next(&mut stream).await.unwrap().installed);
        assert_eq!(routes("10.1.1.0/24"), [""; 0]);
        ip("link set pods0 up");
        assert!(next(&mut stream).await.unwrap().installed);
        assert_eq!(routes("10.1.1.0/24").len(), 1);
        node.stop().await;
    });
}

#[test]
fn routes_stay_after_the_exit_and_the_next_run_adopts_them_without_a_change() {
    in_namespace(async || {
        let node = RealKernelNode::start(|_| {}).await;
        let v4 = [
            node.hold("10.1.1.0/24", "10.244.3.7").await.unwrap(),
            node.hold("10.1.1.0/24", "10.244.3.8").await.unwrap(),
        ];
        let v6 = [
            node.hold("fd00:1::/64", "fd00:244:3::7").await.unwrap(),
            node.hold("fd00:1::/64", "fd00:244:3::8").await.unwrap(),
        ];
        let before = (routes("10.1.1.0/24"), routes("fd00:1::/64"));
        node.stop().await;
        drop((v4, v6));
        assert_eq!((routes("10.1.1.0/24"), routes("fd00:1::/64")), before);

        let node =
            RealKernelNode::start(|config| config.adopt_timeout = Duration::from_secs(2)).await;
        let _v4 = node.hold("10.1.1.0/24", "10.244.3.7").await.unwrap();
        let _v6 = node.hold("fd00:1::/64", "fd00:244:3::8").await.unwrap();
        assert_eq!((routes("10.1.1.0/24"), routes("fd00:1::/64")), before);
        let metrics = node.metrics.encode();
        assert!(!metrics.contains("kernel_changes_total{"), "{metrics}");

        wait_for_routes("10.1.1.0/24", |shown| !shown[0].contains("10.244.3.8")).await;
        wait_for_routes("fd00:1::/64", |shown| !shown[0].contains("fd00:244:3::7")).await;
        node.stop().await;
    });
}

#[test]
fn routes_with_protocol_112_in_a_form_that_node_router_never_writes_are_removed() {
    in_namespace(async || {
        ip("route add blackhole 10.1.1.0/24 proto 112 metric 112");
        ip("route add 10.1.2.0/24 via 10.244.3.7 proto 112 metric 7");
        ip("-6 route add unreachable fd00:1::/64 proto 112 metric 112");
        ip("route add 10.77.0.0/16 via 192.0.2.9 proto static");
        let node = RealKernelNode::start(|config| config.adopt_timeout = Duration::ZERO).await;
        assert_eq!(ip("route show proto 112"), "");
        assert_eq!(ip("-6 route show proto 112"), "");
        assert_eq!(routes("10.77.0.0/16").len(), 1);
        node.stop().await;
    });
}

#[test]
fn link_to_returns_the_interface_of_a_gateway_or_why_no_interface_leads_to_it() {
    in_namespace(async || {
        let policy = config("/unused".into()).policy;
        let OpenedKernel {
            mut kernel,
            changes: _,
            serving,
            reads: _,
        } = NetlinkKernel::open(policy).unwrap();
        tokio::spawn(serving);
        let mut link_to = async |text: &str| {
            let gateway: IpAddr = text.parse().unwrap();
            kernel.link_to(gateway).await.unwrap().map(|link| link.name)
        };
        assert_eq!(link_to("10.244.3.7").await, Ok("pods0".to_owned()));
        assert_eq!(link_to("fd00:244:3::7").await, Ok("pods0".to_owned()));
        assert_eq!(link_to("10.244.3.1").await, Err(NotOnLink::Local));
        assert_eq!(link_to("fd00:244:3::1").await, Err(NotOnLink::Local));
        let router = "192.0.2.1".parse().unwrap();
        assert_eq!(
            link_to("198.51.100.1").await,
            Err(NotOnLink::BehindRouter(router))
        );
        assert_eq!(link_to("2001:db8::1").await, Err(NotOnLink::NoRoute));
    });
}

#[test]
fn only_foreign_routes_to_allowed_prefixes_in_the_tables_main_and_local_are_returned() {
    in_namespace(async || {
        ip("route add 10.1.1.0/24 via 192.0.2.9 proto static");
        ip("route add 10.1.2.0/24 via 192.0.2.9 proto static table 100");
        ip("route add 10.99.1.0/24 via 192.0.2.9 proto static");
        ip("addr add 10.1.3.1/32 dev lo");
        let policy = config("/unused".into()).policy;
        let OpenedKernel {
            mut kernel,
            changes: _,
            serving,
            reads: _,
        } = NetlinkKernel::open(policy).unwrap();
        tokio::spawn(serving);
        let mut foreign = kernel.read(&BTreeSet::new()).await.unwrap().routes.foreign;
        foreign.sort_by_key(|route| route.prefix);
        assert_eq!(foreign[0], foreign_route("10.1.1.0/24", 0));
        assert_eq!(foreign[1].prefix, prefix("10.1.3.1/32"));
        assert!(foreign[1].is_local);
        assert_eq!(foreign.len(), 2);
    });
}

/// Returns the rules with the guard's preference, of both IP versions.
fn rules() -> Vec<String> {
    let all = ["-4", "-6"].map(|version| ip(&format!("{version} rule show pref 112")));
    let lines = all.iter().flat_map(|text| text.lines());
    lines
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

/// Returns the routes in the guard's table, of one IP version.
fn guard_routes(version: &str) -> Vec<String> {
    let text = ip(&format!("{version} route show table 112"));
    let lines = text.lines();
    lines
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

pub(crate) async fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let seen = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let is_in_time = tokio::time::timeout(DEADLINE, seen).await.is_ok();
    assert!(is_in_time, "{what}: {:?} {:?}", rules(), guard_routes("-4"));
}

const RULE: &str = "112: from all to 10.1.0.0/16 iif uplink lookup 112 proto 112";

#[test]
fn packets_from_the_uplink_follow_only_held_routes_and_are_dropped_without_a_held_route() {
    in_namespace(async || {
        ip("-6 addr add 2001:db8::2/64 dev uplink nodad");
        ip("-6 route add default via 2001:db8::1");
        let node = RealKernelNode::start(|_| {}).await;
        let rule6 = "112: from all to fd00:1::/64 iif uplink lookup 112 proto 112";
        assert_eq!(rules(), [RULE, rule6]);
        let blackhole = "blackhole 10.1.0.0/16 proto 112 metric 1120";
        assert_eq!(guard_routes("-4"), [blackhole]);
        let shown = guard_routes("-6");
        assert!(
            shown.len() == 1 && shown[0].starts_with("blackhole fd00:1::/64 dev lo proto 112"),
            "{shown:?}"
        );
        let from_uplink = |address: &str| {
            let arguments = format!("route get {address} from 198.51.100.9 iif uplink");
            let output = std::process::Command::new("ip")
                .args(arguments.split_whitespace())
                .output()
                .unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        assert!(!from_uplink("10.1.1.5").contains("192.0.2.1"));
        // Packets of pods and of the node itself follow the default route.
        assert!(ip("route get 10.1.1.5").contains("via 192.0.2.1 dev uplink"));
        let from_pod = ip("route get 10.1.1.5 from 10.244.3.7 iif pods0");
        assert!(from_pod.contains("via 192.0.2.1 dev uplink"), "{from_pod}");

        let stream = node.hold("10.1.1.0/24", "10.244.3.7").await.unwrap();
        assert!(from_uplink("10.1.1.5").contains("via 10.244.3.7 dev pods0"));
        assert!(ip("route get 10.1.1.5").contains("via 10.244.3.7 dev pods0"));
        let metrics = node.metrics.encode();
        assert!(metrics.contains("uplink_guard_installed 1"), "{metrics}");
        let report = node.readiness.report();
        assert!(report.contains("IPv4: uplink; IPv6: uplink"), "{report}");
        drop(stream);
        wait_until("the held route is removed", || {
            guard_routes("-4") == [blackhole]
        })
        .await;
        assert!(!from_uplink("10.1.1.5").contains("10.244.3.7"));
        node.stop().await;
    });
}

#[test]
fn the_uplink_guard_is_adopted_and_is_restored_after_another_program_changes_it() {
    in_namespace(async || {
        let node = RealKernelNode::start(|_| {}).await;
        let stream = node.hold("10.1.1.0/24", "10.244.3.7").await.unwrap();
        let before = (rules(), guard_routes("-4"));
        assert_eq!(before.0, [RULE]);
        assert_eq!(before.1.len(), 2, "{before:?}");
        node.stop().await;
        drop(stream);
        assert_eq!((rules(), guard_routes("-4")), before);

        let node = RealKernelNode::start(|_| {}).await;
        let _stream = node.hold("10.1.1.0/24", "10.244.3.7").await.unwrap();
        assert_eq!((rules(), guard_routes("-4")), before);
        let metrics = node.metrics.encode();
        assert!(!metrics.contains("kernel_changes_total{"), "{metrics}");

        for damage in [
            "rule del pref 112",
            "route del blackhole 10.1.0.0/16 table 112",
            "route del 10.1.1.0/24 table 112",
            "route replace 10.1.1.0/24 via 192.0.2.9 metric 112 proto 112 table 112",
        ] {
            ip(damage);
            let is_repaired = || (rules(), guard_routes("-4")) == before;
            wait_until(damage, is_repaired).await;
        }
        node.stop().await;
    });
}

#[test]
fn the_uplink_guard_follows_the_default_route_and_changes_no_foreign_rule_or_route() {
    in_namespace(async || {
        ip("rule add pref 112 to 10.9.0.0/16 lookup 100");
        ip("route add 10.9.9.0/24 via 192.0.2.9 table 112 proto static");
        ip("route add 10.1.7.0/24 via 192.0.2.9 proto static");
        let node = RealKernelNode::start(|_| {}).await;
        let foreign_rule = "112: from all to 10.9.0.0/16 lookup 100";
        assert_eq!(rules(), [foreign_rule, RULE]);
        // The foreign route stays in force.
        let through = ip("route get 10.1.7.5 from 198.51.100.9 iif uplink");
        assert!(through.contains("via 192.0.2.9"), "{through}");

        ip("link add other type veth peer name other-router");
        ip("link set other up");
        ip("link set other-router up");
        ip("addr add 203.0.113.2/24 dev other");
        ip("route replace default via 203.0.113.1");
        let moved_rule = RULE.replace("iif uplink", "iif other");
        wait_until("the rule follows the default route", || {
            rules() == [foreign_rule, &moved_rule]
        })
        .await;
        ip("route del default");
        wait_until("the rule is removed without an uplink", || {
            rules() == [foreign_rule]
        })
        .await;
        let metrics = node.metrics.encode();
        assert!(metrics.contains("uplink_guard_installed 0"), "{metrics}");
        assert!(node.readiness.is_ready());
        assert!(ip("route show table 112").contains("10.9.9.0/24 via 192.0.2.9"));
        node.stop().await;
    });
}

#[test]
fn an_unreachable_default_route_does_not_make_the_loopback_interface_an_uplink() {
    in_namespace(async || {
        ip("-6 route add unreachable default metric 4096");
        assert!(ip("-6 route show type unreachable").contains("default dev lo"));
        let node = RealKernelNode::start(|_| {}).await;
        assert_eq!(rules(), [RULE]);
        let report = node.readiness.report();
        assert!(report.contains("IPv6: no default route"), "{report}");
        node.stop().await;
    });
}

#[test]
fn the_interface_of_the_pods_is_guarded_only_if_the_flag_uplink_names_it() {
    in_namespace(async || {
        ip("route replace default via 10.244.3.254 dev pods0");
        let node = RealKernelNode::start(|_| {}).await;
        assert_eq!(rules(), [""; 0]);
        assert!(node.readiness.is_ready());
        let report = node.readiness.report();
        for part in [
            "IPv4: no guard for pods0",
            "reaches its pods by this interface",
            "name the interface with --uplink",
        ] {
            assert!(report.contains(part), "{report}");
        }
        assert!(node.metrics.encode().contains("uplink_guard_installed 0"));
        node.stop().await;

        let named = BTreeSet::from(["pods0".to_owned()]);
        let node = RealKernelNode::start(|config| config.uplinks = Uplinks::Named(named)).await;
        assert!(rules().join("\n").contains("iif pods0"), "{:?}", rules());
        node.stop().await;
    });
}

#[test]
fn an_uplink_has_no_guard_while_a_route_to_pods_uses_it() {
    in_namespace(async || {
        let node = RealKernelNode::start(|_| {}).await;
        assert_eq!(rules(), [RULE]);
        ip("route add 10.244.3.128/25 dev uplink");
        wait_until("the guard is removed", || rules().is_empty()).await;
        ip("route del 10.244.3.128/25 dev uplink");
        wait_until("the guard returns", || rules() == [RULE]).await;
        node.stop().await;
    });
}

#[test]
fn uplink_none_removes_the_guard_of_an_earlier_run() {
    in_namespace(async || {
        RealKernelNode::start(|_| {}).await.stop().await;
        assert_eq!(rules(), [RULE]);
        let node = RealKernelNode::start(|config| config.uplinks = Uplinks::None).await;
        assert_eq!(rules(), [""; 0]);
        assert_eq!(guard_routes("-4"), [""; 0]);
        node.stop().await;

        let named = BTreeSet::from(["pod7".to_owned(), "absent".to_owned()]);
        let node = RealKernelNode::start(|config| config.uplinks = Uplinks::Named(named)).await;
        // The kernel lists rules with equal preference in the order in which they were added. The
        // test does not fix this order, so it only searches for the rules.
        let shown = rules().join("\n");
        for part in [
            "to 10.1.0.0/16 iif pod7",
            "to fd00:1::/64 iif absent [detached]",
        ] {
            assert!(shown.contains(part), "{shown}");
        }
        node.stop().await;
    });
}

#[test]
fn the_exemption_table_is_installed_and_stays_after_the_exit() {
    in_namespace(async || {
        let node = RealKernelNode::start(|_| {}).await;
        let table = run("nft", "list table inet portlb-node-router");
        for part in [
            "type filter hook prerouting priority raw; policy accept;",
            "type filter hook output priority raw; policy accept;",
            "10.1.0.0/16",
            "fd00:1::/64",
            "notrack",
        ] {
            assert!(table.contains(part), "{part:?} is not in {table}");
        }
        node.stop().await;
        assert_eq!(run("nft", "list table inet portlb-node-router"), table);

        // The next run adopts the table. The unchanged counters show that the table was not
        // replaced.
        let node = RealKernelNode::start(|_| {}).await;
        assert_eq!(run("nft", "list table inet portlb-node-router"), table);
        node.stop().await;
    });
}

#[test]
fn an_exemption_that_another_program_removes_is_restored() {
    in_namespace(async || {
        let node =
            RealKernelNode::start(|config| config.audit_interval = Duration::from_millis(100))
                .await;
        let table = run("nft", "list table inet portlb-node-router");
        for command in [
            "flush ruleset",
            "flush chain inet portlb-node-router prerouting",
        ] {
            run("nft", command);
            let restored = async {
                while run("nft", "list ruleset") != table {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            let restored = tokio::time::timeout(DEADLINE, restored).await;
            assert!(restored.is_ok(), "{command}: the exemption is not restored");
        }
        node.stop().await;
    });
}

#[test]
fn the_daemon_is_not_ready_and_refuses_holds_while_the_node_does_not_forward() {
    for (sysctl, name, held, second, other) in [
        (
            "ipv4/ip_forward",
            "net.ipv4.ip_forward",
            ("10.1.1.0/24", "10.244.3.7"),
            "10.244.3.8",
            ("fd00:1::/64", "fd00:244:3::7"),
        ),
        (
            "ipv6/conf/all/forwarding",
            "net.ipv6.conf.all.forwarding",
            ("fd00:1::/64", "fd00:244:3::7"),
            "fd00:244:3::8",
            ("10.1.1.0/24", "10.244.3.7"),
        ),
    ] {
        in_namespace(async move || {
            let forwarding = format!("/proc/sys/net/{sysctl}");
            let sentence = format!("{name} is 0");
            let interval = Duration::from_millis(100);
            let node = RealKernelNode::start(|config| config.audit_interval = interval).await;
            assert!(node.readiness.is_ready(), "{}", node.readiness.report());
            let mut stream = node.hold(held.0, held.1).await.unwrap();

            std::fs::write(&forwarding, "0").unwrap();
            assert!(!next(&mut stream).await.unwrap().installed);
            assert!(!node.readiness.is_ready());
            let report = node.readiness.report();
            assert!(report.contains(&sentence), "{report}");
            let status = node.hold(held.0, second).await.unwrap_err();
            assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
            assert!(status.message().contains(&sentence), "{status:?}");
            let metrics = node.metrics.encode();
            let refused = r#"refused_holds_total{reason="not_forwarding"} 1"#;
            assert!(metrics.contains(refused), "{metrics}");
            // The route of the earlier hold stays, and holds of the other IP version are granted.
            assert_eq!(routes(held.0).len(), 1);
            node.hold(other.0, other.1).await.unwrap();

            std::fs::write(&forwarding, "1").unwrap();
            assert!(next(&mut stream).await.unwrap().installed);
            assert!(node.readiness.is_ready(), "{}", node.readiness.report());
            node.hold(held.0, held.1).await.unwrap();
            node.stop().await;
        });
    }
}
