//! Listening unix sockets.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use tokio::net::{UnixListener, UnixStream};

use crate::{ReadinessStep, accept::Listen, connection_slots::ClientSource};

/// Longest path of a socket in bytes: the kernel's limit of 107, minus the length of
/// [`TEMPORARY_SUFFIX`].
const LONGEST_PATH: usize = 103;
const TEMPORARY_SUFFIX: &str = ".new";
const LOCK_SUFFIX: &str = ".lock";

/// Number of attempts to take a lock that another process holds.
const LOCK_ATTEMPTS: usize = 100;
/// Pause between two attempts to take the lock.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// The mode and the group of a socket's file.
#[derive(Clone, Copy, Debug)]
pub struct SocketPermissions {
    /// Permission bits, such as 0o660.
    pub mode: u32,
    /// Numeric group id. `None` keeps the group of this process.
    pub group: Option<u32>,
}

/// A listening unix socket. Dropping it removes its path, unless the path leads to another socket.
///
/// A process changes the path only while it holds a lock (`PATH.lock`), so an ending process never
/// removes the socket of its successor. The socket is bound to a temporary name and then renamed,
/// so a client never finds a path without a server.
#[derive(Debug)]
pub(crate) struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
    identity: FileIdentity,
    permissions: Option<SocketPermissions>,
    step: Option<ReadinessStep>,
    /// False from the logged failure to bind the path again until the path is bound.
    is_reachable: bool,
}

/// The device and the inode of the socket's file. The kernel does not reuse the inode while the
/// socket is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileIdentity(u64, u64);

impl FileIdentity {
    fn of(path: &Path) -> io::Result<Self> {
        let file = path.symlink_metadata()?;
        Ok(Self(file.dev(), file.ino()))
    }
}

impl UnixSocket {
    /// Binds the path. Replaces a socket that no process serves.
    ///
    /// # Errors
    /// The errors of bind(2). `AddrInUse` if another process serves the path or holds its lock, and
    /// `AlreadyExists` if the path leads to a file that is not a socket.
    pub(crate) async fn bind(
        path: &Path,
        permissions: Option<SocketPermissions>,
    ) -> io::Result<Self> {
        if path.as_os_str().len() > LONGEST_PATH {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "the path {} is too long for a socket; give a path of at most {LONGEST_PATH} \
                     bytes",
                    path.display()
                ),
            ));
        }
        refuse_other_file(path)?;
        let _lock = lock(path).await?;
        refuse_served(path).await?;
        let temporary = with_suffix(path, TEMPORARY_SUFFIX);
        remove_if_present(&temporary)?;
        Self::bind_or_clean(path, &temporary, permissions)
    }

    fn bind_or_clean(
        path: &Path,
        temporary: &Path,
        permissions: Option<SocketPermissions>,
    ) -> io::Result<Self> {
        let bound = Self::bind_and_rename(path, temporary, permissions);
        if bound.is_err() {
            // An error of this removal is ignored, because the caller needs the error of the bind.
            let _ = fs::remove_file(temporary);
        }
        bound
    }

    fn bind_and_rename(
        path: &Path,
        temporary: &Path,
        permissions: Option<SocketPermissions>,
    ) -> io::Result<Self> {
        let listener = UnixListener::bind(temporary)?;
        if let Some(permissions) = permissions {
            permissions.apply(temporary, path)?;
        }
        let identity = FileIdentity::of(temporary)?;
        fs::rename(temporary, path)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            identity,
            permissions,
            step: None,
            is_reachable: true,
        })
    }

    /// Makes the socket report to `step` whether its path leads to this socket.
    pub(crate) fn report_to(&mut self, step: ReadinessStep) {
        step.ready(self.path.display().to_string());
        self.step = Some(step);
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn is_in_place(&self) -> bool {
        FileIdentity::of(&self.path).is_ok_and(|identity| identity == self.identity)
    }
}

