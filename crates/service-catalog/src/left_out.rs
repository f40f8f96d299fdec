//! Endpoints that cannot be real servers, counted by reason.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use virtual_server::VirtualServerId;

use super::{
    finding::{Finding, Reason},
    model::{NotUsed, Tally},
};

/// Why an endpoint is not a real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LeftOutReason {
    /// It has several addresses: only the first is used.
    FurtherAddress,
    /// It is listed by a name instead of an address.
    NotAnAddress,
    /// Its slice lists no port with the name and protocol of the Service's port.
    PortNotInSlice,
    /// It listens on a port that the forwarding method cannot change to.
    PortDiffers,
    /// It has an address of another family than the service address.
    OtherFamily,
    /// Its address is a service address.
    ServiceAddress,
    /// Its address lies within a service range.
    ServiceRange,
    /// It cannot be a real server, whatever the Service is.
    Unusable,
    /// The scheduler cannot have so many real servers.
    TooMany,
}

/// How many endpoints are left out, by [`LeftOutReason`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOutCounts([usize; LeftOutReason::ALL.len()]);

/// The endpoints of one Service that are left out, and why.
#[derive(Debug, Default)]
pub(super) struct LeftOut {
    by_reason: [OfReason; LeftOutReason::ALL.len()],
    /// Virtual servers that have endpoints and no real server, the first with an example.
    bare: usize,
    first_bare: Option<(VirtualServerId, Example)>,
    /// The first example of the virtual server that is being made.
    current: Option<Example>,
}

/// An endpoint that is left out, and why.
#[derive(Clone, Debug)]
struct Example {
    reason: LeftOutReason,
    text: String,
}

#[derive(Debug, Default)]
struct OfReason {
    addresses: BTreeSet<IpAddr>,
    /// Those that are not told apart by an address.
    others: usize,
    example: String,
}

impl LeftOutReason {
    /// All of them, in the order of their declaration.
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

    /// The label of the metric.
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
    /// Each reason with its number of endpoints, also those with none.
    pub fn iter(&self) -> impl Iterator<Item = (LeftOutReason, usize)> {
        LeftOutReason::ALL.into_iter().zip(self.0)
    }

    /// Puts the counts of one Service in the place of its former ones.
    pub(super) fn replace(&mut self, former: &Self, new: &Self) {
        for (sum, (former, new)) in self.0.iter_mut().zip(former.0.iter().zip(new.0)) {
            *sum = *sum + new - former;
        }
    }
}

impl LeftOut {
    /// Counts an endpoint; `why` says what is wrong with it and what to do.
    pub(super) fn add(
        &mut self,
        reason: LeftOutReason,
        address: IpAddr,
        shown: impl fmt::Display,
        why: impl FnOnce() -> String,
    ) {
        let of_reason = &mut self.by_reason[reason as usize];
        of_reason.addresses.insert(address);
        if self.current.is_some() && !of_reason.example.is_empty() {
            return;
        }
        let example = format!("{shown} {}", why());
        if of_reason.example.is_empty() {
            of_reason.example.clone_from(&example);
        }
        self.current.get_or_insert(Example {
            reason,
            text: example,
        });
    }

    /// Counts what a slice lists and no virtual server can use.
    pub(super) fn add_not_used(&mut self, not_used: &NotUsed) {
        let NotUsed {
            further_addresses,
            names,
        } = not_used;
        self.add_tally(LeftOutReason::FurtherAddress, further_addresses, || {
            "is a further address of its endpoint, of which only the first is used; list the \
             endpoint once for each address"
        });
        self.add_tally(LeftOutReason::NotAnAddress, names, || {
            "is not an IP address, and names are not looked up; list the addresses in slices of \
             addressType IPv4 or IPv6"
        });
    }

    fn add_tally(&mut self, reason: LeftOutReason, tally: &Tally, why: fn() -> &'static str) {
        if tally.count == 0 {
            return;
        }
        let of_reason = &mut self.by_reason[reason as usize];
        if of_reason.example.is_empty() {
            of_reason.example = format!("{} {}", tally.example, why());
        }
        of_reason.others += tally.count;
    }

    /// Ends the account of a virtual server. A virtual server without a real server becomes a finding if
    /// some endpoint was left out of it.
    pub(super) fn end_of(&mut self, id: VirtualServerId, has_real_servers: bool) {
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
            self.bare += 1;
            self.first_bare.get_or_insert((id, example));
        }
    }

    /// Whether some of them are service addresses, which may change without the endpoints.
    pub(super) fn some_are_claimed(&self) -> bool {
        let claimed = &self.by_reason[LeftOutReason::ServiceAddress as usize];
        !claimed.addresses.is_empty()
    }

    /// How many there are.
    pub(super) fn counts(&self) -> LeftOutCounts {
        let mut counts = LeftOutCounts::default();
        for (count, of_reason) in counts.0.iter_mut().zip(&self.by_reason) {
            *count = of_reason.count();
        }
        counts
    }

    /// What the owner of the Service should know: a finding for each reason, and one where
    /// nothing is left.
    pub(super) fn findings(&self) -> impl Iterator<Item = Finding> {
        let of_reasons = LeftOutReason::ALL.into_iter().zip(&self.by_reason);
        let of_reasons = of_reasons.filter_map(|(reason, its)| its.finding(reason));
        of_reasons.chain(self.nothing_left())
    }

    fn nothing_left(&self) -> Option<Finding> {
        let (id, example) = self.first_bare.as_ref()?;
        let whose = match self.bare {
            1 => format!("{id} has"),
            several => format!("{several} virtual servers, such as {id}, have"),
        };
        let message = format!(
            "{whose} endpoints, and none of them can be used: {}",
            example.text
        );
        let reason = Reason::NoUsableEndpoint;
        Some(Finding::of_left_out(reason, example.reason, message))
    }
}

impl OfReason {
    fn count(&self) -> usize {
        self.addresses.len() + self.others
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
    fn every_reason_has_its_place_and_its_own_label() {
        for (place, reason) in LeftOutReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place, "{reason:?}");
        }
        let labels: BTreeSet<&str> = LeftOutReason::ALL.iter().map(|r| r.as_str()).collect();
        assert_eq!(labels.len(), LeftOutReason::ALL.len());
    }

    #[test]
    fn the_counts_of_a_service_replace_its_former_ones() {
        let mut sum = LeftOutCounts::default();
        let counts = |count| LeftOutCounts([count; LeftOutReason::ALL.len()]);
        sum.replace(&counts(0), &counts(3));
        sum.replace(&counts(0), &counts(2));
        sum.replace(&counts(3), &counts(1));
        assert_eq!(sum, counts(3));
    }

    #[test]
    fn a_finding_is_the_same_whichever_endpoint_is_its_example() {
        let identities = |reason: LeftOutReason, endpoints: &[&str]| {
            let id = "tcp/10.1.1.10:80".parse().unwrap();
            let mut left_out = LeftOut::default();
            for endpoint in endpoints {
                let address = endpoint.parse().unwrap();
                left_out.add(reason, address, endpoint, || "is not used".to_owned());
            }
            left_out.end_of(id, false);
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
