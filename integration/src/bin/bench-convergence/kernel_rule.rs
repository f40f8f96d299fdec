//! The time from a new file until a real server is in the kernel's table, or is removed from the
//! table.
//!
//! portlb runs in lb-a and keepalived runs in lb-b, with the same real servers.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use ipnet::IpNet;
use lab::Host;
use lab::keepalived::{Keepalived, KeepalivedVirtualServer};
use lab::nodes::LabPod;
use lab::reference::{ReferenceOptions, SERVICE, SERVICE_RANGE};
use lab::system::{self, DaemonInstance, Desired, System};

use crate::announce::service;
use integration::memory;
use integration::report::{BenchmarkTable, Figures};

const DEADLINE: Duration = Duration::from_secs(20);
/// The time between two reads of the kernel's table. It is the resolution of the measured times.
const POLL_INTERVAL: Duration = Duration::from_micros(200);

pub(crate) fn measure(rounds: usize, report: &mut BenchmarkTable) -> Result<()> {
    let mut system = System::new("bench-kernel-rule", ReferenceOptions::default())?;
    let pods = system.network.web_pods.clone();
    let (changing, stay) = pods
        .split_last()
        .map(|(last, rest)| (last.clone(), rest.to_vec()))
        .expect("there are web pods");
    let (portlb, other) = (
        system.host(DaemonInstance::IpvsProgrammer(0))?,
        system.host(DaemonInstance::IpvsProgrammer(1))?,
    );

    system.write_desired(&desired(&stay, false))?;
    system.start(DaemonInstance::PodWatcher(0))?;
    system.start(DaemonInstance::IpvsProgrammer(0))?;
    let keepalived = Keepalived::start(&other, &[virtual_server(&stay)])?;
    for host in [&portlb, &other] {
        wait_for_rule(host, stay[0].address, true)?;
    }

    let mut figures: [Figures; 6] = Default::default();
    for _ in 0..rounds {
        for (checked, offset) in [(false, 0), (true, 2)] {
            // The change of the health check is not measured, so it is applied before the measured
            // changes.
            system.write_desired(&desired(&stay, checked))?;
            wait_for_rule(&portlb, changing.address, false)?;
            wait_for_checks(&system, checked)?;
            let more = desired(&pods, checked).text();
            let fewer = desired(&stay, checked).text();
            for (text, present) in [(more, true), (fewer, false)] {
                let began = Instant::now();
                system.write_desired_text(0, &text)?;
                let seen = wait_for_rule(&portlb, changing.address, present)?;
                figures[offset + usize::from(!present)].add_time(seen - began);
            }
        }
        let began = Instant::now();
        keepalived.reload(&[virtual_server(&pods)])?;
        figures[4].add_time(wait_for_rule(&other, changing.address, true)? - began);
        let began = Instant::now();
        keepalived.reload(&[virtual_server(&stay)])?;
        figures[5].add_time(wait_for_rule(&other, changing.address, false)? - began);
    }
    let [
        add,
        remove,
        checked_add,
        checked_remove,
        other_add,
        other_remove,
    ] = figures;
    const OTHER: &str = "keepalived";
    report.compare(
        "file written -> real server in the kernel",
        "ms",
        add,
        (OTHER, other_add.clone()),
    );
    report.compare(
        "file written -> real server in the kernel, after its first check",
        "ms",
        checked_add,
        (OTHER, other_add),
    );
    report.compare(
        "file written -> real server out of the kernel",
        "ms",
        remove,
        (OTHER, other_remove.clone()),
    );
    report.compare(
        "file written -> real server out of the kernel, servers are checked",
        "ms",
        checked_remove,
        (OTHER, other_remove),
    );
    let mut other_memory = Figures::default();
    other_memory.add(memory::resident_mebibytes(&[keepalived.process.pid()])?);
    report.single("resident memory of keepalived alone", "MiB", other_memory);
    Ok(())
}

/// Returns the desired set with the real servers `pods`. A real server that is removed does not
/// drain, because keepalived drains none.
fn desired(pods: &[LabPod], checked: bool) -> Desired {
    let real_servers = pods.iter().map(|pod| IpAddr::from(pod.address));
    let web = system::virtual_server(
        "web",
        [IpAddr::from(SERVICE)],
        [system::port(80)],
        real_servers,
    );
    let mut web = if checked { web } else { system::unchecked(web) };
    web.drain_timeout = Some(Duration::ZERO);
    if let Some(check) = web.health_check.as_mut().filter(|_| checked) {
        check.initial_jitter = Some(Duration::ZERO);
    }
    Desired::new([IpNet::from(SERVICE_RANGE)]).with(web)
}

fn virtual_server(pods: &[LabPod]) -> KeepalivedVirtualServer {
    KeepalivedVirtualServer {
        address: service(SERVICE),
        scheduler: "mh".to_owned(),
        real_servers: pods
            .iter()
            .map(|pod| SocketAddr::new(pod.address.into(), 80))
            .collect(),
        check_interval: Some(Duration::from_secs(1)),
    }
}

/// Waits until ipvs-programmer has applied the change of the health check. The kernel's table does
/// not show this change.
fn wait_for_checks(system: &System, checked: bool) -> Result<()> {
    lab::wait_for(
        "ipvs-programmer has applied the health check",
        DEADLINE,
        || {
            let virtual_servers = system
                .virtual_servers(0)
                .map_err(|error| format!("{error:#}"))?;
            let matches = virtual_servers.iter().all(|virtual_server| {
                virtual_server.serving
                    && virtual_server
                        .desired
                        .as_ref()
                        .is_some_and(|desired| desired.health_check.is_some() == checked)
            });
            lab::ensure_that(matches, format!("{virtual_servers:?}"))
        },
    )
}

/// Waits until the kernel's table has the real server with a weight above 0. If `present` is false,
/// waits until the table does not have the real server. Returns the time of the last read.
fn wait_for_rule(host: &Host, real_server: Ipv4Addr, present: bool) -> Result<Instant> {
    let line = format!("-> {:08X}:", real_server.to_bits());
    host.inside(|| {
        let deadline = Instant::now() + DEADLINE;
        loop {
            // Only this thread is in the host's namespace: /proc/self would show another namespace.
            let table = fs::read_to_string("/proc/thread-self/net/ip_vs")?;
            let weight = table.lines().find_map(|text| {
                text.trim_start().strip_prefix(&line)?.split_whitespace().nth(2)?.parse::<u32>().ok()
            });
            if weight.is_some_and(|weight| weight > 0) == present && (present || weight.is_none()) {
                return Ok(Instant::now());
            }
            if Instant::now() > deadline {
                bail!("timed out after {DEADLINE:?}, waiting for: presence of {real_server} in the table: {present}; last seen:\n{table}");
            }
            thread::sleep(POLL_INTERVAL);
        }
    })
}
