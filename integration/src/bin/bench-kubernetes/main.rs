//! A benchmark that compares portlb with kube-proxy in IPVS mode.
//!
//! In one run, portlb and kube-proxy use one kernel and one API server with etcd. If the kernel has
//! no IPVS, only pod-watcher is measured. The benchmark prints a Markdown table for
//! `docs/reference/benchmarks.md`.
//!
//! Usage: `bench-kubernetes [SCALE [CHANGES]]`. SCALE is the number of Services, of slices of each
//! Service and of endpoints of each slice, by default 5000x1x10. CHANGES is the number of changes
//! of one endpoint that are measured with portlb, by default 200.

mod changes;
mod objects;
mod observers;
mod setup;
mod sides;

use anyhow::{Context, Result, ensure};
use integration::report::BenchmarkTable;

use objects::Scale;
use setup::BenchSetup;
use sides::Sides;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let scale = arguments.next().map(|text| text.parse::<Scale>());
    let scale = scale
        .transpose()
        .context("SCALE is invalid")?
        .unwrap_or(Scale::new(5000, 1, 10));
    let changes = match arguments.next() {
        Some(text) => text
            .parse()
            .with_context(|| format!("CHANGES is {text:?}, not a number"))?,
        None => 200_u32,
    };
    ensure!(changes > 0, "CHANGES is 0; it must be at least 1");
    let mut report = BenchmarkTable::default();
    measure(&scale, changes, &mut report).with_context(|| scale.to_string())?;
    let environment = lab::Environment::current()?;
    report.print(&format!(
        "{changes} changes of one endpoint with portlb, {} with kube-proxy (only with IPVS), on {environment}.",
        changes::changes_of_other(changes)
    ));
    Ok(())
}

fn measure(scale: &Scale, changes: u32, report: &mut BenchmarkTable) -> Result<()> {
    let setup = BenchSetup::start(scale)?;
    let sides = Sides::start(&setup, scale, report)?;
    changes::one_by_one(&setup, &sides, scale, changes, report)?;
    // The changes of `rolling` have larger numbers than the changes of `one_by_one`. The number of
    // a change decides the new address of the endpoint, so each address is used once.
    changes::rolling(&setup, &sides, scale, 2 * changes + 1, report)
}
