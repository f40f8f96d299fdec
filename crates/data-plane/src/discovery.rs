//! Client of Discovery: watches the desired set and reconnects.

use std::collections::BTreeSet;

use daemon_api::{
    DesiredSetAssembly, DesiredSetEvent as Received,
    discovery::v1::{
        WatchRequest, WatchResponse, discovery_service_client::DiscoveryServiceClient,
    },
};
use daemon_runtime::{Backoff, GrpcTarget, LONGEST_RETRY};
use tokio::sync::mpsc;
use tonic::{Code, Status, Streaming};
use virtual_server::{DesiredChange, DesiredSet, VirtualServerId};

/// A change of the desired set or of the connection to Discovery.
#[derive(Debug)]
pub(crate) enum DiscoveryEvent {
    /// A new stream has sent `synced`.
    Set {
        /// All valid objects that the stream sent before `synced`.
        desired: DesiredSet,
        /// Virtual servers that the stream sent in an invalid form. Their last valid form must be
        /// kept.
        invalid: BTreeSet<VirtualServerId>,
    },
    /// One object changed after the stream was synced.
    Change(DesiredChange),
    /// The stream sent an invalid object. The last valid state of the object must be kept.
    InvalidObject,
    /// The stream ended or cannot be opened. The last desired set must be kept.
    Lost(StreamLoss),
}

/// The reason why there is no stream of the desired set.
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

/// Watches the desired set and sends the events. Reconnects until the receiver is dropped.
pub(crate) async fn watch(target: GrpcTarget, events: mpsc::Sender<DiscoveryEvent>) {
    let mut backoff = Backoff::for_neighbouring_daemon(LONGEST_RETRY);
    let mut client = DiscoveryServiceClient::new(target.channel());
    loop {
        let cause = match client.watch(WatchRequest {}).await {
            Ok(response) => {
                match forward_events(response.into_inner(), &events, &mut backoff).await {
                    Some(cause) => cause,
                    None => return,
                }
            }
            Err(status) => status.into(),
        };
        let target = target.to_string();
        let lost = DiscoveryEvent::Lost(StreamLoss { target, cause });
        if events.send(lost).await.is_err() {
            return;
        }
        backoff.wait().await;
    }
}

/// Sends the events of one stream until it ends. Returns the reason of the end. `None`: the
/// receiver was dropped.
async fn forward_events(
    mut stream: Streaming<WatchResponse>,
    events: &mpsc::Sender<DiscoveryEvent>,
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
                (Received::Change(change), Some((desired, invalid))) => {
                    match &change {
                        DesiredChange::PutVirtualServer(server) => invalid.remove(&server.id),
                        DesiredChange::RemoveVirtualServer(id) => invalid.remove(id),
                        DesiredChange::PutServiceRange(_)
                        | DesiredChange::RemoveServiceRange(_) => false,
                    };
                    desired.apply(change);
                    continue;
                }
                (Received::Change(change), None) => DiscoveryEvent::Change(change),
                (Received::Synced, opening) => match opening.take() {
                    Some((desired, invalid)) => {
                        // Only a synced stream resets the pause. Otherwise a server whose streams
                        // break early would be contacted without pauses.
                        backoff.reset();
                        DiscoveryEvent::Set { desired, invalid }
                    }
                    None => continue,
                },
                (Received::Invalid { id, error }, opening) => {
                    tracing::warn!(
                        %error,
                        virtual_server = id.map(|id| id.to_string()),
                        "rejected an invalid object of the desired set; keeping its last valid state"
                    );
                    if let (Some((_, invalid)), Some(id)) = (opening, id) {
                        invalid.insert(id);
                    }
                    DiscoveryEvent::InvalidObject
                }
            };
            if events.send(event).await.is_err() {
                return None;
            }
        }
    }
}
