//! Configuration of the reflector. The error of an invalid value has the place of the value in the
//! configuration file. Reference: `docs/reference/route-reflector.md`.

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
    config_file::{self, FileError, FileProblem},
    error_chain,
};

use crate::args::Args;

const MINIMAL_DOCUMENT: &str =
    "apiVersion: portlb.io/v1, kind: RouteReflector, asn and routerId, a line each";

/// A valid configuration with all defaults resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Identity and listen addresses of the BGP speaker, which cannot change while the process
    /// runs.
    pub speaker: SpeakerConfig,
    /// Peers and peer groups, which can change at each reload. A group without prefixes is used
    /// only by the peers that name the group.
    pub peers: Configuration,
}

/// The start settings of the daemon, from the flags and the file.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The configuration of the file, with `overrides` applied.
    pub config: Config,
    /// Path of the configuration file.
    pub file: PathBuf,
    /// Values of flags that override values of the file at each reading.
    pub overrides: Overrides,
    pub grpc_listen: ListenAddress,
    /// Time after the start in which the reflector is ready only after every router has had an
    /// established session.
    pub router_timeout: Duration,
    /// Text in the Cease message of a shutdown (RFC 9003).
    pub shutdown_text: String,
    /// Longest time for which a shutdown waits until the peers have closed their connections.
    pub shutdown_deadline: Duration,
}

/// Values of flags that override values of the configuration file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// Listen addresses of the flag `--listen`. Empty: `listen` of the file is used.
    pub listen: Vec<SocketAddr>,
    /// Router id of the flag `--router-id`. `None`: `routerId` of the file is used, and the file
    /// must have this field.
    pub router_id: Option<RouterId>,
}

impl Settings {
    /// Reads the configuration file and the key files that it names. Opens no socket.
    ///
    /// # Errors
    /// Returns an error with the invalid value, its place in the file and a suggestion.
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
            let suggestion = match &error {
                FileError::Read { .. } => {
                    "; give a readable file with --config, see docs/reference/route-reflector.md"
                }
                FileError::Content { .. } => "",
            };
            ConfigError(format!("{}{suggestion}", error_chain(&error)))
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

/// Reads a configuration file and the key files that it names.
///
/// # Errors
/// Returns an error with the invalid value, its place in the file and a suggestion.
pub fn load(path: &Path, overrides: &Overrides) -> Result<Config, FileError> {
    let text = config_file::read(path)?;
    parse(&text, overrides).map_err(|problem| FileError::Content {
        path: path.to_owned(),
        problems: vec![problem],
    })
}

/// Parses the text of a configuration file. Reads the key files that the text names.
///
/// # Errors
/// Returns an error with the invalid value, its place in the text and a suggestion.
pub fn parse(text: &str, overrides: &Overrides) -> Result<Config, FileProblem> {
    resolve::resolve(&config_file::parse(text, MINIMAL_DOCUMENT)?, overrides)
}

#[cfg(test)]
mod tests;
