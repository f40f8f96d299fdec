//! What jobs print: kept, counted and shown.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};

use crate::summary::Tests;

/// How much of a failed job's output is shown; the whole output stays in its log.
const SHOWN_BYTES: u64 = 512 * 1024;
/// How many of its lines are repeated at the end of a run, and how much of each.
const LAST_LINES: usize = 4;
const LAST_LINE_CHARS: usize = 160;
/// What cargo and the test harness print after the reason of a failure.
const FRAME: [&str; 7] = [
    "test result: ",
    "failures:",
    "error: test failed",
    "Caused by:",
    "process didn't exit successfully",
    "note: ",
    "error: 1 target failed",
];
/// A longer line is kept as several lines.
const LONGEST_LINE: u64 = 64 * 1024;
/// A job that prints more fails.
const LONGEST_LOG: usize = 256 * 1024 * 1024;

/// Keeps the output in the log, and shows it line by line behind `shown_as` where that is given.
/// Returns the tests that the output reports. Bytes that are not UTF-8 are replaced.
pub(crate) async fn record(
    output: impl AsyncRead + Unpin,
    log: PathBuf,
    shown_as: Option<&'static str>,
) -> Result<Tests> {
    let mut file = File::create(&log).with_context(|| format!("make {}", log.display()))?;
    let mut output = BufReader::new(output);
    let (mut tests, mut bytes, mut length) = (Tests::default(), Vec::new(), 0);
    loop {
        bytes.clear();
        let mut limited = (&mut output).take(LONGEST_LINE);
        let read = limited.read_until(b'\n', &mut bytes).await;
        if read.context("read the command's output")? == 0 {
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
        writeln!(file, "{line}").with_context(|| format!("write {}", log.display()))?;
        if let Some(name) = shown_as {
            print_line(&format!("{name} | {line}"));
        }
    }
}

/// Prints the end of a log, or why the log cannot be read.
pub(crate) fn show_end(log: &Path) {
    print_line(&format!("--- {}", log.display()));
    match end_of(log, SHOWN_BYTES) {
        Ok(text) => print_line(text.trim_end()),
        Err(error) => print_line(&format!("{error:#}")),
    }
    print_line("---");
}

/// The last lines of a log that say something of their own, or why the log cannot be read.
pub(crate) fn last_words(log: &Path) -> String {
    match end_of(log, SHOWN_BYTES) {
        Ok(text) => last_words_of(&text),
        Err(error) => format!("{error:#}"),
    }
}

fn last_words_of(text: &str) -> String {
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
    let mut file = File::open(log).context("open the log")?;
    let length = file.metadata().context("measure the log")?.len();
    let first = length.saturating_sub(most);
    file.seek(SeekFrom::Start(first))
        .context("find the end of the log")?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).context("read the log")?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Prints a line. Ignores write errors: closing standard output does not stop the run.
pub(crate) fn print_line(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_of_a_log_are_the_reason_and_not_the_frame_around_it() {
        let log = "running 1 test\n---- moves stdout ----\nError: failed:\nscale: lost 3\n\n\
                   failures:\n    moves\n\ntest result: FAILED. 0 passed; 1 failed\n\n\
                   error: test failed, to rerun pass `--test cluster`\n\nCaused by:\n  \
                   process didn't exit successfully: `cluster` (exit status: 101)\n";
        let words = "---- moves stdout ----\nError: failed:\nscale: lost 3\nmoves";
        assert_eq!(last_words_of(log), words);
    }
}
