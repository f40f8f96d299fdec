//! The life of a session: its beginning, silence, refresh and end.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use daemon_api::bgp::v1::Session;
use lab::Signal;
use lab::bgp::{Peer, Program};

use super::network::{
    CLIENTS, DYNAMIC_ROUTERS, Network, Place, REFLECTOR, ROUTERS, Reflector, SERVICE, duration,
    file, is_established,
};
use crate::expect::{SOON, eventually};

const A: Place = Place::Client(1);
const B: Place = Place::Client(2);

/// GoBGP keeps what it received, so it never asks.
#[test]
fn a_route_refresh_is_answered_with_every_path() {
    let routers = [
        (Place::Router(1), Program::Bird, "reload in peer_reflector"),
        (Place::Router(2), Program::Frr, "clear bgp 10.0.0.1 in"),
    ];
    let mut places = vec![Place::Reflector, A];
    places.extend(routers.map(|(place, ..)| place));
    let network = Network::bring_up("interop-refresh", &places).unwrap();
    let groups = [CLIENTS, DYNAMIC_ROUTERS];
    let reflector = Reflector::start(&network, &groups, &[]).unwrap();
    network.start(A, Program::Bird, &A.client()).unwrap();
    reflector.wait_for_announcers(&[A]).unwrap();
    for (place, program, question) in routers {
        let router = network.start(place, program, &place.router()).unwrap();
        router.wait_for_table(&[SERVICE, "10.0.1.1"], SOON).unwrap();
        let settled = eventually_settled(&reflector, place);
        let answer = router.ask(question).unwrap();
        eventually(&format!("{program:?} is sent both families again"), || {
            let session = reflector.session(place)?;
            let more = session.updates_sent - settled;
            ensure!(more >= 2, "{more} more updates after {answer:?}");
            Ok(())
        })
        .unwrap();
        let session = reflector.session(place).unwrap();
        assert!(is_established(&session), "{program:?}");
        assert_eq!(session.established_count, 1, "{program:?}");
    }
}

/// Updates sent, once both families were sent with their end marks (RFC 4724).
fn eventually_settled(reflector: &Reflector, place: Place) -> u64 {
    lab::wait_for("both families were sent", SOON, || {
        let session = reflector.session(place)?;
        ensure!(session.paths_sent == 2, "{session:#?}");
        anyhow::Ok(session.updates_sent)
    })
    .unwrap()
}

#[test]
fn a_client_that_falls_silent_loses_its_paths_when_its_hold_time_is_over_and_comes_back() {
    let places = [Place::Reflector, A, B];
    let network = Network::bring_up("interop-silence", &places).unwrap();
    let reflector = Reflector::start(&network, &[CLIENTS], &[]).unwrap();
    let [silent, _other] = [A, B].map(|place| {
        network
            .start(place, Program::Bird, &place.client())
            .unwrap()
    });
    reflector.wait_for_announcers(&[A, B]).unwrap();
    let stopped = Instant::now();
    silent.process.signal(Signal::SIGSTOP).unwrap();
    reflector.wait_for_announcers(&[B]).unwrap();
    let took = stopped.elapsed();
    // The last keepalive was at most a second old.
    let expected = Duration::from_millis(1900)..Duration::from_secs(5);
    assert!(expected.contains(&took), "{took:?}");
    assert_eq!(reflector.session(B).unwrap().established_count, 1);
    silent.process.signal(Signal::SIGCONT).unwrap();
    silent
        .process
        .wait_for_line("Hold timer expired", SOON)
        .unwrap();
    reflector.wait_for_announcers(&[A, B]).unwrap();
}

