//! A file as the source.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use daemon_runtime::config_file::{self, FileError, FileWatcher, Problem, WatchError};
use virtual_server::DesiredSet;

use crate::{
    file_format::{self, Content},
    source::{Description, Source, SourceError, SourceEvent},
};

/// A file of up to so many bytes is parsed by the task that notices its change: that takes a few
/// milliseconds, and a thread for it would delay each change.
const SMALL_FILE: u64 = 64 * 1024;

/// The text of a file, or why it cannot be read.
type Seen = Result<String, String>;

/// A YAML document that is read again whenever it may have changed.
#[derive(Debug)]
pub struct FileSource {
    path: PathBuf,
    watcher: FileWatcher,
    /// What was read last, so that a file that was only touched is not read as a change.
    last_read: Option<Arc<Seen>>,
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
            let is_small =
                std::fs::metadata(&self.path).is_ok_and(|metadata| metadata.len() <= SMALL_FILE);
            let (path, last_read) = (self.path.clone(), self.last_read.clone());
            let read = move || read_changed(&path, last_read.as_deref());
            let changed = if is_small {
                read()
            } else {
                config_file::off_thread(read).await
            };
            let Some((seen, content)) = changed else {
                continue;
            };
            let is_first = self.last_read.replace(seen.into()).is_none();
            return match content {
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

/// Reads and parses the file. Returns `None` if it is as it was at the last reading.
fn read_changed(
    path: &Path,
    last_read: Option<&Seen>,
) -> Option<(Seen, Result<Content, FileError>)> {
    let read = config_file::read(path);
    let seen = match &read {
        Ok(text) => Ok(text.clone()),
        Err(error) => Err(SourceError::new(error).to_string()),
    };
    if last_read == Some(&seen) {
        return None;
    }
    Some((seen, read.and_then(|text| parse(path, &text))))
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
    file_format::read(text).map_err(|problems| {
        let (mut problems, unlisted) = problems.into_parts();
        problems.extend((unlisted > 0).then(|| Problem {
            place: None,
            message: format!("{unlisted} more problems are not listed"),
        }));
        let path = path.to_owned();
        FileError::Content { path, problems }
    })
}

fn tell_doubts(path: &Path, content: &Content) {
    for doubt in &content.doubts {
        let doubt = format_args!("{}:{doubt}", path.display());
        tracing::warn!(%doubt, "the file is usable; is this meant?");
    }
}
