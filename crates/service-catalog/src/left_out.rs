//! Endpoints that cannot be real servers, counted by reason.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use virtual_server::VirtualServerId;

use super::{
    finding::{Finding, Reason},
    model::{CountWithExample, NotUsed},
};

/// The reason why an endpoint is not a real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LeftOutReason {
    /// The address is the second or a further address of its endpoint. Only the first address of an
    /// endpoint is used.
    FurtherAddress,
    /// The EndpointSlice lists a name instead of an address.
    NotAnAddress,
    /// The EndpointSlice lists no port with the name and the protocol of the Service's port.
    PortNotInSlice,
    /// The endpoint listens on another port than clients connect to, and the forwarding method
    /// cannot change ports.
    PortDiffers,
    /// The endpoint and the service address have different address families.
    OtherFamily,
    /// The endpoint has a service address.
    ServiceAddress,
    /// The address of the endpoint is within a service range.
    ServiceRange,
    /// No Service could use this endpoint, for example because it has a loopback address.
    Unusable,
    /// The virtual server has more endpoints than its scheduler supports, and this endpoint exceeds
    /// the limit.
    TooMany,
}

/// The number of endpoints that are left out, by [`LeftOutReason`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOutCounts([usize; LeftOutReason::ALL.len()]);

/// The endpoints of one Service that are left out, with their reasons.
#[derive(Debug, Default)]
pub(super) struct LeftOut {
    by_reason: [ReasonRecord; LeftOutReason::ALL.len()],
    /// The number of virtual servers that have endpoints but no real server.
    without_real_server: usize,
    first_without_real_server: Option<(VirtualServerId, Example)>,
    /// The first endpoint that was left out of the virtual server that is being converted.
    current: Option<Example>,
}

/// An endpoint that is left out, as the example in a message.
#[derive(Clone, Debug)]
struct Example {
    reason: LeftOutReason,
    text: String,
}

#[derive(Debug, Default)]
struct ReasonRecord {
    addresses: BTreeSet<IpAddr>,
    /// The number of counted entries that are not in `addresses`: names, and further addresses of
    /// endpoints. [`NotUsed`] has only their number and one example.
    without_address: usize,
    example: String,
}

impl LeftOutReason {
    pub const ALL: [Self; 9] = [
        Self::FurtherAddress,
        Self::NotAnAddress,
        Self::PortNotInSlice,
        Self::PortDiffers,
        Self::OtherFamily,
        Self::ServiceAddress,
        Self::ServiceRange,
        Self::Unusable,
        Self::TooMany,
    ];

    /// Returns the value of the label `reason` in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FurtherAddress => "further_address",
            Self::NotAnAddress => "not_an_address",
            Self::PortNotInSlice => "port_not_in_slice",
            Self::PortDiffers => "port_differs",
            Self::OtherFamily => "other_family",
            Self::ServiceAddress => "service_address",
            Self::ServiceRange => "service_range",
            Self::Unusable => "unusable",
            Self::TooMany => "too_many",
        }
    }
}

impl LeftOutCounts {
    /// Returns each reason with the number of endpoints that it left out, also if the number is 0.
    pub fn iter(&self) -> impl Iterator<Item = (LeftOutReason, usize)> {
        LeftOutReason::ALL.into_iter().zip(self.0)
    }

    /// Updates the sum of all Services: subtracts the former counts of one Service, and adds its
    /// new counts.
    pub(super) fn replace(&mut self, former: &Self, new: &Self) {
        for (sum, (former, new)) in self.0.iter_mut().zip(former.0.iter().zip(new.0)) {
            *sum = *sum + new - former;
        }
    }
}

impl LeftOut {
    /// Counts an endpoint that is left out for `reason`. In a message, `shown` names the endpoint,
    /// and the result of `why` follows with the problem and the correction.
    pub(super) fn add(
        &mut self,
        reason: LeftOutReason,
        address: IpAddr,
        shown: impl fmt::Display,
        why: impl FnOnce() -> String,
    ) {
        let record = &mut self.by_reason[reason as usize];
        record.addresses.insert(address);
        if self.current.is_some() && !record.example.is_empty() {
            return;
        }
        let example = format!("{shown} {}", why());
        if record.example.is_empty() {
            record.example.clone_from(&example);
        }
        self.current.get_or_insert(Example {
            reason,
            text: example,
        });
    }

    /// Counts the entries of an EndpointSlice that no virtual server can use.
    pub(super) fn add_not_used(&mut self, not_used: &NotUsed) {
        let NotUsed {
            further_addresses,
            names,
        } = not_used;
        self.add_count(LeftOutReason::FurtherAddress, further_addresses, || {
            "is a second or further address of its endpoint, and only the first address is used; \
             list the endpoint once for each address"
        });
        self.add_count(LeftOutReason::NotAnAddress, names, || {
            "is not an IP address, and names are not looked up; list the addresses in slices of \
             addressType IPv4 or IPv6"
        });
    }

