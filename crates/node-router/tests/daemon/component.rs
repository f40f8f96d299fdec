//! Tests of the daemon in this process, with gRPC over a socket and a fake kernel.

use std::{
    collections::BTreeSet,
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use daemon_api::noderoute::v1::{
    ListRoutesRequest, WatchRoutesRequest, node_route_service_client::NodeRouteServiceClient,
    watch_routes_response::Event,
};
use daemon_runtime::GrpcTarget;
use node_router::{NotOnLink, uplink::IpVersion};
use tonic::Code;

use crate::support::{
    FakeFirewall, FakeKernel, FakeKernelNode, KernelState, foreign_route, hold, next, own_route,
};

const ENOMEM: i32 = nix::errno::Errno::ENOMEM as i32;

#[tokio::test]
async fn the_route_of_a_killed_client_is_removed() {
    let node = FakeKernelNode::start().await;
    let mut client_process = Some(tokio::runtime::Runtime::new().unwrap());
    let socket = GrpcTarget::Unix(node.socket.clone());
    let (held, is_held) = tokio::sync::oneshot::channel();
    client_process.as_ref().unwrap().spawn(async move {
        let mut client = NodeRouteServiceClient::new(socket.channel());
        let stream = hold(&mut client, "10.1.1.0/24", "10.244.3.7").await;
        held.send(stream.is_ok()).unwrap();
        // Neither the stream nor the connection is closed in an orderly way.
        std::mem::forget(stream);
        std::future::pending::<()>().await;
    });
    assert!(is_held.await.unwrap());
    node.kernel
        .wait_for_own(&[own_route("10.1.1.0/24", &["10.244.3.7"])])
        .await;
    // Closes all sockets of the client without an orderly end of stream and connection, like the
    // end of a killed process.
    client_process.take().unwrap().shutdown_background();
    node.kernel.wait_for_own(&[]).await;
    node.stop().await;
}

#[tokio::test]
async fn two_pods_share_one_route_and_the_end_of_a_pod_removes_only_its_next_hop() {
    let node = FakeKernelNode::start().await;
    let first = node.granted_hold("10.1.1.0/24", "10.244.3.7").await;
    let second = node.granted_hold("10.1.1.0/24", "10.244.3.8").await;
    let both = own_route("10.1.1.0/24", &["10.244.3.7", "10.244.3.8"]);
    assert_eq!(node.kernel.own(), [both]);
    drop(first);
    node.kernel
        .wait_for_own(&[own_route("10.1.1.0/24", &["10.244.3.8"])])
        .await;
    drop(second);
    node.kernel.wait_for_own(&[]).await;
    assert_eq!(
        node.kernel.changes(),
        [
            "add the route to 10.1.1.0/24 via 10.244.3.7",
            "replace the route to 10.1.1.0/24 via 10.244.3.7, 10.244.3.8",
            "replace the route to 10.1.1.0/24 via 10.244.3.8",
            "remove the route to 10.1.1.0/24",
        ]
    );
    node.stop().await;
}

#[tokio::test]
async fn list_routes_returns_pages() {
    let node = FakeKernelNode::start().await;
    let _first = node.granted_hold("10.1.1.0/24", "10.244.3.7").await;
    let _second = node.granted_hold("10.1.2.0/24", "10.244.3.7").await;
    let mut request = ListRoutesRequest {
        page_size: 1,
        ..Default::default()
    };
    let mut prefixes = Vec::new();
    for _ in 0..2 {
        let page = node.client().list_routes(request.clone()).await.unwrap();
        let page = page.into_inner();
        assert_eq!((page.routes.len(), page.total_size), (1, 2));
        prefixes.extend(page.routes.into_iter().map(|route| route.prefix));
        request.page_token = page.next_page_token;
    }
    assert_eq!(prefixes, ["10.1.1.0/24", "10.1.2.0/24"]);
    assert_eq!(request.page_token, "");

    request.page_token = "10.1.1.0/24".to_owned();
    let error = node.client().list_routes(request).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("`page_token`"), "{error}");
}

#[tokio::test]
async fn a_route_that_two_streams_hold_stays_until_both_streams_have_ended() {
    let node = FakeKernelNode::start().await;
    let first = node.granted_hold("10.1.1.0/24", "10.244.3.7").await;
    let second = node.granted_hold("10.1.1.0/24", "10.244.3.7").await;
    assert_eq!(node.routes().await[0].next_hops[0].holders, 2);
    let route = own_route("10.1.1.0/24", &["10.244.3.7"]);

    let mut watch = watch(&node).await;
    drop(first);
    loop {
        let Some(Event::Route(route)) = next(&mut watch).await.unwrap().event else {
            continue;
        };
        if route.next_hops[0].holders == 1 {
            break;
        }
    }
    assert_eq!(node.kernel.own(), [route]);
    assert_eq!(node.kernel.changes().len(), 1);
    drop(second);
    node.kernel.wait_for_own(&[]).await;
    node.stop().await;
}