impl Listen for UnixSocket {
    const IS_UNIX: bool = true;
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<(UnixStream, ClientSource)> {
        let (stream, _) = self.listener.accept().await?;
        let client = stream.peer_cred()?;
        // The kernel gives 0 for a process of another PID namespace.
        let process = client.pid().filter(|pid| *pid > 0);
        let source = process.map_or(ClientSource::User(client.uid()), ClientSource::Process);
        Ok((stream, source))
    }

    /// Binds the path again if it does not lead to this socket. If this fails, for example because
    /// another process serves the path, logs the first failure and marks the readiness step as
    /// missing.
    async fn check(&mut self) {
        if self.is_in_place() {
            return;
        }
        let path = self.path.clone();
        match Self::bind(&path, self.permissions).await {
            Ok(mut socket) => {
                tracing::warn!(
                    path = %path.display(),
                    "unix socket path was removed or replaced; bound the path again"
                );
                if let Some(step) = self.step.take() {
                    socket.report_to(step);
                }
                *self = socket;
            }
            Err(error) => {
                if self.is_reachable {
                    self.is_reachable = false;
                    tracing::error!(
                        path = %path.display(),
                        %error,
                        "cannot bind the unix socket path again, so clients cannot connect; retrying every second"
                    );
                }
                if let Some(step) = &self.step {
                    step.missing(format!(
                        "{} does not lead to this process: {error}",
                        path.display()
                    ));
                }
            }
        }
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        // If another process holds the lock or the removal fails, the path remains. The next
        // process that binds the path replaces the file.
        if let Ok(Some(_lock)) = try_lock(&self.path)
            && self.is_in_place()
        {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl SocketPermissions {
    /// Sets group and mode of `file`. `path` is the final path of the socket, for the error
    /// message.
    fn apply(self, file: &Path, path: &Path) -> io::Result<()> {
        let set = || {
            if let Some(group) = self.group {
                std::os::unix::fs::chown(file, None, Some(group))?;
            }
            fs::set_permissions(file, fs::Permissions::from_mode(self.mode))
        };
        set().map_err(|error: io::Error| {
            let group = self.group.map_or_else(String::new, |group| {
                format!(
                    " and group {group} (without the capability CHOWN, only a group of this process \
                     is allowed)"
                )
            });
            io::Error::new(
                error.kind(),
                format!(
                    "cannot give {} mode {:04o}{group}: {error}",
                    path.display(),
                    self.mode
                ),
            )
        })
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn remove_if_present(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Refuses a path that leads to a file other than a socket, so that no such file is replaced.
fn refuse_other_file(path: &Path) -> io::Result<()> {
    let is_other = path
        .symlink_metadata()
        .is_ok_and(|file| !file.file_type().is_socket());
    if is_other {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!(
                "{} exists and is not a socket; give another path",
                path.display()
            ),
        ));
    }
    Ok(())
}

/// Refuses a path that another process serves. The file of a socket remains after its process has
/// ended, so this function connects to the socket.
async fn refuse_served(path: &Path) -> io::Result<()> {
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // WouldBlock: a process serves the path, but its backlog is full.
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        Ok(_) | Err(_) => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("another process serves {}", path.display()),
        )),
    }
}

/// Takes the lock of the path, which the daemons of portlb hold only for some milliseconds.
async fn lock(path: &Path) -> io::Result<Flock<File>> {
    for _ in 0..LOCK_ATTEMPTS {
        if let Some(lock) = try_lock(path)? {
            return Ok(lock);
        }
        tokio::time::sleep(LOCK_PAUSE).await;
    }
    Err(io::Error::new(
        io::ErrorKind::AddrInUse,
        format!(
            "another process holds the lock file {}",
            with_suffix(path, LOCK_SUFFIX).display()
        ),
    ))
}

/// Tries to take the lock of the path. `None` if another process holds the lock.
fn try_lock(path: &Path) -> io::Result<Option<Flock<File>>> {
    let name = with_suffix(path, LOCK_SUFFIX);
    // Only the user of the daemon can open the lock file. Otherwise every client with access to the
    // directory could hold the lock.
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&name)
        .map_err(|error| cannot_lock(path, &name, error))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno.into()),
    }
}

