//! The counts of tests in the output of a command, and the table of a test run.

use std::fmt::Write as _;
use std::time::Duration;

use crate::job::Outcome;

/// The counts of tests that a command has reported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tests {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    /// Tests that the test harness reports as ignored.
    pub(crate) skipped: usize,
    /// Tests that test binaries have announced at their start. Each announced test has a result,
    /// unless its test binary crashes.
    pub(crate) announced: usize,
}

/// A row of the table.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) job: &'static str,
    /// The time from the beginning of the run to the start of the job.
    pub(crate) started: Duration,
    pub(crate) took: Duration,
    pub(crate) tests: Tests,
    pub(crate) outcome: Outcome,
}

impl Row {
    fn failures(&self) -> usize {
        match self.outcome {
            Outcome::Passed => 0,
            Outcome::Failed(_) | Outcome::NotRun { .. } => self.tests.failed.max(1),
        }
    }
}

impl Tests {
    /// Adds the counts of a line of output, if the line has one of these forms: `running 3 tests`
    /// or `test result: ok. 3 passed; 0 failed; 0 ignored; ...` of Rust's test harness, or `images:
    /// 3 passed, 0 failed` of a script.
    pub(crate) fn read_line(&mut self, line: &str) {
        let is_harness = line.starts_with("test result: ");
        let words: Vec<&str> = line
            .split([' ', ',', ';', '.'])
            .filter(|word| !word.is_empty())
            .collect();
        let count_of = |word: &str| {
            let at = words.iter().position(|other| *other == word)?;
            words[at.checked_sub(1)?].parse::<usize>().ok()
        };
        if let ["running", count, "test" | "tests"] = words[..] {
            self.announced += count.parse::<usize>().unwrap_or_default();
        }
        let is_script = matches!(words[..], [_, _, "passed", _, "failed"]);
        let (true, Some(passed), Some(failed)) = (
            is_harness || is_script,
            count_of("passed"),
            count_of("failed"),
        ) else {
            return;
        };
        self.passed += passed;
        self.failed += failed;
        self.skipped += count_of("ignored").unwrap_or_default();
    }

    /// Returns the number of tests that have run.
    pub(crate) fn ran(self) -> usize {
        self.passed + self.failed
    }
}

/// Returns the sums of the counts of all jobs. A job that has failed without a failed test, or that
/// was not run, counts as one failed test.
pub(crate) fn sum(rows: &[Row]) -> Tests {
    rows.iter().fold(Tests::default(), |sum, row| Tests {
        passed: sum.passed + row.tests.passed,
        failed: sum.failed + row.failures(),
        skipped: sum.skipped + row.tests.skipped,
        announced: sum.announced + row.tests.announced,
    })
}

/// Returns the table of a run in Markdown.
pub(crate) fn table(rows: &[Row], all: Duration) -> String {
    let mut text =
        String::from("| job | started, s | took, s | tests | result |\n|---|---:|---:|---:|---|\n");
    for row in rows {
        let tests = match row.tests.ran() {
            0 => String::new(),
            count => count.to_string(),
        };
        let result = match &row.outcome {
            Outcome::Passed => "passed".to_owned(),
            Outcome::Failed(reason) => format!("FAILED: {reason}"),
            Outcome::NotRun { because_of } => {
                format!("not run, because {because_of} has not passed")
            }
        };
        let (started, took) = (row.started.as_secs(), row.took.as_secs());
        let _ = writeln!(
            text,
            "| {} | {started} | {took} | {tests} | {result} |",
            row.job
        );
    }
    let tests: usize = rows.iter().map(|row| row.tests.ran()).sum();
    let _ = writeln!(text, "| all | 0 | {} | {tests} | |", all.as_secs());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Tests {
        let mut tests = Tests::default();
        for line in lines {
            tests.read_line(line);
        }
        tests
    }

    #[test]
    fn results_of_several_test_binaries_add_up() {
        let tests = read(&[
            "running 4 tests",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 7 filtered out; finished in 1.20s",
        ]);
        let expected = Tests {
            passed: 4,
            failed: 2,
            skipped: 1,
            announced: 4,
        };
        assert_eq!(tests, expected);
        assert_eq!(tests.ran(), 6);
    }

    #[test]
    fn a_script_reports_its_checks_in_one_line() {
        let expected = Tests {
            passed: 96,
            failed: 1,
            ..Tests::default()
        };
        assert_eq!(read(&["images: 96 passed, 1 failed"]), expected);
    }

    #[test]
    fn lines_with_the_word_passed_but_without_a_known_form_are_not_counted() {
        let lines = [
            "3 passed",
            "all passed",
            "test a::passed ... ok",
            "0 failed; it passed",
        ];
        assert_eq!(read(&lines), Tests::default());
    }
}
