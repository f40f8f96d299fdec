//! Our announcers with a router of another AS, which is not sent LOCAL_PREF.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use daemon_api::dataplane::v1::MissingStep;
use lab::bgp::{self, Peer, Program, RunningSpeaker};
use lab::stand_in::{Heartbeats, StandInDataPlane};
use lab::{Process, daemons};

use super::network::{Network, Place, SERVICE};
use crate::expect::eventually;

const ROUTER: Place = Place::Router(1);
const SILENT: Place = Place::Client(1);
const ALIVE: Place = Place::Client(2);
const OTHER_AS: u32 = 64999;

/// An announcer and the stand-in of its programmer.
struct LoadBalancer {
    data_plane: StandInDataPlane,
    _announcer: Process,
}

impl LoadBalancer {
    fn start(network: &Network, place: Place) -> Result<Self> {
        let host = network.host(place)?;
        let data_plane = StandInDataPlane::start(&host, Heartbeats::Sent)?;
        data_plane.set(MissingStep::None, "");
        Ok(Self {
            data_plane,
            _announcer: host.start("bgp-announcer", announcer(place)?)?,
        })
    }
}

fn announcer(place: Place) -> Result<Command> {
    let mut command = daemons::command("bgp-announcer")?;
    let address = place.address().to_string();
    let flags = [
        ("--asn", bgp::ASN.to_string()),
        ("--peer", format!("{},asn={OTHER_AS}", ROUTER.address())),
        ("--router-id", address.clone()),
        ("--next-hop", address),
        ("--node-router", "none".to_owned()),
        ("--allowed-prefixes", SERVICE.to_owned()),
        ("--data-plane-timeout", "500ms".to_owned()),
    ];
    for (flag, value) in flags {
        command.args([flag, &value]);
    }
    Ok(command)
}

/// What BIRD holds of the service from one of the announcers, and whether that is its choice.
fn path(router: &RunningSpeaker, name: &str) -> Result<(String, bool)> {
    let table = router.ask(&format!("show route all for {SERVICE}"))?;
    let (_, path) = table
        .split_once(&format!("[peer_{name} "))
        .with_context(|| format!("no path from {name} in:\n{table}"))?;
    let path = path.split("[peer_").next().unwrap_or_default();
    let first = path.lines().next().unwrap_or_default();
    Ok((path.to_owned(), first.contains('*')))
}

#[test]
fn a_silent_programmer_makes_the_path_the_last_choice_of_a_router_in_another_as() {
    let network = Network::bring_up("interop-other-as", &[ROUTER, SILENT, ALIVE]).unwrap();
    let peer = |name: &str, place: Place| Peer::new(name, place.address().into());
    let mut speaker = ROUTER
        .speaker_of(peer("silent", SILENT))
        .peer(peer("alive", ALIVE));
    speaker.asn = OTHER_AS;
    let router = network.start(ROUTER, Program::Bird, &speaker).unwrap();
    let silent = LoadBalancer::start(&network, SILENT).unwrap();
    let alive = LoadBalancer::start(&network, ALIVE).unwrap();
    for name in ["silent", "alive"] {
        eventually("both are announced as usual", || {
            let (path, _) = path(&router, name)?;
            ensure!(path.contains("BGP.as_path: 65000\n"), "{path}");
            ensure!(!path.contains("BGP.med"), "{path}");
            Ok(())
        })
        .unwrap();
    }

    let LoadBalancer {
        data_plane,
        _announcer,
    } = silent;
    drop(data_plane);
    eventually("the router keeps the path, as its last choice", || {
        let (silent, is_chosen) = path(&router, "silent")?;
        ensure!(silent.contains("BGP.med: 4294967295"), "{silent}");
        let as_path = "BGP.as_path: 65000 65000 65000 65000\n";
        ensure!(silent.contains(as_path), "{silent}");
        ensure!(!is_chosen, "{silent}");
        let (alive, is_chosen) = path(&router, "alive")?;
        ensure!(is_chosen, "{alive}");
        Ok(())
    })
    .unwrap();

    alive
        .data_plane
        .set(MissingStep::Healthy, "none is healthy");
    eventually("where no other is left, the router takes the path", || {
        ensure!(path(&router, "alive").is_err(), "it is not withdrawn");
        let (silent, is_chosen) = path(&router, "silent")?;
        ensure!(is_chosen, "{silent}");
        Ok(())
    })
    .unwrap();
}
