//! Watch of the service addresses of the data plane.

use std::time::Duration;

use daemon_api::{
    MESSAGE_LIMIT,
    dataplane::v1::{
        ServiceAddress, WatchServiceAddressesRequest, WatchServiceAddressesResponse,
        data_plane_service_client::DataPlaneServiceClient, watch_service_addresses_response::Event,
    },
};
use daemon_runtime::{Backoff, GrpcTarget, timeout_after_poll};
use futures::{Stream, stream};
use tonic::{Status, Streaming, transport::Channel};

use crate::announcements::AnnouncementInput;

/// Number of heartbeats that are requested within the grace period of the data plane.
const HEARTBEATS_PER_TIMEOUT: u32 = 5;

/// Returns the messages of the data plane as an endless stream of inputs. A gRPC stream that ends,
/// or is silent for the time `silence`, is opened again after a pause of at most `longest_retry`.
pub fn watch(
    target: &GrpcTarget,
    silence: Duration,
    longest_retry: Duration,
) -> impl Stream<Item = AnnouncementInput> + Send + use<> {
    let watch = DataPlaneWatch {
        client: DataPlaneServiceClient::new(target.channel())
            .max_decoding_message_size(MESSAGE_LIMIT),
        silence,
        backoff: Backoff::for_neighbouring_daemon(longest_retry),
        stream: None,
        must_wait: false,
    };
    stream::unfold(watch, |mut watch| async move {
        let to_input = watch.next().await;
        Some((to_input, watch))
    })
}

struct DataPlaneWatch {
    client: DataPlaneServiceClient<Channel>,
    silence: Duration,
    backoff: Backoff,
    stream: Option<Streaming<WatchServiceAddressesResponse>>,
    must_wait: bool,
}

impl DataPlaneWatch {
    async fn next(&mut self) -> AnnouncementInput {
        let Some(stream) = &mut self.stream else {
            if std::mem::take(&mut self.must_wait) {
                self.backoff.wait().await;
            }
            return self.open().await;
        };
        let problem = match timeout_after_poll(self.silence, stream.message()).await {
            Err(_) => format!("silent for {} ms", self.silence.as_millis()),
            Ok(Err(status)) => describe_status(&status),
            Ok(Ok(None)) => "the stream has ended".to_owned(),
            Ok(Ok(Some(response))) => {
                match to_input(response) {
                    Ok(input) => {
                        // Only the mark synced makes the next pause the shortest pause. Otherwise,
                        // the pauses would not grow if each stream ends before it is synced.
                        if matches!(input, AnnouncementInput::Synced) {
                            self.backoff.reset();
                        }
                        return input;
                    }
                    Err(problem) => problem,
                }
            }
        };
        self.lost(problem)
    }

    async fn open(&mut self) -> AnnouncementInput {
        let interval = self.silence / HEARTBEATS_PER_TIMEOUT;
        let request = WatchServiceAddressesRequest {
            heartbeat_interval: interval.try_into().ok(),
        };
        let opening = self.client.watch_service_addresses(request);
        match timeout_after_poll(self.silence, opening).await {
            Ok(Ok(response)) => {
                self.stream = Some(response.into_inner());
                AnnouncementInput::DataPlaneOpened
            }
            Ok(Err(status)) => self.lost(describe_status(&status)),
            Err(_) => self.lost(format!("no answer for {} ms", self.silence.as_millis())),
        }
    }

    fn lost(&mut self, problem: String) -> AnnouncementInput {
        self.stream = None;
        self.must_wait = true;
        AnnouncementInput::DataPlaneLost(problem)
    }
}

fn to_input(response: WatchServiceAddressesResponse) -> Result<AnnouncementInput, String> {
    let prefix = |field: &str, text: &str| {
        let prefix = daemon_api::prefix(field, text);
        prefix
            .map(|prefix| prefix.trunc())
            .map_err(|error| format!("the data plane sent an invalid message: {error}"))
    };
    Ok(match response.event {
        // An event of an unknown kind, sent by a newer data plane, counts as a heartbeat: it shows
        // that the data plane is not silent.
        None | Some(Event::Heartbeat(_)) => AnnouncementInput::Heartbeat,
        Some(Event::ServiceAddress(ServiceAddress {
            prefix: text,
            serving,
            detail,
            ..
        })) => AnnouncementInput::ServiceAddress {
            prefix: prefix("service_address.prefix", &text)?,
            serving,
            detail,
        },
        Some(Event::RemovedServiceAddress(text)) => {
            AnnouncementInput::ServiceAddressRemoved(prefix("removed_service_address", &text)?)
        }
        Some(Event::Synced(_)) => AnnouncementInput::Synced,
    })
}

/// Describes a gRPC status. If the transport has failed, returns only the innermost cause, because
/// the texts of the outer errors do not name this cause.
pub(crate) fn describe_status(status: &Status) -> String {
    let mut cause: &dyn std::error::Error = status;
    while let Some(source) = cause.source() {
        cause = source;
    }
    if std::ptr::addr_eq(cause, status) {
        format!("{:?}: {}", status.code(), status.message())
    } else {
        cause.to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::StreamExt;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_between_attempts_to_reach_the_data_plane_grow_up_to_the_longest_retry() {
        let target: GrpcTarget = "unix:/nowhere/data-plane.sock".parse().unwrap();
        let longest_retry = Duration::from_millis(500);
        let mut inputs = pin!(watch(&target, Duration::from_secs(5), longest_retry));
        let mut pauses = Vec::new();
        for _ in 0..12 {
            let begin = Instant::now();
            let to_input = inputs.next().await;
            assert!(
                matches!(to_input, Some(AnnouncementInput::DataPlaneLost(_))),
                "{to_input:?}"
            );
            pauses.push(begin.elapsed());
        }
        assert!(
            pauses[0] < Duration::from_millis(2),
            "the first attempt is immediate: {pauses:?}"
        );
        let (first, last) = (pauses[1], pauses[11]);
        assert!(!first.is_zero() && first < last, "{pauses:?}");
        let longest = pauses.iter().max().copied().unwrap_or_default();
        assert!(
            longest <= longest_retry + Duration::from_millis(2),
            "{pauses:?}"
        );
        assert!(last > longest_retry / 2, "{pauses:?}");
    }
}
