//! Tests of the order of steps before an announcement, and of withdrawals.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use ipnet::IpNet;
use lab::reference::{ReferenceOptions, SERVICE, SERVICE_RANGE, SERVICE_RANGE6, SERVICE6};
use lab::system::{DaemonInstance, Desired, System, port, virtual_server};
use virtual_server::{HealthCheckOptions, ServiceRange};

use crate::expect::{
    SOON, eventually, service, service_range, wait_for_readyz, wait_for_weight, wait_until_ready,
};

const ANNOUNCER: DaemonInstance = DaemonInstance::BgpAnnouncer(0);
const PROGRAMMER: DaemonInstance = DaemonInstance::IpvsProgrammer(0);

/// Returns an error if reflector 1 has a path, or the router has had a route of a service range at
/// any time.
fn ensure_nothing_is_announced(system: &System) -> Result<()> {
    let paths = system.reflector_paths(0)?;
    ensure!(paths.is_empty(), "{paths:?}");
    let changes = system.fib.changes();
    let ranges = [IpNet::from(SERVICE_RANGE), SERVICE_RANGE6.into()];
    let of_range = changes.iter().find(|it| ranges.contains(&it.prefix));
    ensure!(of_range.is_none(), "{of_range:?}");
    Ok(())
}

#[test]
fn each_missing_step_delays_the_announcement_and_readyz_names_it() {
    let mut system = System::new("order-up", ReferenceOptions::default()).unwrap();
    let real_servers = system.network.web_pods.iter().map(|pod| pod.address.into());
    let real_servers: Vec<IpAddr> = real_servers.collect();
    let mut web = virtual_server("web", [SERVICE.into()], [port(80)], real_servers);
    web.health_check = Some(HealthCheckOptions {
        interval: Some(Duration::from_secs(60)),
        timeout: Some(Duration::from_secs(60)),
        initial_jitter: Some(Duration::ZERO),
        ..HealthCheckOptions::default()
    });
    let desired = Desired::new([service_range()]).with(web);
    system.write_desired(&desired).unwrap();
    let lb_pod = system.host(PROGRAMMER).unwrap();
    let lb_address = system.network.lb_pods[0].address;

    // Each obstacle of this test causes one missing step. The first obstacle: the address of a real
    // server is a broadcast address, and the kernel refuses such a real server.
    let web_1 = system.network.web_pods[0].address;
    let refused = format!("broadcast {web_1} dev eth0 table local");
    lb_pod.ip(&format!("route add {refused}")).unwrap();
    // web-2 drops its answers to the load balancer's health checks.
    let web_2 = system.network.lab.host("web-2").unwrap();
    let unanswered = format!("blackhole {lb_address}/32");
    web_2.ip(&format!("route add {unanswered}")).unwrap();
    let not_local = format!("blackhole {SERVICE_RANGE} table local");
    lb_pod.ip(&format!("route add {not_local}")).unwrap();
    system.set_flags("node-router", &[("--allowed-prefixes", "10.9.0.0/16")]);

    for reflector in [0, 1] {
        system
            .start(DaemonInstance::RouteReflector(reflector))
            .unwrap();
    }
    system.start(ANNOUNCER).unwrap();
    wait_for_readyz(&system, ANNOUNCER, "missing data-plane", "").unwrap();
    wait_for_readyz(&system, ANNOUNCER, "ready bgp-session", "").unwrap();
    ensure_nothing_is_announced(&system).unwrap();

    system.start(PROGRAMMER).unwrap();
    wait_for_readyz(&system, PROGRAMMER, "missing desired-set", "").unwrap();
    wait_for_readyz(&system, ANNOUNCER, "missing serving", "no service address").unwrap();
    ensure_nothing_is_announced(&system).unwrap();

    system.start(DaemonInstance::PodWatcher(0)).unwrap();
    let real_server = format!("{web_1}");
    wait_for_readyz(&system, PROGRAMMER, "missing programmed", &real_server).unwrap();
    wait_for_readyz(&system, ANNOUNCER, "missing serving", &real_server).unwrap();
    ensure_nothing_is_announced(&system).unwrap();
    lb_pod.ip(&format!("route del {refused}")).unwrap();

    wait_for_readyz(&system, PROGRAMMER, "ready programmed", "").unwrap();
    wait_for_readyz(
        &system,
        ANNOUNCER,
        "missing serving",
        "no result of a health check",
    )
    .unwrap();
    ensure_nothing_is_announced(&system).unwrap();
    web_2.ip(&format!("route del {unanswered}")).unwrap();

    wait_for_readyz(&system, ANNOUNCER, "missing serving", "local").unwrap();
    ensure_nothing_is_announced(&system).unwrap();
    lb_pod.ip(&format!("route del {not_local}")).unwrap();

    wait_for_readyz(&system, ANNOUNCER, "missing node-route", "").unwrap();
    wait_for_readyz(&system, ANNOUNCER, "ready serving", "").unwrap();
    ensure_nothing_is_announced(&system).unwrap();
    system.start(DaemonInstance::NodeRouter(0)).unwrap();
    wait_for_readyz(&system, ANNOUNCER, "missing node-route", "10.9.0.0/16").unwrap();
    ensure_nothing_is_announced(&system).unwrap();
    system.stop(DaemonInstance::NodeRouter(0)).unwrap();
    let ranges = format!("{SERVICE_RANGE},{SERVICE_RANGE6}");
    system.set_flags("node-router", &[("--allowed-prefixes", &ranges)]);
    system.start(DaemonInstance::NodeRouter(0)).unwrap();

    let next_hops = system.next_hops(service_range(), &[0]).unwrap();
    system
        .fib
        .wait_for(service_range(), &next_hops, SOON)
        .unwrap();
    wait_until_ready(&system, ANNOUNCER).unwrap();
}

