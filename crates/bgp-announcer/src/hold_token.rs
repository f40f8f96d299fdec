//! The token of this pod's ServiceAccount that goes with each hold of a node route.

use std::{
    io,
    path::{Path, PathBuf},
};

use tonic::metadata::{Ascii, MetadataValue};

/// Most bytes of the file, which node-router takes, too.
const LONGEST: u64 = 8 * 1024;

/// Where the token is. The kubelet replaces the file before the token expires, so that each hold reads
/// it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldToken {
    file: PathBuf,
}

/// Why a file gives no token. No error shows what the file holds.
#[derive(Debug, thiserror::Error)]
pub enum HoldTokenError {
    /// The file cannot be read.
    #[error(
        "cannot read {}, which must be a file with a ServiceAccount token for the audience portlb; \
         project one into the container (component hold-token of the manifests)",
        file.display()
    )]
    Read {
        /// The file.
        file: PathBuf,
        /// Why it cannot be read.
        source: io::Error,
    },
    /// The file holds something else.
    #[error(
        "{} holds no token: expected one line of printable characters without spaces; project a \
         ServiceAccount token for the audience portlb to it",
        file.display()
    )]
    NoToken {
        /// The file.
        file: PathBuf,
    },
}

impl HoldToken {
    /// Names the file; reads nothing.
    #[must_use]
    pub fn new(file: &Path) -> Self {
        Self {
            file: file.to_owned(),
        }
    }

    /// Reads the value of the metadata `authorization`. It is marked as sensitive: `Debug` does not show
    /// it, and HTTP/2 keeps it out of its table of headers.
    ///
    /// # Errors
    /// The file is no regular file, cannot be read, is too large, or holds no token.
    pub fn read(&self) -> Result<MetadataValue<Ascii>, HoldTokenError> {
        let bytes = bounded_io::read_file(&self.file, LONGEST);
        let bytes = bytes.map_err(|source| HoldTokenError::Read {
            file: self.file.clone(),
            source,
        })?;
        let no_token = || HoldTokenError::NoToken {
            file: self.file.clone(),
        };
        let token = bytes.trim_ascii_end();
        if token.is_empty() || !token.iter().all(u8::is_ascii_graphic) {
            return Err(no_token());
        }
        let value = [b"Bearer ".as_slice(), token].concat();
        let mut value = MetadataValue::try_from(value).map_err(|_| no_token())?;
        value.set_sensitive(true);
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use daemon_runtime::in_words;

    use super::*;

    const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.e30.c2lnbmF0dXJl";

    fn read(content: &[u8]) -> Result<MetadataValue<Ascii>, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, content).unwrap();
        HoldToken::new(&file)
            .read()
            .map_err(|error| in_words(&error))
    }

    #[test]
    fn the_token_of_the_file_is_sent_and_never_shown() {
        for content in [TOKEN.to_owned(), format!("{TOKEN}\n")] {
            let value = read(content.as_bytes()).unwrap();
            assert_eq!(value.to_str().unwrap(), format!("Bearer {TOKEN}"));
            let mut request = tonic::Request::new(());
            request.metadata_mut().insert("authorization", value);
            let shown = format!("{request:?}");
            assert!(shown.contains("authorization"), "{shown}");
            assert!(!shown.contains(TOKEN), "{shown}");
        }
    }

    #[test]
    fn a_replaced_file_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let token = HoldToken::new(&file);
        for content in ["first", "second"] {
            std::fs::write(&file, content).unwrap();
            assert_eq!(token.read().unwrap(), format!("Bearer {content}").as_str());
        }
    }

    #[test]
    fn what_is_no_token_is_refused_without_being_shown() {
        for content in [
            "",
            "\n",
            "two words",
            "two\nlines",
            "\u{7f}secret",
            "geh\u{e4}im",
        ] {
            let problem = read(content.as_bytes()).unwrap_err();
            assert!(problem.contains("holds no token"), "{problem}");
            assert!(problem.contains("project a"), "{problem}");
            for word in ["words", "lines", "secret", "geh"] {
                assert!(!problem.contains(word), "{problem}");
            }
        }
        let problem = read(&[b'a'; 8 * 1024 + 1]).unwrap_err();
        assert!(problem.contains("8192 bytes"), "{problem}");
        let folder = tempfile::tempdir().unwrap();
        let problem = HoldToken::new(folder.path()).read().unwrap_err();
        assert!(in_words(&problem).contains("a directory"), "{problem}");
    }
}
