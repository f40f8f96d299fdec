//! Client of Discovery: watches the desired set, and connects again when it is lost.

use std::collections::BTreeSet;

use daemon_api::{
    DesiredEvent as Received, DesiredSetAssembly,
    discovery::v1::{
        WatchRequest, WatchResponse, discovery_service_client::DiscoveryServiceClient,
    },
};
use daemon_runtime::{Backoff, LONGEST_RETRY, Target};
use tokio::sync::mpsc;
use tonic::{Code, Status, Streaming};
use virtual_server::{DesiredChange, DesiredSet, VirtualServerId};

/// Change of the desired set, or of the stream that carries it.
#[derive(Debug)]
pub(crate) enum DesiredEvent {
    /// A stream has opened and sent every object.
    Set {
        /// Everything.
        desired: DesiredSet,
        /// Virtual servers that were sent in an invalid form: their last good form stays.
        kept: BTreeSet<VirtualServerId>,
    },
    /// Something has changed since.
    Change(DesiredChange),
    /// An object is invalid; its last good state stays.
    InvalidObject,
    /// There is no stream; the last set stays.
    Lost(StreamLoss),
}

/// Why there is no stream of the desired set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no desired set from {target}: {cause}")]
pub(crate) struct StreamLoss {
    target: String,
    cause: LossCause,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum LossCause {
    #[error("the stream has ended")]
    Ended,
    #[error("{message}")]
    Failed { code: Code, message: String },
}

impl From<Status> for LossCause {
    fn from(status: Status) -> Self {
        Self::Failed {
            code: status.code(),
            message: status.message().to_owned(),
        }
    }
}

/// Watches for ever, and sends what changes. Ends when the receiver is gone.
pub(crate) async fn watch(target: Target, events: mpsc::Sender<DesiredEvent>) {
    let mut backoff = Backoff::for_neighbouring_daemon(LONGEST_RETRY);
    let mut client = DiscoveryServiceClient::new(target.channel());
    loop {
        let cause = match client.watch(WatchRequest {}).await {
            Ok(response) => match follow(response.into_inner(), &events, &mut backoff).await {
                Some(cause) => cause,
                None => return,
            },
            Err(status) => status.into(),
        };
        let target = target.to_string();
        let lost = DesiredEvent::Lost(StreamLoss { target, cause });
        if events.send(lost).await.is_err() {
            return;
        }
        backoff.wait().await;
    }
}

/// Sends what one stream says until it ends, and returns why it ended; `None`: the receiver is gone.
async fn follow(
    mut stream: Streaming<WatchResponse>,
    events: &mpsc::Sender<DesiredEvent>,
    backoff: &mut Backoff,
) -> Option<LossCause> {
    let mut assembly = DesiredSetAssembly::default();
    let mut opening = Some((DesiredSet::default(), BTreeSet::new()));
    loop {
        let message = match stream.message().await {
            Ok(Some(message)) => message,
            Ok(None) => return Some(LossCause::Ended),
            Err(status) => return Some(status.into()),
        };
        for received in assembly.receive(message) {
            let event = match (received, &mut opening) {
                (Received::Change(change), Some((desired, kept))) => {
                    match &change {
                        DesiredChange::PutVirtualServer(server) => kept.remove(&server.id),
                        DesiredChange::RemoveVirtualServer(id) => kept.remove(id),
                        DesiredChange::PutServiceRange(_)
                        | DesiredChange::RemoveServiceRange(_) => false,
                    };
                    desired.apply(change);
                    continue;
                }
                (Received::Change(change), None) => DesiredEvent::Change(change),
                (Received::Synced, opening) => match opening.take() {
                    Some((desired, kept)) => {
                        // Not earlier: a stream that ends before it is synced would be opened again
                        // without any pause.
                        backoff.reset();
                        DesiredEvent::Set { desired, kept }
                    }
                    None => continue,
                },
                (Received::Invalid { id, error }, opening) => {
                    tracing::warn!(
                        %error,
                        virtual_server = id.map(|id| id.to_string()),
                        "rejected an invalid object of the desired set; keeping its last good state"
                    );
                    if let (Some((_, kept)), Some(id)) = (opening, id) {
                        kept.insert(id);
                    }
                    DesiredEvent::InvalidObject
                }
            };
            if events.send(event).await.is_err() {
                return None;
            }
        }
    }
}
