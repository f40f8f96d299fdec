//! Tests of packet forwarding: methods, schedulers, ports, guards and health.
//!
//! Most tests run only one lb pod, so that every packet passes the table that the test reads.

mod availability;
mod guards;
mod methods;
mod peer_server;
mod ports;
mod schedulers;
mod uplink;

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    time::Duration,
};

use anyhow::Result;
use ipnet::IpNet;
use lab::{
    Host, ensure_that,
    nodes::LabPod,
    reference::{ReferenceOptions, SERVICE_RANGE, SERVICE_RANGE6},
    system::{self, DaemonInstance, Desired, System, VirtualServer},
    wait_for,
};
use virtual_server::{HealthCheckOptions, Ports, Scheduler};

/// Limit for a wait. Every expected event happens within this time, also in the slowest
/// environment.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// Time after which a test treats a request as unanswered.
pub(crate) const SILENCE: Duration = Duration::from_millis(400);

/// Starts one lb pod, one reflector and the node-router of each node.
///
/// Returns after every virtual server of `desired` is serving and the service ranges of `desired`
/// are announced.
pub(crate) fn one_lb_pod(
    name: &str,
    options: ReferenceOptions,
    desired: impl FnOnce(&System) -> Desired,
) -> System {
    let mut system = System::new(name, options).unwrap();
    let desired = desired(&system);
    system.write_desired(&desired).unwrap();
    start_one_lb_pod(&mut system);
    wait_until_serving(&system, 0);
    system
}

/// Starts one lb pod in a system whose desired set is already written, and waits for the
/// announcement.
pub(crate) fn start_one_lb_pod(system: &mut System) {
    start_daemons(system);
    system.wait_until_announced(&[0], SOON).unwrap();
}

/// Starts the first lb pod, one reflector and the node-router of each node.
fn start_daemons(system: &mut System) {
    let needed = [DaemonInstance::RouteReflector(0)]
        .into_iter()
        .chain((0..3).map(DaemonInstance::NodeRouter))
        .chain(System::lb_pod(0));
    for daemon in needed {
        system.start(daemon).unwrap();
    }
}

/// Waits until the ipvs-programmer of an lb pod reports every virtual server of the desired set as
/// serving.
pub(crate) fn wait_until_serving(system: &System, lb_pod: usize) {
    wait_for("every virtual server is serving", SOON, || {
        let state = || -> Result<_> {
            let desired = system.desired(lb_pod)?.virtual_servers.len();
            Ok((desired, system.virtual_servers(lb_pod)?))
        };
        let (desired, actual) = state().map_err(|error| format!("{error:#}"))?;
        let missing: Vec<_> = actual.iter().filter(|server| !server.serving).collect();
        let holds = desired == actual.len() && missing.is_empty();
        ensure_that(
            holds,
            format!("{desired} virtual servers are desired, not serving: {missing:?}"),
        )
    })
    .unwrap();
}

/// Returns a desired set with both service ranges and without virtual servers.
pub(crate) fn only_ranges() -> Desired {
    Desired::new([IpNet::from(SERVICE_RANGE), SERVICE_RANGE6.into()])
}

/// Returns the IPv4 and the IPv6 service address whose last part is `number`.
pub(crate) fn service(number: u8) -> [IpAddr; 2] {
    [
        format!("10.1.1.{number}").parse().unwrap(),
        format!("fd00:10:1:1::{number}").parse().unwrap(),
    ]
}

/// Returns the IPv4 and the IPv6 address of each pod.
pub(crate) fn addresses(pods: &[LabPod]) -> Vec<IpAddr> {
    let both = |pod: &LabPod| [IpAddr::from(pod.address), pod.address6.into()];
    pods.iter().flat_map(both).collect()
}

/// Returns a virtual server on both service addresses with the last part `number`.
///
/// Health checks connect to port 80 of the real servers.
pub(crate) fn virtual_server(number: u8, ports: Ports, real_servers: &[LabPod]) -> VirtualServer {
    let server = system::virtual_server(
        &format!("service-{number}"),
        service(number),
        [ports],
        addresses(real_servers),
    );
    VirtualServer {
        scheduler: Scheduler::Rr,
        health_check: server.health_check.clone().map(|check| HealthCheckOptions {
            port: NonZeroU16::new(80),
            ..check
        }),
        ..server
    }
}

/// Returns the lines of `ipvsadm --save` in the lb pod.
pub(crate) fn table(system: &System, lb_pod: usize) -> Vec<String> {
    let host = system.host(DaemonInstance::IpvsProgrammer(lb_pod)).unwrap();
    let text = host.output("ipvsadm", ["--save", "--numeric"]).unwrap();
    text.lines().map(|line| line.trim().to_owned()).collect()
}

/// Waits until `fits` returns true for the IPVS table of an lb pod.
pub(crate) fn wait_for_table(
    system: &System,
    lb_pod: usize,
    what: &str,
    mut fits: impl FnMut(&[String]) -> bool,
) {
    wait_for(what, SOON, || {
        let table = table(system, lb_pod);
        ensure_that(fits(&table), table.join("\n"))
    })
    .unwrap();
}

/// Returns the weight of a real server in a table, or `None` if the table does not have the real
/// server.
pub(crate) fn weight(
    table: &[String],
    virtual_server: SocketAddr,
    real_server: SocketAddr,
) -> Option<u32> {
    let begin = format!("-a -t {virtual_server} -r {real_server} ");
    let line = table.iter().find(|line| line.starts_with(&begin))?;
    let words: Vec<_> = line.split(' ').collect();
    let at = words.iter().position(|word| *word == "-w")?;
    words.get(at + 1)?.parse().ok()
}

/// Lets processes of a host bind a service address that the host has only as a local route, not on
/// an interface.
pub(crate) fn allow_binding(host: &Host) {
    // For IPv4 the kernel allows such a bind without a sysctl.
    host.sysctl("ipv6/ip_nonlocal_bind", "1").unwrap();
}
