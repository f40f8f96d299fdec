//! No octets make node-router's readers of the kernel's messages about routes, rules and links
//! panic; what they keep is what the daemon has made, or concerns it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use node_router::{
    Policy, Snapshot,
    message::{
        Surroundings, concerns_us, directly_reached, own_rule, rule, sort_in_foreign, sort_in_own,
        winner,
    },
};

fuzz_target!(|octets: &[u8]| {
    let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(octets) else {
        return;
    };
    let policy = Policy {
        allowed_prefixes: vec![
            "10.1.1.0/24".parse().expect("a prefix"),
            "fd00:1::/64".parse().expect("a prefix"),
        ],
        allowed_gateways: vec![
            "10.244.3.0/24".parse().expect("a prefix"),
            "fd00:244:3::/64".parse().expect("a prefix"),
        ],
    };
    let concerns = concerns_us(&message.payload, &policy);
    match message.payload {
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route),
        ) => {
            let mut snapshot = Snapshot::default();
            sort_in_own(&route, &mut snapshot);
            let is_own = snapshot != Snapshot::default();
            let mut surroundings = Surroundings::default();
            sort_in_foreign(&route, &policy, &mut surroundings);
            let _ = surroundings.interfaces.of_pods(&policy);
            assert!(
                !is_own || concerns,
                "a change of an own route is noticed: {route:?}"
            );
            let is_foreign = surroundings != Surroundings::default();
            assert!(!(is_own && is_foreign), "own or foreign: {route:?}");
            assert!(
                !is_foreign || concerns,
                "a change of a foreign route is noticed: {route:?}"
            );
            for prefix in &policy.allowed_prefixes {
                let _ = winner(*prefix, &route);
            }
            let _ = directly_reached(&route);
        }
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewRule(message) | RouteNetlinkMessage::DelRule(message),
        ) => {
            if let Some(found) = own_rule(&message) {
                assert_eq!(own_rule(&rule(&found)), Some(found.clone()));
            }
        }
        _ => {}
    }
});
