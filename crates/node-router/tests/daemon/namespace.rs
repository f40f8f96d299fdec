//! Network namespaces for tests on the kernel of this machine.

use std::{
    process::Command,
    sync::mpsc::{Receiver, Sender, channel},
    time::{Duration, Instant},
};

use nix::{
    sched::{CloneFlags, unshare},
    unistd::{getpid, gettid},
};

use crate::support::DEADLINE;

/// Runs the body in a new network namespace in which forwarding is on. The namespace has a bridge
/// with a pod, and a link to a router.
pub(crate) fn in_namespace<F: Future<Output = ()>>(body: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET)
            .expect("creating a network namespace needs root or CAP_SYS_ADMIN");
        for line in [
            "link set lo up",
            "link add pods0 type bridge",
            "link add pod7 type veth peer name pod7-inside",
            "link set pod7 master pods0 up",
            "link set pod7-inside up",
            "link set pods0 up",
            "addr add 10.244.3.1/24 dev pods0",
            "addr add fd00:244:3::1/64 dev pods0 nodad",
            "link add uplink type veth peer name router",
            "link set router up",
            "link set uplink up",
            "addr add 192.0.2.2/24 dev uplink",
            "route add default via 192.0.2.1",
        ] {
            ip(line);
        }
        for version in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            std::fs::write(format!("/proc/sys/net/{version}"), "1").unwrap();
        }
        wait_for_local("fd00:244:3::1");
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(async { tokio::time::timeout(6 * DEADLINE, body()).await.unwrap() });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Waits until an IPv6 address is in the local table. The kernel adds the address to this table a
/// moment after it has acknowledged the address.
fn wait_for_local(address: &str) {
    let begin = Instant::now();
    while ip(&format!("-6 route show table local {address}")).is_empty() {
        assert!(
            begin.elapsed() < DEADLINE,
            "{address} does not become local"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Runs `ip` in the network namespace of this thread and returns its output. Panics if the command
/// fails.
pub(crate) fn ip(arguments: &str) -> String {
    run("ip", arguments)
}

pub(crate) fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program)
        .args(arguments.split_whitespace())
        .output()
        .unwrap_or_else(|error| panic!("cannot run {program}, which the tests need: {error}"));
    assert!(
        output.status.success(),
        "{program} {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// An additional network namespace, with a thread that runs jobs in it.
pub(crate) struct Namespace {
    path: String,
    jobs: Sender<Box<dyn FnOnce() + Send>>,
}

impl Namespace {
    pub(crate) fn new() -> Self {
        let (jobs, todo) = channel::<Box<dyn FnOnce() + Send>>();
        let (entered, path) = channel();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET)
                .expect("creating a network namespace needs root or CAP_SYS_ADMIN");
            let path = format!("/proc/{}/task/{}/ns/net", getpid(), gettid());
            entered.send(path).unwrap();
            for job in todo {
                job();
            }
        });
        Self {
            path: path.recv().unwrap(),
            jobs,
        }
    }

    /// Returns the path of the namespace for `ip link set NAME netns PATH`.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Starts a job in the namespace. The returned channel receives the result.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Receiver<T> {
        let (done, result) = channel();
        let job = Box::new(move || done.send(job()).unwrap());
        self.jobs.send(job).unwrap();
        result
    }

    /// Runs a job in the namespace and returns its result.
    pub(crate) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let result = self.spawn(job).recv();
        result.expect("the job did not panic")
    }
}
