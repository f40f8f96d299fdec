//! Network namespaces in `/run/netns`, and threads that enter them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

const NAMESPACES: &str = "/run/netns";

/// The sysctls of every new namespace. Duplicate address detection (`accept_dad`) is off, because
/// it would make each IPv6 address unusable for about a second. Reverse-path filters are off,
/// unless a test turns them on.
const SYSCTLS: &[(&str, &str)] = &[
    ("net/ipv6/conf/all/disable_ipv6", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
];

/// A network namespace with a name in `/run/netns`. Dropping the value removes the name. The kernel
/// frees the namespace when no process is in it and no open file refers to it.
#[derive(Debug)]
pub(crate) struct Namespace {
    path: PathBuf,
}

impl Namespace {
    pub(crate) fn create(name: &str) -> Result<Self> {
        fs::create_dir_all(NAMESPACES).with_context(|| format!("cannot create {NAMESPACES}"))?;
        let path = Path::new(NAMESPACES).join(name);
        File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let namespace = Self { path };
        on_new_thread(|| -> Result<()> {
            unshare(CloneFlags::CLONE_NEWNET).context("cannot create a network namespace")?;
            mount(
                Some("/proc/thread-self/ns/net"),
                &namespace.path,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
            .with_context(|| {
                format!(
                    "cannot mount a network namespace at {}",
                    namespace.path.display()
                )
            })?;
            for (key, value) in SYSCTLS {
                write_sysctl(key, value)?;
            }
            Ok(())
        })?;
        Ok(namespace)
    }

    /// Runs `task` on a new thread inside the namespace. Processes that `task` starts and sockets
    /// that `task` opens are in the namespace, too.
    pub(crate) fn inside<T: Send>(&self, task: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let file = self.open()?;
        on_new_thread(|| {
            enter(&file)?;
            task()
        })
    }

    pub(crate) fn open(&self) -> Result<File> {
        File::open(&self.path).with_context(|| format!("cannot open {}", self.path.display()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Errors are ignored, because `drop` cannot return them.
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
        let _ = fs::remove_file(&self.path);
    }
}

/// Moves the calling thread permanently into a namespace. Other threads of the process stay in
/// their namespaces.
pub(crate) fn enter(namespace: &File) -> Result<()> {
    setns(namespace, CloneFlags::CLONE_NEWNET).context("cannot enter a network namespace")
}

/// Sets a sysctl, such as `net/ipv4/ip_forward`, in the calling thread's namespace.
pub(crate) fn write_sysctl(key: &str, value: &str) -> Result<()> {
    let path = Path::new("/proc/sys").join(key);
    fs::write(&path, value).with_context(|| format!("cannot write {value} to {}", path.display()))
}

fn on_new_thread<T: Send>(task: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        scope
            .spawn(task)
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
