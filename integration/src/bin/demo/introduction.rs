//! The texts that the demo prints before the first step.

use lab::Environment;

pub(crate) fn network_diagram() -> String {
    "
  client ─── router ───┬─── node-a    lb-a   web-1 web-4
            (BIRD,     ├─── node-b    lb-b   web-2 web-5
             ECMP)     ├─── node-c    lb-c   web-3 web-6
                       ├─── reflector-1
                       └─── reflector-2

  Each lb pod runs pod-watcher, ipvs-programmer and bgp-announcer. Each node runs node-router.
  Packets travel client -> router -> one of the lb pods -> (tunnel) -> a web pod. Answers go directly
  from the web pod to the client.
"
    .to_owned()
}

pub(crate) fn missing_kernel_features(environment: Environment) -> &'static [&'static str] {
    if environment.has_nftables_for_ip() {
        &[]
    } else {
        &[
            "    This kernel has no nftables for IP, so there is no RST guard, no SNAT and no\n    \
           connection-tracking exemption. The tunnels of the demo need none of them. Each daemon\n    \
           logs one warning.\n",
        ]
    }
}
