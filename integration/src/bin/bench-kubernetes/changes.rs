//! One endpoint changes; and a thousand, one after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use integration::report::{Figures, Report};
use ipvs_programmer::kernel::{IpvsTable as _, LinuxKernel};
use lab::Host;

use crate::heard::{Look, Reference, Served};
use crate::objects::{self, Scale, cluster_address, service_address};
use crate::sides::{BESIDE, Programmers, Sides, in_use};
use crate::world::{DEADLINE, World};

const ROLLED: u32 = 1000;
/// Between two looks at a whole table.
const LOOK: Duration = Duration::from_millis(100);

/// Of so many changes of one endpoint; it takes seconds for each in a large table.
pub(crate) fn their_share(changes: u32) -> u32 {
    changes.div_ceil(20)
}

/// From the moment at which the API server sent each change, as a plain watch hears it.
pub(crate) fn one_by_one(
    world: &World,
    sides: &Sides,
    scale: &Scale,
    changes: u32,
    report: &mut Report,
) -> Result<()> {
    let reference = Reference::start(world)?;
    let [mut heard, mut ours, mut theirs]: [Figures; 3] = Default::default();
    world.router.inside_async(async || {
        let client = world.client().await?;
        let programmers = sides.programmers.as_ref();
        programmers.map_or(Ok(()), Programmers::only_ours)?;
        for change in scale.changes(0, changes) {
            let entry = service_address(change.service);
            let look = programmers.map(|_| Look::start(&world.lb_pod, entry, change.address));
            objects::apply(&client, [change]).await?;
            let sent = reference.wait_for(change.address)?;
            add(&mut heard, sent, sides.discovery.wait_for(change.address)?);
            if let Some(look) = look {
                add(&mut ours, sent, look?.wait()?);
            }
        }
        let Some(programmers) = programmers else {
            return Ok(());
        };
        eprintln!("{changes} changes of one endpoint are in the kernel");
        programmers.only_theirs()?;
        // What it has slept through comes first, and is not measured.
        for (number, change) in scale.changes(changes, their_share(changes) + 1).enumerate() {
            let entry = cluster_address(change.service);
            let look = Look::start(&world.node, entry, change.address)?;
            objects::apply(&client, [change]).await?;
            let sent = reference.wait_for(change.address)?;
            let seen = look.wait()?;
            if number > 0 {
                add(&mut theirs, sent, seen);
            }
        }
        programmers.both()
    })?;
    for (quantile, name) in [(0.5, "p50"), (0.99, "p99")] {
        report.ours_alone(
            format!("{scale}: one endpoint sent -> Discovery event, {name}"),
            "ms",
            heard.quantile(quantile),
        );
        if sides.programmers.is_some() {
            report.compare(
                format!("{scale}: one endpoint sent -> in the kernel, {name}"),
                "ms",
                ours.quantile(quantile),
                (BESIDE, theirs.quantile(quantile)),
            );
        }
    }
    Ok(())
}

/// Many at once, as in a rolling update; then everybody has to agree with the API server.
pub(crate) fn rolling(
    world: &World,
    sides: &Sides,
    scale: &Scale,
    first: u32,
    report: &mut Report,
) -> Result<()> {
    let began = Instant::now();
    let (last, wanted) = world.router.inside_async(async || {
        let client = world.client().await?;
        objects::apply(&client, scale.changes(first, ROLLED)).await?;
        let last = Instant::now();
        anyhow::Ok((last, objects::endpoints(&client, scale).await?))
    })?;
    eprintln!("{ROLLED} endpoints have changed in {:?}", last - began);
    let what = format!("{scale}: {ROLLED} endpoints rolled, last one ->");
    // Each on its own thread: each has to be seen as soon as it is there.
    let (told, ours, theirs) = thread::scope(|scope| {
        let told = scope.spawn(|| wait_for_discovery(sides, &table(&wanted, service_address)));
        let tables = sides.programmers.as_ref().map(|_| {
            (
                scope.spawn(|| wait_for_kernel(&world.lb_pod, &table(&wanted, service_address))),
                scope.spawn(|| wait_for_kernel(&world.node, &table(&wanted, cluster_address))),
            )
        });
        let told = join(told)?;
        let (ours, theirs) = match tables {
            Some((ours, theirs)) => (Some(join(ours)?), Some(join(theirs)?)),
            None => (None, None),
        };
        anyhow::Ok((told, ours, theirs))
    })?;
    let since_last = |at: Instant| Figures::from(at.saturating_duration_since(last));
    report.ours_alone(
        format!("{what} Discovery has told all"),
        "ms",
        since_last(told),
    );
    if let Some((ours, theirs)) = ours.zip(theirs) {
        report.compare(
            format!("{what} the kernel has all and no other"),
            "ms",
            since_last(ours),
            (BESIDE, since_last(theirs)),
        );
    }
    Ok(())
}

fn join<T>(task: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    let ended = task.join();
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// By the addresses at which one side serves.
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
            bail!("not within {DEADLINE:?}: Discovery tells all; {differ} virtual servers differ");
        }
        thread::sleep(LOOK);
    }
}

/// Below zero where the reference heard of it later.
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
                    let virtual_server_addresses = match key {
                        virtual_server::EntryKey::Address { address, .. } => address.to_string(),
                        virtual_server::EntryKey::FirewallMark { .. } => return None,
                    };
                    let real_servers: BTreeSet<_> =
                        in_use(entry).map(|found| found.ip().to_string()).collect();
                    Some((virtual_server_addresses, real_servers))
                })
                .filter(|(address, _)| wanted.contains_key(address))
                .collect();
            let differ = differ(&found, wanted);
            if differ == 0 {
                return Ok(Instant::now());
            }
            if Instant::now() > deadline {
                bail!(
                    "not within {DEADLINE:?}: all in the kernel; {differ} virtual servers differ"
                );
            }
            thread::sleep(LOOK);
        }
    })
}
