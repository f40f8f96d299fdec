//! Client of Discovery: keeps asking for the desired set, whoever serves it.

use std::collections::BTreeSet;

use daemon_api::{
    MESSAGE_LIMIT, desired_change,
    discovery::v1::{
        WatchRequest, WatchResponse, discovery_client::DiscoveryClient, watch_response::Event,
    },
};
use daemon_runtime::{Backoff, LONGEST_RETRY, Target};
use tokio::sync::mpsc;
use tonic::Streaming;
use virtual_server::{DesiredChange, DesiredSet, VirtualServerId};

/// What the owner of the table is told.
#[derive(Debug)]
pub enum DesiredEvent {
    /// A stream has opened and told everything.
    Set {
        /// Everything.
        desired: DesiredSet,
        /// Virtual servers that were sent in a form that cannot be: their last good one stays.
        kept: BTreeSet<VirtualServerId>,
    },
    /// Something has changed since.
    Change(DesiredChange),
    /// An object cannot be; its last good state stays.
    InvalidObject,
    /// There is no stream; the last set stays.
    Lost(String),
}

/// Watches for ever, and tells what comes. Ends when nobody listens any more.
pub async fn watch(target: Target, events: mpsc::Sender<DesiredEvent>) {
    let mut backoff = Backoff::for_neighbouring_daemon(LONGEST_RETRY);
    let client = DiscoveryClient::new(target.channel());
    let mut client = client.max_decoding_message_size(MESSAGE_LIMIT);
    loop {
        let reason = match client.watch(WatchRequest {}).await {
            Ok(response) => match follow(response.into_inner(), &events, &mut backoff).await {
                Some(reason) => reason,
                None => return,
            },
            Err(status) => status.message().to_owned(),
        };
        let lost = format!("no desired set from {target}: {reason}");
        if events.send(DesiredEvent::Lost(lost)).await.is_err() {
            return;
        }
        backoff.wait().await;
    }
}

/// Tells what one stream says until it ends, and then why; `None`: nobody listens.
async fn follow(
    mut stream: Streaming<WatchResponse>,
    events: &mpsc::Sender<DesiredEvent>,
    backoff: &mut Backoff,
) -> Option<String> {
    let mut opening = Some((DesiredSet::default(), BTreeSet::new()));
    loop {
        let event = match stream.message().await {
            Ok(Some(WatchResponse {
                event: Some(event), ..
            })) => event,
            // An event of a newer contract.
            Ok(Some(WatchResponse { event: None, .. })) => continue,
            Ok(None) => return Some("the stream has ended".to_owned()),
            Err(status) => return Some(status.message().to_owned()),
        };
        let id = id_of(&event);
        let news = match (desired_change(event), &mut opening) {
            (Ok(Some(change)), Some((desired, _))) => {
                desired.apply(change);
                continue;
            }
            (Ok(Some(change)), None) => DesiredEvent::Change(change),
            (Ok(None), opening) => match opening.take() {
                Some((desired, kept)) => {
                    // A stream that ends before it has told everything would be opened without
                    // any pause.
                    backoff.reset();
                    DesiredEvent::Set { desired, kept }
                }
                None => continue,
            },
            (Err(error), opening) => {
                tracing::warn!(
                    %error,
                    virtual_server = id.map(|id| id.to_string()),
                    "an object of the desired set cannot be; its last good state stays"
                );
                if let (Some((_, kept)), Some(id)) = (opening, id) {
                    kept.insert(id);
                }
                DesiredEvent::InvalidObject
            }
        };
        if events.send(news).await.is_err() {
            return None;
        }
    }
}

/// The virtual server that an event speaks of, even if the rest of it cannot be.
fn id_of(event: &Event) -> Option<VirtualServerId> {
    let Event::VirtualServer(server) = event else {
        return None;
    };
    daemon_api::virtualserver::v1::VirtualServerId {
        address: server.address.clone(),
        ports: server.ports,
        protocol: server.protocol,
    }
    .try_into()
    .ok()
}
