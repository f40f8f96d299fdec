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
use crate::kubernetes::{self, ControlPlane, Settings};
use crate::{Host, Lab};

pub use network::{ASN, CONTROL, DNS, NODES, PODS, ROUTER, node_address};
pub use node::ClusterNode;

const READY: Duration = Duration::from_secs(300);
const CGROUP: &str = "/run/lab/cgroup";
const PROXY_USER: &str = "system:kube-proxy";

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
    pub control_plane: ControlPlane,
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
        let cgroup = Cgroup::mount(Path::new(CGROUP))?;
        let router = Program::Bird.start(&lab.host("router")?, &network::router())?;

        let control = lab.host("control")?;
        let directory = lab.run_directory().join("control-plane");
        let control_plane = control.inside(|| start_control_plane(&directory))?;
        let binaries = kubernetes::binaries()?;
        let proxy_kubeconfig = kubeconfig(&control_plane, "kube-proxy", PROXY_USER)?;
        let started: Vec<Result<ClusterNode>> = thread::scope(|scope| {
            let starting: Vec<_> = (1..=NODES)
                .map(|number| {
                    let (lab, control_plane) = (&lab, &control_plane);
                    let (binaries, proxy_kubeconfig) = (&binaries, &proxy_kubeconfig);
                    scope.spawn(move || {
                        let name = network::name(number);
                        let means = node::Means {
                            binaries,
                            cgroup: Path::new(CGROUP),
                            kubelet_kubeconfig: kubeconfig(
                                control_plane,
                                &name,
                                &node_user(number),
                            )?,
                            proxy_kubeconfig: proxy_kubeconfig.clone(),
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
            control_plane,
            lab,
            _cgroup: cgroup,
        };
        cluster.apply(&cluster_dns(&binaries))?;
        cluster.wait("node", "--for=condition=Ready", &["--all"], READY)?;
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
        self.lab.host("router")
    }

    /// Runs kubectl with every right and gives what it prints.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let control = self.lab.host("control")?;
        control.inside(|| self.control_plane.kubectl(arguments))
    }

    /// `kubectl apply` of this text.
    pub fn apply(&self, manifests: &str) -> Result<()> {
        let control = self.lab.host("control")?;
        let arguments = ["apply", "--filename", "-"];
        control
            .inside(|| self.control_plane.kubectl_with_input(&arguments, manifests))
            .map(drop)
    }

    /// `kubectl apply -k` of a folder of the repository.
    pub fn apply_folder(&self, folder: &str) -> Result<()> {
        let folder = crate::repository().join(folder);
        let folder = folder.to_str().context("the repository's path is UTF-8")?;
        self.kubectl(&["apply", "--kustomize", folder]).map(drop)
    }

    /// `kubectl wait`: what, the condition, and more arguments.
    pub fn wait(&self, what: &str, until: &str, more: &[&str], within: Duration) -> Result<()> {
        let timeout = format!("--timeout={}s", within.as_secs());
        let mut arguments = vec!["wait", what, until, &timeout];
        arguments.extend(more);
        self.kubectl(&arguments).map(drop)
    }

    /// Kills the API server; etcd keeps what it knows.
    pub fn stop_api_server(&mut self) -> Result<()> {
        self.control_plane.stop()
    }

    /// Starts the API server again and waits until it is ready.
    pub fn start_api_server(&mut self) -> Result<()> {
        let control = self.lab.host("control")?;
        let control_plane = &mut self.control_plane;
        control.inside(|| control_plane.restart())
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

fn start_control_plane(directory: &Path) -> Result<ControlPlane> {
    let nodes = (1..=NODES).map(|number| (node_user(number), "system:nodes".to_owned()));
    let settings = Settings {
        address: Some(CONTROL.into()),
        users: nodes
            .chain([(PROXY_USER.to_owned(), String::new())])
            .collect(),
        // Nobody resolves the nodes' names.
        options: vec!["--kubelet-preferred-address-types=InternalIP".to_owned()],
    };
    let mut control_plane = ControlPlane::start_with(directory, settings)?;
    control_plane.start_controllers(&[])?;
    control_plane.start_scheduler()?;
    Ok(control_plane)
}

fn node_user(number: u8) -> String {
    format!("system:node:{}", network::name(number))
}

/// The token of a user is its name.
fn kubeconfig(control_plane: &ControlPlane, file: &str, user: &str) -> Result<PathBuf> {
    control_plane.kubeconfig_for(file, control_plane.address(), user)
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
