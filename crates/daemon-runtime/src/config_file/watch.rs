//! Notices that a file may have changed.
//!
//! What is watched are directories, never the file itself: an editor that renames a new file over
//! the old one, and a mounted ConfigMap that swaps a symbolic link, leave the old file untouched.
//! Every link on the way to the file counts, and so does the first part of the path that is
//! missing.
//!
//! A closed file, a rename and a new link are complete: they are told at once. A file that is
//! created, written or removed is often about to be closed or replaced: it is told when it has
//! been left alone for a moment. A look at the file each second finds what no event tells, such
//! as changes on a network file system.

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

/// How long a file that is being written must be left alone before it is told.
const SETTLED_AFTER: Duration = Duration::from_millis(50);
/// From one look at the file to the next.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// As in the kernel: path_resolution(7).
const MOST_LINKS: usize = 40;

/// Tells when a file may have changed.
#[derive(Debug)]
pub struct FileWatcher {
    path: PathBuf,
    /// The names whose appearance, disappearance or content decide what the path leads to.
    decisive: BTreeSet<PathBuf>,
    /// Watched directories, by what they were when the watch began.
    watched: BTreeMap<PathBuf, (u64, u64)>,
    /// `None`: the system has no more of them, only the look is left.
    watcher: Option<RecommendedWatcher>,
    events: mpsc::UnboundedReceiver<notify::Result<Event>>,
    look: Interval,
    settled_at: Option<Instant>,
    told: Option<Fingerprint>,
    /// What decides has not been looked at since a change was told.
    is_look_due: bool,
}

/// The path leads nowhere: it is empty, or relative to a directory that is gone.
#[derive(Debug, thiserror::Error)]
#[error("cannot watch {:?}", path.display())]
pub struct WatchError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// Tells two versions of a file apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fingerprint {
    device: u64,
    inode: u64,
    size: u64,
    modified: Option<SystemTime>,
    changed: (i64, i64),
}

enum Meaning {
    Nothing,
    Incomplete,
    Complete,
}

impl FileWatcher {
    /// Begins to watch; the file need not exist. Read the file after this, and after each
    /// [`FileWatcher::changed`], and no change is missed. Needs a tokio runtime with time.
    ///
    /// Where the system has no watches left, a change is told within a second, and a warning says
    /// so.
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
            // The receiver is gone only while the watcher is being dropped.
            let _ = sender.send(event);
        });
        let mut look = interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut this = Self {
            told: fingerprint(&absolute),
            path: absolute,
            decisive: BTreeSet::new(),
            watched: BTreeMap::new(),
            watcher: None,
            events,
            look,
            settled_at: None,
            is_look_due: false,
        };
        let watched = watcher.and_then(|watcher| {
            this.watcher = Some(watcher);
            this.watch_what_decides()
        });
        if let Err(error) = watched {
            tracing::warn!(
                path = %path.display(),
                %error,
                "changes are seen within a second instead of at once; raise the limits in \
                 /proc/sys/fs/inotify"
            );
        }
        // What happened between the look above and the watch is told.
        if fingerprint(&this.path) != this.told {
            this.settled_at = Some(Instant::now());
        }
        Ok(this)
    }

    /// Returns when the file may have changed, appeared or disappeared. Cancel safe.
    pub async fn changed(&mut self) {
        if std::mem::take(&mut self.is_look_due) {
            self.look_for_directories();
            // What happened before a new directory was watched.
            if fingerprint(&self.path) != self.told {
                self.settled_at = Some(Instant::now());
            }
        }
        loop {
            tokio::select! {
                Some(event) = self.events.recv() => match self.meaning(event) {
                    Meaning::Nothing => {}
                    Meaning::Incomplete => {
                        self.look_for_directories();
                        self.settled_at = Some(Instant::now() + SETTLED_AFTER);
                    }
                    Meaning::Complete => return self.tell(),
                },
                () = wait_until(self.settled_at) => {
                    self.settled_at = None;
                    self.look_for_directories();
                    if fingerprint(&self.path) != self.told {
                        return self.tell();
                    }
                }
                _ = self.look.tick() => {
                    self.look_for_directories();
                    if self.settled_at.is_none() && fingerprint(&self.path) != self.told {
                        self.settled_at = Some(Instant::now() + SETTLED_AFTER);
                    }
                }
            }
        }
    }

    /// From here on only what happens after the reader's look at the file counts. The look at what
    /// decides can wait until the reader has what it waits for.
    fn tell(&mut self) {
        self.is_look_due = true;
        while self.events.try_recv().is_ok() {}
        self.settled_at = None;
        self.told = fingerprint(&self.path);
    }

    fn meaning(&self, event: notify::Result<Event>) -> Meaning {
        let Ok(event) = event else {
            return Meaning::Incomplete;
        };
        if event.need_rescan() {
            return Meaning::Incomplete;
        }
        let Some(path) = event
            .paths
            .iter()
            .find(|path| self.decisive.contains(*path) || self.watched.contains_key(*path))
        else {
            return Meaning::Nothing;
        };
        match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Meaning::Complete,
            EventKind::Create(CreateKind::File) if is_link(path) => Meaning::Complete,
            EventKind::Access(_) => Meaning::Nothing,
            EventKind::Create(_)
            | EventKind::Modify(_)
            | EventKind::Remove(_)
            | EventKind::Any
            | EventKind::Other => Meaning::Incomplete,
        }
    }

    /// A directory that cannot be watched costs a second, not the change: the look finds it.
    fn look_for_directories(&mut self) {
        if let Err(error) = self.watch_what_decides() {
            tracing::debug!(path = %self.path.display(), %error, "a directory is not watched");
        }
    }

    fn watch_what_decides(&mut self) -> notify::Result<()> {
        let Some(watcher) = &mut self.watcher else {
            return Ok(());
        };
        self.decisive = decisive_names(&self.path);
        let wanted: BTreeMap<PathBuf, (u64, u64)> = self
            .decisive
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
            // The system ends the watch of a removed directory by itself.
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

/// Each symbolic link on the way, and the file itself or the first missing part of its path.
fn decisive_names(path: &Path) -> BTreeSet<PathBuf> {
    let mut names = BTreeSet::new();
    let mut links = 0;
    let mut resolved = PathBuf::from("/");
    let mut ahead: VecDeque<Part> = parts(path).collect();
    while let Some(part) = ahead.pop_front() {
        let name = match part {
            Part::Root => {
                resolved = PathBuf::from("/");
                continue;
            }
            Part::Parent => {
                resolved.pop();
                continue;
            }
            Part::Name(name) => resolved.join(name),
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

enum Part {
    Root,
    Parent,
    Name(OsString),
}

fn parts(path: &Path) -> impl Iterator<Item = Part> {
    path.components().filter_map(|component| match component {
        Component::RootDir => Some(Part::Root),
        Component::ParentDir => Some(Part::Parent),
        Component::Normal(name) => Some(Part::Name(name.to_owned())),
        Component::CurDir | Component::Prefix(_) => None,
    })
}

/// A symbolic or hard link is complete when it appears; a new file is empty.
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
