//! Interface of the sources of the desired set.

use std::{error::Error, fmt};

use virtual_server::{DesiredChange, DesiredSet};

/// A source of the desired set: a file or a cluster.
pub trait DesiredSetSource: Send + 'static {
    fn description(&self) -> SourceDescription;

    /// Waits for the next event of the source. The first call returns without waiting for a change.
    fn next(&mut self) -> impl Future<Output = SourceEvent> + Send;
}

/// Kind and location of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceDescription {
    /// Kind of the source: `file` or `kubernetes`.
    pub kind: &'static str,
    /// Path of the file, or URL of the API server.
    pub location: String,
}

/// An event of a source.
#[derive(Debug)]
pub enum SourceEvent {
    /// The whole desired set. The set is valid.
    Snapshot(DesiredSet),
    /// Changes of the desired set since the previous event. A `Changes` that is the first event has
    /// the whole set. The desired set after the changes is valid.
    Changes(Vec<DesiredChange>),
    /// The newest state of the source cannot be used. The desired set of the earlier events stays
    /// in force.
    Failed(SourceError),
    /// The source works again after `Failed`, and the desired set of the earlier events is its
    /// newest state.
    Recovered,
}

/// The reason why the newest state of a source cannot be used, with the location and a suggestion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceError(String);

impl SourceError {
    /// Returns an error with the text of `error` and of its causes.
    pub fn new(error: &dyn Error) -> Self {
        Self(daemon_runtime::error_chain(error))
    }
}

impl From<String> for SourceError {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
