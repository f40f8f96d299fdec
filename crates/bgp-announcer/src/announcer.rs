//! The task that owns the announcements and performs their outputs.

use std::{collections::BTreeMap, net::IpAddr, time::Instant};

use bgp_packet::{Asn, IpNet};
use bgp_session::Cease;
use bgp_speaker::{
    Change, ChangesEnded, Configuration, PathQuery, PeerStatus, SpeakerGone, SpeakerHandle, Table,
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
    announcements::{Announcements, AnnouncementsConfig, Input, Output, State},
    carried,
    error::AnnouncerError,
    grpc::node_route::NodeRoutes,
    log::Log,
    metrics::AnnouncerMetrics,
    readiness::Readiness,
};

/// How long a slow peer may delay the news about the others.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Inputs that are handled before what has become of them is shown, at most.
const BATCH: usize = 256;

/// How long peers may take to close their side at the end.
const CEASE_TIMEOUT: Duration = Duration::from_secs(1);

/// A service address as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// What has become of it.
    pub state: State,
    /// The same in words, with the cause.
    pub detail: String,
    /// Unspecified: this side's address of each session.
    pub next_hop: Option<IpAddr>,
    /// Names of the peers that it has been sent to.
    pub announced_to: Vec<String>,
}

/// What others may ask of the announcer; cheap to clone.
#[derive(Clone, Debug)]
pub struct AnnouncerHandle {
    commands: mpsc::Sender<Command>,
    /// The service addresses.
    pub announcements: Reader<IpNet, Announcement>,
    /// The sessions by the names of their peers.
    pub sessions: Reader<String, PeerStatus>,
    /// Whether a drain is under way or done.
    pub draining: watch::Receiver<bool>,
    /// AS of this side.
    pub local_asn: Asn,
    /// The speaker, for what changes too often to be published.
    pub speaker: SpeakerHandle,
}

#[derive(Debug)]
enum Command {
    Drain(oneshot::Sender<Vec<IpNet>>),
    Undrain(oneshot::Sender<()>),
}

/// The drain was reverted, or the process ended, before it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the drain was reverted, or the process ended, before it was done")]
pub struct DrainInterrupted;

impl AnnouncerHandle {
    /// Moves traffic away; returns the withdrawn prefixes once that is done.
    ///
    /// # Errors
    /// It was interrupted.
    pub async fn drain(&self) -> Result<Vec<IpNet>, DrainInterrupted> {
        self.ask(Command::Drain).await
    }

