//! The harness of our daemons: the whole load balancer comes up, serves, and
//! each part of it can be ended alone.

use std::net::SocketAddr;
use std::time::Duration;

use lab::http::{self, Load, PersistentConnections};
use lab::reference::{Options, SERVICE, SERVICE6};
use lab::system::{Daemon, System};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn connections_survive_the_death_of_one_lb_pod_and_the_drain_of_another() {
    let mut system = System::up("whole", Options::default()).unwrap();
    let client = system.network.client().unwrap();
    for address in [SERVICE.into(), SERVICE6.into()] {
        let service = SocketAddr::new(address, 80);
        let answers = http::spread(&client, service, 60, SOON).unwrap();
        assert_eq!(answers.len(), system.network.web_pods.len(), "{answers:?}");
    }

    let load = Load {
        server: SocketAddr::new(SERVICE.into(), 80),
        connections: 24,
        interval: Duration::from_millis(100),
        patience: Duration::from_secs(5),
    };
    let connections = PersistentConnections::start(&client, load).unwrap();
    system.kill_lb_pod(0).unwrap();
    system.wait_until_announced(&[1, 2], SOON).unwrap();
    connections.wait_for_answers(48, SOON).unwrap();
    assert_eq!(system.drain(1).unwrap().len(), 2);
    system.wait_until_announced(&[2], SOON).unwrap();
    connections.wait_for_answers(48, SOON).unwrap();
    let tally = connections.stop().unwrap();
    assert_eq!((tally.lost(), tally.refused), (0, 0), "{tally:?}");

    system.start_all().unwrap();
    system.undrain(1).unwrap();
    system.wait_until_announced(&[0, 1, 2], SOON).unwrap();
}

#[test]
fn every_daemon_is_ready_and_tells_its_state() {
    let system = System::up("telling", Options::default()).unwrap();
    for daemon in System::all() {
        let (status, text) = system.readiness(daemon).unwrap();
        assert_eq!(status, 200, "{daemon}: {text}");
        assert!(
            system.metrics(daemon).unwrap().contains("# EOF"),
            "{daemon}"
        );
    }
    for number in 0..3 {
        assert_eq!(system.desired(number).unwrap().virtual_servers.len(), 2);
        assert_eq!(system.virtual_servers(number).unwrap().len(), 2);
        assert_eq!(system.service_addresses(number).unwrap().len(), 2);
        assert_eq!(system.announcements(number).unwrap().len(), 2);
        assert_eq!(system.announcer_sessions(number).unwrap().len(), 2);
        assert_eq!(system.node_routes(number).unwrap().len(), 2);
    }
    for number in 0..2 {
        assert_eq!(system.reflector_sessions(number).unwrap().len(), 4);
        assert_eq!(system.reflector_paths(number).unwrap().len(), 6);
    }
}

#[test]
fn a_daemon_that_was_stopped_starts_again_with_other_flags() {
    let mut system = System::up("again", Options::default()).unwrap();
    let status = system.stop(Daemon::BgpAnnouncer(1)).unwrap();
    assert!(status.success(), "{status}");
    system.wait_until_announced(&[0, 2], SOON).unwrap();
    system.set_flags("bgp-announcer", &[("--local-pref", "200")]);
    system.start(Daemon::BgpAnnouncer(1)).unwrap();
    // The router now prefers the only path with the higher LOCAL_PREF.
    system.wait_until_announced(&[1], SOON).unwrap();
}
