//! The whole daemon in process, over real gRPC and real BGP on loopback.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod harness;
mod lagging;

use std::{path::Path, time::Duration};

use bgp_packet::{Community, PathAttributes, RouterId};
use daemon_api::{
    bgp::v1::{self as bgp, AddPath, SessionState},
    reflector::v1::{
        GetConfigurationRequest, ListPathsRequest, ListSessionsRequest, Table, WatchPathsRequest,
        WatchSessionsRequest, watch_paths_response, watch_sessions_response,
    },
};
use harness::{CLIENTS, HEAD, Neighbour, ROUTERS, Running, soon, usual};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Code;

const SERVICE: &str = "10.1.1.0/24";
const NODE_A: [u8; 4] = [192, 0, 2, 1];
const NODE_B: [u8; 4] = [192, 0, 2, 2];

#[tokio::test]
async fn a_router_with_add_path_follows_the_clients_as_they_come_and_die() {
    let reflector = Running::start(&usual()).await;
    let mut router = Neighbour::dialling([127, 0, 2, 1], reflector.bgp).await;
    let a = Neighbour::dialling([127, 0, 1, 1], reflector.bgp).await;
    let b = Neighbour::dialling([127, 0, 1, 2], reflector.bgp).await;
    a.announce(SERVICE, NODE_A).await;
    b.announce(SERVICE, NODE_B).await;
    router.until_next_hops(SERVICE, &[NODE_A, NODE_B]).await;
    for path in router.paths.values() {
        let originator = path.attributes.originator_id.unwrap();
        let from = if path.attributes.next_hop == std::net::IpAddr::from(NODE_A) {
            1
        } else {
            2
        };
        assert_eq!(originator, RouterId([127, 0, 1, from].into()));
        assert_eq!(path.attributes.cluster_list.len(), 1);
    }
    a.kill();
    router.until_next_hops(SERVICE, &[NODE_B]).await;
    b.kill();
    router.until_next_hops(SERVICE, &[]).await;
}

#[tokio::test]
async fn a_router_that_waits_is_dialled() {
    let mut router = Neighbour::listening([127, 0, 3, 1]).await;
    let address = router.listens_on.unwrap();
    let peers = format!(
        "peers:\n- name: router-1\n  address: {}\n  port: {}\n  group: routers\n  connection: \
         active\n",
        address.ip(),
        address.port()
    );
    let mut reflector = Running::start(&(usual() + &peers)).await;
    let client = Neighbour::dialling([127, 0, 1, 1], reflector.bgp).await;
    client.announce(SERVICE, NODE_A).await;
    router.until_next_hops(SERVICE, &[NODE_A]).await;

    let sessions = reflector
        .client
        .list_sessions(ListSessionsRequest::default())
        .await
        .unwrap();
    let session = sessions
        .into_inner()
        .sessions
        .into_iter()
        .find(|s| s.peer == "router-1");
    let session = session.unwrap();
    assert_eq!(session.state(), SessionState::Established);
    assert_eq!(session.group, "routers");
    assert_eq!(session.peer_router_id, "127.0.3.1");
    assert_eq!((session.local_asn, session.peer_asn), (64512, 64512));
    assert_eq!(session.hold_time.unwrap().seconds, 9);
    assert_eq!(session.peer_address, address.ip().to_string());
    assert_eq!(session.peer_port, u32::from(address.port()));
    assert_eq!(session.families[0].add_path(), AddPath::Send);
    assert_eq!((session.paths_received, session.paths_sent), (0, 1));
}

#[tokio::test]
async fn what_import_policy_does_not_name_is_not_reflected() {
    let mut reflector = Running::start(&usual()).await;
    let mut router = Neighbour::dialling([127, 0, 2, 1], reflector.bgp).await;
    let client = Neighbour::dialling([127, 0, 1, 1], reflector.bgp).await;
    client.announce("10.2.0.0/24", NODE_A).await;
    client.announce("10.1.2.0/24", [198, 51, 100, 1]).await;
    client.announce(SERVICE, NODE_A).await;
    router.until_next_hops(SERVICE, &[NODE_A]).await;
    assert_eq!(router.paths.len(), 1, "{:?}", router.paths);
    let all = reflector
        .client
        .list_paths(ListPathsRequest::default())
        .await
        .unwrap();
    assert_eq!(all.into_inner().paths.len(), 1);
}

