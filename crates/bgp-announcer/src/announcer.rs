//! Owner task of the announcements: feeds their state machine and carries out its outputs.

use std::{collections::BTreeMap, net::IpAddr, time::Instant};

use bgp_packet::{Asn, IpNet};
use bgp_session::Cease;
use bgp_speaker::{
    ChangesEnded, Configuration, PathQuery, PathTable, PeerStatus, SpeakerChange, SpeakerEnded,
    SpeakerHandle,
};
use daemon_runtime::{Publisher, Reader, Shutdown, TIME_AFTER_SLEEP, has_slept, wait_until};
use futures::{
    FutureExt, Stream, StreamExt,
    future::{BoxFuture, OptionFuture},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Duration, timeout},
};

use crate::{
    announcements::{
        AddressState, AnnouncementInput, AnnouncementOutput, Announcements, AnnouncementsConfig,
    },
    carried,
    error::AnnouncerError,
    grpc::node_route::NodeRoutes,
    log::AnnouncerLog,
    metrics::AnnouncerMetrics,
    readiness::AnnouncerReadiness,
};

/// Longest time for which a slow peer delays the update of [`AnnouncementStatus::announced_to`] of
/// all announcements.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Largest number of further inputs of the data plane that are handled after an input of the data
/// plane, before the results are published.
const BATCH: usize = 256;

/// Time for peers to close their connections after Cease.
const CEASE_TIMEOUT: Duration = Duration::from_secs(1);

/// The published status of a service address: the decision, and the sessions that carry it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnnouncementStatus {
    pub state: AddressState,
    /// Explains the state to an operator. Can be empty.
    pub detail: String,
    /// The next hop with which the address is or would be announced. Unspecified address: the local
    /// address of each session. `None`: the address is refused.
    pub next_hop: Option<IpAddr>,
    /// Names of the peers whose established sessions carry the address.
    pub announced_to: Vec<String>,
}

/// A handle with which other tasks read the announcer's state and send it commands. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AnnouncerHandle {
    commands: mpsc::Sender<AnnouncerCommand>,
    pub announcements: Reader<IpNet, AnnouncementStatus>,
    /// The sessions, keyed by the name of the peer.
    pub sessions: Reader<String, PeerStatus>,
    /// Whether a drain is in progress or done.
    pub draining: watch::Receiver<bool>,
    pub local_asn: Asn,
    /// Gives access to values that change too often to be published, such as the counters of
    /// sessions.
    pub speaker: SpeakerHandle,
}

#[derive(Debug)]
enum AnnouncerCommand {
    Drain(oneshot::Sender<Vec<IpNet>>),
    Undrain(oneshot::Sender<()>),
}

/// The error of a command: the drain was reverted, or the process exited, before the command was
/// done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the drain was reverted, or the process exited, before the drain was done")]
pub struct DrainInterrupted;

impl AnnouncerHandle {
    /// Drains this load balancer. Returns the withdrawn prefixes when the drain is done.
    ///
    /// # Errors
    /// Returns an error if the drain was reverted or the process exits.
    pub async fn drain(&self) -> Result<Vec<IpNet>, DrainInterrupted> {
        self.ask(AnnouncerCommand::Drain).await
    }

    /// Reverts a drain.
    ///
    /// # Errors
    /// Returns an error if the process is shutting down.
    pub async fn undrain(&self) -> Result<(), DrainInterrupted> {
        self.ask(AnnouncerCommand::Undrain).await
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> AnnouncerCommand,
    ) -> Result<T, DrainInterrupted> {
        let (reply, answer) = oneshot::channel();
        let sent = self.commands.send(command(reply)).await;
        sent.map_err(|_| DrainInterrupted)?;
        answer.await.map_err(|_| DrainInterrupted)
    }
}

