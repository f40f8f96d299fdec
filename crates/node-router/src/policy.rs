//! Pure: which claims this node allows.

use std::{collections::BTreeSet, net::IpAddr};

use daemon_runtime::parse_prefix;
use ipnet::IpNet;

use crate::{error::Refusal, uplink::IpVersion};

/// Most characters of a claimed text that a refusal quotes; the longest prefix has 43.
const LONGEST_QUOTED: usize = 64;

/// What pods of this node may claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Service ranges.
    pub allowed_prefixes: Vec<IpNet>,
    /// Ranges of this node's pod addresses.
    pub allowed_gateways: Vec<IpNet>,
}

/// A route that a pod asks for, in the order of its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// The service addresses that the route leads to.
    pub prefix: IpNet,
    /// Address of the pod.
    pub gateway: IpAddr,
}

impl Policy {
    /// Reads a claim and decides on it.
    ///
    /// # Errors
    /// The texts are no claim, or the policy does not allow it.
    pub fn admit(&self, prefix: &str, gateway: &str) -> Result<Claim, Refusal> {
        let claim = Claim {
            prefix: match prefix.len() {
                0..=LONGEST_QUOTED => parse_prefix(prefix).map_err(Refusal::NotAPrefix)?,
                _ => {
                    let start = shortened(prefix);
                    return Err(Refusal::NotAPrefix(format!(
                        "{start:?}... is longer than any prefix"
                    )));
                }
            },
            gateway: gateway.parse().map_err(|_| Refusal::NotAnAddress {
                gateway: shortened(gateway),
            })?,
        };
        self.check(&claim)?;
        Ok(claim)
    }

    /// Decides on a claim.
    pub(crate) fn check(&self, &Claim { prefix, gateway }: &Claim) -> Result<(), Refusal> {
        if prefix.addr().is_ipv4() != gateway.is_ipv4() {
            return Err(Refusal::OtherFamily { prefix, gateway });
        }
        if !self.allowed_prefixes.iter().any(|a| a.contains(&prefix)) {
            return Err(Refusal::PrefixNotAllowed {
                prefix,
                allowed: listed(&self.allowed_prefixes),
            });
        }
        if !self.allowed_gateways.iter().any(|a| a.contains(&gateway)) {
            return Err(Refusal::GatewayNotAllowed {
                gateway,
                allowed: listed(&self.allowed_gateways),
            });
        }
        Ok(())
    }

    /// Returns the IP versions in use.
    pub(crate) fn versions(&self) -> BTreeSet<IpVersion> {
        self.allowed_prefixes.iter().map(IpVersion::of).collect()
    }

    /// Whether a route for the prefix could concern a claim.
    pub(crate) fn concerns(&self, prefix: &IpNet) -> bool {
        self.allowed_prefixes.iter().any(|a| a.contains(prefix))
    }

    /// Reports whether the prefix has an address in common with the allowed gateways.
    pub(crate) fn overlaps_gateways(&self, prefix: &IpNet) -> bool {
        let mut ranges = self.allowed_gateways.iter();
        ranges.any(|range| range.contains(prefix) || prefix.contains(range))
    }
}

/// Returns the start of a claimed text: a holder may send megabytes, which no log and no trailer
/// of an answer has room for.
pub(crate) fn shortened(text: &str) -> String {
    text.chars().take(LONGEST_QUOTED).collect()
}

pub(crate) fn listed(prefixes: &[IpNet]) -> String {
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
    fn a_prefix_within_an_allowed_one_is_admitted() {
        check("10.1.1.0/24", "10.244.3.7", Ok(()));
        check("10.1.1.9/32", "10.244.3.7", Ok(()));
        check("fd00:1::5/128", "fd00:244:3::7", Ok(()));
    }

    #[test]
    fn what_is_not_allowed_is_refused_with_what_is() {
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
    fn a_gateway_of_the_other_family_is_refused() {
        check("10.1.1.0/24", "fd00:244:3::7", Err("IP version"));
        check("fd00:1::/64", "10.244.3.7", Err("IP version"));
    }

    #[test]
    fn what_is_no_prefix_or_address_is_refused_with_the_cure() {
        check("10.1.1.1/24", "10.244.3.7", Err("write 10.1.1.0/24"));
        check("10.1.1.1", "10.244.3.7", Err("is not a prefix"));
        check("", "10.244.3.7", Err("is not a prefix"));
        check("10.1.1.0/33", "10.244.3.7", Err("is not a prefix"));
        let long = format!("10.1.1.0/24{}junk", " ".repeat(53));
        check(&long, "10.244.3.7", Err("is longer than any prefix"));
        check("10.1.1.0/24", "web-1", Err("\"web-1\""));
        check("10.1.1.0/24", "", Err("gateway"));
    }

    #[test]
    fn a_refusal_quotes_the_start_of_a_long_text() {
        let policy = Policy {
            allowed_prefixes: Vec::new(),
            allowed_gateways: Vec::new(),
        };
        // Each character takes ten octets in a refusal.
        let long = "\u{10ffff}".repeat(1_000_000);
        for (prefix, gateway) in [(long.as_str(), "10.244.3.7"), ("10.1.1.0/24", &long)] {
            let refusal = policy.admit(prefix, gateway).unwrap_err().to_string();
            assert!(refusal.len() < 1_000, "{} octets", refusal.len());
        }
    }
}
