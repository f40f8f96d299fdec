//! The configuration files of a node's programs.

use std::net::Ipv4Addr;
use std::path::Path;

use ipnet::Ipv4Net;
use serde_json::json;

use super::ProxyMode;
use super::network::{DNS, PODS};

/// The image of the pause container, the first container of every pod.
pub(super) const PAUSE_IMAGE: &str = "localhost/lab/pause:1";

/// Returns the text of `containerd.toml`. It does not set the root folder and the state folder, so
/// containerd uses its default folders.
///
/// The container runtime is crun. On the lab kernel forks and system calls are slow, so the Go
/// program runc would take several times as long as crun to start a container.
pub(super) fn containerd() -> String {
    format!(
        r#"version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  enable_unprivileged_ports = true
  enable_unprivileged_icmp = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "crun"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.crun]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.crun.options]
        BinaryName = "/usr/bin/crun"
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/var/lib/cni/net.d"
"#
    )
}

/// Returns the CNI configuration of a node: a bridge without address translation, for pods with
/// addresses in `pods`. The topology of the lab has the routes between the nodes.
pub(super) fn cni(pods: Ipv4Net) -> String {
    json!({
        "cniVersion": "1.0.0",
        "name": "lab",
        "plugins": [{
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": true,
            "ipMasq": false,
            "hairpinMode": true,
            "ipam": {
                "type": "host-local",
                "dataDir": "/var/lib/cni/networks",
                "ranges": [[{ "subnet": pods }]],
                "routes": [{ "dst": "0.0.0.0/0" }],
            },
        }],
    })
    .to_string()
}

/// Returns the `KubeletConfiguration` of a node.
///
/// Evictions are off, because the nodes use the machine's disk, which can be nearly full.
pub(super) fn kubelet(resolv_conf: &Path) -> String {
    let never = json!({
        "memory.available": "0%",
        "nodefs.available": "0%",
        "nodefs.inodesFree": "0%",
        "imagefs.available": "0%",
    });
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": "0.0.0.0",
        "authentication": { "anonymous": { "enabled": true }, "webhook": { "enabled": false } },
        "authorization": { "mode": "AlwaysAllow" },
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": "/",
        "clusterDNS": [DNS],
        "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "failSwapOn": false,
        "makeIPTablesUtilChains": false,
        "imageGCHighThresholdPercent": 100,
        "evictionHard": never,
        "allowedUnsafeSysctls": ["net.ipv4.vs.*"],
        "volumePluginDir": "/var/lib/kubelet/volumeplugins",
        "resolvConf": resolv_conf,
    })
    .to_string()
}

/// Returns the `KubeProxyConfiguration` of a node. All limits and timeouts of connection tracking
/// are 0, which means that kube-proxy does not set them. kube-proxy could not set the limits,
/// because only the initial network namespace can set them, and each node has its own network
/// namespace.
pub(super) fn kube_proxy(
    mode: ProxyMode,
    name: &str,
    address: Ipv4Addr,
    kubeconfig: &Path,
) -> String {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": mode.to_string(),
        "clusterCIDR": PODS,
        "hostnameOverride": name,
        "bindAddress": address,
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "clientConnection": { "kubeconfig": kubeconfig },
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
    })
    .to_string()
}
