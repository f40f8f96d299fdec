//! Conversion of a document to a desired set.
//!
//! The conversion uses no clock and no IO. Each problem has its line and column in the document.

use std::{cell::LazyCell, collections::BTreeMap, net::IpAddr};

use daemon_runtime::config_file::{FileLocation, FileProblem};
use virtual_server::{
    DesiredSet, Field, FieldPath, Invalid, Options, PersistenceOptions, Problems, RealServerKey,
    ServiceRange, VirtualServer, VirtualServerId,
};

use super::{
    Content, VirtualServersDocument, VirtualServersEntry,
    places::{EntryIndexes, Places},
};

pub(super) fn content(
    document: VirtualServersDocument,
    text: &str,
) -> Result<Content, Problems<FileProblem>> {
    let mut reader = DocumentReader {
        places: LazyCell::new(Box::new(|| Places::of(text))),
        service_ranges: BTreeMap::new(),
        virtual_servers: BTreeMap::new(),
        desired: DesiredSet::default(),
        warnings: Vec::new(),
        problems: Problems::default(),
    };
    for (index, range) in document.service_ranges.into_iter().enumerate() {
        reader.take_service_range(index, range);
    }
    for (index, entry) in document.virtual_servers.iter().enumerate() {
        reader.take_entry(index, entry);
    }
    reader.check_conflicts();
    reader.problems.or(Content {
        desired: reader.desired,
        warnings: reader.warnings,
    })
}

/// State of the conversion of one document.
struct DocumentReader<'a> {
    /// Places of the fields in the document. The document is parsed for them when the first problem
    /// needs a place.
    places: LazyCell<Places, Box<dyn FnOnce() -> Places + 'a>>,
    /// Index of each service range in the list `serviceRanges` of the document.
    service_ranges: BTreeMap<ServiceRange, usize>,
    virtual_servers: BTreeMap<VirtualServerId, EntryIndexes>,
    desired: DesiredSet,
    warnings: Vec<FileProblem>,
    problems: Problems<FileProblem>,
}

