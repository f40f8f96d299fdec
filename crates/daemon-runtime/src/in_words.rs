//! Errors for people.

use std::error::Error;

/// An error with its causes, in one line.
#[must_use]
pub fn in_words(error: &dyn Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        words.push_str(": ");
        words.push_str(&cause.to_string());
        source = cause.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config_file::FileError;

    #[test]
    fn each_cause_follows_its_effect() {
        let error = FileError::Read {
            path: "/nowhere".into(),
            source: std::io::Error::other("no disk"),
        };
        assert_eq!(in_words(&error), "cannot read /nowhere: no disk");
    }
}
