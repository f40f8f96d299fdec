//! A node of the cluster: its namespaces, containerd, kubelet and kube-proxy.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{ProxyMode, configuration, network};
use crate::{Host, Process, wait_for};

/// The longest time until a program of a node has started.
const START: Duration = Duration::from_secs(120);

/// The programs, files and settings with which a node is started.
#[derive(Debug)]
pub(super) struct NodeSetup<'a> {
    /// The folder with the programs kubelet and kube-proxy.
    pub(super) binaries: &'a Path,
    /// The cgroup in which the node's own cgroup is created.
    pub(super) cgroup: &'a Path,
    pub(super) kubelet_kubeconfig: PathBuf,
    pub(super) proxy_kubeconfig: PathBuf,
    pub(super) images: &'a [PathBuf],
    pub(super) proxy_mode: ProxyMode,
}

/// A running node. A test can end and start each of its programs alone. The pods of the node
/// continue to run while these programs do not run.
#[derive(Debug)]
pub struct ClusterNode {
    /// The name of the node, and of its host in the lab.
    pub name: String,
    /// The node's address on the network of nodes.
    pub address: Ipv4Addr,
    /// The node's network namespace. Commands of this host do not run in the node's other
    /// namespaces.
    pub host: Host,
    pub containerd: Process,
    pub kubelet: Process,
    pub kube_proxy: Process,
    /// The process of node.sh, which holds the node's namespaces and its cgroup.
    first: Process,
    binaries: PathBuf,
    files: NodeFiles,
    proxy_kubeconfig: PathBuf,
}

#[derive(Debug)]
struct NodeFiles {
    containerd: PathBuf,
    kubelet: PathBuf,
    kubelet_kubeconfig: PathBuf,
}

impl ClusterNode {
    /// Starts a node. Returns when containerd runs, all images are imported, and the processes of
    /// kubelet and kube-proxy have been started. At this time the node is possibly not Ready.
    pub(super) fn start(number: u8, host: Host, setup: &NodeSetup<'_>) -> Result<Self> {
        let name = network::name(number);
        let address = network::node_address(number);
        let resolv_conf = host.write("resolv.conf", "")?;
        let files = NodeFiles {
            containerd: host.write("containerd.toml", &configuration::containerd())?,
            kubelet: host.write("kubelet.json", &configuration::kubelet(&resolv_conf))?,
            kubelet_kubeconfig: setup.kubelet_kubeconfig.clone(),
        };
        let cni = host.write("cni.conflist", &configuration::cni(network::pods(number)))?;
        let first = start_first(&host, &name, setup.cgroup)?;
        enter(&first, Command::new("cp"))
            .arg(cni)
            .arg("/var/lib/cni/net.d/10-lab.conflist")
            .status()
            .context("cannot copy the CNI configuration")?;

        let containerd = start_containerd(&host, &first, &files)?;
        import(&host, &first, setup)?;
        let kubelet = start_kubelet(&host, &first, setup.binaries, &files)?;
        let kube_proxy = start_kube_proxy(
            &host,
            &first,
            setup.binaries,
            &configuration::kube_proxy(setup.proxy_mode, &name, address, &setup.proxy_kubeconfig),
        )?;
        Ok(Self {
            name,
            address,
            host,
            containerd,
            kubelet,
            kube_proxy,
            first,
            binaries: setup.binaries.to_owned(),
            files,
            proxy_kubeconfig: setup.proxy_kubeconfig.clone(),
        })
    }

    /// Runs a command in all namespaces of the node and returns its standard output.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(program);
        command.args(arguments);
        output(enter(&self.first, command)).with_context(|| format!("on node {}", self.name))
    }

    /// Kills kubelet and containerd. Pods and kube-proxy continue to run.
    pub fn stop_kubelet_and_containerd(&self) -> Result<()> {
        self.kubelet.kill()?;
        self.containerd.kill()
    }

    /// Starts containerd and the kubelet after [`Self::stop_kubelet_and_containerd`]. The kubelet
    /// exits if containerd is recovering its containers. In this case the function starts the
    /// kubelet again, as an init system does.
    pub fn start_kubelet_and_containerd(&mut self) -> Result<()> {
        self.containerd = start_containerd(&self.host, &self.first, &self.files)?;
        self.kubelet = wait_for("the kubelet has started", START, || {
            let kubelet = start_kubelet(&self.host, &self.first, &self.binaries, &self.files)?;
            kubelet.wait_for_line("Started kubelet", START)?;
            anyhow::Ok(kubelet)
        })?;
        Ok(())
    }

    /// Restarts kube-proxy in `mode`. Returns before kube-proxy has removed the rules of its
    /// previous mode.
    pub fn set_proxy_mode(&mut self, mode: ProxyMode) -> Result<()> {
        self.kube_proxy.kill()?;
        let configuration =
            configuration::kube_proxy(mode, &self.name, self.address, &self.proxy_kubeconfig);
        self.kube_proxy =
            start_kube_proxy(&self.host, &self.first, &self.binaries, &configuration)?;
        Ok(())
    }
}

