//! Tests of static stability: daemons end or hang, and traffic continues.

mod files;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::http;
use lab::reference::ReferenceOptions;
use lab::system::{DaemonInstance, System};
use lab::{FibWatcher, Signal};

use crate::expect::{
    SOON, ensure_no_connection_was_lost, ensure_no_route_changed, eventually, metric,
    persistent_connections, service, under_load, wait_for_readyz, wait_for_weight,
    wait_until_ready,
};

/// Value of `--data-plane-timeout`. The default of 5 s would make the tests slower, because they
/// wait for this time.
const DATA_PLANE_TIMEOUT: Duration = Duration::from_millis(1500);

/// Longest time by which an event is late on a busy machine.
const LATE: Duration = Duration::from_millis(1000);

#[test]
fn without_pod_watchers_no_path_is_withdrawn_and_health_checks_continue() {
    let mut system = System::up("no-watcher", ReferenceOptions::default()).unwrap();
    let changes = system.fib.changes().len();
    under_load(&mut system, |system| {
        for lb_pod in 0..3 {
            system.kill(DaemonInstance::PodWatcher(lb_pod))?;
        }
        for lb_pod in 0..3 {
            let programmer = DaemonInstance::IpvsProgrammer(lb_pod);
            eventually("ipvs-programmer has no connection to pod-watcher", || {
                let connected = metric(system, programmer, "portlb_discovery_connected")?;
                ensure!(connected == 0.0, "still connected");
                Ok(())
            })?;
            wait_until_ready(system, programmer)?;
            wait_until_ready(system, DaemonInstance::BgpAnnouncer(lb_pod))?;
        }
        Ok(())
    })
    .unwrap();

    let pod = system.network.web_pods[0].clone();
    system.network.web_servers[&pod.name].kill().unwrap();
    for lb_pod in 0..3 {
        wait_for_weight(&system, lb_pod, pod.address.into(), Some(0)).unwrap();
    }
    let client = system.network.client().unwrap();
    let answers = http::spread(&client, service(), 60, SOON).unwrap();
    assert!(!answers.contains_key(&pod.name), "{answers:?}");
    system.network.start_web_server(&pod).unwrap();
    for lb_pod in 0..3 {
        wait_for_weight(&system, lb_pod, pod.address.into(), Some(1)).unwrap();
    }

    system.start_all().unwrap();
    for lb_pod in 0..3 {
        let programmer = DaemonInstance::IpvsProgrammer(lb_pod);
        eventually("ipvs-programmer is connected to pod-watcher", || {
            let connected = metric(&system, programmer, "portlb_discovery_connected")?;
            ensure!(connected == 1.0, "not connected");
            Ok(())
        })
        .unwrap();
    }
    // The new pod-watchers serve a changed desired set, and the change takes effect.
    system
        .write_desired(&System::web_of(&system.network.web_pods[1..]))
        .unwrap();
    for lb_pod in 0..3 {
        wait_for_weight(&system, lb_pod, pod.address.into(), None).unwrap();
    }
    ensure_no_route_changed(&system, changes).unwrap();
}

#[test]
fn an_ipvs_programmer_that_restarts_quickly_changes_no_route_and_no_kernel_entry() {
    let mut system = System::up("programmer-back", ReferenceOptions::default()).unwrap();
    let changes = system.fib.changes().len();
    under_load(&mut system, |system| {
        for lb_pod in 0..3 {
            system.kill(DaemonInstance::IpvsProgrammer(lb_pod))?;
            system.start(DaemonInstance::IpvsProgrammer(lb_pod))?;
        }
        for lb_pod in 0..3 {
            let programmer = DaemonInstance::IpvsProgrammer(lb_pod);
            wait_until_ready(system, programmer)?;
            let pods = system.network.web_pods.clone();
            for pod in pods {
                wait_for_weight(system, lb_pod, pod.address.into(), Some(1))?;
            }
            let written = metric(system, programmer, "portlb_ipvs_changes_total")?;
            ensure!(
                written == 0.0,
                "ipvs-programmer made {written} changes of the kernel's table"
            );
            let announcer = DaemonInstance::BgpAnnouncer(lb_pod);
            eventually("the new ipvs-programmer is connected", || {
                let (_, text) = system.readiness(announcer)?;
                ensure!(text.contains("ready data-plane\n"), "{text}");
                Ok(())
            })?;
        }
        Ok(())
    })
    .unwrap();
    ensure_no_route_changed(&system, changes).unwrap();
}

