//! A job: one command of a test run.

use std::fmt::{self, Display};
use std::time::Duration;

/// A command of a test run, and the conditions under which it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Job {
    /// The name on the command line and in the table.
    pub(crate) name: &'static str,
    /// The names of the jobs that must pass before this job starts.
    pub(crate) needs: Vec<&'static str>,
    pub(crate) cpu: CpuDemand,
    /// The program and its arguments. The command runs in the root of the repository.
    pub(crate) command: Vec<String>,
    /// Environment variables that the command gets in addition to the variables of the runner.
    pub(crate) environment: Vec<(&'static str, String)>,
    /// The runner ends the command if it takes longer than this time.
    pub(crate) limit: Duration,
    /// Whether the command runs tests. If this is true and the command reports no test, the job
    /// fails.
    pub(crate) has_tests: bool,
    /// Whether the end of the output is printed also if the job passes.
    pub(crate) is_shown: bool,
}

/// The CPU time that a job needs. It decides which other jobs run at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CpuDemand {
    /// The job keeps this number of cores busy. Other jobs start while enough cores are free.
    Cores(usize),
    /// The job uses only idle CPU time (`SCHED_IDLE`). At most one background job runs at a time.
    Background,
    /// The job measures times, so only a background job runs at the same time.
    Alone,
}

/// The result of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The exit status of the command is 0, no test has failed, and every announced test has a
    /// result. If `has_tests` is true for the job, at least one test has run.
    Passed,
    /// The job has failed. The text is the reason, which the table shows.
    Failed(String),
    /// The job was not run, because a job that it needs has not passed.
    NotRun {
        /// The name of the job that has not passed.
        because_of: &'static str,
    },
}

impl Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}\n    needs: {}\n    runs:",
            self.name,
            self.needs.join(" ")
        )?;
        for (name, value) in &self.environment {
            write!(f, " {name}={value}")?;
        }
        for word in &self.command {
            // A word with `*` or a space is quoted, so that the printed command can be copied into
            // a shell.
            match word.contains(['*', ' ']) {
                true => write!(f, " '{word}'")?,
                false => write!(f, " {word}")?,
            }
        }
        Ok(())
    }
}

impl Job {
    /// Returns a job that needs no other job and keeps all cores busy.
    pub(crate) fn new(name: &'static str, command: &[&str]) -> Self {
        Self {
            name,
            needs: Vec::new(),
            cpu: CpuDemand::Cores(usize::MAX),
            command: command.iter().map(|&word| word.to_owned()).collect(),
            environment: Vec::new(),
            limit: Duration::from_secs(40 * 60),
            has_tests: false,
            is_shown: false,
        }
    }

    /// Adds arguments to the command.
    pub(crate) fn arguments(mut self, words: &[&str]) -> Self {
        self.command
            .extend(words.iter().map(|&word| word.to_owned()));
        self
    }

    /// Adds jobs that must pass before this job starts.
    pub(crate) fn needs(mut self, names: &[&'static str]) -> Self {
        self.needs.extend(names);
        self
    }

    /// Sets the number of cores that the job keeps busy. Other jobs can use the remaining cores.
    pub(crate) fn on_cores(mut self, cores: usize) -> Self {
        self.cpu = CpuDemand::Cores(cores);
        self
    }

    /// Makes the job a background job, and triples its time limit.
    pub(crate) fn in_background(mut self) -> Self {
        self.cpu = CpuDemand::Background;
        // The limit is longer, because a background job can wait a long time for idle CPU time.
        self.limit *= 3;
        self
    }

    /// Sets the time limit of the command.
    pub(crate) fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Prints the end of the output even if the job passes.
    pub(crate) fn shown(mut self) -> Self {
        self.is_shown = true;
        self
    }

    /// Allows only background jobs at the same time as this job.
    pub(crate) fn alone(mut self) -> Self {
        self.cpu = CpuDemand::Alone;
        self
    }

    /// Sets an environment variable of the command.
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    /// Makes the job fail if the command reports no test.
    pub(crate) fn runs_tests(mut self) -> Self {
        self.has_tests = true;
        self
    }
}
