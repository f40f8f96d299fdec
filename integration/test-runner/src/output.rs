//! The output of jobs: their logs, their tests, and the printed lines.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};

use crate::summary::Tests;

/// The largest part of a job's output that is printed after the end of the job, in bytes. The log
/// contains the whole output.
const SHOWN_BYTES: u64 = 512 * 1024;
/// The largest number of lines of a failed job's output that are printed a second time at the end
/// of a run.
const LAST_LINES: usize = 4;
/// The largest number of characters of each line that is printed a second time.
const LAST_LINE_CHARS: usize = 160;
/// The beginnings of lines that cargo and the test harness print after the reason of a failure.
/// These lines are not repeated at the end of a run.
const FRAME: [&str; 7] = [
    "test result: ",
    "failures:",
    "error: test failed",
    "Caused by:",
    "process didn't exit successfully",
    "note: ",
    "error: 1 target failed",
];
/// The longest line of a log, in bytes. A longer line of a command's output becomes several lines
/// of the log.
const LONGEST_LINE: u64 = 64 * 1024;
/// The largest size of a log, in bytes. A job whose output is larger fails.
const LONGEST_LOG: usize = 256 * 1024 * 1024;

/// Writes the output of a command to its log, and returns the counts of the tests that the output
/// reports. Replaces bytes that are not UTF-8. If `shown_as` is `Some`, also prints each line with
/// this name in front of the line.
pub(crate) async fn record(
    output: impl AsyncRead + Unpin,
    log: PathBuf,
    shown_as: Option<&'static str>,
) -> Result<Tests> {
    let mut file =
        File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
    let mut output = BufReader::new(output);
    let (mut tests, mut bytes, mut length) = (Tests::default(), Vec::new(), 0);
    loop {
        bytes.clear();
        let mut limited = (&mut output).take(LONGEST_LINE);
        let read = limited.read_until(b'\n', &mut bytes).await;
        if read.context("cannot read the command's output")? == 0 {
            return Ok(tests);
        }
        length += bytes.len();
        ensure!(
            length <= LONGEST_LOG,
            "the command printed more than {LONGEST_LOG} bytes"
        );
        let line = String::from_utf8_lossy(&bytes);
        let line = line.trim_end_matches('\n');
        tests.read_line(line);
        writeln!(file, "{line}").with_context(|| format!("cannot write {}", log.display()))?;
        if let Some(name) = shown_as {
            print_line(&format!("{name} | {line}"));
        }
    }
}

/// Prints the end of a log, or the error if the log cannot be read.
pub(crate) fn show_end(log: &Path) {
    print_line(&format!("--- {}", log.display()));
    match end_of(log, SHOWN_BYTES) {
        Ok(text) => print_line(text.trim_end()),
        Err(error) => print_line(&format!("{error:#}")),
    }
    print_line("---");
}

/// Returns the last lines of a log that can explain a failure, or the error if the log cannot be
/// read.
pub(crate) fn failure_lines(log: &Path) -> String {
    match end_of(log, SHOWN_BYTES) {
        Ok(text) => failure_lines_in(&text),
        Err(error) => format!("{error:#}"),
    }
}

fn failure_lines_in(text: &str) -> String {
    let is_frame = |line: &&str| FRAME.iter().any(|start| line.starts_with(start));
    let lines = text.lines().map(str::trim);
    let mut last: Vec<String> = lines
        .filter(|line| !line.is_empty())
        .filter(|line| !is_frame(line))
        .rev()
        .take(LAST_LINES)
        .map(|line| line.chars().take(LAST_LINE_CHARS).collect())
        .collect();
    last.reverse();
    last.join("\n")
}

fn end_of(log: &Path, most: u64) -> Result<String> {
    let mut file = File::open(log).context("cannot open the log")?;
    let length = file
        .metadata()
        .context("cannot read the length of the log")?
        .len();
    let first = length.saturating_sub(most);
    file.seek(SeekFrom::Start(first))
        .context("cannot seek to the end of the log")?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)
        .context("cannot read the log")?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Prints a line. Ignores write errors, so that the run continues after standard output is closed.
pub(crate) fn print_line(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_failure_lines_of_a_log_do_not_contain_the_lines_of_cargo_and_the_test_harness() {
        let log = "running 1 test\n---- moves stdout ----\nError: failed:\nscale: lost 3\n\n\
                   failures:\n    moves\n\ntest result: FAILED. 0 passed; 1 failed\n\n\
                   error: test failed, to rerun pass `--test cluster`\n\nCaused by:\n  \
                   process didn't exit successfully: `cluster` (exit status: 101)\n";
        let words = "---- moves stdout ----\nError: failed:\nscale: lost 3\nmoves";
        assert_eq!(failure_lines_in(log), words);
    }
}
