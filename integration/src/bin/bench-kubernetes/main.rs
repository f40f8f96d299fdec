//! pod-watcher and, where the kernel has IPVS, ipvs-programmer beside kube-proxy in IPVS mode, on one
//! API server with etcd, in one run and on one kernel. Prints a Markdown table for `docs/reference/benchmarks.md`.
//!
//! `bench-kubernetes [SCALE [CHANGES]]`: 5000 Services with one slice of 10 endpoints (5000x1x10)
//! unless told, for instance 1x100x100, one with 100 slices of 100; 200 changes unless told.

mod changes;
mod heard;
mod objects;
mod sides;
mod world;

use anyhow::{Context, Result, ensure};
use integration::report::Report;

use objects::Scale;
use sides::Sides;
use world::World;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let scale = arguments.next().map(|text| text.parse::<Scale>());
    let scale = scale
        .transpose()
        .context("SCALE")?
        .unwrap_or(Scale::new(5000, 1, 10));
    let changes = match arguments.next() {
        Some(text) => text
            .parse()
            .with_context(|| format!("CHANGES: {text:?} is no number"))?,
        None => 200_u32,
    };
    ensure!(
        changes > 0,
        "CHANGES: 0 changes measure nothing; give at least 1"
    );
    let mut report = Report::default();
    measure(&scale, changes, &mut report).with_context(|| scale.to_string())?;
    let environment = lab::Environment::current()?;
    report.print(&format!(
        "{changes} changes of one endpoint on {environment}; for the other side, if any, {}.",
        changes::their_share(changes)
    ));
    Ok(())
}

fn measure(scale: &Scale, changes: u32, report: &mut Report) -> Result<()> {
    let world = World::up(scale)?;
    let sides = Sides::start(&world, scale, report)?;
    changes::one_by_one(&world, &sides, scale, changes, report)?;
    // Both sides have had their changes, and one more.
    changes::rolling(&world, &sides, scale, 2 * changes + 1, report)
}