#[test]
fn paths_of_ended_and_silent_ipvs_programmers_are_least_preferred_and_not_withdrawn() {
    let mut system = System::new("programmer-gone", ReferenceOptions::default()).unwrap();
    let timeout = format!("{}ms", DATA_PLANE_TIMEOUT.as_millis());
    system.set_flags("bgp-announcer", &[("--data-plane-timeout", &timeout)]);
    system.start_all().unwrap();
    system.wait_until_announced(&[0, 1, 2], SOON).unwrap();
    under_load(&mut system, |system| {
        let began = Instant::now();
        system.kill(DaemonInstance::IpvsProgrammer(0))?;
        let stopped = system.process(DaemonInstance::IpvsProgrammer(1))?.clone();
        stopped.signal(Signal::SIGSTOP)?;
        system.wait_until_announced(&[2], SOON)?;
        let first = first_change_after(system, began);
        // The timeout begins at the last heartbeat before the stop. The interval of heartbeats is a
        // fifth of the timeout, so at least four fifths of the timeout remain after the stop. The
        // check requires only half of the timeout.
        ensure!(first >= DATA_PLANE_TIMEOUT / 2, "after {first:?}");
        ensure!(first <= DATA_PLANE_TIMEOUT + LATE, "after {first:?}");

        // After the last ipvs-programmer is stopped, none answers. So every path is least
        // preferred, and the router uses all paths.
        let last = system.process(DaemonInstance::IpvsProgrammer(2))?.clone();
        last.signal(Signal::SIGSTOP)?;
        system.wait_until_announced(&[0, 1, 2], SOON)?;
        for lb_pod in 0..3 {
            let announcer = DaemonInstance::BgpAnnouncer(lb_pod);
            wait_for_readyz(system, announcer, "missing announced", "least preferred")?;
        }
        last.signal(Signal::SIGCONT)?;
        system.wait_until_announced(&[2], SOON)?;

        stopped.signal(Signal::SIGCONT)?;
        system.wait_until_announced(&[1, 2], SOON)?;
        system.start(DaemonInstance::IpvsProgrammer(0))?;
        system.wait_until_announced(&[0, 1, 2], SOON)?;
        wait_until_ready(system, DaemonInstance::BgpAnnouncer(0))?;
        ensure_a_path_since(system, began)
    })
    .unwrap();
}

#[test]
fn a_stopped_announcer_does_not_count_its_own_sleep_as_silence_of_the_data_plane() {
    let mut system = System::new("announcer-slept", ReferenceOptions::default()).unwrap();
    system.set_flags("bgp-announcer", &[("--data-plane-timeout", "500ms")]);
    system.start_all().unwrap();
    system.wait_until_announced(&[0, 1, 2], SOON).unwrap();
    let changes = system.fib.changes().len();
    let announcer = DaemonInstance::BgpAnnouncer(0);
    let made = || metric(&system, announcer, "portlb_announcements_made_total").unwrap();
    let before = made();
    let process = system.process(announcer).unwrap();
    process.signal(Signal::SIGSTOP).unwrap();
    // The announcer sleeps longer than the data plane timeout (500 ms) and shorter than the hold
    // time.
    std::thread::sleep(Duration::from_millis(1500));
    process.signal(Signal::SIGCONT).unwrap();
    wait_until_ready(&system, announcer).unwrap();
    // After these 500 ms every timer of the announcer has expired, and the announcer has read every
    // heartbeat that arrived during the sleep.
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(made(), before);
    ensure_no_route_changed(&system, changes).unwrap();
}

