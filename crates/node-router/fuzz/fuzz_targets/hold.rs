//! Fuzz target of the policy check for hold requests.
//!
//! No request makes the check panic. An accepted claim is allowed by the policy, and the text of an
//! accepted claim is accepted as well. A refusal is short, because it is sent to the holder and
//! logged.

#![no_main]

use daemon_api::noderoute::v1::HoldRequest;
use libfuzzer_sys::fuzz_target;
use node_router::Policy;
use prost::Message;

/// Maximum length of a refusal in octets: two shortened texts of the claim, and the allowed ranges.
const LONGEST_REFUSAL: usize = 1_000;

fuzz_target!(|octets: &[u8]| {
    let Ok(request) = HoldRequest::decode(octets) else {
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
    match policy.admit(&request.prefix, &request.gateway) {
        Ok(claim) => {
            let mut allowed = policy.allowed_prefixes.iter();
            assert!(allowed.any(|range| range.contains(&claim.prefix)));
            let mut allowed = policy.allowed_gateways.iter();
            assert!(allowed.any(|range| range.contains(&claim.gateway)));
            assert_eq!(claim.prefix, claim.prefix.trunc());
            let again = policy.admit(&claim.prefix.to_string(), &claim.gateway.to_string());
            assert_eq!(again.expect("an accepted claim is accepted again"), claim);
        }
        Err(refusal) => assert!(refusal.to_string().len() <= LONGEST_REFUSAL),
    }
});
