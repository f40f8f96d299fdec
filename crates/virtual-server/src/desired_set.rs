//! Everything that shall be served, and what differs between two such sets.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use crate::{
    Field, FieldPath, Invalid, Ports, Problems, Protocol, RealServerField, ServiceRange,
    VirtualServer, VirtualServerId,
};

/// Everything that shall be served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DesiredSet {
    /// The virtual servers, each under its own id.
    pub virtual_servers: BTreeMap<VirtualServerId, VirtualServer>,
    /// Prefixes that are announced as a whole. They do not overlap.
    pub service_ranges: BTreeSet<ServiceRange>,
}

/// One object of a desired set, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DesiredChange {
    /// The service range is gone.
    RemoveServiceRange(ServiceRange),
    /// The virtual server is gone.
    RemoveVirtualServer(VirtualServerId),
    /// The service range is new.
    PutServiceRange(ServiceRange),
    /// The virtual server is new, or differs from the one with the same id.
    PutVirtualServer(VirtualServer),
}

impl DesiredSet {
    /// Validates each object by itself, and all of them together.
    ///
    /// # Errors
    ///
    /// Every object that cannot be.
    pub fn validate(&self) -> Result<(), Problems> {
        let mut problems = Problems::default();
        for (id, virtual_server) in &self.virtual_servers {
            debug_assert_eq!(*id, virtual_server.id);
            if let Err(of_one) = virtual_server.validate() {
                problems.append(of_one, |invalid| Some(invalid.of(*id)));
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

    /// Adds the contradictions between objects that are valid by themselves.
    pub fn check_together(&self, problems: &mut Problems) {
        self.check_ports(problems);
        self.check_service_ranges(problems);
        self.check_circles(problems);
    }

    /// Ports of one address and protocol belong to one virtual server.
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
            // The one before that reaches furthest.
            let mut former: Option<Ports> = None;
            for latter in ports {
                if let Some(former) = former.filter(|former| former.overlaps(latter)) {
                    problems.push(Invalid::new(
                        FieldPath::VirtualServer(Some(id(latter)), Field::Ports),
                        latter,
                        format!("overlaps the ports of {}", id(former)),
                        "give each port of an address to one virtual server",
                    ));
                }
                former = former
                    .into_iter()
                    .chain([latter])
                    .max_by_key(|ports| ports.bounds().1);
            }
        }
    }

    fn check_service_ranges(&self, problems: &mut Problems) {
        let mut former: Option<IpNet> = None;
        // In order, a prefix that contains another one comes before it, and nothing that lies
        // outside of it comes between them.
        let mut ranges: Vec<ServiceRange> = self.service_ranges.iter().copied().collect();
        ranges.sort_by_key(|range| (range.prefix.network(), range.prefix.prefix_len()));
        for range in ranges {
            match former {
                Some(former) if former.contains(&range.prefix) => problems.push(Invalid::new(
                    FieldPath::ServiceRange(range),
                    range,
                    format!("lies within the service range {former}"),
                    "leave one of them out",
                )),
                Some(_) | None => former = Some(range.prefix),
            }
        }
    }

    /// A real server whose address is local to the load balancer would never be reached.
    fn check_circles(&self, problems: &mut Problems) {
        let addresses: BTreeSet<IpAddr> =
            self.virtual_servers.keys().map(|id| id.address).collect();
        for (id, virtual_server) in &self.virtual_servers {
            for real_server in &virtual_server.real_servers {
                let address = real_server.address;
                let range = self.service_range_of(address);
                let problem = match range {
                    Some(range) => format!("lies within the service range {range}"),
                    // `VirtualServer::validate` refuses its own address.
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

    /// The service range that an address lies in.
    #[must_use]
    pub fn service_range_of(&self, address: IpAddr) -> Option<ServiceRange> {
        self.service_ranges
            .iter()
            .find(|range| range.prefix.contains(&address))
            .copied()
    }

    /// What makes `new` of this set: removals first, so that no two objects of the sets between
    /// claim the same ports or addresses.
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

    /// Takes one change over. A removal of what does not exist changes nothing.
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
