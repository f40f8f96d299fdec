//! Connections of a client that are lost when the set of load balancers changes, and the memory of
//! an lb pod.
//!
//! portlb is compared with the paper's setup: exabgp, GoBGP, and the scheduler `lc` without
//! `sloppy_tcp`.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use ipnet::IpNet;
use lab::bgp::{Program, RunningSpeaker};
use lab::http::{Load, PersistentConnections};
use lab::reference::{self, Reference, ReferenceOptions, SERVICE, SERVICE_RANGE};
use lab::system::System;
use lab::{FibWatcher, baseline};

use crate::announce::service;
use integration::memory;
use integration::report::{BenchmarkTable, Figures};

const DEADLINE: Duration = Duration::from_secs(20);
const CONNECTIONS: usize = 48;

pub(crate) fn measure(rounds: usize, report: &mut BenchmarkTable) -> Result<()> {
    let mut memory = Figures::default();
    let portlb = lost_with_portlb(rounds, &mut memory)?;
    let other = lost_with_paper_setup(rounds)?;
    report.compare(
        "of 48 connections, lost per change of the lb set",
        "connections",
        portlb,
        ("lc, no sloppy_tcp", other),
    );
    report.single("resident memory of an lb pod, three daemons", "MiB", memory);
    Ok(())
}

fn lost_with_portlb(rounds: usize, memory: &mut Figures) -> Result<Figures> {
    let mut system = System::up("bench-connections-portlb", ReferenceOptions::default())?;
    let mut lost = Figures::default();
    for round in 0..rounds {
        let lb_pod = round % 3;
        let others: Vec<usize> = (0..3).filter(|other| *other != lb_pod).collect();
        let pids: Vec<u32> = System::lb_pod(lb_pod)
            .into_iter()
            .map(|daemon| Ok(system.process(daemon)?.pid()))
            .collect::<Result<_>>()?;
        memory.add(memory::resident_mebibytes(&pids)?);
        let client = system.network.client()?;
        let load = start_load(&client)?;
        system.kill_lb_pod(lb_pod)?;
        system.wait_until_announced(&others, DEADLINE)?;
        lost.add(lost_after_change(&load)?);
        let load = restart(load, &client)?;
        for daemon in System::lb_pod(lb_pod) {
            system.start(daemon)?;
        }
        system.wait_until_announced(&[0, 1, 2], DEADLINE)?;
        lost.add(lost_after_change(&load)?);
        load.stop()?;
    }
    Ok(lost)
}

fn lost_with_paper_setup(rounds: usize) -> Result<Figures> {
    let network = Reference::bring_up("bench-connections-other", ReferenceOptions::default())?;
    let fib = FibWatcher::start(&network.router_host()?)?;
    let range = IpNet::from(SERVICE_RANGE);
    let mut reflectors = Vec::new();
    for number in [1, 2] {
        reflectors.push(
            Program::GoBgp.start(&network.reflector(number)?, &reference::reflector(number))?,
        );
    }
    for (node, pod) in network.nodes.iter().zip(&network.lb_pods) {
        let (node, lb_pod) = (network.lab.host(&node.name)?, network.lab.host(&pod.name)?);
        baseline::accept(&lb_pod, &[range])?;
        baseline::route(&node, &[range], pod)?;
        baseline::exempt(&node, &[range])?;
        lb_pod.sysctl("ipv4/vs/sloppy_tcp", "0")?;
        lb_pod.ipvs(&least_connection(&network))?;
    }
    let mut announcers = (0..3)
        .map(|number| announce(&network, number))
        .collect::<Result<Vec<_>>>()?;
    let all: Vec<_> = network
        .nodes
        .iter()
        .map(|node| node.address.addr().into())
        .collect();
    fib.wait_for(range, &all, DEADLINE)?;
    let client = network.client()?;
    let mut lost = Figures::default();
    for round in 0..rounds {
        let lb_pod = round % 3;
        let others: Vec<_> = all
            .iter()
            .copied()
            .filter(|hop| *hop != all[lb_pod])
            .collect();
        let load = start_load(&client)?;
        announcers[lb_pod].process.kill()?;
        fib.wait_for(range, &others, DEADLINE)?;
        lost.add(lost_after_change(&load)?);
        let load = restart(load, &client)?;
        announcers[lb_pod] = announce(&network, lb_pod)?;
        fib.wait_for(range, &all, DEADLINE)?;
        lost.add(lost_after_change(&load)?);
        load.stop()?;
    }
    Ok(lost)
}

fn announce(network: &Reference, number: usize) -> Result<RunningSpeaker> {
    let (node, pod) = (&network.nodes[number], &network.lb_pods[number]);
    let mut speaker = reference::announcer(node, pod);
    speaker
        .announcements
        .retain(|announcement| announcement.next_hop.is_ipv4());
    Program::ExaBgp.start(&network.lab.host(&pod.name)?, &speaker)
}

fn least_connection(network: &Reference) -> String {
    let service = service(SERVICE);
    let mut entries = format!("-A -t {service} -s lc\n");
    for pod in &network.web_pods {
        let real_server = SocketAddr::new(pod.address.into(), service.port());
        let _ = writeln!(entries, "-a -t {service} -r {real_server} -i -w 1");
    }
    entries
}

fn start_load(client: &lab::Host) -> Result<PersistentConnections> {
    PersistentConnections::start(
        client,
        Load {
            server: service(SERVICE),
            connections: CONNECTIONS,
            interval: Duration::from_millis(50),
            patience: Duration::from_secs(5),
        },
    )
}

/// Stops the load and starts a new load, so that each change affects the same number of
/// connections.
fn restart(load: PersistentConnections, client: &lab::Host) -> Result<PersistentConnections> {
    load.stop()?;
    start_load(client)
}

/// Waits until every connection has been used after the change of the load balancers, and returns
/// the number of lost connections.
fn lost_after_change(load: &PersistentConnections) -> Result<f64> {
    load.wait_for_answers(3 * CONNECTIONS, DEADLINE)?;
    Ok(load.tally().lost() as f64)
}