fn cannot_lock(path: &Path, name: &Path, error: io::Error) -> io::Error {
    let problem = match path.parent() {
        // The error NotFound means that the directory is missing, because the lock file is created.
        Some(directory) if error.kind() == io::ErrorKind::NotFound => format!(
            "the directory {} does not exist; create or mount it",
            directory.display()
        ),
        Some(_) | None => format!(
            "cannot open the lock file {}: {error}; make the directory writable for this process, \
             and remove the file if it belongs to another user",
            name.display()
        ),
    };
    io::Error::new(error.kind(), problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory_and_path() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("test.sock");
        (directory, path)
    }

    async fn is_served(path: &Path) -> bool {
        UnixStream::connect(path).await.is_ok()
    }

    #[tokio::test]
    async fn an_ending_process_leaves_the_socket_of_its_successor() {
        let (_directory, path) = directory_and_path();
        let ending = UnixSocket::bind(&path, None).await.unwrap();
        // The successor replaces the path while the ending process still exists.
        fs::remove_file(&path).unwrap();
        let successor = UnixSocket::bind(&path, None).await.unwrap();
        drop(ending);
        assert!(is_served(&path).await);
        drop(successor);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn an_ending_process_does_not_remove_its_path_while_another_process_holds_the_lock() {
        let (_directory, path) = directory_and_path();
        let ending = UnixSocket::bind(&path, None).await.unwrap();
        let lock = try_lock(&path).unwrap().unwrap();
        drop(ending);
        assert!(path.exists());
        drop(lock);
        // The next process replaces the remaining path.
        let _next = UnixSocket::bind(&path, None).await.unwrap();
        assert!(is_served(&path).await);
    }

    #[tokio::test]
    async fn a_removed_socket_path_is_bound_again_with_the_permissions_of_the_socket() {
        let (_directory, path) = directory_and_path();
        let permissions = SocketPermissions {
            mode: 0o640,
            group: None,
        };
        let mut socket = UnixSocket::bind(&path, Some(permissions)).await.unwrap();
        fs::remove_file(&path).unwrap();
        socket.check().await;
        assert!(is_served(&path).await);
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
    }

    #[tokio::test]
    async fn a_path_that_another_process_serves_is_not_changed() {
        let (_directory, path) = directory_and_path();
        let mut socket = UnixSocket::bind(&path, None).await.unwrap();
        fs::remove_file(&path).unwrap();
        let other = UnixListener::bind(&path).unwrap();
        let identity = FileIdentity::of(&path).unwrap();
        socket.check().await;
        assert_eq!(FileIdentity::of(&path).unwrap(), identity);
        drop(socket);
        assert_eq!(FileIdentity::of(&path).unwrap(), identity);
        drop(other);
    }

    #[tokio::test]
    async fn a_failed_bind_leaves_no_temporary_name() {
        let (_directory, path) = directory_and_path();
        let lock = try_lock(&path).unwrap();
        // A directory at the path makes the rename fail.
        let temporary = with_suffix(&path, TEMPORARY_SUFFIX);
        fs::create_dir(&path).unwrap();
        let error = UnixSocket::bind_or_clean(&path, &temporary, None).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::IsADirectory);
        assert!(!temporary.exists());
        drop(lock);
    }

    #[tokio::test]
    async fn a_path_that_is_too_long_for_the_temporary_name_is_refused() {
        let path = PathBuf::from(format!("/tmp/{}", "x".repeat(LONGEST_PATH)));
        let error = UnixSocket::bind(&path, None).await.unwrap_err();
        assert!(error.to_string().contains("at most 103 bytes"), "{error}");
    }
}
