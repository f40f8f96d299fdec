//! The report: allowed and measured losses of each case.

use std::fmt::{self, Display};
use std::time::Duration;

use lab::open_loop::Count;

/// Limit for the slowest answer in a case without allowed loss.
///
/// TCP repeats a lost SYN after 1 s. The limit is three times as long.
const SLOWEST: Duration = Duration::from_secs(3);

/// The losses that a case allows at the client outside of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AllowedLoss {
    /// No request may be lost, and no answer may take `SLOWEST` or longer.
    Nothing,
    /// Each kind of request has an upper limit of lost requests.
    Lost {
        /// The limit for lost requests that each use a new connection.
        fresh: usize,
        /// The limit for lost requests over connections that the client keeps open.
        lasting: usize,
    },
    /// Every request may be lost, as in a case that withdraws the service address.
    Everything,
}

/// The result of a case that has finished without an error. The runner then compares the measured
/// losses with `allowed_loss`.
#[derive(Debug)]
pub(crate) struct CaseOutcome {
    /// The losses that the client may count during the case without a failure of the case.
    pub(crate) allowed_loss: AllowedLoss,
    /// A measurement for the reader of the report.
    pub(crate) note: String,
}

#[derive(Debug)]
pub(crate) struct CaseRow {
    pub(crate) case: &'static str,
    pub(crate) took: Duration,
    pub(crate) count: Count,
    pub(crate) result: Result<CaseOutcome, String>,
}

impl AllowedLoss {
    /// Returns an outcome that allows no loss.
    pub(crate) fn no_loss(note: impl Into<String>) -> CaseOutcome {
        CaseOutcome {
            allowed_loss: Self::Nothing,
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

impl Display for AllowedLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("0"),
            Self::Lost { fresh, lasting } => write!(f, "<= {fresh} + {lasting}"),
            Self::Everything => f.write_str("all"),
        }
    }
}

impl CaseRow {
    pub(crate) fn heading() -> String {
        format!(
            "{:<28} {:>6} {:>8} {:>6} {:>7} {:>10} {:>5} {:>8}  {}",
            "case", "took", "requests", "fresh", "lasting", "allowed", "late", "slowest", "result"
        )
    }
}

impl Display for CaseRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (allowed, result) = match &self.result {
            Ok(outcome) => (
                outcome.allowed_loss.to_string(),
                format!("ok: {}", outcome.note),
            ),
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
