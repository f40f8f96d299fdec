//! Owner task of the running configuration.
//!
//! The task reloads the configuration file and configures the BGP speaker.

use std::{path::PathBuf, sync::Arc};

use bgp_speaker::{SpeakerConfig, SpeakerEnded, SpeakerHandle};
use daemon_runtime::{
    Counter, Metrics, ReadinessStep, Shutdown,
    config_file::{self, FileWatcher},
    error_chain,
};
use tokio::{signal::unix::Signal, sync::watch};

use crate::config::{self, Config, Overrides};

/// The running configuration, and the error of the file if its newest content was rejected.
#[derive(Clone, Debug)]
pub(crate) struct RunningConfiguration {
    pub(crate) config: Arc<Config>,
    pub(crate) file: PathBuf,
    /// The error of the newest content of the file. Empty: the newest content is the running
    /// configuration.
    pub(crate) last_error: String,
}

/// The events that make the owner read the file again or stop.
#[derive(Debug)]
pub(crate) struct ReloadTriggers {
    pub(crate) watcher: FileWatcher,
    pub(crate) hangup: Signal,
    pub(crate) shutdown: Shutdown,
}

#[derive(Debug)]
pub(crate) struct ConfigurationReloader {
    speaker: SpeakerHandle,
    overrides: Overrides,
    running: watch::Sender<RunningConfiguration>,
    step: ReadinessStep,
    reads: Counter,
    reloads: Counter,
    failed_reloads: Counter,
}

impl ConfigurationReloader {
    /// Creates the owner. `overrides` replace values of the file at each reload.
    pub(crate) fn new(
        speaker: SpeakerHandle,
        overrides: Overrides,
        running: watch::Sender<RunningConfiguration>,
        step: ReadinessStep,
        metrics: &Metrics,
    ) -> Self {
        step.ready("");
        Self {
            speaker,
            overrides,
            running,
            step,
            reads: metrics.create(
                "reflector_configuration_reads",
                "Readings of the configuration file since the start of the daemon",
            ),
            reloads: metrics.create(
                "reflector_configuration_reloads",
                "Changes of the configuration file that became the running configuration",
            ),
            failed_reloads: metrics.create(
                "reflector_configuration_reload_failures",
                "Changes of the configuration file that were rejected",
            ),
        }
    }

    /// Reloads the file at the start, after each change of the file and at SIGHUP, until a shutdown
    /// is requested.
    pub(crate) async fn run(self, mut triggers: ReloadTriggers) -> Result<(), SpeakerEnded> {
        // The first pass reloads the file without an event, because the file can have changed
        // between the reading before the start and the start of the watch.
        let mut by_sighup = false;
        loop {
            match self.reload(by_sighup).await {
                Err(SpeakerEnded) if triggers.shutdown.is_requested() => return Ok(()),
                result => result?,
            }
            by_sighup = tokio::select! {
                () = triggers.watcher.changed() => false,
                Some(()) = triggers.hangup.recv() => true,
                () = triggers.shutdown.drain_requested() => return Ok(()),
            };
        }
    }

    async fn reload(&self, by_sighup: bool) -> Result<(), SpeakerEnded> {
        let (before, file) = {
            let running = self.running.borrow();
            (running.config.clone(), running.file.clone())
        };
        self.reads.inc();
        let (path, overrides) = (file.clone(), self.overrides.clone());
        let loaded = config_file::off_thread(move || config::load(&path, &overrides)).await;
        let loaded = loaded
            .map_err(|error| error_chain(&error))
            .and_then(|config| check_changeable(&before.speaker, &config.speaker).map(|()| config));
        match loaded {
            Err(problem) => self.record_rejection(problem),
            Ok(config) if config == *before => {
                if by_sighup {
                    tracing::info!(file = %file.display(), "read the configuration file again at SIGHUP; the configuration has not changed");
                }
                self.record_success(before);
            }
            Ok(config) => match self.speaker.configure(config.peers.clone()).await? {
                Err(problem) => self.record_rejection(problem.to_string()),
                Ok(()) => {
                    tracing::info!(
                        file = %file.display(),
                        peers = config.peers.peers.len(),
                        groups = config.peers.groups.len(),
                        "reloaded the configuration file; running the changed configuration"
                    );
                    self.reloads.inc();
                    self.record_success(Arc::new(config));
                }
            },
        }
        Ok(())
    }

    fn record_success(&self, config: Arc<Config>) {
        self.step.ready("");
        self.running.send_modify(|running| {
            running.config = config;
            running.last_error.clear();
        });
    }

    /// Records a rejected file. Logs and counts the rejection only if `problem` differs from the
    /// last error.
    fn record_rejection(&self, problem: String) {
        if self.running.borrow().last_error == problem {
            return;
        }
        tracing::error!(
            error = problem,
            "configuration file rejected; keeping the running configuration"
        );
        self.failed_reloads.inc();
        self.step
            .ready(format!("configuration file rejected: {problem}"));
        self.running
            .send_modify(|running| running.last_error = problem);
    }
}

/// Rejects changes that a running speaker cannot make: a changed AS number, router id, cluster id
/// or listen address.
fn check_changeable(before: &SpeakerConfig, after: &SpeakerConfig) -> Result<(), String> {
    let fields = [
        (
            "asn",
            before.local_asn.to_string(),
            after.local_asn.to_string(),
        ),
        (
            "routerId",
            before.router_id.to_string(),
            after.router_id.to_string(),
        ),
        (
            "clusterId",
            before.cluster_id.to_string(),
            after.cluster_id.to_string(),
        ),
        (
            "listen",
            format!("{:?}", before.listen),
            format!("{:?}", after.listen),
        ),
    ];
    match fields
        .into_iter()
        .find(|(_, before, after)| before != after)
    {
        None => Ok(()),
        Some((field, before, after)) => Err(format!(
            "{field}: cannot change from {before} to {after} while the reflector runs; restart \
             the reflector"
        )),
    }
}
