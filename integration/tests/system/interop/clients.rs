//! A test of foreign speakers as clients of route-reflector.

use std::time::{Duration, Instant};

use anyhow::ensure;
use daemon_api::bgp::v1::{Family, Origin};
use lab::bgp::Program;

use super::network::{CLIENTS, LinkMember, Network, ReflectorProcess, SERVICE, SERVICE6, duration};
use crate::expect::eventually;

const PROGRAMS: [Program; 4] = [Program::Bird, Program::Frr, Program::GoBgp, Program::ExaBgp];
const CLIENT: [LinkMember; 4] = [
    LinkMember::Client(1),
    LinkMember::Client(2),
    LinkMember::Client(3),
    LinkMember::Client(4),
];

#[test]
fn paths_of_every_foreign_client_are_received_in_both_families_until_the_client_ends() {
    let mut members = vec![LinkMember::Reflector];
    members.extend(CLIENT);
    let network = Network::bring_up("interop-clients", &members).unwrap();
    let reflector = ReflectorProcess::start(&network, &[CLIENTS], &[]).unwrap();
    let mut running = Vec::new();
    for (member, program) in CLIENT.into_iter().zip(PROGRAMS) {
        running.push(network.start(member, program, &member.client()).unwrap());
    }
    reflector.wait_for_announcers(&CLIENT).unwrap();

    for (member, program) in CLIENT.into_iter().zip(PROGRAMS) {
        let session = reflector.session(member).unwrap();
        assert_eq!(session.group, "clients", "{program:?}");
        assert_eq!(session.peer_router_id, member.address().to_string());
        // A session uses the smaller of the two proposed hold times, and the reflector proposes 3
        // s.
        assert_eq!(
            duration(session.hold_time),
            Duration::from_secs(3),
            "{program:?}"
        );
        let families: Vec<_> = session.families.iter().map(|f| f.family()).collect();
        let both = [Family::Ipv4Unicast, Family::Ipv6Unicast];
        assert_eq!(families, both, "{program:?}");
        assert_eq!(session.paths_received, 2, "{program:?}");
    }
    let paths = reflector.paths().unwrap();
    assert_eq!(paths.len(), 8, "{paths:#?}");
    for path in &paths {
        let attributes = path.attributes.as_ref().unwrap();
        // GoBGP sets the origin INCOMPLETE for paths that were added with its command line.
        let is_from_gobgp = path.peer == CLIENT[2].address().to_string();
        let origin = if is_from_gobgp {
            Origin::Incomplete
        } else {
            Origin::Igp
        };
        assert_eq!(attributes.origin(), origin, "{path:#?}");
        assert_eq!(attributes.as_path, "", "{path:#?}");
        assert_eq!(attributes.local_pref, Some(100), "{path:#?}");
    }
    for prefix in [SERVICE, SERVICE6] {
        let best = paths
            .iter()
            .filter(|path| path.prefix == prefix && path.best);
        assert_eq!(best.count(), 1, "{paths:#?}");
    }

    for (dead, speaker) in running.iter().enumerate() {
        let killed = Instant::now();
        speaker.process.kill().unwrap();
        reflector.wait_for_announcers(&CLIENT[dead + 1..]).unwrap();
        // The reflector withdraws the paths when the connection ends, before the hold timer
        // expires.
        let took = killed.elapsed();
        assert!(took < Duration::from_secs(2), "{took:?}");
        eventually("the reflector has removed the dynamic peer", || {
            let sessions = reflector.sessions()?;
            ensure!(sessions.len() == CLIENT.len() - dead - 1, "{sessions:#?}");
            Ok(())
        })
        .unwrap();
    }
}
