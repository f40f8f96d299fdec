//! Tests of the drain of a load balancer.
//!
//! During a drain the load balancer makes its paths least preferred, then withdraws them, then
//! removes its routes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use daemon_api::bgp::v1::Path;
use lab::http;
use lab::reference::ReferenceOptions;
use lab::system::{DaemonInstance, System};
use lab::wrk::Wrk;
use lab::{Process, Signal};

use crate::expect::{
    SOON, ensure_no_connection_was_lost, eventually, persistent_connections, service,
    service_range, under_load, wait_for_readyz,
};

const ANNOUNCER: DaemonInstance = DaemonInstance::BgpAnnouncer(0);

/// Returns the path of the service range that reflector 1 has received from lb-a.
fn path_of_lb_a(system: &System) -> Result<Option<Path>> {
    let address = system.network.lb_pods[0].address.to_string();
    let prefix = service_range().to_string();
    let mut paths = system.reflector_paths(0)?.into_iter();
    Ok(paths.find(|path| path.peer == address && path.prefix == prefix))
}

/// Waits until lb-a's path at reflector 1 is least preferred.
fn wait_for_graceful_shutdown(system: &System) -> Result<()> {
    eventually("the path has GRACEFUL_SHUTDOWN and LOCAL_PREF 0", || {
        let path = path_of_lb_a(system)?.context("there is no path")?;
        let attributes = path.attributes.context("the path has no attributes")?;
        let has_community = attributes
            .communities
            .contains(&"GRACEFUL_SHUTDOWN".to_owned());
        ensure!(has_community, "{attributes:?}");
        ensure!(attributes.local_pref == Some(0), "{attributes:?}");
        Ok(())
    })
}

/// Starts the system with a withdraw delay and a linger other than the lab's default of 1 s for
/// each.
fn start_with_delays(name: &str, withdraw_delay: &str, linger: &str) -> Result<System> {
    let mut system = System::new(name, ReferenceOptions::default())?;
    let times = [("--withdraw-delay", withdraw_delay), ("--linger", linger)];
    system.set_flags("bgp-announcer", &times);
    system.start_all()?;
    system.wait_until_announced(&[0, 1, 2], SOON)?;
    Ok(system)
}

fn terminate(system: &System, daemon: DaemonInstance) -> Result<Process> {
    let process = system.process(daemon)?.clone();
    process.signal(Signal::SIGTERM)?;
    Ok(process)
}

#[test]
fn a_terminated_lb_pod_drains_step_by_step_and_no_request_is_lost() {
    let system = start_with_delays("drain-order", "1500ms", "1500ms").unwrap();
    let client = system.network.client().unwrap();
    let connections = persistent_connections(&system).unwrap();
    let url = format!("http://{}/", service());
    let load = Wrk::start(&client, &url, 8, Duration::from_secs(6)).unwrap();

    // All three daemons get SIGTERM at the same time, because Kubernetes terminates all containers
    // of a pod simultaneously.
    let began = Instant::now();
    let processes = System::lb_pod(0).map(|daemon| terminate(&system, daemon).unwrap());
    wait_for_graceful_shutdown(&system).unwrap();
    assert!(began.elapsed() < Duration::from_millis(1500));
    // lb-a's path becomes least preferred before its withdrawal, so the router uses only the other
    // lb pods.
    system.wait_until_announced(&[1, 2], SOON).unwrap();
    assert!(
        path_of_lb_a(&system).unwrap().is_some(),
        "lb-a withdrew its path before the withdraw delay ended"
    );

    eventually("lb-a withdraws its path", || {
        let path = path_of_lb_a(&system)?;
        ensure!(path.is_none(), "{path:?}");
        Ok(())
    })
    .unwrap();
    let withdrawn = began.elapsed();
    assert!(
        withdrawn >= Duration::from_millis(1500),
        "after {withdrawn:?}"
    );
    // During the linger the node routes and the kernel's table stay, so that late packets are
    // forwarded.
    let [_, _, announcer] = &processes;
    assert!(announcer.is_running());
    assert_eq!(system.node_routes(0).unwrap().len(), 2);
    let node = system.host(DaemonInstance::NodeRouter(0)).unwrap();
    http::get(&node, service(), SOON).unwrap();

    for process in &processes {
        let status = process.wait(SOON).unwrap();
        assert!(status.success(), "{}: {status}", process.name());
    }
    let ended = began.elapsed();
    assert!(ended >= Duration::from_secs(3), "after {ended:?}");
    eventually(
        "lb-a's sessions have ended with a reason, and its node routes are removed",
        || {
            let address = system.network.lb_pods[0].address.to_string();
            let sessions = system.reflector_sessions(0)?;
            let session = sessions.iter().find(|session| session.peer == address);
            let error = session.map_or("", |session| &session.last_error);
            ensure!(
                session.is_none() || error.to_lowercase().contains("administrative"),
                "{session:?}"
            );
            let routes = system.node_routes(0)?;
            ensure!(routes.is_empty(), "{routes:?}");
            Ok(())
        },
    )
    .unwrap();

    let report = load.finish().unwrap();
    assert!(report.requests > 100 && report.errors() == 0, "{report:?}");
    ensure_no_connection_was_lost(connections).unwrap();
}

#[test]
fn no_request_is_lost_when_an_announcer_is_drained_and_undrained() {
    let mut system = start_with_delays("drain-rpc", "500ms", "300ms").unwrap();
    under_load(&mut system, |system| {
        let withdrawn = system.drain(0)?;
        ensure!(withdrawn.len() == 2, "{withdrawn:?}");
        ensure!(
            path_of_lb_a(system)?.is_none(),
            "the path is still announced after the drain"
        );
        wait_for_readyz(system, ANNOUNCER, "missing announced", "drained; ")?;
        system.wait_until_announced(&[1, 2], SOON)?;
        system.undrain(0)?;
        system.wait_until_announced(&[0, 1, 2], SOON)
    })
    .unwrap();
}

#[test]
fn a_drain_does_not_wait_for_reflectors_that_do_not_answer() {
    let mut system = start_with_delays("drain-alone", "500ms", "500ms").unwrap();
    // Reflector 1 has ended and reflector 2 does not answer.
    system.kill(DaemonInstance::RouteReflector(0)).unwrap();
    let hanging = system
        .process(DaemonInstance::RouteReflector(1))
        .unwrap()
        .clone();
    hanging.signal(Signal::SIGSTOP).unwrap();
    let began = Instant::now();
    let process = terminate(&system, ANNOUNCER).unwrap();
    let status = process.wait(SOON).unwrap();
    let took = began.elapsed();
    assert!(status.success(), "{status}");
    assert!(took >= Duration::from_secs(1), "after {took:?}");
    assert!(took < Duration::from_secs(4), "after {took:?}");
    hanging.signal(Signal::SIGCONT).unwrap();
    system.wait_until_announced(&[1, 2], SOON).unwrap();
}

#[test]
fn no_connection_is_lost_when_all_lb_pods_are_restarted_in_turn() {
    let mut system = start_with_delays("drain-rolling", "500ms", "500ms").unwrap();
    under_load(&mut system, |system| {
        for lb_pod in 0..3 {
            let daemons = System::lb_pod(lb_pod);
            for daemon in daemons {
                terminate(system, daemon)?;
            }
            for daemon in daemons {
                let status = system.process(daemon)?.wait(SOON)?;
                ensure!(status.success(), "{daemon}: {status}");
            }
            for daemon in daemons {
                system.start(daemon)?;
            }
            system.wait_until_announced(&[0, 1, 2], SOON)?;
        }
        Ok(())
    })
    .unwrap();
}
