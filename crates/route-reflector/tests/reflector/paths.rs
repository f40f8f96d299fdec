//! Tests of the reflection of paths from clients to routers.

use bgp_packet::{PathAttributes, RouterId};
use daemon_api::{
    bgp::v1::{AddPath, SessionState},
    reflector::v1::{ListPathsRequest, ListSessionsRequest, Table},
};

use crate::{
    NODE_A, NODE_B, SERVICE,
    harness::{CLIENTS, HEAD, RunningReflector, TestPeer, usual_file},
};

#[tokio::test]
async fn a_router_with_add_path_gets_the_path_of_each_client_and_loses_the_path_of_a_lost_client() {
    let reflector = RunningReflector::start(&usual_file()).await;
    let mut router = TestPeer::connecting([127, 0, 2, 1], reflector.bgp).await;
    let a = TestPeer::connecting([127, 0, 1, 1], reflector.bgp).await;
    let b = TestPeer::connecting([127, 0, 1, 2], reflector.bgp).await;
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
async fn the_reflector_connects_to_a_router_that_listens() {
    let mut router = TestPeer::listening([127, 0, 3, 1]).await;
    let address = router.listens_on.unwrap();
    let peers = format!(
        "peers:\n- name: router-1\n  address: {}\n  port: {}\n  group: routers\n  connection: \
         active\n",
        address.ip(),
        address.port()
    );
    let mut reflector = RunningReflector::start(&(usual_file() + &peers)).await;
    let client = TestPeer::connecting([127, 0, 1, 1], reflector.bgp).await;
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
async fn paths_that_the_import_policy_does_not_allow_are_not_reflected() {
    let mut reflector = RunningReflector::start(&usual_file()).await;
    let mut router = TestPeer::connecting([127, 0, 2, 1], reflector.bgp).await;
    let client = TestPeer::connecting([127, 0, 1, 1], reflector.bgp).await;
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
async fn a_client_in_a_group_without_export_prefixes_is_sent_no_path() {
    let mut reflector = RunningReflector::start(&usual_file()).await;
    let a = TestPeer::connecting([127, 0, 1, 1], reflector.bgp).await;
    let mut b = TestPeer::connecting([127, 0, 1, 2], reflector.bgp).await;
    let mut router = TestPeer::connecting([127, 0, 2, 1], reflector.bgp).await;
    b.established().await;
    a.announce(SERVICE, NODE_A).await;
    router.until_next_hops(SERVICE, &[NODE_A]).await;
    let sent = reflector
        .list_paths(Table::AdjRibOut, "127.0.1.2")
        .await
        .unwrap();
    assert!(sent.is_empty(), "{sent:?}");
}

const FOUR: [&str; 4] = ["10.1.1.0/24", "10.1.2.0/24", "10.1.3.0/24", "10.1.4.0/24"];

#[tokio::test]
async fn paths_of_a_client_up_to_maximum_paths_stay_when_the_client_announces_more() {
    let reflector = RunningReflector::start(&usual_file()).await;
    let mut client = TestPeer::connecting([127, 0, 1, 1], reflector.bgp).await;
    client.established().await;
    for prefix in FOUR {
        client.announce(prefix, NODE_A).await;
    }
    reflector
        .until_metric("portlb_bgp_paths_over_maximum_total 1")
        .await;
    let mut router = TestPeer::connecting([127, 0, 2, 1], reflector.bgp).await;
    for prefix in &FOUR[..3] {
        router.until_next_hops(prefix, &[NODE_A]).await;
    }
    // After a withdrawal, the reflector requests the rejected path again, without an announcement
    // by the client.
    let withdrawn = client.handle.withdraw(FOUR[0].parse().unwrap()).await;
    withdrawn.unwrap();
    router.until_next_hops(FOUR[3], &[NODE_A]).await;
    assert_eq!(router.paths.len(), 3);
    client.assert_session_kept().await;
}

#[tokio::test]
async fn more_paths_than_maximum_paths_end_the_session_if_the_action_is_restart() {
    let clients = format!("{CLIENTS}  maximumPathsAction: restart\n");
    let reflector = RunningReflector::start(&format!("{HEAD}peerGroups:\n{clients}")).await;
    let mut client = TestPeer::connecting([127, 0, 1, 1], reflector.bgp).await;
    client.established().await;
    for prefix in FOUR {
        let attributes = PathAttributes::originate(NODE_A.into());
        let prefix = prefix.parse().unwrap();
        let originated = client.handle.originate(prefix, attributes).await;
        originated.unwrap().unwrap();
    }
    client.until_error("Maximum Number").await;
}
