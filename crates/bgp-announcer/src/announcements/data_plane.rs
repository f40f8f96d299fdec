//! Age of the reports of the data plane.

use std::time::{Duration, Instant};

use super::DataPlaneState;

/// The age of the reports of the data plane, which decides whether a report counts as confirmed.
///
/// Each stream has a number. A report of the newest stream is confirmed until the timeout after the
/// last message of the data plane. A report of an earlier stream is confirmed until the timeout
/// after the last message of the last stream that was synced. The mark synced of the newest stream
/// removes the reports of earlier streams.
#[derive(Clone, Debug)]
pub(super) struct DataPlaneLiveness {
    timeout: Duration,
    stream: u64,
    is_synced: bool,
    /// Time of the last message of the data plane on any stream. Before the first message: start of
    /// this process.
    last_message_at: Instant,
    /// Time of the last message of the last stream that was synced before the newest stream.
    /// Without such a stream: start of this process.
    earlier_stream_confirmed_at: Instant,
    /// The reason why no stream is open. `None`: a stream is open.
    lost: Option<String>,
}

impl DataPlaneLiveness {
    pub(super) fn new(timeout: Duration, now: Instant) -> Self {
        Self {
            timeout,
            stream: 0,
            is_synced: false,
            last_message_at: now,
            earlier_stream_confirmed_at: now,
            lost: Some("not reached yet".to_owned()),
        }
    }

    pub(super) fn stream(&self) -> u64 {
        self.stream
    }

    pub(super) fn opened(&mut self) {
        if self.is_synced {
            self.earlier_stream_confirmed_at = self.last_message_at;
        }
        self.stream += 1;
        self.is_synced = false;
        self.lost = None;
    }

    pub(super) fn message_received(&mut self, now: Instant) {
        self.last_message_at = now;
    }

    pub(super) fn synced(&mut self, now: Instant) {
        self.last_message_at = now;
        self.is_synced = true;
    }

    pub(super) fn lost(&mut self, problem: String) {
        self.lost = Some(problem);
    }

    /// Reports whether reports of stream number `stream` are confirmed.
    pub(super) fn is_confirmed(&self, stream: u64, now: Instant) -> bool {
        let confirmed_at = if stream == self.stream || self.is_synced {
            self.last_message_at
        } else {
            self.earlier_stream_confirmed_at
        };
        now < confirmed_at + self.timeout
    }

    pub(super) fn deadlines(&self) -> [Option<Instant>; 2] {
        [
            Some(self.last_message_at + self.timeout),
            (!self.is_synced).then(|| self.earlier_stream_confirmed_at + self.timeout),
        ]
    }

    pub(super) fn state(&self, now: Instant) -> DataPlaneState {
        let is_silent = self.last_message_at + self.timeout <= now;
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
