//! The command line of test-runner.

use clap::{Parser, Subcommand};

/// Runs the tests of this repository, in parallel where possible, and prints a table of the jobs.
///
/// The output of each job is written to target/test-runner/JOB.log. The end of the output of a
/// failed job is also printed.
#[derive(Debug, Parser)]
#[command(name = "test-runner")]
pub(crate) struct Args {
    /// Print each line of output at once, with the name of its job at the beginning.
    #[arg(long, global = true)]
    pub(crate) live: bool,
    /// Run only the tests whose names contain this text. An empty text means all tests.
    #[arg(long, global = true, value_name = "TEXT")]
    pub(crate) filter: Option<String>,
    /// Run every case of the long test matrices instead of a sample. Property tests also run more
    /// cases, and the images contain the programs of the release build.
    #[arg(long, global = true)]
    pub(crate) complete: bool,
    /// The seed that selects the sample of the long test matrices. By default each run uses another
    /// seed and prints it. Set this flag to repeat an earlier run.
    #[arg(long, global = true, value_name = "NUMBER")]
    seed: Option<u64>,
    #[command(subcommand)]
    pub(crate) selection: Selection,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Selection {
    /// Run all jobs. CI runs this command.
    All,
    /// Check the format and the lints, and run the unit tests of the changed crates and of the
    /// crates that depend on them.
    Check {
        /// The commit with which the files are compared: a file that differs counts as changed. The
        /// default is the common ancestor with the branch's upstream, or the parent of HEAD if
        /// there is no upstream.
        #[arg(long)]
        base: Option<String>,
    },
    /// Run the named jobs and the jobs that they need. A name that ends in `-` selects all jobs
    /// whose names begin with it.
    Jobs {
        /// Names of jobs, as `list` prints them.
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Print each job with the jobs that it needs and its command.
    List,
    /// Run the unit tests of changed crates. The command `check` starts this command.
    #[command(hide = true)]
    ChangedUnit {
        #[arg(long)]
        base: Option<String>,
    },
}

impl Args {
    /// Returns the seed of the command line, or a seed from the clock.
    pub(crate) fn seed(&self) -> u64 {
        self.seed.unwrap_or_else(|| {
            let now = std::time::SystemTime::now();
            let since = now.duration_since(std::time::UNIX_EPOCH);
            since.map_or(0, |since| u64::from(since.subsec_nanos()))
        })
    }
}
