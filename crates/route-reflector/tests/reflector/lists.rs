//! Tests of lists, watches and metrics.

use daemon_api::{
    bgp::v1::{Path, SessionState},
    reflector::v1::{
        ListPathsRequest, ListSessionsRequest, Table, WatchPathsRequest, WatchSessionsRequest,
        watch_paths_response, watch_sessions_response,
    },
};
use tonic::Code;

use crate::{
    NODE_A, NODE_B, SERVICE,
    harness::{RunningReflector, TestPeer, soon, usual_file},
};

#[tokio::test]
async fn list_paths_returns_the_paths_of_each_table() {
    let mut reflector = RunningReflector::start(&usual_file()).await;
    let mut router = TestPeer::connecting([127, 0, 2, 1], reflector.bgp).await;
    let a = TestPeer::connecting([127, 0, 1, 1], reflector.bgp).await;
    let b = TestPeer::connecting([127, 0, 1, 2], reflector.bgp).await;
    a.announce(SERVICE, NODE_A).await;
    b.announce(SERVICE, NODE_B).await;
    b.announce("10.1.2.0/24", NODE_B).await;
    router.until_next_hops(SERVICE, &[NODE_A, NODE_B]).await;
    router.until_next_hops("10.1.2.0/24", &[NODE_B]).await;

    let all = reflector.list_paths(Table::All, "").await.unwrap();
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
    let next_hop = |path: &Path| path.attributes.as_ref().unwrap().next_hop.clone();
    assert_eq!(next_hop(&all[0]), "192.0.2.1");

    let received = reflector
        .list_paths(Table::AdjRibIn, "127.0.1.2")
        .await
        .unwrap();
    assert_eq!(received.len(), 2);
    let sent = reflector
        .list_paths(Table::AdjRibOut, "127.0.2.1")
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
async fn paths_and_sessions_are_listed_in_pages() {
    let mut reflector = RunningReflector::start(&usual_file()).await;
    let mut router = TestPeer::connecting([127, 0, 2, 1], reflector.bgp).await;
    let a = TestPeer::connecting([127, 0, 1, 1], reflector.bgp).await;
    let b = TestPeer::connecting([127, 0, 1, 2], reflector.bgp).await;
    a.announce(SERVICE, NODE_A).await;
    b.announce(SERVICE, NODE_B).await;
    b.announce("10.1.2.0/24", NODE_B).await;
    router.until_next_hops(SERVICE, &[NODE_A, NODE_B]).await;
    router.until_next_hops("10.1.2.0/24", &[NODE_B]).await;

    let all_paths = reflector.list_paths(Table::All, "").await.unwrap();
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
    assert_eq!((paths, request.page_token.as_str()), (all_paths, ""));

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
async fn a_page_token_of_a_list_with_other_arguments_is_rejected() {
    let mut reflector = RunningReflector::start(&usual_file()).await;
    let mut router = TestPeer::connecting([127, 0, 2, 1], reflector.bgp).await;
    let a = TestPeer::connecting([127, 0, 1, 1], reflector.bgp).await;
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
async fn invalid_requests_are_rejected_with_the_name_of_the_field() {
    let mut reflector = RunningReflector::start(&usual_file()).await;
    let error = reflector.list_paths(Table::AdjRibIn, "").await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().starts_with("peer:"), "{error}");
    let error = reflector
        .list_paths(Table::AdjRibOut, "unknown")
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
async fn a_watch_of_sessions_sends_synced_and_then_each_change() {
    use watch_sessions_response::Event;
    let mut reflector = RunningReflector::start(&usual_file()).await;
    let stream = reflector
        .client
        .watch_sessions(WatchSessionsRequest {})
        .await
        .unwrap();
    let mut stream = stream.into_inner();
    let mut next = async || soon("an event", stream.message()).await.unwrap().unwrap();
    let first = next().await;
    assert!(matches!(first.event, Some(Event::Synced(_))), "{first:?}");

    let client = TestPeer::connecting([127, 0, 1, 1], reflector.bgp).await;
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
async fn the_number_of_watches_is_limited_and_a_closed_watch_allows_a_new_watch() {
    let mut reflector = RunningReflector::start(&usual_file()).await;
    let mut watches = Vec::new();
    for _ in 0..32 {
        let watch = reflector.client.watch_paths(WatchPathsRequest {}).await;
        watches.push(watch.unwrap().into_inner());
    }
    let rejected_watch = reflector.client.watch_sessions(WatchSessionsRequest {});
    let error = rejected_watch.await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted, "{error}");
    assert!(error.message().contains("32 watches"), "{error}");
    watches.pop();
    let room = async {
        let request = WatchSessionsRequest {};
        while reflector.client.watch_sessions(request).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    soon("a watch can be opened again", room).await;
}

#[tokio::test]
async fn a_watch_of_paths_sends_existing_paths_then_synced_then_each_change() {
    use watch_paths_response::Event;
    let mut reflector = RunningReflector::start(&usual_file()).await;
    let mut router = TestPeer::connecting([127, 0, 2, 1], reflector.bgp).await;
    let a = TestPeer::connecting([127, 0, 1, 1], reflector.bgp).await;
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
        panic!("the existing path is the first event")
    };
    assert_eq!(
        (path.prefix.as_str(), path.peer.as_str(), path.best),
        (SERVICE, "127.0.1.1", true)
    );
    assert!(matches!(next().await, Event::Synced(_)));

    let b = TestPeer::connecting([127, 0, 1, 2], reflector.bgp).await;
    b.announce(SERVICE, NODE_B).await;
    let Event::Path(path) = next().await else {
        panic!("the new path is the next event")
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

#[tokio::test]
async fn metrics_and_readiness_show_the_sessions() {
    let reflector = RunningReflector::start(&usual_file()).await;
    let mut client = TestPeer::connecting([127, 0, 1, 1], reflector.bgp).await;
    client.established().await;
    let gauge = "portlb_reflector_sessions_established{group=\"clients\"} 1";
    let text = reflector.until_metric(gauge).await;
    for line in [
        "portlb_bgp_connections_accepted_total 1",
        "portlb_bgp_sessions_established_total 1",
        "portlb_reflector_configuration_reloads_total 0",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let ready = reflector.http_get("/readyz").await;
    assert!(
        ready.contains("ready sessions: 1 of 1 established"),
        "{ready}"
    );
}
