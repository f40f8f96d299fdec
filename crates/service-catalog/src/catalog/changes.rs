//! Changes of the desired set in one output.

use std::collections::{BTreeMap, BTreeSet};

use virtual_server::{DesiredChange, ServiceRange, VirtualServer, VirtualServerId};

/// The changes of the service ranges, and of the virtual servers of all evaluated Services.
#[derive(Debug, Default)]
pub(super) struct ChangeSet {
    ranges: Vec<ServiceRange>,
    removed: BTreeSet<VirtualServerId>,
    put: BTreeMap<VirtualServerId, VirtualServer>,
}

impl ChangeSet {
    pub(super) fn put_ranges(&mut self, ranges: &BTreeSet<ServiceRange>) {
        self.ranges.extend(ranges);
    }

    /// Adds the differences between the virtual servers of one Service in the last output
    /// (`former`) and now (`served`). Both lists are sorted by id.
    pub(super) fn compare(&mut self, former: &[VirtualServer], served: &[VirtualServer]) {
        let find = |servers: &[VirtualServer], id: VirtualServerId| {
            servers.binary_search_by_key(&id, |server| server.id).ok()
        };
        let ids = former.iter().map(|server| server.id);
        self.removed
            .extend(ids.filter(|id| find(served, *id).is_none()));
        for server in served {
            let before = find(former, server.id).map(|index| &former[index]);
            if before != Some(server) {
                self.put.insert(server.id, server.clone());
            }
        }
    }

    /// Returns the changes, removals first. A virtual server that one Service gives up and another
    /// Service serves is replaced and not removed.
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
