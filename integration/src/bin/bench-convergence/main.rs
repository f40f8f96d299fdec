//! A benchmark that compares portlb with the programs of the paper's load balancer.
//!
//! The load balancer of the paper (docs/decisions/0001-contracts-before-code.md) consists of
//! keepalived, exabgp and a GoBGP reflector. Most parts measure portlb and the other program in
//! turn in each round, on one topology. The benchmark prints a Markdown table for
//! `docs/reference/benchmarks.md`.
//!
//! Usage: `bench-convergence [ROUNDS [PART]]`. By default all parts run, with 10 rounds each.

mod announce;
mod connections;
mod flood;
mod kernel_rule;
mod large_tables;
mod rounds;
mod route;

use anyhow::{Context, Result, bail, ensure};
use integration::report::BenchmarkTable;
use lab::Environment;

type Measure = fn(usize, &mut BenchmarkTable) -> Result<()>;

const PARTS: [(&str, Measure); 6] = [
    ("route", route::measure),
    ("announce", announce::measure),
    ("kernel-rule", kernel_rule::measure),
    ("large-tables", large_tables::measure),
    ("connections", connections::measure),
    ("flood", flood::measure),
];

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let rounds = match arguments.next() {
        Some(text) => text
            .parse()
            .with_context(|| format!("ROUNDS is {text:?}, not a number"))?,
        None => 10,
    };
    ensure!(rounds > 0, "ROUNDS is 0; it must be at least 1");
    let chosen = arguments.next();
    let is_chosen = |name| chosen.as_deref().is_none_or(|chosen| chosen == name);
    if !PARTS.iter().any(|(name, _)| is_chosen(*name)) {
        let names = PARTS.map(|(name, _)| name).join(", ");
        bail!(
            "PART is {:?}; use one of: {names}",
            chosen.unwrap_or_default()
        );
    }
    let mut report = BenchmarkTable::default();
    for (name, measure) in PARTS.iter().filter(|(name, _)| is_chosen(*name)) {
        measure(rounds, &mut report).context(*name)?;
    }
    let environment = Environment::current()?;
    report.print(&format!(
        "{rounds} rounds on {environment}, portlb and the other program in turn."
    ));
    Ok(())
}
