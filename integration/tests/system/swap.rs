//! Tests that another implementation of a contract can replace a daemon.
//!
//! The implementations in these tests are fake daemons of the lab.

use std::time::{Duration, Instant};

use anyhow::ensure;
use daemon_api::dataplane::v1::MissingStep;
use lab::fake::{FakeDataPlaneServer, FakeDiscoveryServer, Heartbeats};
use lab::http;
use lab::reference::ReferenceOptions;
use lab::system::{DaemonInstance, System};

use crate::expect::{
    SOON, ensure_no_route_changed, eventually, metric, service, service_range, wait_for_readyz,
    wait_for_weight,
};

const ANNOUNCER: DaemonInstance = DaemonInstance::BgpAnnouncer(0);
/// The daemons that a fake data plane replaces.
const REPLACED_BY_DATA_PLANE: [DaemonInstance; 2] = [
    DaemonInstance::PodWatcher(0),
    DaemonInstance::IpvsProgrammer(0),
];

/// Starts lb-a, the node-router of each node and both reflectors, but not the daemons `replaced`.
fn start_without(system: &mut System, replaced: &[DaemonInstance]) {
    let reflectors = [0, 1].map(DaemonInstance::RouteReflector);
    let node_routers = [0, 1, 2].map(DaemonInstance::NodeRouter);
    let daemons = reflectors.into_iter().chain(node_routers);
    for daemon in daemons.chain(System::lb_pod(0)) {
        if !replaced.contains(&daemon) {
            system.start(daemon).unwrap();
        }
    }
}

#[test]
fn a_fake_discovery_service_can_replace_pod_watcher() {
    let mut system = System::new("swap-discovery", ReferenceOptions::default()).unwrap();
    let pods: Vec<_> = system
        .network
        .web_pods
        .iter()
        .map(|pod| pod.address)
        .collect();
    let lb_pod = system.host(DaemonInstance::PodWatcher(0)).unwrap();
    let discovery = FakeDiscoveryServer::start(&lb_pod, &pods[..2]).unwrap();
    start_without(&mut system, &[DaemonInstance::PodWatcher(0)]);
    let next_hops = system.next_hops(service_range(), &[0]).unwrap();
    system
        .fib
        .wait_for(service_range(), &next_hops, SOON)
        .unwrap();
    let client = system.network.client().unwrap();
    let answers = http::spread(&client, service(), 40, SOON).unwrap();
    assert_eq!(answers.len(), 2, "{answers:?}");

    discovery.set(&pods[1..3]);
    wait_for_weight(&system, 0, pods[2].into(), Some(1)).unwrap();
    wait_for_weight(&system, 0, pods[0].into(), None).unwrap();
    http::spread(&client, service(), 40, SOON).unwrap();

    // The end of the discovery service changes neither the kernel's table nor a route.
    let changes = system.fib.changes().len();
    drop(discovery);
    wait_for_readyz(
        &system,
        DaemonInstance::IpvsProgrammer(0),
        "ready desired-set",
        ": ",
    )
    .unwrap();
    http::spread(&client, service(), 40, SOON).unwrap();
    assert_eq!(system.fib.changes().len(), changes);
}

#[test]
fn a_fake_data_plane_can_replace_ipvs_programmer() {
    let mut system = System::new("swap-data-plane", ReferenceOptions::default()).unwrap();
    let lb_pod = system.host(ANNOUNCER).unwrap();
    let data_plane = FakeDataPlaneServer::start(&lb_pod, Heartbeats::Sent).unwrap();
    start_without(&mut system, &REPLACED_BY_DATA_PLANE);
    let next_hops = system.next_hops(service_range(), &[0]).unwrap();
    let steps = [
        (MissingStep::DesiredSet, "the desired set is not known"),
        (MissingStep::Programmed, "not programmed"),
        (MissingStep::Checked, "no first check"),
        (MissingStep::Healthy, "none is healthy"),
        (MissingStep::LocalAddress, "not local"),
    ];
    for (step, detail) in steps {
        data_plane.set(step, detail);
        wait_for_readyz(&system, ANNOUNCER, "missing serving", detail).unwrap();
        assert_eq!(
            system.fib.next_hops(service_range()),
            [] as [std::net::IpAddr; 0]
        );
        data_plane.set(MissingStep::None, "");
        system
            .fib
            .wait_for(service_range(), &next_hops, SOON)
            .unwrap();
        data_plane.set(step, detail);
        system.fib.wait_for(service_range(), &[], SOON).unwrap();
    }
}

#[test]
fn each_timeout_of_a_silent_data_plane_makes_the_paths_least_preferred_and_withdraws_no_path() {
    let mut system = System::new("swap-no-heartbeat", ReferenceOptions::default()).unwrap();
    let timeout = [("--data-plane-timeout", "500ms")];
    system.set_flags("bgp-announcer", &timeout);
    let lb_pod = system.host(ANNOUNCER).unwrap();
    let data_plane = FakeDataPlaneServer::start(&lb_pod, Heartbeats::Missing).unwrap();
    data_plane.set(MissingStep::None, "");
    start_without(&mut system, &REPLACED_BY_DATA_PLANE);
    let next_hops = system.next_hops(service_range(), &[0]).unwrap();
    system
        .fib
        .wait_for(service_range(), &next_hops, SOON)
        .unwrap();
    let changes = system.fib.changes().len();
    let began = Instant::now();
    // After each timeout the announcer makes the paths least preferred. Then it starts a new watch
    // of the data plane, and the paths are no longer least preferred. Each of these two changes is
    // an announcement.
    eventually("the announcer has made four announcements", || {
        let made = metric(&system, ANNOUNCER, "portlb_announcements_made_total")?;
        ensure!(made >= 4.0, "{made}");
        Ok(())
    })
    .unwrap();
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
    let withdrawn = metric(&system, ANNOUNCER, "portlb_announcements_withdrawn_total").unwrap();
    assert_eq!(withdrawn, 0.0);
    ensure_no_route_changed(&system, changes).unwrap();
    eventually("the announcer has watched the data plane twice", || {
        ensure!(data_plane.watches() >= 2, "{}", data_plane.watches());
        Ok(())
    })
    .unwrap();
}
