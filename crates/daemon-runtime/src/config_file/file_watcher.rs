//! Notification about changes of a file.
//!
//! The watcher watches directories, not the file itself. An editor can rename a new file over the
//! old file, and a mounted ConfigMap replaces a symbolic link: both leave the old file unchanged.
//! The watcher watches the directory of every symbolic link in the path, of the file, and of the
//! first missing part of the path.
//!
//! After a close of the written file, a rename to its name, or a new link, the file has its new
//! content, so the watcher reports the change immediately. After a creation, a write or a removal,
//! another process is possibly still writing the file or its replacement, so the watcher reports
//! the change only after 50 ms without a further event. The watcher also polls the file once a
//! second, because some changes cause no event, such as changes on a network file system.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque, btree_map::Entry},
    ffi::OsString,
    io,
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
    time::{Duration, SystemTime},
};

use bounded_io::wait_until;
use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, CreateKind, ModifyKind, RenameMode},
};
use tokio::{
    sync::mpsc,
    time::{Instant, Interval, MissedTickBehavior, interval},
};

/// Time without an event after which the watcher reports a file that was created, written or
/// removed, but not closed or replaced.
const SETTLED_AFTER: Duration = Duration::from_millis(50);
/// Time between two polls of the file.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Largest number of symbolic links in a path, equal to the kernel's limit: path_resolution(7).
const MOST_LINKS: usize = 40;

/// A watcher that reports possible changes of one file.
#[derive(Debug)]
pub struct FileWatcher {
    path: PathBuf,
    /// The symbolic links in the path, and the file or the first missing part of the path. A change
    /// of one of these names can change the file.
    relevant: BTreeSet<PathBuf>,
    /// Watched directories with their device and inode at the start of the watch.
    watched: BTreeMap<PathBuf, (u64, u64)>,
    /// `None` if inotify has no free watches. Then the watcher only polls.
    watcher: Option<RecommendedWatcher>,
    events: mpsc::UnboundedReceiver<notify::Result<Event>>,
    poll: Interval,
    settled_at: Option<Instant>,
    reported: Option<Fingerprint>,
    /// Whether the next call of [`FileWatcher::changed`] must determine `relevant` and `watched`
    /// again, because a change was reported after they were determined.
    is_rescan_due: bool,
}

/// A path cannot be watched: it is empty, or relative to a directory that does not exist.
#[derive(Debug, thiserror::Error)]
#[error("cannot watch {:?}", path.display())]
pub struct WatchError {
    pub path: PathBuf,
    pub source: io::Error,
}

/// The metadata that distinguishes two versions of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fingerprint {
    device: u64,
    inode: u64,
    size: u64,
    modified: Option<SystemTime>,
    changed: (i64, i64),
}

/// The meaning of one inotify event for the file.
enum ChangeState {
    Irrelevant,
    Incomplete,
    Complete,
}