#[test]
fn the_routers_next_hops_follow_the_running_lb_pods() {
    let mut system = System::new("order-follow", ReferenceOptions::default()).unwrap();
    system.set_flags(
        "bgp-announcer",
        &[("--withdraw-delay", "100ms"), ("--linger", "100ms")],
    );
    system.start_all().unwrap();
    for lb_pods in [
        &[0, 1, 2][..],
        &[1, 2],
        &[2],
        &[],
        &[0],
        &[0, 2],
        &[0, 1, 2],
    ] {
        for lb_pod in 0..3 {
            let daemons = System::lb_pod(lb_pod);
            let runs = system.process(DaemonInstance::BgpAnnouncer(lb_pod)).is_ok();
            match (lb_pods.contains(&lb_pod), runs) {
                (true, false) => {
                    for daemon in daemons {
                        system.start(daemon).unwrap();
                    }
                }
                (false, true) => {
                    for daemon in daemons.into_iter().rev() {
                        let status = system.stop(daemon).unwrap();
                        assert!(status.success(), "{daemon}: {status}");
                    }
                }
                (true, true) | (false, false) => {}
            }
        }
        system.wait_until_announced(lb_pods, SOON).unwrap();
    }
}

#[test]
fn a_service_range_is_announced_while_the_minimum_of_real_servers_is_healthy() {
    let mut system = System::new("order-healthy", ReferenceOptions::default()).unwrap();
    let mut desired = system.web();
    desired.virtual_servers[0].minimum_healthy = Some(5);
    system.write_desired(&desired).unwrap();
    system.start_all().unwrap();
    system.wait_until_announced(&[0, 1, 2], SOON).unwrap();
    let changes = system.fib.changes().len();
    let pods = system.network.web_pods.clone();

    system.network.web_servers[&pods[0].name].kill().unwrap();
    for lb_pod in 0..3 {
        wait_for_weight(&system, lb_pod, pods[0].address.into(), Some(0)).unwrap();
    }
    assert_eq!(system.fib.changes().len(), changes);

    system.network.web_servers[&pods[1].name].kill().unwrap();
    system.wait_until_announced(&[], SOON).unwrap();
    wait_for_readyz(&system, ANNOUNCER, "missing serving", "the minimum is 5").unwrap();

    system.network.start_web_server(&pods[0]).unwrap();
    system.wait_until_announced(&[0, 1, 2], SOON).unwrap();
}

#[test]
fn an_address_that_is_removed_from_the_file_is_withdrawn_and_its_node_routes_are_removed() {
    let mut system = System::new("order-removed", ReferenceOptions::default()).unwrap();
    system.set_flags("bgp-announcer", &[("--linger", "500ms")]);
    system.start_all().unwrap();
    system.wait_until_announced(&[0, 1, 2], SOON).unwrap();
    let client = system.network.client().unwrap();
    let server6 = std::net::SocketAddr::new(SERVICE6.into(), 80);

    let ipv6: IpNet = SERVICE_RANGE6.into();
    let mut desired = system.web();
    desired.service_ranges = vec![ServiceRange { prefix: ipv6 }];
    desired.virtual_servers[0].addresses = vec![SERVICE6.into()];
    let real_servers = &mut desired.virtual_servers[0].real_servers;
    real_servers.retain(|real_server| real_server.address.is_ipv6());
    system.write_desired(&desired).unwrap();
    system.fib.wait_for(service_range(), &[], SOON).unwrap();
    for node in 0..3 {
        eventually("the node has only the IPv6 route", || {
            let routes = system.node_routes(node)?;
            ensure!(routes.len() == 1, "{routes:?}");
            Ok(())
        })
        .unwrap();
    }
    assert!(lab::http::get(&client, service(), Duration::from_secs(1)).is_err());
    lab::http::get(&client, server6, SOON).unwrap();
}
