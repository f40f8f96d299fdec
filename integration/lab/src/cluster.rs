//! A real Kubernetes cluster of three nodes.
//!
//! The cluster has kubelet, containerd and kube-proxy on each node, cluster DNS, an upstream
//! router, and a client behind this router. Each test applies the manifests that it needs.

mod configuration;
mod network;
mod node;

use std::fmt::{self, Display};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::bgp::{Program, RunningSpeaker};
use crate::kubernetes::{self, control_plane_host::RemoteControlPlane};
use crate::{Host, Lab};

pub use network::{ASN, DNS, NODES, PODS, ROUTER, node_address};
pub use node::ClusterNode;

/// The time limit of each of these waits: until a Node object exists, until a node is Ready, and
/// until cluster DNS is available.
const READY: Duration = Duration::from_secs(300);
const CGROUP: &str = "/run/lab/cgroup";

/// The settings of a cluster that differ between tests.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    pub proxy_mode: ProxyMode,
    /// OCI archives that every node imports. One of them must be the archive of the pause image.
    pub images: Vec<PathBuf>,
}

/// A mode of kube-proxy that users run today.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyMode {
    Nftables,
    /// The default of kube-proxy.
    Iptables,
}

/// A cluster that runs. Dropping the value ends all its processes and removes its network.
#[derive(Debug)]
pub struct LabCluster {
    /// The nodes n1, n2 and n3, in this order.
    pub nodes: Vec<ClusterNode>,
    /// BIRD on the upstream router.
    pub router: RunningSpeaker,
    pub control: RemoteControlPlane,
    pub lab: Lab,
    // The cgroup hierarchy must be dropped after all other fields, because their processes are in
    // its cgroups until the processes end.
    _cgroup: Cgroup,
}

impl LabCluster {
    /// Starts the cluster. Returns when every node is Ready and cluster DNS is available.
    pub fn start(name: &str, options: &ClusterOptions) -> Result<Self> {
        let mut lab = Lab::new(name)?;
        lab.bring_up(&network::topology())?;
        let router_host = lab.host(network::ROUTER_HOST)?;
        let cgroup = Cgroup::mount(Path::new(CGROUP))?;
        let router = Program::Bird.start(&router_host, &network::router())?;
        // The kernel copies this sysctl of the initial network namespace to each new network
        // namespace. On a real node the sysctl is 1, and lb pods depend on the value 1.
        fs::write("/proc/sys/net/ipv4/ip_forward", "1")
            .context("cannot set ip_forward for new pods")?;
        let control = RemoteControlPlane::connect(&lab, network::ROUTER_HOST)?;
        control.start_controllers()?;
        let binaries = kubernetes::binaries()?;
        let started: Vec<Result<ClusterNode>> = thread::scope(|scope| {
            let starting: Vec<_> = (1..=NODES)
                .map(|number| {
                    let (lab, binaries, control) = (&lab, &binaries, &control);
                    scope.spawn(move || {
                        let name = network::name(number);
                        let setup = node::NodeSetup {
                            binaries,
                            cgroup: Path::new(CGROUP),
                            kubelet_kubeconfig: control.kubeconfig_of(&name),
                            proxy_kubeconfig: control.kubeconfig_of("kube-proxy"),
                            images: &options.images,
                            proxy_mode: options.proxy_mode,
                        };
                        ClusterNode::start(number, lab.host(&name)?, &setup)
                    })
                })
                .collect();
            starting
                .into_iter()
                .map(|node| {
                    node.join()
                        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                })
                .collect()
        });
        let cluster = Self {
            nodes: started.into_iter().collect::<Result<_>>()?,
            router,
            control,
            lab,
            _cgroup: cgroup,
        };
        cluster.apply(&cluster_dns(&binaries))?;
        for node in &cluster.nodes {
            let node = format!("node/{}", node.name);
            // `kubectl wait` fails if the Node object does not exist, and the kubelet creates it
            // after its start. So the first wait is for the creation.
            for until in ["--for=create", "--for=condition=Ready"] {
                cluster.wait(&node, until, &[], READY)?;
            }
        }
        cluster.wait(
            "deployment/coredns",
            "--for=condition=Available",
            &["-n", "kube-system"],
            READY,
        )?;
        Ok(cluster)
    }

    /// Returns the host of the client behind the upstream router.
    pub fn client(&self) -> Result<Host> {
        self.lab.host("client")
    }

