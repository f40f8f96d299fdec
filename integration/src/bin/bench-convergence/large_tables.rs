//! The time from a new file until a real server is in the kernel's table, or is removed from the
//! table, for several table sizes.
//!
//! portlb runs in lb-a and keepalived in lb-b. The real servers do not exist, so neither portlb nor
//! keepalived checks them.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ipvs_programmer::kernel::{IpvsTable as _, LinuxKernel};
use lab::Host;
use lab::keepalived::{self, Keepalived};
use lab::reference::{ReferenceOptions, SERVICE_RANGE};
use lab::system::{DaemonInstance, System};
use virtual_server::{EntryKey, Protocol, TableEntry};

use integration::memory;
use integration::report::{BenchmarkTable, Figures};

/// The longest time until the kernel's table has a change. A change of the largest table takes
/// seconds.
const DEADLINE: Duration = Duration::from_secs(120);
/// The time between two reads of the changing entry in the kernel. It is the resolution of the
/// measured times.
const POLL_INTERVAL: Duration = Duration::from_micros(200);
/// The pause after each change, in which portlb and keepalived finish the work of the change.
const PAUSE: Duration = Duration::from_millis(500);

/// The sizes of the measured tables: numbers of virtual servers, with [`REAL_SERVERS`] real servers
/// each.
const SIZES: [u32; 4] = [1, 100, 500, 5000];
const REAL_SERVERS: u32 = 10;

/// The key of the first virtual server. Only this virtual server changes.
const CHANGING: EntryKey = EntryKey::Address {
    protocol: Protocol::Tcp,
    address: IpAddr::V4(service(0).0),
    port: service(0).1,
};

pub(crate) fn measure(rounds: usize, report: &mut BenchmarkTable) -> Result<()> {
    let options = ReferenceOptions {
        web_pods: 0,
        ..ReferenceOptions::default()
    };
    let mut system = System::new("bench-large-tables", options)?;
    let portlb = system.host(DaemonInstance::IpvsProgrammer(0))?;
    let other = system.host(DaemonInstance::IpvsProgrammer(1))?;
    system.write_desired_text(0, &portlb_file(0, 0))?;
    system.start(DaemonInstance::PodWatcher(0))?;
    system.start(DaemonInstance::IpvsProgrammer(0))?;
    let keepalived = Keepalived::start(&other, &[])?;
    for size in SIZES {
        let (fewer, more) = (portlb_file(size, 0), portlb_file(size, 1));
        let (keepalived_fewer, keepalived_more) =
            (keepalived_file(size, 0), keepalived_file(size, 1));
        let change_portlb = |text: &str, count| {
            let watcher = EntryWatcher::start(&portlb, count)?;
            let began = Instant::now();
            system.write_desired_text(0, text)?;
            watcher.time_since(began)
        };
        let change_keepalived = |text: &str, count| {
            let watcher = EntryWatcher::start(&other, count)?;
            let began = Instant::now();
            keepalived.reload_text(text)?;
            watcher.time_since(began)
        };
        change_portlb(&fewer, REAL_SERVERS)?;
        change_keepalived(&keepalived_fewer, REAL_SERVERS)?;
        wait_for_size(&portlb, size)?;
        wait_for_size(&other, size)?;
        let mut figures: [Figures; 4] = Default::default();
        for _ in 0..rounds {
            figures[0].add_time(change_portlb(&more, REAL_SERVERS + 1)?);
            figures[1].add_time(change_portlb(&fewer, REAL_SERVERS)?);
            figures[2].add_time(change_keepalived(&keepalived_more, REAL_SERVERS + 1)?);
            figures[3].add_time(change_keepalived(&keepalived_fewer, REAL_SERVERS)?);
        }
        let [add, remove, other_add, other_remove] = figures;
        for (change, portlb, other) in [("in", add, other_add), ("out of", remove, other_remove)] {
            report.compare(
                format!("file written -> real server {change} the kernel, {size} x {REAL_SERVERS}"),
                "ms",
                portlb,
                ("keepalived", other),
            );
        }
        report.compare(
            format!("resident memory, {size} x {REAL_SERVERS}"),
            "MiB",
            memory_of(&[
                system.process(DaemonInstance::PodWatcher(0))?.pid(),
                system.process(DaemonInstance::IpvsProgrammer(0))?.pid(),
            ])?,
            ("keepalived", memory_of(&[keepalived.process.pid()])?),
        );
    }
    Ok(())
}

