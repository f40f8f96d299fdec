//! Whether the data plane still confirms its reports.

use std::time::{Duration, Instant};

use super::DataPlaneState;

/// Streams are numbered. The reports of a stream are confirmed for the timeout after the last message,
/// those of an earlier stream until the new one has reported everything, if that is sooner.
#[derive(Clone, Debug)]
pub(super) struct DataPlane {
    timeout: Duration,
    stream: u64,
    is_synced: bool,
    /// Last message of the newest stream, or of an earlier one before its first.
    heard_at: Instant,
    /// When the reports of earlier streams were confirmed last.
    earlier_heard_at: Instant,
    /// Why there is no stream.
    lost: Option<String>,
}

impl DataPlane {
    pub(super) fn new(timeout: Duration, now: Instant) -> Self {
        Self {
            timeout,
            stream: 0,
            is_synced: false,
            heard_at: now,
            earlier_heard_at: now,
            lost: Some("not reached yet".to_owned()),
        }
    }

    pub(super) fn stream(&self) -> u64 {
        self.stream
    }

    pub(super) fn opened(&mut self) {
        if self.is_synced {
            self.earlier_heard_at = self.heard_at;
        }
        self.stream += 1;
        self.is_synced = false;
        self.lost = None;
    }

    pub(super) fn heard(&mut self, now: Instant) {
        self.heard_at = now;
    }

    pub(super) fn synced(&mut self, now: Instant) {
        self.heard_at = now;
        self.is_synced = true;
    }

    pub(super) fn lost(&mut self, problem: String) {
        self.lost = Some(problem);
    }

    /// Returns whether the reports of that stream are confirmed.
    pub(super) fn is_confirmed(&self, stream: u64, now: Instant) -> bool {
        let confirmed_at = if stream == self.stream || self.is_synced {
            self.heard_at
        } else {
            self.earlier_heard_at
        };
        now < confirmed_at + self.timeout
    }

    pub(super) fn deadlines(&self) -> [Option<Instant>; 2] {
        [
            Some(self.heard_at + self.timeout),
            (!self.is_synced).then(|| self.earlier_heard_at + self.timeout),
        ]
    }

    pub(super) fn state(&self, now: Instant) -> DataPlaneState {
        let is_silent = self.heard_at + self.timeout <= now;
        match (&self.lost, is_silent) {
            (Some(problem), true) => DataPlaneState::Silent(format!("data plane: {problem}")),
            (Some(problem), false) => DataPlaneState::Lost(format!("data plane: {problem}")),
            (None, true) => DataPlaneState::Silent(format!(
                "data plane: silent for {} ms",
                self.timeout.as_millis()
            )),
            (None, false) if self.is_synced => DataPlaneState::Synced,
            (None, false) => DataPlaneState::Syncing,
        }
    }
}
