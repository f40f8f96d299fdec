//! The daemon in process over real gRPC, on a kernel that is a value.

use std::{
    collections::BTreeSet,
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use daemon_api::noderoute::v1::{
    ListRoutesRequest, WatchRoutesRequest, node_route_service_client::NodeRouteServiceClient,
    watch_routes_response::Event,
};
use daemon_runtime::Target;
use node_router::{NotOnLink, uplink::IpVersion};
use tonic::Code;

use crate::support::{
    FakeFirewall, FakeKernel, KernelState, Node, foreign_route, hold, next, own_route,
};

const ENOMEM: i32 = nix::errno::Errno::ENOMEM as i32;

#[tokio::test]
async fn a_killed_client_loses_its_route() {
    let node = Node::start().await;
    let mut client_process = Some(tokio::runtime::Runtime::new().unwrap());
    let socket = Target::Unix(node.socket.clone());
    let (held, is_held) = tokio::sync::oneshot::channel();
    client_process.as_ref().unwrap().spawn(async move {
        let mut client = NodeRouteServiceClient::new(socket.channel());
        let stream = hold(&mut client, "10.1.1.0/24", "10.244.3.7").await;
        held.send(stream.is_ok()).unwrap();
        // Neither ends the stream nor the connection in an orderly way.
        std::mem::forget(stream);
        std::future::pending::<()>().await;
    });
    assert!(is_held.await.unwrap());
    node.kernel
        .wait_for_own(&[own_route("10.1.1.0/24", &["10.244.3.7"])])
        .await;
    // All its sockets close at once.
    client_process.take().unwrap().shutdown_background();
    node.kernel.wait_for_own(&[]).await;
    node.stop().await;
}

#[tokio::test]
async fn two_pods_share_one_route_and_each_takes_its_part_along() {
    let node = Node::start().await;
    let first = node.held("10.1.1.0/24", "10.244.3.7").await;
    let second = node.held("10.1.1.0/24", "10.244.3.8").await;
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
async fn routes_come_in_pages() {
    let node = Node::start().await;
    let _first = node.held("10.1.1.0/24", "10.244.3.7").await;
    let _second = node.held("10.1.2.0/24", "10.244.3.7").await;
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
async fn one_gateway_held_twice_stays_until_both_streams_are_gone() {
    let node = Node::start().await;
    let first = node.held("10.1.1.0/24", "10.244.3.7").await;
    let second = node.held("10.1.1.0/24", "10.244.3.7").await;
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
async fn claims_outside_the_policy_are_refused_with_what_is_allowed() {
    let node = Node::start().await;
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
async fn a_foreign_route_that_comes_later_is_told_to_the_holder_and_so_is_its_end() {
    let node = Node::start().await;
    let mut stream = node.held("10.1.1.0/24", "10.244.3.7").await;
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
async fn a_route_that_cannot_be_restored_is_told_to_the_holder_and_tried_again() {
    let node = Node::start().await;
    let mut stream = node.held("10.1.1.0/24", "10.244.3.7").await;
    node.kernel.change(|state| {
        state.routes.own.clear();
        state.refuses_changes = Some(ENOMEM);
    });
    assert!(!next(&mut stream).await.unwrap().installed);
    // No notification: the owner comes back by itself.
    node.kernel.change(|state| state.refuses_changes = None);
    assert!(next(&mut stream).await.unwrap().installed);
    node.stop().await;
}

/// A kernel that refuses the hold with this code and these parts of the message.
async fn check_refused(state: KernelState, code: Code, parts: &[&str]) {
    let node = Node::start_from(state, |_| {}).await;
    let status = node.hold("10.1.1.0/24", "10.244.3.7").await.unwrap_err();
    assert_eq!(status.code(), code, "{status:?}");
    for part in parts {
        assert!(status.message().contains(part), "{part}: {status:?}");
    }
    assert_eq!(node.routes().await, []);
    node.stop().await;
}

#[tokio::test]
async fn a_change_that_the_kernel_refuses_or_forgets_is_answered_with_its_cause() {
    let refuses = KernelState {
        refuses_changes: Some(ENOMEM),
        ..KernelState::default()
    };
    let parts = ["add the route to 10.1.1.0/24", "Cannot allocate memory"];
    check_refused(refuses, Code::Internal, &parts).await;
    // An acknowledgement alone is not believed.
    let forgets = KernelState {
        forgets_changes: true,
        ..KernelState::default()
    };
    check_refused(forgets, Code::Internal, &["reads back"]).await;
    let without_guard = KernelState {
        refuses_guard_routes: Some(ENOMEM),
        ..with_uplink()
    };
    check_refused(without_guard, Code::Internal, &["in table 112"]).await;
}

#[tokio::test]
async fn an_unreadable_kernel_refuses_the_claim_and_shows_in_readiness_until_it_is_back() {
    let node = Node::start().await;
    node.kernel
        .change(|state| state.refuses_reading = Some(ENOMEM));
    let status = node.hold("10.1.1.0/24", "10.244.3.7").await.unwrap_err();
    // Not a refusal: an earlier route of the holder stays as it was.
    assert_eq!(status.code(), Code::Unavailable);
    assert!(
        status.message().contains("read the kernel's routes"),
        "{status:?}"
    );
    assert!(!node.readiness.is_ready(), "{}", node.readiness.report());
    node.kernel.change(|state| state.refuses_reading = None);
    node.held("10.1.1.0/24", "10.244.3.7").await;
    assert!(node.readiness.is_ready(), "{}", node.readiness.report());
    node.stop().await;
}

#[tokio::test]
async fn a_pod_that_loses_its_link_leaves_the_route_to_the_other() {
    let node = Node::start().await;
    let mut first = node.held("10.1.1.0/24", "10.244.3.7").await;
    let _second = node.held("10.1.1.0/24", "10.244.3.8").await;
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
async fn a_router_that_lingers_ends_with_its_last_holder_and_leaves_no_route() {
    let node = Node::start_from(KernelState::default(), |config| {
        // Much longer than a test waits.
        config.linger = Duration::from_secs(600);
        config.release_delay = Duration::from_millis(100);
    })
    .await;
    let stream = node.held("10.1.1.0/24", "10.244.3.7").await;
    node.shutdown.request();
    // It still grants routes.
    let second = node.held("10.1.2.0/24", "10.244.3.7").await;
    drop((stream, second));
    let kernel = node.stop().await;
    assert_eq!(kernel.own(), []);
}

#[tokio::test]
async fn routes_that_are_held_longer_than_it_lingers_stay() {
    let node = Node::start_from(KernelState::default(), |config| {
        config.linger = Duration::from_millis(100);
    })
    .await;
    let _stream = node.held("10.1.1.0/24", "10.244.3.7").await;
    let kernel = node.stop().await;
    assert_eq!(kernel.own(), [own_route("10.1.1.0/24", &["10.244.3.7"])]);
}

#[tokio::test]
async fn a_route_of_an_earlier_run_is_held_again_without_a_change() {
    let mut state = KernelState::default();
    let left = own_route("10.1.1.0/24", &["10.244.3.7", "10.244.3.8"]);
    state.routes.own.push(left.clone());
    let node = Node::start_from(state, |_| {}).await;
    let adopted = node.routes().await;
    assert_eq!(adopted[0].next_hops.len(), 2);
    assert_eq!(adopted[0].next_hops[0].holders, 0);
    let _stream = node.held("10.1.1.0/24", "10.244.3.7").await;
    assert_eq!(node.kernel.changes(), [""; 0]);
    assert_eq!(node.kernel.own(), [left]);
    node.stop().await;
}

#[tokio::test]
async fn the_last_next_hop_stays_for_the_release_delay() {
    let node = Node::start_from(KernelState::default(), |config| {
        config.release_delay = Duration::from_millis(500);
    })
    .await;
    let first = node.held("10.1.1.0/24", "10.244.3.7").await;
    let second = node.held("10.1.1.0/24", "10.244.3.8").await;
    let began = Instant::now();
    drop(first);
    // Another pod serves the prefix, so nothing is waited for.
    node.kernel
        .wait_for_own(&[own_route("10.1.1.0/24", &["10.244.3.8"])])
        .await;
    drop(second);
    node.kernel.wait_for_own(&[]).await;
    assert!(began.elapsed() >= Duration::from_millis(500));
    let again = node.held("10.1.1.0/24", "10.244.3.8").await;
    let changes = node.kernel.changes().len();
    drop(again);
    let _again = node.held("10.1.1.0/24", "10.244.3.8").await;
    assert_eq!(node.kernel.changes().len(), changes, "it had never gone");
    node.stop().await;
}

#[tokio::test]
async fn an_adoption_timeout_of_zero_removes_at_start() {
    let mut state = KernelState::default();
    state
        .routes
        .own
        .push(own_route("10.1.1.0/24", &["10.244.3.7"]));
    let node = Node::start_from(state, |config| config.adopt_timeout = Duration::ZERO).await;
    assert_eq!(node.kernel.own(), []);
    node.stop().await;
}

#[tokio::test]
async fn what_the_policy_does_not_allow_any_more_is_removed_at_start() {
    let mut state = KernelState::default();
    state.routes.own = vec![
        own_route("10.1.1.0/24", &["10.244.3.7"]),
        own_route("10.9.9.0/24", &["10.244.3.7"]),
        own_route("10.1.2.0/24", &["10.244.99.7"]),
    ];
    let node = Node::start_from(state, |_| {}).await;
    assert_eq!(
        node.kernel.own(),
        [own_route("10.1.1.0/24", &["10.244.3.7"])]
    );
    node.stop().await;
}

#[tokio::test]
async fn a_watch_tells_every_route_then_synced_then_changes_and_removals() {
    let node = Node::start().await;
    let first = node.held("10.1.1.0/24", "10.244.3.7").await;
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
async fn the_holder_is_shown_by_process_and_user() {
    let node = Node::start().await;
    let _stream = node.held("10.1.1.0/24", "10.244.3.7").await;
    let next_hop = &node.routes().await[0].next_hops[0];
    assert_eq!(
        next_hop.holder_process_id,
        i32::try_from(std::process::id()).unwrap()
    );
    assert_eq!(next_hop.holder_user_id, nix::unistd::getuid().as_raw());
    node.stop().await;
}

#[tokio::test]
async fn the_socket_has_the_mode_of_the_flag() {
    let node = Node::start().await;
    let mode = std::fs::metadata(&node.socket)
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o660);
    node.stop().await;
}

#[tokio::test]
async fn a_prefix_above_the_limit_is_refused_and_a_second_gateway_of_a_known_one_is_not() {
    let node = Node::start_from(KernelState::default(), |config| config.max_routes = 1).await;
    let first = node.held("10.1.1.0/24", "10.244.3.7").await;
    let status = node.hold("10.1.2.0/24", "10.244.3.7").await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("--max-routes"), "{status:?}");
    let second = node.held("10.1.1.0/24", "10.244.3.8").await;
    drop((first, second));
    node.kernel.wait_for_own(&[]).await;
    node.held("10.1.2.0/24", "10.244.3.7").await;
    node.stop().await;
}

#[tokio::test]
async fn a_thousand_claims_at_once_are_granted() {
    let node = Node::start().await;
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
async fn a_kernel_without_nftables_is_said_once_and_routes_work_all_the_same() {
    let (notifications, changes) = tokio::sync::mpsc::channel(1);
    let firewall = FakeFirewall::default();
    *firewall.refuses.lock().unwrap() = Some(|| nftables_table::Error::Unsupported {
        what: "a table of family inet".to_owned(),
        source: std::io::Error::from_raw_os_error(95),
    });
    let kernel = FakeKernel::new(KernelState::default(), notifications);
    let node = Node::start_on(kernel, changes, firewall, |_| {}).await;
    assert!(node.readiness.is_ready());
    let report = node.readiness.report();
    assert!(report.contains("the kernel cannot"), "{report}");
    assert!(
        node.metrics
            .encode()
            .contains("portlb_node_router_exemption_installed 0\n")
    );
    node.held("10.1.1.0/24", "10.244.3.7").await;
    node.stop().await;
}

async fn watch(node: &Node) -> tonic::Streaming<daemon_api::noderoute::v1::WatchRoutesResponse> {
    let response = node.client().watch_routes(WatchRoutesRequest {}).await;
    response.unwrap().into_inner()
}

/// A kernel with rules and a default route.
fn with_uplink() -> KernelState {
    let mut state = KernelState::default();
    state.guard.versions = BTreeSet::from([IpVersion::V4, IpVersion::V6]);
    let uplink = |version| (version, "eth0".to_owned());
    state.guard.default_uplinks = [IpVersion::V4, IpVersion::V6].map(uplink).into();
    state
}

#[tokio::test]
async fn a_rule_that_the_kernel_refuses_is_told_tried_again_and_costs_no_route() {
    let mut state = with_uplink();
    state.refuses_rules = Some(ENOMEM);
    let node = Node::start_from(state, |_| {}).await;
    let _stream = node.held("10.1.1.0/24", "10.244.3.7").await;
    assert!(node.readiness.is_ready());
    let report = node.readiness.report();
    assert!(
        report.contains("cannot add the rule iif eth0 to "),
        "{report}"
    );
    assert!(node.metrics.encode().contains("uplink_guard_installed 0"));
    // By itself, without a notification of the kernel.
    node.kernel
        .change_silently(|state| state.refuses_rules = None);
    node.kernel
        .wait_for("the rules come", |state| state.guard.rules.len() == 2)
        .await;
    node.stop().await;
}

#[tokio::test]
async fn a_kernel_without_rules_is_told_and_gets_no_route_beside_the_main_table() {
    let node = Node::start().await;
    let _stream = node.held("10.1.1.0/24", "10.244.3.7").await;
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
async fn a_default_route_that_returns_between_two_reads_is_reported_to_no_holder() {
    let node = Node::start_from(with_uplink(), |_| {}).await;
    let mut stream = node.held("10.1.1.0/24", "10.244.3.7").await;
    let changes_before = node.kernel.changes().len();
    node.kernel.change(|state| {
        let uplinks = std::mem::take(&mut state.guard.default_uplinks);
        state.default_uplinks_after_change = Some(uplinks);
        state.is_silent = true;
    });
    // Without a notification of the default route that returned.
    node.kernel
        .wait_for("the guard returns", |state| {
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
    // The first response after the grant: an earlier one would name the interface.
    let response = next(&mut stream).await.unwrap();
    assert!(!response.installed);
    assert_eq!(response.interface, "");
    node.stop().await;
}
