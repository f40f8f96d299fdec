//! test-runner, which runs the tests of this repository.

mod args;
mod changed;
mod job;
mod output;
mod run;
mod schedule;
mod suites;
mod summary;

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser as _;

use crate::args::{Args, Selection};
use crate::output::print_line;
use crate::suites::RunOptions;

fn main() -> ExitCode {
    let args = Args::parse();
    match start(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("test-runner: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the command of the command line. Reports whether all jobs have passed.
fn start(args: &Args) -> Result<bool> {
    // The working directory must be the root of the repository. The folder in which the runner was
    // compiled is not used, because it can belong to another checkout.
    let root = std::env::current_dir().context("cannot read the working directory")?;
    let is_root = root.join("integration/test-runner").is_dir();
    ensure!(
        is_root,
        "{} is not the root of the repository",
        root.display()
    );
    let jobs = match &args.selection {
        Selection::ChangedUnit { base } => return changed::run_unit_tests(&root, base.as_deref()),
        Selection::Check { base } => suites::check(base.as_deref())?,
        Selection::All => suites::all(&options(&root, args)),
        Selection::Jobs { names } => suites::with_needs(suites::all(&options(&root, args)), names)?,
        Selection::List => {
            let jobs = suites::all(&options(&root, args));
            jobs.iter().for_each(|job| print_line(&job.to_string()));
            return Ok(true);
        }
    };
    run::run_and_report(root, args.live, jobs)
}

fn options(root: &std::path::Path, args: &Args) -> RunOptions {
    let filter = args.filter.clone().filter(|filter| !filter.is_empty());
    // A filter selects few tests, so these tests run with all their cases.
    let sample = match args.complete || filter.is_some() {
        true => None,
        false => Some(args.seed()),
    };
    match sample {
        Some(seed) => print_line(&format!(
            "long test matrices run a sample of their cases; repeat this sample with --seed {seed}"
        )),
        None => print_line("long test matrices run all cases"),
    }
    RunOptions {
        root: root.to_owned(),
        filter,
        complete: args.complete,
        sample,
    }
}