#[tokio::test]
async fn clients_are_sent_nothing_unless_the_configuration_says_so() {
    let mut reflector = Running::start(&usual()).await;
    let a = Neighbour::dialling([127, 0, 1, 1], reflector.bgp).await;
    let mut b = Neighbour::dialling([127, 0, 1, 2], reflector.bgp).await;
    let mut router = Neighbour::dialling([127, 0, 2, 1], reflector.bgp).await;
    b.established().await;
    a.announce(SERVICE, NODE_A).await;
    router.until_next_hops(SERVICE, &[NODE_A]).await;
    let sent = list_paths(&mut reflector, Table::AdjRibOut, "127.0.1.2")
        .await
        .unwrap();
    assert!(sent.is_empty(), "{sent:?}");
}

const FOUR: [&str; 4] = ["10.1.1.0/24", "10.1.2.0/24", "10.1.3.0/24", "10.1.4.0/24"];

#[tokio::test]
async fn a_client_with_too_many_paths_keeps_those_up_to_the_maximum() {
    let reflector = Running::start(&usual()).await;
    let mut client = Neighbour::dialling([127, 0, 1, 1], reflector.bgp).await;
    client.established().await;
    for prefix in FOUR {
        client.announce(prefix, NODE_A).await;
    }
    until_metric(&reflector, "portlb_bgp_paths_over_maximum_total 1").await;
    let mut router = Neighbour::dialling([127, 0, 2, 1], reflector.bgp).await;
    for prefix in &FOUR[..3] {
        router.until_next_hops(prefix, &[NODE_A]).await;
    }
    // Room is made, and what was refused is there without an announcement of the client's own.
    let withdrawn = client.handle.withdraw(FOUR[0].parse().unwrap()).await;
    withdrawn.unwrap();
    router.until_next_hops(FOUR[3], &[NODE_A]).await;
    assert_eq!(router.paths.len(), 3);
    let sessions = client.handle.peers().await.unwrap();
    assert_eq!(sessions[0].session.counters.established, 1);
}

#[tokio::test]
async fn a_client_with_too_many_paths_is_cut_off_where_the_group_says_restart() {
    let clients = format!("{CLIENTS}  maximumPathsAction: restart\n");
    let reflector = Running::start(&format!("{HEAD}peerGroups:\n{clients}")).await;
    let mut client = Neighbour::dialling([127, 0, 1, 1], reflector.bgp).await;
    client.established().await;
    for prefix in FOUR {
        let attributes = bgp_packet::PathAttributes::originate(NODE_A.into());
        client
            .handle
            .originate(prefix.parse().unwrap(), attributes)
            .await
            .unwrap()
            .unwrap();
    }
    client
        .until("the notification", |this| {
            let mut errors = this
                .peers
                .values()
                .filter_map(|peer| peer.session.last_error.clone());
            errors.any(|(_, error)| error.to_string().to_lowercase().contains("maximum number"))
        })
        .await;
}