    fn add_count(
        &mut self,
        reason: LeftOutReason,
        count_with_example: &CountWithExample,
        why: fn() -> &'static str,
    ) {
        if count_with_example.count == 0 {
            return;
        }
        let record = &mut self.by_reason[reason as usize];
        if record.example.is_empty() {
            record.example = format!("{} {}", count_with_example.example, why());
        }
        record.without_address += count_with_example.count;
    }

    /// Ends the conversion of one virtual server. If the virtual server has endpoints but no real
    /// server, a finding reports it.
    pub(super) fn finish_virtual_server(&mut self, id: VirtualServerId, has_real_servers: bool) {
        let names = &self.by_reason[LeftOutReason::NotAnAddress as usize];
        let of_names = || Example {
            reason: LeftOutReason::NotAnAddress,
            text: names.example.clone(),
        };
        let has_names = !names.example.is_empty();
        let example = self.current.take().or_else(|| has_names.then(of_names));
        if has_real_servers {
            return;
        }
        if let Some(example) = example {
            self.without_real_server += 1;
            self.first_without_real_server.get_or_insert((id, example));
        }
    }

    /// Reports whether an endpoint was left out because it has a service address. The Service must
    /// then be evaluated again when an address stops being a service address.
    pub(super) fn has_service_addresses(&self) -> bool {
        let claimed = &self.by_reason[LeftOutReason::ServiceAddress as usize];
        !claimed.addresses.is_empty()
    }

    pub(super) fn counts(&self) -> LeftOutCounts {
        let mut counts = LeftOutCounts::default();
        for (count, record) in counts.0.iter_mut().zip(&self.by_reason) {
            *count = record.count();
        }
        counts
    }

    /// Returns the findings for the author of the Service: one for each reason that left out an
    /// endpoint, and one if a virtual server has endpoints but no real server.
    pub(super) fn findings(&self) -> impl Iterator<Item = Finding> {
        let records = LeftOutReason::ALL.into_iter().zip(&self.by_reason);
        let records = records.filter_map(|(reason, record)| record.finding(reason));
        records.chain(self.no_usable_endpoint())
    }

    fn no_usable_endpoint(&self) -> Option<Finding> {
        let (id, example) = self.first_without_real_server.as_ref()?;
        let virtual_servers_have = match self.without_real_server {
            1 => format!("{id} has"),
            several => format!("{several} virtual servers, such as {id}, have"),
        };
        let message = format!(
            "{virtual_servers_have} endpoints, but none of the endpoints can be used: {}",
            example.text
        );
        let reason = Reason::NoUsableEndpoint;
        Some(Finding::of_left_out(reason, example.reason, message))
    }
}

impl ReasonRecord {
    fn count(&self) -> usize {
        self.addresses.len() + self.without_address
    }

    fn finding(&self, reason: LeftOutReason) -> Option<Finding> {
        let example = &self.example;
        let message = match self.count() {
            0 => return None,
            1 => format!("an endpoint is left out: {example}"),
            several => format!("{several} endpoints are left out, such as {example}"),
        };
        Some(Finding::of_left_out(
            Reason::EndpointsLeftOut,
            reason,
            message,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_to_leave_out_an_endpoint_has_its_own_index_and_label() {
        for (index, reason) in LeftOutReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index, "{reason:?}");
        }
        let labels: BTreeSet<&str> = LeftOutReason::ALL.iter().map(|r| r.as_str()).collect();
        assert_eq!(labels.len(), LeftOutReason::ALL.len());
    }

    #[test]
    fn new_counts_of_left_out_endpoints_replace_the_former_counts_of_the_service() {
        let mut sum = LeftOutCounts::default();
        let counts = |count| LeftOutCounts([count; LeftOutReason::ALL.len()]);
        sum.replace(&counts(0), &counts(3));
        sum.replace(&counts(0), &counts(2));
        sum.replace(&counts(3), &counts(1));
        assert_eq!(sum, counts(3));
    }

    #[test]
    fn the_identity_of_a_finding_about_left_out_endpoints_does_not_depend_on_the_example() {
        let identities = |reason: LeftOutReason, endpoints: &[&str]| {
            let id = "tcp/10.1.1.10:80".parse().unwrap();
            let mut left_out = LeftOut::default();
            for endpoint in endpoints {
                let address = endpoint.parse().unwrap();
                left_out.add(reason, address, endpoint, || "is not used".to_owned());
            }
            left_out.finish_virtual_server(id, false);
            let findings = left_out.findings();
            let identity = |finding: Finding| (finding.reason, finding.identity().to_owned());
            findings.map(identity).collect::<Vec<_>>()
        };
        let one = identities(LeftOutReason::ServiceAddress, &["10.0.0.2"]);
        let two = identities(LeftOutReason::ServiceAddress, &["10.0.0.9", "10.0.0.3"]);
        assert_eq!(one, two);
        assert_ne!(one, identities(LeftOutReason::PortDiffers, &["10.0.0.2"]));
    }
}
