//! A host of the lab: a network namespace and its processes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, bail};

use crate::lab::{Directory, feed};
use crate::namespace::{Namespace, enter, write_sysctl};
use crate::process::Process;

/// A handle to a host of a running lab. The handle is unusable after the [`Lab`](crate::Lab) has
/// been dropped.
#[derive(Debug, Clone)]
pub struct Host {
    name: String,
    namespace: Arc<Namespace>,
    directory: Arc<Directory>,
}

impl Host {
    pub(crate) fn new(name: &str, namespace: Arc<Namespace>, directory: Arc<Directory>) -> Self {
        Self {
            name: name.to_owned(),
            namespace,
            directory,
        }
    }

    /// Returns the host's name, which is also the name of its namespace in `/run/netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `task` on a new thread inside the namespace and returns the result of `task`. Sockets
    /// and processes that `task` creates belong to the namespace.
    pub fn inside<T: Send>(&self, task: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.namespace
            .inside(task)
            .with_context(|| format!("on host {}", self.name))
    }

    /// Runs a future on a new thread inside the namespace and returns the result of the future. A
    /// future can send gRPC requests to a daemon that listens on the loopback address of this host.
    /// Tasks that the future has spawned end when the future has returned its result.
    pub fn inside_async<T: Send>(&self, task: impl AsyncFnOnce() -> Result<T> + Send) -> Result<T> {
        self.inside(|| block_on(task())?)
    }

    /// Starts a thread inside the namespace and returns without waiting for the thread.
    pub fn spawn_inside<T: Send + 'static>(
        &self,
        task: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<T>> {
        let namespace = self.namespace.clone();
        let file = namespace.open()?;
        thread::Builder::new()
            .name(self.name.clone())
            .spawn(move || {
                enter(&file).expect("root can enter a namespace of the lab");
                task()
            })
            .with_context(|| format!("cannot start a thread on host {}", self.name))
    }

    /// Starts a process on this host. The process has the name `<host>.<name>`. Its log is
    /// `<host>.<name>.log`, or `<host>.<name>.<count>.log` after `count` earlier processes with
    /// this name. The lab ends the process when the lab is dropped.
    pub fn start(&self, name: &str, command: Command) -> Result<Process> {
        let name = format!("{}.{name}", self.name);
        let log = self.directory.free_log(&name);
        let process = self.inside(|| Process::spawn(&name, &log, command))?;
        self.directory.processes().push(process.clone());
        Ok(process)
    }

    /// Runs a command and returns its standard output. If the command fails, the error contains
    /// both outputs of the command.
    pub fn output<I, S>(&self, program: &str, arguments: I) -> Result<String>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<std::ffi::OsStr>,
    {
        let mut command = Command::new(program);
        command.args(arguments);
        let output = self.inside(|| {
            command
                .output()
                .with_context(|| format!("cannot start {command:?}"))
        })?;
        if !output.status.success() {
            bail!(
                "on host {}: {command:?} failed ({}): {}{}",
                self.name,
                output.status,
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs the lines of `batch` with `ip -batch`.
    pub fn ip(&self, batch: &str) -> Result<()> {
        self.inside(|| feed("ip", &["-batch", "-"], &format!("{batch}\n")))
    }

    /// Loads nftables rules with `nft -f`.
    pub fn nft(&self, rules: &str) -> Result<()> {
        self.inside(|| feed("nft", &["-f", "-"], rules))
    }

    /// Loads IPVS entries in the form that `ipvsadm --restore` reads.
    pub fn ipvs(&self, entries: &str) -> Result<()> {
        self.inside(|| feed("ipvsadm", &["--restore"], entries))
    }

    /// Sets a sysctl below `net/`, such as `ipv4/vs/sloppy_tcp`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.inside(|| write_sysctl(&format!("net/{key}"), value))
    }

    /// Writes the file `<host>.<file>` into the lab's directory and returns its path.
    pub fn write(&self, file: &str, text: &str) -> Result<PathBuf> {
        self.directory.write(&format!("{}.{file}", self.name), text)
    }

    /// Returns the folder, in memory, for sockets and other short-lived files of this host.
    pub fn run_directory(&self) -> Result<PathBuf> {
        let path = self.directory.run().join(&self.name);
        std::fs::create_dir_all(&path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        Ok(path)
    }

    /// Returns the path of the network namespace. Tools such as `ip link set DEVICE netns PATH`
    /// need this path.
    pub fn namespace(&self) -> &Path {
        self.namespace.path()
    }

    /// Ends all processes of this host.
    pub(crate) fn end_processes(&self) {
        let prefix = format!("{}.", self.name);
        let mut processes = self.directory.processes().clone();
        processes.retain(|process| process.name().starts_with(&prefix));
        for process in processes {
            process.end();
        }
    }
}

/// Runs a future on the calling thread, in the network namespace of this thread.
pub(crate) fn block_on<T>(task: impl Future<Output = T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot create a runtime")?;
    Ok(runtime.block_on(task))
}