/// The owner of the announcements: it feeds inputs to the state machine and performs the outputs.
#[derive(Debug)]
pub struct Announcer {
    announcements: Announcements,
    peers: Option<Configuration>,
    speaker: SpeakerHandle,
    node_routes: NodeRoutes,
    metrics: AnnouncerMetrics,
    readiness: AnnouncerReadiness,
    log: AnnouncerLog,
    commands: mpsc::Receiver<AnnouncerCommand>,
    published: Publisher<IpNet, AnnouncementStatus>,
    sessions: Publisher<String, PeerStatus>,
    draining: watch::Sender<bool>,
    waiting_for_drain: Vec<oneshot::Sender<Vec<IpNet>>>,
    /// Names of the peers to which each prefix has been sent.
    announced_to: BTreeMap<IpNet, Vec<String>>,
    /// Whether a path has possibly been sent or withdrawn since `announced_to` was read.
    sent_may_have_changed: bool,
    is_stopped: bool,
}

impl Announcer {
    pub(crate) fn new(
        config: AnnouncementsConfig,
        peers: Configuration,
        local_asn: Asn,
        speaker: SpeakerHandle,
        node_routes: NodeRoutes,
        metrics: AnnouncerMetrics,
        readiness: AnnouncerReadiness,
    ) -> (Self, AnnouncerHandle) {
        let (command_sender, commands) = mpsc::channel(16);
        let draining = watch::Sender::new(false);
        let (published, sessions) = (Publisher::new(), Publisher::new());
        let handle = AnnouncerHandle {
            commands: command_sender,
            announcements: published.reader(),
            sessions: sessions.reader(),
            draining: draining.subscribe(),
            local_asn,
            speaker: speaker.clone(),
        };
        let announcer = Self {
            announcements: Announcements::new(config, Instant::now()),
            peers: Some(peers),
            speaker,
            node_routes,
            metrics,
            readiness,
            log: AnnouncerLog::default(),
            commands,
            published,
            sessions,
            draining,
            waiting_for_drain: Vec::new(),
            announced_to: BTreeMap::new(),
            sent_may_have_changed: false,
            is_stopped: false,
        };
        (announcer, handle)
    }

    /// Runs until a signal has requested a drain and this drain is done.
    pub(crate) async fn run(
        mut self,
        data_plane: impl Stream<Item = AnnouncementInput>,
        shutdown: Shutdown,
    ) -> Result<(), AnnouncerError> {
        // Marks the published announcements synced although there are none yet, so that a missing
        // data plane does not block watchers.
        self.published.synced();
        let mut changes = self.speaker.changes(false).await?;
        if let Some(peers) = self.peers.take() {
            self.speaker.configure(peers).await??;
        }
        let data_plane = data_plane.fuse();
        tokio::pin!(data_plane);
        let stopping = shutdown.drain_requested();
        tokio::pin!(stopping);
        let mut sent: Option<BoxFuture<'static, SentPrefixes>> = None;
        let mut is_stopping = false;
        while !self.is_stopped {
            self.publish();
            if sent.is_none() && std::mem::take(&mut self.sent_may_have_changed) {
                sent = Some(Box::pin(sent_prefixes(self.speaker.clone())));
            }
            let deadline = self.announcements.next_deadline().map(Into::into);
            tokio::select! {
                Some(input) = data_plane.next() => {
                    self.handle(input).await?;
                    // Further inputs that are ready are handled before the next publication, which
                    // costs as much for many inputs as for one.
                    for _ in 0..BATCH {
                        match data_plane.next().now_or_never() {
                            Some(Some(input)) => self.handle(input).await?,
                            Some(None) | None => break,
                        }
                    }
                }
                input = self.node_routes.next() => self.handle(input).await?,
                Some(command) = self.commands.recv() => self.command(command).await?,
                batch = changes.next() => match batch {
                    Ok(batch) => self.sessions_changed(batch).await?,
                    Err(ChangesEnded::SpeakerEnded(stopped)) => return Err(stopped.into()),
                    Err(ChangesEnded::Lagging) => changes = self.speaker.changes(false).await?,
                },
                Some(prefixes) = OptionFuture::from(sent.as_mut()) => {
                    sent = None;
                    self.announced_to = prefixes?;
                }
                () = &mut stopping, if !is_stopping => {
                    is_stopping = true;
                    self.handle(AnnouncementInput::Stop).await?;
                }
                () = wait_until(deadline) => {
                    if deadline.is_some_and(has_slept)
                        && let Ok(Some(input)) = timeout(TIME_AFTER_SLEEP, data_plane.next()).await
                    {
                        // The machine was suspended. An input of the data plane is handled before
                        // the deadline, so that the time of the suspension does not count as
                        // silence of the data plane.
                        self.handle(input).await?;
                    }
                    self.handle(AnnouncementInput::DeadlineReached).await?;
                }
            }
        }
        self.publish();
        let text = "bgp-announcer is shutting down; its service addresses are withdrawn".to_owned();
        let cease = Cease::AdministrativeShutdown { text };
        self.speaker.shutdown(cease, CEASE_TIMEOUT).await?;
        Ok(())
    }