/// The hold timer of the reflector expires while its process is stopped. The client sends meanwhile,
/// and its own hold time is not over.
#[test]
fn a_reflector_that_was_stopped_ends_no_session_of_a_live_client() {
    const STOP: Duration = Duration::from_millis(3700);
    let network = Network::bring_up("interop-stopped", &[Place::Reflector, A]).unwrap();
    let group = CLIENTS.replace("holdTime: 3s", "holdTime: 9s");
    let reflector = Reflector::start(&network, &[&group], &[]).unwrap();
    // Between two keepalives the hold timer falls below the length of the stop.
    let rare_keepalives = "  hold time 9;\n  keepalive time 8;\n  connect delay time 1;";
    let config = Program::Bird.config(&A.client());
    let config = config.replace("  connect delay time 1;", rare_keepalives);
    let _bird = network.start_bird(A, &config).unwrap();
    reflector.wait_for_announcers(&[A]).unwrap();
    let remaining = |session: &Session| duration(session.hold_timer_remaining);
    let before = lab::wait_for("the hold timer runs low", SOON, || {
        let session = reflector.session(A)?;
        ensure!(is_established(&session), "{session:#?}");
        ensure!(
            duration(session.hold_time) == Duration::from_secs(9),
            "{session:#?}"
        );
        ensure!(remaining(&session) < STOP.mul_f64(0.8), "{session:#?}");
        anyhow::Ok(session)
    })
    .unwrap();
    reflector.process.signal(Signal::SIGSTOP).unwrap();
    std::thread::sleep(STOP);
    reflector.process.signal(Signal::SIGCONT).unwrap();
    eventually("the client's messages restart the hold timer", || {
        let session = reflector.session(A)?;
        ensure!(remaining(&session) > STOP, "{session:#?}");
        Ok(())
    })
    .unwrap();
    let after = reflector.session(A).unwrap();
    assert!(is_established(&after), "{after:#?}");
    let in_state = duration(after.time_in_state);
    let expected = duration(before.time_in_state) + STOP;
    assert!(in_state >= expected, "the session is a new one: {after:#?}");
}

/// As two load balancers of one node that masquerades them. Only one of these programs listens.
#[test]
fn two_speakers_with_one_address_have_a_session_each() {
    let network = Network::bring_up("interop-one-address", &[Place::Reflector, A]).unwrap();
    let reflector = Reflector::start(&network, &[CLIENTS], &[]).unwrap();
    let bird = network.start(A, Program::Bird, &A.client()).unwrap();
    reflector.wait_for_announcers(&[A]).unwrap();
    let mut second = A.client();
    second.router_id = "10.244.1.8".parse().unwrap();
    let _second = network.start(A, Program::ExaBgp, &second).unwrap();
    // Both announce the same next hop.
    reflector.wait_for_announcers(&[A, A]).unwrap();
    let sessions = reflector.sessions().unwrap();
    assert_eq!(sessions.len(), 2, "{sessions:#?}");
    assert!(sessions.iter().all(is_established), "{sessions:#?}");
    bird.process.kill().unwrap();
    reflector.wait_for_announcers(&[A]).unwrap();
    let sessions = reflector.sessions().unwrap();
    assert!(
        matches!(&sessions[..], [second] if is_established(second)),
        "{sessions:#?}"
    );
}

#[test]
fn a_collision_settles_to_one_session_whoever_has_the_higher_router_id() {
    let routers = [Place::Router(1), Place::Router(2)];
    let mut places = vec![Place::Reflector, A];
    places.extend(routers);
    let network = Network::bring_up("interop-collision", &places).unwrap();
    let peers = [
        ("below", routers[0].address(), "routers"),
        ("above", routers[1].address(), "routers"),
    ];
    let mut running = Vec::new();
    for (place, router_id) in routers.into_iter().zip(["9.0.0.1", "11.0.0.1"]) {
        let mut speaker = place.router();
        speaker.router_id = router_id.parse().unwrap();
        running.push(network.start(place, Program::Bird, &speaker).unwrap());
    }
    let reflector = Reflector::start(&network, &[CLIENTS, ROUTERS], &peers).unwrap();
    network.start(A, Program::Bird, &A.client()).unwrap();
    for _ in 0..4 {
        for (place, router) in routers.into_iter().zip(&running) {
            eventually("one session and one connection", || {
                let session = reflector.session(place)?;
                ensure!(is_established(&session), "{session:#?}");
                ensure!(router.ask("show protocols")?.contains("Established"));
                let filter = format!("dst {}", place.address());
                let command = ["-Htn", "state", "established", &filter];
                let connections = network.host(Place::Reflector)?.output("ss", command)?;
                ensure!(connections.lines().count() == 1, "{connections}");
                Ok(())
            })
            .unwrap();
            router.wait_for_table(&[SERVICE], SOON).unwrap();
        }
        for router in &running {
            router.ask("restart peer_reflector").unwrap();
        }
    }
}

