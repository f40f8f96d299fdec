//! A routing rule of the kernel, to netlink messages and back.

use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily,
    route::RouteProtocol,
    rule::{RuleAction, RuleAttribute, RuleMessage},
};

/// A rule that names the routing table for some packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutingRule {
    /// `Inet` or `Inet6`.
    pub family: AddressFamily,
    /// The kernel asks the rule of the lowest preference first.
    pub preference: u32,
    /// Only packets that come in by this interface; `None`: all packets.
    pub incoming_interface: Option<String>,
    /// Only packets to this prefix; `None`: all packets.
    pub destination: Option<IpNet>,
    /// The routing table to look in.
    pub table: u32,
    /// The program that made the rule, as in `ip rule ... proto`; 0: none is named.
    pub protocol: u8,
}

impl RoutingRule {
    /// Returns the message that adds or removes the rule.
    #[must_use]
    pub fn to_message(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = self.family;
        message.header.action = RuleAction::ToTable;
        // 0 where the number needs the attribute.
        message.header.table = u8::try_from(self.table).unwrap_or(0);
        message.attributes = vec![
            RuleAttribute::Priority(self.preference),
            RuleAttribute::Table(self.table),
        ];
        if let Some(interface) = &self.incoming_interface {
            let name = RuleAttribute::Iifname(interface.clone());
            message.attributes.push(name);
        }
        if let Some(prefix) = self.destination {
            message.header.dst_len = prefix.prefix_len();
            let network = RuleAttribute::Destination(prefix.network());
            message.attributes.push(network);
        }
        if self.protocol != 0 {
            let protocol = RuleAttribute::Protocol(RouteProtocol::from(self.protocol));
            message.attributes.push(protocol);
        }
        message
    }

    /// Returns the parts of the rule in a message of the kernel.
    #[must_use]
    pub fn from_message(message: &RuleMessage) -> Self {
        let mut rule = Self {
            family: message.header.family,
            preference: 0,
            incoming_interface: None,
            destination: None,
            table: message.header.table.into(),
            protocol: 0,
        };
        for attribute in &message.attributes {
            #[allow(
                clippy::wildcard_enum_match_arm,
                reason = "the kernel's attributes are an open set"
            )]
            match attribute {
                RuleAttribute::Priority(preference) => rule.preference = *preference,
                RuleAttribute::Iifname(name) => rule.incoming_interface = Some(name.clone()),
                RuleAttribute::Destination(address) => {
                    // The kernel keeps bits behind the length, and matches without them.
                    let prefix = IpNet::new(*address, message.header.dst_len);
                    rule.destination = prefix.ok().map(|prefix| prefix.trunc());
                }
                RuleAttribute::Table(table) => rule.table = *table,
                RuleAttribute::Protocol(protocol) => rule.protocol = (*protocol).into(),
                _ => {}
            }
        }
        rule
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(rule: &RoutingRule) {
        assert_eq!(&RoutingRule::from_message(&rule.to_message()), rule);
    }

    #[test]
    fn a_rule_is_read_as_it_was_written() {
        let all = RoutingRule {
            family: AddressFamily::Inet,
            preference: 0,
            incoming_interface: None,
            destination: None,
            table: 255,
            protocol: 0,
        };
        check(&all);
        check(&RoutingRule {
            preference: 112,
            incoming_interface: Some("eth0".to_owned()),
            destination: "10.1.1.0/24".parse().ok(),
            table: 112,
            protocol: 112,
            ..all.clone()
        });
        check(&RoutingRule {
            family: AddressFamily::Inet6,
            destination: "fd01::/64".parse().ok(),
            table: 70_000,
            ..all
        });
    }

    /// Found by the fuzz target `rule`.
    #[test]
    fn a_destination_is_read_without_bits_behind_its_length() {
        let mut message = RuleMessage::default();
        message.header.family = AddressFamily::Inet6;
        message.header.dst_len = 64;
        let address = "fd00:1::ff05:0:0".parse().unwrap();
        message.attributes = vec![RuleAttribute::Destination(address)];
        let rule = RoutingRule::from_message(&message);
        assert_eq!(rule.destination, "fd00:1::/64".parse().ok());
        check(&rule);
    }

    #[test]
    fn a_rule_without_the_table_attribute_has_the_table_of_the_header() {
        let mut message = RuleMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.table = 254;
        assert_eq!(RoutingRule::from_message(&message).table, 254);
    }
}
