//! Follows what the bgp-announcer of this pod announces.

use std::{collections::BTreeSet, time::Duration};

use daemon_api::{
    MESSAGE_LIMIT,
    announcer::v1::{
        AnnouncementState, WatchAnnouncementsRequest,
        announcer_service_client::AnnouncerServiceClient, watch_announcements_response::Event,
    },
};
use daemon_runtime::{Backoff, Target};
use tokio::sync::watch;
use virtual_server::IpNet;

use crate::reports::Announced;

/// How long an announcer may be away before what it announced does not count: it may only be
/// restarting, with its routes kept by graceful restart.
const ANNOUNCER_GRACE: Duration = Duration::from_secs(5);

/// First pause before the announcer is asked again.
const FIRST_RETRY: Duration = Duration::from_millis(20);

/// Follows the announcer of this pod.
#[derive(Debug)]
pub(crate) struct AnnouncerWatch {
    pub(crate) announcer: Target,
    /// `None` until the announcer has said all.
    pub(crate) announced: watch::Sender<Option<Announced>>,
}

impl AnnouncerWatch {
    /// Watches the announcer until the process ends, and opens a watch that ended again.
    pub(crate) async fn run(self) {
        let mut backoff = Backoff::within_grace(FIRST_RETRY, ANNOUNCER_GRACE);
        let mut is_told = false;
        loop {
            let ended = self.watch(&mut backoff, &mut is_told).await;
            let grace = tokio::time::Instant::now() + ANNOUNCER_GRACE;
            if !is_told {
                is_told = true;
                let error =
                    ended.map_or_else(|| "its stream has ended".to_owned(), |e| e.to_string());
                tracing::warn!(
                    announcer = %self.announcer,
                    error,
                    "the announcer cannot be heard; what it announces will not count"
                );
            }
            // Attempts go on while the grace lasts.
            let again = async {
                loop {
                    backoff.wait().await;
                    if self.is_there().await {
                        return;
                    }
                }
            };
            let mut again = std::pin::pin!(again);
            if tokio::time::timeout_at(grace, &mut again).await.is_err() {
                self.announced.send_if_modified(|announced| {
                    let announced = announced.as_mut().filter(|all| !all.is_empty());
                    announced.map(BTreeSet::clear).is_some()
                });
                again.await;
            }
        }
    }

    async fn is_there(&self) -> bool {
        let mut client = AnnouncerServiceClient::new(self.announcer.channel())
            .max_decoding_message_size(MESSAGE_LIMIT);
        let request = WatchAnnouncementsRequest {};
        client.watch_announcements(request).await.is_ok()
    }

    /// Until the stream ends.
    async fn watch(&self, backoff: &mut Backoff, is_told: &mut bool) -> Option<tonic::Status> {
        let mut client = AnnouncerServiceClient::new(self.announcer.channel())
            .max_decoding_message_size(MESSAGE_LIMIT);
        let mut stream = match client
            .watch_announcements(WatchAnnouncementsRequest {})
            .await
        {
            Ok(response) => response.into_inner(),
            Err(status) => return Some(status),
        };
        let mut announced = Announced::new();
        let mut is_synced = false;
        loop {
            let event = match stream.message().await {
                Ok(Some(message)) => message.event,
                Ok(None) => return None,
                Err(status) => return Some(status),
            };
            match event {
                Some(Event::Announcement(announcement)) => {
                    let Ok(prefix) = announcement.prefix.parse::<IpNet>() else {
                        continue;
                    };
                    if is_announced(announcement.state(), &announcement.announced_to) {
                        announced.insert(prefix);
                    } else {
                        announced.remove(&prefix);
                    }
                }
                Some(Event::RemovedAnnouncement(prefix)) => {
                    if let Ok(prefix) = prefix.parse::<IpNet>() {
                        announced.remove(&prefix);
                    }
                }
                Some(Event::Synced(_)) => {
                    if !is_synced {
                        tracing::info!(announcer = %self.announcer, "the announcer is heard");
                    }
                    is_synced = true;
                    *is_told = false;
                    backoff.reset();
                }
                None => {}
            }
            if is_synced {
                self.announced.send_if_modified(|before| {
                    let changed = before.as_ref() != Some(&announced);
                    if changed {
                        *before = Some(announced.clone());
                    }
                    changed
                });
            }
        }
    }
}

/// Whether a peer holds the announcement. One that drains or is least preferred still leads here.
fn is_announced(state: AnnouncementState, announced_to: &[String]) -> bool {
    match state {
        AnnouncementState::Announced
        | AnnouncementState::LeastPreferred
        | AnnouncementState::Draining => !announced_to.is_empty(),
        AnnouncementState::Unspecified
        | AnnouncementState::NotServing
        | AnnouncementState::Refused
        | AnnouncementState::WaitingForNodeRoute
        | AnnouncementState::WaitingForSession
        | AnnouncementState::Drained => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_peer_that_holds_it_is_not_announced() {
        let peers = ["router".to_owned()];
        assert!(is_announced(AnnouncementState::Announced, &peers));
        assert!(is_announced(AnnouncementState::Draining, &peers));
        assert!(is_announced(AnnouncementState::LeastPreferred, &peers));
        assert!(!is_announced(AnnouncementState::Announced, &[]));
        assert!(!is_announced(AnnouncementState::NotServing, &peers));
        assert!(!is_announced(AnnouncementState::WaitingForSession, &[]));
    }
}
