//! The flags and configuration files of the daemons in the lab.

use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use serde_json::json;

use crate::bgp::ASN;
use crate::nodes::{LabPod, Node};
use crate::reference::{
    NODE_NETWORK, NODE_NETWORK6, POD_RANGE, POD_RANGE6, ROUTER, SERVICE_RANGE, SERVICE_RANGE6,
    reflector_address,
};

/// Flags with their values. A flag can occur more than once.
pub(super) type Flags = Vec<(String, String)>;

pub(super) fn pod_watcher(file: &Path) -> Flags {
    flags([("--file", file.display().to_string())])
}

pub(super) fn ipvs_programmer() -> Flags {
    // By default ipvs-programmer connects to the pod-watcher in its own pod, so it needs no flags.
    Vec::new()
}

pub(super) fn bgp_announcer(node: &Node, lb_pod: &LabPod, node_router: &Path) -> Flags {
    let next_hops = [node.address.addr().into(), node.address6.addr().into()];
    let gateways = [lb_pod.address.into(), lb_pod.address6.into()];
    let mut flags = flags([
        ("--asn", ASN.to_string()),
        ("--next-hop", list::<IpAddr>(next_hops)),
        ("--gateway", list::<IpAddr>(gateways)),
        ("--allowed-prefixes", service_ranges()),
        ("--node-router", format!("unix:{}", node_router.display())),
        ("--hold-time", "3s".to_owned()),
        // The delay is short, because many tests wait for it. The router needs less than a second
        // to change its routes.
        ("--withdraw-delay", "1s".to_owned()),
        ("--linger", "1s".to_owned()),
    ]);
    for number in [1, 2] {
        let peer = format!("{},name=reflector-{number}", reflector_address(number));
        flags.push(("--peer".to_owned(), peer));
    }
    flags
}

pub(super) fn node_router(node: &Node, socket: &Path) -> Flags {
    let pods = [IpNet::from(node.pods.trunc()), node.pods6.trunc().into()];
    flags([
        ("--grpc-listen", format!("unix:{}", socket.display())),
        ("--allowed-prefixes", service_ranges()),
        ("--allowed-gateways", list(pods)),
    ])
}

pub(super) fn route_reflector(file: &Path) -> Flags {
    flags([("--config", file.display().to_string())])
}

/// Replaces all values of each flag in `with`. Adds a flag that `flags` does not have.
pub(super) fn replace(flags: &mut Flags, with: &[(String, String)]) {
    flags.retain(|(flag, _)| !with.iter().any(|(other, _)| other == flag));
    flags.extend_from_slice(with);
}

/// Returns the text of the configuration file of reflector 1 or 2.
pub(super) fn reflector_file(number: u8) -> String {
    let address = reflector_address(number);
    let import = [IpNet::from(SERVICE_RANGE), SERVICE_RANGE6.into()].map(|range| {
        json!({
            "prefix": range,
            "minimumLength": range.prefix_len(),
            "maximumLength": range.max_prefix_len(),
        })
    });
    let file = json!({
        "apiVersion": "portlb.io/v1",
        "kind": "RouteReflector",
        "asn": ASN,
        "routerId": address,
        "listen": [format!("{address}:179")],
        "peerGroups": [
            {
                "name": "lb-pods",
                "dynamicPrefixes": [POD_RANGE.to_string(), POD_RANGE6.to_string()],
                "role": "client",
                "addPath": "receive",
                "holdTime": "3s",
                "importPrefixes": import,
                "allowedNextHops": [NODE_NETWORK.to_string(), NODE_NETWORK6.to_string()],
            },
            {
                "name": "routers",
                "role": "non-client",
                "addPath": "send",
                "holdTime": "9s",
                "exportPrefixes": "all",
            },
        ],
        "peers": [
            { "name": "router", "address": ROUTER, "localAddress": address, "group": "routers" },
        ],
    });
    format!("{file:#}")
}

fn service_ranges() -> String {
    list([IpNet::from(SERVICE_RANGE), SERVICE_RANGE6.into()])
}

fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<_> = items.into_iter().map(|item| item.to_string()).collect();
    items.join(",")
}

fn flags<const N: usize>(pairs: [(&str, String); N]) -> Flags {
    pairs.map(|(flag, value)| (flag.to_owned(), value)).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_flag_has_only_its_new_values() {
        let mut all = flags([
            ("--peer", "a".to_owned()),
            ("--asn", "1".to_owned()),
            ("--peer", "b".to_owned()),
        ]);
        replace(
            &mut all,
            &flags([("--peer", "c".to_owned()), ("--med", "5".to_owned())]),
        );
        let text: Vec<_> = all
            .iter()
            .map(|(flag, value)| format!("{flag} {value}"))
            .collect();
        assert_eq!(text, ["--asn 1", "--peer c", "--med 5"]);
    }
}
