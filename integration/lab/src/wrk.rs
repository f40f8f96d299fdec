//! The load generator `wrk` and its report.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::host::Host;
use crate::process::Process;

/// A started `wrk` process.
#[derive(Debug)]
pub struct Wrk {
    process: Process,
    duration: Duration,
}

/// The numbers in the report of a `wrk` process that has ended.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct WrkReport {
    /// The number of answered requests.
    pub requests: u64,
    pub requests_per_second: f64,
    /// Failed attempts to establish a connection.
    pub connect_errors: u64,
    /// Failed reads. A read fails, for example, if the server resets the connection.
    pub read_errors: u64,
    pub write_errors: u64,
    /// Requests without an answer within `wrk`'s time limit.
    pub timeouts: u64,
    /// Answers whose status is neither 2xx nor 3xx.
    pub other_statuses: u64,
}

impl WrkReport {
    /// Returns the sum of all errors.
    pub fn errors(&self) -> u64 {
        self.connect_errors
            + self.read_errors
            + self.write_errors
            + self.timeouts
            + self.other_statuses
    }
}

impl Wrk {
    /// Starts `wrk` with one thread and `connections` connections. `duration` is rounded down to
    /// whole seconds.
    pub fn start(host: &Host, url: &str, connections: usize, duration: Duration) -> Result<Self> {
        let mut command = Command::new("wrk");
        command
            .args(["--threads", "1", "--connections", &connections.to_string()])
            .args([
                "--duration",
                &format!("{}s", duration.as_secs()),
                "--latency",
                url,
            ]);
        Ok(Self {
            process: host.start("wrk", command)?,
            duration,
        })
    }

    /// Waits for the end of `wrk` and returns its report.
    pub fn finish(self) -> Result<WrkReport> {
        self.process.wait(self.duration + Duration::from_secs(20))?;
        // The last output can arrive after the end of the process, so this waits for
        // `Transfer/sec`, which is in the last line of the report.
        self.process
            .wait_for_line("Transfer/sec", Duration::from_secs(2))?;
        parse(&self.process.lines().join("\n"))
    }
}

fn parse(output: &str) -> Result<WrkReport> {
    let mut report = WrkReport::default();
    for line in output.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("Requests/sec:") {
            report.requests_per_second = rest
                .trim()
                .parse()
                .context("cannot parse wrk's requests per second")?;
        } else if let Some((count, _)) = line.split_once(" requests in ") {
            report.requests = count
                .parse()
                .context("cannot parse wrk's number of requests")?;
        } else if let Some(rest) = line.strip_prefix("Socket errors:") {
            for part in rest.split(',') {
                let mut words = part.split_whitespace();
                let (kind, count) = (words.next(), words.next());
                let count = count.and_then(|count| count.parse().ok());
                let count = count.with_context(|| format!("cannot parse wrk's errors: {line}"))?;
                match kind {
                    Some("connect") => report.connect_errors = count,
                    Some("read") => report.read_errors = count,
                    Some("write") => report.write_errors = count,
                    Some("timeout") => report.timeouts = count,
                    Some(_) | None => {}
                }
            }
        } else if let Some(rest) = line.strip_prefix("Non-2xx or 3xx responses:") {
            report.other_statuses = rest
                .trim()
                .parse()
                .context("cannot parse wrk's number of other statuses")?;
        }
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_parsed(output: &str, expected: WrkReport) {
        assert_eq!(parse(output).unwrap(), expected);
    }

    #[test]
    fn a_report_has_the_number_of_requests_and_of_each_kind_of_error() {
        assert_parsed(
            "Running 2s test @ http://10.1.1.1/\n  \
               24614 requests in 2.00s, 4.06MB read\n  \
               Socket errors: connect 1, read 2, write 3, timeout 4\n  \
               Non-2xx or 3xx responses: 5\n\
             Requests/sec:  12293.59\n\
             Transfer/sec:      2.03MB\n",
            WrkReport {
                requests: 24614,
                requests_per_second: 12293.59,
                connect_errors: 1,
                read_errors: 2,
                write_errors: 3,
                timeouts: 4,
                other_statuses: 5,
            },
        );
    }

    #[test]
    fn a_report_without_an_error_line_has_no_errors() {
        let report = parse("  10 requests in 2.00s, 4KB read\nRequests/sec: 5.00\n").unwrap();
        assert_eq!((report.requests, report.errors()), (10, 0));
    }
}
