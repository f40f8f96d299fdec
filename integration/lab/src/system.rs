//! The daemons of portlb on the reference network.
//!
//! Each lb pod runs pod-watcher, ipvs-programmer and bgp-announcer. Each node runs a node-router,
//! and each of the two reflectors runs a route-reflector. A test can start, stop and kill each
//! daemon alone.

mod desired;
mod flags;
mod rpc;

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use ipnet::IpNet;

pub use desired::{
    Desired, Persistence, VirtualServer, port, real_server, unchecked, virtual_server,
};
pub use rpc::all_pages;

use flags::Flags;

use crate::nodes::LabPod;
use crate::reference::{
    Reference, ReferenceOptions, SERVICE, SERVICE_RANGE, SERVICE_RANGE6, SERVICE6,
};
use crate::{FibWatcher, Host, Process, Signal, daemons};

/// The longest time until the upstream router's table has a next hop for each lb pod after the
/// start of all daemons, in the slowest environment.
const START: Duration = Duration::from_secs(30);
/// The longest time until a daemon has ended after SIGTERM, including its withdraw delay and its
/// linger.
const END: Duration = Duration::from_secs(30);

/// One daemon of portlb in the lab. The number is the index of its lb pod, of its node or of its
/// reflector, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DaemonInstance {
    RouteReflector(usize),
    NodeRouter(usize),
    PodWatcher(usize),
    IpvsProgrammer(usize),
    BgpAnnouncer(usize),
}

/// The reference network with all daemons of portlb.
#[derive(Debug)]
pub struct System {
    /// The watch of the upstream router's routing table.
    pub fib: FibWatcher,
    pub network: Reference,
    running: BTreeMap<DaemonInstance, Process>,
    other_flags: BTreeMap<&'static str, Flags>,
}

impl Drop for System {
    fn drop(&mut self) {
        // The daemons are killed, because after SIGTERM they would drain for seconds, and the
        // network is removed anyway.
        for process in self.running.values() {
            process.signal_group(Signal::SIGKILL);
        }
    }
}

impl DaemonInstance {
    pub fn program(self) -> &'static str {
        match self {
            Self::RouteReflector(_) => "route-reflector",
            Self::NodeRouter(_) => "node-router",
            Self::PodWatcher(_) => "pod-watcher",
            Self::IpvsProgrammer(_) => "ipvs-programmer",
            Self::BgpAnnouncer(_) => "bgp-announcer",
        }
    }

    /// Returns the default port of the daemon's gRPC server, or `None` for node-router, which
    /// listens on a Unix socket.
    fn grpc_port(self) -> Option<u16> {
        match self {
            Self::PodWatcher(_) => Some(50051),
            Self::IpvsProgrammer(_) => Some(50052),
            Self::BgpAnnouncer(_) => Some(50053),
            Self::RouteReflector(_) => Some(50054),
            Self::NodeRouter(_) => None,
        }
    }

    fn http_port(self) -> u16 {
        match self {
            Self::PodWatcher(_) => 9151,
            Self::IpvsProgrammer(_) => 9152,
            Self::BgpAnnouncer(_) => 9153,
            Self::RouteReflector(_) => 9154,
            Self::NodeRouter(_) => 9155,
        }
    }
}

impl Display for DaemonInstance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::RouteReflector(number)
        | Self::NodeRouter(number)
        | Self::PodWatcher(number)
        | Self::IpvsProgrammer(number)
        | Self::BgpAnnouncer(number)) = self;
        write!(f, "{} {number}", self.program())
    }
}

impl System {
    /// Creates the reference network and writes the configuration files of the daemons. Starts no
    /// daemon.
    pub fn new(name: &str, options: ReferenceOptions) -> Result<Self> {
        let network = Reference::bring_up(name, options)?;
        let system = Self {
            fib: FibWatcher::start(&network.router_host()?)?,
            network,
            running: BTreeMap::new(),
            other_flags: BTreeMap::new(),
        };
        system.write_desired(&system.web())?;
        Ok(system)
    }

    /// Creates the reference network and starts all daemons. Returns when the router's table has a
    /// next hop for each lb pod, for both service ranges.
    pub fn up(name: &str, options: ReferenceOptions) -> Result<Self> {
        let mut system = Self::new(name, options)?;
        system.start_all()?;
        system.wait_until_announced(&[0, 1, 2], START)?;
        Ok(system)
    }

