//! Starts jobs, keeps what they print, and ends them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::job::{Job, Load, Outcome};
use crate::schedule::Schedule;
use crate::summary::{Row, Tests};

/// Between SIGTERM and SIGKILL of a job that is to end: a guest needs a moment to end with its
/// network namespaces.
const GRACE: Duration = Duration::from_secs(20);
/// Lines of a failed job's output that are shown; the whole output stays in its log.
const SHOWN_LINES: usize = 400;
/// Lines that may wait for the writer of a log; a job that prints faster waits.
const LINES: usize = 1024;

/// Where and how a run takes place.
#[derive(Debug)]
pub(crate) struct Setting {
    /// The root of the repository.
    pub(crate) root: PathBuf,
    /// Whether output is shown as it is printed.
    pub(crate) live: bool,
}

/// What a run brought.
#[derive(Debug)]
pub(crate) struct Report {
    /// In the order in which the jobs ended.
    pub(crate) rows: Vec<Row>,
    pub(crate) took: Duration,
}

#[derive(Debug)]
struct Ended {
    job: Job,
    started: Duration,
    took: Duration,
    tests: Tests,
    outcome: Outcome,
}

/// Runs all jobs; returns when each has ended. SIGINT and SIGTERM end every job first and are an
/// error.
pub(crate) async fn run(setting: &Setting, jobs: Vec<Job>) -> Result<Report> {
    let logs = setting.root.join("target/test-runner");
    fs::create_dir_all(&logs).with_context(|| format!("make {}", logs.display()))?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut schedule = Schedule::new(cores, jobs);
    let (mut interrupts, mut terminations) = (
        signal(SignalKind::interrupt()).context("wait for SIGINT")?,
        signal(SignalKind::terminate()).context("wait for SIGTERM")?,
    );
    let began = Instant::now();
    let mut running = JoinSet::new();
    let mut groups: BTreeMap<&'static str, Pid> = BTreeMap::new();
    let mut rows = Vec::new();
    while !schedule.is_over() {
        for job in schedule.start() {
            let started = began.elapsed();
            say(started, &format!("{} started", job.name));
            let child = spawn(setting, &job).with_context(|| format!("start {}", job.name))?;
            if let Some(group) = group_of(&child) {
                groups.insert(job.name, group);
            }
            let log = log_of(&logs, job.name);
            let live = setting.live;
            running.spawn(async move { follow(job, child, &log, live, started).await });
        }
        let ended = tokio::select! {
            ended = running.join_next() => ended.context("no job can start any more")??,
            _ = interrupts.recv() => return stop(&groups, running).await,
            _ = terminations.recv() => return stop(&groups, running).await,
        };
        groups.remove(ended.job.name);
        say(began.elapsed(), &describe(&ended));
        if matches!(ended.outcome, Outcome::Failed(_)) && !setting.live {
            show_end(&log_of(&logs, ended.job.name));
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
                    .context("a skipped job has ended")?,
            });
        }
    }
    Ok(Report {
        rows,
        took: began.elapsed(),
    })
}

async fn stop(groups: &BTreeMap<&'static str, Pid>, mut running: JoinSet<Ended>) -> Result<Report> {
    signal_all(groups, Signal::SIGTERM);
    let all_end = async { while running.join_next().await.is_some() {} };
    if timeout(GRACE, all_end).await.is_err() {
        signal_all(groups, Signal::SIGKILL);
    }
    bail!("interrupted; every job was ended")
}

fn signal_all(groups: &BTreeMap<&'static str, Pid>, signal: Signal) {
    for group in groups.values() {
        // The group may have ended by itself.
        let _ = killpg(*group, signal);
    }
}

/// A process group of its own, so that all of it can be ended.
fn spawn(setting: &Setting, job: &Job) -> Result<Child> {
    let mut words: Vec<&str> = match job.load {
        Load::Background => vec!["chrt", "--idle", "0"],
        Load::Cores(_) | Load::Alone => Vec::new(),
    };
    words.extend(job.command.iter().map(String::as_str));
    let (program, arguments) = words.split_first().context("a job has a command")?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .envs(job.environment.iter().map(|(name, value)| (*name, value)))
        .current_dir(&setting.root)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().with_context(|| format!("start {program}"))
}

fn group_of(child: &Child) -> Option<Pid> {
    let id = child.id()?;
    i32::try_from(id).ok().map(Pid::from_raw)
}

