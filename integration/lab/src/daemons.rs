//! Our own daemons, as this build made them.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The variable that names the folder of the daemons.
const FOLDER: &str = "PORTLB_DAEMONS";

/// A command of one of our daemons or tools, from the build that the calling
/// program belongs to.
pub fn command(name: &str) -> Result<Command> {
    let mut command = Command::new(binary(name)?);
    // A daemon warns of variables with our prefix that it does not know.
    command.env_remove(FOLDER);
    Ok(command)
}

/// The file that [`command`] runs: below the folder that `PORTLB_DAEMONS`
/// names, otherwise beside the calling program.
pub fn binary(name: &str) -> Result<PathBuf> {
    if let Some(folder) = env::var_os(FOLDER) {
        return Ok(PathBuf::from(folder).join(name));
    }
    let program = env::current_exe().context("find the running program")?;
    // Tests lie one folder deeper than the programs.
    let folders = program.ancestors().skip(1).take(2);
    let mut candidates = folders.map(|folder| folder.join(name));
    match candidates.find(|file| file.is_file()) {
        Some(file) => Ok(file),
        None => bail!(
            "{name} is not built beside {}; run: cargo build --workspace",
            program.display()
        ),
    }
}