#[test]
fn a_reload_keeps_the_sessions_whose_settings_did_not_change() {
    let router = Place::Router(1);
    let network = Network::bring_up("interop-reload", &[Place::Reflector, A, router]).unwrap();
    let peers = [("router", router.address(), "routers")];
    let reflector = Reflector::start(&network, &[CLIENTS, ROUTERS], &peers).unwrap();
    network.start(A, Program::Bird, &A.client()).unwrap();
    let bird = network
        .start(router, Program::Bird, &router.router())
        .unwrap();
    reflector.wait_until_established(&[A, router]).unwrap();
    bird.wait_for_table(&[SERVICE, "10.0.1.1"], SOON).unwrap();
    let before = reflector.session(A).unwrap();

    // A file that cannot be used changes nothing.
    reflector.reload("peerGroups: [").unwrap();
    let error = lab::wait_for("the file is refused", SOON, || {
        let error = reflector.configuration()?.last_error;
        ensure!(!error.is_empty(), "no error");
        anyhow::Ok(error)
    })
    .unwrap();
    assert!(error.contains("reflector.yaml"), "{error}");
    assert_eq!(reflector.session(router).unwrap().established_count, 1);

    let other_routers = format!("{ROUTERS}\n  holdTime: 6s");
    reflector
        .reload(&file(&[CLIENTS, &other_routers], &peers))
        .unwrap();
    eventually("the router's session has the new hold time", || {
        let session = reflector.session(router)?;
        ensure!(is_established(&session), "{session:#?}");
        ensure!(
            duration(session.hold_time) == Duration::from_secs(6),
            "{session:#?}"
        );
        Ok(())
    })
    .unwrap();
    bird.wait_for_table(&[SERVICE, "10.0.1.1"], SOON).unwrap();
    let after = reflector.session(A).unwrap();
    assert_eq!(after.established_count, 1);
    assert!(duration(after.time_in_state) >= duration(before.time_in_state));

    // Without its group the client is not spoken to any longer, and its path is gone.
    reflector.reload(&file(&[ROUTERS], &peers)).unwrap();
    eventually("the client's session is gone", || {
        let sessions = reflector.sessions()?;
        ensure!(sessions.len() == 1, "{sessions:#?}");
        let table = bird.table()?;
        ensure!(!table.contains(SERVICE), "{table}");
        Ok(())
    })
    .unwrap();
    assert_eq!(reflector.configuration().unwrap().last_error, "");
}

#[test]
fn a_shutdown_tells_every_program_why() {
    let clients = [
        (A, Program::Bird, "the route reflector is shutting down"),
        (B, Program::Frr, "the route reflector is shutting down"),
        (
            Place::Client(3),
            Program::GoBgp,
            "the route reflector is shutting down",
        ),
    ];
    let mut places = vec![Place::Reflector];
    places.extend(clients.map(|(place, ..)| place));
    let network = Network::bring_up("interop-shutdown", &places).unwrap();
    let reflector = Reflector::start(&network, &[CLIENTS], &[]).unwrap();
    let running = clients.map(|(place, program, text)| {
        (
            network.start(place, program, &place.client()).unwrap(),
            text,
        )
    });
    reflector
        .wait_until_established(&clients.map(|(place, ..)| place))
        .unwrap();
    reflector.process.signal(Signal::SIGTERM).unwrap();
    let status = reflector.process.wait(Duration::from_secs(10)).unwrap();
    assert_eq!(status.code(), Some(0));
    for (client, text) in running {
        let seen = client.process.wait_for_line(text, SOON);
        seen.with_context(|| client.process.tail()).unwrap();
    }
}

#[test]
fn each_side_can_be_the_one_that_only_waits() {
    let [dials, waits] = [Place::Router(1), Place::Router(2)];
    let places = [Place::Reflector, dials, waits];
    let network = Network::bring_up("interop-passive", &places).unwrap();
    let peers = [("waits", waits.address(), "routers")];
    let text = format!(
        "{}- {{name: dials, address: {}, connection: passive, group: routers}}\n",
        file(&[ROUTERS], &peers),
        dials.address(),
    );
    let reflector = Reflector::start(&network, &[CLIENTS], &[]).unwrap();
    reflector.reload(&text).unwrap();
    network
        .start(dials, Program::Bird, &dials.router())
        .unwrap();
    let peer = Peer::new("reflector", REFLECTOR.into()).passive();
    network
        .start(waits, Program::Bird, &waits.speaker_of(peer))
        .unwrap();
    reflector.wait_until_established(&[dials, waits]).unwrap();
    for (place, filter) in [(dials, "dport"), (waits, "sport")] {
        let command = ["-Htn", "state", "established", filter, "=", ":179"];
        let connections = network.host(place).unwrap().output("ss", command).unwrap();
        assert_eq!(connections.lines().count(), 1, "{place:?}: {connections}");
    }
}
