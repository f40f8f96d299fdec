//! What the flags mean.

use std::path::PathBuf;

use daemon_runtime::{ConfigError, ListenAddress, config_file::FileError};

use crate::{args::Args, file_source, source::SourceError};

/// Resolved and valid.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file that lists the virtual servers.
    pub file: PathBuf,
    /// Where the contract is served.
    pub grpc_listen: ListenAddress,
}

impl Config {
    /// Reads the file too: one that cannot be used at start is an error of whoever starts us.
    ///
    /// # Errors
    /// Names the flag, what is wrong with the file and where.
    pub fn resolve(args: &Args) -> Result<Self, ConfigError> {
        file_source::load(&args.file).map_err(|error| {
            let cure = match &error {
                FileError::Read { .. } => {
                    "; --file must name a readable file, see docs/file-format.md"
                }
                FileError::Content { .. } => "",
            };
            ConfigError(format!("{}{cure}", SourceError::new(&error)))
        })?;
        Ok(Self {
            file: args.file.clone(),
            grpc_listen: args.common.grpc_listen.clone(),
        })
    }
}
