//! Our announcer with foreign reflectors in place of ours.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use daemon_api::dataplane::v1::MissingStep;
use ipnet::IpNet;
use lab::bgp::{AddPath, Peer, Program, RunningSpeaker};
use lab::stand_in::{Heartbeats, StandInDataPlane};
use lab::{Process, Signal, daemons};

use super::network::{Network, Place, SERVICE, SERVICE6, prefix};
use crate::expect::{SOON, eventually};

pub(super) const ANNOUNCER: Place = Place::Client(1);
/// What reflects, and in the order of the reflectors' names at the router.
const REFLECTOR: [(Place, Program); 3] = [
    (Place::Router(1), Program::Bird),
    (Place::Router(2), Program::Frr),
    (Place::Router(3), Program::GoBgp),
];
const ROUTER: Place = Place::Router(9);

struct Swap {
    announcer: Process,
    data_plane: StandInDataPlane,
    reflectors: Vec<RunningSpeaker>,
    router: RunningSpeaker,
    _network: Network,
}

fn start(name: &str) -> Result<Swap> {
    let mut places = vec![ANNOUNCER, ROUTER];
    places.extend(REFLECTOR.map(|(place, _)| place));
    let network = Network::bring_up(name, &places)?;
    let mut reflectors = Vec::new();
    for (place, program) in REFLECTOR {
        let clients: IpNet = prefix("10.0.1.0/24");
        let router = Peer::new("router", ROUTER.address().into()).add_path(AddPath::Send);
        let speaker = place
            .speaker_of(Peer::range("clients", clients).client())
            .peer(router.client());
        reflectors.push(network.start(place, program, &speaker)?);
    }
    let mut router = Peer::new("bird", REFLECTOR[0].0.address().into());
    router = router.add_path(AddPath::Receive);
    let mut router = ROUTER.speaker_of(router);
    for (name, (place, _)) in ["frr", "gobgp"].into_iter().zip(&REFLECTOR[1..]) {
        let peer = Peer::new(name, place.address().into());
        router = router.peer(peer.add_path(AddPath::Receive));
    }
    let router = network.start(ROUTER, Program::Bird, &router)?;

    let host = network.host(ANNOUNCER)?;
    let also = [prefix(SERVICE6)];
    let data_plane = StandInDataPlane::start_with(&host, Heartbeats::Sent, &also)?;
    data_plane.set(MissingStep::None, "");
    let peers = REFLECTOR.map(|(place, _)| place.address().to_string());
    let announcer = host.start("bgp-announcer", announcer(&peers)?)?;
    Ok(Swap {
        announcer,
        data_plane,
        reflectors,
        router,
        _network: network,
    })
}

/// For [`ANNOUNCER`].
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

/// The words of a router's table about paths from each reflector.
fn until_from(router: &RunningSpeaker, prefix: &str, expected: &[&str]) -> Result<()> {
    eventually(&format!("{prefix} comes from {expected:?}"), || {
        let table = router.ask(&format!("show route for {prefix}"));
        // birdc fails when there is no such route.
        let table = table.unwrap_or_else(|error| error.to_string());
        let mut from: Vec<_> = table
            .lines()
            .filter_map(|line| line.split_once("[peer_"))
            .filter_map(|(_, rest)| rest.split_whitespace().next())
            .collect();
        from.sort_unstable();
        ensure!(from == expected, "{from:?} in:\n{table}");
        Ok(())
    })
}

#[test]
fn our_announcer_is_reflected_by_any_program() {
    let swap = start("interop-announcer").unwrap();
    let all = ["bird", "frr", "gobgp"];
    for prefix in [SERVICE, SERVICE6] {
        until_from(&swap.router, prefix, &all).unwrap();
    }
    let table = swap.router.table().unwrap();
    for text in [
        "BGP.local_pref: 100",
        "BGP.med: 5",
        "BGP.community: (65000,100)",
        "BGP.originator_id: 10.0.1.1",
        "BGP.next_hop: 10.0.1.1",
        "BGP.next_hop: fd00:10::1:1",
    ] {
        assert_eq!(table.matches(text).count() % 3, 0, "{text} in:\n{table}");
        assert!(table.contains(text), "{text} in:\n{table}");
    }

    swap.data_plane.set(MissingStep::Healthy, "none is healthy");
    until_from(&swap.router, SERVICE, &[]).unwrap();
    // The other address goes on being served.
    until_from(&swap.router, SERVICE6, &all).unwrap();
    swap.data_plane.set(MissingStep::None, "");
    until_from(&swap.router, SERVICE, &all).unwrap();
}

#[test]
fn our_announcer_drains_and_says_goodbye_to_any_program() {
    let swap = start("interop-goodbye").unwrap();
    let all = ["bird", "frr", "gobgp"];
    for prefix in [SERVICE, SERVICE6] {
        until_from(&swap.router, prefix, &all).unwrap();
    }
    swap.announcer.signal(Signal::SIGTERM).unwrap();
    // GRACEFUL_SHUTDOWN (RFC 8326) is 65535:0.
    eventually("traffic is asked to go elsewhere", || {
        let table = swap.router.table()?;
        ensure!(table.contains("(65535,0)"), "{table}");
        ensure!(table.contains("BGP.local_pref: 0"), "{table}");
        Ok(())
    })
    .unwrap();
    for prefix in [SERVICE, SERVICE6] {
        until_from(&swap.router, prefix, &[]).unwrap();
    }
    let status = swap.announcer.wait(Duration::from_secs(10)).unwrap();
    assert_eq!(status.code(), Some(0));
    let [bird, frr, gobgp] = &swap.reflectors[..] else {
        panic!("three reflectors");
    };
    for (reflector, text) in [
        (bird, "Administrative shutdown"),
        (frr, "6/2 (Cease/Administrative Shutdown)"),
        (gobgp, "bgp-announcer was told to end"),
    ] {
        reflector.process.wait_for_line(text, SOON).unwrap();
    }
}
