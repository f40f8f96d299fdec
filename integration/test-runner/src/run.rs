//! The start, the supervision and the end of the jobs of a run.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::job::{CpuDemand, Job, Outcome};
use crate::output::{self, print_line};
use crate::schedule::Schedule;
use crate::summary::{self, Row, Tests};

/// The time from SIGTERM to SIGKILL when the runner ends a job. A guest needs some seconds to end
/// with its network namespaces. Also the time for which the runner waits for the end of the output
/// after a command has ended.
const GRACE: Duration = Duration::from_secs(20);
/// The largest number of cores that jobs use. On more cores, more guests would run at the same
/// time, and many machines would not have enough memory for them.
const MOST_CORES: usize = 4;
/// A shell script that runs a background job with the lowest priority. The kernel divides CPU time
/// first between sessions (`autogroup` of sched(7)), and then between the processes of each
/// session. The job has a session of its own, so the script lowers both priorities. A container can
/// refuse each of these settings, so the script ignores errors.
const IN_BACKGROUND: &str = "echo 19 2>/dev/null >/proc/self/autogroup
chrt --idle 0 true 2>/dev/null && exec chrt --idle 0 \"$@\"
exec nice -n 19 \"$@\"";

/// The settings of a run that do not affect the jobs themselves.
#[derive(Debug)]
struct RunSetting {
    /// The root of the repository.
    root: PathBuf,
    /// Whether the output of jobs is printed immediately.
    live: bool,
}

/// The result of a run.
#[derive(Debug)]
struct RunResult {
    /// One row for each job, in the order in which the jobs ended.
    rows: Vec<Row>,
    took: Duration,
}

/// A job that has ended, and its result.
#[derive(Debug)]
struct EndedJob {
    job: Job,
    /// The time from the beginning of the run to the start of the job.
    started: Duration,
    took: Duration,
    tests: Tests,
    outcome: Outcome,
}

/// Runs all jobs and prints the table. Reports whether every job has passed.
pub(crate) fn run_and_report(root: PathBuf, live: bool, jobs: Vec<Job>) -> Result<bool> {
    let setting = RunSetting { root, live };
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let report = runtime.block_on(run(&setting, jobs))?;
    let table = summary::table(&report.rows, report.took);
    print_line(&format!("\n{table}"));
    // The reasons of failures are printed a second time near the end of the output, because CI
    // shows only the last lines of a long output.
    let logs = setting.root.join("target/test-runner");
    for row in &report.rows {
        if let Outcome::Failed(reason) = &row.outcome {
            print_line(&format!("{} FAILED: {reason}", row.job));
            print_line(&output::failure_lines(&log_of(&logs, row.job)));
        }
    }
    let tests = summary::sum(&report.rows);
    // CI reads the counts from this line.
    print_line(&format!("{} passed, {} failed", tests.passed, tests.failed));
    let file = setting.root.join("target/test-runner/table.md");
    if let Err(error) = fs::write(&file, &table) {
        print_line(&format!(
            "cannot write the table to {}: {error}",
            file.display()
        ));
    }
    Ok(report.rows.iter().all(|row| row.outcome == Outcome::Passed))
}

