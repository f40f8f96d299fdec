//! The prefixes that are accepted as local, and those that shall be.

use std::collections::{BTreeMap, BTreeSet};

use daemon_runtime::in_words;
use ipnet::IpNet;

use crate::{error::KernelError, kernel::KernelThread};

#[derive(Debug)]
pub(super) struct LocalPrefixes {
    kernel: KernelThread,
    /// Ours, or found to be another's.
    local: BTreeSet<IpNet>,
    wanted: BTreeSet<IpNet>,
    errors: BTreeMap<IpNet, String>,
}

impl LocalPrefixes {
    pub(super) fn new(kernel: KernelThread, adopted: BTreeSet<IpNet>) -> Self {
        Self {
            kernel,
            local: adopted,
            wanted: BTreeSet::new(),
            errors: BTreeMap::new(),
        }
    }

    pub(super) fn wanted(&self) -> &BTreeSet<IpNet> {
        &self.wanted
    }

    pub(super) fn has_errors(&self) -> bool {
        !self.errors.is_empty()
    }

    /// Whether a prefix is accepted as local, or why not.
    pub(super) fn state(&self, prefix: IpNet) -> Result<(), &str> {
        if self.local.contains(&prefix) {
            return Ok(());
        }
        Err(self
            .errors
            .get(&prefix)
            .map_or("the address is not accepted as local yet", |e| e))
    }

    /// Sets what shall be local, and takes back what shall not.
    pub(super) async fn set_wanted(&mut self, wanted: BTreeSet<IpNet>) {
        self.wanted = wanted;
        let (wanted, local) = (&self.wanted, &self.local);
        self.errors
            .retain(|prefix, _| wanted.contains(prefix) || local.contains(prefix));
        self.remove_unwanted().await;
    }

    /// Accepts what shall be local and is not, and takes back the rest.
    pub(super) async fn complete(&mut self) {
        let missing: Vec<IpNet> = self.wanted.difference(&self.local).copied().collect();
        for prefix in missing {
            match self
                .kernel
                .call(move |kernel| kernel.add_local_prefix(prefix))
                .await
            {
                Ok(()) => {
                    self.local.insert(prefix);
                    self.errors.remove(&prefix);
                }
                Err(error) => {
                    self.failed(prefix, &error, "a service address is not accepted as local");
                }
            }
        }
        self.remove_unwanted().await;
    }

    /// What overlaps with a prefix that is still to come, such as an address with its new range,
    /// stays until that is there: no packet meanwhile finds the address of nobody.
    async fn remove_unwanted(&mut self) {
        let needed = |prefix: &IpNet| {
            let mut missing = self.wanted.difference(&self.local);
            missing.any(|missing| missing.contains(prefix) || prefix.contains(missing))
        };
        let unwanted = self.local.difference(&self.wanted);
        let unwanted: Vec<IpNet> = unwanted.filter(|prefix| !needed(prefix)).copied().collect();
        for prefix in unwanted {
            match self
                .kernel
                .call(move |kernel| kernel.remove_local_prefix(prefix))
                .await
            {
                Ok(()) => {
                    self.local.remove(&prefix);
                    self.errors.remove(&prefix);
                }
                Err(error) => self.failed(prefix, &error, "a prefix stays local"),
            }
        }
    }

    /// A failure that repeats is told once.
    fn failed(&mut self, prefix: IpNet, error: &KernelError, what: &str) {
        let error = in_words(error);
        if self.errors.get(&prefix) != Some(&error) {
            tracing::warn!(%prefix, error, "{what}");
            self.errors.insert(prefix, error);
        }
    }

    /// Reads what is local. What somebody took away, or gave, is found by adding it again.
    pub(super) async fn audit(&mut self) {
        match self
            .kernel
            .call(|kernel| kernel.read_local_prefixes())
            .await
        {
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
