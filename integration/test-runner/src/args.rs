//! What the caller may type.

use clap::{Parser, Subcommand};

/// Runs the tests of this repository, side by side where they can be, and prints a table of phases.
///
/// Output of each job goes to target/test-runner/JOB.log; of a failed job the end is shown.
#[derive(Debug, Parser)]
#[command(name = "test-runner")]
pub(crate) struct Args {
    /// Show what each job prints, at once and behind the job's name.
    #[arg(long, global = true)]
    pub(crate) live: bool,
    /// Only tests whose names contain this text; an empty text means all tests.
    #[arg(long, global = true, value_name = "TEXT")]
    pub(crate) filter: Option<String>,
    /// Every case of the long matrices, in place of a sample.
    #[arg(long, global = true)]
    pub(crate) complete: bool,
    /// Selects the sample of the long matrices; by default each run has another one and prints it.
    #[arg(long, global = true, value_name = "NUMBER")]
    seed: Option<u64>,
    #[command(subcommand)]
    pub(crate) selection: Selection,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Selection {
    /// Every job: what CI runs.
    All,
    /// Format, lints and the unit tests of changed crates and of those that depend on them.
    Check {
        /// Commit since which files count as changed; by default the branch's upstream, or the
        /// commit before the last.
        #[arg(long)]
        base: Option<String>,
    },
    /// The jobs named, and the jobs that they need. A name that ends in `-` means every job that
    /// begins with it.
    Jobs {
        /// Names as in the table of a run.
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Prints every job, what it needs, and its command.
    List,
    /// The part of `check` that runs tests.
    #[command(hide = true)]
    ChangedUnit {
        #[arg(long)]
        base: Option<String>,
    },
}

impl Args {
    /// The given seed, or one from the clock.
    pub(crate) fn seed(&self) -> u64 {
        self.seed.unwrap_or_else(|| {
            let now = std::time::SystemTime::now();
            let since = now.duration_since(std::time::UNIX_EPOCH);
            since.map_or(0, |since| u64::from(since.subsec_nanos()))
        })
    }
}