#[tokio::test]
async fn a_shutdown_tells_every_peer_why() {
    let reflector = Running::start(&usual()).await;
    let mut client = Neighbour::dialling([127, 0, 1, 1], reflector.bgp).await;
    client.established().await;
    reflector.shutdown.request();
    client
        .until("the shutdown text", |this| {
            let mut errors = this
                .peers
                .values()
                .filter_map(|peer| peer.session.last_error.clone());
            errors.any(|(_, error)| error.to_string().contains("gone for a test"))
        })
        .await;
    soon("the end of the daemon", reflector.daemon)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_shutdown_without_a_session_ends_at_once() {
    let reflector = Running::start(&usual()).await;
    let began = std::time::Instant::now();
    reflector.shutdown.request();
    let ended = soon("the end of the daemon", reflector.daemon).await;
    ended.unwrap().unwrap();
    let passed = began.elapsed();
    assert!(passed < Duration::from_secs(2), "{passed:?}");
}

#[tokio::test]
async fn a_client_that_switches_the_hold_timer_off_is_refused_counted_and_listed() {
    let mut reflector = Running::start(&usual()).await;
    let mut client = Neighbour::dialling_without_hold_time([127, 0, 1, 9], reflector.bgp).await;
    client
        .until("the reason", |this| {
            let errors = this.peers.values();
            let mut errors = errors.filter_map(|peer| peer.session.last_error.as_ref());
            errors.any(|(_, error)| error.to_string().contains("Unacceptable Hold Time"))
        })
        .await;
    let sessions = reflector
        .client
        .list_sessions(ListSessionsRequest::default());
    let refused = sessions.await.unwrap().into_inner().refused_sessions;
    let [refused] = refused.as_slice() else {
        panic!("{refused:?}");
    };
    assert_eq!(
        (refused.address.as_str(), refused.group.as_str()),
        ("127.0.1.9", "clients")
    );
    assert_eq!(refused.reason, "unacceptable_hold_time");
    assert_eq!(
        refused.error,
        "peer offers no hold time, at least 3 s are required"
    );
    assert!(refused.count >= 1);
    let metric = "portlb_bgp_sessions_refused_total{reason=\"unacceptable_hold_time\"} ";
    let metrics = http_get(&reflector, "/metrics").await;
    assert!(metrics.contains(metric), "{metrics}");
    assert!(!metrics.contains(&format!("{metric}0\n")), "{metrics}");
}

async fn list_paths(
    reflector: &mut Running,
    table: Table,
    peer: &str,
) -> Result<Vec<bgp::Path>, tonic::Status> {
    let request = ListPathsRequest {
        table: table.into(),
        peer: peer.to_owned(),
        ..ListPathsRequest::default()
    };
    Ok(reflector
        .client
        .list_paths(request)
        .await?
        .into_inner()
        .paths)
}

#[tokio::test]
async fn the_tables_can_be_read() {
    let mut reflector = Running::start(&usual()).await;
    let mut router = Neighbour::dialling([127, 0, 2, 1], reflector.bgp).await;
    let a = Neighbour::dialling([127, 0, 1, 1], reflector.bgp).await;
    let b = Neighbour::dialling([127, 0, 1, 2], reflector.bgp).await;
    a.announce(SERVICE, NODE_A).await;
    b.announce(SERVICE, NODE_B).await;
    b.announce("10.1.2.0/24", NODE_B).await;
    router.until_next_hops(SERVICE, &[NODE_A, NODE_B]).await;
    router.until_next_hops("10.1.2.0/24", &[NODE_B]).await;

    let all = list_paths(&mut reflector, Table::All, "").await.unwrap();
    let verdicts: Vec<_> = all
        .iter()
        .map(|path| {
            (
                path.prefix.as_str(),
                path.peer.as_str(),
                path.not_best_reason.as_str(),
            )
        })
        .collect();
    assert_eq!(
        verdicts,
        [
            (SERVICE, "127.0.1.1", ""),
            (SERVICE, "127.0.1.2", "higher originator or router id"),
            ("10.1.2.0/24", "127.0.1.2", ""),
        ]
    );
    let next_hop = |path: &bgp::Path| path.attributes.as_ref().unwrap().next_hop.clone();
    assert_eq!(next_hop(&all[0]), "192.0.2.1");

    let received = list_paths(&mut reflector, Table::AdjRibIn, "127.0.1.2")
        .await
        .unwrap();
    assert_eq!(received.len(), 2);
    let sent = list_paths(&mut reflector, Table::AdjRibOut, "127.0.2.1")
        .await
        .unwrap();
    let mut ids: Vec<_> = sent
        .iter()
        .filter(|path| path.prefix == SERVICE)
        .map(|path| path.path_id)
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, [1, 2]);
    assert!(
        sent.iter()
            .all(|path| path.attributes.as_ref().unwrap().cluster_list.len() == 1)
    );

    let request = ListPathsRequest {
        prefix: "10.1.2.0/24".to_owned(),
        ..Default::default()
    };
    let one = reflector
        .client
        .list_paths(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(one.paths.len(), 1);
}

#[tokio::test]
async fn lists_come_in_pages() {
    let mut reflector = Running::start(&usual()).await;
    let mut router = Neighbour::dialling([127, 0, 2, 1], reflector.bgp).await;
    let a = Neighbour::dialling([127, 0, 1, 1], reflector.bgp).await;
    let b = Neighbour::dialling([127, 0, 1, 2], reflector.bgp).await;
    a.announce(SERVICE, NODE_A).await;
    b.announce(SERVICE, NODE_B).await;
    b.announce("10.1.2.0/24", NODE_B).await;
    router.until_next_hops(SERVICE, &[NODE_A, NODE_B]).await;
    router.until_next_hops("10.1.2.0/24", &[NODE_B]).await;

    let whole = list_paths(&mut reflector, Table::All, "").await.unwrap();
    let mut paths = Vec::new();
    let mut request = ListPathsRequest {
        page_size: 2,
        ..Default::default()
    };
    for expected in [2, 1] {
        let page = reflector.client.list_paths(request.clone()).await.unwrap();
        let page = page.into_inner();
        assert_eq!(page.paths.len(), expected);
        paths.extend(page.paths);
        request.page_token = page.next_page_token;
    }
    assert_eq!((paths, request.page_token.as_str()), (whole, ""));

    let mut names = Vec::new();
    let mut request = ListSessionsRequest {
        page_size: 1,
        ..Default::default()
    };
    for _ in 0..3 {
        let page = reflector.client.list_sessions(request.clone()).await;
        let page = page.unwrap().into_inner();
        assert_eq!(page.total_size, 3);
        names.extend(page.sessions.into_iter().map(|session| session.peer));
        request.page_token = page.next_page_token;
    }
    assert_eq!(names, ["127.0.1.1", "127.0.1.2", "127.0.2.1"]);
    assert_eq!(request.page_token, "");
}

#[tokio::test]
async fn a_page_token_of_other_arguments_is_refused() {
    let mut reflector = Running::start(&usual()).await;
    let mut router = Neighbour::dialling([127, 0, 2, 1], reflector.bgp).await;
    let a = Neighbour::dialling([127, 0, 1, 1], reflector.bgp).await;
    a.announce(SERVICE, NODE_A).await;
    a.announce("10.1.2.0/24", NODE_A).await;
    router.until_next_hops("10.1.2.0/24", &[NODE_A]).await;
    let request = ListPathsRequest {
        page_size: 1,
        ..Default::default()
    };
    let page = reflector.client.list_paths(request.clone()).await.unwrap();
    let other = ListPathsRequest {
        page_token: page.into_inner().next_page_token,
        peer: "127.0.1.1".to_owned(),
        ..request
    };
    assert_ne!(other.page_token, "");
    let error = reflector.client.list_paths(other).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("`page_token`"), "{error}");
}