#[tokio::test]
async fn the_refusal_of_a_claim_outside_the_policy_lists_the_allowed_ranges() {
    let node = FakeKernelNode::start().await;
    let cases = [
        (
            "10.2.0.0/24",
            "10.244.3.7",
            Code::PermissionDenied,
            "allowed here: 10.1.0.0/16",
        ),
        (
            "10.0.0.0/8",
            "10.244.3.7",
            Code::PermissionDenied,
            "--allowed-prefixes",
        ),
        (
            "10.1.1.0/24",
            "10.244.4.7",
            Code::PermissionDenied,
            "--allowed-gateways",
        ),
        (
            "10.1.1.0/24",
            "fd00:244:3::7",
            Code::InvalidArgument,
            "IP version",
        ),
        (
            "10.1.1.9/24",
            "10.244.3.7",
            Code::InvalidArgument,
            "write 10.1.1.0/24",
        ),
        ("", "", Code::InvalidArgument, "is not a prefix"),
        ("10.1.1.0/24", "pod-7", Code::InvalidArgument, "\"pod-7\""),
    ];
    for (prefix, gateway, code, part) in cases {
        let status = node.hold(prefix, gateway).await.unwrap_err();
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().contains(part), "{status:?}");
    }
    assert_eq!(node.kernel.changes(), [""; 0]);
    let metrics = node.metrics.encode();
    assert!(
        metrics.contains("portlb_node_router_refused_holds_total{reason=\"not_allowed\"} 3"),
        "{metrics}"
    );
    node.stop().await;
}

#[tokio::test]
async fn the_holder_is_notified_when_a_foreign_route_appears_and_disappears() {
    let node = FakeKernelNode::start().await;
    let mut stream = node.granted_hold("10.1.1.0/24", "10.244.3.7").await;
    node.kernel
        .change(|state| state.routes.foreign.push(foreign_route("10.1.1.0/24", 0)));
    assert!(!next(&mut stream).await.unwrap().installed);
    let routes = node.routes().await;
    assert!(routes[0].last_error.contains("proto static"), "{routes:?}");
    node.kernel.change(|state| state.routes.foreign.clear());
    assert!(next(&mut stream).await.unwrap().installed);
    assert_eq!(node.routes().await[0].last_error, "");
    node.stop().await;
}

#[tokio::test]
async fn the_holder_is_notified_when_a_route_cannot_be_restored_and_the_daemon_retries() {
    let node = FakeKernelNode::start().await;
    let mut stream = node.granted_hold("10.1.1.0/24", "10.244.3.7").await;
    node.kernel.change(|state| {
        state.routes.own.clear();
        state.refuses_changes = Some(ENOMEM);
    });
    assert!(!next(&mut stream).await.unwrap().installed);
    // Without a notification of the kernel, only a retry of the daemon finds the change.
    node.kernel
        .change_silently(|state| state.refuses_changes = None);
    assert!(next(&mut stream).await.unwrap().installed);
    node.stop().await;
}

/// Checks that a hold fails with this status code and these parts of the message, if the kernel has
/// this state.
async fn check_refused(state: KernelState, code: Code, parts: &[&str]) {
    let node = FakeKernelNode::start_from(state, |_| {}).await;
    let status = node.hold("10.1.1.0/24", "10.244.3.7").await.unwrap_err();
    assert_eq!(status.code(), code, "{status:?}");
    for part in parts {
        assert!(status.message().contains(part), "{part}: {status:?}");
    }
    assert_eq!(node.routes().await, []);
    node.stop().await;
}

#[tokio::test]
async fn the_refusal_of_a_hold_names_the_change_that_the_kernel_refused_or_lost() {
    let refuses = KernelState {
        refuses_changes: Some(ENOMEM),
        ..KernelState::default()
    };
    let parts = ["add the route to 10.1.1.0/24", "Cannot allocate memory"];
    check_refused(refuses, Code::Internal, &parts).await;
    // The daemon reads the route back, even if the kernel acknowledged the change.
    let forgets = KernelState {
        forgets_changes: true,
        ..KernelState::default()
    };
    check_refused(forgets, Code::Internal, &["does not list the route"]).await;
    let without_guard = KernelState {
        refuses_guard_routes: Some(ENOMEM),
        ..with_uplink()
    };
    check_refused(without_guard, Code::Internal, &["in table 112"]).await;
}

