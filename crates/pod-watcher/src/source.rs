//! Where the desired set comes from.

use std::{error::Error, fmt};

use virtual_server::{DesiredChange, DesiredSet};

/// Knows what shall be served: a file, or what runs in a cluster.
pub trait Source: Send + 'static {
    /// What and where it is.
    fn description(&self) -> Description;

    /// Waits until there is something new to say. The first call says at once what is.
    fn next(&mut self) -> impl Future<Output = SourceEvent> + Send;
}

/// What and where a source is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Such as `file`.
    pub kind: &'static str,
    /// Such as its path.
    pub location: String,
}

/// What a source says.
#[derive(Debug)]
pub enum SourceEvent {
    /// Everything that shall be served: valid as a whole.
    Snapshot(DesiredSet),
    /// What differs from what was said before; the first of them says everything. The set that
    /// they lead to is valid as a whole.
    Changes(Vec<DesiredChange>),
    /// The newest state cannot be used; what was said before holds on.
    Failed(SourceError),
    /// What had failed works again, and what was said last is the newest state.
    Recovered,
}

/// Why the newest state of a source cannot be used, with its place and cure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceError(String);

impl SourceError {
    /// Takes the error over with its causes.
    pub fn new(error: &dyn Error) -> Self {
        Self(daemon_runtime::in_words(error))
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
