//! A network that is up, and its end.

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

/// A network that is up. Only one exists at a time on a floor: a second
/// [`Lab::new`] waits, so one test must not make two.
///
/// Dropping it ends every process and removes every namespace, also on a
/// panic, which also shows the end of each log.
#[derive(Debug)]
pub struct Lab {
    environment: Environment,
    hosts: BTreeMap<String, Arc<Namespace>>,
    shared: Arc<Directory>,
    // Last, so that it is released when everything else is gone.
    _lock: File,
}

/// What hosts and processes need of their lab.
#[derive(Debug)]
pub(crate) struct Directory {
    logs: PathBuf,
    run: PathBuf,
    processes: Mutex<Vec<Process>>,
}

impl Lab {
    /// Waits for its turn, then starts with an empty `target/lab/<name>/`.
    pub fn new(name: &str) -> Result<Self> {
        let environment = Environment::current()?;
        fs::create_dir_all("/run/lab").context("make /run/lab")?;
        let lock = File::create("/run/lab/lock").context("make the lab's lock")?;
        lock.lock().context("take the lab's lock")?;

        let logs = crate::repository().join("target/lab").join(name);
        let run = Path::new("/run/lab").join(name);
        for directory in [&logs, &run] {
            match fs::remove_dir_all(directory) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("empty {}", directory.display()));
                }
                Ok(()) | Err(_) => {}
            }
            fs::create_dir_all(directory)
                .with_context(|| format!("make {}", directory.display()))?;
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

    /// The kernel it stands on.
    pub fn environment(&self) -> Environment {
        self.environment
    }

    /// Where logs and configuration files are kept after the run.
    pub fn directory(&self) -> &Path {
        &self.shared.logs
    }

    /// Where sockets belong; gone with the floor.
    pub fn run_directory(&self) -> &Path {
        &self.shared.run
    }

    /// Makes what `topology` names. Hosts that are up already get what it adds
    /// to them, so a network can grow while it runs.
    pub fn bring_up(&mut self, topology: &Topology) -> Result<()> {
        let plan = self.directory().join("topology");
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(&plan)
            .with_context(|| format!("open {}", plan.display()))?;
        write!(file, "{topology}").with_context(|| format!("write {}", plan.display()))?;

        for setup in &topology.hosts {
            if !self.hosts.contains_key(&setup.name) {
                let namespace = Namespace::create(&setup.name)?;
                self.hosts.insert(setup.name.clone(), Arc::new(namespace));
            }
        }
        if !topology.veths.is_empty() {
            feed("ip", &["-batch", "-"], &veth_batch(&topology.veths)).context("make the links")?;
        }
        let in_namespaces: Vec<_> = topology
            .hosts
            .iter()
            .map(|setup| Ok((setup, self.host(&setup.name)?)))
            .collect::<Result<_>>()?;
        let environment = self.environment;
        // In parallel: each costs the start of a process or two.
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

    /// A host that is up.
    pub fn host(&self, name: &str) -> Result<Host> {
        let namespace = self
            .hosts
            .get(name)
            .with_context(|| format!("there is no host {name:?} in the lab"))?;
        Ok(Host::new(name, namespace.clone(), self.shared.clone()))
    }

    /// The names of all hosts.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.hosts.keys().map(String::as_str)
    }

    /// Ends the processes of a host that hangs on a bridge and removes it.
    pub fn remove_host(&mut self, name: &str) -> Result<()> {
        let host = self.host(name)?;
        host.end_processes();
        self.hosts.remove(name);
        // The kernel would take it away only later, with the namespace.
        host.ip("link del eth0")
    }

    /// A shell at the terminal while everything runs. In it each host's name is
    /// a command that runs another one there; returns when the shell ends.
    pub fn prompt(&self) -> Result<()> {
        let mut text = String::from("PS1='lab> '\n");
        for host in self.hosts() {
            text.push_str(&format!("{host}() {{ ip netns exec {host} \"$@\"; }}\n"));
        }
        let file = self.write("prompt", &text)?;
        let mut shell = Command::new("bash");
        shell.arg("--rcfile").arg(file).arg("-i");
        shell.status().context("start bash")?;
        Ok(())
    }

    /// Writes a file into the lab's directory, for a process to read.
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
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
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

    /// A log of that name that no earlier process of this lab has.
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
    .with_context(|| format!("set up {}", setup.name))
}

fn lines(commands: &[String]) -> String {
    let mut text = commands.join("\n");
    text.push('\n');
    text
}

/// Runs a program on `input`; its complaint is the error.
pub(crate) fn feed(program: &str, arguments: &[&str], input: &str) -> Result<()> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {program}"))?;
    let mut stdin = child.stdin.take().context("its input is a pipe")?;
    stdin
        .write_all(input.as_bytes())
        .with_context(|| format!("write to {program}"))?;
    drop(stdin);
    let output = child
        .wait_with_output()
        .with_context(|| format!("wait for {program}"))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!(anyhow!("{}", complaint.trim()).context(format!("{program} refused:\n{input}")));
    }
    Ok(())
}
