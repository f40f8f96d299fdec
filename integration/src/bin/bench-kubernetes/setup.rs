//! The network and the processes of the benchmark.
//!
//! An lb pod without an announcer and a node with kube-proxy are connected to a router. The router
//! also connects both to the control plane, which runs on the control-plane host.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ipnet::IpNet;
use lab::kubernetes::{
    binaries, client,
    control_plane_host::{self, RemoteControlPlane},
};
use lab::{Host, Lab, Process, Topology, daemons};
use serde_json::json;

use crate::objects::{self, NAMESPACE, SERVICE_RANGE, Scale};

const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 230, 0, 1);
const LB_POD: Ipv4Addr = Ipv4Addr::new(10, 230, 0, 2);
const NODE: Ipv4Addr = Ipv4Addr::new(10, 230, 0, 3);

/// The network, the control plane and the objects of the benchmark. The order of the fields is the
/// order in which they are dropped.
#[derive(Debug)]
pub(crate) struct BenchSetup {
    pub(crate) control_plane: RemoteControlPlane,
    /// The host of the router. Only this host is directly connected to the control plane.
    pub(crate) router: Host,
    pub(crate) lb_pod: Host,
    pub(crate) node: Host,
    _lab: Lab,
}

impl BenchSetup {
    /// Creates the network, the control plane and all objects. Starts neither portlb nor
    /// kube-proxy.
    pub(crate) fn start(scale: &Scale) -> Result<Self> {
        let mut topology = Topology::new();
        topology.host("router").bridge("nodes").forwards();
        topology.host("router").address("nodes", network(ROUTER)?);
        for (host, address) in [("lb-pod", LB_POD), ("node", NODE)] {
            topology.plug(host, ("router", "nodes"));
            topology
                .host(host)
                .address("eth0", network(address)?)
                .route(format!("default via {ROUTER}"));
        }
        control_plane_host::plug(&mut topology, "router");
        let mut lab = Lab::new("bench-kubernetes")?;
        lab.bring_up(&topology)?;
        let control_plane = RemoteControlPlane::connect(&lab, "router")?;
        let setup = Self {
            router: lab.host("router")?,
            lb_pod: lab.host("lb-pod")?,
            node: lab.host("node")?,
            control_plane,
            _lab: lab,
        };
        let began = Instant::now();
        setup
            .router
            .inside_async(async || objects::create(&setup.client().await?, scale).await)?;
        eprintln!("created all objects of {scale} in {:?}", began.elapsed());
        Ok(setup)
    }

    /// Creates an API client with all rights. Must be called on the router's host.
    pub(crate) async fn client(&self) -> Result<kube::Client> {
        client(&self.control_plane.kubeconfig()).await
    }

    pub(crate) fn start_pod_watcher(&self) -> Result<Process> {
        let mut command = daemons::command("pod-watcher")?;
        command
            .args(["--source", "kubernetes", "--kubeconfig"])
            .arg(self.control_plane.kubeconfig())
            .args(["--namespaces", NAMESPACE])
            .args(["--service-ranges", SERVICE_RANGE])
            .args(["--write-status", "false"]);
        self.lb_pod.start("pod-watcher", command)
    }

    pub(crate) fn start_ipvs_programmer(&self) -> Result<Process> {
        let command = daemons::command("ipvs-programmer")?;
        self.lb_pod.start("ipvs-programmer", command)
    }

    /// Starts kube-proxy in IPVS mode, with the settings that kubeadm writes.
    pub(crate) fn start_kube_proxy(&self) -> Result<Process> {
        self.register_node()?;
        let kubeconfig = self.control_plane.kubeconfig_of("kube-proxy");
        let config = json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "ipvs",
            "clusterCIDR": "10.200.0.0/13",
            "hostnameOverride": "node",
            "clientConnection": {"kubeconfig": kubeconfig},
            // The value 0 means that kube-proxy does not change the machine's limits of connection
            // tracking.
            "conntrack": {
                "maxPerCore": 0, "min": 0,
                "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s",
            },
        });
        let file = self.node.write("kube-proxy.json", &config.to_string())?;
        let mut command = Command::new(binaries()?.join("kube-proxy"));
        command.arg("--config").arg(file);
        self.node.start("kube-proxy", command)
    }

    /// Creates the Node object. kube-proxy reads the address of its node from this object.
    fn register_node(&self) -> Result<()> {
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": "node"},
        });
        let addresses = json!({
            "status": {"addresses": [{"type": "InternalIP", "address": NODE}]},
        });
        let create = ["create", "-f", "-"];
        self.control_plane.kubectl(&create, &node.to_string())?;
        let status = ["patch", "node", "node", "--subresource=status", "-p"];
        let addresses = addresses.to_string();
        let arguments = [&status[..], &[addresses.as_str()]].concat();
        self.control_plane.kubectl(&arguments, "").map(drop)
    }
}

fn network(address: Ipv4Addr) -> Result<IpNet> {
    IpNet::new(IpAddr::from(address), 24).context("24 is not a valid prefix length")
}

/// The longest time until a change is in the kernel's table. The limit is long, because system
/// calls are slow in a guest.
pub(crate) const DEADLINE: Duration = Duration::from_secs(300);
