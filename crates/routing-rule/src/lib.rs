//! Conversion of routing rules to netlink messages and back.

use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily,
    route::RouteProtocol,
    rule::{RuleAction, RuleAttribute, RuleMessage},
};

/// A rule that selects the routing table for matching packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutingRule {
    pub family: AddressFamily,
    /// The kernel evaluates the rule with the lowest preference first.
    pub preference: u32,
    /// Restricts the rule to packets that arrive on this interface. `None`: the rule matches
    /// packets of every interface.
    pub incoming_interface: Option<String>,
    /// Restricts the rule to packets with a destination in this prefix. `None`: the rule matches
    /// every destination.
    pub destination: Option<IpNet>,
    /// Number of the routing table in which the kernel looks up the route.
    pub table: u32,
    /// Number of the program that added the rule, shown as `proto` by `ip rule`. 0: unspecified.
    pub protocol: u8,
}

impl RoutingRule {
    /// Returns the netlink message that adds or removes the rule.
    #[must_use]
    pub fn to_message(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = self.family;
        message.header.action = RuleAction::ToTable;
        // The table number in the header has 8 bits. For a larger number the header contains 0, and
        // the kernel uses the number in the attribute.
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

    /// Returns the rule in a message of the kernel. Ignores parts of the message that
    /// [`RoutingRule`] does not have.
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
                reason = "the kernel sends other attributes as well"
            )]
            match attribute {
                RuleAttribute::Priority(preference) => rule.preference = *preference,
                RuleAttribute::Iifname(name) => rule.incoming_interface = Some(name.clone()),
                RuleAttribute::Destination(address) => {
                    // The kernel keeps address bits after the prefix length, and ignores these bits
                    // when it matches packets.
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
    fn a_decoded_rule_is_equal_to_the_encoded_rule() {
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

    /// The fuzz target `rule` found this case.
    #[test]
    fn a_destination_is_decoded_without_the_bits_after_the_prefix_length() {
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
    fn a_rule_without_a_table_attribute_uses_the_table_number_in_the_header() {
        let mut message = RuleMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.table = 254;
        assert_eq!(RoutingRule::from_message(&message).table, 254);
    }
}
