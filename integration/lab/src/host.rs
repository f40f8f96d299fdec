//! One host of a lab: what runs inside its network namespace.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, bail};

use crate::lab::{Directory, feed};
use crate::namespace::{Namespace, enter, write_sysctl};
use crate::process::Process;

/// A host that is up. Cheap to clone; useless once its lab is gone.
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

    /// Its name, also that of its namespace under `/run/netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `task` on a thread inside the namespace and gives its result;
    /// sockets and processes that it makes belong to the namespace.
    pub fn inside<T: Send>(&self, task: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.namespace
            .inside(task)
            .with_context(|| format!("on host {}", self.name))
    }

    /// The same for a future, on a runtime of one thread that ends with it; for
    /// instance a gRPC call to a daemon that listens on this host's loopback.
    pub fn inside_async<T: Send>(&self, task: impl AsyncFnOnce() -> Result<T> + Send) -> Result<T> {
        self.inside(|| block_on(task())?)
    }

    /// Starts a thread that stays inside the namespace.
    pub fn spawn_inside<T: Send + 'static>(
        &self,
        task: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<T>> {
        let namespace = self.namespace.clone();
        let file = namespace.open()?;
        thread::Builder::new()
            .name(self.name.clone())
            .spawn(move || {
                enter(&file).expect("root may enter a namespace that it made");
                task()
            })
            .with_context(|| format!("start a thread on host {}", self.name))
    }

    /// Starts a process that the lab will end; it and its log are named
    /// `<host>.<name>`.
    pub fn start(&self, name: &str, command: Command) -> Result<Process> {
        let name = format!("{}.{name}", self.name);
        let log = self.directory.free_log(&name);
        let process = self.inside(|| Process::spawn(&name, &log, command))?;
        self.directory.processes().push(process.clone());
        Ok(process)
    }

    /// Runs a command to its end and gives its standard output; an error
    /// with both outputs when it fails.
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
                .with_context(|| format!("start {command:?}"))
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

    /// Runs `ip -batch` on these lines.
    pub fn ip(&self, batch: &str) -> Result<()> {
        self.inside(|| feed("ip", &["-batch", "-"], &format!("{batch}\n")))
    }

    /// Loads rules with `nft -f`.
    pub fn nft(&self, rules: &str) -> Result<()> {
        self.inside(|| feed("nft", &["-f", "-"], rules))
    }

    /// Loads IPVS entries in the form that `ipvsadm --restore` reads.
    pub fn ipvs(&self, entries: &str) -> Result<()> {
        self.inside(|| feed("ipvsadm", &["--restore"], entries))
    }

    /// Sets a sysctl below `net/`, for instance `ipv4/vs/sloppy_tcp`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.inside(|| write_sysctl(&format!("net/{key}"), value))
    }

    /// Writes a file for a process of this host; its name begins with the host's.
    pub fn write(&self, file: &str, text: &str) -> Result<PathBuf> {
        self.directory.write(&format!("{}.{file}", self.name), text)
    }

    /// Where this host's sockets belong.
    pub fn run_directory(&self) -> Result<PathBuf> {
        let path = self.directory.run().join(&self.name);
        std::fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(path)
    }

    /// The namespace, for `ip netns`-like tools and for netlink sockets.
    pub fn namespace(&self) -> &Path {
        self.namespace.path()
    }

    /// Ends every process that was started on this host.
    pub(crate) fn end_processes(&self) {
        let prefix = format!("{}.", self.name);
        let mut processes = self.directory.processes().clone();
        processes.retain(|process| process.name().starts_with(&prefix));
        for process in processes {
            process.end();
        }
    }
}

/// Runs a future on the calling thread, in whatever namespace it is.
pub(crate) fn block_on<T>(task: impl Future<Output = T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("make a runtime")?;
    Ok(runtime.block_on(task))
}
