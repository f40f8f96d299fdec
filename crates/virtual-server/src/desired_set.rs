//! Everything that shall be served, and what differs between two such sets.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use crate::{Invalid, Ports, Protocol, ServiceRange, VirtualServer, VirtualServerId};

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
    /// The first object that cannot be.
    pub fn validate(&self) -> Result<(), Invalid> {
        for (id, virtual_server) in &self.virtual_servers {
            debug_assert_eq!(*id, virtual_server.id);
            virtual_server
                .validate()
                .map_err(|invalid| invalid.within(format!("virtualServers[{id}]")))?;
        }
        for range in &self.service_ranges {
            range
                .validate()
                .map_err(|invalid| invalid.within(format!("serviceRanges[{range}]")))?;
        }
        self.check_ports()?;
        self.check_service_ranges()?;
        self.check_circles()
    }

    /// Ports of one address and protocol belong to one virtual server.
    fn check_ports(&self) -> Result<(), Invalid> {
        let mut by_address: BTreeMap<(IpAddr, Protocol), Vec<Ports>> = BTreeMap::new();
        for id in self.virtual_servers.keys() {
            by_address
                .entry((id.address, id.protocol))
                .or_default()
                .push(id.ports);
        }
        for ((address, protocol), mut ports) in by_address {
            ports.sort_by_key(|ports| ports.bounds());
            for pair in ports.windows(2) {
                let [former, latter] = pair else { continue };
                if former.overlaps(*latter) {
                    let id = |ports| VirtualServerId {
                        address,
                        protocol,
                        ports,
                    };
                    return Err(Invalid::new(
                        format!("virtualServers[{}].ports", id(*latter)),
                        latter,
                        format!("overlaps the ports of {}", id(*former)),
                        "give each port of an address to one virtual server",
                    ));
                }
            }
        }
        Ok(())
    }

    fn check_service_ranges(&self) -> Result<(), Invalid> {
        let mut former: Option<IpNet> = None;
        // In order, a prefix that contains another one comes before it, and nothing that lies
        // outside of it comes between them.
        let mut ranges: Vec<IpNet> = self.service_ranges.iter().map(|r| r.prefix).collect();
        ranges.sort_by_key(|prefix| (prefix.network(), prefix.prefix_len()));
        for prefix in ranges {
            if let Some(former) = former
                && former.contains(&prefix)
            {
                return Err(Invalid::new(
                    format!("serviceRanges[{prefix}]"),
                    prefix,
                    format!("lies within the service range {former}"),
                    "leave one of them out",
                ));
            }
            former = Some(prefix);
        }
        Ok(())
    }

    /// A real server whose address is local to the load balancer would never be reached.
    fn check_circles(&self) -> Result<(), Invalid> {
        let addresses: BTreeSet<IpAddr> =
            self.virtual_servers.keys().map(|id| id.address).collect();
        for (id, virtual_server) in &self.virtual_servers {
            for real_server in &virtual_server.real_servers {
                let address = real_server.address;
                let range = self.service_range_of(address);
                let problem = match range {
                    Some(range) => format!("lies within the service range {range}"),
                    None if addresses.contains(&address) => "is a service address".to_owned(),
                    None => continue,
                };
                return Err(Invalid::new(
                    format!("virtualServers[{id}].realServers[{real_server}].address"),
                    address,
                    format!("{problem}, so packets to it would not leave the load balancer"),
                    "write the real server's own address",
                ));
            }
        }
        Ok(())
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
