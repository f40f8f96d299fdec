//! A file as the source.

use std::path::{Path, PathBuf};

use daemon_runtime::config_file::{self, FileError, FileWatcher, WatchError};
use virtual_server::DesiredSet;

use crate::{
    file_format::{self, Content},
    source::{Description, Source, SourceError, SourceEvent},
};

/// A YAML document that is read again whenever it may have changed.
#[derive(Debug)]
pub struct FileSource {
    path: PathBuf,
    watcher: FileWatcher,
    /// What was read last, so that a file that was only touched is not read as a change.
    last_read: Option<Result<String, String>>,
}

impl FileSource {
    /// Begins to watch; reads nothing.
    ///
    /// # Errors
    /// The path cannot be made absolute.
    pub fn new(path: &Path) -> Result<Self, WatchError> {
        Ok(Self {
            path: path.to_owned(),
            watcher: FileWatcher::new(path)?,
            last_read: None,
        })
    }
}

impl Source for FileSource {
    fn description(&self) -> Description {
        Description {
            kind: "file",
            location: self.path.display().to_string(),
        }
    }

    async fn next(&mut self) -> SourceEvent {
        loop {
            if self.last_read.is_some() {
                self.watcher.changed().await;
            }
            let read = config_file::read(&self.path);
            let seen = match &read {
                Ok(text) => Ok(text.clone()),
                Err(error) => Err(SourceError::new(error).to_string()),
            };
            if self.last_read.as_ref() == Some(&seen) {
                continue;
            }
            let is_first = self.last_read.replace(seen).is_none();
            return match read.and_then(|text| parse(&self.path, &text)) {
                Ok(content) => {
                    // Of the first, `load` has told.
                    if !is_first {
                        tell_doubts(&self.path, &content);
                    }
                    SourceEvent::Snapshot(content.desired)
                }
                Err(error) => SourceEvent::Failed(SourceError::new(&error)),
            };
        }
    }
}

/// Reads the file once; logs what is most likely not meant.
///
/// # Errors
/// It cannot be read or used.
pub fn load(path: &Path) -> Result<DesiredSet, FileError> {
    let content = parse(path, &config_file::read(path)?)?;
    tell_doubts(path, &content);
    Ok(content.desired)
}

fn parse(path: &Path, text: &str) -> Result<Content, FileError> {
    file_format::read(text).map_err(|problem| FileError::Content {
        path: path.to_owned(),
        problem,
    })
}

fn tell_doubts(path: &Path, content: &Content) {
    for doubt in &content.doubts {
        let doubt = format_args!("{}:{doubt}", path.display());
        tracing::warn!(%doubt, "the file is usable; is this meant?");
    }
}