    /// Returns the host of the upstream router.
    pub fn router_host(&self) -> Result<Host> {
        self.lab.host(network::ROUTER_HOST)
    }

    /// Runs kubectl with all rights and returns its standard output.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.control.kubectl(arguments, "")
    }

    /// Applies the text of manifests with `kubectl apply`.
    pub fn apply(&self, manifests: &str) -> Result<()> {
        let arguments = ["apply", "--filename", "-"];
        self.control.kubectl(&arguments, manifests).map(drop)
    }

    /// Applies a kustomize folder with `kubectl apply -k`. `folder` is relative to the root folder
    /// of the repository.
    pub fn apply_folder(&self, folder: &str) -> Result<()> {
        let folder = crate::repository().join(folder);
        let folder = folder
            .to_str()
            .context("the path of the repository is not UTF-8")?;
        self.kubectl(&["apply", "--kustomize", folder]).map(drop)
    }

    /// Deletes the objects of a kustomize folder, and waits until all of them are removed. `folder`
    /// is relative to the root folder of the repository.
    pub fn delete_folder(&self, folder: &str, within: Duration) -> Result<()> {
        let folder = crate::repository().join(folder);
        let folder = folder
            .to_str()
            .context("the path of the repository is not UTF-8")?;
        let timeout = format!("--timeout={}s", within.as_secs());
        let arguments = ["delete", "-k", folder, "--ignore-not-found", &timeout];
        self.kubectl(&arguments).map(drop)
    }

    /// Runs `kubectl wait OBJECT CONDITION --timeout=WITHIN MORE...`. An example of a condition is
    /// `--for=condition=Ready`.
    pub fn wait(
        &self,
        object: &str,
        condition: &str,
        more: &[&str],
        within: Duration,
    ) -> Result<()> {
        let timeout = format!("--timeout={}s", within.as_secs());
        let mut arguments = vec!["wait", object, condition, &timeout];
        arguments.extend(more);
        self.kubectl(&arguments).map(drop)
    }

    /// Kills the API server. etcd continues to run and keeps all objects.
    pub fn stop_api_server(&self) -> Result<()> {
        self.control.stop_api_server()
    }

    /// Starts the API server after [`stop_api_server`](Self::stop_api_server), and waits until it
    /// is ready.
    pub fn start_api_server(&self) -> Result<()> {
        self.control.start_api_server()
    }

    /// Returns the node with this name.
    pub fn node(&self, name: &str) -> Result<&ClusterNode> {
        let mut nodes = self.nodes.iter();
        nodes
            .find(|node| node.name == name)
            .with_context(|| format!("the cluster has no node {name:?}"))
    }

    /// Returns the node with this name, as a mutable reference, so that the caller can stop and
    /// start its programs.
    pub fn node_mut(&mut self, name: &str) -> Result<&mut ClusterNode> {
        let mut nodes = self.nodes.iter_mut();
        nodes
            .find(|node| node.name == name)
            .with_context(|| format!("the cluster has no node {name:?}"))
    }
}

impl Display for ProxyMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        })
    }
}

/// Returns the manifests of CoreDNS. The container runs the program CoreDNS from the node's file
/// system, because the import of a CoreDNS image would take longer than the import of all other
/// images together.
fn cluster_dns(binaries: &Path) -> String {
    include_str!("cluster/dns.yaml")
        .replace("@ADDRESS@", &DNS.to_string())
        .replace("@IMAGE@", configuration::PAUSE_IMAGE)
        .replace("@BINARIES@", &binaries.display().to_string())
}

/// The cgroup hierarchy, mounted at a path that no other program uses. Dropping the value unmounts
/// it.
#[derive(Debug)]
struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    fn mount(path: &Path) -> Result<Self> {
        fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))?;
        mount(
            Some("cgroup2"),
            path,
            Some("cgroup2"),
            MsFlags::empty(),
            None::<&str>,
        )
        .with_context(|| format!("cannot mount the cgroup hierarchy at {}", path.display()))?;
        let this = Self {
            path: path.to_owned(),
        };
        let controllers = path.join("cgroup.controllers");
        let controllers = fs::read_to_string(&controllers)
            .with_context(|| format!("cannot read {}", controllers.display()))?;
        let control = path.join("cgroup.subtree_control");
        for controller in controllers.split_whitespace() {
            fs::write(&control, format!("+{controller}")).with_context(|| {
                format!("cannot enable the cgroup controller {controller} for the nodes")
            })?;
        }
        Ok(this)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
    }
}
