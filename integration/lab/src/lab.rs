//! A running network of namespaces, with its processes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result, anyhow, bail};

use crate::environment::Environment;
use crate::host::Host;
use crate::namespace::{Namespace, write_sysctl};
use crate::process::Process;
use crate::topology::{Setup, Topology, veth_batch};

/// A running network of namespaces, with its processes and its directory.
///
/// In an environment only one lab exists at a time. A second [`Lab::new`] waits until the first lab
/// is dropped, so a test that creates two labs waits forever.
///
/// Dropping the value ends all processes and removes all namespaces. If the dropping thread panics,
/// the drop also prints the end of each log.
#[derive(Debug)]
pub struct Lab {
    environment: Environment,
    hosts: BTreeMap<String, Arc<Namespace>>,
    shared: Arc<Directory>,
    // Fields are dropped in the order of their declaration, so the lock is released after all other
    // fields are dropped.
    _lock: File,
}

/// The folders and the processes of a lab, shared by all its hosts.
#[derive(Debug)]
pub(crate) struct Directory {
    logs: PathBuf,
    run: PathBuf,
    processes: Mutex<Vec<Process>>,
}

impl Lab {
    /// Waits until no other lab exists, and creates a lab without hosts. Empties the directory
    /// `target/lab/<name>/` of the new lab.
    pub fn new(name: &str) -> Result<Self> {
        let environment = Environment::current()?;
        fs::create_dir_all("/run/lab").context("cannot create /run/lab")?;
        let lock =
            File::create("/run/lab/lock").context("cannot create the lock file of the lab")?;
        lock.lock()
            .context("cannot lock the lock file of the lab")?;

        let logs = crate::repository().join("target/lab").join(name);
        let run = Path::new("/run/lab").join(name);
        for directory in [&logs, &run] {
            match fs::remove_dir_all(directory) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error)
                        .with_context(|| format!("cannot empty {}", directory.display()));
                }
                Ok(()) | Err(_) => {}
            }
            fs::create_dir_all(directory)
                .with_context(|| format!("cannot create {}", directory.display()))?;
        }
        Ok(Self {
            environment,
            hosts: BTreeMap::new(),
            shared: Arc::new(Directory {
                logs,
                run,
                processes: Mutex::default(),
            }),
            _lock: lock,
        })
    }

    /// Returns the environment in which the lab runs.
    pub fn environment(&self) -> Environment {
        self.environment
    }

    /// Returns the folder of logs and configuration files. The folder stays after the lab has been
    /// dropped.
    pub fn directory(&self) -> &Path {
        &self.shared.logs
    }

    /// Returns the folder for sockets. The folder is in memory, and exists until the environment
    /// ends.
    pub fn run_directory(&self) -> &Path {
        &self.shared.run
    }

    /// Creates the hosts and links of `topology`. A host that exists before the call gets the
    /// additional links and settings, so a network can grow while it runs.
    pub fn bring_up(&mut self, topology: &Topology) -> Result<()> {
        let path = self.directory().join("topology");
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        write!(file, "{topology}").with_context(|| format!("cannot write {}", path.display()))?;

        for setup in &topology.hosts {
            if !self.hosts.contains_key(&setup.name) {
                let namespace = Namespace::create(&setup.name)?;
                self.hosts.insert(setup.name.clone(), Arc::new(namespace));
            }
        }
        if !topology.veths.is_empty() {
            feed("ip", &["-batch", "-"], &veth_batch(&topology.veths))
                .context("cannot create the links")?;
        }
        let in_namespaces: Vec<_> = topology
            .hosts
            .iter()
            .map(|setup| Ok((setup, self.host(&setup.name)?)))
            .collect::<Result<_>>()?;
        let environment = self.environment;
        // The hosts are set up at the same time, because the setup of each host starts one to three
        // processes.
        thread::scope(|scope| {
            let tasks: Vec<_> = in_namespaces
                .iter()
                .map(|(setup, host)| scope.spawn(move || set_up(setup, host, environment)))
                .collect();
            tasks.into_iter().try_for_each(|task| {
                task.join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        })
    }

    /// Returns a handle to the host with this name.
    pub fn host(&self, name: &str) -> Result<Host> {
        let namespace = self
            .hosts
            .get(name)
            .with_context(|| format!("the lab has no host {name:?}"))?;
        Ok(Host::new(name, namespace.clone(), self.shared.clone()))
    }

    /// Returns the names of all hosts.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.hosts.keys().map(String::as_str)
    }

    /// Ends the processes of a host and removes the host. The host must have `eth0` as its only
    /// link, to a port of a bridge.
    pub fn remove_host(&mut self, name: &str) -> Result<()> {
        let host = self.host(name)?;
        host.end_processes();
        self.hosts.remove(name);
        // The command removes the link at once. Without it the link would exist until the kernel
        // frees the namespace.
        host.ip("link del eth0")
    }

    /// Runs an interactive shell at the terminal, and returns when the shell ends. In this shell,
    /// `HOST COMMAND` runs a command on the host with the name HOST.
    pub fn prompt(&self) -> Result<()> {
        let mut text = String::from("PS1='lab> '\n");
        for host in self.hosts() {
            text.push_str(&format!("{host}() {{ ip netns exec {host} \"$@\"; }}\n"));
        }
        let file = self.write("prompt", &text)?;
        let mut shell = Command::new("bash");
        shell.arg("--rcfile").arg(file).arg("-i");
        shell.status().context("cannot start bash")?;
        Ok(())
    }

    /// Writes a file into the lab's directory and returns its path.
    pub fn write(&self, file: &str, text: &str) -> Result<PathBuf> {
        self.shared.write(file, text)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let processes = std::mem::take(&mut *self.shared.processes());
        if thread::panicking() {
            for process in &processes {
                eprintln!("{}", process.tail());
            }
        }
        thread::scope(|scope| {
            for process in &processes {
                scope.spawn(|| process.end());
            }
        });
    }
}

