//! Non-blocking reads of regular files with a maximum size.

use std::{
    fs::{File, FileType, Metadata, OpenOptions},
    io::{self, Read},
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::Path,
};

use nix::libc::{O_NOCTTY, O_NONBLOCK};

/// Opens a regular file, or the regular file behind a symbolic link. Never waits for the writer of
/// a FIFO or for a device.
///
/// # Errors
/// The file cannot be opened, or the path does not lead to a regular file. Other kinds of files are
/// refused because a FIFO without a writer blocks, and a device such as `/dev/zero` has no end.
pub fn open_file(path: &Path) -> io::Result<(File, Metadata)> {
    // The kind of the file is checked before the open, because opening a device can have a side
    // effect.
    check_is_file(&std::fs::metadata(path)?)?;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(O_NONBLOCK | O_NOCTTY)
        .open(path)?;
    // The kind is checked after the open too, because another program can have replaced the file
    // between the first check and the open.
    let metadata = file.metadata()?;
    check_is_file(&metadata)?;
    Ok((file, metadata))
}

/// Reads a regular file of at most `largest` bytes.
///
/// # Errors
/// [`open_file`] fails, the file is larger than `largest`, or a read fails.
pub fn read_file(path: &Path, largest: u64) -> io::Result<Vec<u8>> {
    let (file, metadata) = open_file(path)?;
    let too_large = || {
        let message = format!("the file is larger than the maximum of {largest} bytes");
        io::Error::new(io::ErrorKind::FileTooLarge, message)
    };
    if metadata.len() > largest {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    // The file can grow after the check of its size, so at most `largest + 1` bytes are read.
    file.take(largest + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > largest {
        return Err(too_large());
    }
    Ok(bytes)
}

fn check_is_file(metadata: &Metadata) -> io::Result<()> {
    if metadata.is_file() {
        return Ok(());
    }
    let kind = kind(metadata.file_type());
    let message = format!(
        "{kind} is not a regular file; give the path of a regular file or of a symbolic link to one"
    );
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}

fn kind(file_type: FileType) -> &'static str {
    if file_type.is_dir() {
        "a directory"
    } else if file_type.is_fifo() {
        "a FIFO"
    } else if file_type.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::symlink, net::UnixListener};

    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    #[track_caller]
    fn check_refused(path: &Path, expected: &str) {
        let error = read_file(path, 8).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{}: {error}", path.display());
    }

    #[test]
    fn anything_but_a_regular_file_is_refused_without_blocking() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        check_refused(folder.path(), "a directory is not a regular file");
        check_refused(Path::new("/dev/zero"), "a device is not a regular file");
        mkfifo(&path("fifo"), Mode::S_IRWXU).unwrap();
        check_refused(&path("fifo"), "a FIFO is not a regular file");
        symlink(path("fifo"), path("link")).unwrap();
        check_refused(&path("link"), "a FIFO is not a regular file");
        let _socket = UnixListener::bind(path("socket")).unwrap();
        check_refused(&path("socket"), "a socket is not a regular file");
        check_refused(&path("missing"), "No such file");
    }

    #[test]
    fn a_file_larger_than_the_maximum_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "12345678").unwrap();
        assert_eq!(read_file(&path, 8).unwrap(), b"12345678");
        std::fs::write(&path, "123456789").unwrap();
        check_refused(&path, "the file is larger than the maximum of 8 bytes");
    }

    /// Models the volume of a ConfigMap: the file is a symbolic link through a directory that is a
    /// symbolic link.
    #[test]
    fn symbolic_links_to_a_regular_file_are_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir(path("..version")).unwrap();
        std::fs::write(path("..version/file"), "text").unwrap();
        symlink("..version", path("..data")).unwrap();
        symlink("..data/file", path("file")).unwrap();
        assert_eq!(read_file(&path("file"), 8).unwrap(), b"text");
    }
}
