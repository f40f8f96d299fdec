//! List and watch of one resource.
//!
//! The watcher of kube emits no event when it resumes a watch after a failure, so it does not show
//! that the API server answers again. [`ListWatch`] reports failures and successful answers as
//! events.

use std::{
    fmt::Debug,
    time::{Duration, Instant},
};

use daemon_runtime::Backoff;
use futures::TryStreamExt;
use k8s_openapi::{NamespaceResourceScope, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, runtime::watcher};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::{
    client::{self, ApiServerConnection, ApiServerOrigin},
    grant::{ApiRequest, Resource},
    metrics::RequestMetrics,
};

/// Shortest pause before a list or watch that failed is repeated.
const FIRST_DELAY: Duration = Duration::from_millis(100);

/// Longest pause before a list or watch that failed is repeated, unless the API server names a
/// longer pause (`retryAfterSeconds`).
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// Upper limit for the pause that the API server names (`retryAfterSeconds`). If the API server
/// names a longer pause, the request is repeated after this limit.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60);

/// An answer without an event is fast if it begins less than this time after the previous answer
/// without an event. After the second fast answer in a row, and after each further one, the next
/// request waits.
const SHORTEST_WATCH: Duration = Duration::from_secs(1);

/// A type of objects that [`ListWatch`] can list and watch.
pub trait Watchable:
    k8s_openapi::Resource<Scope = NamespaceResourceScope>
    + k8s_openapi::Metadata<Ty = ObjectMeta>
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + 'static
{
}

impl<K> Watchable for K where
    K: k8s_openapi::Resource<Scope = NamespaceResourceScope>
        + k8s_openapi::Metadata<Ty = ObjectMeta>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + 'static
{
}

/// A list and watch of the objects of one resource.
#[derive(Clone, Debug)]
pub struct ListWatch {
    /// Source of the API server's address and of the credentials.
    pub origin: ApiServerOrigin,
    pub resource: Resource,
    /// Label selector of the objects. `None`: all objects.
    pub label_selector: Option<String>,
    /// Maximum number of objects that the API server sends in one page of a list.
    pub page_size: u32,
    /// Time after which the API server ends a watch. The next watch continues after the last event.
    /// If no byte arrives for this time plus 10 s, the client closes the connection and repeats the
    /// watch.
    pub watch_timeout: Duration,
    pub metrics: RequestMetrics,
}

/// An event of a list and watch.
#[derive(Debug)]
pub enum WatchEvent<K> {
    /// A list of all objects begins.
    ListStarted,
    /// An object is new or has changed, or is part of a list.
    Put(K),
    /// An object no longer exists.
    Deleted(K),
    /// The list has ended: an object without `Put` since the last `ListStarted` no longer exists.
    Listed,
    /// The API server could not be reached at least twice in a row, or refuses the request, or the
    /// credentials cannot be used. The text names the cause.
    Failed(String),
    /// The API server has answered a request with success. This event is also sent if no `Failed`
    /// event was sent before.
    Recovered,
}

impl ListWatch {
    /// Lists and watches until the receiver is dropped. Converts each event with `message` and
    /// sends the result to `receiver`.
    pub async fn run<K: Watchable, M: Send>(
        self,
        receiver: mpsc::Sender<M>,
        message: impl Fn(WatchEvent<K>) -> M + Send + Sync,
    ) {
        let sender = &EventSender { receiver, message };
        let mut backoff = Backoff::new(FIRST_DELAY, LONGEST_DELAY);
        loop {
            let silence = self.watch_timeout + SILENCE_MARGIN;
            let has_receiver = match self.origin.connect(silence).await {
                Ok(connection) => self.follow(&connection, &mut backoff, sender).await,
                Err(error) => {
                    self.metrics.failed(self.resource.plural, "credentials");
                    let has_receiver = sender.send(WatchEvent::Failed(error.to_string())).await;
                    backoff.wait().await;
                    has_receiver
                }
            };
            if !has_receiver {
                return;
            }
        }
    }