    /// Lets traffic come again.
    ///
    /// # Errors
    /// The process is about to end.
    pub async fn undrain(&self) -> Result<(), DrainInterrupted> {
        self.ask(Command::Undrain).await
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, DrainInterrupted> {
        let (reply, answer) = oneshot::channel();
        let sent = self.commands.send(command(reply)).await;
        sent.map_err(|_| DrainInterrupted)?;
        answer.await.map_err(|_| DrainInterrupted)
    }
}

/// The owner of the announcements.
#[derive(Debug)]
pub struct Announcer {
    announcements: Announcements,
    peers: Option<Configuration>,
    speaker: SpeakerHandle,
    node_routes: NodeRoutes,
    metrics: AnnouncerMetrics,
    readiness: Readiness,
    log: Log,
    commands: mpsc::Receiver<Command>,
    published: Publisher<IpNet, Announcement>,
    sessions: Publisher<String, PeerStatus>,
    draining: watch::Sender<bool>,
    waiting_for_drain: Vec<oneshot::Sender<Vec<IpNet>>>,
    /// Which peers have been sent which prefix.
    announced_to: BTreeMap<IpNet, Vec<String>>,
    /// Whether `announced_to` may be out of date.
    is_sent_changed: bool,
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
        readiness: Readiness,
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
            log: Log::default(),
            commands,
            published,
            sessions,
            draining,
            waiting_for_drain: Vec::new(),
            announced_to: BTreeMap::new(),
            is_sent_changed: false,
            is_stopped: false,
        };
        (announcer, handle)
    }

    /// Announces until a drain is requested and done.
    pub(crate) async fn run(
        mut self,
        data_plane: impl Stream<Item = Input>,
        shutdown: Shutdown,
    ) -> Result<(), AnnouncerError> {
        // Marks the table synced although it is empty, so that watchers are not blocked by a missing
        // data plane.
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
            if sent.is_none() && std::mem::take(&mut self.is_sent_changed) {
                sent = Some(Box::pin(sent_prefixes(self.speaker.clone())));
            }
            let deadline = self.announcements.next_deadline().map(Into::into);
            tokio::select! {
                Some(input) = data_plane.next() => {
                    self.handle(input).await?;
                    // What has come together is shown together.
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
                    Err(ChangesEnded::SpeakerGone(gone)) => return Err(gone.into()),
                    Err(ChangesEnded::Lagging) => changes = self.speaker.changes(false).await?,
                },
                Some(prefixes) = OptionFuture::from(sent.as_mut()) => {
                    sent = None;
                    self.announced_to = prefixes?;
                }
                () = &mut stopping, if !is_stopping => {
                    is_stopping = true;
                    self.handle(Input::Stop).await?;
                }
                () = wait_until(deadline) => {
                    if deadline.is_some_and(has_slept)
                        && let Ok(Some(input)) = timeout(TIME_AFTER_SLEEP, data_plane.next()).await
                    {
                        // This process slept: what the data plane said meanwhile counts first.
                        self.handle(input).await?;
                    }
                    self.handle(Input::DeadlineReached).await?;
                }
            }
        }
        self.publish();
        let text = "bgp-announcer was told to end; its service addresses are withdrawn".to_owned();
        let cease = Cease::AdministrativeShutdown { text };
        self.speaker.shutdown(cease, CEASE_TIMEOUT).await?;
        Ok(())
    }

    async fn command(&mut self, command: Command) -> Result<(), AnnouncerError> {
        match command {
            Command::Drain(reply) => {
                self.waiting_for_drain.push(reply);
                let was_draining = self.announcements.is_draining();
                self.handle(Input::Drain).await?;
                if was_draining && self.announcements.is_drained() {
                    self.drained();
                }
            }
            Command::Undrain(reply) => {
                self.handle(Input::Undrain).await?;
                if !self.announcements.is_draining() {
                    tracing::info!("undrained");
                    self.waiting_for_drain.clear();
                    // A caller that has gone needs no answer.
                    let _ = reply.send(());
                }
            }
        }
        Ok(())
    }

    async fn handle(&mut self, input: Input) -> Result<(), AnnouncerError> {
        if matches!(input, Input::DataPlaneLost(_)) {
            self.metrics.data_plane_lost.inc();
        }
        if matches!(input, Input::NodeRouteLost { .. }) {
            self.metrics.node_route_lost.inc();
        }
        self.log.input(&input, &self.announcements);
        for output in self.announcements.handle(input, Instant::now()) {
            self.perform(output).await?;
        }
        Ok(())
    }

    async fn perform(&mut self, output: Output) -> Result<(), AnnouncerError> {
        match output {
            Output::Hold { prefix, gateway } => {
                tracing::debug!(%prefix, %gateway, "node route asked for");
                self.node_routes.hold(prefix, gateway);
            }
            Output::Release(prefix) => {
                tracing::debug!(%prefix, "node route released");
                self.node_routes.release(prefix);
            }
            Output::Announce(prefix, attributes) => {
                tracing::debug!(
                    %prefix,
                    next_hop = %attributes.next_hop,
                    local_pref = attributes.local_pref,
                    "announcement handed to the BGP sessions"
                );
                self.metrics.announced.inc();
                self.speaker
                    .originate(prefix, attributes)
                    .await?
                    .expect("next hops are set by family");
                self.is_sent_changed = true;
            }
            Output::Withdraw(prefix) => {
                tracing::info!(%prefix, "withdrawn");
                self.metrics.withdrawn.inc();
                self.speaker.withdraw(prefix).await?;
                self.is_sent_changed = true;
            }
            Output::Drained => {
                tracing::info!("drained");
                self.drained();
            }
            Output::Stopped => self.is_stopped = true,
        }
        Ok(())
    }

    fn drained(&mut self) {
        for reply in self.waiting_for_drain.drain(..) {
            // A caller that has gone needs no answer.
            let _ = reply.send(self.announcements.withdrawn_by_drain().to_vec());
        }
    }

    async fn sessions_changed(&mut self, changes: Vec<Change>) -> Result<(), AnnouncerError> {
        self.is_sent_changed = true;
        for change in changes {
            match change {
                Change::Peer(peer) => {
                    if !peer.is_established() {
                        self.forget_sent(&peer.name);
                    }
                    self.sessions.set(peer.name.clone(), *peer);
                }
                Change::PeerRemoved(name) => {
                    self.forget_sent(&name);
                    self.sessions.remove(&name);
                }
                Change::Synced => self.sessions.synced(),
                Change::Path(_) | Change::PathRemoved(_) => {}
            }
        }
        let is_established = self.peers().iter().any(PeerStatus::is_established);
        self.handle(Input::SessionsEstablished(is_established))
            .await
    }

    /// The peer holds nothing of a session that has ended.
    fn forget_sent(&mut self, name: &str) {
        for peers in self.announced_to.values_mut() {
            peers.retain(|peer| peer != name);
        }
    }

    fn peers(&self) -> Vec<PeerStatus> {
        let snapshot = self.sessions.reader().snapshot();
        snapshot.objects.into_iter().map(|(_, peer)| peer).collect()
    }

    /// Shows what there is to see.
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
            let shown = carried::published(prefix, planned.clone(), sent, communities, &sessions);
            announcements.insert(*prefix, shown);
        }
        self.log.announcements(&announcements, |prefix, shown| {
            carried::is_impossible(prefix, shown.next_hop, communities, &sessions)
        });
        self.metrics
            .show(&announcements, self.announcements.flapping(), &sessions);
        self.readiness
            .show(&self.announcements, &planned, &announcements, &sessions);
        self.published.replace_all(announcements);
        let is_draining = self.announcements.is_draining();
        self.draining
            .send_if_modified(|draining| std::mem::replace(draining, is_draining) != is_draining);
    }
}

type SentPrefixes = Result<BTreeMap<IpNet, Vec<String>>, SpeakerGone>;

/// Who has been sent what, once what is pending has been written.
async fn sent_prefixes(speaker: SpeakerHandle) -> SentPrefixes {
    let revision = speaker.barrier().await?;
    if let Ok(flushed) = timeout(FLUSH_TIMEOUT, speaker.flushed(revision)).await {
        flushed?;
    }
    let mut sent: BTreeMap<IpNet, Vec<String>> = BTreeMap::new();
    for peer in speaker.peers().await? {
        let paths = speaker.paths(PathQuery::all(Table::AdjRibOut(peer.name.clone())));
        for path in paths.await? {
            sent.entry(path.prefix).or_default().push(peer.name.clone());
        }
    }
    Ok(sent)
}