#[tokio::test]
async fn holds_are_refused_and_the_daemon_is_not_ready_while_the_kernel_cannot_be_read() {
    let node = FakeKernelNode::start().await;
    node.kernel
        .change(|state| state.refuses_reading = Some(ENOMEM));
    let status = node.hold("10.1.1.0/24", "10.244.3.7").await.unwrap_err();
    // The code `Unavailable` does not mean that the route is missing: a route that the holder
    // already has stays unchanged.
    assert_eq!(status.code(), Code::Unavailable);
    assert!(
        status.message().contains("read the kernel's routes"),
        "{status:?}"
    );
    assert!(!node.readiness.is_ready(), "{}", node.readiness.report());
    node.kernel.change(|state| state.refuses_reading = None);
    node.granted_hold("10.1.1.0/24", "10.244.3.7").await;
    assert!(node.readiness.is_ready(), "{}", node.readiness.report());
    node.stop().await;
}

#[tokio::test]
async fn a_pod_without_a_link_is_removed_from_the_route_and_the_other_pod_stays() {
    let node = FakeKernelNode::start().await;
    let mut first = node.granted_hold("10.1.1.0/24", "10.244.3.7").await;
    let _second = node.granted_hold("10.1.1.0/24", "10.244.3.8").await;
    node.kernel.change(|state| {
        state
            .not_on_link
            .insert("10.244.3.7".parse().unwrap(), NotOnLink::NoRoute);
    });
    node.kernel
        .wait_for_own(&[own_route("10.1.1.0/24", &["10.244.3.8"])])
        .await;
    assert!(!next(&mut first).await.unwrap().installed);
    node.stop().await;
}

#[tokio::test]
async fn a_lingering_daemon_exits_after_its_last_holder_and_leaves_no_route() {
    let node = FakeKernelNode::start_from(KernelState::default(), |config| {
        // The linger time is much longer than the test waits, so the daemon exits because no hold
        // is left.
        config.linger = Duration::from_secs(600);
        config.release_delay = Duration::from_millis(100);
    })
    .await;
    let stream = node.granted_hold("10.1.1.0/24", "10.244.3.7").await;
    node.shutdown.request();
    // A lingering daemon still grants holds.
    let second = node.granted_hold("10.1.2.0/24", "10.244.3.7").await;
    drop((stream, second));
    let kernel = node.stop().await;
    assert_eq!(kernel.own(), []);
}

#[tokio::test]
async fn routes_that_are_still_held_after_the_linger_time_stay_in_the_kernel() {
    let node = FakeKernelNode::start_from(KernelState::default(), |config| {
        config.linger = Duration::from_millis(100);
    })
    .await;
    let _stream = node.granted_hold("10.1.1.0/24", "10.244.3.7").await;
    let kernel = node.stop().await;
    assert_eq!(kernel.own(), [own_route("10.1.1.0/24", &["10.244.3.7"])]);
}

#[tokio::test]
async fn a_hold_of_an_adopted_route_changes_nothing_in_the_kernel() {
    let mut state = KernelState::default();
    let left = own_route("10.1.1.0/24", &["10.244.3.7", "10.244.3.8"]);
    state.routes.own.push(left.clone());
    let node = FakeKernelNode::start_from(state, |_| {}).await;
    let adopted = node.routes().await;
    assert_eq!(adopted[0].next_hops.len(), 2);
    assert_eq!(adopted[0].next_hops[0].holders, 0);
    let _stream = node.granted_hold("10.1.1.0/24", "10.244.3.7").await;
    assert_eq!(node.kernel.changes(), [""; 0]);
    assert_eq!(node.kernel.own(), [left]);
    node.stop().await;
}

#[tokio::test]
async fn only_the_last_next_hop_of_a_route_stays_for_the_release_delay() {
    let node = FakeKernelNode::start_from(KernelState::default(), |config| {
        config.release_delay = Duration::from_millis(500);
    })
    .await;
    let first = node.granted_hold("10.1.1.0/24", "10.244.3.7").await;
    let second = node.granted_hold("10.1.1.0/24", "10.244.3.8").await;
    let began = Instant::now();
    drop(first);
    // The next hop is removed without the release delay, because another pod serves the prefix.
    node.kernel
        .wait_for_own(&[own_route("10.1.1.0/24", &["10.244.3.8"])])
        .await;
    drop(second);
    node.kernel.wait_for_own(&[]).await;
    assert!(began.elapsed() >= Duration::from_millis(500));
    let again = node.granted_hold("10.1.1.0/24", "10.244.3.8").await;
    let changes = node.kernel.changes().len();
    drop(again);
    let _again = node.granted_hold("10.1.1.0/24", "10.244.3.8").await;
    assert_eq!(
        node.kernel.changes().len(),
        changes,
        "the route was removed between the two holds"
    );
    node.stop().await;
}

