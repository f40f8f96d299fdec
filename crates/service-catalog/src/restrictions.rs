//! Limits on clients that no load balancer enforces.

use std::net::IpAddr;

use virtual_server::{AddressFamily, IpNet};

use super::{
    finding::{Finding, Reason, Subject},
    model::{SOURCE_RANGES_ANNOTATION, Service},
};

/// Returns the finding about a Service that admits only some clients.
///
/// The ranges `0.0.0.0/0` and `::/0` limit nothing. An address family without any range is not
/// limited, because kube-proxy does not limit it either. A text that is not a prefix counts as a
/// limit.
pub(super) fn of_service(service: &Service) -> Option<Finding> {
    let (subject, texts): (Subject, Vec<&str>) = if service.source_ranges.is_empty() {
        let annotated = service.annotated_source_ranges.as_deref()?;
        let texts = annotated.split(',').map(str::trim);
        (
            Subject::Annotation(SOURCE_RANGES_ANNOTATION.into()),
            texts.filter(|text| !text.is_empty()).collect(),
        )
    } else {
        let texts = service.source_ranges.iter().map(|text| text.trim());
        (
            Subject::field("spec.loadBalancerSourceRanges"),
            texts.collect(),
        )
    };
    if !limits_clients(&texts) {
        return None;
    }
    let text = "no load balancer enforces this limit, so the Service is not served; filter clients \
                at the router or with a NetworkPolicy for the pods, and remove the ranges or write \
                0.0.0.0/0 and ::/0";
    Some(Finding::about(
        Reason::SourceRangesUnsupported,
        subject,
        text,
    ))
}

fn limits_clients(texts: &[&str]) -> bool {
    let mut limited: Vec<AddressFamily> = Vec::new();
    let mut open: Vec<AddressFamily> = Vec::new();
    for text in texts {
        // Kubernetes accepts prefixes with host bits, such as 10.0.0.1/0. So only the length
        // decides whether a prefix contains the whole address family.
        let Some((address, length)) = text.split_once('/') else {
            return true;
        };
        let (Ok(address), Ok(length)) = (address.parse::<IpAddr>(), length.parse::<u8>()) else {
            return true;
        };
        if IpNet::new(address, length).is_err() {
            return true;
        }
        let families = if length == 0 { &mut open } else { &mut limited };
        families.push(AddressFamily::of(address));
    }
    limited.iter().any(|family| !open.contains(family))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(texts: &[&str], limits: bool) {
        assert_eq!(limits_clients(texts), limits, "{texts:?}");
    }

    #[test]
    fn source_ranges_limit_clients_unless_they_contain_the_whole_address_family() {
        check(&[], false);
        check(&["0.0.0.0/0"], false);
        check(&["0.0.0.0/0", "::/0"], false);
        check(&["10.0.0.1/0"], false);
        check(&["192.0.2.0/24", "0.0.0.0/0"], false);
        check(&["192.0.2.0/24"], true);
        check(&["192.0.2.0/24", "::/0"], true);
        check(&["0.0.0.0/0", "2001:db8::/32"], true);
        check(&["0.0.0.0/1"], true);
    }

    #[test]
    fn an_invalid_source_range_counts_as_a_limit() {
        for text in ["", "192.0.2.1", "0.0.0.0/x", "office", "0.0.0.0/33"] {
            check(&[text, "0.0.0.0/0"], true);
        }
    }
}
