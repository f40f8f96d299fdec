//! One list and watch, as kube's runtime does it, with what it keeps to itself: trouble, and its
//! end.

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
    client::{self, Connection, Origin},
    grant::{Asked, Resource},
    metrics::RequestMetrics,
};

/// First and longest wait before the API server is asked again.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// Longest wait that the API server may ask for.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60);

/// A watch that has ended sooner, without an event, was none.
const SHORTEST_WATCH: Duration = Duration::from_secs(1);

/// What a list and watch needs of a kind.
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

/// What is watched, and how.
#[derive(Clone, Debug)]
pub struct Follow {
    /// Address and credentials.
    pub origin: Origin,
    /// Kind and namespace.
    pub resource: Resource,
    /// Only objects with these labels.
    pub label_selector: Option<String>,
    /// Objects in a page of a list: what is in memory at once.
    pub page_size: u32,
    /// The API server is asked to end a watch after this time; it goes on from where it was. A
    /// watch that is silent for longer counts as lost.
    pub watch_timeout: Duration,
    /// Counts lists, events and failures.
    pub metrics: RequestMetrics,
}

/// What a watch tells.
#[derive(Debug)]
pub enum WatchEvent<K> {
    /// A list of everything begins.
    Began,
    /// An object is there.
    Put(K),
    /// An object is gone.
    Deleted(K),
    /// The list has ended; what it did not tell is gone.
    Listed,
    /// The API server cannot be heard, for this reason.
    Trouble(String),
    /// It can be heard again.
    Recovered,
}

impl Follow {
    /// Follows until the receiver has gone. Each piece of news is told as `name` makes of it.
    pub async fn run<K: Watchable, M: Send>(
        self,
        told: mpsc::Sender<M>,
        name: impl Fn(WatchEvent<K>) -> M + Send + Sync,
    ) {
        let sender = &EventSender { told, name };
        let mut backoff = Backoff::new(FIRST_DELAY, LONGEST_DELAY);
        loop {
            let silence = self.watch_timeout + SILENCE_MARGIN;
            let goes_on = match self.origin.connect(silence).await {
                Ok(connection) => self.follow(&connection, &mut backoff, sender).await,
                Err(error) => {
                    self.metrics.failed(self.resource.plural, "credentials");
                    let goes_on = sender.send(WatchEvent::Trouble(error.to_string())).await;
                    backoff.wait().await;
                    goes_on
                }
            };
            if !goes_on {
                return;
            }
        }
    }

    /// Until new credentials can be had, or the receiver has gone.
    async fn follow<K: Watchable, M: Send>(
        &self,
        connection: &Connection,
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
                // kube tells nothing of a watch that has been resumed and has nothing to say.
                Ok(()) = answers.changed() => {
                    unreachable = 0;
                    self.metrics.heard(plural);
                    if !sender.send(WatchEvent::Recovered).await {
                        return false;
                    }
                    if empty.are_too_fast(Instant::now()) {
                        backoff.wait().await;
                        empty.go_on(Instant::now());
                    }
                    continue;
                }
                next = events.try_next() => next,
            };
            let error = match next {
                Ok(Some(event)) => {
                    backoff.reset();
                    empty = EmptyAnswers::default();
                    self.metrics.heard(plural);
                    let news = match event {
                        watcher::Event::Init => {
                            self.metrics.listing(plural);
                            WatchEvent::Began
                        }
                        watcher::Event::InitApply(object) | watcher::Event::Apply(object) => {
                            WatchEvent::Put(object)
                        }
                        watcher::Event::Delete(object) => WatchEvent::Deleted(object),
                        watcher::Event::InitDone => WatchEvent::Listed,
                    };
                    if !sender.send(news).await {
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
            // A connection may end at any time; an API server that is there answers the next one.
            if !(failure.is_unreachable && unreachable == 1)
                && let Some(trouble) = failure.in_words(&self.resource, &connection.url)
                && !sender.send(WatchEvent::Trouble(trouble)).await
            {
                return false;
            }
            let delay = backoff.next_delay().max(failure.retry_after);
            tokio::time::sleep(delay).await;
            if failure.is_too_old {
                // kube would ask for the same watch again.
                return true;
            }
            if failure.may_be_credentials && connection.is_outdated(&self.origin).await {
                tracing::info!(resource = plural, "token or CA has changed: it is in use");
                return true;
            }
        }
    }

    fn api<K: Watchable>(&self, connection: &Connection) -> Api<K> {
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

/// Answers that brought nothing: watches that ended at once, as of a proxy that takes a request
/// and closes the connection.
#[derive(Debug, Default)]
struct EmptyAnswers {
    last: Option<Instant>,
    count: u32,
}

impl EmptyAnswers {
    /// An answer begins at `now`. One that follows at once may be the watch after a list.
    fn are_too_fast(&mut self, now: Instant) -> bool {
        let is_fast = self.last.is_some_and(|last| now < last + SHORTEST_WATCH);
        self.count = if is_fast { self.count + 1 } else { 0 };
        self.last = Some(now);
        self.count > 1
    }

    /// After a wait.
    fn go_on(&mut self, now: Instant) {
        self.last = Some(now);
    }
}

/// Where news go.
struct EventSender<M, F> {
    told: mpsc::Sender<M>,
    name: F,
}

impl<M: Send, F> EventSender<M, F> {
    /// Whether there still is somebody to tell.
    async fn send<K>(&self, news: WatchEvent<K>) -> bool
    where
        F: Fn(WatchEvent<K>) -> M + Send + Sync,
    {
        let told = (self.name)(news);
        self.told.send(told).await.is_ok()
    }
}

/// The API server ends a watch a little late.
const SILENCE_MARGIN: Duration = Duration::from_secs(10);

/// What is to be done about an error of kube's watcher.
struct WatchFailure {
    cause: Cause,
    label: String,
    retry_after: Duration,
    may_be_credentials: bool,
    /// There was no answer.
    is_unreachable: bool,
    /// A watch cannot begin where it was left.
    is_too_old: bool,
}

enum Cause {
    /// The state that was known is too old to go on from: a list follows by itself.
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
                    cause: Cause::Answer("the API server's answer has no resourceVersion"),
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
                Cause::Expired
            } else {
                Cause::Request {
                    verb,
                    error: Box::new(error),
                }
            },
        }
    }

    fn in_words(&self, resource: &Resource, url: &str) -> Option<String> {
        match &self.cause {
            Cause::Expired => None,
            Cause::Answer(text) => Some((*text).to_owned()),
            Cause::Request { verb, error } => {
                let asked = Asked {
                    verb,
                    resource,
                    subresource: None,
                    verbs: &["list", "watch"],
                };
                Some(client::in_words(error, url, &asked))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn watches_that_end_at_once_are_too_fast_and_others_are_not() {
        let mut now = Instant::now();
        let mut empty = EmptyAnswers::default();
        // A list, and the watch that follows it.
        assert!(!empty.are_too_fast(now));
        assert!(!empty.are_too_fast(now));
        assert!(empty.are_too_fast(now));
        now += Duration::from_secs(5);
        empty.go_on(now);
        assert!(empty.are_too_fast(now));
        now += SHORTEST_WATCH;
        assert!(!empty.are_too_fast(now));
    }

    #[test]
    fn a_watch_that_cannot_begin_is_listed_anew_and_waits_are_bounded() {
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