    async fn command(&mut self, command: AnnouncerCommand) -> Result<(), AnnouncerError> {
        match command {
            AnnouncerCommand::Drain(reply) => {
                self.waiting_for_drain.push(reply);
                let was_draining = self.announcements.is_draining();
                self.handle(AnnouncementInput::Drain).await?;
                if was_draining && self.announcements.is_drained() {
                    self.answer_drain_requests();
                }
            }
            AnnouncerCommand::Undrain(reply) => {
                self.handle(AnnouncementInput::Undrain).await?;
                if !self.announcements.is_draining() {
                    tracing::info!("drain reverted; announcing service addresses again");
                    self.waiting_for_drain.clear();
                    // The send fails if the caller has disconnected. Such a caller needs no answer.
                    let _ = reply.send(());
                }
            }
        }
        Ok(())
    }

    async fn handle(&mut self, input: AnnouncementInput) -> Result<(), AnnouncerError> {
        if matches!(input, AnnouncementInput::DataPlaneLost(_)) {
            self.metrics.data_plane_lost.inc();
        }
        if matches!(input, AnnouncementInput::NodeRouteLost { .. }) {
            self.metrics.node_route_lost.inc();
        }
        self.log.input(&input, &self.announcements);
        for output in self.announcements.handle(input, Instant::now()) {
            self.perform(output).await?;
        }
        Ok(())
    }

    async fn perform(&mut self, output: AnnouncementOutput) -> Result<(), AnnouncerError> {
        match output {
            AnnouncementOutput::Hold { prefix, gateway } => {
                tracing::debug!(%prefix, %gateway, "requested a node route");
                self.node_routes.hold(prefix, gateway);
            }
            AnnouncementOutput::Release(prefix) => {
                tracing::debug!(%prefix, "released a node route");
                self.node_routes.release(prefix);
            }
            AnnouncementOutput::Announce(prefix, attributes) => {
                tracing::debug!(
                    %prefix,
                    next_hop = %attributes.next_hop,
                    local_pref = attributes.local_pref,
                    "handed an announcement to the BGP sessions"
                );
                self.metrics.announced.inc();
                self.speaker
                    .originate(prefix, attributes)
                    .await?
                    .expect("the next hop has the address family of the prefix");
                self.sent_may_have_changed = true;
            }
            AnnouncementOutput::Withdraw(prefix) => {
                tracing::info!(%prefix, "withdrew the service address");
                self.metrics.withdrawn.inc();
                self.speaker.withdraw(prefix).await?;
                self.sent_may_have_changed = true;
            }
            AnnouncementOutput::Drained => {
                tracing::info!("drained; all service addresses are withdrawn");
                self.answer_drain_requests();
            }
            AnnouncementOutput::Stopped => self.is_stopped = true,
        }
        Ok(())
    }

