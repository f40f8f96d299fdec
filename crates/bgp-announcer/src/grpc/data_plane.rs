//! What the data plane tells, whatever happens to the stream.

use std::{pin::pin, time::Duration};

use daemon_api::{
    MESSAGE_LIMIT,
    dataplane::v1::{
        ServiceAddress, WatchServiceAddressesRequest, WatchServiceAddressesResponse,
        data_plane_client::DataPlaneClient, watch_service_addresses_response::Event,
    },
};
use daemon_runtime::{Backoff, Target};
use futures::{Stream, stream};
use tokio::time::{Instant, timeout, timeout_at};
use tonic::{Status, Streaming, transport::Channel};

use crate::plan::Input;

/// Heartbeats that may be missed before the data plane counts as silent.
const HEARTBEATS_PER_TIMEOUT: u32 = 5;

/// A timer that fires this late or later means that this process slept. The stream then gets as much
/// time again for messages that are already in the socket.
pub(crate) const SLEPT: Duration = Duration::from_millis(100);

/// Watches the data plane for ever. A stream that ends, or is silent for the timeout, is opened
/// again after a pause of at most `longest_retry`.
pub fn watch(
    target: &Target,
    silence: Duration,
    longest_retry: Duration,
) -> impl Stream<Item = Input> + Send + use<> {
    let watch = Watch {
        client: DataPlaneClient::new(target.channel()).max_decoding_message_size(MESSAGE_LIMIT),
        silence,
        backoff: Backoff::for_neighbouring_daemon(longest_retry),
        stream: None,
        must_wait: false,
    };
    stream::unfold(watch, |mut watch| async move {
        let input = watch.next().await;
        Some((input, watch))
    })
}

struct Watch {
    client: DataPlaneClient<Channel>,
    silence: Duration,
    backoff: Backoff,
    stream: Option<Streaming<WatchServiceAddressesResponse>>,
    must_wait: bool,
}

impl Watch {
    async fn next(&mut self) -> Input {
        let Some(stream) = &mut self.stream else {
            if std::mem::take(&mut self.must_wait) {
                self.backoff.wait().await;
            }
            return self.open().await;
        };
        let problem = match within_silence(self.silence, stream.message()).await {
            None => format!("silent for {} ms", self.silence.as_millis()),
            Some(Err(status)) => describe(&status),
            Some(Ok(None)) => "the stream has ended".to_owned(),
            Some(Ok(Some(response))) => {
                match input(response) {
                    Ok(input) => {
                        // A stream that ends before it has told everything would be opened
                        // without any pause.
                        if matches!(input, Input::Synced) {
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

    async fn open(&mut self) -> Input {
        let interval = self.silence / HEARTBEATS_PER_TIMEOUT;
        let request = WatchServiceAddressesRequest {
            heartbeat_interval_milliseconds: u32::try_from(interval.as_millis())
                .unwrap_or(u32::MAX),
        };
        let opening = self.client.watch_service_addresses(request);
        match timeout(self.silence, opening).await {
            Ok(Ok(response)) => {
                self.stream = Some(response.into_inner());
                Input::DataPlaneOpened
            }
            Ok(Err(status)) => self.lost(describe(&status)),
            Err(_) => self.lost(format!("no answer for {} ms", self.silence.as_millis())),
        }
    }

    fn lost(&mut self, problem: String) -> Input {
        self.stream = None;
        self.must_wait = true;
        Input::DataPlaneLost(problem)
    }
}

/// Returns the message, or `None` after the silence. A process that slept looks into its socket first:
/// its own sleep is no silence of the data plane.
async fn within_silence<T>(silence: Duration, message: impl Future<Output = T>) -> Option<T> {
    let mut message = pin!(message);
    let end = Instant::now() + silence;
    if let Ok(message) = timeout_at(end, &mut message).await {
        return Some(message);
    }
    if Instant::now() < end + SLEPT {
        return None;
    }
    timeout(SLEPT, message).await.ok()
}

fn input(response: WatchServiceAddressesResponse) -> Result<Input, String> {
    let prefix = |field: &str, text: &str| {
        let prefix = daemon_api::prefix(field, text);
        prefix
            .map(|prefix| prefix.trunc())
            .map_err(|error| format!("breaks its contract: {error}"))
    };
    Ok(match response.event {
        // A kind of event that this version does not know is a sign of life still.
        None | Some(Event::Heartbeat(_)) => Input::Heartbeat,
        Some(Event::ServiceAddress(ServiceAddress {
            prefix: text,
            serving,
            detail,
            ..
        })) => Input::ServiceAddress {
            prefix: prefix("service_address.prefix", &text)?,
            serving,
            detail,
        },
        Some(Event::RemovedServiceAddress(text)) => {
            Input::ServiceAddressRemoved(prefix("removed_service_address", &text)?)
        }
        Some(Event::Synced(_)) => Input::Synced,
    })
}

/// A status in words, without the wrapping of the transport.
pub(crate) fn describe(status: &Status) -> String {
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
    use tokio::time::{advance, sleep};

    use super::*;

    const SILENCE: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn a_message_in_time_is_returned_and_a_silence_is_not_prolonged() {
        let in_time = within_silence(SILENCE, sleep(SILENCE - SLEPT)).await;
        assert_eq!(in_time, Some(()));
        let begin = Instant::now();
        assert_eq!(within_silence(SILENCE, sleep(SILENCE * 2)).await, None);
        assert!(begin.elapsed() < SILENCE + SLEPT);
    }

    #[tokio::test(start_paused = true)]
    async fn what_arrived_while_the_process_slept_counts() {
        // The connection's task reads the socket a moment after the process has woken.
        let message = async {
            sleep(SILENCE * 3).await;
            sleep(SLEPT / 2).await;
        };
        let waiting = tokio::spawn(within_silence(SILENCE, message));
        tokio::task::yield_now().await;
        advance(SILENCE * 3).await;
        assert_eq!(waiting.await.unwrap(), Some(()));
    }
}
