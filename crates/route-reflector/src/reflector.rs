//! The owner of the configuration in force: reads the file again, tells the speaker what changed.

use std::{path::PathBuf, sync::Arc};

use bgp_speaker::{SpeakerConfig, SpeakerGone, SpeakerHandle};
use daemon_runtime::{
    Counter, Metrics, Shutdown, Step,
    config_file::{self, FileWatcher},
    in_words,
};
use tokio::{signal::unix::Signal, sync::watch};

use crate::config::{self, Config, Overrides};

/// What is in force, and why the file's newest state is not.
#[derive(Clone, Debug)]
pub(crate) struct InForce {
    pub(crate) config: Arc<Config>,
    pub(crate) file: PathBuf,
    /// Empty: the file is in force.
    pub(crate) last_error: String,
}

/// What makes the owner look at the file again.
#[derive(Debug)]
pub(crate) struct Triggers {
    pub(crate) watcher: FileWatcher,
    pub(crate) hangup: Signal,
    pub(crate) shutdown: Shutdown,
}

#[derive(Debug)]
pub(crate) struct Reflector {
    speaker: SpeakerHandle,
    overrides: Overrides,
    in_force: watch::Sender<InForce>,
    step: Step,
    reads: Counter,
    reloads: Counter,
    failed_reloads: Counter,
}

impl Reflector {
    /// `overrides` take the place of what the file says.
    pub(crate) fn new(
        speaker: SpeakerHandle,
        overrides: Overrides,
        in_force: watch::Sender<InForce>,
        step: Step,
        metrics: &Metrics,
    ) -> Self {
        step.ready("");
        Self {
            speaker,
            overrides,
            in_force,
            step,
            reads: metrics.create(
                "reflector_configuration_reads",
                "How often the configuration file was read since the start",
            ),
            reloads: metrics.create(
                "reflector_configuration_reloads",
                "Changes of the configuration file that were put in force",
            ),
            failed_reloads: metrics.create(
                "reflector_configuration_reload_failures",
                "States of the configuration file that could not be put in force",
            ),
        }
    }

    /// Follows the file until a shutdown is requested.
    pub(crate) async fn run(self, mut triggers: Triggers) -> Result<(), SpeakerGone> {
        // The file may have changed between its first reading and the beginning of the watch.
        let mut is_asked = false;
        loop {
            match self.reload(is_asked).await {
                Err(SpeakerGone) if triggers.shutdown.is_requested() => return Ok(()),
                result => result?,
            }
            is_asked = tokio::select! {
                () = triggers.watcher.changed() => false,
                Some(()) = triggers.hangup.recv() => true,
                () = triggers.shutdown.drain_requested() => return Ok(()),
            };
        }
    }

    async fn reload(&self, is_asked: bool) -> Result<(), SpeakerGone> {
        let (before, file) = {
            let in_force = self.in_force.borrow();
            (in_force.config.clone(), in_force.file.clone())
        };
        self.reads.inc();
        let (path, overrides) = (file.clone(), self.overrides.clone());
        let loaded = config_file::off_thread(move || config::load(&path, &overrides)).await;
        let loaded = loaded
            .map_err(|error| in_words(&error))
            .and_then(|config| check_changeable(&before.speaker, &config.speaker).map(|()| config));
        match loaded {
            Err(problem) => self.keep(problem),
            Ok(config) if config == *before => {
                if is_asked {
                    tracing::info!(file = %file.display(), "the configuration has not changed");
                }
                self.accept(before);
            }
            Ok(config) => match self.speaker.configure(config.peers.clone()).await? {
                Err(problem) => self.keep(problem.to_string()),
                Ok(()) => {
                    tracing::info!(
                        file = %file.display(),
                        peers = config.peers.peers.len(),
                        groups = config.peers.groups.len(),
                        "the changed configuration is in force"
                    );
                    self.reloads.inc();
                    self.accept(Arc::new(config));
                }
            },
        }
        Ok(())
    }

    fn accept(&self, config: Arc<Config>) {
        self.step.ready("");
        self.in_force.send_modify(|in_force| {
            in_force.config = config;
            in_force.last_error.clear();
        });
    }

    /// One error, however often the same state of the file is seen.
    fn keep(&self, problem: String) {
        if self.in_force.borrow().last_error == problem {
            return;
        }
        tracing::error!(error = problem, "the configuration in force stays");
        self.failed_reloads.inc();
        self.step
            .ready(format!("the file is not in force: {problem}"));
        self.in_force
            .send_modify(|in_force| in_force.last_error = problem);
    }
}

/// What a running speaker cannot change: its sockets, and what it told its peers in its OPEN.
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
            "{field}: cannot change from {before} to {after} while the reflector runs; restart it"
        )),
    }
}
