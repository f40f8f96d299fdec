//! What a job is: one command of a test run.

use std::fmt::{self, Display};
use std::time::Duration;

/// One command, and when it may start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Job {
    /// Its name on the command line and in the table.
    pub(crate) name: &'static str,
    /// Jobs that must have passed before it starts.
    pub(crate) needs: Vec<&'static str>,
    /// What it takes of the machine.
    pub(crate) load: Load,
    /// Program and arguments, run in the root of the repository.
    pub(crate) command: Vec<String>,
    /// Variables that the command gets beyond the caller's.
    pub(crate) environment: Vec<(&'static str, String)>,
    /// How long the command may take before the runner ends it.
    pub(crate) limit: Duration,
    /// Whether the command runs tests: then zero tests are a failure.
    pub(crate) has_tests: bool,
    /// Whether the end of its output is shown although it has passed.
    pub(crate) is_shown: bool,
}

/// What a job takes of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// Keeps this number of cores busy; jobs run side by side while cores are free.
    Cores(usize),
    /// Runs on the time that other jobs leave (`SCHED_IDLE`), one such job at a time.
    Background,
    /// Runs with no other job than those in the background, because it measures.
    Alone,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Exit status 0, and tests ran if it has any.
    Passed,
    /// The reason, for people.
    Failed(String),
    /// A job that it needs did not pass.
    NotRun {
        /// That job.
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
            // As a shell takes it.
            match word.contains(['*', ' ']) {
                true => write!(f, " '{word}'")?,
                false => write!(f, " {word}")?,
            }
        }
        Ok(())
    }
}

impl Job {
    /// A job without needs that keeps all cores busy.
    pub(crate) fn new(name: &'static str, command: &[&str]) -> Self {
        Self {
            name,
            needs: Vec::new(),
            load: Load::Cores(usize::MAX),
            command: command.iter().map(|&word| word.to_owned()).collect(),
            environment: Vec::new(),
            limit: Duration::from_secs(40 * 60),
            has_tests: false,
            is_shown: false,
        }
    }

    /// Adds arguments to its command.
    pub(crate) fn arguments(mut self, words: &[&str]) -> Self {
        self.command
            .extend(words.iter().map(|&word| word.to_owned()));
        self
    }

    /// Adds jobs that must have passed before.
    pub(crate) fn needs(mut self, names: &[&'static str]) -> Self {
        self.needs.extend(names);
        self
    }

    /// Leaves the other cores to other jobs.
    pub(crate) fn on_cores(mut self, cores: usize) -> Self {
        self.load = Load::Cores(cores);
        self
    }

    /// Takes only the time that other jobs leave.
    pub(crate) fn in_background(mut self) -> Self {
        self.load = Load::Background;
        // It may wait long for the time that others leave.
        self.limit *= 3;
        self
    }

    /// Sets how long the command may take.
    pub(crate) fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Shows the end of its output also where it has passed.
    pub(crate) fn shown(mut self) -> Self {
        self.is_shown = true;
        self
    }

    /// Lets only background jobs run at the same time.
    pub(crate) fn alone(mut self) -> Self {
        self.load = Load::Alone;
        self
    }

    /// Sets a variable of its environment.
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    /// Counts its tests; none is a failure.
    pub(crate) fn runs_tests(mut self) -> Self {
        self.has_tests = true;
        self
    }
}
