//! The output of the demo: one line for each step.

use std::{
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use lab::Environment;

/// Prints the steps to standard output, with colours only on a terminal.
pub(crate) struct StepPrinter {
    is_colour: bool,
    began: Instant,
    steps: usize,
    /// The title of the step that runs.
    current: Option<&'static str>,
}

/// The result of a step.
pub(crate) struct StepResult {
    /// The measured time. `None`: the demo prints the time of the whole step.
    pub(crate) took: Option<Duration>,
    pub(crate) text: String,
}

impl StepResult {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self {
            took: None,
            text: text.into(),
        }
    }

    pub(crate) fn after(took: Duration, text: impl Into<String>) -> Self {
        Self {
            took: Some(took),
            text: text.into(),
        }
    }
}

impl StepPrinter {
    pub(crate) fn begin() -> Self {
        Self {
            is_colour: std::io::stdout().is_terminal(),
            began: Instant::now(),
            steps: 0,
            current: None,
        }
    }

    pub(crate) fn print(&self, text: &str) {
        // An error is ignored: it means that the reader of the pipe has ended.
        let _ = writeln!(std::io::stdout(), "{text}");
    }

    /// Runs a step and prints its title, its time and its result.
    pub(crate) fn step<T>(
        &mut self,
        title: &'static str,
        run: impl FnOnce() -> Result<(T, StepResult)>,
    ) -> Result<T> {
        self.current = Some(title);
        let began = Instant::now();
        let (value, seen) = run().with_context(|| format!("step `{title}`"))?;
        let took = describe_duration(seen.took.unwrap_or(began.elapsed()));
        let mark = self.paint("32", "ok");
        self.print(&format!("{mark}  {title:<62} {took:>9}  {}", seen.text));
        self.steps += 1;
        self.current = None;
        Ok(value)
    }

    /// Prints the number of steps, the time since the start of the demo, and the environment.
    pub(crate) fn end(&self) -> Result<()> {
        let all = self.paint("32", &format!("all {} steps succeeded", self.steps));
        let took = describe_duration(self.began.elapsed());
        self.print(&format!("\n{all} in {took} on {}", Environment::current()?));
        Ok(())
    }

    pub(crate) fn failed(&self, error: &anyhow::Error) {
        let word = self.paint("31", "FAILED");
        let step = self.current.unwrap_or("before the first step");
        self.print(&format!("{word}  {step}\n        {error:#}"));
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.is_colour {
            format!("\x1b[{colour}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

fn describe_duration(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
    } else {
        format!("{:.2} s", duration.as_secs_f64())
    }
}
