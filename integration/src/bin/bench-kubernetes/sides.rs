//! The processes of portlb and of kube-proxy, and the measurement of their start.

use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use integration::memory;
use integration::report::BenchmarkTable;
use ipvs_programmer::kernel::{IpvsTable as _, LinuxKernel};
use lab::{Host, Process, Signal};
use virtual_server::{EntryKey, Protocol, TableEntry};

use crate::objects::Scale;
use crate::observers::Discovery;
use crate::setup::{BenchSetup, DEADLINE};

/// The time between two reads of the kernel's whole table. It is the resolution of the measured
/// times.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// The name of kube-proxy in the table of the benchmark.
pub(crate) const OTHER: &str = "kube-proxy";

/// The processes of portlb and of kube-proxy, and a client of Discovery.
#[derive(Debug)]
pub(crate) struct Sides {
    pub(crate) discovery: Discovery,
    /// The processes that program the kernel; `None` if the kernel has no IPVS.
    pub(crate) programmers: Option<Programmers>,
}

/// The processes that program the kernel's IPVS tables.
#[derive(Debug)]
pub(crate) struct Programmers {
    /// The processes of pod-watcher and ipvs-programmer.
    portlb: [Process; 2],
    /// The process of kube-proxy.
    other: Process,
}

impl Sides {
    /// Starts the processes one after the other, and adds the times of the starts and the memory of
    /// pod-watcher, of portlb and of kube-proxy to the report.
    pub(crate) fn start(
        setup: &BenchSetup,
        scale: &Scale,
        report: &mut BenchmarkTable,
    ) -> Result<Self> {
        let began = Instant::now();
        let pod_watcher = setup.start_pod_watcher()?;
        let discovery = Discovery::start(&setup.lb_pod)?;
        let synced = discovery.wait_until_synced(DEADLINE)? - began;
        report.single(
            format!("{scale}: pod-watcher started -> synced"),
            "ms",
            synced.into(),
        );
        report.single(
            format!("{scale}: resident memory of pod-watcher"),
            "MiB",
            memory::resident_mebibytes(&[pod_watcher.pid()])?.into(),
        );
        let programmers = if Path::new("/proc/self/net/ip_vs").exists() {
            Some(Programmers::start(
                setup,
                scale,
                report,
                began,
                pod_watcher,
            )?)
        } else {
            None
        };
        Ok(Self {
            discovery,
            programmers,
        })
    }
}

impl Programmers {
    fn start(
        setup: &BenchSetup,
        scale: &Scale,
        report: &mut BenchmarkTable,
        began: Instant,
        pod_watcher: Process,
    ) -> Result<Self> {
        let programmer = setup.start_ipvs_programmer()?;
        let portlb = wait_for_table(&setup.lb_pod, scale)? - began;
        let began = Instant::now();
        let other = setup.start_kube_proxy()?;
        let other_time = wait_for_table(&setup.node, scale)? - began;
        report.compare(
            format!("{scale}: started -> all in the kernel"),
            "ms",
            portlb.into(),
            (OTHER, other_time.into()),
        );
        let memory = memory::resident_mebibytes(&[pod_watcher.pid(), programmer.pid()])?;
        let other_memory = memory::resident_mebibytes(&[other.pid()])?;
        report.compare(
            format!("{scale}: resident memory"),
            "MiB",
            memory.into(),
            (OTHER, other_memory.into()),
        );
        Ok(Self {
            portlb: [pod_watcher, programmer],
            other,
        })
    }

    /// Suspends kube-proxy, so that only portlb uses the processors.
    pub(crate) fn only_portlb(&self) -> Result<()> {
        self.other.signal(Signal::SIGSTOP)?;
        self.signal_portlb(Signal::SIGCONT)
    }

    /// Suspends portlb, so that only kube-proxy uses the processors.
    pub(crate) fn only_other(&self) -> Result<()> {
        self.signal_portlb(Signal::SIGSTOP)?;
        self.other.signal(Signal::SIGCONT)
    }

    /// Resumes portlb and kube-proxy.
    pub(crate) fn both(&self) -> Result<()> {
        self.other.signal(Signal::SIGCONT)?;
        self.signal_portlb(Signal::SIGCONT)
    }

    fn signal_portlb(&self, signal: Signal) -> Result<()> {
        let mut portlb = self.portlb.iter();
        portlb.try_for_each(|process| process.signal(signal))
    }
}

/// Returns the key of a TCP virtual server in the kernel's table.
pub(crate) fn key(address: SocketAddr) -> EntryKey {
    EntryKey::Address {
        protocol: Protocol::Tcp,
        address: address.ip(),
        port: address.port(),
    }
}

/// Returns the real servers of an entry with a weight above 0. Only these real servers get new
/// connections.
pub(crate) fn in_use(entry: &TableEntry) -> impl Iterator<Item = SocketAddr> {
    let used = |(address, real_server): (&SocketAddr, &virtual_server::RealServerEntry)| {
        (real_server.weight > 0).then_some(*address)
    };
    entry.real_servers.iter().filter_map(used)
}

fn wait_for_table(host: &Host, scale: &Scale) -> Result<Instant> {
    let endpoints = scale.endpoints_of_a_service();
    host.inside(|| {
        let deadline = Instant::now() + DEADLINE;
        let mut kernel = LinuxKernel::open()?;
        loop {
            let table = kernel.read_table()?;
            let complete = table
                .entries
                .values()
                .filter(|entry| entry.real_servers.len() == endpoints)
                .count();
            if complete >= scale.services as usize {
                return Ok(Instant::now());
            }
            if Instant::now() > deadline {
                bail!("timed out after {DEADLINE:?}, waiting for: the kernel has all of {scale}; last seen: {complete} virtual servers");
            }
            thread::sleep(POLL_INTERVAL);
        }
    })
}
