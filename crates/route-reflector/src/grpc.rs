//! Server of the RouteReflectorService contract.
//!
//! Only this module and its submodule use the generated messages of the contract.

mod translate;

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bgp_packet::Asn;
use bgp_speaker::{
    ChangesEnded, PathQuery, SpeakerChange, SpeakerChanges, SpeakerEnded, SpeakerHandle,
};
use bgp_status::SessionPage;
use daemon_api::{
    PageRequest,
    reflector::v1::{
        GetConfigurationRequest, GetConfigurationResponse, ListPathsRequest, ListPathsResponse,
        ListSessionsRequest, ListSessionsResponse, Synced, Table, WatchPathsRequest,
        WatchPathsResponse, WatchSessionsRequest, WatchSessionsResponse,
        route_reflector_service_server::RouteReflectorService as Contract, watch_paths_response,
        watch_sessions_response,
    },
};
use futures::{Stream, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tonic::{Request, Response, Status};

use crate::reflector::RunningConfiguration;

/// Largest number of open watches of sessions and of paths together. A watch of paths begins with a
/// list of all paths, so watches cost memory.
const MAX_WATCHES: usize = 32;

#[derive(Debug)]
pub(crate) struct ReflectorGrpc {
    /// The AS number of the speaker, which cannot change while the process runs.
    local_asn: Asn,
    speaker: SpeakerHandle,
    running: watch::Receiver<RunningConfiguration>,
    revision: Arc<AtomicU64>,
    watches: Arc<Semaphore>,
}

impl ReflectorGrpc {
    pub(crate) fn new(
        speaker: SpeakerHandle,
        running: watch::Receiver<RunningConfiguration>,
    ) -> Self {
        let local_asn = running.borrow().config.speaker.local_asn;
        Self {
            local_asn,
            speaker,
            running,
            revision: Arc::default(),
            watches: Arc::new(Semaphore::new(MAX_WATCHES)),
        }
    }

    async fn watch<T: Send + 'static>(
        &self,
        paths: bool,
        translate: fn(Asn, u64, SpeakerChange) -> Option<T>,
    ) -> Result<Response<ResponseStream<T>>, Status> {
        let slot = Arc::clone(&self.watches).try_acquire_owned();
        let slot = slot.map_err(|_| {
            let message =
                format!("{MAX_WATCHES} watches are open, which is the maximum; close one of them");
            Status::resource_exhausted(message)
        })?;
        let open_watch = ReflectorWatch {
            _slot: slot,
            local_asn: self.local_asn,
            changes: self.speaker.changes(paths).await.map_err(speaker_ended)?,
            pending_changes: VecDeque::new(),
            revision: self.revision.clone(),
            translate,
        };
        let events = stream::unfold(open_watch, |mut open_watch| async move {
            match open_watch.next().await {
                Ok(event) => Some((Ok(event), open_watch)),
                Err(ChangesEnded::SpeakerEnded(_)) => None,
                Err(lagging @ ChangesEnded::Lagging) => {
                    Some((Err(Status::aborted(lagging.to_string())), open_watch))
                }
            }
        });
        Ok(Response::new(Box::pin(events)))
    }
}

type ResponseStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn speaker_ended(error: SpeakerEnded) -> Status {
    Status::unavailable(error.to_string())
}

fn next_revision(revision: &AtomicU64) -> u64 {
    revision.fetch_add(1, Ordering::Relaxed) + 1
}

/// The state of one open watch.
struct ReflectorWatch<T> {
    _slot: OwnedSemaphorePermit,
    local_asn: Asn,
    changes: SpeakerChanges,
    pending_changes: VecDeque<SpeakerChange>,
    revision: Arc<AtomicU64>,
    /// Translates a change to a message of the watch. Returns `None` for a change that the watch
    /// does not send.
    translate: fn(Asn, u64, SpeakerChange) -> Option<T>,
}

impl<T> ReflectorWatch<T> {
    async fn next(&mut self) -> Result<T, ChangesEnded> {
        loop {
            while let Some(change) = self.pending_changes.pop_front() {
                if let Some(event) =
                    (self.translate)(self.local_asn, next_revision(&self.revision), change)
                {
                    return Ok(event);
                }
            }
            self.pending_changes.extend(self.changes.next().await?);
        }
    }
}

fn session_event(
    local_asn: Asn,
    revision: u64,
    change: SpeakerChange,
) -> Option<WatchSessionsResponse> {
    use watch_sessions_response::Event;
    let event = match change {
        SpeakerChange::Peer(peer) => Event::Session(bgp_status::session(local_asn, &peer)),
        SpeakerChange::PeerRemoved(name) => Event::RemovedSession(name),
        SpeakerChange::Synced => Event::Synced(Synced {}),
        SpeakerChange::Path(_) | SpeakerChange::PathRemoved(_) => return None,
    };
    Some(WatchSessionsResponse {
        revision,
        event: Some(event),
    })
}

