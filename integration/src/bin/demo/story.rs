//! What is printed: a line as each step ends, which together are a table.

use std::{
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use lab::Environment;

/// Prints on standard output, in colour only on a terminal.
pub(crate) struct Story {
    is_colour: bool,
    began: Instant,
    steps: usize,
    current: Option<&'static str>,
}

/// What a step has seen; `took` where the measured time is not that of the whole step.
pub(crate) struct Seen {
    pub(crate) took: Option<Duration>,
    pub(crate) words: String,
}

impl Seen {
    pub(crate) fn new(words: impl Into<String>) -> Self {
        Self {
            took: None,
            words: words.into(),
        }
    }

    pub(crate) fn after(took: Duration, words: impl Into<String>) -> Self {
        Self {
            took: Some(took),
            words: words.into(),
        }
    }
}

impl Story {
    pub(crate) fn begin() -> Self {
        Self {
            is_colour: std::io::stdout().is_terminal(),
            began: Instant::now(),
            steps: 0,
            current: None,
        }
    }

    pub(crate) fn say(&self, text: &str) {
        // A reader who has closed the pipe wants no more.
        let _ = writeln!(std::io::stdout(), "{text}");
    }

    /// Runs a step and tells how it ended.
    pub(crate) fn step<T>(
        &mut self,
        title: &'static str,
        run: impl FnOnce() -> Result<(T, Seen)>,
    ) -> Result<T> {
        self.current = Some(title);
        let began = Instant::now();
        let (value, seen) = run().with_context(|| format!("step `{title}`"))?;
        let took = in_words(seen.took.unwrap_or(began.elapsed()));
        let mark = self.paint("32", "ok");
        self.say(&format!("{mark}  {title:<62} {took:>9}  {}", seen.words));
        self.steps += 1;
        self.current = None;
        Ok(value)
    }

    /// How it ended, and on which kernel.
    pub(crate) fn end(&self) -> Result<()> {
        let all = self.paint("32", &format!("all {} steps succeeded", self.steps));
        let took = in_words(self.began.elapsed());
        self.say(&format!("\n{all} in {took} on {}", Environment::current()?));
        Ok(())
    }

    pub(crate) fn failed(&self, error: &anyhow::Error) {
        let word = self.paint("31", "FAILED");
        let step = self.current.unwrap_or("the beginning");
        self.say(&format!("{word}  {step}\n        {error:#}"));
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.is_colour {
            format!("\x1b[{colour}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

fn in_words(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
    } else {
        format!("{:.2} s", duration.as_secs_f64())
    }
}
