//! Error texts with all causes.

use std::error::Error;

/// Returns the message of an error and of all its causes, with colons between them.
#[must_use]
pub fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config_file::FileError;

    #[test]
    fn the_cause_of_an_error_follows_the_error() {
        let error = FileError::Read {
            path: "/nowhere".into(),
            source: std::io::Error::other("no disk"),
        };
        assert_eq!(error_chain(&error), "cannot read /nowhere: no disk");
    }
}
