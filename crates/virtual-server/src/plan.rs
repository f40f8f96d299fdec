//! The ordered difference between two tables.

use std::collections::BTreeSet;

use crate::{
    Scheduler,
    table::{Entry, EntryKey, EntryScheduler, EntrySettings, Table, TableChange},
};

/// The kernel's name for no scheduler at all (Linux 4.3).
const NO_SCHEDULER: &str = "none";

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
        actual.entries.keys().chain(desired.entries.keys()).copied(),
    )
}

/// As [`plan`], for the entries with these keys only: the cost follows the number of keys, not the
/// size of the tables.
pub fn plan_keys(
    actual: &Table,
    desired: &Table,
    keys: impl IntoIterator<Item = EntryKey>,
) -> Vec<TableChange> {
    let mut given = Vec::new();
    let mut removed_real_servers = Vec::new();
    let mut removed_virtual_servers = Vec::new();
    for key in keys.into_iter().collect::<BTreeSet<_>>() {
        match (actual.entries.get(&key), desired.entries.get(&key)) {
            (None, None) => {}
            (None, Some(desired)) => add(&mut given, key, desired),
            (Some(actual), None) => {
                if actual.settings.owned {
                    removed_virtual_servers.push(TableChange::RemoveVirtualServer(key));
                }
            }
            (Some(actual), Some(desired)) => {
                set(&mut given, &mut removed_real_servers, key, actual, desired);
            }
        }
    }
    given.extend(removed_real_servers);
    given.extend(removed_virtual_servers);
    given
}

fn add(given: &mut Vec<TableChange>, key: EntryKey, desired: &Entry) {
    // The kernel computes the whole Maglev table anew at each addition of a real server (3 times
    // slower at 1000 virtual servers with 10 real servers each), so mh is set when all are there.
    // Up to then there is no scheduler: to replace one, the kernel waits for every CPU, some 20 ms
    // for each virtual server (ip_vs_ctl.c, ip_vs_edit_service).
    let late = is_mh(&desired.settings) && desired.real_servers.len() > 1;
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
        given.push(TableChange::AddRealServer(key, *address, *real_server));
    }
    if late {
        given.push(TableChange::SetVirtualServer(key, desired.settings.clone()));
    }
}

fn set(
    given: &mut Vec<TableChange>,
    removed: &mut Vec<TableChange>,
    key: EntryKey,
    actual: &Entry,
    desired: &Entry,
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
        EntryScheduler::Known(Scheduler::Mh { .. }) => true,
        EntryScheduler::Known(
            Scheduler::Rr
            | Scheduler::Wrr
            | Scheduler::Lc
            | Scheduler::Wlc
            | Scheduler::Sh { .. }
            | Scheduler::Sed
            | Scheduler::Nq,
        )
        | EntryScheduler::Foreign(_) => false,
    }
}

#[cfg(test)]
mod tests;
