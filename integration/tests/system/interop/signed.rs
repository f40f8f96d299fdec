//! Sessions that TCP MD5 signs (RFC 2385): between our speakers and foreign ones with a key.

use anyhow::{Context, Result, ensure};
use daemon_api::dataplane::v1::MissingStep;
use lab::Host;
use lab::bgp::{AddPath, Peer, Program};
use lab::stand_in::{Heartbeats, StandInDataPlane};

use super::announcer::{ANNOUNCER, announcer};
use super::network::{
    CLIENTS, Network, Place, REFLECTOR, ROUTERS, Reflector, SERVICE, SERVICE6, prefix,
};
use crate::expect::{SOON, eventually};

const CLIENT: [(Place, Program); 4] = [
    (Place::Client(1), Program::Bird),
    (Place::Client(2), Program::Frr),
    (Place::Client(3), Program::GoBgp),
    (Place::Client(4), Program::ExaBgp),
];
const WITHOUT: Place = Place::Client(5);
const OTHER: Place = Place::Client(6);
const ROUTER: [(Place, Program); 2] = [
    (Place::Router(1), Program::Bird),
    (Place::Router(2), Program::Frr),
];

/// How many segments the host's kernel has dropped for this reason (`TcpExt` of
/// /proc/net/netstat).
fn dropped(host: &Host, reason: &str) -> Result<u64> {
    let text = host.output("cat", ["/proc/net/netstat"])?;
    let mut lines = text
        .lines()
        .filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (
        lines.next().context("names")?,
        lines.next().context("values")?,
    );
    let mut both = names.split(' ').zip(values.split(' '));
    let (_, value) = both
        .find(|(name, _)| *name == reason)
        .context("no such reason")?;
    Ok(value.parse()?)
}

#[test]
fn a_session_with_any_program_comes_up_with_the_same_key_and_no_other() {
    let mut places = vec![Place::Reflector, WITHOUT, OTHER];
    places.extend(CLIENT.iter().chain(&ROUTER).map(|(place, _)| place));
    let network = Network::bring_up("interop-signed", &places).unwrap();
    let host = network.host(Place::Reflector).unwrap();
    let key = host.write("key", "one\n").unwrap();
    let signed = |group: &str| format!("{group}\n  md5KeyFile: {}", key.display());
    let peers = ROUTER.map(|(place, _)| (place.name(), place.address()));
    let peers = [0, 1].map(|at| (peers[at].0.as_str(), peers[at].1, "routers"));
    let groups = [signed(CLIENTS), signed(ROUTERS)];
    let groups = [groups[0].as_str(), groups[1].as_str()];
    let reflector = Reflector::start(&network, &groups, &peers).unwrap();

    let peer = || Peer::new("reflector", REFLECTOR.into());
    let mut running = Vec::new();
    for (place, program) in CLIENT {
        let speaker = place.client_of(peer().password("one"));
        running.push(network.start(place, program, &speaker).unwrap());
    }
    for (place, peer) in [(WITHOUT, peer()), (OTHER, peer().password("other"))] {
        let speaker = place.client_of(peer);
        running.push(network.start(place, Program::Bird, &speaker).unwrap());
    }
    let routers = ROUTER.map(|(place, program)| {
        let peer = peer().add_path(AddPath::Receive).password("one");
        network
            .start(place, program, &place.speaker_of(peer))
            .unwrap()
    });
    let with_key = CLIENT.map(|(place, _)| place);
    reflector.wait_for_announcers(&with_key).unwrap();
    for router in &routers {
        router
            .wait_for_table(&[SERVICE, SERVICE6, "10.0.1.1", "10.0.1.4"], SOON)
            .unwrap();
    }
    eventually(
        "the kernel has dropped what is not signed, or with another key",
        || {
            for reason in ["TCPMD5NotFound", "TCPMD5Failure"] {
                ensure!(dropped(&host, reason)? > 0, "no {reason}");
            }
            Ok(())
        },
    )
    .unwrap();
    reflector.wait_for_announcers(&with_key).unwrap();

    host.write("key", "other\n").unwrap();
    reflector.read_again().unwrap();
    reflector.wait_for_announcers(&[OTHER]).unwrap();
    for (place, _) in ROUTER {
        eventually("nothing can be told of a wrong key but silence", || {
            let session = reflector.session(place)?;
            ensure!(
                session.last_error.contains("no answer within"),
                "{session:#?}"
            );
            Ok(())
        })
        .unwrap();
    }
}

#[test]
fn our_announcer_has_a_key_for_all_peers_or_one_of_a_peer() {
    let routers = [
        (Place::Router(1), Program::Bird, "one"),
        (Place::Router(2), Program::Frr, "other"),
        (Place::Router(3), Program::Bird, "wrong"),
    ];
    let mut places = vec![ANNOUNCER];
    places.extend(routers.map(|(place, ..)| place));
    let network = Network::bring_up("interop-signed-announcer", &places).unwrap();
    let routers = routers.map(|(place, program, password)| {
        let clients = Peer::range("clients", prefix("10.0.1.0/24")).password(password);
        let router = network.start(place, program, &place.speaker_of(clients));
        (place, router.unwrap())
    });
    let host = network.host(ANNOUNCER).unwrap();
    let also = [prefix(SERVICE6)];
    let data_plane = StandInDataPlane::start_with(&host, Heartbeats::Sent, &also).unwrap();
    data_plane.set(MissingStep::None, "");
    let [one, other] = ["one", "other"].map(|key| host.write(key, key).unwrap());
    let peers = routers.each_ref().map(|(place, _)| match place {
        Place::Router(2) => format!("{},md5-key-file={}", place.address(), other.display()),
        Place::Router(_) | Place::Client(_) | Place::Reflector => place.address().to_string(),
    });
    let mut command = announcer(&peers).unwrap();
    command.arg("--md5-key-file").arg(one);
    host.start("bgp-announcer", command).unwrap();

    let [(_, bird), (_, frr), (wrong, third)] = &routers;
    for router in [bird, frr] {
        router.wait_for_table(&[SERVICE, SERVICE6], SOON).unwrap();
    }
    let host = network.host(*wrong).unwrap();
    eventually(
        "the kernel has dropped what is signed with another key",
        || {
            ensure!(dropped(&host, "TCPMD5Failure")? > 0, "none");
            Ok(())
        },
    )
    .unwrap();
    let table = third.table().unwrap();
    assert!(!table.contains(SERVICE), "{table}");
}