impl DocumentReader<'_> {
    fn take_service_range(&mut self, index: usize, range: ServiceRange) {
        if let Some(former) = self.service_ranges.insert(range, index) {
            let (place, former) = [index, former].map(|i| self.places.service_range(i)).into();
            let object = format!("the service range {range}");
            self.problems.push(given_twice(&object, place, former));
        }
        if let Err(reason) = range.validate() {
            let field = FieldPath::ServiceRange(range);
            self.problems.push(FileProblem {
                place: self.places.service_range(index),
                message: Invalid { field, reason }.to_string(),
            });
        } else {
            self.desired.service_ranges.insert(range);
        }
    }

    /// Adds the virtual servers of one entry to the desired set.
    fn take_entry(&mut self, index: usize, entry: &VirtualServersEntry) {
        let mut origin = EntryIndexes {
            entry: index,
            ..EntryIndexes::default()
        };
        for (field, is_empty) in [
            ("addresses", entry.addresses.is_empty()),
            ("ports", entry.ports.is_empty()),
        ] {
            if is_empty {
                self.problems.push(FileProblem {
                    place: self.places.field(origin, Field::RealServers, None),
                    message: format!("{field}: the list is empty; write at least one value"),
                });
            }
        }
        let (behaviour, refused) = options(entry).resolve();
        for invalid in refused {
            let place = self.place_of(invalid.field, origin, entry);
            let message = invalid.to_string();
            self.problems.push(FileProblem { place, message });
        }
        let is_mixed = [true, false].iter().all(|is_ipv4| {
            let is_of_family = |address: &IpAddr| address.is_ipv4() == *is_ipv4;
            entry.addresses.iter().any(is_of_family)
        });
        // Most problems of an entry appear in each virtual server of the entry. An equal problem is
        // reported once for the whole entry.
        let mut reported: Vec<Invalid> = Vec::new();
        for (address_index, address) in entry.addresses.iter().enumerate() {
            for (ports_index, ports) in entry.ports.iter().enumerate() {
                (origin.address, origin.ports) = (address_index, ports_index);
                // With a file, the order in the file counts as the order of first appearance.
                let real_servers = entry.real_servers.iter().zip(0..);
                let real_servers = real_servers.map(|(server, position)| {
                    let mut server = server.clone();
                    server.history.position = position;
                    server
                });
                let virtual_server = VirtualServer {
                    id: VirtualServerId {
                        address: *address,
                        protocol: entry.protocol,
                        ports: *ports,
                    },
                    name: entry.name.clone(),
                    scheduler: behaviour.scheduler,
                    forwarding_method: behaviour.forwarding_method,
                    persistence: behaviour
                        .persistence
                        .map(|persistence| persistence.at(*address)),
                    real_servers: real_servers
                        .filter(|server| !is_mixed || server.address.is_ipv4() == address.is_ipv4())
                        .collect(),
                    health_check: behaviour.health_check,
                    on_failure: behaviour.on_failure,
                    minimum_healthy: behaviour.minimum_healthy,
                    drain_timeout: behaviour.drain_timeout,
                };
                if let Err(invalid_fields) = virtual_server.validate() {
                    let mut problems = std::mem::take(&mut self.problems);
                    problems.append(invalid_fields, |invalid| {
                        if reported.contains(&invalid) {
                            return None;
                        }
                        let place = self.place_of(invalid.field, origin, entry);
                        let message = format!("{}: {invalid}", virtual_server.id);
                        reported.push(invalid);
                        Some(FileProblem { place, message })
                    });
                    self.problems = problems;
                }
                self.take_virtual_server(origin, entry, virtual_server);
            }
        }
    }

    fn take_virtual_server(
        &mut self,
        origin: EntryIndexes,
        entry: &VirtualServersEntry,
        mut server: VirtualServer,
    ) {
        let id = server.id;
        server.sort_real_servers();
        if let Some(levels) = server.round_weights(None) {
            self.warnings.push(FileProblem {
                place: self.places.first_real_server(origin),
                message: format!(
                    "{id}: weights are rounded to {levels} levels, because {} cannot distinguish \
                     more levels with so many real servers; write weights with small whole-number \
                     ratios, such as 1, 2 and 4, or another scheduler",
                    server.scheduler.word()
                ),
            });
        }
        let count = server.real_servers.len();
        if let Some(minimum) = entry.minimum_healthy
            && u64::from(minimum) > count as u64
        {
            self.warnings.push(FileProblem {
                place: self.places.field(origin, Field::MinimumHealthy, None),
                message: format!(
                    "{id}: minimumHealthy: {minimum} is more than the number of real servers \
                     ({count}), so the virtual server is never serving; list more real servers, or \
                     write a smaller number"
                ),
            });
        }
        if let Some(former) = self.virtual_servers.insert(id, origin) {
            let (place, former) = [origin, former]
                .map(|origin| self.places.virtual_server(origin))
                .into();
            let object = format!("the virtual server {id}");
            self.problems.push(given_twice(&object, place, former));
        }
        self.desired.virtual_servers.insert(id, server);
    }

    /// Adds a problem for each conflict between two objects that are valid alone.
    fn check_conflicts(&mut self) {
        let mut conflicts = Problems::default();
        self.desired.check_together(&mut conflicts);
        let (places, ranges) = (&self.places, &self.service_ranges);
        let servers = &self.virtual_servers;
        self.problems.append(conflicts, |invalid| {
            let place = match invalid.field {
                FieldPath::VirtualServer(id, _) => id
                    .and_then(|id| servers.get(&id))
                    .and_then(|origin| places.virtual_server(*origin)),
                FieldPath::ServiceRange(range) => ranges
                    .get(&range)
                    .and_then(|index| places.service_range(*index)),
            };
            let message = invalid.to_string();
            Some(FileProblem { place, message })
        });
    }

    fn place_of(
        &self,
        field: FieldPath,
        origin: EntryIndexes,
        entry: &VirtualServersEntry,
    ) -> Option<FileLocation> {
        let FieldPath::VirtualServer(_, field) = field else {
            return None;
        };
        // If the entry lists one real server several times, the place of the last one is reported,
        // because the first one is valid.
        let real_server = if let Field::RealServer(key, _) = field {
            let mut servers = entry.real_servers.iter();
            servers.rposition(|server| RealServerKey::from(server) == key)
        } else {
            None
        };
        self.places.field(origin, field, real_server)
    }
}

fn options(entry: &VirtualServersEntry) -> Options {
    Options {
        scheduler: Some(entry.scheduler),
        scheduler_flags: entry.scheduler_flags,
        forwarding_method: Some(entry.forwarding_method),
        tunnel_kind: entry.tunnel_kind,
        persistence: entry.persistence.map(|persistence| PersistenceOptions {
            timeout: persistence.timeout,
            ipv4_prefix_length: persistence.client_prefix_length,
            ipv6_prefix_length: persistence.client_prefix_length,
        }),
        health_check: entry.health_check.clone().unwrap_or_default(),
        on_failure: Some(entry.on_failure),
        minimum_healthy: entry.minimum_healthy,
        drain_timeout: entry.drain_timeout,
    }
}

fn given_twice(
    object: &str,
    place: Option<FileLocation>,
    former: Option<FileLocation>,
) -> FileProblem {
    let former = former.map_or_else(String::new, |place| {
        format!(", first in line {}", place.line)
    });
    FileProblem {
        place,
        message: format!("{object} is given twice{former}; remove one of the two"),
    }
}
