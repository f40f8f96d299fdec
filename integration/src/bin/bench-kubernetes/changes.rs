//! Times from a change of one endpoint, or of a thousand endpoints, to the event of Discovery and
//! to the change in the kernel's table.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use integration::report::{BenchmarkTable, Figures};
use ipvs_programmer::kernel::{IpvsTable as _, LinuxKernel};
use lab::Host;

use crate::objects::{self, Scale, cluster_address, service_address};
use crate::observers::{EntryWatcher, PlainWatch, Served};
use crate::setup::{BenchSetup, DEADLINE};
use crate::sides::{OTHER, Programmers, Sides, in_use};

/// The number of endpoints that change in [`rolling`].
const ROLLED: u32 = 1000;
/// The time between two reads of the whole table of the kernel.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Returns the number of changes that are measured with kube-proxy if `changes` changes are
/// measured with portlb. kube-proxy needs seconds for each change of a large table, so its number
/// is lower.
pub(crate) fn changes_of_other(changes: u32) -> u32 {
    changes.div_ceil(20)
}

/// Measures, for each change of one endpoint, the times from the event of the API server to the
/// event of Discovery and to the change in the kernel's table. [`PlainWatch`] receives the event of
/// the API server.
pub(crate) fn one_by_one(
    setup: &BenchSetup,
    sides: &Sides,
    scale: &Scale,
    changes: u32,
    report: &mut BenchmarkTable,
) -> Result<()> {
    let reference = PlainWatch::start(setup)?;
    let [mut discovery, mut portlb, mut other]: [Figures; 3] = Default::default();
    setup.router.inside_async(async || {
        let client = setup.client().await?;
        let programmers = sides.programmers.as_ref();
        programmers.map_or(Ok(()), Programmers::only_portlb)?;
        for change in scale.changes(0, changes) {
            let entry = service_address(change.service);
            let watcher =
                programmers.map(|_| EntryWatcher::start(&setup.lb_pod, entry, change.address));
            objects::apply(&client, [change]).await?;
            let sent = reference.wait_for(change.address)?;
            add(
                &mut discovery,
                sent,
                sides.discovery.wait_for(change.address)?,
            );
            if let Some(watcher) = watcher {
                add(&mut portlb, sent, watcher?.wait()?);
            }
        }
        let Some(programmers) = programmers else {
            return Ok(());
        };
        eprintln!("the kernel has {changes} changes of one endpoint");
        programmers.only_other()?;
        // The first change of kube-proxy is not measured: kube-proxy was suspended while portlb was
        // measured, and has to apply the changes of that time first.
        for (number, change) in scale
            .changes(changes, changes_of_other(changes) + 1)
            .enumerate()
        {
            let entry = cluster_address(change.service);
            let watcher = EntryWatcher::start(&setup.node, entry, change.address)?;
            objects::apply(&client, [change]).await?;
            let sent = reference.wait_for(change.address)?;
            let seen = watcher.wait()?;
            if number > 0 {
                add(&mut other, sent, seen);
            }
        }
        programmers.both()
    })?;
    for (quantile, name) in [(0.5, "p50"), (0.99, "p99")] {
        report.single(
            format!("{scale}: one endpoint sent -> Discovery event, {name}"),
            "ms",
            discovery.quantile(quantile),
        );
        if sides.programmers.is_some() {
            report.compare(
                format!("{scale}: one endpoint sent -> in the kernel, {name}"),
                "ms",
                portlb.quantile(quantile),
                (OTHER, other.quantile(quantile)),
            );
        }
    }
    Ok(())
}