#[test]
fn paths_of_ended_node_routers_are_least_preferred_and_not_withdrawn() {
    let mut system = System::up("node-routers-gone", ReferenceOptions::default()).unwrap();
    let nodes = [0, 1, 2].map(|node| system.host(DaemonInstance::NodeRouter(node)).unwrap());
    let routes = nodes
        .each_ref()
        .map(|node| FibWatcher::start(node).unwrap());
    let before = routes.each_ref().map(|routes| routes.changes().len());
    under_load(&mut system, |system| {
        let began = Instant::now();
        system.kill(DaemonInstance::NodeRouter(0))?;
        system.wait_until_announced(&[1, 2], SOON)?;
        system.kill(DaemonInstance::NodeRouter(1))?;
        system.kill(DaemonInstance::NodeRouter(2))?;
        system.wait_until_announced(&[0, 1, 2], SOON)?;
        for lb_pod in 0..3 {
            let announcer = DaemonInstance::BgpAnnouncer(lb_pod);
            wait_for_readyz(system, announcer, "missing node-route", "least preferred")?;
        }
        system.start(DaemonInstance::NodeRouter(2))?;
        system.wait_until_announced(&[2], SOON)?;
        system.start_all()?;
        system.wait_until_announced(&[0, 1, 2], SOON)?;
        for lb_pod in 0..3 {
            wait_until_ready(system, DaemonInstance::BgpAnnouncer(lb_pod))?;
        }
        ensure_a_path_since(system, began)
    })
    .unwrap();
    for (routes, before) in routes.iter().zip(before) {
        assert_eq!(routes.changes().len(), before, "{:?}", routes.changes());
    }
}

/// Returns an error if the router had no next hop for a service range at a time after `began`.
fn ensure_a_path_since(system: &System, began: Instant) -> Result<()> {
    let changes = system.fib.changes().into_iter();
    let mut since = changes.filter(|change| change.at >= began);
    let without_path = since.find(|change| change.next_hops.is_empty());
    ensure!(without_path.is_none(), "{without_path:?}");
    Ok(())
}

/// Returns the time from `began` to the first change of a route of the router, or zero if no route
/// has changed since `began`.
fn first_change_after(system: &System, began: Instant) -> Duration {
    let changes = system.fib.changes();
    let first = changes.iter().find(|change| change.at >= began);
    first.map_or(Duration::ZERO, |change| change.at - began)
}

