//! Sysctls through `/proc/sys`, which shows those of the reader's network namespace.

use std::{fs, io, path::PathBuf};

pub(crate) fn read(name: &str) -> io::Result<String> {
    fs::read_to_string(path(name)).map(|value| value.trim().to_owned())
}

pub(crate) fn write(name: &str, value: &str) -> io::Result<()> {
    fs::write(path(name), value)
}

fn path(name: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(name)
}
