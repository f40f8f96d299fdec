//! Foreign clients of our reflector.

use std::time::{Duration, Instant};

use anyhow::ensure;
use daemon_api::bgp::v1::{Family, Origin};
use lab::bgp::Program;

use super::network::{CLIENTS, Network, Place, Reflector, SERVICE, SERVICE6, duration};
use crate::expect::eventually;

const PROGRAMS: [Program; 4] = [Program::Bird, Program::Frr, Program::GoBgp, Program::ExaBgp];
const CLIENT: [Place; 4] = [
    Place::Client(1),
    Place::Client(2),
    Place::Client(3),
    Place::Client(4),
];

#[test]
fn every_program_announces_both_families_as_a_dynamic_client_until_it_dies() {
    let mut places = vec![Place::Reflector];
    places.extend(CLIENT);
    let network = Network::bring_up("interop-clients", &places).unwrap();
    let reflector = Reflector::start(&network, &[CLIENTS], &[]).unwrap();
    let mut running = Vec::new();
    for (place, program) in CLIENT.into_iter().zip(PROGRAMS) {
        running.push(network.start(place, program, &place.client()).unwrap());
    }
    reflector.wait_for_announcers(&CLIENT).unwrap();

    for (place, program) in CLIENT.into_iter().zip(PROGRAMS) {
        let session = reflector.session(place).unwrap();
        assert_eq!(session.group, "clients", "{program:?}");
        assert_eq!(session.peer_router_id, place.address().to_string());
        // The smaller of ours and the program's own.
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
        // What an operator types into GoBGP was not learned from a protocol.
        let is_typed = path.peer == CLIENT[2].address().to_string();
        let origin = if is_typed {
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
        // Its end is seen at once, not by the hold timer.
        let took = killed.elapsed();
        assert!(took < Duration::from_secs(2), "{took:?}");
        eventually("a dead dynamic peer is forgotten", || {
            let sessions = reflector.sessions()?;
            ensure!(sessions.len() == CLIENT.len() - dead - 1, "{sessions:#?}");
            Ok(())
        })
        .unwrap();
    }
}