#[tokio::test]
async fn adopt_timeout_zero_removes_routes_of_an_earlier_run_at_the_start() {
    let mut state = KernelState::default();
    state
        .routes
        .own
        .push(own_route("10.1.1.0/24", &["10.244.3.7"]));
    let node =
        FakeKernelNode::start_from(state, |config| config.adopt_timeout = Duration::ZERO).await;
    assert_eq!(node.kernel.own(), []);
    node.stop().await;
}

#[tokio::test]
async fn routes_that_the_policy_no_longer_allows_are_removed_at_the_start() {
    let mut state = KernelState::default();
    state.routes.own = vec![
        own_route("10.1.1.0/24", &["10.244.3.7"]),
        own_route("10.9.9.0/24", &["10.244.3.7"]),
        own_route("10.1.2.0/24", &["10.244.99.7"]),
    ];
    let node = FakeKernelNode::start_from(state, |_| {}).await;
    assert_eq!(
        node.kernel.own(),
        [own_route("10.1.1.0/24", &["10.244.3.7"])]
    );
    node.stop().await;
}

#[tokio::test]
async fn a_watch_sends_all_routes_then_synced_then_changes_and_removals() {
    let node = FakeKernelNode::start().await;
    let first = node.granted_hold("10.1.1.0/24", "10.244.3.7").await;
    let mut watch = watch(&node).await;
    let event = next(&mut watch).await.unwrap().event.unwrap();
    let Event::Route(route) = event else {
        panic!("{event:?}")
    };
    assert_eq!(route.prefix, "10.1.1.0/24");
    assert!(route.installed);
    assert_eq!(route.next_hops[0].gateway, "10.244.3.7");
    assert_eq!(route.next_hops[0].interface, "pods0");
    assert!(matches!(
        next(&mut watch).await.unwrap().event,
        Some(Event::Synced(_))
    ));
    drop(first);
    assert_eq!(
        next(&mut watch).await.unwrap().event,
        Some(Event::RemovedRoute("10.1.1.0/24".to_owned()))
    );
    node.stop().await;
}

#[tokio::test]
async fn list_routes_shows_process_and_user_of_the_holder() {
    let node = FakeKernelNode::start().await;
    let _stream = node.granted_hold("10.1.1.0/24", "10.244.3.7").await;
    let next_hop = &node.routes().await[0].next_hops[0];
    assert_eq!(
        next_hop.holder_process_id,
        i32::try_from(std::process::id()).unwrap()
    );
    assert_eq!(next_hop.holder_user_id, nix::unistd::getuid().as_raw());
    node.stop().await;
}

#[tokio::test]
async fn the_unix_socket_has_the_configured_mode() {
    let node = FakeKernelNode::start().await;
    let mode = std::fs::metadata(&node.socket)
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o660);
    node.stop().await;
}

#[tokio::test]
async fn max_routes_limits_prefixes_and_permits_a_second_gateway_of_a_held_prefix() {
    let node =
        FakeKernelNode::start_from(KernelState::default(), |config| config.max_routes = 1).await;
    let first = node.granted_hold("10.1.1.0/24", "10.244.3.7").await;
    let status = node.hold("10.1.2.0/24", "10.244.3.7").await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("--max-routes"), "{status:?}");
    let second = node.granted_hold("10.1.1.0/24", "10.244.3.8").await;
    drop((first, second));
    node.kernel.wait_for_own(&[]).await;
    node.granted_hold("10.1.2.0/24", "10.244.3.7").await;
    node.stop().await;
}

#[tokio::test]
async fn a_thousand_simultaneous_claims_are_granted() {
    let node = FakeKernelNode::start().await;
    let client = node.client();
    let claims = (0..1_000_u32).map(|n| {
        let mut client = client.clone();
        let prefix = format!("10.1.{}.{}/32", n / 250, n % 250);
        async move { hold(&mut client, &prefix, "10.244.3.7").await }
    });
    let streams = futures::future::join_all(claims).await;
    assert!(streams.iter().all(Result::is_ok));
    assert_eq!(node.kernel.own().len(), 1_000);
    drop(streams);
    node.kernel.wait_for_own(&[]).await;
    node.stop().await;
}

