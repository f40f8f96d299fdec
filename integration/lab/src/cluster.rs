//! A real Kubernetes cluster: three nodes with kubelet, containerd, kube-proxy
//! and cluster DNS, an upstream router and a client beyond it.
//!
//! Everything that is not of the cluster itself is for the test to apply.

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
use crate::kubernetes::{self, outside::OutsideControlPlane};
use crate::{Host, Lab};

pub use network::{ASN, DNS, NODES, PODS, ROUTER, node_address};
pub use node::ClusterNode;

const READY: Duration = Duration::from_secs(300);
const CGROUP: &str = "/run/lab/cgroup";

/// What may differ.
#[derive(Debug, Clone)]
pub struct Options {
    /// How kube-proxy serves ClusterIPs.
    pub proxy_mode: ProxyMode,
    /// OCI archives that every node gets; that of the pods' first container must be
    /// among them.
    pub images: Vec<PathBuf>,
}

/// kube-proxy's modes that users have today.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyMode {
    /// Its default on a new cluster.
    Nftables,
    /// Its default for years.
    Iptables,
}

/// A cluster that is up. Dropping it ends all of it.
#[derive(Debug)]
pub struct Cluster {
    /// n1, n2, n3.
    pub nodes: Vec<ClusterNode>,
    /// The upstream router's BGP speaker.
    pub router: RunningSpeaker,
    /// etcd, the API server, the controllers and the scheduler.
    pub control: OutsideControlPlane,
    /// What is up.
    pub lab: Lab,
    // After everything that is in it.
    _cgroup: Cgroup,
}

impl Cluster {
    /// Brings it up; returns when every node is ready and cluster DNS serves.
    pub fn start(name: &str, options: &Options) -> Result<Self> {
        let mut lab = Lab::new(name)?;
        lab.bring_up(&network::topology())?;
        let router_host = lab.host(network::ROUTER_HOST)?;
        let cgroup = Cgroup::mount(Path::new(CGROUP))?;
        let router = Program::Bird.start(&router_host, &network::router())?;
        // As on a real node, from which pods inherit it; those of the lab inherit the floor's.
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("have pods forward")?;
        let control = OutsideControlPlane::connect(&lab, network::ROUTER_HOST)?;
        control.start_controllers()?;
        let binaries = kubernetes::binaries()?;
        let started: Vec<Result<ClusterNode>> = thread::scope(|scope| {
            let starting: Vec<_> = (1..=NODES)
                .map(|number| {
                    let (lab, binaries, control) = (&lab, &binaries, &control);
                    scope.spawn(move || {
                        let name = network::name(number);
                        let means = node::Means {
                            binaries,
                            cgroup: Path::new(CGROUP),
                            kubelet_kubeconfig: control.kubeconfig_of(&name),
                            proxy_kubeconfig: control.kubeconfig_of("kube-proxy"),
                            images: &options.images,
                            proxy_mode: options.proxy_mode,
                        };
                        ClusterNode::start(number, lab.host(&name)?, &means)
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
            // Its kubelet may not have told of it yet.
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

    /// The client beyond the router.
    pub fn client(&self) -> Result<Host> {
        self.lab.host("client")
    }

    /// The upstream router.
    pub fn router_host(&self) -> Result<Host> {
        self.lab.host(network::ROUTER_HOST)
    }

    /// Runs kubectl with every right and gives what it prints.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.control.kubectl(arguments, "")
    }

    /// `kubectl apply` of this text.
    pub fn apply(&self, manifests: &str) -> Result<()> {
        let arguments = ["apply", "--filename", "-"];
        self.control.kubectl(&arguments, manifests).map(drop)
    }

    /// `kubectl apply -k` of a folder of the repository.
    pub fn apply_folder(&self, folder: &str) -> Result<()> {
        let folder = crate::repository().join(folder);
        let folder = folder.to_str().context("the repository's path is UTF-8")?;
        self.kubectl(&["apply", "--kustomize", folder]).map(drop)
    }

    /// `kubectl delete -k` of a folder of the repository, until everything is gone.
    pub fn delete_folder(&self, folder: &str, within: Duration) -> Result<()> {
        let folder = crate::repository().join(folder);
        let folder = folder.to_str().context("the repository's path is UTF-8")?;
        let timeout = format!("--timeout={}s", within.as_secs());
        let arguments = ["delete", "-k", folder, "--ignore-not-found", &timeout];
        self.kubectl(&arguments).map(drop)
    }

    /// `kubectl wait`: what, the condition, and more arguments.
    pub fn wait(&self, what: &str, until: &str, more: &[&str], within: Duration) -> Result<()> {
        let timeout = format!("--timeout={}s", within.as_secs());
        let mut arguments = vec!["wait", what, until, &timeout];
        arguments.extend(more);
        self.kubectl(&arguments).map(drop)
    }

    /// Kills the API server; etcd keeps what it knows.
    pub fn stop_api_server(&self) -> Result<()> {
        self.control.stop_api_server()
    }

    /// Starts the API server again and waits until it is ready.
    pub fn start_api_server(&self) -> Result<()> {
        self.control.start_api_server()
    }

    /// A node by its name.
    pub fn node(&self, name: &str) -> Result<&ClusterNode> {
        let mut nodes = self.nodes.iter();
        nodes
            .find(|node| node.name == name)
            .with_context(|| format!("there is no node {name:?}"))
    }

    /// The same, to stop and start its programs.
    pub fn node_mut(&mut self, name: &str) -> Result<&mut ClusterNode> {
        let mut nodes = self.nodes.iter_mut();
        nodes
            .find(|node| node.name == name)
            .with_context(|| format!("there is no node {name:?}"))
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

/// CoreDNS as users have it. Its program comes from the node's file system,
/// since an image of it would take longer to import than all others.
fn cluster_dns(binaries: &Path) -> String {
    include_str!("cluster/dns.yaml")
        .replace("@ADDRESS@", &DNS.to_string())
        .replace("@IMAGE@", configuration::PAUSE_IMAGE)
        .replace("@BINARIES@", &binaries.display().to_string())
}

/// The hierarchy of cgroups, mounted where nothing else looks at it.
#[derive(Debug)]
struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    fn mount(path: &Path) -> Result<Self> {
        fs::create_dir_all(path).with_context(|| format!("make {}", path.display()))?;
        mount(
            Some("cgroup2"),
            path,
            Some("cgroup2"),
            MsFlags::empty(),
            None::<&str>,
        )
        .with_context(|| format!("mount the cgroups at {}", path.display()))?;
        let this = Self {
            path: path.to_owned(),
        };
        let controllers = path.join("cgroup.controllers");
        let controllers = fs::read_to_string(&controllers)
            .with_context(|| format!("read {}", controllers.display()))?;
        let control = path.join("cgroup.subtree_control");
        for controller in controllers.split_whitespace() {
            fs::write(&control, format!("+{controller}"))
                .with_context(|| format!("divide {controller} among the nodes"))?;
        }
        Ok(this)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
    }
}