#[tokio::test]
async fn requests_that_mean_nothing_are_refused_with_the_field() {
    let mut reflector = Running::start(&usual()).await;
    let error = list_paths(&mut reflector, Table::AdjRibIn, "")
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().starts_with("peer:"), "{error}");
    let error = list_paths(&mut reflector, Table::AdjRibOut, "nobody")
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    let request = ListPathsRequest {
        prefix: "10.1.1.0".to_owned(),
        ..Default::default()
    };
    let error = reflector.client.list_paths(request).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("prefix"), "{error}");
}

#[tokio::test]
async fn sessions_can_be_watched() {
    use watch_sessions_response::Event;
    let mut reflector = Running::start(&usual()).await;
    let stream = reflector
        .client
        .watch_sessions(WatchSessionsRequest {})
        .await
        .unwrap();
    let mut stream = stream.into_inner();
    let mut next = async || soon("an event", stream.message()).await.unwrap().unwrap();
    let first = next().await;
    assert!(matches!(first.event, Some(Event::Synced(_))), "{first:?}");

    let client = Neighbour::dialling([127, 0, 1, 1], reflector.bgp).await;
    let mut revision = first.revision;
    loop {
        let event = next().await;
        assert!(event.revision > revision);
        revision = event.revision;
        let Some(Event::Session(session)) = event.event else {
            panic!("{event:?}")
        };
        assert_eq!(session.peer, "127.0.1.1");
        if session.state() == SessionState::Established {
            break;
        }
    }
    client.kill();
    loop {
        if let Some(Event::RemovedSession(peer)) = next().await.event {
            assert_eq!(peer, "127.0.1.1");
            break;
        }
    }
}

