//! What the flags of a data plane mean.

use std::time::Duration;

use daemon_runtime::{ConfigError, ListenAddress, Target};

const SHORTEST_AUDIT_INTERVAL: Duration = Duration::from_secs(1);
const LONGEST_AUDIT_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);
const LONGEST_LINGER: Duration = Duration::from_secs(60 * 60);

/// The configuration, resolved and validated.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the desired set is served.
    pub discovery: Target,
    /// How often the table is read back.
    pub audit_interval: Duration,
    /// How long to go on after a termination signal while somebody watches.
    pub linger: Duration,
    /// Where DataPlane is served.
    pub grpc_listen: ListenAddress,
}

impl Config {
    /// Validates the values of the flags.
    ///
    /// # Errors
    /// Names the flag, its value, what is allowed and what to do.
    pub fn validated(self) -> Result<Self, ConfigError> {
        let allowed = SHORTEST_AUDIT_INTERVAL..=LONGEST_AUDIT_INTERVAL;
        if !allowed.contains(&self.audit_interval) {
            return Err(ConfigError(format!(
                "--audit-interval {:?} is not within 1s and 24h; the default, 30s, suits most",
                self.audit_interval
            )));
        }
        if self.linger > LONGEST_LINGER {
            return Err(ConfigError(format!(
                "--linger {:?} is longer than 1h; give it what the announcer's drain takes, such \
                 as 20s",
                self.linger
            )));
        }
        Ok(self)
    }
}
