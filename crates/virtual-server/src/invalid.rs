//! Why a virtual server cannot be.

use std::fmt::Display;

/// What cannot be, in the words that a user can act on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {value} {problem}; {cure}")]
pub struct Invalid {
    /// Path of the field, such as `realServers[10.0.2.3:80].port`.
    pub field: String,
    /// The value as given.
    pub value: String,
    /// What is wrong with it.
    pub problem: String,
    /// What to write instead.
    pub cure: String,
}

impl Invalid {
    /// Reads as a sentence: "`field`: `value` `problem`; `cure`".
    pub fn new(
        field: impl Into<String>,
        value: impl Display,
        problem: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        Self {
            field: field.into(),
            value: value.to_string(),
            problem: problem.into(),
            cure: cure.into(),
        }
    }

    /// The same, with the field's path seen from the object that contains `parent`.
    #[must_use]
    pub fn within(mut self, parent: impl Display) -> Self {
        self.field = format!("{parent}.{}", self.field);
        self
    }
}
