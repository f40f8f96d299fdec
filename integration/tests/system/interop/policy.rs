//! What a foreign peer may announce, and what becomes of it when it does more.

use anyhow::ensure;
use lab::bgp::Program;

use super::network::{CLIENTS, Network, Place, Reflector, SERVICE, prefix};
use crate::expect::{SOON, eventually};

const A: Place = Place::Client(1);
const B: Place = Place::Client(2);

#[test]
fn a_client_with_too_many_paths_is_ended_with_cease_and_the_others_stay() {
    let network = Network::bring_up("interop-maximum", &[Place::Reflector, A, B]).unwrap();
    let clients = format!("{CLIENTS}\n  maximumPaths: 5");
    let reflector = Reflector::start(&network, &[&clients], &[]).unwrap();
    network.start(B, Program::Bird, &B.client()).unwrap();
    reflector.wait_for_announcers(&[B]).unwrap();
    let mut greedy = A.client();
    for number in 1..=4 {
        let host = prefix(&format!("10.1.2.{number}/32"));
        greedy = greedy.announce(host, A.address().into());
    }
    let greedy = network.start(A, Program::Bird, &greedy).unwrap();
    // Cease, subcode 1 (RFC 4486).
    let words = "Maximum number of prefixes reached";
    greedy.process.wait_for_line(words, SOON).unwrap();
    reflector.wait_for_announcers(&[B]).unwrap();
    assert_eq!(reflector.session(B).unwrap().established_count, 1);
    assert_eq!(reflector.paths().unwrap().len(), 2);
}

#[test]
fn only_what_the_import_policy_names_is_accepted() {
    let network = Network::bring_up("interop-import", &[Place::Reflector, A]).unwrap();
    let reflector = Reflector::start(&network, &[CLIENTS], &[]).unwrap();
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
    eventually("what is named is there and nothing else", || {
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