#[tokio::test]
async fn watches_are_bounded_and_one_that_ends_makes_room() {
    let mut reflector = Running::start(&usual()).await;
    let mut watches = Vec::new();
    for _ in 0..32 {
        let watch = reflector.client.watch_paths(WatchPathsRequest {}).await;
        watches.push(watch.unwrap().into_inner());
    }
    let one_more = reflector.client.watch_sessions(WatchSessionsRequest {});
    let error = one_more.await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted, "{error}");
    assert!(error.message().contains("32 watches"), "{error}");
    watches.pop();
    let room = async {
        let request = WatchSessionsRequest {};
        while reflector.client.watch_sessions(request).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    soon("room for a watch", room).await;
}

#[tokio::test]
async fn paths_can_be_watched() {
    use watch_paths_response::Event;
    let mut reflector = Running::start(&usual()).await;
    let mut router = Neighbour::dialling([127, 0, 2, 1], reflector.bgp).await;
    let a = Neighbour::dialling([127, 0, 1, 1], reflector.bgp).await;
    a.announce(SERVICE, NODE_A).await;
    router.until_next_hops(SERVICE, &[NODE_A]).await;

    let stream = reflector
        .client
        .watch_paths(WatchPathsRequest {})
        .await
        .unwrap();
    let mut stream = stream.into_inner();
    let mut next = async || {
        let event = soon("an event", stream.message()).await.unwrap().unwrap();
        event.event.unwrap()
    };
    let Event::Path(path) = next().await else {
        panic!("the path comes first")
    };
    assert_eq!(
        (path.prefix.as_str(), path.peer.as_str(), path.best),
        (SERVICE, "127.0.1.1", true)
    );
    assert!(matches!(next().await, Event::Synced(_)));

    let b = Neighbour::dialling([127, 0, 1, 2], reflector.bgp).await;
    b.announce(SERVICE, NODE_B).await;
    let Event::Path(path) = next().await else {
        panic!("the new path comes next")
    };
    assert_eq!((path.peer.as_str(), path.best), ("127.0.1.2", false));

    a.kill();
    let mut events = [next().await, next().await];
    events.sort_by_key(|event| matches!(event, Event::Path(_)));
    let [Event::RemovedPath(removed), Event::Path(best)] = events else {
        panic!("{events:?}")
    };
    assert_eq!(
        (removed.prefix.as_str(), removed.peer.as_str()),
        (SERVICE, "127.0.1.1")
    );
    assert_eq!((best.peer.as_str(), best.best), ("127.0.1.2", true));
}