    /// Lists and watches with one client. Returns `false` if the receiver was dropped. Returns
    /// `true` if the caller must create a new client, because the credentials have changed, or
    /// because the API server no longer has the history since the last event, so that a list must
    /// follow.
    async fn follow<K: Watchable, M: Send>(
        &self,
        connection: &ApiServerConnection,
        backoff: &mut Backoff,
        sender: &EventSender<M, impl Fn(WatchEvent<K>) -> M + Send + Sync>,
    ) -> bool {
        let mut answers = connection.answers.clone();
        let mut unreachable = 0_u32;
        let mut empty = EmptyAnswers::default();
        let plural = self.resource.plural;
        let events = watcher(self.api::<K>(connection), self.config());
        let mut events = std::pin::pin!(events);
        loop {
            let next = tokio::select! {
                // The watcher of kube emits no event when it resumes a watch and no object has
                // changed. So the counter of successful answers shows that the API server answers.
                Ok(()) = answers.changed() => {
                    unreachable = 0;
                    self.metrics.event_received(plural);
                    if !sender.send(WatchEvent::Recovered).await {
                        return false;
                    }
                    if empty.are_too_fast(Instant::now()) {
                        backoff.wait().await;
                        empty.restart(Instant::now());
                    }
                    continue;
                }
                next = events.try_next() => next,
            };
            let error = match next {
                Ok(Some(event)) => {
                    backoff.reset();
                    empty = EmptyAnswers::default();
                    self.metrics.event_received(plural);
                    let event = match event {
                        watcher::Event::Init => {
                            self.metrics.list_started(plural);
                            WatchEvent::ListStarted
                        }
                        watcher::Event::InitApply(object) | watcher::Event::Apply(object) => {
                            WatchEvent::Put(object)
                        }
                        watcher::Event::Delete(object) => WatchEvent::Deleted(object),
                        watcher::Event::InitDone => WatchEvent::Listed,
                    };
                    if !sender.send(event).await {
                        return false;
                    }
                    continue;
                }
                Ok(None) => return true,
                Err(error) => error,
            };
            let failure = WatchFailure::of(error);
            self.metrics.failed(plural, &failure.label);
            if failure.is_unreachable {
                unreachable += 1;
            }
            // A connection can end at any time. So the first of several successive failures to
            // reach the API server is not reported: if the API server works, the next connection
            // succeeds.
            if !(failure.is_unreachable && unreachable == 1)
                && let Some(description) = failure.describe(&self.resource, &connection.url)
                && !sender.send(WatchEvent::Failed(description)).await
            {
                return false;
            }
            let delay = backoff.next_delay().max(failure.retry_after);
            tokio::time::sleep(delay).await;
            if failure.is_too_old {
                // This watcher would repeat the request with the expired resourceVersion. A new
                // watcher begins with a list.
                return true;
            }
            if failure.may_be_credentials && connection.is_outdated(&self.origin).await {
                tracing::info!(
                    resource = plural,
                    "credentials have changed; connecting to the API server with the new credentials"
                );
                return true;
            }
        }
    }

    fn api<K: Watchable>(&self, connection: &ApiServerConnection) -> Api<K> {
        let client = connection.client.clone();
        match &self.resource.namespace {
            Some(namespace) => Api::namespaced(client, namespace),
            None => Api::all(client),
        }
    }

    fn config(&self) -> watcher::Config {
        let seconds = u32::try_from(self.watch_timeout.as_secs()).unwrap_or(u32::MAX);
        let config = watcher::Config::default()
            .page_size(self.page_size)
            .timeout(seconds.max(1));
        match &self.label_selector {
            Some(selector) => config.labels(selector),
            None => config,
        }
    }
}

/// Counter of successive answers without an event. A proxy that accepts a request and then closes
/// the connection causes many empty answers, which must not lead to a busy loop.
#[derive(Debug, Default)]
struct EmptyAnswers {
    last: Option<Instant>,
    count: u32,
}

impl EmptyAnswers {
    /// Counts an answer that begins at `now`, and reports whether the next request must wait. It
    /// must wait from the third answer in a row if each answer begins less than [`SHORTEST_WATCH`]
    /// after the previous answer. The second answer causes no wait, because it can belong to the
    /// watch after a list.
    fn are_too_fast(&mut self, now: Instant) -> bool {
        let is_fast = self.last.is_some_and(|last| now < last + SHORTEST_WATCH);
        self.count = if is_fast { self.count + 1 } else { 0 };
        self.last = Some(now);
        self.count > 1
    }

    /// Sets the time of the last answer to `now`, the end of a wait, so that the wait does not make
    /// the next answer look slow.
    fn restart(&mut self, now: Instant) {
        self.last = Some(now);
    }
}

/// The receiver of the events, and the conversion of an event to the receiver's message type.
struct EventSender<M, F> {
    receiver: mpsc::Sender<M>,
    message: F,
}

impl<M: Send, F> EventSender<M, F> {
    /// Sends an event. Returns `false` if the receiver was dropped.
    async fn send<K>(&self, event: WatchEvent<K>) -> bool
    where
        F: Fn(WatchEvent<K>) -> M + Send + Sync,
    {
        let message = (self.message)(event);
        self.receiver.send(message).await.is_ok()
    }
}