fn path_event(_local_asn: Asn, revision: u64, change: SpeakerChange) -> Option<WatchPathsResponse> {
    use watch_paths_response::Event;
    let event = match change {
        SpeakerChange::Path(path) => Event::Path(bgp_status::path(path)),
        SpeakerChange::PathRemoved(path) => Event::RemovedPath(translate::removed_path(path)),
        SpeakerChange::Synced => Event::Synced(Synced {}),
        SpeakerChange::Peer(_) | SpeakerChange::PeerRemoved(_) => return None,
    };
    Some(WatchPathsResponse {
        revision,
        event: Some(event),
    })
}

#[tonic::async_trait]
impl Contract for ReflectorGrpc {
    type WatchSessionsStream = ResponseStream<WatchSessionsResponse>;
    type WatchPathsStream = ResponseStream<WatchPathsResponse>;

    async fn list_sessions(
        &self,
        request: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        let request = request.get_ref();
        let request = PageRequest::new(
            "ListSessions".into(),
            request.page_size,
            &request.page_token,
        )?;
        let SessionPage {
            page,
            refused,
            total_size,
        } = bgp_status::session_page(&self.speaker, self.local_asn, request)
            .await
            .map_err(speaker_ended)?;
        Ok(Response::new(ListSessionsResponse {
            revision: next_revision(&self.revision),
            sessions: page.items,
            refused_sessions: refused,
            next_page_token: page.next_page_token,
            total_size,
        }))
    }

    async fn watch_sessions(
        &self,
        _request: Request<WatchSessionsRequest>,
    ) -> Result<Response<Self::WatchSessionsStream>, Status> {
        self.watch(false, session_event).await
    }

    async fn list_paths(
        &self,
        request: Request<ListPathsRequest>,
    ) -> Result<Response<ListPathsResponse>, Status> {
        let request = request.into_inner();
        let peer = || {
            if request.peer.is_empty() {
                let message = "peer: the tables ADJ_RIB_IN and ADJ_RIB_OUT need a peer; ListSessions lists the \
                               peers";
                return Err(Status::invalid_argument(message));
            }
            Ok(request.peer.clone())
        };
        let table = match Table::try_from(request.table) {
            Ok(Table::Unspecified | Table::All) if request.peer.is_empty() => {
                bgp_speaker::PathTable::All
            }
            Ok(Table::Unspecified | Table::All) => {
                bgp_speaker::PathTable::AdjRibIn(request.peer.clone())
            }
            Ok(Table::AdjRibIn) => bgp_speaker::PathTable::AdjRibIn(peer()?),
            Ok(Table::AdjRibOut) => bgp_speaker::PathTable::AdjRibOut(peer()?),
            Err(_) => {
                return Err(Status::invalid_argument(
                    "table: the value is unknown; give a value of the enum Table",
                ));
            }
        };
        let prefix = if request.prefix.is_empty() {
            None
        } else {
            Some(daemon_api::prefix("prefix", &request.prefix)?)
        };
        if !request.peer.is_empty() {
            let peers = self.speaker.peers().await.map_err(speaker_ended)?;
            if !peers.iter().any(|peer| peer.name == request.peer) {
                let message = format!(
                    "peer: {:?} does not exist; ListSessions lists the peers",
                    request.peer
                );
                return Err(Status::not_found(message));
            }
        }
        let list = format!("ListPaths {table:?} {prefix:?} {:?}", request.peer);
        let page = PageRequest::new(list, request.page_size, &request.page_token)?;
        let query = PathQuery {
            prefix,
            after: page.after.clone(),
            limit: page.limit(),
            ..PathQuery::all(table)
        };
        let paths = self.speaker.paths(query).await.map_err(speaker_ended)?;
        let paths = paths.into_iter();
        let page = page.page(paths.map(|path| (path.name(), bgp_status::path(path))));
        Ok(Response::new(ListPathsResponse {
            revision: next_revision(&self.revision),
            paths: page.items,
            next_page_token: page.next_page_token,
        }))
    }

    async fn watch_paths(
        &self,
        _request: Request<WatchPathsRequest>,
    ) -> Result<Response<Self::WatchPathsStream>, Status> {
        self.watch(true, path_event).await
    }

    async fn get_configuration(
        &self,
        _request: Request<GetConfigurationRequest>,
    ) -> Result<Response<GetConfigurationResponse>, Status> {
        Ok(Response::new(translate::configuration(
            &self.running.borrow(),
        )))
    }
}
