//! The changes of one output.

use std::collections::{BTreeMap, BTreeSet};

use virtual_server::{DesiredChange, ServiceRange, VirtualServer, VirtualServerId};

/// Gathers what differs of several Services.
#[derive(Debug, Default)]
pub(super) struct Changes {
    ranges: Vec<ServiceRange>,
    removed: BTreeSet<VirtualServerId>,
    put: BTreeMap<VirtualServerId, VirtualServer>,
}

impl Changes {
    /// The service ranges are new.
    pub(super) fn put_ranges(&mut self, ranges: &BTreeSet<ServiceRange>) {
        self.ranges.extend(ranges);
    }

    /// What was served of a Service, and what is, by their ids.
    pub(super) fn compare(&mut self, former: &[VirtualServer], served: &[VirtualServer]) {
        let find = |servers: &[VirtualServer], id: VirtualServerId| {
            servers.binary_search_by_key(&id, |server| server.id).ok()
        };
        let ids = former.iter().map(|server| server.id);
        self.removed
            .extend(ids.filter(|id| find(served, *id).is_none()));
        for server in served {
            let before = find(former, server.id).map(|place| &former[place]);
            if before != Some(server) {
                self.put.insert(server.id, server.clone());
            }
        }
    }

    /// Removals first; what one Service lost and another has is put only.
    pub(super) fn in_order(self) -> Vec<DesiredChange> {
        let Self {
            ranges,
            removed,
            put,
        } = self;
        let removed = removed.into_iter().filter(|id| !put.contains_key(id));
        let mut changes: Vec<DesiredChange> =
            removed.map(DesiredChange::RemoveVirtualServer).collect();
        changes.extend(ranges.into_iter().map(DesiredChange::PutServiceRange));
        changes.extend(put.into_values().map(DesiredChange::PutVirtualServer));
        changes
    }
}
