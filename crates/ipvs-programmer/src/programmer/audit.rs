//! Reads the kernel back at intervals, a slice at a time, and repairs what somebody has changed.

use std::time::Duration;

use daemon_runtime::in_words;
use tokio::time::{Instant, sleep_until};
use virtual_server::EntryKey;

use super::{Programmer, Turn};

/// Entries read between two looks at what else there is to do.
const SLICE: usize = 32;

#[derive(Debug)]
pub(super) struct Audit {
    interval: Duration,
    next: Instant,
    /// Entries that this round has still to read.
    queue: Vec<EntryKey>,
}

impl Audit {
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            interval,
            next: Instant::now() + interval,
            queue: Vec::new(),
        }
    }

    /// Returns when there is something to audit.
    pub(super) async fn due(&self) {
        if self.queue.is_empty() {
            sleep_until(self.next).await;
        }
    }
}

impl Programmer {
    /// Audits one slice; what differs is left to the turn to repair.
    pub(super) async fn audit(&mut self, turn: &mut Turn) {
        if self.audit.queue.is_empty() {
            self.begin_audit(turn).await;
            return;
        }
        let rest = self.audit.queue.len().saturating_sub(SLICE);
        let slice = self.audit.queue.split_off(rest);
        let read = self
            .kernel
            .call(move |kernel| {
                slice
                    .into_iter()
                    .map(|key| kernel.read_entry(key).map(|entry| (key, entry)))
                    .collect::<Result<Vec<_>, _>>()
            })
            .await;
        match read {
            Ok(entries) => {
                for (key, entry) in entries {
                    if self.table.found(key, entry) {
                        tracing::warn!(entry = %key, "another program has changed an entry");
                        self.metrics.repaired.inc();
                        turn.keys.insert(key);
                    }
                }
            }
            Err(error) => {
                tracing::warn!(error = in_words(&error), "the table could not be audited");
            }
        }
        self.look_at_entries(turn);
    }

    async fn begin_audit(&mut self, turn: &mut Turn) {
        self.audit.next = Instant::now() + self.audit.interval;
        let settings = self.kernel.call(|kernel| kernel.read_settings()).await;
        let mut keys = self.table.owned_keys();
        match settings {
            // Entries of ours that we do not know of: written by an answer that was lost.
            Ok(settings) => keys.extend(
                settings
                    .into_iter()
                    .filter(|(_, settings)| settings.owned)
                    .map(|(key, _)| key),
            ),
            Err(error) => {
                tracing::warn!(error = in_words(&error), "the table could not be audited");
            }
        }
        self.audit.queue = keys.into_iter().collect();
        self.local_prefixes.audit().await;
        if self.firewall.audit().await {
            tracing::warn!("another program has changed the nftables table; it is in force again");
            self.metrics.repaired.inc();
        }
        // The addresses are looked at in this turn, the entries in the next ones.
        turn.structure = true;
    }

    /// The virtual servers of the entries that were found changed.
    fn look_at_entries(&self, turn: &mut Turn) {
        if turn.keys.is_empty() {
            return;
        }
        for (id, status) in &self.statuses {
            let key = crate::marks::entry_key(id, status.firewall_mark);
            if key.is_some_and(|key| turn.keys.contains(&key)) {
                turn.virtual_servers.insert(*id);
            }
        }
    }
}
