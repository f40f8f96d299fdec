//! The ordered difference between two tables.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use crate::{
    Scheduler,
    table::{Entry, EntryKey, EntryScheduler, EntrySettings, RealServerEntry, Table, TableChange},
};

/// The kernel's name for no scheduler at all (Linux 4.3).
const NO_SCHEDULER: &str = "none";

/// Configured weights of the desired real servers of weight 0, by entry and by address.
///
/// A hashing scheduler places a real server by its last weight above 0, which no read shows. Two load
/// balancers place their flows alike only if this weight is the same in both tables.
pub type Placements = BTreeMap<EntryKey, BTreeMap<SocketAddr, u32>>;

/// The changes that lead from `actual` to `desired`, in an order that never takes away before it
/// gives: virtual servers and real servers are added and set first, then real servers are removed,
/// then virtual servers.
///
/// Entries of `actual` that we do not own and whose keys are not desired stay as they are. One
/// whose key is desired is taken over: set to what is desired, and ours from then on. Equal tables
/// give no change, so that a restarted daemon writes nothing.
pub fn plan(actual: &Table, desired: &Table) -> Vec<TableChange> {
    plan_keys(
        actual,
        desired,
        &Placements::new(),
        actual.entries.keys().chain(desired.entries.keys()).copied(),
    )
}

/// As [`plan`], for the entries with these keys only: the cost follows the number of keys, not the
/// size of the tables. A real server with a placement gets the weight of the placement first, and then
/// 0, where no client can meet it in between: before its virtual server has a scheduler, or where it
/// is in service already. It may not listen yet, and would refuse connections.
pub fn plan_keys(
    actual: &Table,
    desired: &Table,
    placements: &Placements,
    keys: impl IntoIterator<Item = EntryKey>,
) -> Vec<TableChange> {
    let mut given = Vec::new();
    let mut removed_real_servers = Vec::new();
    let mut removed_virtual_servers = Vec::new();
    let none = BTreeMap::new();
    for key in keys.into_iter().collect::<BTreeSet<_>>() {
        let placements = placements.get(&key).unwrap_or(&none);
        match (actual.entries.get(&key), desired.entries.get(&key)) {
            (None, None) => {}
            (None, Some(desired)) => add(&mut given, key, desired, placements),
            (Some(actual), None) => {
                if actual.settings.owned {
                    removed_virtual_servers.push(TableChange::RemoveVirtualServer(key));
                }
            }
            (Some(actual), Some(desired)) => {
                let removed = &mut removed_real_servers;
                set(&mut given, removed, key, (actual, desired), placements);
            }
        }
    }
    given.extend(removed_real_servers);
    given.extend(removed_virtual_servers);
    given
}

fn add(
    given: &mut Vec<TableChange>,
    key: EntryKey,
    desired: &Entry,
    placements: &BTreeMap<SocketAddr, u32>,
) {
    // The kernel computes the whole Maglev table anew at each addition of a real server (3 times
    // slower at 1000 virtual servers with 10 real servers each), so mh is set when all are there.
    // Up to then there is no scheduler: to replace one, the kernel waits for every CPU, some 20 ms
    // for each virtual server (ip_vs_ctl.c, ip_vs_edit_service).
    let is_costly = is_mh(&desired.settings) && desired.real_servers.len() > 1;
    let late = is_costly || !placements.is_empty();
    let first = if late {
        EntrySettings {
            scheduler: EntryScheduler::Foreign(NO_SCHEDULER.to_owned()),
            ..desired.settings.clone()
        }
    } else {
        desired.settings.clone()
    };
    given.push(TableChange::AddVirtualServer(key, first));
    for (address, real_server) in &desired.real_servers {
        let placement = placements.get(address);
        match placement.filter(|_| real_server.weight == 0) {
            None => given.push(TableChange::AddRealServer(key, *address, *real_server)),
            Some(weight) => {
                let placed = RealServerEntry {
                    weight: *weight,
                    ..*real_server
                };
                given.push(TableChange::AddRealServer(key, *address, placed));
                given.push(TableChange::SetRealServer(key, *address, *real_server));
            }
        }
    }
    if late {
        given.push(TableChange::SetVirtualServer(key, desired.settings.clone()));
    }
}

fn set(
    given: &mut Vec<TableChange>,
    removed: &mut Vec<TableChange>,
    key: EntryKey,
    (actual, desired): (&Entry, &Entry),
    placements: &BTreeMap<SocketAddr, u32>,
) {
    let differs = actual.settings != desired.settings;
    let late = is_mh(&desired.settings);
    let settings = || TableChange::SetVirtualServer(key, desired.settings.clone());
    if differs && !late {
        given.push(settings());
    }
    for (address, real_server) in &desired.real_servers {
        match actual.real_servers.get(address) {
            None => given.push(TableChange::AddRealServer(key, *address, *real_server)),
            Some(found) if found != real_server => {
                let placement = placements.get(address);
                let is_placed_otherwise = |weight: &&u32| {
                    real_server.weight == 0 && found.weight > 0 && found.weight != **weight
                };
                if let Some(weight) = placement.filter(is_placed_otherwise) {
                    let placed = RealServerEntry {
                        weight: *weight,
                        ..*real_server
                    };
                    given.push(TableChange::SetRealServer(key, *address, placed));
                }
                given.push(TableChange::SetRealServer(key, *address, *real_server));
            }
            Some(_) => {}
        }
    }
    if differs && late {
        given.push(settings());
    }
    for address in actual.real_servers.keys() {
        if !desired.real_servers.contains_key(address) {
            removed.push(TableChange::RemoveRealServer(key, *address));
        }
    }
}

fn is_mh(settings: &EntrySettings) -> bool {
    match &settings.scheduler {
        EntryScheduler::Known(Scheduler::Mh(_)) => true,
        EntryScheduler::Known(
            Scheduler::Rr
            | Scheduler::Wrr
            | Scheduler::Lc
            | Scheduler::Wlc
            | Scheduler::Sh(_)
            | Scheduler::Sed
            | Scheduler::Nq,
        )
        | EntryScheduler::Foreign(_) => false,
    }
}

#[cfg(test)]
mod tests;
