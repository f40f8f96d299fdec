//! Tests of the establishment, silence, refresh, reload and end of sessions.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use daemon_api::bgp::v1::Session;
use lab::Signal;
use lab::bgp::{ForeignPeer, Program};

use super::network::{
    CLIENTS, DYNAMIC_ROUTERS, LinkMember, Network, REFLECTOR, ROUTERS, ReflectorProcess, SERVICE,
    duration, file, is_established,
};
use crate::expect::{SOON, eventually};

const A: LinkMember = LinkMember::Client(1);
const B: LinkMember = LinkMember::Client(2);

/// GoBGP is not in this test, because it stores every received path and never sends a route
/// refresh.
#[test]
fn a_route_refresh_is_answered_with_every_path() {
    let routers = [
        (
            LinkMember::Router(1),
            Program::Bird,
            "reload in peer_reflector",
        ),
        (LinkMember::Router(2), Program::Frr, "clear bgp 10.0.0.1 in"),
    ];
    let mut members = vec![LinkMember::Reflector, A];
    members.extend(routers.map(|(member, ..)| member));
    let network = Network::bring_up("interop-refresh", &members).unwrap();
    let groups = [CLIENTS, DYNAMIC_ROUTERS];
    let reflector = ReflectorProcess::start(&network, &groups, &[]).unwrap();
    network.start(A, Program::Bird, &A.client()).unwrap();
    reflector.wait_for_announcers(&[A]).unwrap();
    for (member, program, question) in routers {
        let router = network.start(member, program, &member.router()).unwrap();
        router.wait_for_table(&[SERVICE, "10.0.1.1"], SOON).unwrap();
        let before = updates_after_initial_paths(&reflector, member);
        let answer = router.ask(question).unwrap();
        eventually(&format!("{program:?} receives both families twice"), || {
            let session = reflector.session(member)?;
            let more = session.updates_sent - before;
            ensure!(more >= 2, "only {more} updates after the answer {answer:?}");
            Ok(())
        })
        .unwrap();
        let session = reflector.session(member).unwrap();
        assert!(is_established(&session), "{program:?}");
        assert_eq!(session.established_count, 1, "{program:?}");
    }
}

/// Waits until the reflector has sent its two paths, one of each family, to `member`. Returns the
/// number of updates that the reflector has then sent.
fn updates_after_initial_paths(reflector: &ReflectorProcess, member: LinkMember) -> u64 {
    lab::wait_for("the reflector has sent all paths", SOON, || {
        let session = reflector.session(member)?;
        ensure!(session.paths_sent == 2, "{session:#?}");
        anyhow::Ok(session.updates_sent)
    })
    .unwrap()
}

