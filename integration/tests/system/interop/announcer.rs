//! Tests of bgp-announcer with foreign route reflectors.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use daemon_api::dataplane::v1::MissingStep;
use ipnet::IpNet;
use lab::bgp::{AddPath, ForeignPeer, Program, RunningSpeaker};
use lab::fake::{FakeDataPlaneServer, Heartbeats};
use lab::{Process, Signal, daemons};

use super::network::{LinkMember, Network, SERVICE, SERVICE6, prefix};
use crate::expect::{SOON, eventually};

pub(super) const ANNOUNCER: LinkMember = LinkMember::Client(1);
/// The reflectors and their programs, sorted by the names of the reflectors in the router's
/// configuration.
const REFLECTOR: [(LinkMember, Program); 3] = [
    (LinkMember::Router(1), Program::Bird),
    (LinkMember::Router(2), Program::Frr),
    (LinkMember::Router(3), Program::GoBgp),
];
const ROUTER: LinkMember = LinkMember::Router(9);

/// A bgp-announcer with a fake data plane, foreign reflectors, and a router that is their peer.
struct ReflectedAnnouncer {
    announcer: Process,
    data_plane: FakeDataPlaneServer,
    reflectors: Vec<RunningSpeaker>,
    router: RunningSpeaker,
    _network: Network,
}

fn start(name: &str) -> Result<ReflectedAnnouncer> {
    let mut members = vec![ANNOUNCER, ROUTER];
    members.extend(REFLECTOR.map(|(member, _)| member));
    let network = Network::bring_up(name, &members)?;
    let mut reflectors = Vec::new();
    for (member, program) in REFLECTOR {
        let clients: IpNet = prefix("10.0.1.0/24");
        let router = ForeignPeer::new("router", ROUTER.address().into()).add_path(AddPath::Send);
        let speaker = member
            .speaker_of(ForeignPeer::range("clients", clients).client())
            .peer(router.client());
        reflectors.push(network.start(member, program, &speaker)?);
    }
    let mut router = ForeignPeer::new("bird", REFLECTOR[0].0.address().into());
    router = router.add_path(AddPath::Receive);
    let mut router = ROUTER.speaker_of(router);
    for (name, (member, _)) in ["frr", "gobgp"].into_iter().zip(&REFLECTOR[1..]) {
        let peer = ForeignPeer::new(name, member.address().into());
        router = router.peer(peer.add_path(AddPath::Receive));
    }
    let router = network.start(ROUTER, Program::Bird, &router)?;

    let host = network.host(ANNOUNCER)?;
    let also = [prefix(SERVICE6)];
    let data_plane = FakeDataPlaneServer::start_with(&host, Heartbeats::Sent, &also)?;
    data_plane.set(MissingStep::None, "");
    let peers = REFLECTOR.map(|(member, _)| member.address().to_string());
    let announcer = host.start("bgp-announcer", announcer(&peers)?)?;
    Ok(ReflectedAnnouncer {
        announcer,
        data_plane,
        reflectors,
        router,
        _network: network,
    })
}

/// Returns the command of a bgp-announcer on the host [`ANNOUNCER`].
pub(super) fn announcer(peers: &[String]) -> Result<Command> {
    let mut command = daemons::command("bgp-announcer")?;
    let address = ANNOUNCER.address().to_string();
    let next_hops = format!("{address},{}", ANNOUNCER.address6());
    let flags = [
        ("--asn", lab::bgp::ASN.to_string()),
        ("--router-id", address),
        ("--node-router", "none".to_owned()),
        ("--next-hop", next_hops),
        ("--allowed-prefixes", format!("{SERVICE},{SERVICE6}")),
        ("--communities", "65000:100".to_owned()),
        ("--med", "5".to_owned()),
        ("--hold-time", "3s".to_owned()),
        ("--withdraw-delay", "500ms".to_owned()),
        ("--linger", "0".to_owned()),
    ];
    for (flag, value) in flags {
        command.args([flag, &value]);
    }
    for peer in peers {
        command.args(["--peer", peer]);
    }
    Ok(command)
}

/// Waits until the router has paths of `prefix` from exactly these reflectors.
fn wait_for_sources(router: &RunningSpeaker, prefix: &str, expected: &[&str]) -> Result<()> {
    eventually(&format!("{expected:?} send {prefix} to the router"), || {
        let table = router.ask(&format!("show route for {prefix}"));
        // birdc fails if the router has no route of the prefix.
        let table = table.unwrap_or_else(|error| error.to_string());
        let mut sources: Vec<_> = table
            .lines()
            .filter_map(|line| line.split_once("[peer_"))
            .filter_map(|(_, rest)| rest.split_whitespace().next())
            .collect();
        sources.sort_unstable();
        ensure!(sources == expected, "{sources:?} in:\n{table}");
        Ok(())
    })
}

#[test]
fn every_foreign_reflector_passes_on_the_announcers_paths() {
    let system = start("interop-announcer").unwrap();
    let all = ["bird", "frr", "gobgp"];
    for prefix in [SERVICE, SERVICE6] {
        wait_for_sources(&system.router, prefix, &all).unwrap();
    }
    let table = system.router.table().unwrap();
    for text in [
        "BGP.local_pref: 100",
        "BGP.med: 5",
        "BGP.community: (65000,100)",
        "BGP.originator_id: 10.0.1.1",
        "BGP.next_hop: 10.0.1.1",
        "BGP.next_hop: fd00:10::1:1",
    ] {
        assert_eq!(
            table.matches(text).count() % 3,
            0,
            "not from every reflector: {text} in:\n{table}"
        );
        assert!(table.contains(text), "no {text} in:\n{table}");
    }

    system
        .data_plane
        .set(MissingStep::Healthy, "none is healthy");
    wait_for_sources(&system.router, SERVICE, &[]).unwrap();
    // The IPv6 prefix is serving all the time, so its paths stay.
    wait_for_sources(&system.router, SERVICE6, &all).unwrap();
    system.data_plane.set(MissingStep::None, "");
    wait_for_sources(&system.router, SERVICE, &all).unwrap();
}

#[test]
fn the_announcer_drains_and_ends_its_sessions_with_every_foreign_reflector() {
    let system = start("interop-goodbye").unwrap();
    let all = ["bird", "frr", "gobgp"];
    for prefix in [SERVICE, SERVICE6] {
        wait_for_sources(&system.router, prefix, &all).unwrap();
    }
    system.announcer.signal(Signal::SIGTERM).unwrap();
    // The community GRACEFUL_SHUTDOWN (RFC 8326) is 65535:0.
    eventually("the paths are least preferred", || {
        let table = system.router.table()?;
        ensure!(table.contains("(65535,0)"), "{table}");
        ensure!(table.contains("BGP.local_pref: 0"), "{table}");
        Ok(())
    })
    .unwrap();
    for prefix in [SERVICE, SERVICE6] {
        wait_for_sources(&system.router, prefix, &[]).unwrap();
    }
    let status = system.announcer.wait(Duration::from_secs(10)).unwrap();
    assert_eq!(status.code(), Some(0));
    let [bird, frr, gobgp] = &system.reflectors[..] else {
        panic!("expected three reflectors");
    };
    for (reflector, text) in [
        (bird, "Administrative shutdown"),
        (frr, "6/2 (Cease/Administrative Shutdown)"),
        (gobgp, "bgp-announcer is shutting down"),
    ] {
        reflector.process.wait_for_line(text, SOON).unwrap();
    }
}