fn start_first(host: &Host, name: &str, cgroup: &Path) -> Result<Process> {
    let own = cgroup.join(name);
    std::fs::create_dir_all(&own).with_context(|| format!("cannot create {}", own.display()))?;
    let mut command = Command::new("bash");
    command
        .arg("-euc")
        .arg(
            "echo $$ >\"$1/cgroup.procs\"
             exec unshare --mount --uts --ipc --cgroup bash -c \"$2\" node \"$3\"",
        )
        .arg("bash")
        .args([
            own.as_os_str(),
            include_str!("node.sh").as_ref(),
            name.as_ref(),
        ]);
    let first = host.start("node", command)?;
    first.wait_for_line("is set up", START)?;
    Ok(first)
}

fn start_containerd(host: &Host, first: &Process, files: &NodeFiles) -> Result<Process> {
    let mut command = Command::new("containerd");
    command.arg("--config").arg(&files.containerd);
    let containerd = host.start("containerd", enter(first, command))?;
    containerd.wait_for_line("containerd successfully booted", START)?;
    Ok(containerd)
}

fn import(host: &Host, first: &Process, setup: &NodeSetup<'_>) -> Result<()> {
    for image in setup.images {
        let mut command = Command::new("ctr");
        command.args(["--namespace", "k8s.io", "images", "import"]);
        command.arg(image);
        output(enter(first, command))
            .with_context(|| format!("cannot import {} on {}", image.display(), host.name()))?;
    }
    Ok(())
}

fn start_kubelet(
    host: &Host,
    first: &Process,
    binaries: &Path,
    files: &NodeFiles,
) -> Result<Process> {
    // The kubelet needs /run/cpuinfo, if node.sh has written this file, in the place of
    // /proc/cpuinfo. The mount is made only in a separate mount namespace of the kubelet. With a
    // mount on a file below the node's /proc, the kernel would not let a pod mount a /proc of its
    // own.
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "unchanged", "bash", "-euc"])
        .arg(
            "mount --make-rprivate /proc
             if [[ -e /run/cpuinfo ]]; then mount --bind /run/cpuinfo /proc/cpuinfo; fi
             exec \"$@\"",
        )
        .arg("kubelet")
        .arg(binaries.join("kubelet"))
        .arg(format!("--config={}", files.kubelet.display()))
        .arg(format!(
            "--kubeconfig={}",
            files.kubelet_kubeconfig.display()
        ))
        .arg(format!("--hostname-override={}", host.name()))
        .arg(format!("--node-ip={}", address_of(host)))
        .arg("--cert-dir=/var/lib/kubelet/pki")
        .arg("--v=1");
    host.start("kubelet", enter(first, command))
}

fn start_kube_proxy(
    host: &Host,
    first: &Process,
    binaries: &Path,
    configuration: &str,
) -> Result<Process> {
    let file = host.write("kube-proxy.json", configuration)?;
    let mut command = Command::new(binaries.join("kube-proxy"));
    command.arg(format!("--config={}", file.display()));
    host.start("kube-proxy", enter(first, command))
}

fn address_of(host: &Host) -> Ipv4Addr {
    (1..=network::NODES)
        .find(|number| network::name(*number) == host.name())
        .map(network::node_address)
        .expect("the name of a node's host is the name of the node")
}

/// Returns a command that runs `command` in the namespaces and in the cgroup of the node.
fn enter(first: &Process, command: Command) -> Command {
    let mut entered = Command::new("nsenter");
    entered
        .args(["--target", &first.pid().to_string()])
        .args(["--net", "--mount", "--uts", "--ipc", "--cgroup", "--"])
        .args(["bash", "-euc"])
        .arg("echo $$ >/sys/fs/cgroup/init/cgroup.procs; exec \"$@\"")
        .arg("bash")
        .arg(command.get_program())
        .args(command.get_args());
    entered
}

fn output(mut command: Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot start {command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    anyhow::ensure!(
        output.status.success(),
        "{command:?} failed ({}): {text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(text)
}
