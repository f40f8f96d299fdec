//! Runs the tests of this repository, side by side where they can be.

mod args;
mod changed;
mod job;
mod run;
mod schedule;
mod suites;
mod summary;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser as _;

use crate::args::{Args, Selection};
use crate::job::Outcome;
use crate::run::{Setting, println};

fn main() -> ExitCode {
    match start(&Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("test-runner: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(args: &Args) -> Result<ExitCode> {
    let mut ancestors = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let root = ancestors.nth(2).context("this crate is two folders deep")?;
    match &args.selection {
        Selection::ChangedUnit { base } => changed::run_unit_tests(root, base.as_deref()),
        Selection::Check { base } => perform(root, args, suites::check(base.as_deref())?),
        Selection::List => {
            suites::all(&options(root, args))
                .iter()
                .for_each(|job| println(&job.to_string()));
            Ok(ExitCode::SUCCESS)
        }
        Selection::All => perform(root, args, suites::all(&options(root, args))),
        Selection::Jobs { names } => {
            let jobs = suites::with_needs(suites::all(&options(root, args)), names)?;
            perform(root, args, jobs)
        }
    }
}

fn options(root: &Path, args: &Args) -> suites::Options {
    let seed = args.seed();
    match args.complete {
        true => println("long matrices run with every case"),
        false => println(&format!(
            "long matrices run a sample: --seed {seed} repeats it"
        )),
    }
    suites::Options {
        root: root.to_owned(),
        filter: args.filter.clone().filter(|filter| !filter.is_empty()),
        complete: args.complete,
        seed,
    }
}

fn perform(root: &Path, args: &Args, jobs: Vec<job::Job>) -> Result<ExitCode> {
    let setting = Setting {
        root: root.to_owned(),
        live: args.live,
    };
    let runtime = tokio::runtime::Runtime::new().context("start the runtime")?;
    let report = runtime.block_on(run::run(&setting, jobs))?;
    let table = summary::table(&report.rows, report.took);
    let file = root.join("target/test-runner/table.md");
    std::fs::write(&file, &table).with_context(|| format!("write {}", file.display()))?;
    println(&format!("\n{table}"));
    let failed = report.rows.iter().any(|row| row.outcome != Outcome::Passed);
    // CI reads this line.
    let tests = summary::sum(&report.rows);
    println(&format!("{} passed, {} failed", tests.passed, tests.failed));
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
