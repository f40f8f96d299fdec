//! The configuration files of a node's programs, in their own words.

use std::net::Ipv4Addr;
use std::path::Path;

use ipnet::Ipv4Net;
use serde_json::json;

use super::ProxyMode;
use super::network::{DNS, PODS};

/// The image of every pod's first container.
pub(super) const PAUSE_IMAGE: &str = "localhost/lab/pause:1";

/// `containerd.toml`; everything lies where it lies by default.
pub(super) fn containerd(binaries: &Path) -> String {
    format!(
        r#"version = 3
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{PAUSE_IMAGE}"
[plugins."io.containerd.cri.v1.runtime"]
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
        BinaryName = "{binaries}/runc"
        SystemdCgroup = false
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["{binaries}/cni"]
    conf_dir = "/var/lib/cni/net.d"
"#,
        binaries = binaries.display()
    )
}

/// A flat network: a bridge on each node, routes between the nodes, and no
/// address translation for what leaves the cluster.
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

/// `KubeletConfiguration`.
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

/// `KubeProxyConfiguration`. Limits of conntrack are the host's, which a node
/// of the lab may not set.
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
