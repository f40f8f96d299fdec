//! What all who write to the API server share: a client of their own, and trouble that is told
//! once.

use std::{fmt, time::Duration};

use kube::Client;
use kubernetes_client::{
    client::{self, Connection, Origin},
    grant::Asked,
};

use crate::metrics::StatusMetrics;

/// Says that the API server has not answered for so long.
pub(crate) fn silent_for(time: Duration) -> String {
    format!("the API server has not answered for {} s", time.as_secs())
}

/// Longest time without a byte of an answer.
const SILENCE: Duration = Duration::from_secs(20);

/// One task's way to the API server.
pub(crate) struct ApiServer {
    origin: Origin,
    connection: Option<Connection>,
    pub(crate) metrics: StatusMetrics,
}

/// What is wrong with one kind of write.
#[derive(Debug)]
pub(crate) struct Problems {
    object: &'static str,
    told: Option<String>,
}

impl ApiServer {
    pub(crate) fn new(origin: Origin, metrics: StatusMetrics) -> Self {
        Self {
            origin,
            connection: None,
            metrics,
        }
    }

    pub(crate) async fn client(&mut self) -> kube::Result<Client> {
        if let Some(connection) = &self.connection {
            return Ok(connection.client.clone());
        }
        let connection = self
            .origin
            .connect(SILENCE)
            .await
            .map_err(|error| kube::Error::Service(error.into()))?;
        let client = connection.client.clone();
        self.connection = Some(connection);
        Ok(client)
    }

    /// Makes the next client with what the files hold by then, if they have changed.
    pub(crate) async fn failed(&mut self, error: &kube::Error) {
        if let kube::Error::Api(status) = error
            && status.code != 401
        {
            return;
        }
        if let Some(connection) = &self.connection
            && connection.is_outdated(&self.origin).await
        {
            self.connection = None;
        }
    }

    /// Counts and logs that a request was refused or could not be sent.
    pub(crate) async fn refused(
        &mut self,
        error: &kube::Error,
        asked: &Asked<'_>,
        problems: &mut Problems,
    ) {
        self.failed(error).await;
        problems.note(&self.metrics, &client::label(error), || {
            client::in_words(error, &self.url(), asked)
        });
    }

    pub(crate) fn url(&self) -> String {
        self.connection
            .as_ref()
            .map_or_else(String::new, |connection| connection.url.clone())
    }
}

impl fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiServer")
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

impl Problems {
    pub(crate) fn new(object: &'static str) -> Self {
        Self { object, told: None }
    }

    /// Counts it, and logs it unless it is what was logged last.
    pub(crate) fn note(
        &mut self,
        metrics: &StatusMetrics,
        reason: &str,
        text: impl FnOnce() -> String,
    ) {
        metrics.write_failed(self.object, reason);
        let text = text();
        if self.told.as_ref() != Some(&text) {
            tracing::warn!(
                object = self.object,
                error = text,
                "cannot write to the cluster; it is tried again"
            );
            self.told = Some(text);
        }
    }

    pub(crate) fn solved(&mut self) {
        if self.told.take().is_some() {
            tracing::info!(object = self.object, "writes to the cluster succeed again");
        }
    }
}