    /// Sets flags of a program. A flag that the program has gets the new value. The change applies
    /// to daemons that start after this call.
    pub fn set_flags(&mut self, program: &'static str, flags: &[(&str, &str)]) {
        let new = flags
            .iter()
            .map(|(flag, value)| ((*flag).to_owned(), (*value).to_owned()));
        let new: Vec<_> = new.collect();
        flags::replace(self.other_flags.entry(program).or_default(), &new);
    }

    /// Returns all daemons of all lb pods, nodes and reflectors.
    pub fn all() -> Vec<DaemonInstance> {
        let mut all = vec![
            DaemonInstance::RouteReflector(0),
            DaemonInstance::RouteReflector(1),
        ];
        all.extend((0..3).map(DaemonInstance::NodeRouter));
        all.extend((0..3).flat_map(Self::lb_pod));
        all
    }

    /// Returns pod-watcher, ipvs-programmer and bgp-announcer of an lb pod.
    pub fn lb_pod(lb_pod: usize) -> [DaemonInstance; 3] {
        [
            DaemonInstance::PodWatcher(lb_pod),
            DaemonInstance::IpvsProgrammer(lb_pod),
            DaemonInstance::BgpAnnouncer(lb_pod),
        ]
    }

    /// Starts each daemon that does not run: a daemon that was not started, or that the test has
    /// stopped or killed.
    pub fn start_all(&mut self) -> Result<()> {
        for daemon in Self::all() {
            if !self.running.contains_key(&daemon) {
                self.start(daemon)?;
            }
        }
        Ok(())
    }

    /// Starts a daemon. If the daemon has been started before, its process must have ended.
    pub fn start(&mut self, daemon: DaemonInstance) -> Result<&Process> {
        let mut flags = self.flags(daemon)?;
        if let Some(other) = self.other_flags.get(daemon.program()) {
            flags::replace(&mut flags, other);
        }
        let mut command = daemons::command(daemon.program())?;
        for (flag, value) in flags {
            command.args([flag, value]);
        }
        let process = self.host(daemon)?.start(daemon.program(), command)?;
        self.running.insert(daemon, process);
        self.process(daemon)
    }

    /// Returns the process of a daemon. Returns an error if the daemon was not started, or if the
    /// test has stopped or killed it.
    pub fn process(&self, daemon: DaemonInstance) -> Result<&Process> {
        self.running
            .get(&daemon)
            .with_context(|| format!("{daemon} does not run"))
    }

    /// Sends SIGTERM to a daemon and waits until it has ended. Returns its exit status.
    pub fn stop(&mut self, daemon: DaemonInstance) -> Result<std::process::ExitStatus> {
        let process = self.process(daemon)?;
        process.signal(Signal::SIGTERM)?;
        let status = process.wait(END)?;
        self.running.remove(&daemon);
        Ok(status)
    }

    /// Kills a daemon and waits until it has ended.
    pub fn kill(&mut self, daemon: DaemonInstance) -> Result<()> {
        self.process(daemon)?.kill()?;
        self.running.remove(&daemon);
        Ok(())
    }

    /// Kills all three daemons of an lb pod, one immediately after the other, and waits until they
    /// have ended.
    pub fn kill_lb_pod(&mut self, lb_pod: usize) -> Result<()> {
        // The announcer is killed before the other two daemons. Tests measure the time from the end
        // of the announcer, because routers notice only this end.
        let daemons = Self::lb_pod(lb_pod);
        for daemon in daemons.iter().rev() {
            self.process(*daemon)?.signal(Signal::SIGKILL)?;
        }
        for daemon in daemons {
            self.process(daemon)?.wait(END)?;
            self.running.remove(&daemon);
        }
        Ok(())
    }

    /// Waits until the router's next hops of both service ranges are exactly the nodes of
    /// `lb_pods`.
    pub fn wait_until_announced(&self, lb_pods: &[usize], within: Duration) -> Result<()> {
        for range in [IpNet::from(SERVICE_RANGE), SERVICE_RANGE6.into()] {
            self.fib
                .wait_for(range, &self.next_hops(range, lb_pods)?, within)?;
        }
        Ok(())
    }

    /// Returns the next hops that the router has for a prefix while exactly the lb pods `lb_pods`
    /// announce it.
    pub fn next_hops(&self, prefix: IpNet, lb_pods: &[usize]) -> Result<Vec<IpAddr>> {
        let pods: Vec<_> = lb_pods.iter().map(|n| &self.network.lb_pods[*n]).collect();
        let is_v6 = matches!(prefix, IpNet::V6(_));
        self.network.next_hops(&pods, is_v6)
    }

