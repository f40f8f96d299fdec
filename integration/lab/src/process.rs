//! Processes of the lab: their start, their output and their end.

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

/// The longest wait for the end of a process after SIGTERM, and the longest wait after SIGKILL.
const TERMINATION: Duration = Duration::from_secs(3);
/// The largest number of lines of the output that [`Process::tail`] returns.
const TAIL: usize = 30;

/// A handle to a started process, which leads its own process group. All clones of a handle refer
/// to one process. The [`Lab`](crate::Lab) ends the process.
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
    // Whether the output is closed. The output can be closed before or after the end of the
    // process.
    is_closed: bool,
    ended: Option<(Instant, ExitStatus)>,
}

impl Process {
    /// Starts `command` in the namespace of the calling thread. Its standard output and its
    /// standard error go to one log.
    pub(crate) fn spawn(name: &str, log: &Path, mut command: Command) -> Result<Self> {
        use std::os::unix::process::CommandExt as _;
        let mut file =
            File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
        let (reader, writer) = io::pipe().context("cannot create a pipe")?;
        let child = command
            .stdin(Stdio::null())
            .stdout(writer.try_clone().context("cannot duplicate a pipe")?)
            .stderr(writer)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {:?}", command.get_program()))?;
        // `command` also holds the write end of the pipe. Without this drop, the reader would never
        // see the end of the output.
        drop(command);
        let process = Self {
            name: name.to_owned(),
            pid: Pid::from_raw(i32::try_from(child.id()).context("the process id is not an i32")?),
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

    /// Starts a process that the kernel kills when this program ends for any reason, also by
    /// SIGKILL. Used for processes outside of the lab's namespaces, which would otherwise survive
    /// this program.
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
        // PR_SET_PDEATHSIG kills the process at the end of the thread that has started it, see
        // prctl(2). So this thread must exist until the process or this program ends.
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
        starts
            .recv()
            .context("the thread that starts the process has panicked")?
    }

    /// Returns the name of the process, which is also the name of its log.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the process id, as seen from the process namespace of this program.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw().unsigned_abs()
    }

    /// Returns the path of the log.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Reports whether the process has not ended. The result is also true for a process that
    /// SIGSTOP has stopped.
    pub fn is_running(&self) -> bool {
        self.shared.lock().ended.is_none()
    }

    /// Sends a signal to this process, not to its process group. Returns an error if the process
    /// has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        // While this thread holds the lock, no thread reaps the process. So no new process can have
        // its id.
        let state = self.shared.lock();
        if let Some((_, status)) = state.ended {
            bail!(
                "cannot send {signal} to {}: it has ended ({status})",
                self.name
            );
        }
        kill(self.pid, signal).with_context(|| format!("cannot send {signal} to {}", self.name))
    }

    /// Sends SIGKILL and waits until the process has ended.
    pub fn kill(&self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.wait(TERMINATION).map(drop)
    }

    /// Waits until the process has ended, and returns its exit status.
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

    /// Waits for a line of output that contains `text`. Returns the line and the time at which it
    /// was read. Returns an error immediately if the process ends without this line.
    pub fn wait_for_line(&self, text: &str, within: Duration) -> Result<(Instant, String)> {
        self.wait_for_line_after(0, text, within)
    }

    /// Waits for a line like [`wait_for_line`](Self::wait_for_line), but ignores the first
    /// `skipped` lines of the output.
    pub fn wait_for_line_after(
        &self,
        skipped: usize,
        text: &str,
        within: Duration,
    ) -> Result<(Instant, String)> {
        let what = format!("{} prints a line with {text:?}", self.name);
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

    /// Returns all lines of the output so far.
    pub fn lines(&self) -> Vec<String> {
        let state = self.shared.lock();
        state.lines.iter().map(|(_, line)| line.clone()).collect()
    }

    /// Returns the time of the end of the process, or `None` if it runs.
    pub fn ended_at(&self) -> Option<Instant> {
        self.shared.lock().ended.map(|(at, _)| at)
    }

    /// Sends SIGTERM to the process group, and SIGKILL if the process has not ended after
    /// `TERMINATION`.
    pub(crate) fn end(&self) {
        self.signal_group(Signal::SIGTERM);
        // A process that SIGSTOP has stopped handles SIGTERM only after SIGCONT.
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

    /// Returns the last lines of the output, with a heading and the exit status.
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
        mut find: impl FnMut(&State) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + within;
        let mut state = self.shared.lock();
        loop {
            if let Some(found) = find(&state) {
                return Ok(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(state);
                bail!(
                    "timed out after {within:?}, waiting for: {what}\n{}",
                    self.tail()
                );
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

    /// Waits for the end of the process and reaps the process while this thread holds the lock. So
    /// no signal goes to a new process with the same id.
    fn await_end(&self, pid: Pid, mut child: Child) {
        let _ = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
        let at = Instant::now();
        let mut state = self.lock();
        // `wait` cannot fail: the process has ended, and only this thread reaps it.
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
    fn lines_of_standard_output_and_standard_error_are_found_and_written_to_the_log() {
        let (_directory, process) = shell("echo ready; echo trouble >&2; exec sleep 60");
        process.wait_for_line("ready", SOON).unwrap();
        process.wait_for_line("trouble", SOON).unwrap();
        let log = std::fs::read_to_string(process.log()).unwrap();
        assert!(log.contains("ready\ntrouble\n"), "{log:?}");
        process.end();
    }

    #[test]
    fn waiting_for_a_line_fails_immediately_when_the_process_ends() {
        let (_directory, process) = shell("echo last words; exit 3");
        let error = process.wait_for_line("ready", Duration::from_secs(600));
        let text = format!("{:#}", error.unwrap_err());
        assert!(
            text.contains("last words") && text.contains("exit status: 3"),
            "{text}"
        );
    }

    #[test]
    fn a_process_that_ignores_sigterm_is_killed_together_with_its_children() {
        let (_directory, process) = shell("trap '' TERM; sleep 60 & echo $!; wait; wait");
        let (_, child) = process.wait_for_line("", SOON).unwrap();
        process.end();
        let status = process.wait(SOON).unwrap();
        assert_eq!(status.signal(), Some(Signal::SIGKILL as i32));
        crate::wait_for("the child has ended", SOON, || {
            // A zombie counts as ended, because the init process can reap it some time later.
            let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            crate::ensure_that(stat.is_empty() || stat.contains(") Z "), stat)
        })
        .unwrap();
    }

    #[test]
    fn a_signal_to_an_ended_process_is_an_error() {
        let (_directory, process) = shell("exit 0");
        process.wait(SOON).unwrap();
        let error = process.signal(Signal::SIGTERM).unwrap_err().to_string();
        assert!(error.contains("has ended (exit status: 0)"), "{error}");
        assert!(!process.is_running());
    }
}