#[test]
fn a_silent_clients_paths_are_withdrawn_after_the_hold_time_and_return_when_it_answers() {
    let members = [LinkMember::Reflector, A, B];
    let network = Network::bring_up("interop-silence", &members).unwrap();
    let reflector = ReflectorProcess::start(&network, &[CLIENTS], &[]).unwrap();
    let [silent, _other] = [A, B].map(|member| {
        network
            .start(member, Program::Bird, &member.client())
            .unwrap()
    });
    reflector.wait_for_announcers(&[A, B]).unwrap();
    let stopped = Instant::now();
    silent.process.signal(Signal::SIGSTOP).unwrap();
    reflector.wait_for_announcers(&[B]).unwrap();
    let took = stopped.elapsed();
    // The hold time is 3 s. The client sent its last keepalive at most one second before the client
    // was stopped.
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

/// The hold timer of the reflector expires while the reflector's process is stopped.
///
/// The client continues to send keepalives. The client's own hold timer does not expire.
#[test]
fn a_reflector_that_was_stopped_ends_no_session_of_a_live_client() {
    const STOP: Duration = Duration::from_millis(3700);
    let network = Network::bring_up("interop-stopped", &[LinkMember::Reflector, A]).unwrap();
    let group = CLIENTS.replace("holdTime: 3s", "holdTime: 9s");
    let reflector = ReflectorProcess::start(&network, &[&group], &[]).unwrap();
    // Keepalives are so rare that the time left until the hold timer expires falls below the length
    // of the stop.
    let rare_keepalives = "  hold time 9;\n  keepalive time 8;\n  connect delay time 1;";
    let config = Program::Bird.config(&A.client());
    let config = config.replace("  connect delay time 1;", rare_keepalives);
    let _bird = network.start_bird(A, &config).unwrap();
    reflector.wait_for_announcers(&[A]).unwrap();
    let remaining = |session: &Session| duration(session.hold_timer_remaining);
    let before = lab::wait_for("the hold time left is shorter than the stop", SOON, || {
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
    assert!(
        in_state >= expected,
        "the session was established again: {after:#?}"
    );
}

/// Two load balancers have one address if their node masquerades their packets. In this test BIRD
/// and exabgp run on one host, which works because exabgp does not listen.
#[test]
fn two_speakers_with_one_address_have_separate_sessions() {
    let network = Network::bring_up("interop-one-address", &[LinkMember::Reflector, A]).unwrap();
    let reflector = ReflectorProcess::start(&network, &[CLIENTS], &[]).unwrap();
    let bird = network.start(A, Program::Bird, &A.client()).unwrap();
    reflector.wait_for_announcers(&[A]).unwrap();
    let mut second = A.client();
    second.router_id = "10.244.1.8".parse().unwrap();
    let _second = network.start(A, Program::ExaBgp, &second).unwrap();
    // Both speakers announce the host's address as next hop, so this next hop appears twice.
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
fn a_connection_collision_leaves_one_connection_for_either_order_of_router_ids() {
    let routers = [LinkMember::Router(1), LinkMember::Router(2)];
    let mut members = vec![LinkMember::Reflector, A];
    members.extend(routers);
    let network = Network::bring_up("interop-collision", &members).unwrap();
    let peers = [
        ("below", routers[0].address(), "routers"),
        ("above", routers[1].address(), "routers"),
    ];
    let mut running = Vec::new();
    for (member, router_id) in routers.into_iter().zip(["9.0.0.1", "11.0.0.1"]) {
        let mut speaker = member.router();
        speaker.router_id = router_id.parse().unwrap();
        running.push(network.start(member, Program::Bird, &speaker).unwrap());
    }
    let reflector = ReflectorProcess::start(&network, &[CLIENTS, ROUTERS], &peers).unwrap();
    network.start(A, Program::Bird, &A.client()).unwrap();
    for _ in 0..4 {
        for (member, router) in routers.into_iter().zip(&running) {
            eventually("the router has one session and one connection", || {
                let session = reflector.session(member)?;
                ensure!(is_established(&session), "{session:#?}");
                ensure!(router.ask("show protocols")?.contains("Established"));
                let filter = format!("dst {}", member.address());
                let command = ["-Htn", "state", "established", &filter];
                let connections = network.host(LinkMember::Reflector)?.output("ss", command)?;
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
    let router = LinkMember::Router(1);
    let network = Network::bring_up("interop-reload", &[LinkMember::Reflector, A, router]).unwrap();
    let peers = [("router", router.address(), "routers")];
    let reflector = ReflectorProcess::start(&network, &[CLIENTS, ROUTERS], &peers).unwrap();
    network.start(A, Program::Bird, &A.client()).unwrap();
    let bird = network
        .start(router, Program::Bird, &router.router())
        .unwrap();
    reflector.wait_until_established(&[A, router]).unwrap();
    bird.wait_for_table(&[SERVICE, "10.0.1.1"], SOON).unwrap();
    let before = reflector.session(A).unwrap();

    // The reflector rejects an invalid file and keeps its configuration.
    reflector.reload("peerGroups: [").unwrap();
    let error = lab::wait_for("the reflector rejects the file", SOON, || {
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

    // The removal of the clients' group ends the client's session and withdraws its path.
    reflector.reload(&file(&[ROUTERS], &peers)).unwrap();
    eventually("the client's session and path are removed", || {
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
fn every_program_logs_the_shutdown_message_of_the_reflector() {
    let clients = [
        (A, Program::Bird, "the route reflector is shutting down"),
        (B, Program::Frr, "the route reflector is shutting down"),
        (
            LinkMember::Client(3),
            Program::GoBgp,
            "the route reflector is shutting down",
        ),
    ];
    let mut members = vec![LinkMember::Reflector];
    members.extend(clients.map(|(member, ..)| member));
    let network = Network::bring_up("interop-shutdown", &members).unwrap();
    let reflector = ReflectorProcess::start(&network, &[CLIENTS], &[]).unwrap();
    let running = clients.map(|(member, program, text)| {
        (
            network.start(member, program, &member.client()).unwrap(),
            text,
        )
    });
    reflector
        .wait_until_established(&clients.map(|(member, ..)| member))
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
fn either_side_of_a_session_can_be_passive() {
    let [dials, waits] = [LinkMember::Router(1), LinkMember::Router(2)];
    let members = [LinkMember::Reflector, dials, waits];
    let network = Network::bring_up("interop-passive", &members).unwrap();
    let peers = [("waits", waits.address(), "routers")];
    let text = format!(
        "{}- {{name: dials, address: {}, connection: passive, group: routers}}\n",
        file(&[ROUTERS], &peers),
        dials.address(),
    );
    let reflector = ReflectorProcess::start(&network, &[CLIENTS], &[]).unwrap();
    reflector.reload(&text).unwrap();
    network
        .start(dials, Program::Bird, &dials.router())
        .unwrap();
    let peer = ForeignPeer::new("reflector", REFLECTOR.into()).passive();
    network
        .start(waits, Program::Bird, &waits.speaker_of(peer))
        .unwrap();
    reflector.wait_until_established(&[dials, waits]).unwrap();
    for (member, filter) in [(dials, "dport"), (waits, "sport")] {
        let command = ["-Htn", "state", "established", filter, "=", ":179"];
        let connections = network.host(member).unwrap().output("ss", command).unwrap();
        assert_eq!(connections.lines().count(), 1, "{member:?}: {connections}");
    }
}