    /// Returns the desired set that [`new`](Self::new) writes: port 80 of both service addresses,
    /// with tunnels to all web pods.
    pub fn web(&self) -> Desired {
        Self::web_of(&self.network.web_pods)
    }

    /// Returns the desired set of [`web`](Self::web) without health checks.
    pub fn unchecked_web(&self) -> Desired {
        let mut desired = self.web();
        let virtual_servers = desired.virtual_servers.into_iter();
        desired.virtual_servers = virtual_servers.map(unchecked).collect();
        desired
    }

    /// Returns the desired set of [`web`](Self::web) with only the web pods `web_pods` as real
    /// servers.
    pub fn web_of(web_pods: &[LabPod]) -> Desired {
        let addresses = [IpAddr::from(SERVICE), SERVICE6.into()];
        let real_servers = web_pods
            .iter()
            .flat_map(|pod| [IpAddr::from(pod.address), pod.address6.into()]);
        let ranges = [IpNet::from(SERVICE_RANGE), SERVICE_RANGE6.into()];
        Desired::new(ranges).with(virtual_server("web", addresses, [port(80)], real_servers))
    }

    /// Writes a desired set to the files of all lb pods.
    pub fn write_desired(&self, desired: &Desired) -> Result<()> {
        (0..3).try_for_each(|lb_pod| self.write_desired_text(lb_pod, &desired.text()))
    }

    /// Replaces the file of one lb pod atomically by a file with the content `text`.
    pub fn write_desired_text(&self, lb_pod: usize, text: &str) -> Result<()> {
        let file = self.desired_file(lb_pod)?;
        let new = file.with_extension("new");
        std::fs::write(&new, text).with_context(|| format!("cannot write {}", new.display()))?;
        std::fs::rename(&new, &file).with_context(|| format!("cannot replace {}", file.display()))
    }

    /// Returns the path of the file that the pod-watcher of an lb pod reads.
    pub fn desired_file(&self, lb_pod: usize) -> Result<PathBuf> {
        let host = self.host(DaemonInstance::PodWatcher(lb_pod))?;
        Ok(host.run_directory()?.join("virtual-servers.yaml"))
    }

    /// Returns the host on which a daemon runs.
    pub fn host(&self, daemon: DaemonInstance) -> Result<Host> {
        match daemon {
            DaemonInstance::RouteReflector(0) => self.network.reflector(1),
            DaemonInstance::RouteReflector(_) => self.network.reflector(2),
            DaemonInstance::NodeRouter(node) => {
                self.network.lab.host(&self.network.nodes[node].name)
            }
            DaemonInstance::PodWatcher(lb_pod)
            | DaemonInstance::IpvsProgrammer(lb_pod)
            | DaemonInstance::BgpAnnouncer(lb_pod) => {
                self.network.lab.host(&self.network.lb_pods[lb_pod].name)
            }
        }
    }

    /// Returns the address of a daemon's gRPC server, in the form that the flags of clients have.
    pub fn grpc_target(&self, daemon: DaemonInstance) -> Result<String> {
        match (daemon.grpc_port(), daemon) {
            (None, DaemonInstance::NodeRouter(node)) => {
                Ok(format!("unix:{}", self.node_router_socket(node)?.display()))
            }
            (port, _) => Ok(format!("http://127.0.0.1:{}", port.unwrap_or_default())),
        }
    }

    fn node_router_socket(&self, node: usize) -> Result<PathBuf> {
        let host = self.host(DaemonInstance::NodeRouter(node))?;
        Ok(host.run_directory()?.join("node-router.sock"))
    }

    fn flags(&self, daemon: DaemonInstance) -> Result<Flags> {
        Ok(match daemon {
            DaemonInstance::RouteReflector(number) => {
                let text = flags::reflector_file(if number == 0 { 1 } else { 2 });
                let file = self.host(daemon)?.write("route-reflector.yaml", &text)?;
                flags::route_reflector(&file)
            }
            DaemonInstance::NodeRouter(node) => {
                flags::node_router(&self.network.nodes[node], &self.node_router_socket(node)?)
            }
            DaemonInstance::PodWatcher(lb_pod) => flags::pod_watcher(&self.desired_file(lb_pod)?),
            DaemonInstance::IpvsProgrammer(_) => flags::ipvs_programmer(),
            DaemonInstance::BgpAnnouncer(lb_pod) => flags::bgp_announcer(
                &self.network.nodes[lb_pod],
                &self.network.lb_pods[lb_pod],
                &self.node_router_socket(lb_pod)?,
            ),
        })
    }
}
