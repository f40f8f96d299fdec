//! The table as it is and as it has to be.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Instant,
};

use daemon_runtime::in_words;
use virtual_server::{Entry, EntryKey, Placements, Table, TableChange, plan_keys};

use crate::{
    error::{EntryError, KernelError},
    kernel::{FailedChange, KernelThread},
    metrics::IpvsMetrics,
};

/// Above this many entries reading all is cheaper than reading each.
const READ_SINGLY: usize = 64;
/// How often a turn plans again when the table is not yet what it shall be.
const ATTEMPTS: usize = 2;

#[derive(Debug)]
pub(crate) struct TableState {
    kernel: KernelThread,
    actual: Table,
    target: Table,
    /// Configured weights of quiesced real servers: their places in the table follow them.
    placements: Placements,
    errors: BTreeMap<EntryKey, EntryError>,
    metrics: IpvsMetrics,
}

impl TableState {
    pub(crate) fn new(kernel: KernelThread, actual: Table, metrics: IpvsMetrics) -> Self {
        Self {
            kernel,
            actual,
            target: Table::default(),
            placements: Placements::new(),
            errors: BTreeMap::new(),
            metrics,
        }
    }

    /// Sets the target of an entry and the configured weights of its quiesced real servers.
    pub(crate) fn set_target(
        &mut self,
        key: EntryKey,
        entry: Entry,
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

    pub(crate) fn target(&self, key: EntryKey) -> Option<&Entry> {
        self.target.entries.get(&key)
    }

    pub(crate) fn actual(&self, key: EntryKey) -> Option<&Entry> {
        self.actual.entries.get(&key)
    }

    /// Why the entry is not what it shall be.
    pub(crate) fn error(&self, key: EntryKey) -> Option<&EntryError> {
        self.errors.get(&key)
    }

    pub(crate) fn has_errors(&self) -> bool {
        !self.errors.is_empty()
    }

    pub(crate) fn keys_with_errors(&self) -> impl Iterator<Item = EntryKey> {
        self.errors.keys().copied()
    }

    /// Whether the table holds an entry of ours with this key.
    pub(crate) fn owns(&self, key: EntryKey) -> bool {
        self.actual(key).is_some_and(|entry| entry.settings.owned)
    }

    /// The keys of all entries of ours, and of those that there shall be.
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

    /// Records what the kernel holds; returns whether it differs from what was known.
    pub(crate) fn record_actual(&mut self, key: EntryKey, entry: Option<Entry>) -> bool {
        let before = match entry.clone() {
            Some(entry) => self.actual.entries.insert(key, entry),
            None => self.actual.entries.remove(&key),
        };
        before != entry
    }

    /// Makes the entries what they shall be, and reads them back.
    pub(crate) async fn program(&mut self, keys: BTreeSet<EntryKey>) {
        for _ in 0..ATTEMPTS {
            let planned = keys.iter().copied();
            let changes = plan_keys(&self.actual, &self.target, &self.placements, planned);
            if changes.is_empty() {
                break;
            }
            let begin = Instant::now();
            let touched: BTreeSet<EntryKey> = changes.iter().map(TableChange::key).collect();
            let (changes, result) = self
                .kernel
                .call(move |kernel| {
                    let result = kernel.apply(&changes);
                    (changes, result)
                })
                .await;
            let count = changes.len();
            self.metrics.changes.inc_by(count as u64);
            self.record_errors(&touched, &changes, result);
            self.read_back(touched).await;
            let elapsed = begin.elapsed();
            self.metrics.apply_seconds.observe(elapsed.as_secs_f64());
            tracing::debug!(
                changes = count,
                ?elapsed,
                "the table was changed and read back"
            );
        }
        for key in keys {
            let as_wanted = match (self.actual(key), self.target(key)) {
                (actual, Some(target)) => actual == Some(target),
                (actual, None) => actual.is_none_or(|entry| !entry.settings.owned),
            };
            if as_wanted {
                self.errors.remove(&key);
            } else {
                self.errors.entry(key).or_insert(EntryError::Differs);
            }
        }
    }

    fn record_errors(
        &mut self,
        touched: &BTreeSet<EntryKey>,
        changes: &[TableChange],
        result: Result<Vec<FailedChange>, KernelError>,
    ) {
        let before: BTreeMap<EntryKey, EntryError> = touched
            .iter()
            .filter_map(|key| self.errors.remove_entry(key))
            .collect();
        match result {
            Ok(failed) => {
                self.metrics.refused.inc_by(failed.len() as u64);
                for failed in failed {
                    let change = &changes[failed.index];
                    // The first refusal is the cause of those that follow.
                    self.errors
                        .entry(change.key())
                        .or_insert_with(|| EntryError::Refused {
                            change: Box::new(change.clone()),
                            errno: failed.errno,
                        });
                }
            }
            Err(error) => {
                let errors = touched.iter().map(|key| (*key, error.clone().into()));
                self.errors.extend(errors);
            }
        }
        for key in touched {
            let error = self.errors.get(key);
            if let Some(error) = error.filter(|error| before.get(key) != Some(error)) {
                let error = in_words(error);
                tracing::warn!(entry = %key, error, "an entry could not be programmed");
            }
        }
    }

    async fn read_back(&mut self, touched: BTreeSet<EntryKey>) {
        let keys = touched.clone();
        let read = self
            .kernel
            .call(
                move |kernel| -> Result<Vec<(EntryKey, Option<Entry>)>, KernelError> {
                    if keys.len() <= READ_SINGLY {
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
                tracing::warn!(error = in_words(&error), "the table could not be read back");
                for key in touched {
                    // Nothing is known of it, so nothing is claimed.
                    self.actual.entries.remove(&key);
                    self.errors.insert(key, error.clone().into());
                }
            }
        }
    }
}
