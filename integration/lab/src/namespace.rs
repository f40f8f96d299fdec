//! A network namespace under `/run/netns`, made and entered without a process.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

const NAMESPACES: &str = "/run/netns";

/// Duplicate address detection would keep each IPv6 address unusable for a
/// second; reverse-path filters are off where a test does not ask for them.
const SYSCTLS: &[(&str, &str)] = &[
    ("net/ipv6/conf/all/disable_ipv6", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
];

/// Removed from `/run/netns` when dropped; the kernel frees it when the last
/// process in it has ended.
#[derive(Debug)]
pub(crate) struct Namespace {
    path: PathBuf,
}

impl Namespace {
    pub(crate) fn create(name: &str) -> Result<Self> {
        fs::create_dir_all(NAMESPACES).with_context(|| format!("make {NAMESPACES}"))?;
        let path = Path::new(NAMESPACES).join(name);
        File::create(&path).with_context(|| format!("make {}", path.display()))?;
        let namespace = Self { path };
        on_new_thread(|| -> Result<()> {
            unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")?;
            mount(
                Some("/proc/thread-self/ns/net"),
                &namespace.path,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
            .with_context(|| format!("name a network namespace {}", namespace.path.display()))?;
            for (key, value) in SYSCTLS {
                write_sysctl(key, value)?;
            }
            Ok(())
        })?;
        Ok(namespace)
    }

    /// Runs `task` on a thread of its own inside the namespace. Processes and
    /// sockets that it makes stay inside.
    pub(crate) fn inside<T: Send>(&self, task: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let file = self.open()?;
        on_new_thread(|| {
            enter(&file)?;
            task()
        })
    }

    pub(crate) fn open(&self) -> Result<File> {
        File::open(&self.path).with_context(|| format!("open {}", self.path.display()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Nothing is left to do about a failure here; a name that is still
        // taken shows in the next topology that wants it.
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
        let _ = fs::remove_file(&self.path);
    }
}

/// Moves the calling thread, and no other, into a namespace for good.
pub(crate) fn enter(namespace: &File) -> Result<()> {
    setns(namespace, CloneFlags::CLONE_NEWNET).context("enter a network namespace")
}

/// Sets `net/ipv4/ip_forward` and the like in the calling thread's namespace.
pub(crate) fn write_sysctl(key: &str, value: &str) -> Result<()> {
    let path = Path::new("/proc/sys").join(key);
    fs::write(&path, value).with_context(|| format!("write {value} to {}", path.display()))
}

fn on_new_thread<T: Send>(task: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        scope
            .spawn(task)
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