/// Waits until the configuration in force is as wanted.
async fn until_configured(
    reflector: &mut Running,
    what: &str,
    is_reached: impl Fn(&daemon_api::reflector::v1::GetConfigurationResponse) -> bool,
) {
    let wait = async {
        loop {
            let configuration = reflector
                .client
                .get_configuration(GetConfigurationRequest {});
            if is_reached(&configuration.await.unwrap().into_inner()) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    soon(what, wait).await;
}

#[tokio::test]
async fn a_changed_file_touches_only_the_sessions_that_it_concerns() {
    let mut reflector = Running::start(&usual()).await;
    let mut client = Neighbour::dialling([127, 0, 1, 1], reflector.bgp).await;
    client.established().await;
    let mut router = Neighbour::dialling([127, 0, 2, 1], reflector.bgp).await;
    router.established().await;
    client.announce(SERVICE, NODE_A).await;
    router.until_next_hops(SERVICE, &[NODE_A]).await;

    let other = "- name: others\n  dynamicPrefixes: [127.0.4.0/24]\n  role: client\n";
    let routers = ROUTERS.replace("exportPrefixes: all", "exportPrefixes: [10.1.2.0/24]");
    reflector.replace_file(&format!("{HEAD}peerGroups:\n{CLIENTS}{routers}{other}"));
    until_configured(&mut reflector, "the third group", |c| {
        c.peer_groups.len() == 3
    })
    .await;

    // What the router may be sent differs; its session stays.
    router.until_next_hops(SERVICE, &[]).await;
    client.announce("10.1.2.0/24", NODE_A).await;
    router.until_next_hops("10.1.2.0/24", &[NODE_A]).await;
    assert_eq!(router.paths.len(), 1);
    for neighbour in [&client, &router] {
        let sessions = neighbour.handle.peers().await.unwrap();
        assert_eq!(sessions[0].session.counters.established, 1);
    }

    // What stands in an OPEN needs a new session.
    let clients = CLIENTS.to_owned() + "  holdTime: 6s\n";
    reflector.replace_file(&format!("{HEAD}peerGroups:\n{clients}{routers}{other}"));
    client
        .until("a session with the other hold time", |this| {
            let mut sessions = this.peers.values().map(|peer| &peer.session);
            sessions.any(|session| {
                let negotiated = session.negotiated.as_ref();
                negotiated.is_some_and(|it| it.hold_time == Some(Duration::from_secs(6)))
            })
        })
        .await;
    let sessions = router.handle.peers().await.unwrap();
    assert_eq!(sessions[0].session.counters.established, 1);

    let mut newcomer = Neighbour::dialling([127, 0, 4, 1], reflector.bgp).await;
    newcomer.established().await;
}

#[tokio::test]
async fn attributes_of_a_dynamic_client_decide_nothing_until_the_group_relaxes_it() {
    let reflector = Running::start(&usual()).await;
    let client = Neighbour::dialling([127, 0, 1, 1], reflector.bgp).await;
    let mut router = Neighbour::dialling([127, 0, 2, 1], reflector.bgp).await;
    let own = Community(64512 << 16 | 100);
    let attributes = PathAttributes {
        local_pref: Some(200),
        multi_exit_disc: Some(7),
        communities: vec![own, Community::GRACEFUL_SHUTDOWN],
        ..PathAttributes::originate(NODE_A.into())
    };
    client.announce_with(SERVICE, attributes).await;
    router.until_next_hops(SERVICE, &[NODE_A]).await;
    let path = router.paths.values().next().unwrap();
    assert_eq!(path.attributes.local_pref, Some(100));
    assert_eq!(path.attributes.multi_exit_disc, None);
    let communities = [Community::GRACEFUL_SHUTDOWN];
    assert_eq!(path.attributes.communities, communities);

    let relaxed = "  localPref: pass\n  med: pass\n  communities: [64512:100]\n";
    reflector.replace_file(&format!("{HEAD}peerGroups:\n{CLIENTS}{relaxed}{ROUTERS}"));
    router
        .until("the attributes as the client sent them", |router| {
            router.paths.values().any(|path| {
                path.attributes.local_pref == Some(200)
                    && path.attributes.multi_exit_disc == Some(7)
                    && path.attributes.communities == [own, Community::GRACEFUL_SHUTDOWN]
            })
        })
        .await;
}

#[tokio::test]
async fn a_change_of_import_policy_withdraws_nothing_from_the_router() {
    let reflector = Running::start(&usual()).await;
    let client = Neighbour::dialling([127, 0, 1, 1], reflector.bgp).await;
    let mut router = Neighbour::dialling([127, 0, 2, 1], reflector.bgp).await;
    client.announce("10.3.1.0/24", NODE_A).await;
    client.announce(SERVICE, NODE_A).await;
    router.until_next_hops(SERVICE, &[NODE_A]).await;
    assert_eq!(router.paths.len(), 1, "10.3.1.0/24 is not allowed");

    let more = "  importPrefixes:\n  - {prefix: 10.3.0.0/16, maximumLength: 32}\n";
    let clients = CLIENTS.replace("  importPrefixes:\n", more);
    reflector.replace_file(&format!("{HEAD}peerGroups:\n{clients}{ROUTERS}"));
    // The client is asked for what was rejected.
    router.until_next_hops("10.3.1.0/24", &[NODE_A]).await;
    assert_eq!((router.paths.len(), router.withdrawn), (2, 0));

    // What a narrower policy excludes goes, and nothing else.
    reflector.replace_file(&usual());
    router.until_next_hops("10.3.1.0/24", &[]).await;
    assert_eq!((router.paths.len(), router.withdrawn), (1, 1));
    for neighbour in [&client, &router] {
        let sessions = neighbour.handle.peers().await.unwrap();
        assert_eq!(sessions[0].session.counters.established, 1);
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_used_changes_nothing() {
    let mut reflector = Running::start(&usual()).await;
    let mut client = Neighbour::dialling([127, 0, 1, 1], reflector.bgp).await;
    client.established().await;

    reflector.replace_file(&usual().replace("role:", "roll:"));
    until_configured(&mut reflector, "the error", |configuration| {
        configuration.last_error.contains("did you mean `role`?")
            && configuration.peer_groups.len() == 2
            && configuration.file.ends_with("route-reflector.yaml")
    })
    .await;
    assert!(reflector.readiness.is_ready());
    let report = reflector.readiness.report();
    assert!(report.contains("the file is not in force"), "{report}");

    reflector.replace_file(&usual().replace("64512", "64513"));
    until_configured(&mut reflector, "the other error", |configuration| {
        configuration
            .last_error
            .contains("asn: cannot change from 64512 to 64513")
    })
    .await;
    let metrics = http_get(&reflector, "/metrics").await;
    assert!(
        metrics.contains("portlb_reflector_configuration_reload_failures_total 2"),
        "{metrics}"
    );

    reflector.replace_file(&usual());
    until_configured(&mut reflector, "no error", |c| c.last_error.is_empty()).await;
    let sessions = client.handle.peers().await.unwrap();
    assert_eq!(sessions[0].session.counters.established, 1);
}

#[tokio::test]
async fn a_path_that_leads_to_no_usable_file_changes_nothing() {
    let mut reflector = Running::start(&usual()).await;
    let mut client = Neighbour::dialling([127, 0, 1, 1], reflector.bgp).await;
    client.established().await;
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let large = folder.path().join("large");
    let file = std::fs::File::create(&large).unwrap();
    file.set_len(17 * 1024 * 1024).unwrap();
    let cases: [(&Path, &str); 4] = [
        (&fifo, "a FIFO is no regular file"),
        (Path::new("/dev/zero"), "a device is no regular file"),
        (folder.path(), "a directory is no regular file"),
        (&large, "more than the 16777216 bytes"),
    ];
    for (target, reason) in cases {
        reflector.replace_file_by_link(target);
        until_configured(&mut reflector, reason, |configuration| {
            configuration.last_error.contains(reason) && configuration.peer_groups.len() == 2
        })
        .await;
    }
    reflector.replace_file(&usual());
    until_configured(&mut reflector, "no error", |c| c.last_error.is_empty()).await;
    let sessions = client.handle.peers().await.unwrap();
    assert_eq!(sessions[0].session.counters.established, 1);
}

/// Without a handler the signal would end this process.
#[tokio::test]
async fn sighup_reads_the_file_again() {
    let reflector = Running::start(&usual()).await;
    until_metric(&reflector, "portlb_reflector_configuration_reads_total 1").await;
    nix::sys::signal::raise(nix::sys::signal::Signal::SIGHUP).unwrap();
    until_metric(&reflector, "portlb_reflector_configuration_reads_total 2").await;
}

async fn until_metric(reflector: &Running, line: &str) -> String {
    let wait = async {
        loop {
            let text = http_get(reflector, "/metrics").await;
            if text.contains(line) {
                return text;
            }
        }
    };
    soon(line, wait).await
}

async fn http_get(reflector: &Running, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(reflector.http.to_string())
        .await
        .unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    soon("an HTTP answer", stream.read_to_string(&mut text))
        .await
        .unwrap();
    text
}

#[tokio::test]
async fn metrics_and_readiness_tell_of_the_sessions() {
    let reflector = Running::start(&usual()).await;
    let mut client = Neighbour::dialling([127, 0, 1, 1], reflector.bgp).await;
    client.established().await;
    let gauge = "portlb_reflector_sessions_established{group=\"clients\"} 1";
    let text = until_metric(&reflector, gauge).await;
    for line in [
        "portlb_bgp_connections_accepted_total 1",
        "portlb_bgp_sessions_established_total 1",
        "portlb_reflector_configuration_reloads_total 0",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let ready = http_get(&reflector, "/readyz").await;
    assert!(
        ready.contains("ready sessions: 1 of 1 established"),
        "{ready}"
    );
}

async fn until_sessions(reflector: &Running, expected: &str) {
    let wait = async {
        while !reflector.readiness.report().contains(expected) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    soon(expected, wait).await;
    let is_ready = expected.starts_with("ready");
    assert_eq!(reflector.readiness.is_ready(), is_ready, "{expected}");
}

/// Two routers that connect by themselves.
const TWO_ROUTERS: &str = "\
peers:
- {name: router-1, address: 127.0.3.1, group: routers, connection: passive}
- {name: router-2, address: 127.0.3.2, group: routers, connection: passive}
";

#[tokio::test]
async fn a_reflector_is_not_ready_until_each_router_has_come_once() {
    let reflector = Running::start(&(usual() + TWO_ROUTERS)).await;
    let mut client = Neighbour::dialling([127, 0, 1, 1], reflector.bgp).await;
    client.established().await;
    let none = "missing sessions: 1 of 3 established; no session with router-1, router-2";
    until_sessions(&reflector, none).await;
    let answer = http_get(&reflector, "/readyz").await;
    assert!(
        answer.contains(" 503 ") && answer.contains(none),
        "{answer}"
    );

    let first = Neighbour::dialling([127, 0, 3, 1], reflector.bgp).await;
    let one = "missing sessions: 2 of 3 established; no session with router-2";
    until_sessions(&reflector, one).await;
    let second = Neighbour::dialling([127, 0, 3, 2], reflector.bgp).await;
    until_sessions(&reflector, "ready sessions: 3 of 3 established\n").await;

    second.kill();
    let one = "ready sessions: 2 of 3 established; no session with router-2";
    until_sessions(&reflector, one).await;
    first.kill();
    until_sessions(&reflector, none).await;
}

#[tokio::test]
async fn a_router_that_does_not_come_is_waited_for_so_long_and_no_longer() {
    let text = usual() + TWO_ROUTERS;
    let reflector = Running::start_with(&text, std::time::Duration::from_millis(300)).await;
    let _router = Neighbour::dialling([127, 0, 3, 1], reflector.bgp).await;
    let one = "ready sessions: 1 of 2 established; no session with router-2";
    until_sessions(&reflector, one).await;
}

#[tokio::test]
async fn a_router_that_is_taken_out_of_the_file_is_not_waited_for() {
    let reflector = Running::start(&(usual() + TWO_ROUTERS)).await;
    let _router = Neighbour::dialling([127, 0, 3, 1], reflector.bgp).await;
    let both = "missing sessions: 1 of 2 established; no session with router-2";
    until_sessions(&reflector, both).await;
    let one = TWO_ROUTERS.lines().take(2).collect::<Vec<_>>().join("\n");
    reflector.replace_file(&(usual() + &one));
    until_sessions(&reflector, "ready sessions: 1 of 1 established\n").await;
}

#[tokio::test]
async fn a_peer_that_is_sent_nothing_is_no_router() {
    let client =
        "peers:\n- {name: client-1, address: 127.0.5.1, group: clients, connection: passive}\n";
    let reflector = Running::start(&(usual() + client)).await;
    until_sessions(&reflector, "ready sessions: 0 of 1 established\n").await;
}
