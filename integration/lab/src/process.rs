//! A process in a namespace: its output line by line, its signals, its end.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

const TERMINATION: Duration = Duration::from_secs(3);
const TAIL: usize = 30;

/// A started process, the leader of its own process group. Clones are handles
/// of the same process; the [`Lab`](crate::Lab) ends it.
#[derive(Debug, Clone)]
pub struct Process {
    name: String,
    pid: Pid,
    log: PathBuf,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<(Instant, String)>,
    // The end of the output may be seen before or after that of the process.
    is_closed: bool,
    ended: Option<(Instant, ExitStatus)>,
}

impl Process {
    /// Starts `command` from the calling thread, in whose namespace it will be.
    /// Both of its outputs go to one log.
    pub(crate) fn spawn(name: &str, log: &Path, mut command: Command) -> Result<Self> {
        use std::os::unix::process::CommandExt as _;
        let mut file = File::create(log).with_context(|| format!("make {}", log.display()))?;
        let (reader, writer) = io::pipe().context("make a pipe")?;
        let child = command
            .stdin(Stdio::null())
            .stdout(writer.try_clone().context("share a pipe")?)
            .stderr(writer)
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {:?}", command.get_program()))?;
        // The command holds the write end; the log ends with the process.
        drop(command);
        let process = Self {
            name: name.to_owned(),
            pid: Pid::from_raw(i32::try_from(child.id()).context("a process id is an i32")?),
            log: log.to_owned(),
            shared: Arc::default(),
        };

        let shared = process.shared.clone();
        thread::spawn(move || {
            let mut reader = BufReader::new(reader);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                let _ = file.write_all(&line);
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                shared.lock().lines.push((Instant::now(), text));
                shared.changed.notify_all();
                line.clear();
            }
            shared.lock().is_closed = true;
            shared.changed.notify_all();
        });
        let (shared, pid) = (process.shared.clone(), process.pid);
        thread::spawn(move || shared.await_end(pid, child));
        Ok(process)
    }

    /// Like `spawn`, but the process is killed when this program ends, however
    /// it ends: for one that stands in no namespace that would end with it.
    pub fn spawn_bound(name: &str, log: &Path, command: Command) -> Result<Self> {
        let mut bound = Command::new("setpriv");
        bound
            .args(["--pdeathsig", "KILL", "--"])
            .arg(command.get_program())
            .args(command.get_args());
        for (variable, value) in command.get_envs() {
            match value {
                Some(value) => bound.env(variable, value),
                None => bound.env_remove(variable),
            };
        }
        // To the kernel, the thread that starts a process is its parent: one
        // that lives as long as the process, but no longer than this program.
        let (started, starts) = mpsc::channel();
        let (name, log) = (name.to_owned(), log.to_owned());
        thread::spawn(move || {
            let process = Self::spawn(&name, &log, bound);
            let running = process.as_ref().ok().cloned();
            if started.send(process).is_ok()
                && let Some(process) = running
            {
                process.wait_for_end();
            }
        });
        starts.recv().context("the starting thread has panicked")?
    }

    /// The name of the process in its lab, also of its log.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id, in the lab's process namespace.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw().unsigned_abs()
    }

    /// Where its output is kept.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Whether it has not ended; a stopped process runs in this sense.
    pub fn is_running(&self) -> bool {
        self.shared.lock().ended.is_none()
    }

    /// Sends a signal to this process alone; an error if it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        // Under the lock the process is not yet reaped, so its id is its own.
        let state = self.shared.lock();
        if let Some((_, status)) = state.ended {
            bail!(
                "{} has ended ({status}), {signal} cannot reach it",
                self.name
            );
        }
        kill(self.pid, signal).with_context(|| format!("send {signal} to {}", self.name))
    }

    /// SIGKILL, and returns once it is dead.
    pub fn kill(&self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.wait(TERMINATION).map(drop)
    }

    /// Waits until it has ended.
    pub fn wait(&self, within: Duration) -> Result<ExitStatus> {
        self.until(&format!("{} ends", self.name), within, |state| {
            state.ended.map(|(_, status)| status)
        })
    }

    fn wait_for_end(&self) {
        let mut state = self.shared.lock();
        while state.ended.is_none() {
            state = self
                .shared
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for a line of output that contains `text`; returns when it was
    /// written and the line. An error at once if the process ends without it.
    pub fn wait_for_line(&self, text: &str, within: Duration) -> Result<(Instant, String)> {
        self.wait_for_line_after(0, text, within)
    }

    /// The same, not counting the first `skipped` lines.
    pub fn wait_for_line_after(
        &self,
        skipped: usize,
        text: &str,
        within: Duration,
    ) -> Result<(Instant, String)> {
        let what = format!("{} says {text:?}", self.name);
        self.until(&what, within, |state| {
            let mut lines = state.lines.iter().skip(skipped);
            match lines.find(|(_, line)| line.contains(text)) {
                Some(found) => Some(Ok(found.clone())),
                None => state.ended.filter(|_| state.is_closed).map(|(_, status)| {
                    Err(anyhow!("{} ended ({status}) before: {what}", self.name))
                }),
            }
        })?
        .map_err(|error| error.context(self.tail()))
    }

    /// Every line so far.
    pub fn lines(&self) -> Vec<String> {
        let state = self.shared.lock();
        state.lines.iter().map(|(_, line)| line.clone()).collect()
    }

    /// When it ended, if it has.
    pub fn ended_at(&self) -> Option<Instant> {
        self.shared.lock().ended.map(|(at, _)| at)
    }

    /// SIGTERM to the whole group, SIGKILL when it does not follow in time.
    pub(crate) fn end(&self) {
        self.signal_group(Signal::SIGTERM);
        // A stopped process would not see it.
        self.signal_group(Signal::SIGCONT);
        if self.wait(TERMINATION).is_err() {
            self.signal_group(Signal::SIGKILL);
            let _ = self.wait(TERMINATION);
        }
    }

    pub(crate) fn signal_group(&self, signal: Signal) {
        let state = self.shared.lock();
        if state.ended.is_none() {
            let _ = killpg(self.pid, signal);
        }
    }

    /// The last lines of its output, with a heading.
    pub fn tail(&self) -> String {
        let state = self.shared.lock();
        let first = state.lines.len().saturating_sub(TAIL);
        let mut text = format!("--- {} ({}) ---", self.name, self.log.display());
        for (_, line) in &state.lines[first..] {
            text.push('\n');
            text.push_str(line);
        }
        if let Some((_, status)) = state.ended {
            text.push_str(&format!("\n--- {}: {status}", self.name));
        }
        text
    }

    fn until<T>(
        &self,
        what: &str,
        within: Duration,
        mut look: impl FnMut(&State) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + within;
        let mut state = self.shared.lock();
        loop {
            if let Some(found) = look(&state) {
                return Ok(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(state);
                bail!("not within {within:?}: {what}\n{}", self.tail());
            }
            state = self
                .shared
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reaps under the lock, so that no signal goes to a recycled process id.
    fn await_end(&self, pid: Pid, mut child: Child) {
        let _ = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
        let at = Instant::now();
        let mut state = self.lock();
        // Cannot fail: it has ended and nobody else reaps it.
        if let Ok(status) = child.wait() {
            state.ended = Some((at, status));
        }
        drop(state);
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn shell(script: &str) -> (tempfile::TempDir, Process) {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let log = directory.path().join("shell.log");
        let process = Process::spawn("shell", &log, command).unwrap();
        (directory, process)
    }

    #[test]
    fn a_line_of_either_output_is_seen_and_kept_in_the_log() {
        let (_directory, process) = shell("echo ready; echo trouble >&2; exec sleep 60");
        process.wait_for_line("ready", SOON).unwrap();
        process.wait_for_line("trouble", SOON).unwrap();
        let log = std::fs::read_to_string(process.log()).unwrap();
        assert!(log.contains("ready\ntrouble\n"), "{log:?}");
        process.end();
    }

    #[test]
    fn a_line_that_cannot_come_any_more_is_an_error_at_once() {
        let (_directory, process) = shell("echo last words; exit 3");
        let error = process.wait_for_line("ready", Duration::from_secs(600));
        let text = format!("{:#}", error.unwrap_err());
        assert!(
            text.contains("last words") && text.contains("exit status: 3"),
            "{text}"
        );
    }

    #[test]
    fn a_process_that_ignores_sigterm_is_killed_with_its_children() {
        let (_directory, process) = shell("trap '' TERM; sleep 60 & echo $!; wait; wait");
        let (_, child) = process.wait_for_line("", SOON).unwrap();
        process.end();
        let status = process.wait(SOON).unwrap();
        assert_eq!(status.signal(), Some(Signal::SIGKILL as i32));
        crate::wait_for("the child is gone", SOON, || {
            // Its own init may not have reaped it.
            let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            crate::ensure_that(stat.is_empty() || stat.contains(") Z "), stat)
        })
        .unwrap();
    }

    #[test]
    fn a_signal_to_an_ended_process_is_refused() {
        let (_directory, process) = shell("exit 0");
        process.wait(SOON).unwrap();
        let error = process.signal(Signal::SIGTERM).unwrap_err().to_string();
        assert!(error.contains("has ended (exit status: 0)"), "{error}");
        assert!(!process.is_running());
    }
}