impl FileWatcher {
    /// Starts to watch. The file does not need to exist.
    ///
    /// The caller reads the file after this call and after each return of [`FileWatcher::changed`].
    /// Then the caller misses no change. Needs a tokio runtime with time.
    ///
    /// If inotify has no free watches, the function logs a warning, and the watcher finds changes
    /// only by polling the file once a second.
    ///
    /// # Errors
    /// The path cannot be made absolute.
    pub fn new(path: &Path) -> Result<Self, WatchError> {
        let absolute = std::path::absolute(path).map_err(|source| WatchError {
            path: path.to_owned(),
            source,
        })?;
        let (sender, events) = mpsc::unbounded_channel();
        let watcher = notify::recommended_watcher(move |event| {
            // Sending fails only while the watcher is being dropped.
            let _ = sender.send(event);
        });
        let mut poll = interval(POLL_INTERVAL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut this = Self {
            reported: fingerprint(&absolute),
            path: absolute,
            relevant: BTreeSet::new(),
            watched: BTreeMap::new(),
            watcher: None,
            events,
            poll,
            settled_at: None,
            is_rescan_due: false,
        };
        let watched = watcher.and_then(|watcher| {
            this.watcher = Some(watcher);
            this.update_watches()
        });
        if let Err(error) = watched {
            tracing::warn!(
                path = %path.display(),
                %error,
                "cannot watch the file with inotify; checking it once a second (raise the limits \
                 in /proc/sys/fs/inotify)"
            );
        }
        // A change between the first fingerprint and the start of the watch caused no event, so a
        // second fingerprint is compared with the first fingerprint.
        if fingerprint(&this.path) != this.reported {
            this.settled_at = Some(Instant::now());
        }
        Ok(this)
    }

    /// Waits until the file was possibly changed, created or removed. Cancel safe.
    pub async fn changed(&mut self) {
        if std::mem::take(&mut self.is_rescan_due) {
            self.rescan_directories();
            // A change before the watch of a new directory began caused no event, so the
            // fingerprint is compared with the reported fingerprint.
            if fingerprint(&self.path) != self.reported {
                self.settled_at = Some(Instant::now());
            }
        }
        loop {
            tokio::select! {
                Some(event) = self.events.recv() => match self.change_state(event) {
                    ChangeState::Irrelevant => {}
                    ChangeState::Incomplete => {
                        self.rescan_directories();
                        self.settled_at = Some(Instant::now() + SETTLED_AFTER);
                    }
                    ChangeState::Complete => return self.report_change(),
                },
                () = wait_until(self.settled_at) => {
                    self.settled_at = None;
                    self.rescan_directories();
                    if fingerprint(&self.path) != self.reported {
                        return self.report_change();
                    }
                }
                _ = self.poll.tick() => {
                    self.rescan_directories();
                    if self.settled_at.is_none() && fingerprint(&self.path) != self.reported {
                        self.settled_at = Some(Instant::now() + SETTLED_AFTER);
                    }
                }
            }
        }
    }

    /// Prepares the return of [`Self::changed`]. Drops all queued events, because the caller reads
    /// the file after this call. Updates the watches only in the next call of [`Self::changed`], so
    /// that the caller does not wait for the update.
    fn report_change(&mut self) {
        self.is_rescan_due = true;
        while self.events.try_recv().is_ok() {}
        self.settled_at = None;
        self.reported = fingerprint(&self.path);
    }

    fn change_state(&self, event: notify::Result<Event>) -> ChangeState {
        let Ok(event) = event else {
            return ChangeState::Incomplete;
        };
        if event.need_rescan() {
            return ChangeState::Incomplete;
        }
        let Some(path) = event
            .paths
            .iter()
            .find(|path| self.relevant.contains(*path) || self.watched.contains_key(*path))
        else {
            return ChangeState::Irrelevant;
        };
        match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Name(RenameMode::To)) => ChangeState::Complete,
            EventKind::Create(CreateKind::File) if is_link(path) => ChangeState::Complete,
            EventKind::Access(_) => ChangeState::Irrelevant,
            EventKind::Create(_)
            | EventKind::Modify(_)
            | EventKind::Remove(_)
            | EventKind::Any
            | EventKind::Other => ChangeState::Incomplete,
        }
    }

    /// Updates the watched directories. If a directory cannot be watched, the function only logs
    /// the error, because polling also finds the changes.
    fn rescan_directories(&mut self) {
        if let Err(error) = self.update_watches() {
            tracing::debug!(
                path = %self.path.display(),
                %error,
                "cannot watch a directory with inotify; checking the file once a second"
            );
        }
    }

    fn update_watches(&mut self) -> notify::Result<()> {
        let Some(watcher) = &mut self.watcher else {
            return Ok(());
        };
        self.relevant = relevant_names(&self.path);
        let wanted: BTreeMap<PathBuf, (u64, u64)> = self
            .relevant
            .iter()
            .filter_map(|name| name.parent())
            .filter_map(|directory| Some((directory.to_owned(), identity(directory)?)))
            .collect();
        let gone: Vec<PathBuf> = self
            .watched
            .iter()
            .filter(|(directory, identity)| wanted.get(*directory) != Some(identity))
            .map(|(directory, _)| directory.clone())
            .collect();
        for directory in gone {
            self.watched.remove(&directory);
            // This call fails for a removed directory, because the kernel has already ended its
            // watch.
            let _ = watcher.unwatch(&directory);
        }
        for (directory, identity) in wanted {
            if let Entry::Vacant(vacant) = self.watched.entry(directory) {
                watcher.watch(vacant.key(), RecursiveMode::NonRecursive)?;
                vacant.insert(identity);
            }
        }
        Ok(())
    }
}

/// Returns the symbolic links in the path, and the file or the first missing part of the path.
fn relevant_names(path: &Path) -> BTreeSet<PathBuf> {
    let mut names = BTreeSet::new();
    let mut links = 0;
    let mut resolved = PathBuf::from("/");
    let mut ahead: VecDeque<PathPart> = parts(path).collect();
    while let Some(part) = ahead.pop_front() {
        let name = match part {
            PathPart::Root => {
                resolved = PathBuf::from("/");
                continue;
            }
            PathPart::Parent => {
                resolved.pop();
                continue;
            }
            PathPart::Name(name) => resolved.join(name),
        };
        match std::fs::symlink_metadata(&name) {
            Ok(metadata) if metadata.is_symlink() && links < MOST_LINKS => {
                links += 1;
                if let Ok(target) = std::fs::read_link(&name) {
                    for part in parts(&target).collect::<Vec<_>>().into_iter().rev() {
                        ahead.push_front(part);
                    }
                }
                names.insert(name);
            }
            Ok(_) if ahead.is_empty() => {
                names.insert(name);
            }
            Ok(_) => resolved = name,
            Err(_) => {
                names.insert(name);
                break;
            }
        }
    }
    names
}

enum PathPart {
    Root,
    Parent,
    Name(OsString),
}

fn parts(path: &Path) -> impl Iterator<Item = PathPart> {
    path.components().filter_map(|component| match component {
        Component::RootDir => Some(PathPart::Root),
        Component::ParentDir => Some(PathPart::Parent),
        Component::Normal(name) => Some(PathPart::Name(name.to_owned())),
        Component::CurDir | Component::Prefix(_) => None,
    })
}

/// Reports whether `path` is a symbolic link or a hard link. A new link has its content
/// immediately, a new regular file is still empty.
fn is_link(path: &Path) -> bool {
    std::fs::symlink_metadata(path)
        .is_ok_and(|metadata| metadata.is_symlink() || metadata.nlink() > 1)
}

fn identity(directory: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::metadata(directory).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

fn fingerprint(path: &Path) -> Option<Fingerprint> {
    let metadata = std::fs::metadata(path).ok()?;
    Some(Fingerprint {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        modified: metadata.modified().ok(),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}

#[cfg(test)]
mod tests;
