//! Tests of changes of the configuration file.

use std::time::Duration;

use bgp_packet::{Community, PathAttributes};
use daemon_api::reflector::v1::{GetConfigurationRequest, GetConfigurationResponse};

use crate::{
    NODE_A, SERVICE,
    harness::{CLIENTS, HEAD, ROUTERS, RunningReflector, TestPeer, soon, usual_file},
};

/// Waits until the running configuration fulfils the condition.
async fn until_configured(
    reflector: &mut RunningReflector,
    what: &str,
    is_reached: impl Fn(&GetConfigurationResponse) -> bool,
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
async fn a_changed_file_ends_only_sessions_whose_open_message_changes() {
    let mut reflector = RunningReflector::start(&usual_file()).await;
    let mut client = TestPeer::connecting([127, 0, 1, 1], reflector.bgp).await;
    client.established().await;
    let mut router = TestPeer::connecting([127, 0, 2, 1], reflector.bgp).await;
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

    // The export policy of the router has changed; its session stays.
    router.until_next_hops(SERVICE, &[]).await;
    client.announce("10.1.2.0/24", NODE_A).await;
    router.until_next_hops("10.1.2.0/24", &[NODE_A]).await;
    assert_eq!(router.paths.len(), 1);
    for peer in [&client, &router] {
        peer.assert_session_kept().await;
    }

    // A changed value of the OPEN message needs a new session.
    let clients = CLIENTS.to_owned() + "  holdTime: 6s\n";
    reflector.replace_file(&format!("{HEAD}peerGroups:\n{clients}{routers}{other}"));
    client
        .until("a session with the changed hold time", |this| {
            let mut sessions = this.peers.values().map(|peer| &peer.session);
            sessions.any(|session| {
                let negotiated = session.negotiated.as_ref();
                negotiated.is_some_and(|it| it.hold_time == Some(Duration::from_secs(6)))
            })
        })
        .await;
    router.assert_session_kept().await;

    let mut newcomer = TestPeer::connecting([127, 0, 4, 1], reflector.bgp).await;
    newcomer.established().await;
}

#[tokio::test]
async fn attributes_of_a_dynamic_client_are_replaced_until_the_group_relaxes_the_policy() {
    let reflector = RunningReflector::start(&usual_file()).await;
    let client = TestPeer::connecting([127, 0, 1, 1], reflector.bgp).await;
    let mut router = TestPeer::connecting([127, 0, 2, 1], reflector.bgp).await;
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
async fn a_relaxed_import_policy_withdraws_no_path_from_the_router() {
    let reflector = RunningReflector::start(&usual_file()).await;
    let client = TestPeer::connecting([127, 0, 1, 1], reflector.bgp).await;
    let mut router = TestPeer::connecting([127, 0, 2, 1], reflector.bgp).await;
    client.announce("10.3.1.0/24", NODE_A).await;
    client.announce(SERVICE, NODE_A).await;
    router.until_next_hops(SERVICE, &[NODE_A]).await;
    assert_eq!(
        router.paths.len(),
        1,
        "10.3.1.0/24 is rejected by the import policy"
    );

    let more = "  importPrefixes:\n  - {prefix: 10.3.0.0/16, maximumLength: 32}\n";
    let clients = CLIENTS.replace("  importPrefixes:\n", more);
    reflector.replace_file(&format!("{HEAD}peerGroups:\n{clients}{ROUTERS}"));
    // The reflector requests the rejected path from the client again.
    router.until_next_hops("10.3.1.0/24", &[NODE_A]).await;
    assert_eq!((router.paths.len(), router.withdrawn), (2, 0));

    // A narrower policy withdraws only the excluded path.
    reflector.replace_file(&usual_file());
    router.until_next_hops("10.3.1.0/24", &[]).await;
    assert_eq!((router.paths.len(), router.withdrawn), (1, 1));
    for peer in [&client, &router] {
        peer.assert_session_kept().await;
    }
}

#[tokio::test]
async fn an_invalid_file_is_rejected_and_the_running_configuration_stays() {
    let mut reflector = RunningReflector::start(&usual_file()).await;
    let mut client = TestPeer::connecting([127, 0, 1, 1], reflector.bgp).await;
    client.established().await;

    reflector.replace_file(&usual_file().replace("role:", "roll:"));
    until_configured(&mut reflector, "the error", |configuration| {
        configuration.last_error.contains("did you mean `role`?")
            && configuration.peer_groups.len() == 2
            && configuration.file.ends_with("route-reflector.yaml")
    })
    .await;
    assert!(reflector.readiness.is_ready());
    let report = reflector.readiness.report();
    assert!(report.contains("configuration file rejected"), "{report}");

    reflector.replace_file(&usual_file().replace("64512", "64513"));
    until_configured(&mut reflector, "the other error", |configuration| {
        configuration
            .last_error
            .contains("asn: cannot change from 64512 to 64513")
    })
    .await;
    let metrics = reflector.http_get("/metrics").await;
    assert!(
        metrics.contains("portlb_reflector_configuration_reload_failures_total 2"),
        "{metrics}"
    );

    // The reflector rejects a FIFO without reading it, because reading a FIFO could block.
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    reflector.replace_file_by_link(&fifo);
    until_configured(&mut reflector, "the FIFO", |configuration| {
        configuration
            .last_error
            .contains("a FIFO is not a regular file")
            && configuration.peer_groups.len() == 2
    })
    .await;

    reflector.replace_file(&usual_file());
    until_configured(&mut reflector, "no error", |c| c.last_error.is_empty()).await;
    client.assert_session_kept().await;
}

/// Without the handler of the reflector, SIGHUP would end the test process.
#[tokio::test]
async fn the_reflector_reads_the_configuration_file_again_at_sighup() {
    let reflector = RunningReflector::start(&usual_file()).await;
    reflector
        .until_metric("portlb_reflector_configuration_reads_total 1")
        .await;
    nix::sys::signal::raise(nix::sys::signal::Signal::SIGHUP).unwrap();
    reflector
        .until_metric("portlb_reflector_configuration_reads_total 2")
        .await;
}