/// Changes many endpoints, as in a rolling update. Measures the time from the last change until
/// Discovery and the kernel's tables have the state of the API server.
pub(crate) fn rolling(
    setup: &BenchSetup,
    sides: &Sides,
    scale: &Scale,
    first: u32,
    report: &mut BenchmarkTable,
) -> Result<()> {
    let began = Instant::now();
    let (last, wanted) = setup.router.inside_async(async || {
        let client = setup.client().await?;
        objects::apply(&client, scale.changes(first, ROLLED)).await?;
        let last = Instant::now();
        anyhow::Ok((last, objects::endpoints(&client, scale).await?))
    })?;
    eprintln!("changed {ROLLED} endpoints in {:?}", last - began);
    let what = format!("{scale}: {ROLLED} endpoints rolled, last one ->");
    // A separate thread polls each table, so that the polls of one table do not delay the polls of
    // another one.
    let (discovery, portlb, other) = thread::scope(|scope| {
        let discovery = scope.spawn(|| wait_for_discovery(sides, &table(&wanted, service_address)));
        let tables = sides.programmers.as_ref().map(|_| {
            (
                scope.spawn(|| wait_for_kernel(&setup.lb_pod, &table(&wanted, service_address))),
                scope.spawn(|| wait_for_kernel(&setup.node, &table(&wanted, cluster_address))),
            )
        });
        let discovery = join(discovery)?;
        let (portlb, other) = match tables {
            Some((portlb, other)) => (Some(join(portlb)?), Some(join(other)?)),
            None => (None, None),
        };
        anyhow::Ok((discovery, portlb, other))
    })?;
    let since_last = |at: Instant| Figures::from(at.saturating_duration_since(last));
    report.single(
        format!("{what} Discovery has sent all"),
        "ms",
        since_last(discovery),
    );
    if let Some((portlb, other)) = portlb.zip(other) {
        report.compare(
            format!("{what} the kernel has all and nothing else"),
            "ms",
            since_last(portlb),
            (OTHER, since_last(other)),
        );
    }
    Ok(())
}

fn join<T>(task: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    let ended = task.join();
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Returns the expected table: for the address of each virtual server, its endpoints. `address`
/// returns the address of a Service in the table of portlb or of kube-proxy.
fn table(wanted: &BTreeMap<u32, BTreeSet<String>>, address: fn(u32) -> SocketAddr) -> Served {
    let named = wanted
        .iter()
        .map(|(service, endpoints)| (address(*service).ip().to_string(), endpoints.clone()));
    named.collect()
}

fn wait_for_discovery(sides: &Sides, wanted: &Served) -> Result<Instant> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let differ = differ(&sides.discovery.served(), wanted);
        if differ == 0 {
            return Ok(Instant::now());
        }
        if Instant::now() > deadline {
            bail!(
                "timed out after {DEADLINE:?}, waiting for: Discovery has sent all; {differ} virtual servers differ"
            );
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// Adds the time from `sent` to `seen`, in milliseconds. The time is negative if the change was
/// seen before the plain watch received its event.
fn add(figures: &mut Figures, sent: Instant, seen: Instant) {
    let after = seen.saturating_duration_since(sent).as_secs_f64();
    let before = sent.saturating_duration_since(seen).as_secs_f64();
    figures.add((after - before) * 1000.0);
}

fn differ(found: &Served, wanted: &Served) -> usize {
    wanted
        .iter()
        .filter(|(address, endpoints)| found.get(*address) != Some(endpoints))
        .count()
}

fn wait_for_kernel(host: &Host, wanted: &Served) -> Result<Instant> {
    host.inside(|| {
        let mut kernel = LinuxKernel::open()?;
        let deadline = Instant::now() + DEADLINE;
        loop {
            let table = kernel.read_table()?;
            let found: Served = table
                .entries
                .iter()
                .filter_map(|(key, entry)| {
                    let service_address = match key {
                        virtual_server::EntryKey::Address { address, .. } => address.to_string(),
                        virtual_server::EntryKey::FirewallMark { .. } => return None,
                    };
                    let real_servers: BTreeSet<_> =
                        in_use(entry).map(|found| found.ip().to_string()).collect();
                    Some((service_address, real_servers))
                })
                .filter(|(address, _)| wanted.contains_key(address))
                .collect();
            let differ = differ(&found, wanted);
            if differ == 0 {
                return Ok(Instant::now());
            }
            if Instant::now() > deadline {
                bail!(
                    "timed out after {DEADLINE:?}, waiting for: the kernel has all; {differ} virtual servers differ"
                );
            }
            thread::sleep(POLL_INTERVAL);
        }
    })
}
