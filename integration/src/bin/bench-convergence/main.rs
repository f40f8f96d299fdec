//! Ours beside the paper's parts (keepalived, exabgp, a GoBGP reflector) on one topology, in one
//! run, round by round in turn. Prints a Markdown table for `docs/benchmarks.md`.
//!
//! `bench-convergence [ROUNDS]`, 10 unless told.

mod announce;
mod connections;
mod kernel_rule;
mod memory;
mod report;

use anyhow::{Context, Result, ensure};

use report::Report;

fn main() -> Result<()> {
    let rounds = match std::env::args().nth(1) {
        Some(text) => text
            .parse()
            .with_context(|| format!("ROUNDS: {text:?} is no number"))?,
        None => 10,
    };
    ensure!(
        rounds > 0,
        "ROUNDS: 0 rounds measure nothing; give at least 1"
    );
    let mut report = Report::default();
    announce::measure(rounds, &mut report).context("announce")?;
    kernel_rule::measure(rounds, &mut report).context("kernel rule")?;
    connections::measure(rounds, &mut report).context("connections")?;
    report.print();
    Ok(())
}
