//! Fuzz target of the decoder for routing rules.
//!
//! No input makes the decoder panic. A decoded rule that is encoded and decoded again is equal to
//! the first decoded rule.

#![no_main]

use libfuzzer_sys::fuzz_target;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{RouteNetlinkMessage, rule::RuleMessage};
use routing_rule::RoutingRule;

fuzz_target!(|octets: &[u8]| {
    let Some(message) = received(octets) else {
        return;
    };
    let rule = RoutingRule::from_message(&message);
    let message = RouteNetlinkMessage::NewRule(rule.to_message());
    let mut message = NetlinkMessage::from(message);
    message.finalize();
    let mut octets = vec![0; message.buffer_len()];
    message.serialize(&mut octets);
    let again = received(&octets).expect("an encoded rule can be decoded");
    assert_eq!(RoutingRule::from_message(&again), rule);
});

fn received(octets: &[u8]) -> Option<RuleMessage> {
    match NetlinkMessage::<RouteNetlinkMessage>::deserialize(octets)
        .ok()?
        .payload
    {
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewRule(rule) | RouteNetlinkMessage::DelRule(rule),
        ) => Some(rule),
        _ => None,
    }
}