async fn follow(job: Job, mut child: Child, log: &Path, live: bool, started: Duration) -> Ended {
    let began = Instant::now();
    let group = group_of(&child);
    let (sender, lines) = mpsc::channel(LINES);
    let mut readers = JoinSet::new();
    if let Some(stdout) = child.stdout.take() {
        readers.spawn(read(stdout, sender.clone()));
    }
    if let Some(stderr) = child.stderr.take() {
        readers.spawn(read(stderr, sender.clone()));
    }
    drop(sender);
    let mut writer = tokio::spawn(write(lines, log.to_owned(), live.then_some(job.name)));
    let (status, overdue) = match timeout(job.limit, child.wait()).await {
        Ok(status) => (status, false),
        Err(_) => (end(&mut child, group).await, true),
    };
    let (tests, outcome) = match timeout(GRACE, &mut writer).await {
        Ok(Ok(Ok(tests))) => (tests, outcome(&job, status, overdue, tests)),
        Ok(Ok(Err(error))) => (Tests::default(), Outcome::Failed(format!("{error:#}"))),
        Ok(Err(error)) => (
            Tests::default(),
            Outcome::Failed(format!("keep its output: {error}")),
        ),
        Err(_) => {
            let reason = "a process that the command left behind holds its output open";
            (Tests::default(), Outcome::Failed(reason.to_owned()))
        }
    };
    Ended {
        job,
        started,
        took: began.elapsed(),
        tests,
        outcome,
    }
}

async fn end(child: &mut Child, group: Option<Pid>) -> std::io::Result<ExitStatus> {
    if let Some(group) = group {
        // The group may have ended by itself.
        let _ = killpg(group, Signal::SIGTERM);
        if let Ok(status) = timeout(GRACE, child.wait()).await {
            return status;
        }
        let _ = killpg(group, Signal::SIGKILL);
    }
    child.wait().await
}

fn outcome(job: &Job, status: std::io::Result<ExitStatus>, overdue: bool, tests: Tests) -> Outcome {
    match status {
        _ if overdue => Outcome::Failed(format!("not done after {} s", job.limit.as_secs())),
        Err(error) => Outcome::Failed(format!("wait for it: {error}")),
        Ok(status) if !status.success() => Outcome::Failed(status.to_string()),
        Ok(_) if job.has_tests && tests.ran() == 0 => {
            Outcome::Failed("the command ran no test".to_owned())
        }
        Ok(_) => Outcome::Passed,
    }
}

/// Sends each line; bytes that are not UTF-8 are replaced.
async fn read(stream: impl AsyncRead + Unpin, lines: mpsc::Sender<String>) {
    let mut stream = BufReader::new(stream);
    let mut bytes = Vec::new();
    while let Ok(1..) = stream.read_until(b'\n', &mut bytes).await {
        let line = String::from_utf8_lossy(&bytes)
            .trim_end_matches('\n')
            .to_owned();
        bytes.clear();
        if lines.send(line).await.is_err() {
            return;
        }
    }
}

/// Keeps the lines in the log, and shows them behind the job's name where it is given.
async fn write(
    mut lines: mpsc::Receiver<String>,
    log: PathBuf,
    shown_as: Option<&'static str>,
) -> Result<Tests> {
    let mut file = File::create(&log).with_context(|| format!("make {}", log.display()))?;
    let mut tests = Tests::default();
    while let Some(line) = lines.recv().await {
        tests.read_line(&line);
        writeln!(file, "{line}").with_context(|| format!("write {}", log.display()))?;
        if let Some(name) = shown_as {
            println(&format!("{name} | {line}"));
        }
    }
    Ok(tests)
}

fn describe(ended: &Ended) -> String {
    let tests = match ended.tests.ran() {
        0 => String::new(),
        count => format!(", {count} tests"),
    };
    let seconds = ended.took.as_secs();
    match &ended.outcome {
        Outcome::Passed => format!("{} passed in {seconds} s{tests}", ended.job.name),
        Outcome::Failed(reason) => {
            format!(
                "{} FAILED after {seconds} s{tests}: {reason}",
                ended.job.name
            )
        }
        Outcome::NotRun { because_of } => format!("{} needs {because_of}", ended.job.name),
    }
}

fn log_of(logs: &Path, job: &str) -> PathBuf {
    logs.join(format!("{}.log", job.replace(' ', "-")))
}

/// A log that cannot be read is shown as such; the run goes on.
fn show_end(log: &Path) {
    let text = fs::read(log).unwrap_or_else(|error| format!("{error}").into_bytes());
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.len().saturating_sub(SHOWN_LINES);
    println(&format!(
        "--- {} (the last {} lines)",
        log.display(),
        lines.len() - first
    ));
    for line in &lines[first..] {
        println(line);
    }
    println("---");
}

fn say(at: Duration, text: &str) {
    let seconds = at.as_secs();
    println(&format!("[{:>2}:{:02}] {text}", seconds / 60, seconds % 60));
}

/// A reader that has gone must not end the run.
pub(crate) fn println(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}
