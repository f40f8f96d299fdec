//! The example commands that the demo prints before its prompt.

use anyhow::Result;
use lab::system::{DaemonInstance, System};

pub(crate) fn example_commands(system: &System) -> Result<String> {
    let node_router = system.grpc_target(DaemonInstance::NodeRouter(0))?;
    Ok(format!(
        "
The network runs. The name of each host is a command that runs its arguments on this host. The hosts:
client, router, node-a..c, lb-a..c, web-1..6, reflector-1..2. Some examples:

  client curl -s http://10.1.1.1/
  router ip route show 10.1.1.0/24
  lb-a ipvsadm -Ln
  lb-a curl -s http://127.0.0.1:9152/readyz
  lb-a grpcurl -plaintext 127.0.0.1:50051 portlb.discovery.v1.DiscoveryService/List
  lb-a grpcurl -plaintext 127.0.0.1:50052 portlb.dataplane.v1.DataPlaneService/ListVirtualServers
  lb-a grpcurl -plaintext 127.0.0.1:50053 portlb.announcer.v1.AnnouncerService/ListAnnouncements
  lb-a grpcurl -plaintext 127.0.0.1:50053 portlb.announcer.v1.AnnouncerService/Drain
  lb-a grpcurl -plaintext 127.0.0.1:50053 portlb.announcer.v1.AnnouncerService/Undrain
  reflector-1 grpcurl -plaintext 127.0.0.1:50054 portlb.reflector.v1.RouteReflectorService/ListSessions
  reflector-1 grpcurl -plaintext 127.0.0.1:50054 portlb.reflector.v1.RouteReflectorService/ListPaths
  node-a grpcurl -plaintext {node_router} portlb.noderoute.v1.NodeRouteService/ListRoutes

Desired set of lb-a: {}
Logs: {}
`exit` ends all processes and removes the network.
",
        system.desired_file(0)?.display(),
        system.network.lab.directory().display(),
    ))
}
