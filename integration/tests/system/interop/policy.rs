//! Tests of the import policy and of `maximumPaths`.

use anyhow::ensure;
use lab::bgp::{ForeignSpeaker, Program};

use super::network::{
    CLIENTS, LinkMember, Network, ROUTERS, ReflectorProcess, SERVICE, SERVICE6, file, prefix,
};
use crate::expect::{SOON, eventually};

const A: LinkMember = LinkMember::Client(1);
const B: LinkMember = LinkMember::Client(2);

/// Returns a client with six paths: the two prefixes of the service and four host routes. The limit
/// `maximumPaths` of the tests is 5.
fn greedy() -> ForeignSpeaker {
    let mut greedy = A.client();
    for number in 1..=4 {
        let host = prefix(&format!("10.1.2.{number}/32"));
        greedy = greedy.announce(host, A.address().into());
    }
    greedy
}

#[test]
fn a_client_with_more_paths_than_the_maximum_keeps_its_session_and_the_accepted_paths() {
    let network = Network::bring_up("interop-maximum", &[LinkMember::Reflector, A]).unwrap();
    let clients = format!("{CLIENTS}\n  maximumPaths: 5");
    let reflector = ReflectorProcess::start(&network, &[&clients], &[]).unwrap();
    let bird = network.start(A, Program::Bird, &greedy()).unwrap();
    let words = "path refused: the peer has reached its maximum of paths";
    reflector.process.wait_for_line(words, SOON).unwrap();
    assert_eq!(reflector.paths().unwrap().len(), 5);
    // BIRD withdraws all IPv4 paths. Then the reflector has room, and requests the refused paths
    // with a route refresh.
    bird.ask("disable own_ipv4").unwrap();
    eventually("the reflector has only the IPv6 path", || {
        let paths = reflector.paths()?;
        ensure!(paths.len() == 1, "{paths:#?}");
        Ok(())
    })
    .unwrap();
    bird.ask("enable own_ipv4").unwrap();
    eventually("the reflector has five paths", || {
        let paths = reflector.paths()?;
        ensure!(paths.len() == 5, "{paths:#?}");
        Ok(())
    })
    .unwrap();
    let session = reflector.session(A).unwrap();
    assert_eq!(session.established_count, 1, "{session:#?}");
}

#[test]
fn with_the_action_restart_the_session_of_a_client_with_too_many_paths_ends_with_cease() {
    let network = Network::bring_up("interop-restart", &[LinkMember::Reflector, A, B]).unwrap();
    let clients = format!("{CLIENTS}\n  maximumPaths: 5\n  maximumPathsAction: restart");
    let reflector = ReflectorProcess::start(&network, &[&clients], &[]).unwrap();
    network.start(B, Program::Bird, &B.client()).unwrap();
    reflector.wait_for_announcers(&[B]).unwrap();
    let greedy = network.start(A, Program::Bird, &greedy()).unwrap();
    // BIRD prints this text for the code Cease with the subcode 1 (RFC 4486).
    let words = "Maximum number of prefixes reached";
    greedy.process.wait_for_line(words, SOON).unwrap();
    reflector.wait_for_announcers(&[B]).unwrap();
    assert_eq!(reflector.session(B).unwrap().established_count, 1);
    assert_eq!(reflector.paths().unwrap().len(), 2);
}

#[test]
fn a_reflector_accepts_only_the_paths_that_the_import_policy_allows() {
    let network = Network::bring_up("interop-import", &[LinkMember::Reflector, A]).unwrap();
    let reflector = ReflectorProcess::start(&network, &[CLIENTS], &[]).unwrap();
    let own = A.address().into();
    let client = A
        .client()
        .announce(prefix("10.1.2.3/32"), own)
        .announce(prefix("10.0.0.0/8"), own)
        .announce(prefix("0.0.0.0/0"), own)
        .announce(prefix("10.2.0.0/16"), own)
        .announce(prefix("10.1.3.0/24"), "192.0.2.1".parse().unwrap());
    network.start(A, Program::Bird, &client).unwrap();
    reflector.wait_for_announcers(&[A]).unwrap();
    eventually("the reflector has exactly the allowed paths", || {
        let paths = reflector.paths()?;
        let mut prefixes: Vec<_> = paths.iter().map(|path| &path.prefix[..]).collect();
        prefixes.sort_unstable();
        ensure!(
            prefixes == ["10.1.1.0/24", "10.1.2.3/32", "fd00:10:1:1::/64"],
            "{prefixes:?}"
        );
        let session = reflector.session(A)?;
        ensure!(session.updates_received >= 3, "{session:#?}");
        Ok(())
    })
    .unwrap();
    let session = reflector.session(A).unwrap();
    assert_eq!(session.established_count, 1, "{session:#?}");
    assert_eq!(reflector.next_hops(SERVICE).unwrap(), [A.address()]);
}

#[test]
fn a_change_of_the_import_policy_withdraws_no_path_from_the_router() {
    let router = LinkMember::Router(1);
    let network = Network::bring_up("interop-policy", &[LinkMember::Reflector, A, router]).unwrap();
    let peers = [("router", router.address(), "routers")];
    let bird = network
        .start(router, Program::Bird, &router.router())
        .unwrap();
    let reflector = ReflectorProcess::start(&network, &[CLIENTS, ROUTERS], &peers).unwrap();
    let other = "10.2.0.0/16";
    let client = A.client().announce(prefix(other), A.address().into());
    network.start(A, Program::Bird, &client).unwrap();
    bird.wait_for_table(&[SERVICE, SERVICE6], SOON).unwrap();

    let more = format!("importPrefixes:\n  - {other}");
    let clients = CLIENTS.replace("importPrefixes:", &more);
    reflector
        .reload(&file(&[&clients, ROUTERS], &peers))
        .unwrap();
    bird.wait_for_table(&[SERVICE, SERVICE6, other], SOON)
        .unwrap();
    for member in [A, router] {
        let session = reflector.session(member).unwrap();
        assert_eq!(session.established_count, 1, "{session:#?}");
    }
    let counters = bird.ask("show protocols all").unwrap();
    let withdraws: Vec<_> = counters
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Import withdraws:"))
        .collect();
    assert!(!withdraws.is_empty(), "{counters}");
    for of_channel in withdraws {
        let received = of_channel.split_whitespace().next();
        assert_eq!(received, Some("0"), "{counters}");
    }
}
