//! What a configuration file means. Pure but for the files of keys that it names; each refusal has
//! its place. Reference:
//! `docs/reference/route-reflector.md`.

mod document;
mod import;
mod resolve;
mod session;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use bgp_packet::RouterId;
use bgp_speaker::{Configuration, SpeakerConfig};
use daemon_runtime::{
    ConfigError, ListenAddress,
    config_file::{self, FileError, Problem},
    in_words,
};

use crate::args::Args;

const LEAST: &str = "apiVersion: portlb.io/v1, kind: RouteReflector, asn and routerId, a line each";

/// A whole, valid configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Stays for the life of the process.
    pub speaker: SpeakerConfig,
    /// May change at any time. Groups without a prefix lend their settings to static peers only.
    pub peers: Configuration,
}

/// All that the daemon starts with: flags and file together.
#[derive(Clone, Debug)]
pub struct Settings {
    /// As the file has it, with what the flags put in its place.
    pub config: Config,
    /// Where it was read, and is read again.
    pub file: PathBuf,
    /// What takes the place of what the file says, each time that it is read.
    pub overrides: Overrides,
    /// Where gRPC is served.
    pub grpc_listen: ListenAddress,
    /// How long after the start every router is waited for.
    pub router_timeout: Duration,
    /// What the peers' operators read at a shutdown.
    pub shutdown_text: String,
    /// Longest time for the goodbye.
    pub shutdown_deadline: Duration,
}

/// What flags say instead of the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// Unless it is empty.
    pub listen: Vec<SocketAddr>,
    /// The file need not have one then.
    pub router_id: Option<RouterId>,
}

impl Settings {
    /// Opens nothing but the configuration file.
    ///
    /// # Errors
    /// Says what is wrong with the file, where, and what to write instead.
    pub fn resolve(args: Args) -> Result<Self, ConfigError> {
        let overrides = Overrides {
            listen: args.listen,
            router_id: args.router_id,
        };
        if args
            .router_id
            .is_some_and(|RouterId(id)| id.is_unspecified())
        {
            return Err(ConfigError(
                "--router-id: 0.0.0.0 is not allowed; give an id that no other BGP speaker has, \
                 usually an address of this host"
                    .to_owned(),
            ));
        }
        let config = load(&args.config, &overrides).map_err(|error| {
            let cure = match &error {
                FileError::Read { .. } => {
                    "; --config must name a readable file, see docs/reference/route-reflector.md"
                }
                FileError::Content { .. } => "",
            };
            ConfigError(format!("{}{cure}", in_words(&error)))
        })?;
        Ok(Self {
            config,
            file: args.config,
            overrides,
            grpc_listen: args.common.grpc_listen,
            router_timeout: args.router_timeout,
            shutdown_text: args.shutdown_text,
            shutdown_deadline: args.shutdown_timeout,
        })
    }
}

/// Reads a configuration file, and the files of keys that it names.
///
/// # Errors
/// Says what is wrong with it, where, and what to write instead.
pub fn load(path: &Path, overrides: &Overrides) -> Result<Config, FileError> {
    let text = config_file::read(path)?;
    parse(&text, overrides).map_err(|problem| FileError::Content {
        path: path.to_owned(),
        problems: vec![problem],
    })
}

/// Reads a document.
///
/// # Errors
/// Says what is wrong with it, where, and what to write instead.
pub fn parse(text: &str, overrides: &Overrides) -> Result<Config, Problem> {
    resolve::resolve(&config_file::parse(text, LEAST)?, overrides)
}

#[cfg(test)]
mod tests;
