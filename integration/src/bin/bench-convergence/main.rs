//! Ours beside the paper's parts (keepalived, exabgp, a GoBGP reflector) on one topology, in one
//! run, round by round in turn. Prints a Markdown table for `docs/reference/benchmarks.md`.
//!
//! `bench-convergence [ROUNDS [PART]]`: 10 rounds and all parts unless told.

mod announce;
mod connections;
mod flood;
mod kernel_rule;
mod large_tables;
mod rounds;
mod route;

use anyhow::{Context, Result, bail, ensure};
use integration::report::Report;
use lab::Environment;

type Measure = fn(usize, &mut Report) -> Result<()>;

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
            .with_context(|| format!("ROUNDS: {text:?} is no number"))?,
        None => 10,
    };
    ensure!(
        rounds > 0,
        "ROUNDS: 0 rounds measure nothing; give at least 1"
    );
    let chosen = arguments.next();
    let is_chosen = |name| chosen.as_deref().is_none_or(|chosen| chosen == name);
    if !PARTS.iter().any(|(name, _)| is_chosen(*name)) {
        let names = PARTS.map(|(name, _)| name).join(", ");
        bail!("PART: {chosen:?} is none of {names}");
    }
    let mut report = Report::default();
    for (name, measure) in PARTS.iter().filter(|(name, _)| is_chosen(*name)) {
        measure(rounds, &mut report).context(*name)?;
    }
    let environment = Environment::current()?;
    report.print(&format!(
        "{rounds} rounds on {environment}, both sides in turn."
    ));
    Ok(())
}
