//! Desired and actual local prefixes.

use std::collections::{BTreeMap, BTreeSet};

use daemon_runtime::error_chain;
use ipnet::IpNet;

use crate::forwarder::Forwarder;

#[derive(Debug)]
pub(crate) struct LocalPrefixState<F: Forwarder> {
    /// Local prefixes, made by this daemon or by another program.
    local: BTreeSet<IpNet>,
    desired: BTreeSet<IpNet>,
    errors: BTreeMap<IpNet, F::Error>,
}

impl<F: Forwarder> LocalPrefixState<F> {
    pub(crate) fn new(adopted: BTreeSet<IpNet>) -> Self {
        Self {
            local: adopted,
            desired: BTreeSet::new(),
            errors: BTreeMap::new(),
        }
    }

    pub(crate) fn desired(&self) -> &BTreeSet<IpNet> {
        &self.desired
    }

    pub(crate) fn has_errors(&self) -> bool {
        !self.errors.is_empty()
    }

    /// Returns `Ok` if the prefix is local, otherwise the reason.
    pub(crate) fn state(&self, prefix: IpNet) -> Result<(), String> {
        if self.local.contains(&prefix) {
            return Ok(());
        }
        Err(self.errors.get(&prefix).map_or_else(
            || "the address is not accepted as local yet".to_owned(),
            |error| error_chain(error),
        ))
    }

    /// Sets the desired prefixes, and removes local prefixes that are not desired.
    pub(crate) async fn set_desired(&mut self, forwarder: &mut F, desired: BTreeSet<IpNet>) {
        self.desired = desired;
        let (desired, local) = (&self.desired, &self.local);
        self.errors
            .retain(|prefix, _| desired.contains(prefix) || local.contains(prefix));
        self.remove_undesired(forwarder).await;
    }

    /// Adds the missing prefixes, then removes local prefixes that are not desired.
    pub(crate) async fn add_missing(&mut self, forwarder: &mut F) {
        let missing: Vec<IpNet> = self.desired.difference(&self.local).copied().collect();
        for prefix in missing {
            match forwarder.add_local_prefix(prefix).await {
                Ok(()) => {
                    self.local.insert(prefix);
                    self.errors.remove(&prefix);
                }
                Err(error) => {
                    self.failed(prefix, error, "add");
                }
            }
        }
        self.remove_undesired(forwarder).await;
    }

    /// Removes local prefixes that are not desired. A prefix that overlaps with a missing prefix,
    /// such as an address in its new service range, stays until the missing prefix is added.
    /// Otherwise packets could arrive while the address is not local.
    async fn remove_undesired(&mut self, forwarder: &mut F) {
        let is_needed = |prefix: &IpNet| {
            let mut missing = self.desired.difference(&self.local);
            missing.any(|missing| missing.contains(prefix) || prefix.contains(missing))
        };
        let undesired = self.local.difference(&self.desired);
        let undesired: Vec<IpNet> = undesired
            .filter(|prefix| !is_needed(prefix))
            .copied()
            .collect();
        for prefix in undesired {
            match forwarder.remove_local_prefix(prefix).await {
                Ok(()) => {
                    self.local.remove(&prefix);
                    self.errors.remove(&prefix);
                }
                Err(error) => self.failed(prefix, error, "remove"),
            }
        }
    }

    /// Logs a failure, but not the repetition of an equal failure.
    fn failed(&mut self, prefix: IpNet, error: F::Error, operation: &str) {
        if self.errors.get(&prefix) != Some(&error) {
            tracing::warn!(
                %prefix,
                operation,
                error = error_chain(&error),
                "cannot change a local prefix; retrying"
            );
            self.errors.insert(prefix, error);
        }
    }

    /// Reads the local prefixes of this daemon back. A prefix that another program removed is then
    /// missing and is added again. A prefix that another program made local is then missing, too,
    /// and adding it succeeds without a change of the kernel.
    pub(crate) async fn audit(&mut self, forwarder: &mut F) {
        match forwarder.read_local_prefixes().await {
            Ok(prefixes) => self.local = prefixes,
            Err(error) => {
                tracing::warn!(
                    error = error_chain(&error),
                    "cannot read the local prefixes back; keeping the last known prefixes"
                );
            }
        }
    }
}
