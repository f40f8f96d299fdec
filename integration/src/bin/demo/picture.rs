//! What the viewer sees before the first step.

use lab::Environment;

pub(crate) fn of_the_network() -> String {
    "
  client ─── router ───┬─── node-a    lb-a   web-1 web-4
            (BIRD,     ├─── node-b    lb-b   web-2 web-5
             ECMP)     ├─── node-c    lb-c   web-3 web-6
                       ├─── reflector-1
                       └─── reflector-2

  Each lb pod runs pod-watcher, ipvs-programmer and bgp-announcer; each node a node-router.
  Packets travel client -> router -> one of the lb pods -> (tunnel) -> a web pod, and straight back.
"
    .to_owned()
}

pub(crate) fn what_this_kernel_lacks(environment: Environment) -> &'static [&'static str] {
    if environment.has_nftables_for_ip() {
        &[]
    } else {
        &[
            "    This kernel has no nftables for IP: no RST guard, no SNAT, no connection-tracking\n    \
           exemption. Tunnels need none of them here; the daemons have logged one warning each.\n",
        ]
    }
}
