//! Commands that start portlb's own programs.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The environment variable that names the folder of portlb's programs.
const FOLDER: &str = "PORTLB_DAEMONS";

/// Returns a command that starts the daemon or tool `name`. [`binary`] finds the program.
pub fn command(name: &str) -> Result<Command> {
    let mut command = Command::new(binary(name)?);
    // A daemon logs a warning for each unknown variable with the prefix PORTLB_, so the daemon must
    // not get this variable.
    command.env_remove(FOLDER);
    Ok(command)
}

/// Returns the path of the program `name`. The program must be in the folder `PORTLB_DAEMONS` or,
/// without this variable, in the folder of the calling program or in the parent of this folder.
pub fn binary(name: &str) -> Result<PathBuf> {
    if let Some(folder) = env::var_os(FOLDER) {
        return Ok(PathBuf::from(folder).join(name));
    }
    let program = env::current_exe().context("cannot find the path of the running program")?;
    // Cargo puts test binaries into the folder `deps` next to the programs, so the parent folder is
    // searched, too.
    let folders = program.ancestors().skip(1).take(2);
    let mut candidates = folders.map(|folder| folder.join(name));
    match candidates.find(|file| file.is_file()) {
        Some(file) => Ok(file),
        None => bail!(
            "the program {name} does not exist next to {}; run: cargo build --workspace",
            program.display()
        ),
    }
}
