//! The prefixes that are accepted as local, and those that shall be.

use std::collections::{BTreeMap, BTreeSet};

use daemon_runtime::in_words;
use ipnet::IpNet;

use crate::forwarder::Forwarder;

#[derive(Debug)]
pub(crate) struct LocalPrefixes<F: Forwarder> {
    /// Ours, or found to be another's.
    local: BTreeSet<IpNet>,
    wanted: BTreeSet<IpNet>,
    errors: BTreeMap<IpNet, F::Error>,
}

impl<F: Forwarder> LocalPrefixes<F> {
    pub(crate) fn new(adopted: BTreeSet<IpNet>) -> Self {
        Self {
            local: adopted,
            wanted: BTreeSet::new(),
            errors: BTreeMap::new(),
        }
    }

    pub(crate) fn wanted(&self) -> &BTreeSet<IpNet> {
        &self.wanted
    }

    pub(crate) fn has_errors(&self) -> bool {
        !self.errors.is_empty()
    }

    /// Whether a prefix is accepted as local, or why not.
    pub(crate) fn state(&self, prefix: IpNet) -> Result<(), String> {
        if self.local.contains(&prefix) {
            return Ok(());
        }
        Err(self.errors.get(&prefix).map_or_else(
            || "the address is not accepted as local yet".to_owned(),
            |error| in_words(error),
        ))
    }

    /// Sets what shall be local, and takes back what shall not.
    pub(crate) async fn set_wanted(&mut self, forwarder: &mut F, wanted: BTreeSet<IpNet>) {
        self.wanted = wanted;
        let (wanted, local) = (&self.wanted, &self.local);
        self.errors
            .retain(|prefix, _| wanted.contains(prefix) || local.contains(prefix));
        self.remove_unwanted(forwarder).await;
    }

    /// Accepts what shall be local and is not, and takes back the rest.
    pub(crate) async fn complete(&mut self, forwarder: &mut F) {
        let missing: Vec<IpNet> = self.wanted.difference(&self.local).copied().collect();
        for prefix in missing {
            match forwarder.add_local_prefix(prefix).await {
                Ok(()) => {
                    self.local.insert(prefix);
                    self.errors.remove(&prefix);
                }
                Err(error) => {
                    self.failed(prefix, error, "a service address is not accepted as local");
                }
            }
        }
        self.remove_unwanted(forwarder).await;
    }

    /// What overlaps with a prefix that is still to come, such as an address with its new range,
    /// stays until that is there: no packet meanwhile finds the address of nobody.
    async fn remove_unwanted(&mut self, forwarder: &mut F) {
        let needed = |prefix: &IpNet| {
            let mut missing = self.wanted.difference(&self.local);
            missing.any(|missing| missing.contains(prefix) || prefix.contains(missing))
        };
        let unwanted = self.local.difference(&self.wanted);
        let unwanted: Vec<IpNet> = unwanted.filter(|prefix| !needed(prefix)).copied().collect();
        for prefix in unwanted {
            match forwarder.remove_local_prefix(prefix).await {
                Ok(()) => {
                    self.local.remove(&prefix);
                    self.errors.remove(&prefix);
                }
                Err(error) => self.failed(prefix, error, "a prefix stays local"),
            }
        }
    }

    /// Logs a failure that repeats once.
    fn failed(&mut self, prefix: IpNet, error: F::Error, what: &str) {
        if self.errors.get(&prefix) != Some(&error) {
            tracing::warn!(%prefix, error = in_words(&error), "{what}");
            self.errors.insert(prefix, error);
        }
    }

    /// Reads what is local. What somebody took away, or gave, is found by adding it again.
    pub(crate) async fn audit(&mut self, forwarder: &mut F) {
        match forwarder.read_local_prefixes().await {
            Ok(ours) => self.local = ours,
            Err(error) => {
                tracing::warn!(
                    error = in_words(&error),
                    "the local routes could not be read"
                );
            }
        }
    }
}