    fn answer_drain_requests(&mut self) {
        for reply in self.waiting_for_drain.drain(..) {
            // The send fails if the caller has disconnected. Such a caller needs no answer.
            let _ = reply.send(self.announcements.withdrawn_by_drain().to_vec());
        }
    }

    async fn sessions_changed(
        &mut self,
        changes: Vec<SpeakerChange>,
    ) -> Result<(), AnnouncerError> {
        self.sent_may_have_changed = true;
        for change in changes {
            match change {
                SpeakerChange::Peer(peer) => {
                    if !peer.is_established() {
                        self.forget_sent(&peer.name);
                    }
                    self.sessions.set(peer.name.clone(), *peer);
                }
                SpeakerChange::PeerRemoved(name) => {
                    self.forget_sent(&name);
                    self.sessions.remove(&name);
                }
                SpeakerChange::Synced => self.sessions.synced(),
                SpeakerChange::Path(_) | SpeakerChange::PathRemoved(_) => {}
            }
        }
        let is_established = self.peers().iter().any(PeerStatus::is_established);
        self.handle(AnnouncementInput::SessionsEstablished(is_established))
            .await
    }

    /// Removes the peer from the lists of peers that have received a prefix: a peer removes all
    /// paths of a session that has ended.
    fn forget_sent(&mut self, name: &str) {
        for peers in self.announced_to.values_mut() {
            peers.retain(|peer| peer != name);
        }
    }

    fn peers(&self) -> Vec<PeerStatus> {
        let snapshot = self.sessions.reader().snapshot();
        snapshot.objects.into_iter().map(|(_, peer)| peer).collect()
    }

    /// Publishes the current state to watchers, the log, the metrics and `/readyz`.
    fn publish(&mut self) {
        let sessions = self.peers();
        let is_established = |name: &String| {
            sessions
                .iter()
                .any(|peer| peer.name == *name && peer.is_established())
        };
        let communities = self.announcements.communities();
        let planned: BTreeMap<IpNet, _> = self.announcements.list().collect();
        let mut announcements = BTreeMap::new();
        for (prefix, planned) in &planned {
            let sent = self.announced_to.get(prefix).cloned().unwrap_or_default();
            let sent = sent.into_iter().filter(is_established).collect();
            let shown =
                carried::announcement_status(prefix, planned.clone(), sent, communities, &sessions);
            announcements.insert(*prefix, shown);
        }
        self.log.announcements(&announcements, |prefix, shown| {
            carried::no_session_can_carry(prefix, shown.next_hop, communities, &sessions)
        });
        self.metrics
            .update(&announcements, self.announcements.flapping(), &sessions);
        self.readiness
            .update(&self.announcements, &planned, &announcements, &sessions);
        self.published.replace_all(announcements);
        let is_draining = self.announcements.is_draining();
        self.draining
            .send_if_modified(|draining| std::mem::replace(draining, is_draining) != is_draining);
    }
}

type SentPrefixes = Result<BTreeMap<IpNet, Vec<String>>, SpeakerEnded>;

/// Returns the names of the peers to which each prefix has been sent. Waits first, up to
/// [`FLUSH_TIMEOUT`], until pending UPDATE messages are written.
async fn sent_prefixes(speaker: SpeakerHandle) -> SentPrefixes {
    let revision = speaker.barrier().await?;
    if let Ok(flushed) = timeout(FLUSH_TIMEOUT, speaker.flushed(revision)).await {
        flushed?;
    }
    let mut sent: BTreeMap<IpNet, Vec<String>> = BTreeMap::new();
    for peer in speaker.peers().await? {
        let paths = speaker.paths(PathQuery::all(PathTable::AdjRibOut(peer.name.clone())));
        for path in paths.await? {
            sent.entry(path.prefix).or_default().push(peer.name.clone());
        }
    }
    Ok(sent)
}
