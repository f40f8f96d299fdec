//! The resident memory of processes and of all their descendants.

use std::collections::HashSet;
use std::fs;

use anyhow::{Context, Result};

/// Returns the resident memory of these processes and of all their descendants, in MiB.
pub fn resident_mebibytes(pids: &[u32]) -> Result<f64> {
    let parents = parent_processes()?;
    let mut counted: HashSet<u32> = pids.iter().copied().collect();
    loop {
        let children: Vec<u32> = parents
            .iter()
            .filter(|(pid, parent)| counted.contains(parent) && !counted.contains(pid))
            .map(|(pid, _)| *pid)
            .collect();
        if children.is_empty() {
            break;
        }
        counted.extend(children);
    }
    let kibibytes: u64 = counted
        .iter()
        .map(|pid| field(*pid, "VmRSS:").unwrap_or(0))
        .sum();
    Ok(kibibytes as f64 / 1024.0)
}

/// Returns the id of each process, with the id of its parent.
fn parent_processes() -> Result<Vec<(u32, u32)>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").context("cannot read /proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // A process has no status file if it has ended after the folder was listed.
        if let Some(parent) = field(pid, "PPid:") {
            parents.push((pid, u32::try_from(parent)?));
        }
    }
    Ok(parents)
}

fn field(pid: u32, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}