/// If no byte arrives for the timeout of a watch plus this margin, the client closes the
/// connection. So the API server can end the watch later than the timeout by less than this margin.
const SILENCE_MARGIN: Duration = Duration::from_secs(10);

/// An error of kube's watcher, and the reaction to it.
struct WatchFailure {
    cause: WatchFailureCause,
    label: String,
    /// Pause that the API server names, at most [`LONGEST_RETRY_AFTER`]. Zero: the API server names
    /// no pause.
    retry_after: Duration,
    may_be_credentials: bool,
    /// No HTTP status of the API server is known, for example because the connection failed.
    is_unreachable: bool,
    /// A watch cannot begin because the API server no longer has the history since the last event.
    is_too_old: bool,
}

enum WatchFailureCause {
    /// The API server no longer has the history since the last event (410). A list follows, so this
    /// cause is not reported.
    Expired,
    Request {
        verb: &'static str,
        error: Box<kube::Error>,
    },
    Answer(&'static str),
}

impl WatchFailure {
    fn of(error: watcher::Error) -> Self {
        let is_start = matches!(error, watcher::Error::WatchStartFailed(_));
        let (verb, error) = match error {
            watcher::Error::InitialListFailed(error) => ("list", error),
            watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error) => {
                ("watch", error)
            }
            watcher::Error::WatchError(status) => ("watch", kube::Error::Api(status)),
            watcher::Error::NoResourceVersion => {
                return Self {
                    cause: WatchFailureCause::Answer(
                        "the answer of the API server has no resourceVersion",
                    ),
                    label: "malformed".to_owned(),
                    retry_after: Duration::ZERO,
                    may_be_credentials: false,
                    is_unreachable: false,
                    is_too_old: false,
                };
            }
        };
        let status = if let kube::Error::Api(status) = &error {
            Some(status)
        } else {
            None
        };
        let code = status.map(|status| status.code);
        let retry_after = status
            .and_then(|status| status.details.as_ref())
            .map_or(0, |details| details.retry_after_seconds);
        Self {
            label: client::label(&error),
            retry_after: Duration::from_secs(retry_after.into()).min(LONGEST_RETRY_AFTER),
            is_too_old: is_start && code == Some(410),
            may_be_credentials: matches!(code, None | Some(401)),
            is_unreachable: code.is_none(),
            cause: if code == Some(410) {
                WatchFailureCause::Expired
            } else {
                WatchFailureCause::Request {
                    verb,
                    error: Box::new(error),
                }
            },
        }
    }

    /// Describes the failure for operators. Returns `None` for an expired watch, because a list
    /// follows.
    fn describe(&self, resource: &Resource, url: &str) -> Option<String> {
        match &self.cause {
            WatchFailureCause::Expired => None,
            WatchFailureCause::Answer(text) => Some((*text).to_owned()),
            WatchFailureCause::Request { verb, error } => {
                let asked = ApiRequest {
                    verb,
                    resource,
                    subresource: None,
                    verbs: &["list", "watch"],
                };
                Some(client::describe_error(error, url, &asked))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn the_third_answer_without_an_event_within_a_second_leads_to_a_pause() {
        let mut now = Instant::now();
        let mut empty = EmptyAnswers::default();
        // The first answer can belong to a list, and the second answer to the watch after this
        // list.
        assert!(!empty.are_too_fast(now));
        assert!(!empty.are_too_fast(now));
        assert!(empty.are_too_fast(now));
        now += Duration::from_secs(5);
        empty.restart(now);
        assert!(empty.are_too_fast(now));
        now += SHORTEST_WATCH;
        assert!(!empty.are_too_fast(now));
    }

    #[test]
    fn status_410_at_the_start_of_a_watch_leads_to_a_list_and_retry_after_is_limited_to_60_s() {
        let mut status = Status::failure("too old", "Expired").with_code(410);
        let error = kube::Error::Api(Box::new(status.clone()));
        assert!(WatchFailure::of(watcher::Error::WatchStartFailed(error)).is_too_old);
        let error = kube::Error::Api(Box::new(status.clone()));
        assert!(!WatchFailure::of(watcher::Error::InitialListFailed(error)).is_too_old);
        status.code = 429;
        let details = serde_json::json!({ "retryAfterSeconds": 86_400 });
        status.details = serde_json::from_value(details).unwrap();
        let error = kube::Error::Api(Box::new(status));
        let failure = WatchFailure::of(watcher::Error::WatchStartFailed(error));
        assert_eq!(failure.retry_after, LONGEST_RETRY_AFTER);
        assert!(!failure.is_too_old);
    }
}