#[test]
fn the_paths_of_a_killed_announcer_are_withdrawn_immediately() {
    let mut system = System::up("announcer", ReferenceOptions::default()).unwrap();
    under_load(&mut system, |system| {
        for lb_pod in 0..3 {
            let others: Vec<usize> = (0..3).filter(|other| *other != lb_pod).collect();
            let began = Instant::now();
            system.kill(DaemonInstance::BgpAnnouncer(lb_pod))?;
            system.wait_until_announced(&others, SOON)?;
            let first = first_change_after(system, began);
            ensure!(first <= LATE / 2, "after {first:?}");
            system.start(DaemonInstance::BgpAnnouncer(lb_pod))?;
            system.wait_until_announced(&[0, 1, 2], SOON)?;
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn the_routes_of_a_killed_node_router_stay_and_are_adopted() {
    let mut system = System::up("node-router", ReferenceOptions::default()).unwrap();
    let node = system.host(DaemonInstance::NodeRouter(0)).unwrap();
    let routes = FibWatcher::start(&node).unwrap();
    let before = routes.changes().len();
    let changes = system.fib.changes().len();
    under_load(&mut system, |system| {
        system.kill(DaemonInstance::NodeRouter(0))?;
        system.start(DaemonInstance::NodeRouter(0))?;
        eventually("the announcer holds both node routes", || {
            let routes = system.node_routes(0)?;
            let installed = routes.iter().filter(|route| route.installed);
            let pods: Vec<_> = installed.flat_map(|route| &route.next_hops).collect();
            ensure!(
                pods.len() == 2 && pods.iter().all(|hop| hop.holders == 1),
                "{routes:?}"
            );
            Ok(())
        })?;
        wait_until_ready(system, DaemonInstance::NodeRouter(0))?;
        wait_until_ready(system, DaemonInstance::BgpAnnouncer(0))
    })
    .unwrap();
    ensure_no_route_changed(&system, changes).unwrap();
    assert_eq!(routes.changes().len(), before, "{:?}", routes.changes());
}

#[test]
fn killing_and_replacing_each_reflector_in_turn_changes_no_route() {
    let mut system = System::up("reflectors", ReferenceOptions::default()).unwrap();
    let changes = system.fib.changes().len();
    under_load(&mut system, |system| {
        for reflector in [0, 1] {
            let daemon = DaemonInstance::RouteReflector(reflector);
            system.kill(daemon)?;
            system.start(daemon)?;
            eventually("the reflector has sent all paths to the router", || {
                let sessions = system.reflector_sessions(reflector)?;
                let router = sessions.iter().find(|session| session.peer == "router");
                let sent = router.map_or(0, |session| session.paths_sent);
                ensure!(sent == 6, "sent {sent} paths: {sessions:?}");
                Ok(())
            })?;
        }
        Ok(())
    })
    .unwrap();
    ensure_no_route_changed(&system, changes).unwrap();
}

#[test]
fn without_any_reflector_the_router_has_no_path_until_one_reflector_runs_again() {
    let mut system = System::up("no-reflector", ReferenceOptions::default()).unwrap();
    for reflector in [0, 1] {
        system
            .kill(DaemonInstance::RouteReflector(reflector))
            .unwrap();
    }
    system.wait_until_announced(&[], SOON).unwrap();
    system.start(DaemonInstance::RouteReflector(1)).unwrap();
    system.wait_until_announced(&[0, 1, 2], SOON).unwrap();
    let client = system.network.client().unwrap();
    let answers = http::spread(&client, service(), 30, SOON).unwrap();
    assert!(!answers.is_empty());
    system.start_all().unwrap();
}

#[test]
fn no_connection_is_lost_when_whole_lb_pods_are_killed_in_turn() {
    let mut system = System::up("lb-pods", ReferenceOptions::default()).unwrap();
    let connections = persistent_connections(&system).unwrap();
    for lb_pod in 0..3 {
        let others: Vec<usize> = (0..3).filter(|other| *other != lb_pod).collect();
        system.kill_lb_pod(lb_pod).unwrap();
        system.wait_until_announced(&others, SOON).unwrap();
        system.start_all().unwrap();
        system.wait_until_announced(&[0, 1, 2], SOON).unwrap();
    }
    ensure_no_connection_was_lost(connections).unwrap();
}

#[test]
fn the_path_of_a_disconnected_node_is_withdrawn_when_the_hold_timer_expires() {
    let mut system = System::new("cut", ReferenceOptions::default()).unwrap();
    // The web pods of node-b are not in the desired set, because packets cannot reach them after
    // node-b is disconnected.
    let reachable = system.network.web_pods.iter().cloned();
    let reachable: Vec<_> = reachable.filter(|pod| pod.node != "node-b").collect();
    system.write_desired(&System::web_of(&reachable)).unwrap();
    system.start_all().unwrap();
    system.wait_until_announced(&[0, 1, 2], SOON).unwrap();
    let connections = persistent_connections(&system).unwrap();
    let began = Instant::now();
    system.network.cut("node-b", true).unwrap();
    system.wait_until_announced(&[0, 2], SOON).unwrap();
    let withdrawn = first_change_after(&system, began);
    // The hold time is 3 s, and a keepalive is sent each second. So the hold timer expires 2 s to
    // 3 s after the cut.
    assert!(
        withdrawn >= Duration::from_millis(1500),
        "after {withdrawn:?}"
    );
    assert!(
        withdrawn <= Duration::from_secs(3) + LATE,
        "after {withdrawn:?}"
    );
    ensure_no_connection_was_lost(connections).unwrap();

    system.network.cut("node-b", false).unwrap();
    system.wait_until_announced(&[0, 1, 2], SOON).unwrap();
}
