//! Fuzz target of the conversion of netlink messages about routes, rules and links.
//!
//! No message makes the conversion panic. A recorded route is either a route of node-router or a
//! relevant foreign route, and its notification is never ignored.

#![no_main]

use libfuzzer_sys::fuzz_target;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use node_router::{
    Policy, RouteSnapshot,
    message::{
        ForeignRoutes, add_foreign_route, add_own_route, direct_interface, is_relevant,
        parse_own_rule, rule_message, winner,
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
    let is_relevant_notification = is_relevant(&message.payload, &policy);
    match message.payload {
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route),
        ) => {
            let mut snapshot = RouteSnapshot::default();
            add_own_route(&route, &mut snapshot);
            let is_own = snapshot != RouteSnapshot::default();
            let mut foreign_routes = ForeignRoutes::default();
            add_foreign_route(&route, &policy, &mut foreign_routes);
            let _ = foreign_routes.interfaces.pod_interfaces(&policy);
            assert!(
                !is_own || is_relevant_notification,
                "the notification of an own route is relevant: {route:?}"
            );
            let is_foreign = foreign_routes != ForeignRoutes::default();
            assert!(
                !(is_own && is_foreign),
                "a route is not both own and foreign: {route:?}"
            );
            assert!(
                !is_foreign || is_relevant_notification,
                "the notification of a foreign route is relevant: {route:?}"
            );
            for prefix in &policy.allowed_prefixes {
                let _ = winner(*prefix, &route);
            }
            let _ = direct_interface(&route);
        }
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewRule(message) | RouteNetlinkMessage::DelRule(message),
        ) => {
            if let Some(own) = parse_own_rule(&message) {
                assert_eq!(parse_own_rule(&rule_message(&own)), Some(own.clone()));
            }
        }
        _ => {}
    }
});
