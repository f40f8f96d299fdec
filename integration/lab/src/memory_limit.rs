//! A memory limit for one process, like a container's limit in Kubernetes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::Process;

/// The folder of the mount points: each limit mounts the cgroup hierarchy at a mount point of its
/// own.
const MOUNTS: &str = "/run/lab/memory-limits";

/// A cgroup with a memory limit for one process. The kernel kills the process if it exceeds the
/// limit.
#[derive(Debug)]
pub struct MemoryLimit {
    mount: PathBuf,
    group: PathBuf,
}

impl MemoryLimit {
    /// Moves the process into a new cgroup with a limit of `bytes`. Memory that the process has
    /// allocated before this call does not count.
    pub fn set(process: &Process, bytes: u64) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = Path::new(MOUNTS).join(format!("{}-{number}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let kind = Some("cgroup2");
        mount(kind, &path, kind, MsFlags::empty(), None::<&str>)
            .with_context(|| format!("cannot mount the cgroup hierarchy at {}", path.display()))?;
        let limit = Self {
            group: path.join(format!("limit-{}-{number}", std::process::id())),
            mount: path,
        };
        write(&limit.mount.join("cgroup.subtree_control"), "+memory")?;
        fs::create_dir(&limit.group)
            .with_context(|| format!("cannot create the cgroup {}", limit.group.display()))?;
        write(&limit.group.join("memory.max"), &bytes.to_string())?;
        write(
            &limit.group.join("cgroup.procs"),
            &process.pid().to_string(),
        )?;
        Ok(limit)
    }

    /// Returns the memory that the cgroup uses, in bytes. It includes the kernel's memory for the
    /// sockets of the process.
    pub fn in_use(&self) -> Result<u64> {
        let text = self.read("memory.current")?;
        let number = text.trim();
        number
            .parse()
            .with_context(|| format!("memory.current is not a number: {number:?}"))
    }

    /// Returns the number of processes that the kernel has killed because of the limit.
    pub fn kills(&self) -> Result<u64> {
        let text = self.read("memory.events")?;
        let number = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        let number =
            number.with_context(|| format!("memory.events has no line oom_kill: {text}"))?;
        number
            .parse()
            .with_context(|| format!("oom_kill is not a number: {number:?}"))
    }

    fn read(&self, file: &str) -> Result<String> {
        let file = self.group.join(file);
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        // The cgroup of a running process cannot be removed, and the error is ignored: such a
        // cgroup exists until the environment ends.
        let _ = fs::remove_dir(&self.group);
        let _ = umount2(&self.mount, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.mount);
    }
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("cannot write {text} to {}", file.display()))
}
