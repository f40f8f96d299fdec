//! What each case expected and what it saw.

use std::fmt::{self, Display};
use std::time::Duration;

use lab::open_loop::Count;

/// An answer in a planned case: three times that of a SYN that is sent a second time.
const SLOWEST: Duration = Duration::from_secs(3);

/// How much a case may cost the client outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Price {
    /// No request is lost, and none is slow.
    Nothing,
    /// At most so many requests are lost: what physics allows.
    Lost {
        /// Over connections of their own.
        fresh: usize,
        /// Over connections that should have lasted.
        lasting: usize,
    },
    /// The case ends what is asked for.
    Everything,
}

/// What a case says when it has passed.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// What the client may have lost.
    pub(crate) price: Price,
    /// What was measured.
    pub(crate) note: String,
}

#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) case: &'static str,
    pub(crate) took: Duration,
    pub(crate) count: Count,
    pub(crate) result: Result<Outcome, String>,
}

impl Price {
    /// Nothing lost, and a note.
    pub(crate) fn nothing(note: impl Into<String>) -> Outcome {
        Outcome {
            price: Self::Nothing,
            note: note.into(),
        }
    }

    pub(crate) fn allows(self, count: &Count) -> bool {
        match self {
            Self::Nothing => count.lost() == 0 && count.slowest < SLOWEST,
            Self::Lost { fresh, lasting } => {
                count.fresh_lost <= fresh && count.lasting_lost <= lasting
            }
            Self::Everything => true,
        }
    }
}

impl Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("0"),
            Self::Lost { fresh, lasting } => write!(f, "<= {fresh} + {lasting}"),
            Self::Everything => f.write_str("all"),
        }
    }
}

impl Row {
    pub(crate) fn heading() -> String {
        format!(
            "{:<28} {:>6} {:>8} {:>6} {:>7} {:>10} {:>5} {:>8}  {}",
            "case", "took", "requests", "fresh", "lasting", "allowed", "late", "slowest", "result"
        )
    }
}

impl Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (allowed, result) = match &self.result {
            Ok(outcome) => (outcome.price.to_string(), format!("ok: {}", outcome.note)),
            Err(problem) => (
                String::new(),
                format!("FAILED: {}", problem.lines().next().unwrap_or_default()),
            ),
        };
        write!(
            f,
            "{:<28} {:>4} s {:>8} {:>6} {:>7} {allowed:>10} {:>5} {:>5} ms  {result}",
            self.case,
            self.took.as_secs(),
            self.count.requests,
            self.count.fresh_lost,
            self.count.lasting_lost,
            self.count.late,
            self.count.slowest.as_millis()
        )
    }
}
