//! The set of all virtual servers and service ranges to serve.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use crate::{
    Field, FieldPath, Invalid, Ports, Problems, Protocol, RealServerField, ServiceRange,
    VirtualServer, VirtualServerId,
};

/// All virtual servers and service ranges that a source asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DesiredSet {
    /// The key of each virtual server is its `id`.
    pub virtual_servers: BTreeMap<VirtualServerId, VirtualServer>,
    /// Prefixes that are announced as a whole. In a valid set, no two of them overlap.
    pub service_ranges: BTreeSet<ServiceRange>,
}

/// One change of a desired set. A change that puts an object carries the whole new object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DesiredChange {
    RemoveServiceRange(ServiceRange),
    RemoveVirtualServer(VirtualServerId),
    PutServiceRange(ServiceRange),
    /// Adds the virtual server, or replaces the virtual server that has the same id.
    PutVirtualServer(VirtualServer),
}

impl DesiredSet {
    /// Checks each virtual server and each service range alone, and then all of them together.
    ///
    /// # Errors
    ///
    /// Returns the problems of all invalid fields.
    pub fn validate(&self) -> Result<(), Problems> {
        let mut problems = Problems::default();
        for (id, virtual_server) in &self.virtual_servers {
            debug_assert_eq!(*id, virtual_server.id);
            if let Err(server_problems) = virtual_server.validate() {
                problems.append(server_problems, |invalid| Some(invalid.of(*id)));
            }
        }
        for range in &self.service_ranges {
            if let Err(reason) = range.validate() {
                let field = FieldPath::ServiceRange(*range);
                problems.push(Invalid { field, reason });
            }
        }
        self.check_together(&mut problems);
        problems.or(())
    }

    /// Adds the problems between several objects: overlapping ports, overlapping service ranges,
    /// and real servers with service addresses. Problems of a single object are not added.
    pub fn check_together(&self, problems: &mut Problems) {
        self.check_ports(problems);
        self.check_service_ranges(problems);
        self.check_circles(problems);
    }

    /// Compares the virtual servers of each address and protocol in the order of their first ports.
    /// Adds a problem for each virtual server whose ports overlap the ports of an earlier one.
    fn check_ports(&self, problems: &mut Problems) {
        let mut by_address: BTreeMap<(IpAddr, Protocol), Vec<Ports>> = BTreeMap::new();
        for id in self.virtual_servers.keys() {
            by_address
                .entry((id.address, id.protocol))
                .or_default()
                .push(id.ports);
        }
        for ((address, protocol), mut ports) in by_address {
            ports.sort_by_key(|ports| ports.bounds());
            let id = |ports| VirtualServerId {
                address,
                protocol,
                ports,
            };
            // Of all ports before `later`, the ports with the highest last port. If any of them
            // overlap `later`, these ports do.
            let mut earlier: Option<Ports> = None;
            for later in ports {
                if let Some(earlier) = earlier.filter(|earlier| earlier.overlaps(later)) {
                    problems.push(Invalid::new(
                        FieldPath::VirtualServer(Some(id(later)), Field::Ports),
                        later,
                        format!("overlaps the ports of {}", id(earlier)),
                        "give each port of an address to one virtual server",
                    ));
                }
                earlier = earlier
                    .into_iter()
                    .chain([later])
                    .max_by_key(|ports| ports.bounds().1);
            }
        }
    }

    fn check_service_ranges(&self, problems: &mut Problems) {
        let mut earlier: Option<IpNet> = None;
        // Sorted by network address and then by length, a prefix precedes all prefixes within it,
        // and no prefix outside of it comes between them. So it is enough to compare each prefix
        // with `earlier`, the last prefix that does not lie within another one.
        let mut ranges: Vec<ServiceRange> = self.service_ranges.iter().copied().collect();
        ranges.sort_by_key(|range| (range.prefix.network(), range.prefix.prefix_len()));
        for range in ranges {
            match earlier {
                Some(earlier) if earlier.contains(&range.prefix) => problems.push(Invalid::new(
                    FieldPath::ServiceRange(range),
                    range,
                    format!("lies within the service range {earlier}"),
                    "remove one of the two service ranges",
                )),
                Some(_) | None => earlier = Some(range.prefix),
            }
        }
    }

    /// Adds a problem for each real server whose address is local to the load balancer: packets to
    /// such an address would never leave the load balancer.
    fn check_circles(&self, problems: &mut Problems) {
        let addresses: BTreeSet<IpAddr> =
            self.virtual_servers.keys().map(|id| id.address).collect();
        for (id, virtual_server) in &self.virtual_servers {
            for real_server in &virtual_server.real_servers {
                let address = real_server.address;
                let range = self.service_range_of(address);
                let problem = match range {
                    Some(range) => format!("lies within the service range {range}"),
                    // `VirtualServer::validate` rejects a real server at the address of its own
                    // virtual server.
                    None if address != id.address && addresses.contains(&address) => {
                        "is a service address".to_owned()
                    }
                    None => continue,
                };
                let field = Field::RealServer(real_server.into(), RealServerField::Address);
                problems.push(Invalid::new(
                    FieldPath::VirtualServer(Some(*id), field),
                    address,
                    format!("{problem}, so packets to it would not leave the load balancer"),
                    "write the real server's own address",
                ));
            }
        }
    }

    /// Returns the service range that contains an address.
    #[must_use]
    pub fn service_range_of(&self, address: IpAddr) -> Option<ServiceRange> {
        self.service_ranges
            .iter()
            .find(|range| range.prefix.contains(&address))
            .copied()
    }

    /// Returns the changes that turn this set into `new`. Removals come first. So, if both sets are
    /// valid, no set between them has overlapping ports or service ranges.
    #[must_use]
    pub fn changes_to(&self, new: &Self) -> Vec<DesiredChange> {
        let removed_ranges = self.service_ranges.difference(&new.service_ranges);
        let removed_servers = self
            .virtual_servers
            .keys()
            .filter(|id| !new.virtual_servers.contains_key(id));
        let added_ranges = new.service_ranges.difference(&self.service_ranges);
        let changed_servers = new
            .virtual_servers
            .iter()
            .filter(|(id, virtual_server)| self.virtual_servers.get(id) != Some(virtual_server))
            .map(|(_, virtual_server)| virtual_server);
        (removed_ranges
            .copied()
            .map(DesiredChange::RemoveServiceRange))
        .chain(
            removed_servers
                .copied()
                .map(DesiredChange::RemoveVirtualServer),
        )
        .chain(added_ranges.copied().map(DesiredChange::PutServiceRange))
        .chain(
            changed_servers
                .cloned()
                .map(DesiredChange::PutVirtualServer),
        )
        .collect()
    }

    /// Applies one change. Removing an object that does not exist changes nothing.
    pub fn apply(&mut self, change: DesiredChange) {
        match change {
            DesiredChange::RemoveServiceRange(range) => {
                self.service_ranges.remove(&range);
            }
            DesiredChange::RemoveVirtualServer(id) => {
                self.virtual_servers.remove(&id);
            }
            DesiredChange::PutServiceRange(range) => {
                self.service_ranges.insert(range);
            }
            DesiredChange::PutVirtualServer(virtual_server) => {
                self.virtual_servers
                    .insert(virtual_server.id, virtual_server);
            }
        }
    }
}

#[cfg(test)]
mod tests;
