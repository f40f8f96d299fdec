//! Access to sysctls in `/proc/sys`.
//!
//! A process sees the sysctls of its own network namespace.

use std::{fs, path::PathBuf};

use nix::errno::Errno;

use crate::error::to_errno;

pub(crate) fn read(name: &str) -> Result<String, Errno> {
    let value = fs::read_to_string(path(name)).map_err(to_errno)?;
    Ok(value.trim().to_owned())
}

pub(crate) fn write(name: &str, value: &str) -> Result<(), Errno> {
    fs::write(path(name), value).map_err(to_errno)
}

fn path(name: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(name)
}
