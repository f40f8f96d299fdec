//! Policy of this node: prefixes and gateways that pods may claim.

use std::{collections::BTreeSet, net::IpAddr};

use daemon_runtime::parse_prefix;
use ipnet::IpNet;

use crate::{error::HoldRefusal, uplink::IpVersion};

/// Maximum number of characters of a rejected text that an error quotes. The longest valid prefix
/// has 43 characters.
const LONGEST_QUOTED: usize = 64;

/// Prefixes and gateways that pods of this node may claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub allowed_prefixes: Vec<IpNet>,
    /// Ranges of pod addresses, of this node or of the whole cluster.
    pub allowed_gateways: Vec<IpNet>,
}

/// The prefix and the gateway of a route that a pod requests. Claims are ordered by prefix, then by
/// gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteClaim {
    /// Service addresses: the destination of the route.
    pub prefix: IpNet,
    /// Address of the pod: the next hop of the route.
    pub gateway: IpAddr,
}

impl Policy {
    /// Parses a claim and checks it against the policy.
    ///
    /// # Errors
    /// The prefix or the gateway is invalid, or the policy does not allow the claim.
    pub fn admit(&self, prefix: &str, gateway: &str) -> Result<RouteClaim, HoldRefusal> {
        let claim = RouteClaim {
            prefix: match prefix.len() {
                0..=LONGEST_QUOTED => parse_prefix(prefix).map_err(HoldRefusal::NotAPrefix)?,
                _ => {
                    let start = shortened(prefix);
                    return Err(HoldRefusal::NotAPrefix(format!(
                        "{start:?}... is longer than the longest prefix"
                    )));
                }
            },
            gateway: gateway.parse().map_err(|_| HoldRefusal::NotAnAddress {
                gateway: shortened(gateway),
            })?,
        };
        self.check(&claim)?;
        Ok(claim)
    }

    /// Returns an error unless the policy allows the claim.
    pub(crate) fn check(
        &self,
        &RouteClaim { prefix, gateway }: &RouteClaim,
    ) -> Result<(), HoldRefusal> {
        if prefix.addr().is_ipv4() != gateway.is_ipv4() {
            return Err(HoldRefusal::OtherFamily { prefix, gateway });
        }
        if !self.allowed_prefixes.iter().any(|a| a.contains(&prefix)) {
            return Err(HoldRefusal::PrefixNotAllowed {
                prefix,
                allowed: comma_separated(&self.allowed_prefixes),
            });
        }
        if !self.allowed_gateways.iter().any(|a| a.contains(&gateway)) {
            return Err(HoldRefusal::GatewayNotAllowed {
                gateway,
                allowed: comma_separated(&self.allowed_gateways),
            });
        }
        Ok(())
    }

    /// Returns the IP versions of the allowed prefixes.
    pub(crate) fn versions(&self) -> BTreeSet<IpVersion> {
        self.allowed_prefixes.iter().map(IpVersion::of).collect()
    }

    /// Reports whether a route to the prefix can conflict with a claim, because it lies within an
    /// allowed prefix.
    pub(crate) fn is_in_allowed_prefix(&self, prefix: &IpNet) -> bool {
        self.allowed_prefixes.iter().any(|a| a.contains(prefix))
    }

    /// Reports whether the prefix and the ranges of allowed gateways have an address in common.
    pub(crate) fn overlaps_gateways(&self, prefix: &IpNet) -> bool {
        let mut ranges = self.allowed_gateways.iter();
        ranges.any(|range| range.contains(prefix) || prefix.contains(range))
    }
}

/// Returns the first [`LONGEST_QUOTED`] characters of a text. A holder can send megabytes, which
/// are too long for a log line and for the trailer of a gRPC response.
pub(crate) fn shortened(text: &str) -> String {
    text.chars().take(LONGEST_QUOTED).collect()
}

pub(crate) fn comma_separated(prefixes: &[IpNet]) -> String {
    let texts: Vec<String> = prefixes.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(prefix: &str, gateway: &str, expected: Result<(), &str>) {
        let policy = Policy {
            allowed_prefixes: vec![
                "10.1.1.0/24".parse().unwrap(),
                "fd00:1::/64".parse().unwrap(),
            ],
            allowed_gateways: vec![
                "10.244.3.0/24".parse().unwrap(),
                "fd00:244:3::/64".parse().unwrap(),
            ],
        };
        match (policy.admit(prefix, gateway), expected) {
            (Ok(claim), Ok(())) => assert_eq!(claim.prefix.to_string(), prefix),
            (Err(refusal), Err(part)) => {
                assert!(refusal.to_string().contains(part), "{refusal}");
            }
            (result, _) => panic!("{prefix} via {gateway}: {result:?}"),
        }
    }

    #[test]
    fn a_claim_within_the_allowed_ranges_is_accepted() {
        check("10.1.1.0/24", "10.244.3.7", Ok(()));
        check("10.1.1.9/32", "10.244.3.7", Ok(()));
        check("fd00:1::5/128", "fd00:244:3::7", Ok(()));
    }

    #[test]
    fn the_refusal_of_a_claim_lists_the_allowed_ranges() {
        check(
            "10.1.0.0/16",
            "10.244.3.7",
            Err("allowed here: 10.1.1.0/24, fd00:1::/64"),
        );
        check("0.0.0.0/0", "10.244.3.7", Err("--allowed-prefixes"));
        check(
            "10.1.1.0/24",
            "10.244.4.7",
            Err("allowed here: 10.244.3.0/24"),
        );
        check("10.1.1.0/24", "127.0.0.1", Err("--allowed-gateways"));
    }

    #[test]
    fn a_gateway_of_the_other_ip_version_is_refused() {
        check("10.1.1.0/24", "fd00:244:3::7", Err("IP version"));
        check("fd00:1::/64", "10.244.3.7", Err("IP version"));
    }

    #[test]
    fn an_invalid_prefix_or_gateway_is_refused_with_a_suggestion() {
        check("10.1.1.1/24", "10.244.3.7", Err("write 10.1.1.0/24"));
        check("10.1.1.1", "10.244.3.7", Err("is not a prefix"));
        check("", "10.244.3.7", Err("is not a prefix"));
        check("10.1.1.0/33", "10.244.3.7", Err("is not a prefix"));
        let long = format!("10.1.1.0/24{}junk", " ".repeat(53));
        check(
            &long,
            "10.244.3.7",
            Err("is longer than the longest prefix"),
        );
        check("10.1.1.0/24", "web-1", Err("\"web-1\""));
        check("10.1.1.0/24", "", Err("gateway"));
    }

    #[test]
    fn a_refusal_quotes_only_the_start_of_a_long_text() {
        let policy = Policy {
            allowed_prefixes: Vec::new(),
            allowed_gateways: Vec::new(),
        };
        // A refusal escapes each of these characters as ten octets.
        let long = "\u{10ffff}".repeat(1_000_000);
        for (prefix, gateway) in [(long.as_str(), "10.244.3.7"), ("10.1.1.0/24", &long)] {
            let refusal = policy.admit(prefix, gateway).unwrap_err().to_string();
            assert!(refusal.len() < 1_000, "{} octets", refusal.len());
        }
    }
}
