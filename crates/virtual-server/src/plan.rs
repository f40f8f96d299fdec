//! The ordered changes from one table to another.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use crate::table::{
    EntryKey, EntryScheduler, EntrySettings, RealServerEntry, TableChange, TableEntry,
    VirtualServerTable,
};

/// The kernel's name for "no scheduler" (since Linux 4.3).
const NO_SCHEDULER: &str = "none";

/// The configured weights of real servers whose desired weight is 0, by the key of the entry and by
/// the address and port of the real server.
///
/// A hashing scheduler gives a quiesced real server slots in proportion to its last weight above 0,
/// which the kernel does not report. Two load balancers choose the same real server for a flow only
/// if the last weight above 0 of each real server is equal in both tables.
pub type Placements = BTreeMap<EntryKey, BTreeMap<SocketAddr, u32>>;

/// Returns the changes that turn `actual` into `desired`. Additions and settings come first, then
/// removals of real servers, then removals of virtual servers, so that no capacity is removed
/// before its replacement exists.
///
/// An entry of another program stays as it is unless its key is desired. An entry with a desired
/// key is taken over: it gets the desired settings, and portlb becomes its owner. Equal tables need
/// no change, so that a restarted daemon writes nothing.
pub fn plan(actual: &VirtualServerTable, desired: &VirtualServerTable) -> Vec<TableChange> {
    plan_keys(
        actual,
        desired,
        &Placements::new(),
        actual.entries.keys().chain(desired.entries.keys()).copied(),
    )
}

/// Returns the changes like [`plan`], but only for the entries with these keys. The cost depends on
/// the number of keys and of their real servers, and not on the size of the tables.
///
/// A real server with desired weight 0 and a placement first gets the weight of the placement and
/// then weight 0. Between the two changes no client may be sent to this real server, because it
/// might not listen yet. So the weight of the placement is planned only before the virtual server
/// has a scheduler, or for a real server that has a weight above 0 in the actual table.
pub fn plan_keys(
    actual: &VirtualServerTable,
    desired: &VirtualServerTable,
    placements: &Placements,
    keys: impl IntoIterator<Item = EntryKey>,
) -> Vec<TableChange> {
    let mut additions = Vec::new();
    let mut removed_real_servers = Vec::new();
    let mut removed_virtual_servers = Vec::new();
    let none = BTreeMap::new();
    for key in keys.into_iter().collect::<BTreeSet<_>>() {
        let placements = placements.get(&key).unwrap_or(&none);
        match (actual.entries.get(&key), desired.entries.get(&key)) {
            (None, None) => {}
            (None, Some(desired)) => plan_new_entry(&mut additions, key, desired, placements),
            (Some(actual), None) => {
                if actual.settings.owned {
                    removed_virtual_servers.push(TableChange::RemoveVirtualServer(key));
                }
            }
            (Some(actual), Some(desired)) => {
                let removed = &mut removed_real_servers;
                plan_existing_entry(&mut additions, removed, key, (actual, desired), placements);
            }
        }
    }
    additions.extend(removed_real_servers);
    additions.extend(removed_virtual_servers);
    additions
}

fn plan_new_entry(
    additions: &mut Vec<TableChange>,
    key: EntryKey,
    desired: &TableEntry,
    placements: &BTreeMap<SocketAddr, u32>,
) {
    // While `mh` is set, the kernel recomputes the whole Maglev table for each added real server:
    // with `mh`, the additions to 1000 virtual servers of 10 real servers each take 3 times as long
    // as without a scheduler. So `mh` is set after all real servers have been added. Until then the
    // entry has no scheduler, because replacing a scheduler makes the kernel wait for every CPU,
    // about 20 ms for each virtual server (ip_vs_ctl.c, ip_vs_edit_service).
    let is_costly = is_mh(&desired.settings) && desired.real_servers.len() > 1;
    let sets_scheduler_last = is_costly || !placements.is_empty();
    let first_settings = if sets_scheduler_last {
        EntrySettings {
            scheduler: EntryScheduler::Foreign(NO_SCHEDULER.to_owned()),
            ..desired.settings.clone()
        }
    } else {
        desired.settings.clone()
    };
    additions.push(TableChange::AddVirtualServer(key, first_settings));
    for (address, real_server) in &desired.real_servers {
        let placement = placements.get(address);
        match placement.filter(|_| real_server.weight == 0) {
            None => additions.push(TableChange::AddRealServer(key, *address, *real_server)),
            Some(weight) => {
                let at_placement = RealServerEntry {
                    weight: *weight,
                    ..*real_server
                };
                additions.push(TableChange::AddRealServer(key, *address, at_placement));
                additions.push(TableChange::SetRealServer(key, *address, *real_server));
            }
        }
    }
    if sets_scheduler_last {
        additions.push(TableChange::SetVirtualServer(key, desired.settings.clone()));
    }
}

fn plan_existing_entry(
    additions: &mut Vec<TableChange>,
    removed: &mut Vec<TableChange>,
    key: EntryKey,
    (actual, desired): (&TableEntry, &TableEntry),
    placements: &BTreeMap<SocketAddr, u32>,
) {
    let differs = actual.settings != desired.settings;
    let sets_scheduler_last = is_mh(&desired.settings);
    let settings = || TableChange::SetVirtualServer(key, desired.settings.clone());
    if differs && !sets_scheduler_last {
        additions.push(settings());
    }
    for (address, real_server) in &desired.real_servers {
        match actual.real_servers.get(address) {
            None => additions.push(TableChange::AddRealServer(key, *address, *real_server)),
            Some(actual_real_server) if actual_real_server != real_server => {
                let placement = placements.get(address);
                let has_other_weight = |weight: &&u32| {
                    real_server.weight == 0
                        && actual_real_server.weight > 0
                        && actual_real_server.weight != **weight
                };
                if let Some(weight) = placement.filter(has_other_weight) {
                    let at_placement = RealServerEntry {
                        weight: *weight,
                        ..*real_server
                    };
                    additions.push(TableChange::SetRealServer(key, *address, at_placement));
                }
                additions.push(TableChange::SetRealServer(key, *address, *real_server));
            }
            Some(_) => {}
        }
    }
    if differs && sets_scheduler_last {
        additions.push(settings());
    }
    for address in actual.real_servers.keys() {
        if !desired.real_servers.contains_key(address) {
            removed.push(TableChange::RemoveRealServer(key, *address));
        }
    }
}

fn is_mh(settings: &EntrySettings) -> bool {
    match &settings.scheduler {
        EntryScheduler::Known(scheduler) => scheduler.is_mh(),
        EntryScheduler::Foreign(_) => false,
    }
}

#[cfg(test)]
mod tests;
