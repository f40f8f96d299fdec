//! The running network with a shell.

use std::process::Command;

use anyhow::{Context, Result};
use lab::system::System;

pub(crate) fn what_to_try(system: &System) -> Result<String> {
    let node_router = system.grpc_target(lab::system::Daemon::NodeRouter(0))?;
    Ok(format!(
        "
The network is up. Hosts are network namespaces: client, router, node-a..c, lb-a..c, web-1..6,
reflector-1..2. Some lines to try:

  ip netns exec client curl -s http://10.1.1.1/
  ip netns exec router ip route show 10.1.1.0/24
  ip netns exec lb-a ipvsadm -Ln
  ip netns exec lb-a grpcurl -plaintext 127.0.0.1:50051 portlb.discovery.v1.Discovery/List
  ip netns exec lb-a grpcurl -plaintext 127.0.0.1:50052 portlb.dataplane.v1.DataPlane/ListVirtualServers
  ip netns exec lb-a grpcurl -plaintext 127.0.0.1:50053 portlb.announcer.v1.Announcer/ListAnnouncements
  ip netns exec lb-a grpcurl -plaintext 127.0.0.1:50053 portlb.announcer.v1.Announcer/Drain
  ip netns exec lb-a grpcurl -plaintext 127.0.0.1:50053 portlb.announcer.v1.Announcer/Undrain
  ip netns exec reflector-1 grpcurl -plaintext 127.0.0.1:50054 portlb.reflector.v1.Reflector/ListSessions
  ip netns exec reflector-1 grpcurl -plaintext 127.0.0.1:50054 portlb.reflector.v1.Reflector/ListPaths
  grpcurl -plaintext {} portlb.noderoute.v1.NodeRoute/ListRoutes
  ip netns exec lb-a curl -s http://127.0.0.1:9152/readyz

Edit the desired set of lb-a: {}
Logs: {}
`exit` ends it all.
",
        node_router.replace("unix:", "unix://"),
        system.desired_file(0)?.display(),
        system.network.lab.directory().display(),
    ))
}

/// Returns when the shell is left.
pub(crate) fn wait() -> Result<()> {
    Command::new("bash")
        .args(["--norc", "-i"])
        .env("PS1", "lab# ")
        .status()
        .context("start bash")?;
    Ok(())
}