/// Runs all jobs, and returns when all jobs have ended. If the runner receives SIGINT, SIGTERM,
/// SIGHUP or SIGQUIT, it ends all jobs and returns an error.
async fn run(setting: &RunSetting, jobs: Vec<Job>) -> Result<RunResult> {
    let logs = setting.root.join("target/test-runner");
    fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
    let lock =
        File::create(logs.join("lock")).context("cannot create the lock file of this checkout")?;
    lock.try_lock().with_context(|| {
        let root = setting.root.display();
        format!("test-runner already runs in {root}; wait until the other run has ended")
    })?;
    // The logs of an earlier run are deleted, so that they are not mistaken for logs of this run.
    for entry in fs::read_dir(&logs).with_context(|| format!("cannot read {}", logs.display()))? {
        let path = entry
            .with_context(|| format!("cannot read {}", logs.display()))?
            .path();
        if path
            .extension()
            .is_some_and(|extension| extension == "log" || extension == "md")
        {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut schedule = Schedule::new(cores.min(MOST_CORES), jobs);
    let mut signals = Signals::new()?;
    let began = Instant::now();
    let mut running = JoinSet::new();
    let mut groups: BTreeMap<&'static str, Pid> = BTreeMap::new();
    let mut rows = Vec::new();
    while !schedule.is_over() {
        for job in schedule.start() {
            let started = began.elapsed();
            print_event(started, &format!("{} started", job.name));
            let child = spawn(setting, &job);
            if let Ok((child, _)) = &child
                && let Some(group) = group_of(child)
            {
                groups.insert(job.name, group);
            }
            let log = log_of(&logs, job.name);
            let live = setting.live;
            running.spawn(async move {
                let began = Instant::now();
                let (tests, outcome) = match child {
                    Ok((child, output)) => follow(&job, child, output, log, live).await,
                    Err(error) => (Tests::default(), Outcome::Failed(format!("{error:#}"))),
                };
                EndedJob {
                    job,
                    started,
                    took: began.elapsed(),
                    tests,
                    outcome,
                }
            });
        }
        let ended = tokio::select! {
            ended = running.join_next() => ended.context("no job can start")?.context("a task of a job has failed"),
            () = signals.next() => Err(anyhow::anyhow!("interrupted")),
        };
        let ended = match ended {
            Ok(ended) => ended,
            Err(error) => {
                stop(&groups, running).await;
                bail!("{error:#}; all jobs were ended");
            }
        };
        groups.remove(ended.job.name);
        print_event(began.elapsed(), &describe(&ended));
        let is_shown = ended.job.is_shown || ended.outcome != Outcome::Passed;
        if is_shown && !setting.live {
            output::show_end(&log_of(&logs, ended.job.name));
        }
        let skipped = schedule.end(ended.job.name, ended.outcome.clone());
        rows.push(Row {
            job: ended.job.name,
            started: ended.started,
            took: ended.took,
            tests: ended.tests,
            outcome: ended.outcome,
        });
        for job in skipped {
            rows.push(Row {
                job,
                started: began.elapsed(),
                took: Duration::ZERO,
                tests: Tests::default(),
                outcome: schedule
                    .outcome(job)
                    .cloned()
                    .context("a skipped job has no result")?,
            });
        }
    }
    Ok(RunResult {
        rows,
        took: began.elapsed(),
    })
}

/// The signals that end a run.
#[derive(Debug)]
struct Signals([tokio::signal::unix::Signal; 4]);

impl Signals {
    fn new() -> Result<Self> {
        let on = |kind| signal(kind).context("cannot wait for signals");
        Ok(Self([
            on(SignalKind::interrupt())?,
            on(SignalKind::terminate())?,
            on(SignalKind::hangup())?,
            on(SignalKind::quit())?,
        ]))
    }

    async fn next(&mut self) {
        let [interrupt, terminate, hang_up, quit] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hang_up.recv() => {}
            _ = quit.recv() => {}
        }
    }
}

async fn stop(groups: &BTreeMap<&'static str, Pid>, mut running: JoinSet<EndedJob>) {
    signal_all(groups, Signal::SIGTERM);
    let all_end = async { while running.join_next().await.is_some() {} };
    if timeout(GRACE, all_end).await.is_err() {
        signal_all(groups, Signal::SIGKILL);
    }
}

fn signal_all(groups: &BTreeMap<&'static str, Pid>, signal: Signal) {
    for group in groups.values() {
        // An error is ignored: it means that all processes of the group have ended.
        let _ = killpg(*group, signal);
    }
}

/// Starts the command of a job in a new process group, so that all processes of the job can be
/// ended together. Standard output and standard error go to one pipe, in the order in which they
/// are printed.
fn spawn(setting: &RunSetting, job: &Job) -> Result<(Child, pipe::Receiver)> {
    let is_background = job.cpu == CpuDemand::Background;
    let mut words: Vec<&str> = match is_background {
        // setsid starts a new session, and with it a new process group.
        true => vec!["setsid", "sh", "-c", IN_BACKGROUND, "background"],
        false => Vec::new(),
    };
    words.extend(job.command.iter().map(String::as_str));
    let (program, arguments) = words.split_first().context("the job has no command")?;
    let (reader, writer) = std::io::pipe().context("cannot create a pipe")?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .envs(job.environment.iter().map(|(name, value)| (*name, value)))
        .current_dir(&setting.root)
        .stdin(Stdio::null())
        .stdout(writer.try_clone().context("cannot duplicate a pipe")?)
        .stderr(writer);
    if !is_background {
        command.process_group(0);
    }
    let child = command
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    // `command` also holds the write end of the pipe. Without this drop, the reader would never see
    // the end of the output.
    drop(command);
    let output = pipe::Receiver::from_owned_fd(reader.into()).context("cannot register a pipe")?;
    Ok((child, output))
}

fn group_of(child: &Child) -> Option<Pid> {
    let id = child.id()?;
    i32::try_from(id).ok().map(Pid::from_raw)
}

async fn follow(
    job: &Job,
    mut child: Child,
    output: pipe::Receiver,
    log: PathBuf,
    live: bool,
) -> (Tests, Outcome) {
    let group = group_of(&child);
    let mut record = tokio::spawn(output::record(output, log, live.then_some(job.name)));
    let (status, is_overdue) = match timeout(job.limit, child.wait()).await {
        Ok(status) => (status, false),
        Err(_) => (end(&mut child, group).await, true),
    };
    let recorded = timeout(GRACE, &mut record).await;
    if let Some(group) = group {
        // Kills processes of the job that run after the end of its command, which is rare. An error
        // is ignored: it means that there are none.
        let _ = killpg(group, Signal::SIGKILL);
    }
    let failed = |reason: String| (Tests::default(), Outcome::Failed(reason));
    match recorded {
        _ if is_overdue => failed(format!(
            "the command has not ended after {} s",
            job.limit.as_secs()
        )),
        Ok(Ok(Ok(tests))) => (tests, outcome(job, status, tests)),
        Ok(Ok(Err(error))) => failed(format!("{error:#}")),
        Ok(Err(error)) => failed(format!("the output was not recorded: {error}")),
        Err(_) => failed("a process that the command has left keeps the output open".to_owned()),
    }
}

async fn end(child: &mut Child, group: Option<Pid>) -> std::io::Result<ExitStatus> {
    if let Some(group) = group {
        // An error is ignored: it means that all processes of the group have ended.
        let _ = killpg(group, Signal::SIGTERM);
        if let Ok(status) = timeout(GRACE, child.wait()).await {
            return status;
        }
        let _ = killpg(group, Signal::SIGKILL);
    }
    child.wait().await
}

fn outcome(job: &Job, status: std::io::Result<ExitStatus>, tests: Tests) -> Outcome {
    let missing = tests.announced.saturating_sub(tests.ran() + tests.skipped);
    Outcome::Failed(match status {
        Err(error) => format!("cannot wait for the command: {error}"),
        Ok(status) if !status.success() => status.to_string(),
        Ok(_) if tests.failed > 0 => format!("{} tests failed", tests.failed),
        Ok(_) if missing > 0 => format!("{missing} tests have started and reported no result"),
        Ok(_) if job.has_tests && tests.ran() == 0 => "the command reported no test".to_owned(),
        Ok(_) => return Outcome::Passed,
    })
}

fn describe(ended: &EndedJob) -> String {
    let tests = match ended.tests.ran() {
        0 => String::new(),
        count => format!(", {count} tests"),
    };
    let (name, seconds) = (ended.job.name, ended.took.as_secs());
    match &ended.outcome {
        Outcome::Passed => format!("{name} passed in {seconds} s{tests}"),
        Outcome::Failed(reason) => format!("{name} FAILED after {seconds} s{tests}: {reason}"),
        Outcome::NotRun { because_of } => {
            format!("{name} not run, because {because_of} has not passed")
        }
    }
}

fn log_of(logs: &Path, job: &str) -> PathBuf {
    logs.join(format!("{job}.log"))
}

fn print_event(at: Duration, text: &str) {
    let seconds = at.as_secs();
    print_line(&format!("[{:>2}:{:02}] {text}", seconds / 60, seconds % 60));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a shell script as a job that must report tests. Returns the counts of the tests that
    /// the script reports, and the result of the job.
    fn run_script(script: &str) -> (Tests, Outcome) {
        let root = tempfile::tempdir().unwrap();
        let setting = RunSetting {
            root: root.path().to_owned(),
            // With `live`, each printed line begins with the name of the job. So the test-runner
            // that runs this test does not count the results that the script prints.
            live: true,
        };
        let job = Job::new("script", &["bash", "-c", script])
            .within(Duration::from_secs(5))
            .runs_tests();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let mut report = runtime.block_on(run(&setting, vec![job])).unwrap();
        let row = report.rows.remove(0);
        (row.tests, row.outcome)
    }

    fn assert_failure(script: &str, reason: &str) {
        match run_script(script).1 {
            Outcome::Failed(text) => assert!(text.contains(reason), "{text}"),
            other @ (Outcome::Passed | Outcome::NotRun { .. }) => panic!("{other:?}"),
        }
    }

    const RESULT: &str = "echo 'test result: ok. 2 passed; 0 failed; 0 ignored'";

    #[test]
    fn a_job_passes_when_its_command_succeeds_and_every_announced_test_has_a_result() {
        let (tests, outcome) = run_script(&format!("echo 'running 2 tests' >&2; {RESULT}"));
        assert_eq!(outcome, Outcome::Passed);
        assert_eq!((tests.passed, tests.announced), (2, 2));
    }

    #[test]
    fn a_job_fails_when_its_command_fails_although_all_tests_pass() {
        assert_failure(&format!("{RESULT}; exit 3"), "exit status: 3");
        assert_failure(&format!("{RESULT}; kill -SEGV $$"), "SIGSEGV");
    }

    #[test]
    fn a_job_fails_when_a_test_binary_ends_without_a_result() {
        assert_failure(
            &format!("{RESULT}; echo 'running 7 tests'"),
            "5 tests have started",
        );
    }

    #[test]
    fn a_job_fails_when_a_test_fails_although_its_command_succeeds() {
        assert_failure(
            "echo 'test result: FAILED. 1 passed; 1 failed; 0 ignored'",
            "1 tests failed",
        );
    }

    #[test]
    fn a_job_fails_when_it_reports_no_test_or_cannot_start() {
        assert_failure("true", "reported no test");
        let root = tempfile::tempdir().unwrap();
        let setting = RunSetting {
            root: root.path().to_owned(),
            // With `live`, each printed line begins with the name of the job. So the test-runner
            // that runs this test does not count the results that the script prints.
            live: true,
        };
        let jobs = vec![Job::new("missing", &["/no/such/program"])];
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let report = runtime.block_on(run(&setting, jobs)).unwrap();
        assert!(
            matches!(&report.rows[0].outcome, Outcome::Failed(text) if text.contains("/no/such"))
        );
    }

    #[test]
    fn a_job_that_exceeds_its_time_limit_fails() {
        assert_failure("sleep 600 & sleep 601", "has not ended after 5 s");
    }
}