#[tokio::test]
async fn without_nftables_holds_are_granted_and_readiness_names_the_missing_part() {
    let (notifications, changes) = tokio::sync::mpsc::channel(1);
    let firewall = FakeFirewall::default();
    *firewall.refuses.lock().unwrap() = Some(|| nftables_table::NftablesError::Unsupported {
        what: "a table of family inet".to_owned(),
        source: std::io::Error::from_raw_os_error(95),
    });
    let kernel = FakeKernel::new(KernelState::default(), notifications);
    let node = FakeKernelNode::start_on(kernel, changes, firewall, |_| {}).await;
    assert!(node.readiness.is_ready());
    let report = node.readiness.report();
    assert!(report.contains("not supported by the kernel"), "{report}");
    assert!(
        node.metrics
            .encode()
            .contains("portlb_node_router_exemption_installed 0\n")
    );
    node.granted_hold("10.1.1.0/24", "10.244.3.7").await;
    node.stop().await;
}

async fn watch(
    node: &FakeKernelNode,
) -> tonic::Streaming<daemon_api::noderoute::v1::WatchRoutesResponse> {
    let response = node.client().watch_routes(WatchRoutesRequest {}).await;
    response.unwrap().into_inner()
}

/// Returns a kernel that has routing rules and a default route.
fn with_uplink() -> KernelState {
    let mut state = KernelState::default();
    state.guard.versions = BTreeSet::from([IpVersion::V4, IpVersion::V6]);
    let uplink = |version| (version, "eth0".to_owned());
    state.guard.default_uplinks = [IpVersion::V4, IpVersion::V6].map(uplink).into();
    state
}

#[tokio::test]
async fn a_guard_rule_that_the_kernel_refuses_is_reported_and_retried_and_holds_are_granted() {
    let mut state = with_uplink();
    state.refuses_rules = Some(ENOMEM);
    let node = FakeKernelNode::start_from(state, |_| {}).await;
    let _stream = node.granted_hold("10.1.1.0/24", "10.244.3.7").await;
    assert!(node.readiness.is_ready());
    let report = node.readiness.report();
    assert!(
        report.contains("cannot add the rule iif eth0 to "),
        "{report}"
    );
    assert!(node.metrics.encode().contains("uplink_guard_installed 0"));
    // The daemon retries without a notification of the kernel.
    node.kernel
        .change_silently(|state| state.refuses_rules = None);
    node.kernel
        .wait_for("the kernel has no rules of the guard", |state| {
            state.guard.rules.len() == 2
        })
        .await;
    node.stop().await;
}

#[tokio::test]
async fn a_kernel_without_routing_rules_is_reported_and_gets_routes_only_in_the_main_table() {
    let node = FakeKernelNode::start().await;
    let _stream = node.granted_hold("10.1.1.0/24", "10.244.3.7").await;
    assert_eq!(
        node.kernel.changes(),
        ["add the route to 10.1.1.0/24 via 10.244.3.7"]
    );
    let report = node.readiness.report();
    assert!(
        report.contains("IPv4: this kernel has no routing rules"),
        "{report}"
    );
    node.stop().await;
}

#[tokio::test]
async fn holders_get_no_failure_when_a_default_route_returns_between_two_reads() {
    let node = FakeKernelNode::start_from(with_uplink(), |_| {}).await;
    let mut stream = node.granted_hold("10.1.1.0/24", "10.244.3.7").await;
    let changes_before = node.kernel.changes().len();
    node.kernel.change(|state| {
        let uplinks = std::mem::take(&mut state.guard.default_uplinks);
        state.default_uplinks_after_change = Some(uplinks);
        state.is_silent = true;
    });
    // The fake kernel is silent about the default route that returned, so the daemon must find it
    // in a read.
    node.kernel
        .wait_for("the guard is not restored", |state| {
            state.changes.len() > changes_before && state.guard.rules.len() == 2
        })
        .await;
    let changes = node.kernel.changes()[changes_before..].join("\n");
    assert!(changes.contains("remove the rule iif eth0"), "{changes}");
    assert!(node.readiness.is_ready());

    node.kernel.change(|state| {
        state
            .not_on_link
            .insert("10.244.3.7".parse().unwrap(), NotOnLink::NoRoute);
    });
    // The test reads the first response after the grant. If the daemon had sent a response before
    // the link was lost, this response would name the interface.
    let response = next(&mut stream).await.unwrap();
    assert!(!response.installed);
    assert_eq!(response.interface, "");
    node.stop().await;
}
