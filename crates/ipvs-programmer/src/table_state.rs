//! Actual and target state of the IPVS table.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Instant,
};

use daemon_runtime::error_chain;
use virtual_server::{
    EntryKey, Placements, TableChange, TableEntry, VirtualServerTable, plan_keys,
};

use crate::{
    error::{EntryError, IpvsKernelError},
    kernel::{FailedChange, KernelThread},
    metrics::IpvsMetrics,
};

/// Largest number of entries that are read one by one. For more entries, reading the whole table
/// takes less time.
const MAX_SINGLE_READS: usize = 64;
/// Largest number of plans in one turn, in case the table still differs from the target after
/// the first plan.
const MAX_PLANS: usize = 2;

#[derive(Debug)]
pub(crate) struct TableState {
    kernel: KernelThread,
    actual: VirtualServerTable,
    target: VirtualServerTable,
    /// Configured weights of quiesced real servers. A scheduler that hashes places real servers in
    /// its table by these weights.
    placements: Placements,
    errors: BTreeMap<EntryKey, EntryError>,
    metrics: IpvsMetrics,
}

impl TableState {
    pub(crate) fn new(
        kernel: KernelThread,
        actual: VirtualServerTable,
        metrics: IpvsMetrics,
    ) -> Self {
        Self {
            kernel,
            actual,
            target: VirtualServerTable::default(),
            placements: Placements::new(),
            errors: BTreeMap::new(),
            metrics,
        }
    }

    /// Sets the target of an entry and the configured weights of its quiesced real servers.
    pub(crate) fn set_target(
        &mut self,
        key: EntryKey,
        entry: TableEntry,
        placements: BTreeMap<SocketAddr, u32>,
    ) {
        self.target.entries.insert(key, entry);
        if placements.is_empty() {
            self.placements.remove(&key);
        } else {
            self.placements.insert(key, placements);
        }
    }

    pub(crate) fn remove_target(&mut self, key: EntryKey) {
        self.target.entries.remove(&key);
        self.placements.remove(&key);
    }

    pub(crate) fn target(&self, key: EntryKey) -> Option<&TableEntry> {
        self.target.entries.get(&key)
    }

    pub(crate) fn actual(&self, key: EntryKey) -> Option<&TableEntry> {
        self.actual.entries.get(&key)
    }

    /// Returns the reason why the entry differs from its target.
    pub(crate) fn error(&self, key: EntryKey) -> Option<&EntryError> {
        self.errors.get(&key)
    }

    pub(crate) fn has_errors(&self) -> bool {
        !self.errors.is_empty()
    }

    pub(crate) fn keys_with_errors(&self) -> impl Iterator<Item = EntryKey> {
        self.errors.keys().copied()
    }

    /// Reports whether the table contains an owned entry with this key.
    pub(crate) fn owns(&self, key: EntryKey) -> bool {
        self.actual(key).is_some_and(|entry| entry.settings.owned)
    }

    /// Returns the keys of all owned entries and of all targets.
    pub(crate) fn owned_keys(&self) -> BTreeSet<EntryKey> {
        let owned = self
            .actual
            .entries
            .iter()
            .filter(|(_, entry)| entry.settings.owned);
        owned
            .map(|(key, _)| *key)
            .chain(self.target.entries.keys().copied())
            .collect()
    }

    /// Records an entry that was read from the kernel. Returns whether it differs from the recorded
    /// entry.
    pub(crate) fn record_actual(&mut self, key: EntryKey, entry: Option<TableEntry>) -> bool {
        let before = match entry.clone() {
            Some(entry) => self.actual.entries.insert(key, entry),
            None => self.actual.entries.remove(&key),
        };
        before != entry
    }

    /// Makes the entries of `keys` equal to their targets, and reads the changed entries back.
    pub(crate) async fn program(&mut self, keys: BTreeSet<EntryKey>) {
        for _ in 0..MAX_PLANS {
            let planned = keys.iter().copied();
            let changes = plan_keys(&self.actual, &self.target, &self.placements, planned);
            if changes.is_empty() {
                break;
            }
            let begin = Instant::now();
            let changed_keys: BTreeSet<EntryKey> = changes.iter().map(TableChange::key).collect();
            let (changes, result) = self
                .kernel
                .call(move |kernel| {
                    let result = kernel.apply(&changes);
                    (changes, result)
                })
                .await;
            let count = changes.len();
            self.metrics.changes.inc_by(count as u64);
            self.record_errors(&changed_keys, &changes, result);
            self.read_back(changed_keys).await;
            let elapsed = begin.elapsed();
            self.metrics.apply_seconds.observe(elapsed.as_secs_f64());
            tracing::debug!(
                changes = count,
                ?elapsed,
                "changed the IPVS table and read it back"
            );
        }
        for key in keys {
            let is_as_desired = match (self.actual(key), self.target(key)) {
                (actual, Some(target)) => actual == Some(target),
                (actual, None) => actual.is_none_or(|entry| !entry.settings.owned),
            };
            if is_as_desired {
                self.errors.remove(&key);
            } else {
                self.errors.entry(key).or_insert(EntryError::Differs);
            }
        }
    }

    fn record_errors(
        &mut self,
        changed_keys: &BTreeSet<EntryKey>,
        changes: &[TableChange],
        result: Result<Vec<FailedChange>, IpvsKernelError>,
    ) {
        let before: BTreeMap<EntryKey, EntryError> = changed_keys
            .iter()
            .filter_map(|key| self.errors.remove_entry(key))
            .collect();
        match result {
            Ok(failed) => {
                self.metrics.refused.inc_by(failed.len() as u64);
                for failed in failed {
                    let change = &changes[failed.index];
                    // Only the first refused change of an entry is recorded, because it is the
                    // cause of further refused changes of the entry.
                    self.errors
                        .entry(change.key())
                        .or_insert_with(|| EntryError::Refused {
                            change: Box::new(change.clone()),
                            errno: failed.errno,
                        });
                }
            }
            Err(error) => {
                let errors = changed_keys.iter().map(|key| (*key, error.clone().into()));
                self.errors.extend(errors);
            }
        }
        for key in changed_keys {
            let error = self.errors.get(key);
            if let Some(error) = error.filter(|error| before.get(key) != Some(error)) {
                let error = error_chain(error);
                tracing::warn!(entry = %key, error, "cannot program an IPVS entry; retrying");
            }
        }
    }

    async fn read_back(&mut self, changed_keys: BTreeSet<EntryKey>) {
        let keys = changed_keys.clone();
        let read = self
            .kernel
            .call(
                move |kernel| -> Result<Vec<(EntryKey, Option<TableEntry>)>, IpvsKernelError> {
                    if keys.len() <= MAX_SINGLE_READS {
                        keys.into_iter()
                            .map(|key| Ok((key, kernel.read_entry(key)?)))
                            .collect()
                    } else {
                        let mut table = kernel.read_table()?;
                        Ok(keys
                            .into_iter()
                            .map(|key| (key, table.entries.remove(&key)))
                            .collect())
                    }
                },
            )
            .await;
        match read {
            Ok(entries) => {
                for (key, entry) in entries {
                    self.record_actual(key, entry);
                }
            }
            Err(error) => {
                tracing::warn!(
                    error = error_chain(&error),
                    "cannot read back the IPVS table; retrying"
                );
                for key in changed_keys {
                    // The entry in the kernel is unknown, so the entry does not count as
                    // programmed.
                    self.actual.entries.remove(&key);
                    self.errors.insert(key, error.clone().into());
                }
            }
        }
    }
}