impl Directory {
    pub(crate) fn write(&self, file: &str, text: &str) -> Result<PathBuf> {
        let path = self.logs.join(file);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    pub(crate) fn run(&self) -> &Path {
        &self.run
    }

    pub(crate) fn processes(&self) -> MutexGuard<'_, Vec<Process>> {
        self.processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the path of a new log for a process with the name `name`. If earlier processes had
    /// this name, the path is different from the paths of their logs.
    pub(crate) fn free_log(&self, name: &str) -> PathBuf {
        let taken = self.processes();
        let earlier = taken.iter().filter(|process| process.name() == name);
        match earlier.count() {
            0 => self.logs.join(format!("{name}.log")),
            count => self.logs.join(format!("{name}.{count}.log")),
        }
    }
}

fn set_up(setup: &Setup, host: &Host, environment: Environment) -> Result<()> {
    host.inside(|| {
        for (key, value) in &setup.sysctls {
            write_sysctl(key, value)?;
        }
        feed("ip", &["-batch", "-"], &lines(&setup.ip))?;
        if !setup.ip6.is_empty() {
            feed("ip", &["-6", "-batch", "-"], &lines(&setup.ip6))?;
        }
        if !setup.nftables.is_empty() && environment.has_nftables_for_ip() {
            feed("nft", &["-f", "-"], &setup.nftables)?;
        }
        Ok(())
    })
    .with_context(|| format!("cannot set up {}", setup.name))
}

fn lines(commands: &[String]) -> String {
    let mut text = commands.join("\n");
    text.push('\n');
    text
}

/// Runs a program with `input` as standard input. If the program fails, the error contains its
/// standard error.
pub(crate) fn feed(program: &str, arguments: &[&str], input: &str) -> Result<()> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    let mut stdin = child
        .stdin
        .take()
        .with_context(|| format!("cannot open the standard input of {program}"))?;
    stdin
        .write_all(input.as_bytes())
        .with_context(|| format!("cannot write to {program}"))?;
    drop(stdin);
    let output = child
        .wait_with_output()
        .with_context(|| format!("cannot wait for {program}"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!(
            anyhow!("{}", stderr.trim())
                .context(format!("{program} rejected this input:\n{input}"))
        );
    }
    Ok(())
}