fn memory_of(pids: &[u32]) -> Result<Figures> {
    let mut figures = Figures::default();
    figures.add(memory::resident_mebibytes(pids)?);
    Ok(figures)
}

/// A thread that reads the entry of [`CHANGING`] until the entry has a given number of real
/// servers.
struct EntryWatcher(mpsc::Receiver<Result<Instant>>);

impl EntryWatcher {
    /// Starts the thread. Returns when the thread is about to read the entry for the first time.
    fn start(host: &Host, count: u32) -> Result<Self> {
        let (started, start) = mpsc::channel();
        let (sender, seen) = mpsc::channel();
        host.spawn_inside(move || {
            // Errors are ignored: a send fails only if the measurement has already failed.
            let result = LinuxKernel::open().map_err(anyhow::Error::from);
            let _ = started.send(());
            let _ = sender.send(result.and_then(|mut kernel| until(&mut kernel, count)));
        })?;
        start.recv().context("cannot start the watching thread")?;
        Ok(Self(seen))
    }

    fn time_since(self, began: Instant) -> Result<Duration> {
        let seen = self
            .0
            .recv()
            .context("the watching thread has panicked")??;
        thread::sleep(PAUSE);
        Ok(seen - began)
    }
}

fn until(kernel: &mut LinuxKernel, count: u32) -> Result<Instant> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let entry = kernel.read_entry(CHANGING)?;
        let found = entry.map_or(0, |entry| entry.real_servers.len());
        if found == count as usize {
            return Ok(Instant::now());
        }
        if Instant::now() > deadline {
            bail!(
                "timed out after {DEADLINE:?}, waiting for: {count} real servers; last seen: {found}"
            );
        }
        thread::sleep(POLL_INTERVAL);
    }
}

fn wait_for_size(host: &Host, size: u32) -> Result<()> {
    lab::wait_for(
        "all virtual servers are in the kernel's table",
        DEADLINE,
        || {
            let found = host.inside(|| Ok(LinuxKernel::open()?.read_table()?));
            let found = found.map_err(|error| format!("{error:#}"))?;
            let is_whole = |entry: &&TableEntry| entry.real_servers.len() == REAL_SERVERS as usize;
            let found = found.entries.values().filter(is_whole).count();
            lab::ensure_that(found == size as usize, format!("{found} of {size}"))
        },
    )
}

/// Returns the address and the port of a virtual server.
const fn service(number: u32) -> (Ipv4Addr, u16) {
    let first = Ipv4Addr::new(10, 1, 1, 1).to_bits();
    (
        Ipv4Addr::from_bits(first + number % 250),
        8000 + (number / 250) as u16,
    )
}

fn real_servers(virtual_server: u32, more: u32) -> impl Iterator<Item = Ipv4Addr> {
    let first = Ipv4Addr::new(10, 200, 0, 1).to_bits();
    // Only the first virtual server has the additional real servers.
    let more = if virtual_server == 0 { more } else { 0 };
    (0..REAL_SERVERS + more)
        .map(move |number| Ipv4Addr::from_bits(first + virtual_server * 16 + number))
}

/// Returns the text of a file for pod-watcher. Its lists of virtual servers and real servers are in
/// YAML's block style, which most users write. A real server that is removed does not drain,
/// because keepalived drains none.
fn portlb_file(size: u32, more: u32) -> String {
    let mut text = format!(
        "apiVersion: portlb.io/v1\nkind: VirtualServers\nserviceRanges: [{SERVICE_RANGE}]\n"
    );
    if size == 0 {
        text.push_str("virtualServers: []\n");
        return text;
    }
    text.push_str("virtualServers:\n");
    for number in 0..size {
        let (address, port) = service(number);
        let _ = writeln!(
            text,
            "- name: web-{number}\n  addresses: [{address}]\n  ports: [{port}]\n  \
             healthCheck: {{kind: none}}\n  drainTimeout: 0s\n  realServers:"
        );
        for real_server in real_servers(number, more) {
            let _ = writeln!(text, "  - address: {real_server}\n    weight: 1");
        }
    }
    text
}

fn keepalived_file(size: u32, more: u32) -> String {
    let virtual_servers = (0..size).map(|number| {
        let (address, port) = service(number);
        keepalived::KeepalivedVirtualServer {
            address: SocketAddr::new(address.into(), port),
            scheduler: "mh".to_owned(),
            real_servers: real_servers(number, more)
                .map(|address| SocketAddr::new(address.into(), port))
                .collect(),
            check_interval: None,
        }
    });
    keepalived::config(&virtual_servers.collect::<Vec<_>>())
}
