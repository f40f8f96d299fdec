//! Source that reads the desired set from a file.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use daemon_runtime::config_file::{self, FileError, FileProblem, FileWatcher, WatchError};
use virtual_server::DesiredSet;

use crate::{
    file_format::{self, Content},
    source::{DesiredSetSource, SourceDescription, SourceError, SourceEvent},
};

/// Largest size in bytes of a file that the task of the source parses itself, which blocks the task
/// for a few milliseconds. A thread for blocking work parses a larger file; the change to this
/// thread costs additional time.
const SMALL_FILE: u64 = 64 * 1024;

/// The text of a file, or the error of reading it.
type ReadResult = Result<String, String>;

/// A YAML file that is read again when it changes.
#[derive(Debug)]
pub struct FileSource {
    path: PathBuf,
    watcher: FileWatcher,
    /// Result of the last reading in `next`. An equal result is not a change: another program can
    /// touch the file without a change of its text. `None`: `next` has not read the file yet.
    last_read: Option<Arc<ReadResult>>,
}

impl FileSource {
    /// Starts to watch the file without reading it.
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

impl DesiredSetSource for FileSource {
    fn description(&self) -> SourceDescription {
        SourceDescription {
            kind: "file",
            location: self.path.display().to_string(),
        }
    }

    async fn next(&mut self) -> SourceEvent {
        loop {
            if self.last_read.is_some() {
                self.watcher.changed().await;
            }
            let is_small =
                std::fs::metadata(&self.path).is_ok_and(|metadata| metadata.len() <= SMALL_FILE);
            let (path, last_read) = (self.path.clone(), self.last_read.clone());
            let read = move || read_changed(&path, last_read.as_deref());
            let changed = if is_small {
                read()
            } else {
                config_file::off_thread(read).await
            };
            let Some((read_result, content)) = changed else {
                continue;
            };
            let is_first = self.last_read.replace(read_result.into()).is_none();
            return match content {
                Ok(content) => {
                    // At the start of the daemon, `load` has logged the warnings of the first
                    // content.
                    if !is_first {
                        log_warnings(&self.path, &content);
                    }
                    SourceEvent::Snapshot(content.desired)
                }
                Err(error) => SourceEvent::Failed(SourceError::new(&error)),
            };
        }
    }
}

/// Reads and parses the file. Returns `None` if the result of reading is equal to `last_read`.
fn read_changed(
    path: &Path,
    last_read: Option<&ReadResult>,
) -> Option<(ReadResult, Result<Content, FileError>)> {
    let read = config_file::read(path);
    let read_result = match &read {
        Ok(text) => Ok(text.clone()),
        Err(error) => Err(SourceError::new(error).to_string()),
    };
    if last_read == Some(&read_result) {
        return None;
    }
    Some((read_result, read.and_then(|text| parse(path, &text))))
}

/// Reads and parses the file once, and logs its warnings.
///
/// # Errors
/// The file cannot be read, or its content is invalid.
pub fn load(path: &Path) -> Result<DesiredSet, FileError> {
    let content = parse(path, &config_file::read(path)?)?;
    log_warnings(path, &content);
    Ok(content.desired)
}

fn parse(path: &Path, text: &str) -> Result<Content, FileError> {
    file_format::read(text).map_err(|problems| {
        let (mut problems, unlisted) = problems.into_parts();
        problems.extend((unlisted > 0).then(|| FileProblem {
            place: None,
            message: format!("{unlisted} more problems are not listed"),
        }));
        let path = path.to_owned();
        FileError::Content { path, problems }
    })
}

fn log_warnings(path: &Path, content: &Content) {
    for warning in &content.warnings {
        let warning = format_args!("{}:{warning}", path.display());
        tracing::warn!(
            %warning,
            "the file is valid, but has a value that is most likely a mistake"
        );
    }
}
