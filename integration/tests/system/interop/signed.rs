//! Tests of sessions with TCP MD5 signatures (RFC 2385).

use anyhow::{Context, Result, ensure};
use daemon_api::dataplane::v1::MissingStep;
use lab::Host;
use lab::bgp::{AddPath, ForeignPeer, Program};
use lab::fake::{FakeDataPlaneServer, Heartbeats};

use super::announcer::{ANNOUNCER, announcer};
use super::network::{
    CLIENTS, LinkMember, Network, REFLECTOR, ROUTERS, ReflectorProcess, SERVICE, SERVICE6, prefix,
};
use crate::expect::{SOON, eventually};

const CLIENT: [(LinkMember, Program); 4] = [
    (LinkMember::Client(1), Program::Bird),
    (LinkMember::Client(2), Program::Frr),
    (LinkMember::Client(3), Program::GoBgp),
    (LinkMember::Client(4), Program::ExaBgp),
];
const WITHOUT_KEY: LinkMember = LinkMember::Client(5);
const OTHER_KEY: LinkMember = LinkMember::Client(6);
const ROUTER: [(LinkMember, Program); 2] = [
    (LinkMember::Router(1), Program::Bird),
    (LinkMember::Router(2), Program::Frr),
];

/// Returns the number of segments that the host's kernel has dropped for a reason.
///
/// `reason` is the name of a field of `TcpExt` in `/proc/net/netstat`.
fn dropped(host: &Host, reason: &str) -> Result<u64> {
    let text = host.output("cat", ["/proc/net/netstat"])?;
    let mut lines = text
        .lines()
        .filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (
        lines.next().context("netstat has no line of names")?,
        lines.next().context("netstat has no line of values")?,
    );
    let mut both = names.split(' ').zip(values.split(' '));
    let (_, value) = both
        .find(|(name, _)| *name == reason)
        .with_context(|| format!("netstat has no field {reason}"))?;
    Ok(value.parse()?)
}

#[test]
fn a_session_with_any_program_needs_the_key_of_the_reflector() {
    let mut members = vec![LinkMember::Reflector, WITHOUT_KEY, OTHER_KEY];
    members.extend(CLIENT.iter().chain(&ROUTER).map(|(member, _)| member));
    let network = Network::bring_up("interop-signed", &members).unwrap();
    let host = network.host(LinkMember::Reflector).unwrap();
    let key = host.write("key", "one\n").unwrap();
    let signed = |group: &str| format!("{group}\n  md5KeyFile: {}", key.display());
    let peers = ROUTER.map(|(member, _)| (member.name(), member.address()));
    let peers = [0, 1].map(|at| (peers[at].0.as_str(), peers[at].1, "routers"));
    let groups = [signed(CLIENTS), signed(ROUTERS)];
    let groups = [groups[0].as_str(), groups[1].as_str()];
    let reflector = ReflectorProcess::start(&network, &groups, &peers).unwrap();

    let peer = || ForeignPeer::new("reflector", REFLECTOR.into());
    let mut running = Vec::new();
    for (member, program) in CLIENT {
        let speaker = member.client_of(peer().password("one"));
        running.push(network.start(member, program, &speaker).unwrap());
    }
    for (member, peer) in [(WITHOUT_KEY, peer()), (OTHER_KEY, peer().password("other"))] {
        let speaker = member.client_of(peer);
        running.push(network.start(member, Program::Bird, &speaker).unwrap());
    }
    let routers = ROUTER.map(|(member, program)| {
        let peer = peer().add_path(AddPath::Receive).password("one");
        network
            .start(member, program, &member.speaker_of(peer))
            .unwrap()
    });
    let with_key = CLIENT.map(|(member, _)| member);
    reflector.wait_for_announcers(&with_key).unwrap();
    for router in &routers {
        router
            .wait_for_table(&[SERVICE, SERVICE6, "10.0.1.1", "10.0.1.4"], SOON)
            .unwrap();
    }
    eventually(
        "the kernel has dropped segments without a signature and with another key",
        || {
            for reason in ["TCPMD5NotFound", "TCPMD5Failure"] {
                ensure!(
                    dropped(&host, reason)? > 0,
                    "no segment dropped for {reason}"
                );
            }
            Ok(())
        },
    )
    .unwrap();
    reflector.wait_for_announcers(&with_key).unwrap();

    host.write("key", "other\n").unwrap();
    reflector.reread().unwrap();
    reflector.wait_for_announcers(&[OTHER_KEY]).unwrap();
    for (member, _) in ROUTER {
        eventually(
            "the connection to a router with a wrong key times out",
            || {
                let session = reflector.session(member)?;
                ensure!(
                    session.last_error.contains("no answer within"),
                    "{session:#?}"
                );
                Ok(())
            },
        )
        .unwrap();
    }
}

#[test]
fn the_announcer_uses_the_common_key_or_the_key_of_a_single_peer() {
    let routers = [
        (LinkMember::Router(1), Program::Bird, "one"),
        (LinkMember::Router(2), Program::Frr, "other"),
        (LinkMember::Router(3), Program::Bird, "wrong"),
    ];
    let mut members = vec![ANNOUNCER];
    members.extend(routers.map(|(member, ..)| member));
    let network = Network::bring_up("interop-signed-announcer", &members).unwrap();
    let routers = routers.map(|(member, program, password)| {
        let clients = ForeignPeer::range("clients", prefix("10.0.1.0/24")).password(password);
        let router = network.start(member, program, &member.speaker_of(clients));
        (member, router.unwrap())
    });
    let host = network.host(ANNOUNCER).unwrap();
    let also = [prefix(SERVICE6)];
    let data_plane = FakeDataPlaneServer::start_with(&host, Heartbeats::Sent, &also).unwrap();
    data_plane.set(MissingStep::None, "");
    let [one, other] = ["one", "other"].map(|key| host.write(key, key).unwrap());
    let peers = routers.each_ref().map(|(member, _)| match member {
        LinkMember::Router(2) => format!("{},md5-key-file={}", member.address(), other.display()),
        LinkMember::Router(_) | LinkMember::Client(_) | LinkMember::Reflector => {
            member.address().to_string()
        }
    });
    let mut command = announcer(&peers).unwrap();
    command.arg("--md5-key-file").arg(one);
    host.start("bgp-announcer", command).unwrap();

    let [(_, bird), (_, frr), (wrong, third)] = &routers;
    for router in [bird, frr] {
        router.wait_for_table(&[SERVICE, SERVICE6], SOON).unwrap();
    }
    let host = network.host(*wrong).unwrap();
    eventually("the kernel has dropped segments with another key", || {
        ensure!(
            dropped(&host, "TCPMD5Failure")? > 0,
            "no segment dropped for TCPMD5Failure"
        );
        Ok(())
    })
    .unwrap();
    let table = third.table().unwrap();
    assert!(!table.contains(SERVICE), "{table}");
}
