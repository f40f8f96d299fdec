//! Watch of the announcements of this pod's bgp-announcer.

use std::{collections::BTreeSet, time::Duration};

use daemon_api::{
    MESSAGE_LIMIT,
    announcer::v1::{
        AnnouncementState, WatchAnnouncementsRequest,
        announcer_service_client::AnnouncerServiceClient, watch_announcements_response::Event,
    },
};
use daemon_runtime::{Backoff, GrpcTarget};
use tokio::sync::watch;
use virtual_server::IpNet;

use crate::reports::AnnouncedPrefixes;

/// If the announcer is unreachable for longer than this, its announcements no longer count. During
/// a shorter restart of the announcer its peers keep the routes by graceful restart.
const ANNOUNCER_GRACE: Duration = Duration::from_secs(5);

/// First pause between two attempts to reach the announcer. Later pauses are longer.
const FIRST_RETRY: Duration = Duration::from_millis(20);

/// The task that watches the announcements of this pod's bgp-announcer.
#[derive(Debug)]
pub(crate) struct AnnouncerWatch {
    pub(crate) announcer: GrpcTarget,
    /// The prefixes that this pod announces. `None` until the announcer has sent all prefixes once.
    pub(crate) announced: watch::Sender<Option<AnnouncedPrefixes>>,
}

impl AnnouncerWatch {
    /// Watches the announcer, and starts the next watch after each end of the stream. It never
    /// returns.
    pub(crate) async fn run(self) {
        let mut backoff = Backoff::within_grace(FIRST_RETRY, ANNOUNCER_GRACE);
        let mut is_logged = false;
        loop {
            let ended = self.watch(&mut backoff, &mut is_logged).await;
            let grace = tokio::time::Instant::now() + ANNOUNCER_GRACE;
            if !is_logged {
                is_logged = true;
                let error =
                    ended.map_or_else(|| "the stream has ended".to_owned(), |e| e.to_string());
                tracing::warn!(
                    announcer = %self.announcer,
                    error,
                    "cannot watch the announcements of bgp-announcer; the announcements no longer \
                     count after the grace period"
                );
            }
            // If an attempt succeeds within the grace period, the announcements count without
            // interruption.
            let again = async {
                loop {
                    backoff.wait().await;
                    if self.is_reachable().await {
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

    async fn is_reachable(&self) -> bool {
        let mut client = AnnouncerServiceClient::new(self.announcer.channel())
            .max_decoding_message_size(MESSAGE_LIMIT);
        let request = WatchAnnouncementsRequest {};
        client.watch_announcements(request).await.is_ok()
    }

    /// Applies the events of one watch until its stream ends. Returns the error, or `None` after a
    /// regular end.
    async fn watch(&self, backoff: &mut Backoff, is_logged: &mut bool) -> Option<tonic::Status> {
        let mut client = AnnouncerServiceClient::new(self.announcer.channel())
            .max_decoding_message_size(MESSAGE_LIMIT);
        let mut stream = match client
            .watch_announcements(WatchAnnouncementsRequest {})
            .await
        {
            Ok(response) => response.into_inner(),
            Err(status) => return Some(status),
        };
        let mut announced = AnnouncedPrefixes::new();
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
                        tracing::info!(
                            announcer = %self.announcer,
                            "watching the announcements of bgp-announcer"
                        );
                    }
                    is_synced = true;
                    *is_logged = false;
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

/// Reports whether a peer has the announcement. A peer also sends traffic to a load balancer whose
/// announcement is least preferred or draining.
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
    fn a_prefix_counts_as_announced_only_if_it_is_announced_to_a_peer() {
        let peers = ["router".to_owned()];
        assert!(is_announced(AnnouncementState::Announced, &peers));
        assert!(is_announced(AnnouncementState::Draining, &peers));
        assert!(is_announced(AnnouncementState::LeastPreferred, &peers));
        assert!(!is_announced(AnnouncementState::Announced, &[]));
        assert!(!is_announced(AnnouncementState::NotServing, &peers));
        assert!(!is_announced(AnnouncementState::WaitingForSession, &[]));
    }
}
