//! The ServiceAccount token that is sent with each hold.

use std::{
    io,
    path::{Path, PathBuf},
};

use tonic::metadata::{Ascii, MetadataValue};

/// Largest accepted file in bytes. node-router accepts tokens of up to this size.
const MAX_TOKEN_BYTES: u64 = 8 * 1024;

/// A file with a ServiceAccount token. The kubelet replaces the file before the token expires, so
/// the file is read again for each hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldToken {
    file: PathBuf,
}

/// A reason why a file gives no token. The texts never show the content of the file, because it can
/// be a secret.
#[derive(Debug, thiserror::Error)]
pub enum HoldTokenError {
    #[error(
        "cannot read {}: this file must contain a ServiceAccount token for the audience portlb; \
         project a token into the container (component hold-token of the manifests)",
        file.display()
    )]
    Read { file: PathBuf, source: io::Error },
    /// The content of the file is not one line of printable characters.
    #[error(
        "{} does not contain a token: expected one line of printable characters without spaces; \
         project a ServiceAccount token for the audience portlb to this file",
        file.display()
    )]
    NoToken { file: PathBuf },
}

impl HoldToken {
    /// Creates a token of `file` without reading the file.
    #[must_use]
    pub fn new(file: &Path) -> Self {
        Self {
            file: file.to_owned(),
        }
    }

    /// Reads the file and returns the value of the gRPC metadata `authorization`. The value is
    /// marked as sensitive, so that `Debug` does not show the token and HTTP/2 does not store it in
    /// its header table.
    ///
    /// # Errors
    /// Returns an error if the file is not a regular file, cannot be read, is larger than 8 KiB or
    /// contains no token.
    pub fn read(&self) -> Result<MetadataValue<Ascii>, HoldTokenError> {
        let bytes = bounded_io::read_file(&self.file, MAX_TOKEN_BYTES);
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
    use daemon_runtime::error_chain;

    use super::*;

    const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.e30.c2lnbmF0dXJl";

    fn read(content: &[u8]) -> Result<MetadataValue<Ascii>, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, content).unwrap();
        HoldToken::new(&file)
            .read()
            .map_err(|error| error_chain(&error))
    }

    #[test]
    fn the_token_is_sent_as_bearer_authorization_and_hidden_from_debug_output() {
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
    fn a_replaced_token_file_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let token = HoldToken::new(&file);
        for content in ["first", "second"] {
            std::fs::write(&file, content).unwrap();
            assert_eq!(token.read().unwrap(), format!("Bearer {content}").as_str());
        }
    }

    #[test]
    fn a_file_without_a_token_is_rejected_without_showing_its_content() {
        for content in [
            "",
            "\n",
            "two words",
            "two\nlines",
            "\u{7f}secret",
            "geh\u{e4}im",
        ] {
            let problem = read(content.as_bytes()).unwrap_err();
            assert!(problem.contains("does not contain a token"), "{problem}");
            assert!(problem.contains("project a"), "{problem}");
            for word in ["words", "lines", "secret", "geh"] {
                assert!(!problem.contains(word), "{problem}");
            }
        }
        let problem = read(&[b'a'; 8 * 1024 + 1]).unwrap_err();
        assert!(problem.contains("8192 bytes"), "{problem}");
        let folder = tempfile::tempdir().unwrap();
        let problem = HoldToken::new(folder.path()).read().unwrap_err();
        assert!(error_chain(&problem).contains("a directory"), "{problem}");
    }
}
