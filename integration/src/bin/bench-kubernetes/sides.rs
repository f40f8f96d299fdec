//! Both sides: their processes, and from their start to a table that is complete.

use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use integration::memory;
use integration::report::Report;
use ipvs_programmer::kernel::{IpvsTable as _, LinuxKernel};
use lab::{Host, Process, Signal};
use virtual_server::{Entry, EntryKey, Protocol};

use crate::heard::Discovery;
use crate::objects::Scale;
use crate::world::{DEADLINE, World};

/// Between two looks at a whole table: the resolution of these figures.
const LOOK: Duration = Duration::from_millis(100);
pub(crate) const BESIDE: &str = "kube-proxy";

/// What runs, and what a client of Discovery hears.
#[derive(Debug)]
pub(crate) struct Sides {
    pub(crate) discovery: Discovery,
    /// Nothing where the kernel has no IPVS.
    pub(crate) programmers: Option<Programmers>,
}

/// Those that have a say in the kernel.
#[derive(Debug)]
pub(crate) struct Programmers {
    ours: [Process; 2],
    theirs: Process,
}

impl Sides {
    /// Starts one after the other.
    pub(crate) fn start(world: &World, scale: &Scale, report: &mut Report) -> Result<Self> {
        let began = Instant::now();
        let pod_watcher = world.start_pod_watcher()?;
        let discovery = Discovery::start(&world.lb_pod)?;
        let synced = discovery.wait_until_synced(DEADLINE)? - began;
        report.ours_alone(
            format!("{scale}: pod-watcher started -> synced"),
            "ms",
            synced.into(),
        );
        report.ours_alone(
            format!("{scale}: resident memory of pod-watcher"),
            "MiB",
            memory::resident_mebibytes(&[pod_watcher.pid()])?.into(),
        );
        let programmers = if Path::new("/proc/self/net/ip_vs").exists() {
            Some(Programmers::start(
                world,
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
        world: &World,
        scale: &Scale,
        report: &mut Report,
        began: Instant,
        pod_watcher: Process,
    ) -> Result<Self> {
        let programmer = world.start_ipvs_programmer()?;
        let ours = wait_for_table(&world.lb_pod, scale)? - began;
        let began = Instant::now();
        let theirs = world.start_kube_proxy()?;
        let their_time = wait_for_table(&world.node, scale)? - began;
        report.compare(
            format!("{scale}: started -> all in the kernel"),
            "ms",
            ours.into(),
            (BESIDE, their_time.into()),
        );
        let memory = memory::resident_mebibytes(&[pod_watcher.pid(), programmer.pid()])?;
        let their_memory = memory::resident_mebibytes(&[theirs.pid()])?;
        report.compare(
            format!("{scale}: resident memory"),
            "MiB",
            memory.into(),
            (BESIDE, their_memory.into()),
        );
        Ok(Self {
            ours: [pod_watcher, programmer],
            theirs,
        })
    }

    /// Lets ours run alone, so that the other takes nothing of the processors.
    pub(crate) fn only_ours(&self) -> Result<()> {
        self.theirs.signal(Signal::SIGSTOP)?;
        self.signal_ours(Signal::SIGCONT)
    }

    /// Lets the other run alone.
    pub(crate) fn only_theirs(&self) -> Result<()> {
        self.signal_ours(Signal::SIGSTOP)?;
        self.theirs.signal(Signal::SIGCONT)
    }

    /// Lets both run.
    pub(crate) fn both(&self) -> Result<()> {
        self.theirs.signal(Signal::SIGCONT)?;
        self.signal_ours(Signal::SIGCONT)
    }

    fn signal_ours(&self, signal: Signal) -> Result<()> {
        let mut ours = self.ours.iter();
        ours.try_for_each(|process| process.signal(signal))
    }
}

/// A port's entry in the kernel's table.
pub(crate) fn key(address: SocketAddr) -> EntryKey {
    EntryKey::Address {
        protocol: Protocol::Tcp,
        address: address.ip(),
        port: address.port(),
    }
}

/// The real servers that get new connections.
pub(crate) fn in_use(entry: &Entry) -> impl Iterator<Item = SocketAddr> {
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
                bail!("not within {DEADLINE:?}: {}; last seen: {complete}", scale);
            }
            thread::sleep(LOOK);
        }
    })
}
