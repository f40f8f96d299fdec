//! A test of announcers with a router in another AS.
//!
//! Such a router receives no LOCAL_PREF, so a least preferred path has the highest MED and a longer
//! AS_PATH.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use daemon_api::dataplane::v1::MissingStep;
use lab::bgp::{self, ForeignPeer, Program, RunningSpeaker};
use lab::fake::{FakeDataPlaneServer, Heartbeats};
use lab::{Process, daemons};

use super::network::{LinkMember, Network, SERVICE};
use crate::expect::eventually;

const ROUTER: LinkMember = LinkMember::Router(1);
const SILENT: LinkMember = LinkMember::Client(1);
const ALIVE: LinkMember = LinkMember::Client(2);
const OTHER_AS: u32 = 64999;

/// A bgp-announcer with a fake data plane.
struct LoadBalancer {
    data_plane: FakeDataPlaneServer,
    _announcer: Process,
}

impl LoadBalancer {
    fn start(network: &Network, member: LinkMember) -> Result<Self> {
        let host = network.host(member)?;
        let data_plane = FakeDataPlaneServer::start(&host, Heartbeats::Sent)?;
        data_plane.set(MissingStep::None, "");
        Ok(Self {
            data_plane,
            _announcer: host.start("bgp-announcer", announcer(member)?)?,
        })
    }
}

fn announcer(member: LinkMember) -> Result<Command> {
    let mut command = daemons::command("bgp-announcer")?;
    let address = member.address().to_string();
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

/// Returns BIRD's description of the path of [`SERVICE`] from the announcer `name`, and whether
/// this path is the best path.
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
fn the_path_of_a_silent_data_plane_is_least_preferred_by_a_router_in_another_as() {
    let network = Network::bring_up("interop-other-as", &[ROUTER, SILENT, ALIVE]).unwrap();
    let peer = |name: &str, member: LinkMember| ForeignPeer::new(name, member.address().into());
    let mut speaker = ROUTER
        .speaker_of(peer("silent", SILENT))
        .peer(peer("alive", ALIVE));
    speaker.asn = OTHER_AS;
    let router = network.start(ROUTER, Program::Bird, &speaker).unwrap();
    let silent = LoadBalancer::start(&network, SILENT).unwrap();
    let alive = LoadBalancer::start(&network, ALIVE).unwrap();
    for name in ["silent", "alive"] {
        eventually("the path has no MED and a normal AS_PATH", || {
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
    eventually("the router keeps the path but does not use it", || {
        let (silent, is_best) = path(&router, "silent")?;
        ensure!(silent.contains("BGP.med: 4294967295"), "{silent}");
        let as_path = "BGP.as_path: 65000 65000 65000 65000\n";
        ensure!(silent.contains(as_path), "{silent}");
        ensure!(!is_best, "{silent}");
        let (alive, is_best) = path(&router, "alive")?;
        ensure!(is_best, "{alive}");
        Ok(())
    })
    .unwrap();

    alive
        .data_plane
        .set(MissingStep::Healthy, "none is healthy");
    eventually("the router uses its only path", || {
        ensure!(
            path(&router, "alive").is_err(),
            "the path of the announcer alive is not withdrawn"
        );
        let (silent, is_best) = path(&router, "silent")?;
        ensure!(is_best, "{silent}");
        Ok(())
    })
    .unwrap();
}
